"""One request: encode the picture or video once, run every lane, yield events. The only body that runs on a GPU.

The package exports its two functions as ``tokviz.compare`` and ``tokviz.compare_events``.
"""

from __future__ import annotations

import platform
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Literal

import torch

from . import __version__
from .engine import Geometry, Prompt, answer, encode, running_on
from .errors import BadInput, Stopped
from .examples import stored_digests
from .images import Picture
from .keywords import knows_its_keywords
from .lane import LaneSettings, planning_info, run_lane
from .measures import timing
from .media import Source, grid_of, notices_of, open_media, picture_of, placed_evidence, untrained
from .models.loading import VisionLanguageModel
from .models.prompts import model_inputs
from .names import Box, BudgetMeaning
from .pruners import get
from .pruners.pruner import Pruner
from .records import Comparison, Request, Run, Timing, TokenGrid
from .request_checks import (
    check_context,
    check_model,
    check_numbers,
    check_question,
    check_text,
    evidence_boxes,
    listed,
)
from .short import kind_of, passed, short_repr
from .types import Budget, Need, PlanningInfo
from .video import Video

DEFAULT_METHODS = ("apet", "fastervlm", "divprune")
BASELINE = "full"


@dataclass(frozen=True)
class Event:
    """Progress of a comparison. ``comparison`` holds the runs finished so far.

    kind: ``encoded`` (vision done), ``lane`` (lane number ``lane`` starts), ``text`` (its answer so far is ``text``),
    ``run`` (it is finished), ``done``.
    """

    kind: Literal["encoded", "lane", "text", "run", "done"]
    lane: int
    text: str
    comparison: Comparison

    def __repr__(self) -> str:
        return short_repr(self, kind=self.kind, lane=self.lane, text=self.text, comparison=self.comparison)


@knows_its_keywords
def compare(
    vlm: VisionLanguageModel,
    image: Source,
    question: str,
    methods: Sequence[str] = DEFAULT_METHODS,
    budget: int = 64,
    *,
    budget_as: BudgetMeaning = "published",
    params: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    repeats: int = 1,
    max_new_tokens: int = 32,
    expected: str | None = None,
    evidence: Sequence[Box] = (),
    evidence_frames: Sequence[int] = (),
    frames: int | None = None,
    stop: threading.Event | None = None,
) -> Comparison:
    """Answer a question without pruning and with each method at the same budget.

    Args:
        vlm: what ``tokviz.load`` returned.
        image: path or file bytes of a picture or a video (told apart by their content), PIL picture, ``Picture``, or
            ``Video``.
        question: one question, up to 2,000 characters.
        methods: method ids; the unpruned run is always the first run of the result.
        budget: visual tokens, 1 to N (of all frames of a video together).
        budget_as: what the budget counts: as the method's paper does ("published"), the tokens after the last stage
            ("final"), or their average over the LLM's blocks ("average").
        params: settings of methods, ``{method: {name: value}}``.
        seed: of everything random.
        repeats: more than 1: median times after a warm-up.
        max_new_tokens: the longest answer.
        expected: the right answer.
        evidence: boxes in pixels of the picture or video.
        evidence_frames: of a video, the looked-at frame of each box, from 0.
        frames: of a video, how many frames the model looks at, 1 to 64; None: the family's own choice.
        stop: ends the comparison early when it is set.

    Raises BadInput with one sentence. A method that cannot run on this model yields a Run with ``error`` instead.
    Example:
        >>> compare(vlm, "scene.png", "what color is the star?", ["apet", "random"], budget=64, expected="red")
    """
    for event in compare_events(
        vlm, image, question, methods=methods, budget=budget, budget_as=budget_as, params=params, seed=seed,
        repeats=repeats, max_new_tokens=max_new_tokens, expected=expected, evidence=evidence,
        evidence_frames=evidence_frames, frames=frames, stop=stop,
    ):  # fmt: skip
        last = event.comparison
    return last


@knows_its_keywords
def compare_events(
    vlm: VisionLanguageModel,
    image: Source,
    question: str,
    *,
    methods: Sequence[str] = DEFAULT_METHODS,
    budget: int = 64,
    budget_as: BudgetMeaning = "published",
    params: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    repeats: int = 1,
    max_new_tokens: int = 32,
    expected: str | None = None,
    evidence: Sequence[Box] = (),
    evidence_frames: Sequence[int] = (),
    frames: int | None = None,
    stop: threading.Event | None = None,
) -> Iterator[Event]:
    """Like ``compare``, yielding an Event whenever something is new. Input is checked before the first event.

    When ``stop`` is set the generator ends early after a last ``done`` event with what there is; when it was set before
    the picture was encoded there is nothing to show, and BadInput says so.
    """
    check_model(vlm)
    media = open_media(vlm, image, frames)
    question = check_question(question, vlm)
    check_text("The expected answer", "" if expected is None else expected)
    pruners = _pruners(methods)
    completed = _completed_params(pruners, params)
    grid = grid_of(vlm, media)
    boxes, box_frames = placed_evidence(media, evidence_boxes(evidence), listed("evidence_frames", evidence_frames))
    check_numbers(budget, budget_as, seed, repeats, max_new_tokens, grid)
    request = Request(
        question=question,
        methods=[pruner.id for pruner in pruners],
        budget=budget,
        budget_as=budget_as,
        params=completed,
        seed=seed,
        max_new_tokens=max_new_tokens,
        repeats=repeats,
        expected_answer=expected or None,
        evidence=boxes,
        evidence_frames=box_frames,
    )
    settings = LaneSettings(Budget(budget, budget_as), seed, repeats, max_new_tokens, stop or threading.Event())
    job = _Job(vlm, media, request, grid, pruners, settings)
    return _relay(job)


