"""The image given to the model smaller, so that it becomes as many tokens as a budget: another encoding, no selection.

Models of dynamic resolution get a smaller image, which their processor cuts as any other. A fixed tower gets its square
shrunk to fewer patches, with its position embeddings interpolated by transformers.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from threading import get_ident
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from ..engine import Prompt, encode
from ..engine.capture import before_forward
from ..errors import BadInput, Unsupported
from ..models.base import prefill_flops
from ..models.loading import VisionLanguageModel
from ..models.prompts import model_inputs
from ..pruners.pool import cells_of, nearest_grid
from ..records import StageRecord, TokenGrid, TokenMap
from .inputs import geometry_of


@dataclass(frozen=True)
class Smaller:
    """A smaller image as the LLM gets it. size: rows and columns of its tokens; pixels: width and height of it."""

    prompt: Prompt
    size: tuple[int, int]
    pixels: tuple[int, int]
    vision_flops: float

    @property
    def n_tokens(self) -> int:
        """How many tokens it is."""
        return self.size[0] * self.size[1]


Encode = Callable[[int], Smaller]
"""Encodes the image of a request anew, in at most so many tokens."""


def encode_smaller(
    vlm: VisionLanguageModel, image: Image.Image, question: str, grid: TokenGrid, tokens: int
) -> Smaller:
    """Encode the image at the nearest grid of at most ``tokens`` visual tokens; ``grid`` is that of the whole image.

    Raises BadInput where the model's processor makes no image so small.
    """
    whole = grid.views[0]
    size = nearest_grid(whole.rows, whole.cols, tokens)
    if vlm.family.shrinks == "image":
        return _of_smaller_image(vlm, image, question, size)
    return _of_smaller_square(vlm, image, question, size)


def _of_smaller_image(vlm: VisionLanguageModel, image: Image.Image, question: str, size: tuple[int, int]) -> Smaller:
    cell = vlm.family.token_side(vlm.processor)
    pixels = size[1] * cell, size[0] * cell
    small = image.convert("RGB").resize(pixels, Image.Resampling.BICUBIC)
    made = vlm.family.grid(vlm.model, vlm.processor, pixels, {})
    if (made.views[0].rows, made.views[0].cols) != size:
        raise BadInput(
            f"Downsampling to {size[0] * size[1]} tokens is not possible here: of so small an image the processor of "
            f"{vlm.record.name} still makes {made.n_tokens}."
        )
    inputs, words = model_inputs(vlm, small, question)
    prompt = encode(vlm.model, vlm.family, inputs, (), question_mask=words)
    return Smaller(prompt, size, pixels, vlm.family.vision_flops(vlm.model, made))


def _of_smaller_square(vlm: VisionLanguageModel, image: Image.Image, question: str, size: tuple[int, int]) -> Smaller:
    vision, tower = vlm.model.config.vision_config, vlm.model.base_model.vision_tower
    if "interpolate_pos_encoding" not in inspect.signature(tower.forward).parameters:
        raise Unsupported("Downsampling interpolates position embeddings, which this model's vision tower does not do.")
    high, wide = size[0] * vision.patch_size, size[1] * vision.patch_size
    inputs, words = model_inputs(vlm, image, question)
    pixels = inputs["pixel_values"]
    shrunk = interpolate(pixels.float(), size=(high, wide), mode="bicubic", antialias=True, align_corners=False)
    visual = torch.isin(inputs["input_ids"][0], torch.tensor(vlm.family.visual_token_ids(vlm.model), device=vlm.device))
    stays = ~visual | (visual.cumsum(0) <= size[0] * size[1])
    fewer = {name: _columns(value, stays) for name, value in inputs.items() if name != "pixel_values"}
    mine = get_ident()
    remove = before_forward(tower, _interpolated, lambda: get_ident() == mine)
    try:
        prompt = encode(
            vlm.model,
            vlm.family,
            {**fewer, "pixel_values": shrunk.to(pixels.dtype)},
            (),
            question_mask=None if words is None else _columns(words, stays),
        )
    finally:
        remove()
    patches = size[0] * size[1] + int(vlm.family.has_cls(vlm.model))
    flops = prefill_flops([patches] * vision.num_hidden_layers, vision.hidden_size, vision.intermediate_size)
    return Smaller(prompt, size, (wide, high), flops)


def _interpolated(args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, {**kwargs, "interpolate_pos_encoding": True}


def _columns(values: Tensor, stays: Tensor) -> Tensor:
    """Shape: ``(1, L)``, ``(L,)`` bool -> ``(1, l)``."""
    return values[:, stays]


def smaller_record(smaller: Smaller, grid: TokenGrid, asked_for: int) -> StageRecord:
    """What became of the tokens of the whole image: each lies in one of the smaller one, as ``pool`` would merge them.

    Where bins of the two grids do not coincide this is where most of a patch went, not all of it.
    """
    n, cell = grid.n_tokens, geometry_of(grid).cell
    if cell is None:
        raise RuntimeError("A grid says where its tokens lie.")
    number = cells_of(cell, smaller.n_tokens)[1].tolist()
    first = {place: token for token, place in reversed(list(enumerate(number)))}
    carrier = [first[place] for place in number]
    kept = sorted(first.values())
    members = Counter(carrier)
    sizes: list[float | None] = [float(members[token]) for token in range(n)]
    of_size, label = "0 is the same token as another of these", "Tokens of the whole image in one"
    return StageRecord(
        title="Smaller image",
        site="encoder",
        site_label="the image itself, before the vision tower",
        positions="reindex",
        planned_keep=asked_for,
        n_in=n,
        kept=kept,
        score=None,
        order=None,
        assignment=carrier,
        maps=[TokenMap("group_size", label, sizes, "tokens", of_size)],
        facts={
            "grid": "{} x {}".format(*smaller.size),
            "asked_for": asked_for,
            "pixels": "{} x {}".format(*smaller.pixels),
        },
        selection_ms=None,
    )


def fewer_than_asked(smaller: Smaller, asked_for: int) -> list[str]:
    """A warning where the nearest grid has fewer tokens than were asked for, or nothing."""
    if smaller.n_tokens == asked_for:
        return []
    made, (high, wide) = smaller.n_tokens, smaller.size
    return [f"Downsampling made {made} of the {asked_for} tokens asked for: {high} x {wide} is the nearest grid."]
