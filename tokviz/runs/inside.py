"""Where the layers of a model look while it answers, unpruned or with a method: the work behind ``tokviz.inside``.

Sources: ToDRE (Figures 2 and 5), Polymorphic (Figures 3 and 4).
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..attention import KINDS, Inside, InsideLayer, InsideToken, TowerLayer
from ..comparison import Comparison
from ..engine import (
    Answer,
    AttentionWatch,
    TowerAttention,
    answer,
    encode,
    running_on,
    selector,
    shorten,
    tower_attention,
    watching,
)
from ..errors import BadInput, knows_its_keywords
from ..media.video import Video
from ..models.loading import VisionLanguageModel
from ..models.prompts import model_inputs
from ..names import UNPRUNED, Box, BudgetMeaning
from ..pruners import Pruner, get
from ..short import passed
from ..types import Budget
from .compare import compare
from .execute import needs_of, planning_info
from .image_measures import attention_entropy, mean_of_known, views_of
from .inputs import Source, check_whole, geometry_of, grid_of, open_media
from .metrics import evidence_shares
from .requests import MethodLike, check_model, method_entry

DEFAULT_LAYERS = 6
"""LLM layers whose maps are kept where nobody chose, evenly over the model, the first and the last among them."""
MOST_NUMBERS = 1_500_000
"""Numbers that the maps of all words hold together, in memory and in the file."""
_NO_CLS = (
    "This vision tower has no [CLS] token: shown is the attention that each patch receives, mean over all patches of "
    "its image or frame."
)
_MASKED = (
    "Attention of the image on the text behind it is 0 in every layer: causal masking hides later tokens, so that of "
    "ToDRE's two ratios only text to image decides. On the text before the image it is not 0."
)
_SMALLER = "{} gives the model a smaller image, whose patches are not those of this grid; look inside without it."
_OTHER = "The answer came out differently while the model was watched: {!r}."


@knows_its_keywords
def inside(
    vlm: VisionLanguageModel,
    image: Source,
    question: str,
    *,
    method: MethodLike | None = None,
    budget: int | None = None,
    budget_as: BudgetMeaning = "published",
    params: Mapping[str, Any] | None = None,
    seed: int = 0,
    layers: Sequence[int] | None = None,
    max_new_tokens: int = 32,
    expected: str | None = None,
    evidence: Sequence[Box] = (),
    evidence_frames: Sequence[int] = (),
    frames: int | None = None,
    stop: threading.Event | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Inside:
    """Answer a question and record where every layer looked: text at the image, each answer word at the patches.

    The model runs as it is, with whatever kernel it has; only the rows that are recorded are computed beside it, in
    slices of at most 2**24 probabilities, so that no map of the whole sequence is ever there.

    Args:
        vlm: The model, from ``tokviz.load`` or ``tokviz.wrap``.
        image: An image or video, in any form that ``compare`` accepts.
        question: A single question, up to 2,000 characters.
        method: Look inside a pruned run: a method id, a stack of two, a pruner object, or a pair of any of these with
            parameters. None for the unpruned model.
        budget: Visual tokens that the method keeps; None for 64, or all where there are fewer.
        budget_as: What the budget counts; see ``compare``.
        params: Parameters of the method, ``{name: value}``.
        seed: Seed of everything random.
        layers: LLM layers (0-based) whose maps of patches are kept for every token of the answer, beside the mean over
            all layers; None for six, evenly from the first to the last, [] for the mean alone.
        max_new_tokens: The longest answer.
        expected: The right answer, for the figure.
        evidence: Boxes in pixels around what answers the question, for the figure and methods that need to know it.
        evidence_frames: For a video, the sampled frame of each box, from 0.
        frames: For a video, how many frames to sample.
        stop: An event that ends the answer when it is set; what has been said until then is recorded.
        on_progress: Called with the share of the work that is done, 0 to 1.

    Raises:
        BadInput: If an argument cannot be used, or the method cannot run here; the message is one sentence.

    Example:
        >>> found = tokviz.inside(vlm, "scene.png", "what color is the star?")
        >>> [(layer.text_to_image, layer.image_to_text) for layer in found.layers]
        >>> found.words[0].text, found.word_map(0).values
    """
    stop, tell = stop or threading.Event(), on_progress or (lambda _share: None)
    check_model(vlm, "inside")
    pruner, values = _method(method, budget, params)
    numbers = _layers(layers, vlm.record.n_layers)
    media = open_media(vlm, image, frames)
    grid = grid_of(vlm, media)
    budget = min(64, grid.n_tokens) if budget is None else budget
    methods: list[MethodLike] = [] if pruner.id == UNPRUNED else [(pruner, values)]
    comparison = compare(
        vlm, media, question, methods, budget, budget_as=budget_as, seed=seed, max_new_tokens=max_new_tokens,
        expected=expected, evidence=evidence, evidence_frames=evidence_frames, stop=stop,
    )  # fmt: skip
    if len(comparison.runs) <= len(methods):
        raise BadInput("Stopped before the answer was there.")
    if comparison.runs[-1].error is not None:
        raise BadInput(comparison.runs[-1].error)
    tell(0.4)
    started = time.perf_counter()
    shown = media if isinstance(media, Video) else media.image
    look = _Look(vlm, comparison, pruner, values, numbers, stop)
    tower, said, watch, asked = look.taken(shown, tell)
    return _record(look, tower, said, watch, asked, started)


def _method(method: MethodLike | None, budget: int | None, params: Any) -> tuple[Pruner, dict[str, Any]]:
    if params is not None and not isinstance(params, Mapping):
        raise BadInput(f"params must be {{name: value}}, not {passed(params)}.")
    if method is None:
        if budget is not None or params:
            raise BadInput("A budget or parameters without a method prune nothing; name a method, or leave them out.")
        return get(UNPRUNED), {}
    pruner, own = method_entry(method)
    return pruner, dict(pruner.complete({**(params or {}), **own}))


def _layers(asked: Sequence[int] | None, n_layers: int) -> list[int]:
    if asked is None:
        count = min(DEFAULT_LAYERS, n_layers)
        return sorted({round(at * (n_layers - 1) / max(count - 1, 1)) for at in range(count)})
    if not isinstance(asked, Sequence) or isinstance(asked, str):
        raise BadInput(f"layers must be a list of numbers of layers, not {passed(asked)}.")
    for number in asked:
        check_whole("A layer", number, 0, n_layers - 1, f" (this model has {n_layers})")
    return sorted({*asked})


@dataclass
class _Look:
    """One look inside: the run that ``comparison`` has last, once more while it is watched."""

    vlm: VisionLanguageModel
    comparison: Comparison
    pruner: Pruner
    values: Mapping[str, Any]
    map_layers: Sequence[int]
    stop: threading.Event

    @property
    def most_maps(self) -> int:
        """Of how many tokens of the answer there is room for the maps."""
        return max(1, MOST_NUMBERS // ((1 + len(self.map_layers)) * self.comparison.grid.n_tokens))

    @torch.inference_mode()
    def taken(self, shown: Any, tell: Callable[[float], None]) -> tuple[TowerAttention, Answer, AttentionWatch, bool]:
        """The tower's rows, the answer, what was watched, and whether the user's own words could be told apart."""
        vlm, request, grid = self.vlm, self.comparison.request, self.comparison.grid
        info = planning_info(vlm, grid, has_evidence=bool(request.evidence))
        schedule = self.pruner.schedule(Budget(request.budget, request.budget_as), info, self.values)
        if schedule.smaller is not None:
            raise BadInput(_SMALLER.format(self.pruner.label))
        inputs, words = model_inputs(vlm, shown, request.question)
        tower = tower_attention(vlm.model, vlm.family, inputs)
        tell(0.5)
        marked = evidence_shares(grid, request.evidence, request.evidence_frames)
        needs, geometry = needs_of(self.pruner, info), [geometry_of(grid, marked)]
        prompt = encode(vlm.model, vlm.family, inputs, needs, question_mask=words, geometry=geometry)
        select = selector(self.values, request.seed)
        early = tuple(stage for stage in schedule.stages if not isinstance(stage.site, int))
        late = tuple(stage for stage in schedule.stages if isinstance(stage.site, int))
        short, _ = shorten(vlm.model, vlm.family, prompt, early, select)

        def said_so_far(ids: list[int]) -> None:
            tell(0.5 + 0.5 * len(ids) / request.max_new_tokens)

        with (
            running_on(vlm.model, vlm.family, short, late, select) as pruned,
            watching(vlm.model, vlm.family, short, pruned, self.map_layers, grid.n_tokens, self.most_maps) as watch,
        ):
            most = request.max_new_tokens
            said = answer(vlm.model, short, max_new_tokens=most, on_tokens=said_so_far, stop=self.stop)
        tell(1.0)
        return tower, said, watch, words is not None


def _record(
    look: _Look, tower: TowerAttention, said: Answer, watch: AttentionWatch, asked: bool, started: float
) -> Inside:
    rows, layers = views_of(tower.signals), []
    decoded = torch.stack(watch.spent[1:]).mean(dim=0) if len(watch.spent) > 1 else None
    for number in range(watch.n_layers):
        looks = watch.layers[number]
        layers.append(
            InsideLayer(
                layer=number,
                visual=looks.n_image,
                text=_shares(looks.of_text, looks.n_text),
                image=_shares(looks.of_image, looks.n_image),
                output=None if decoded is None else decoded[number].tolist(),
            )
        )
    kinds = watch.layers[0].columns.kind.bincount(minlength=len(KINDS)).tolist()
    return Inside(
        comparison=look.comparison,
        layers=layers,
        tokens=_tokens(look, said, watch),
        map_layers=list(look.map_layers),
        counts=[*kinds[:-1], len(said.token_ids)],
        tower_kind=tower.kind,
        tower=[
            TowerLayer(
                layer=number,
                attention=[None if math.isnan(value) else value for value in values.tolist()],
                entropy=mean_of_known(attention_entropy(values[mine]) for mine in rows),
                windowed=number in tower.windowed,
            )
            for number, values in enumerate(tower.layers)
        ],
        feature_layer=tower.feature,
        uniform_entropy=mean_of_known(math.log(len(mine)) for mine in rows) or 0.0,
        seconds=time.perf_counter() - started,
        notes=_notes(look, tower, said, watch, asked),
    )


def _shares(sums: Tensor, count: int) -> list[float] | None:
    shares: list[float] = (sums / max(count, 1)).tolist()
    return shares if count else None


def _tokens(look: _Look, said: Answer, watch: AttentionWatch) -> list[InsideToken]:
    """The tokens of the answer with their maps, in which what a layer did not get is None."""
    gone = torch.ones(1 + len(look.map_layers), watch.n_visual, dtype=torch.bool)
    for place, layer in enumerate([0, *look.map_layers]):
        gone[place, watch.layers[layer].alive] = False
    found = []
    for number, (id, text) in enumerate(zip(said.token_ids, _pieces(look.vlm, said.token_ids), strict=True)):
        maps: list[list[float | None]] = []
        if number < len(watch.maps):
            maps = [
                [None if absent else value for value, absent in zip(values, missing, strict=True)]
                for values, missing in zip(watch.maps[number].tolist(), gone.tolist(), strict=True)
            ]
        found.append(InsideToken(id=id, text=text, spent=watch.spent[number].tolist(), maps=maps))
    return found


def _pieces(vlm: VisionLanguageModel, token_ids: Sequence[int]) -> list[str]:
    """What each token adds to the decoded answer, blanks included."""
    pieces, before = [], ""
    for count in range(1, len(token_ids) + 1):
        now: str = vlm.processor.tokenizer.decode(list(token_ids[:count]), skip_special_tokens=True)
        # A token may end a character that others began, which changes what was decoded before.
        same = next((at for at, pair in enumerate(zip(before, now, strict=False)) if pair[0] != pair[1]), len(before))
        pieces.append(now[same:])
        before = now
    return pieces


def _notes(look: _Look, tower: TowerAttention, said: Answer, watch: AttentionWatch, asked: bool) -> list[str]:
    notes = []
    if tower.kind == "received_attention":
        notes.append(_NO_CLS)
    if tower.windowed:
        some = ", ".join(map(str, sorted(tower.windowed)))
        notes.append(f"Layers {some} of the vision tower attend within windows, which spreads attention received.")
    if all(looks.n_image == 0 or not looks.of_image[2:4].any() for looks in watch.layers.values()):
        notes.append(_MASKED)
    if not asked:
        notes.append("The user's own words cannot be told apart here: all text behind the image counts as question.")
    elif not int((watch.layers[0].columns.kind == KINDS.index("question")).sum()):
        notes.append("This template writes the question before the image, where it counts as system.")
    run = look.comparison.runs[-1]
    if said.token_ids != [token.id for token in run.answer_tokens] and not said.stopped:
        text = look.vlm.processor.tokenizer.decode(said.token_ids, skip_special_tokens=True).strip()
        notes.append(_OTHER.format(text))
    if said.stopped:
        notes.append(f"It was stopped after {len(said.token_ids)} tokens of the answer.")
    if len(watch.maps) < len(said.token_ids):
        notes.append(f"Maps are of the first {len(watch.maps)} tokens of the answer; fewer layers leave room for more.")
    return notes