@dataclass
class _Job:
    vlm: VisionLanguageModel
    media: Picture | Video
    request: Request
    grid: TokenGrid
    pruners: list[Pruner]
    settings: LaneSettings
    text_tokens: list[str] = field(default_factory=list)

    def comparison(self, runs: list[Run], timings: dict[str, Timing]) -> Comparison:
        return Comparison(
            request=self.request,
            model=self.vlm.record,
            picture=picture_of(self.media),
            video=self.media.record if isinstance(self.media, Video) else None,
            grid=self.grid,
            text_tokens=self.text_tokens,
            runs=list(runs),
            versions=versions(),
            timings=timings,
            warnings=[
                *notices_of(self.media),
                *untrained(self.vlm, self.media),
                *drawn_scenes_only(self.vlm, self.media),
                *unknown_words(self.vlm, self.request.question),
                *mostly_unseen(self.grid),
            ],
        )

    @torch.inference_mode()
    def run(self, emit: Callable[[Event], None]) -> None:
        """Run every lane in order. Everything that touches the model happens in the calling thread."""
        needs = self._needs()
        repeats = self.settings.repeats
        if not self.vlm.warm:  # else the first lane, the unpruned one, would look slower than it is
            warm_up = self._encode(needs)
            with running_on(self.vlm.model, self.vlm.family, warm_up):
                answer(self.vlm.model, warm_up, max_new_tokens=2, on_tokens=_ignore, stop=self.settings.stop)
            self.vlm.warm = not self.settings.stop.is_set()
        prompts = [self._encode(needs) for _ in range(repeats)]
        prompt = prompts[-1]
        n_visual = int(prompt.visual_mask.sum())
        if n_visual != self.grid.n_tokens:
            raise RuntimeError(f"The model makes {n_visual} visual tokens, its geometry says {self.grid.n_tokens}.")
        self.text_tokens = text_behind_the_picture(self.vlm, prompt)
        timings = {"vision": timing([p.vision_ms for p in prompts])}
        runs: list[Run] = []
        partial = self.comparison(runs, timings)
        emit(Event("encoded", -1, "", partial))
        try:
            for lane, pruner in enumerate(self.pruners):
                emit(Event("lane", lane, "", partial))
                params = self.request.params[pruner.id]
                on_text = _text_events(emit, lane, partial)
                run = run_lane(self.vlm, prompt, self.grid, pruner, params, self.settings, on_text)
                runs.append(run)
                partial = self.comparison(runs, timings)
                emit(Event("run", lane, run.answer, partial))
        except Stopped:
            pass
        emit(Event("done", len(runs) - 1, "", partial))

    def _needs(self) -> set[Need]:
        """The signals of every method that can run here; the others refuse in their own lane, not the whole request."""
        info = planning_info(self.vlm, self.grid)
        needs = {need for pruner in self.pruners if pruner.missing(info) is None for need in pruner.needs}
        return {need for need in needs if _given(need, info)}

    def _encode(self, needs: set[Need]) -> Prompt:
        if self.settings.stop.is_set():
            raise BadInput("Stopped before the picture was encoded.")
        shown = self.media if isinstance(self.media, Video) else self.media.image
        inputs, question_mask = model_inputs(self.vlm, shown, self.request.question)
        length = inputs["input_ids"].shape[1]
        check_context(self.vlm, length, self.settings.max_new_tokens, self.request.question, self.grid)
        return encode(
            self.vlm.model,
            self.vlm.family,
            inputs,
            needs,
            question_mask=question_mask,
            geometry=[geometry_of(self.grid)],
        )


def _given(need: Need, info: PlanningInfo) -> bool:
    """Whether this model has the signal; attention received stands in for [CLS] where there is none."""
    if need.kind.startswith("cls_"):
        return info.has_cls
    if need.kind == "received_attention":
        return not info.has_cls
    return info.has_text_tower or need.kind != "clip_relevance"


def _ignore(token_ids: list[int]) -> None:
    """The warm-up's tokens are nobody's."""


