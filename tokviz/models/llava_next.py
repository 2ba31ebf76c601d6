"""LLaVA-NeXT (1.6): a thumbnail of the picture, then crops of a larger copy of it, stitched, unpadded, with newlines.

What a picture becomes (``engine.md`` section 7): the ``n * n`` patches of the thumbnail, then the rows of the stitched
crops without the rows or columns that show padding only, each row followed by one newline token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import Unsupported
from ..names import Box
from ..records import GridView, TokenGrid
from ..types import PlanningInfo
from .base import PictureTokens, VisionTower
from .entries import CLIP_L_336, MISTRAL_7B, VICUNA_7B, VICUNA_13B, CatalogEntry
from .llava import Llava, side_of
from .memory import Parameters

_SQUARE = (1000, 1000)
_SIZES = {
    "model_type": "llava_next", "vision_feature_layer": -2, "vision_config": CLIP_L_336,
    "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
}  # fmt: skip


class LlavaNext(Llava):
    """Tower, projector and decoder as in LLaVA-1.5 (Llama or Mistral); ``image_sizes`` decide the tokens."""

    id = "llava_next"
    catalog = (
        CatalogEntry(
            "llava-hf/llava-v1.6-vicuna-7b-hf", "LLaVA-NeXT 7B (Vicuna)", "llava_next", "llama2",
            {**_SIZES, "text_config": VICUNA_7B}, Parameters(6_798_966_784, 264_464_384), 2928,
        ),
        CatalogEntry(
            "llava-hf/llava-v1.6-vicuna-13b-hf", "LLaVA-NeXT 13B (Vicuna)", "llava_next", "llama2",
            {**_SIZES, "text_config": VICUNA_13B}, Parameters(13_021_216_768, 330_283_008), 2928,
        ),
        CatalogEntry(
            "llava-hf/llava-v1.6-mistral-7b-hf", "LLaVA-NeXT 7B (Mistral)", "llava_next", "apache-2.0",
            {**_SIZES, "text_config": MISTRAL_7B}, Parameters(7_302_283_264, 264_464_384), 2928,
        ),
    )  # fmt: skip
    layout_arguments = ("image_sizes",)

    def check(self, model: Any, processor: Any, name: str) -> None:
        """As LLaVA, and model and processor must cut pictures alike."""
        super().check(model, processor, name)
        vision, image_processor = model.config.vision_config, processor.image_processor
        sides = {side_of(image_processor.size), side_of(image_processor.crop_size), vision.image_size}
        if len(sides) != 1 or processor.patch_size != vision.patch_size:
            raise Unsupported(
                f"{name} has a processor that cuts tiles of other sizes ({sorted(sides)} px) or patches than its model."
            )
        pinpoints = _pinpoints(model.config.image_grid_pinpoints)
        # LLaVA-1.5's processor, which makes one square of every picture, has none.
        if pinpoints != _pinpoints(getattr(image_processor, "image_grid_pinpoints", ())):
            raise Unsupported(f"{name} has a processor whose image_grid_pinpoints are not those of its model.")
        _check_pinpoints(pinpoints, vision.image_size)

    def planned(self, config: Mapping[str, Any]) -> PlanningInfo:
        """Thumbnail, crops and newlines of a square picture."""
        vision = config["vision_config"]
        pinpoints, side = _pinpoints(config["image_grid_pinpoints"]), int(vision["image_size"])
        _check_pinpoints(pinpoints, side)
        grid = tile_grid(_SQUARE, pinpoints, side, int(vision["patch_size"]))
        return PlanningInfo(
            n_visual=grid.n_tokens,
            n_blocks=int(config["text_config"]["num_hidden_layers"]),
            family=self.id,
            has_cls=vision["model_type"] == "clip_vision_model",
            n_views=len(grid.views),
            has_tiles=True,
        )

    def vision_tower(self, model: Any) -> VisionTower | None:
        """None: nobody says where tokens that were merged across a crop's padding belong after unpadding."""
        return None

    def pictures(
        self, model: Any, arguments: Mapping[str, Any], n_images: int, n_patches: int
    ) -> Sequence[PictureTokens]:
        """The model's own packing, run on the patches' numbers instead of their features."""
        if arguments.get("image_sizes") is None:
            raise Unsupported("LLaVA-NeXT needs image_sizes beside the pixels; pass all that its processor returned.")
        config, sizes = model.config, torch.as_tensor(arguments["image_sizes"]).tolist()
        tiles = [1 + _n_crops(size, config.image_grid_pinpoints, config.vision_config.image_size) for size in sizes]
        if sum(tiles) != n_images:
            raise Unsupported(f"The sizes of the pictures say {sum(tiles)} tiles, but the vision tower saw {n_images}.")
        probes = [torch.arange(n * n_patches, dtype=torch.float64).reshape(n, n_patches, 1) for n in tiles]
        packed, _ = model.base_model.pack_image_features(
            probes, sizes, config.vision_feature_select_strategy, image_newline=torch.tensor([-1.0]).double()
        )
        return [_of_probe(n, numbers[:, 0].long(), n_patches) for n, numbers in zip(tiles, packed, strict=True)]

    def grid(self, model: Any, processor: Any, picture_size: tuple[int, int], inputs: Mapping[str, Any]) -> TokenGrid:
        """Thumbnail and crops, as the processor cuts them, in pixels of the original picture."""
        vision = model.config.vision_config
        pinpoints = _pinpoints(processor.image_processor.image_grid_pinpoints)
        return tile_grid(picture_size, pinpoints, vision.image_size, vision.patch_size)


