"""The image or video given to the model smaller, so that it becomes as many tokens as a budget: no selection at all.

How small, and in how many pieces, the model's family says (``ModelFamily.shrunk``). Models of dynamic resolution get a
smaller image, which their processor cuts as any other. Of a fixed tower, what the processor made is shrunk to fewer
patches, and transformers interpolates its position embeddings.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from threading import get_ident
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from ..engine import EncodedMedia, Prompt, Stopwatch, VisionSignals, encode
from ..engine.capture import before_forward
from ..errors import Unsupported
from ..media.video import Video
from ..models.base import prefill_flops
from ..models.loading import VisionLanguageModel
from ..models.prompts import model_inputs
from ..models.shrinking import Shrunk
from ..records import StageRecord, TokenGrid, TokenMap


@dataclass(frozen=True)
class Smaller:
    """A smaller image or video as the LLM gets it."""

    prompt: Prompt
    shrunk: Shrunk
    vision_flops: float

    @property
    def n_tokens(self) -> int:
        """How many tokens it is."""
        return self.shrunk.grid.n_tokens


ModelInputs = tuple[dict[str, Tensor], "Tensor | None"]
"""What ``model_inputs`` gives."""
Encode = Callable[[int], Smaller]
"""Encodes the image or video of a request anew, in at most so many tokens."""


def encode_smaller(
    vlm: VisionLanguageModel,
    media: Image.Image | Video,
    question: str,
    grid: TokenGrid,
    tokens: int,
    *,
    inputs: ModelInputs | None = None,
    seen: EncodedMedia | None = None,
) -> Smaller:
    """Encode an image or video in at most ``tokens`` visual tokens; ``grid`` is that of the whole one.

    inputs: what the model gets of the whole one, where that is known. seen: what was encoded before.

    Raises BadInput where it cannot become so few, or the model cannot take it.
    """
    shrunk = vlm.family.shrunk(vlm.model, vlm.processor, grid, tokens)
    if inputs is None or shrunk.resizes or shrunk.options:
        shown = resized(media, shrunk.pixels) if shrunk.resizes else media
        inputs = model_inputs(vlm, shown, question, shrunk.options)
    made, words = inputs
    if shrunk.resizes:
        prompt = encode(vlm.model, vlm.family, made, (), question_mask=words, media=seen)
        smaller = Smaller(prompt, shrunk, vlm.family.vision_flops(vlm.model, shrunk.grid))
    else:
        made = {name: _shrunk(name, value, shrunk.pixels) for name, value in made.items()}
        made, words = with_placeholders(vlm, made, words, shrunk.grid.n_tokens)
        with interpolated(vlm):
            prompt = _own_prompt(vlm, made, words, shrunk) or encode(
                vlm.model, vlm.family, made, None, question_mask=words, media=seen
            )
        smaller = Smaller(prompt, shrunk, _flops(vlm, made, shrunk))
    if prompt.n_visual != [smaller.n_tokens]:
        raise RuntimeError(f"The model makes {prompt.n_visual} visual tokens, its geometry says {smaller.n_tokens}.")
    return smaller


def resized(media: Image.Image | Video, size: tuple[int, int]) -> Any:
    """The image, or every frame of the video, of ``(width, height)`` px."""
    if isinstance(media, Video):
        return replace(media, frames=tuple(resized(frame, size) for frame in media.frames))
    return media.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def _shrunk(name: str, values: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixels ``(..., 3, H, W)`` of ``(width, height)`` px; everything else as it is."""
    if not name.startswith("pixel_values") or values.shape[-2:] == size[::-1]:
        return values
    images = values.float().flatten(0, -4)
    small = interpolate(images, size=size[::-1], mode="bicubic", antialias=True, align_corners=False)
    return small.unflatten(0, values.shape[:-3]).to(values.dtype)