def _text_events(emit: Callable[[Event], None], lane: int, comparison: Comparison) -> Callable[[str], None]:
    return lambda text: emit(Event("text", lane, text, comparison))


def _relay(job: _Job) -> Iterator[Event]:
    """Run the job in a worker thread and hand its events on, so that text streams while ``generate`` is running."""
    events: queue.Queue[Event | BaseException | None] = queue.Queue()

    def work() -> None:
        try:
            job.run(events.put)
            events.put(None)
        except BaseException as error:
            events.put(error)

    worker = threading.Thread(target=work, name="tokviz-compare", daemon=True)
    worker.start()
    try:
        while (event := events.get()) is not None:
            if isinstance(event, BaseException):
                raise event
            yield event
    finally:
        # The consumer may leave early (a closed browser tab): the model must be free when this generator is gone.
        if worker.is_alive():
            job.settings.stop.set()
            worker.join()


def geometry_of(grid: TokenGrid) -> Geometry:
    """What the engine may know of a grid: the view and the cell of each token, cells counted in the view's layer."""
    tops, lefts = (torch.tensor([getattr(view, edge) for view in grid.views]) for edge in ("top", "left"))
    view, cell = torch.tensor(grid.view), torch.tensor([grid.row, grid.col]).T
    cell = torch.where(cell < 0, cell, cell + torch.stack([tops, lefts], dim=1)[view])
    return Geometry(view=view if len(grid.views) > 1 else None, cell=cell)


def text_behind_the_picture(vlm: VisionLanguageModel, prompt: Prompt) -> list[str]:
    """The prompt's tokens behind the last visual token, one by one as text."""
    first = int(prompt.visual_mask[0].nonzero().max()) + 1
    return [vlm.processor.tokenizer.decode([token]) for token in prompt.input_ids[0, first:].tolist()]


def versions() -> dict[str, str]:
    """Versions that a session records."""
    return {
        "tokviz": __version__,
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "python": platform.python_version(),
    }


def unknown_words(vlm: VisionLanguageModel, question: str) -> list[str]:
    """A warning that names the words of the question that the model's vocabulary lacks, or nothing."""
    tokenizer = vlm.processor.tokenizer
    if tokenizer.unk_token_id is None:
        return []
    encoding = tokenizer(question, add_special_tokens=False, return_offsets_mapping=True)
    unknown = [
        question[start:end]
        for token, (start, end) in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True)
        if token == tokenizer.unk_token_id
    ]
    if not unknown:
        return []
    words = ", ".join(dict.fromkeys(unknown))
    return [f"{vlm.record.name} does not know: {words}. Its vocabulary is small; see the model card."]


def drawn_scenes_only(vlm: VisionLanguageModel, media: Picture | Video) -> list[str]:
    """What an embedded model knows, beside every answer about anything but the examples, which are all drawn scenes.

    Whether another picture is a drawn scene cannot be told from its pixels with certainty, so nothing is said of it.
    """
    if not vlm.record.embedded or media.record.sha256 in stored_digests():
        return []
    what = "clips" if isinstance(media, Video) else "scenes"
    return [
        f"{vlm.record.name} was trained on drawn {what} only, such as those of the examples: about a photograph or "
        "anything else it answers just as surely, and its answers mean nothing."
    ]


def mostly_unseen(grid: TokenGrid) -> list[str]:
    """A warning when the model sees less than half of the picture or of each frame, or nothing."""
    width, height = grid.picture_size
    x0, y0, x1, y1 = grid.views[0].seen
    if (x1 - x0) * (y1 - y0) >= 0.5 * width * height:
        return []
    return [f"The model sees only the middle {x1 - x0:.0f} × {y1 - y0:.0f} of these {width} × {height} pixels."]


def _pruners(methods: Sequence[str]) -> list[Pruner]:
    if isinstance(methods, str):
        raise BadInput(f"methods must be a list of method ids, not the text {passed(methods)}.")
    ids = listed("methods", methods)
    for id in ids:
        if not isinstance(id, str):
            raise BadInput(f"methods must be a list of method ids, and {passed(id)} is none: {kind_of(id)}.")
    return [get(method) for method in dict.fromkeys([BASELINE, *ids])]


def _completed_params(
    pruners: list[Pruner], params: Mapping[str, Mapping[str, Any]] | None
) -> dict[str, dict[str, Any]]:
    given = {} if params is None else params
    if not isinstance(given, Mapping):
        raise BadInput(f"params must be {{method: {{name: value}}}}, not {passed(given)}.")
    ids = {pruner.id for pruner in pruners}
    for id, values in given.items():
        if id not in ids:
            raise BadInput(f"There are parameters for {passed(id)}, which is not among the methods to run.")
        if not isinstance(values, Mapping | None):
            raise BadInput(f"The parameters of {id} must be {{name: value}}, not {passed(values)}.")
    return {pruner.id: dict(pruner.complete(given.get(pruner.id))) for pruner in pruners}