def _of_probe(n_tiles: int, numbers: Tensor, n_patches: int) -> PictureTokens:
    """Shape: numbers ``(n,)`` int64, tile * n_patches + patch of each token, -1 for newlines."""
    newline = numbers < 0
    # A newline belongs to the tile whose row it ends: that of the last patch before it.
    last = torch.arange(len(numbers)).masked_fill(newline, 0).cummax(dim=0).values
    return PictureTokens(
        n_tiles=n_tiles,
        tile=numbers[last] // n_patches,
        patch=(numbers % n_patches).masked_fill(newline, -1),
    )


def _pinpoints(given: Any) -> list[tuple[int, int]]:
    return [(int(height), int(width)) for height, width in given]


def _check_pinpoints(pinpoints: Sequence[tuple[int, int]], side: int) -> None:
    if not pinpoints or any(length < side or length % side for pair in pinpoints for length in pair):
        raise Unsupported(f"These image_grid_pinpoints are no multiples of the tile of {side} px: {pinpoints}.")


def best_resolution(picture_size: tuple[int, int], pinpoints: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The ``(height, width)`` that shows most pixels of the picture, and of those the one with the least padding.

    transformers' ``select_best_resolution``, which must not be imported where models are only planned for.
    """
    width, height = picture_size

    def rank(pinpoint: tuple[int, int]) -> tuple[int, int]:
        scale = min(pinpoint[1] / width, pinpoint[0] / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        return effective, effective - pinpoint[0] * pinpoint[1]

    return max(pinpoints, key=rank)


def _n_crops(size: Sequence[int], pinpoints: Any, side: int) -> int:
    """Crops of a picture of ``(height, width)``, as the model counts them."""
    high, wide = best_resolution((int(size[1]), int(size[0])), _pinpoints(pinpoints))
    return math.ceil(high / side) * math.ceil(wide / side)


@dataclass(frozen=True)
class _Canvas:
    """The padded copy of a picture that the crops are cut from.

    size: ``(width, height)`` of the picture. scale_x, scale_y: pixels of the picture per pixel of the canvas. left,
    top: padding in px of the canvas. high, wide: crops. n: patches along a crop's side of ``side`` px. rows, cols: the
    ranges of the stitched grid that unpadding leaves.
    """

    size: tuple[int, int]
    scale_x: float
    scale_y: float
    left: int
    top: int
    high: int
    wide: int
    n: int
    side: int
    patch: int
    rows: range
    cols: range

    def box(self, row: int, col: int) -> Box:
        """What of the picture a cell of the stitched grid shows, in px of the picture."""
        x, y = (place // self.n * self.side + place % self.n * self.patch for place in (col, row))
        return _clipped(
            self.size,
            ((x - self.left) * self.scale_x, (y - self.top) * self.scale_y),
            ((x + self.patch - self.left) * self.scale_x, (y + self.patch - self.top) * self.scale_y),
        )

    def visible(self, crop: int) -> tuple[range, range]:
        """Rows and columns of the stitched grid that are left of a crop."""
        row, col = divmod(crop, self.wide)
        return _common(self.rows, row * self.n, self.n), _common(self.cols, col * self.n, self.n)


def _common(whole: range, start: int, length: int) -> range:
    first = max(whole.start, start)
    return range(first, max(first, min(whole.stop, start + length)))


def _clipped(size: tuple[int, int], first: tuple[float, float], last: tuple[float, float]) -> Box:
    (x0, y0), (x1, y1), (width, height) = first, last, size
    return (
        min(max(x0, 0.0), width), min(max(y0, 0.0), height), min(max(x1, 0.0), width), min(max(y1, 0.0), height),
    )  # fmt: skip


def _canvas(picture_size: tuple[int, int], pinpoints: Sequence[tuple[int, int]], side: int, patch: int) -> _Canvas:
    width, height = picture_size
    target_height, target_width = best_resolution(picture_size, pinpoints)
    by_width, by_height = target_width / width, target_height / height
    if by_width < by_height:
        new_width, new_height = target_width, min(math.ceil(height * by_width), target_height)
    else:
        new_width, new_height = min(math.ceil(width * by_height), target_width), target_height
    high, wide, n = target_height // side, target_width // side, side // patch
    rows, cols = range(high * n), range(wide * n)
    # The model unpads by the proportions of the picture, in cells, whatever the processor padded in pixels.
    if width / height > len(cols) / len(rows):
        rows = _unpadded(len(rows), int(round(height * (len(cols) / width), 7)))
    else:
        cols = _unpadded(len(cols), int(round(width * (len(rows) / height), 7)))
    return _Canvas(
        picture_size, width / new_width, height / new_height, (target_width - new_width) // 2,
        (target_height - new_height) // 2, high, wide, n, side, patch, rows, cols,
    )  # fmt: skip


def _unpadded(cells: int, wanted: int) -> range:
    padding = (cells - wanted) // 2
    return range(padding, cells - padding)


def tile_grid(picture_size: tuple[int, int], pinpoints: Sequence[tuple[int, int]], side: int, patch: int) -> TokenGrid:
    """Geometry of a picture of ``(width, height)`` px: layer 0 is the thumbnail, layer 1 the crops.

    Args: pinpoints: ``(height, width)`` of the copies that crops may be cut from; side, patch: px of tile and patch.
    """
    canvas = _canvas(picture_size, pinpoints, side, patch)
    n = canvas.n
    thumbnail = GridView(name="whole picture", rows=n, cols=n, seen=_thumbnail_box(picture_size, side, 0, 0, n * patch))
    views = [thumbnail, *(_crop_view(canvas, crop) for crop in range(canvas.high * canvas.wide))]
    tokens: list[tuple[int, int, int, Box | None]] = [
        (0, row, col, _thumbnail_box(picture_size, side, col * patch, row * patch, patch))
        for row in range(n)
        for col in range(n)
    ]
    for row in canvas.rows:
        crop = 0
        for col in canvas.cols:
            crop = 1 + row // n * canvas.wide + col // n
            tokens.append((crop, row - canvas.rows.start - views[crop].top,
                           col - canvas.cols.start - views[crop].left, canvas.box(row, col)))  # fmt: skip
        tokens.append((crop, -1, -1, None))
    view, rows, cols, boxes = (list(column) for column in zip(*tokens, strict=True))
    return TokenGrid(picture_size=picture_size, views=views, view=view, row=rows, col=cols, box=boxes)


def _thumbnail_box(picture_size: tuple[int, int], side: int, x: int, y: int, length: int) -> Box:
    """The thumbnail shows the whole picture, squeezed into a square."""
    scale_x, scale_y = picture_size[0] / side, picture_size[1] / side
    return (x * scale_x, y * scale_y, (x + length) * scale_x, (y + length) * scale_y)


def _crop_view(canvas: _Canvas, crop: int) -> GridView:
    rows, cols = canvas.visible(crop)
    seen: Box = (0.0, 0.0, 0.0, 0.0)
    if rows and cols:
        seen = (*canvas.box(rows[0], cols[0])[:2], *canvas.box(rows[-1], cols[-1])[2:])
    return GridView(
        name=f"crop in row {crop // canvas.wide + 1}, column {crop % canvas.wide + 1}",
        rows=len(rows) if cols else 0,
        cols=len(cols) if rows else 0,
        seen=seen,
        layer=1,
        top=rows.start - canvas.rows.start,
        left=cols.start - canvas.cols.start,
    )
