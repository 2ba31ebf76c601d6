"""AnyRes in fewer tokens: fewer crops, smaller squares, packed as the model packs its own (LLaVA-NeXT, OneVision)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..grids import Tiling
from ..records import TokenGrid
from .geometry import pinpoints_of
from .shrinking import Shrunk, chosen_tiling, coarser
from .tiles import Canvas, canvas_of, square_canvas, square_grid, tile_grid


def shrunk_tiles(model: Any, grid: TokenGrid, tokens: int, most_crops: int | None = None) -> Shrunk:
    """The thumbnail alone, or with the crops of any copy that the model may cut them from, in squares of any size.

    most_crops: of how many crops' area the stitched grid may be before the model shrinks it, None for any.
    """
    side, patch = model.config.vision_config.image_size, model.config.vision_config.patch_size
    copies = {
        (high // side, wide // side): (high, wide) for high, wide in pinpoints_of(model.config.image_grid_pinpoints)
    }
    sizes = range(1, side // patch + 1)
    tilings = [Tiling(0, 0, n, n * n + 1) for n in sizes]
    for high, wide in copies:
        for n in sizes:
            rows, cols = _left(_canvas(grid.image_size, high, wide, n, patch, most_crops))
            tilings.append(Tiling(high, wide, n, n * n + rows * (cols + 1) if rows and cols else 0))
    found = chosen_tiling(tilings, side // patch, tokens)
    px = found.side * patch
    if not found.high:
        whole = square_grid(square_canvas(grid.image_size, px, patch))
        return Shrunk(coarser(whole, found.side, found.side, behind=1), (px, px), found.words, tiling=found)
    smaller = tile_grid(grid.image_size, [(found.high * px, found.wide * px)], px, patch, most_crops)
    cut_from = {"image_grid_pinpoints": [list(copies[found.high, found.wide])]}
    return Shrunk(smaller, (px, px), found.words, options={"images_kwargs": cut_from}, tiling=found)


def _canvas(size: tuple[int, int], high: int, wide: int, n: int, patch: int, most_crops: int | None) -> Canvas:
    return canvas_of(size, [(high * n * patch, wide * n * patch)], n * patch, patch, most_crops)


def _left(canvas: Canvas) -> tuple[int, int]:
    """Rows and columns of tokens of the stitched grid."""
    return len(canvas.rows), len(canvas.cols)


def through_tower(model: Any, images: Tensor, has_cls: bool) -> Tensor:
    """Images of any size through tower and projector. Shape: ``(P, 3, h, w)`` -> ``(P, patches, D)``."""
    base = model.base_model
    states = base.vision_tower(images, output_hidden_states=True, interpolate_pos_encoding=True).hidden_states
    features: Tensor = base.multi_modal_projector(states[model.config.vision_feature_layer][:, int(has_cls) :])
    return features


def packed(model: Any, features: Tensor, size: tuple[int, int], tiling: Tiling, most_crops: int | None) -> Tensor:
    """Thumbnail and crops of an image of ``(width, height)`` px: stitched, unpadded, shrunk, each row with a newline.

    As ``pack_image_features`` of the models, which know one number of patches per square.
    Shape: ``(1 + crops, n * n, D)`` -> ``(N, D)``.
    """
    from transformers.models.llava_next.modeling_llava_next import unpad_image

    newline = model.base_model.image_newline.to(features)
    if not tiling.high:
        return torch.cat([features[0], newline[None]])
    patch = model.config.vision_config.patch_size
    rows, cols = _left(_canvas(size, tiling.high, tiling.wide, tiling.side, patch, most_crops))
    crops = features[1:].unflatten(1, (tiling.side, tiling.side)).unflatten(0, (tiling.high, tiling.wide))
    stitched = unpad_image(crops.permute(4, 0, 2, 1, 3).flatten(3, 4).flatten(1, 2), (size[1], size[0]))
    if stitched.shape[1:] != (rows, cols):
        stitched = interpolate(stitched[None], [rows, cols], mode="bilinear")[0]
    ended = torch.cat([stitched, newline[:, None, None].expand(-1, rows, 1)], dim=2)
    return torch.cat([features[0], ended.flatten(1).T])