def with_placeholders(
    vlm: VisionLanguageModel, inputs: Mapping[str, Tensor], words: Tensor | None, n_visual: int
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Inputs of one prompt with ``n_visual`` visual tokens, and the question mask ``(1, L)`` that belongs to them.

    Where text separates them (frames), every stretch gets the same number.
    """
    ids = inputs["input_ids"]
    visual = torch.isin(ids[0], torch.tensor(vlm.family.visual_token_ids(vlm.model), device=ids.device))
    columns, stretches = visual.nonzero()[:, 0], 1 + int((visual.nonzero()[:, 0].diff() > 1).sum())
    each, rest = divmod(n_visual, stretches)
    if rest:
        raise RuntimeError(f"{n_visual} visual tokens cannot be shared by the {stretches} places of this prompt.")
    begins = visual & ~visual.roll(1).index_fill(0, columns.new_zeros(1), False)
    index = torch.arange(len(visual), device=ids.device).repeat_interleave(torch.where(visual, begins * each, 1))
    fewer = {name: value[:, index] if value.shape == ids.shape else value for name, value in inputs.items()}
    return fewer, None if words is None else words[:, index]


@contextmanager
def interpolated(vlm: VisionLanguageModel) -> Iterator[None]:
    """Inside, the vision tower interpolates its position embeddings when this thread runs it."""
    mine = get_ident()
    with ExitStack() as stack:
        for tower in vlm.family.interpolating(vlm.model):
            if "interpolate_pos_encoding" not in inspect.signature(tower.forward).parameters:
                raise Unsupported(
                    "Downsampling interpolates position embeddings, which this model's vision tower does not do."
                )
            stack.callback(before_forward(tower, _interpolating, lambda: get_ident() == mine))
        yield


def _interpolating(args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, {**kwargs, "interpolate_pos_encoding": True}


@torch.no_grad()
def _own_prompt(
    vlm: VisionLanguageModel, inputs: Mapping[str, Tensor], words: Tensor | None, shrunk: Shrunk
) -> Prompt | None:
    """The prompt of features that the family packs itself; None where the stock model does."""
    ids = inputs["input_ids"]
    with Stopwatch(vlm.device) as watch:
        features = vlm.family.shrunk_features(vlm.model, inputs, shrunk)
        if features is None:
            return None
        embeds = vlm.model.get_input_embeddings()(ids)
        visual = torch.isin(ids, torch.tensor(vlm.family.visual_token_ids(vlm.model), device=ids.device))
        embeds = embeds.masked_scatter(visual[..., None], features.to(embeds))
    return Prompt(
        input_ids=ids,
        inputs_embeds=embeds,
        attention_mask=inputs["attention_mask"],
        position_ids=None,
        visual_mask=visual,
        vision=[VisionSignals(features)],
        alive=[torch.arange(len(features), device=ids.device)],
        vision_ms=watch.milliseconds,
        question_mask=words,
    )


def _flops(vlm: VisionLanguageModel, inputs: Mapping[str, Tensor], shrunk: Shrunk) -> float:
    """Of a fixed tower, on images of another size."""
    vision, patch = vlm.model.config.vision_config, vlm.family.sides(vlm.model)[1]
    tiling = shrunk.tiling  # what the processor cut beyond that is left out
    sizes = [value.shape[:-3].numel() for name, value in inputs.items() if name.startswith("pixel_values")]
    images = sum(sizes) if tiling is None else 1 + tiling.high * tiling.wide
    width, height = shrunk.pixels
    length = (height // patch) * (width // patch) + int(vlm.family.has_cls(vlm.model))
    return prefill_flops([length] * vision.num_hidden_layers * images, vision.hidden_size, vision.intermediate_size)


def smaller_record(smaller: Smaller, grid: TokenGrid, asked_for: int) -> StageRecord:
    """What became of the tokens of the whole image or video: each lies in one of the smaller one.

    Where cells of the two grids do not coincide this is where most of a patch went, not all of it.
    """
    n, shrunk = grid.n_tokens, smaller.shrunk
    number = lies_in(grid, shrunk.grid)
    first = {place: token for token, place in reversed(list(enumerate(number))) if place >= 0}
    carrier = [first.get(place, -1) for place in number]
    kept = sorted(first.values())
    members = Counter(carrier)
    sizes: list[float | None] = [float(members[token]) for token in range(n)]
    of_size, label = "0 is the same token as another of these", "Tokens of the whole image in one"
    view, beside = shrunk.grid.views[0], smaller.n_tokens - len(kept)
    what = "frames" if grid.is_video else "image"
    facts = {"grid": f"{view.rows} x {view.cols}", "asked_for": asked_for, "pixels": "{} x {}".format(*shrunk.pixels)}
    return StageRecord(
        title=f"Smaller {what}",
        site="encoder",
        site_label=f"the {what} {'themselves' if grid.is_video else 'itself'}, before the vision tower",
        positions="reindex",
        planned_keep=asked_for,
        n_in=n,
        kept=kept,
        score=None,
        order=None,
        assignment=carrier,
        maps=[TokenMap("group_size", label, sizes, "tokens", of_size)],
        n_extra=beside,
        extra_name="tokens in which none of the whole image lies" if beside else "",
        facts={**facts, "layout": shrunk.how} if shrunk.how else facts,
        selection_ms=None,
    )


def lies_in(grid: TokenGrid, small: TokenGrid) -> list[int]:
    """For every token of ``grid`` the number of the token of ``small`` that shows its place, -1 for none.

    Crops lie in the thumbnail where there are no crops any more. Row r of R lies in row ``floor(r R' / R)`` of R'. What
    is no patch (newline, [CLS]) lies in what is none, in order.
    """
    whole, less = _places(grid), _places(small)
    shapes, fewer = _shapes(whole), _shapes(less)
    cells = {place: token for token, place in enumerate(less) if place is not None}
    beside, fewer_beside = ([token for token, place in enumerate(some) if place is None] for some in (whole, less))
    found = [-1] * len(whole)
    for token, place in enumerate(whole):
        if place is not None:
            level, row, col = place
            to = level if level in fewer else min(fewer)
            (rows, cols), (high, wide) = shapes[level], fewer[to]
            found[token] = cells.get((to, row * high // rows, col * wide // cols), -1)
    for number, token in enumerate(beside):
        if fewer_beside:
            found[token] = fewer_beside[number * len(fewer_beside) // len(beside)]
    return found


_Place = tuple[int, int, int]
"""Level, row and column, counted over all views of the level."""


def _places(grid: TokenGrid) -> list[_Place | None]:
    """Of every token, None of those that are no patch."""
    places: list[_Place | None] = []
    for number, row, col in zip(grid.view, grid.row, grid.col, strict=True):
        view = grid.views[number]
        places.append(None if row < 0 else (view.level, view.top + row, view.left + col))
    return places


def _shapes(places: Sequence[_Place | None]) -> dict[int, tuple[int, int]]:
    """Rows and columns of every level."""
    shapes: dict[int, tuple[int, int]] = {}
    for level, row, col in filter(None, places):
        rows, cols = shapes.get(level, (0, 0))
        shapes[level] = max(rows, row + 1), max(cols, col + 1)
    return shapes


def fewer_than_asked(smaller: Smaller, asked_for: int) -> list[str]:
    """A warning where the nearest grid has fewer tokens than were asked for, or nothing."""
    if smaller.n_tokens == asked_for:
        return []
    view = smaller.shrunk.grid.views[0]
    grid = smaller.shrunk.how or f"{view.rows} x {view.cols}"
    return [f"Downsampling made {smaller.n_tokens} of the {asked_for} tokens asked for: {grid} is the nearest grid."]
