"""LLaVA-NeXT (1.6): a thumbnail of the image, then crops of a larger copy of it, stitched, unpadded, with newlines.

What an image becomes (``engine.md`` section 7): the ``n * n`` patches of the thumbnail, then the rows of the stitched
crops without the rows or columns that show padding only, each row followed by one newline token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import Unsupported
from ..records import TokenGrid
from ..types import PlanningInfo
from .base import ImageTokens, Unplanned, VisionTower, stated, stated_sides, stated_text
from .geometry import pinpoints_of, side_of
from .llava import Llava
from .shrinking import Shrunk
from .shrunk_tiles import packed, shrunk_tiles, through_tower
from .tiles import best_resolution, tile_grid

_SQUARE = (1000, 1000)


class LlavaNext(Llava):
    """Tower, projector and decoder as in LLaVA-1.5 (Llama or Mistral); ``image_sizes`` decide the tokens."""

    id = "llava_next"
    layout_arguments: tuple[str, ...] = ("image_sizes",)

    def check(self, model: Any, processor: Any, name: str) -> None:
        """As LLaVA, and model and processor must cut images alike."""
        self.check_features(model, name)
        vision, image_processor = model.config.vision_config, processor.image_processor
        sides = {side_of(image_processor.size), side_of(image_processor.crop_size), vision.image_size}
        if len(sides) != 1 or processor.patch_size != vision.patch_size:
            raise Unsupported(
                f"{name} has a processor that cuts tiles of other sizes ({sorted(sides)} px) or patches than its model."
            )
        check_same_pinpoints(model, processor, name)
        self.check_counts(model, processor, name)

    def planned(self, config: Mapping[str, Any]) -> PlanningInfo:
        """Thumbnail, crops and newlines of a square image."""
        vision = stated_text(config, "vision_config", "model_type")
        return self.planned_tiles(config, has_cls=vision == "clip_vision_model")

    def planned_tiles(self, config: Mapping[str, Any], has_cls: bool, most_crops: int | None = None) -> PlanningInfo:
        """Planning for the tiles of a square image."""
        (side, patch), pinpoints = stated_sides(config), _stated_pinpoints(config)
        _check_pinpoints(pinpoints, side)
        grid = tile_grid(_SQUARE, pinpoints, side, patch, most_crops)
        return self.planning(
            n_visual=grid.n_tokens,
            n_layers=stated(config, "text_config", "num_hidden_layers"),
            has_cls=has_cls,
            n_views=len(grid.views),
            has_tiles=True,
        )

    def vision_tower(self, model: Any) -> VisionTower | None:
        """None: nobody says where tokens that were merged across a crop's padding belong after unpadding."""
        return None

    def images(self, model: Any, arguments: Mapping[str, Any], n_images: int, n_patches: int) -> Sequence[ImageTokens]:
        """The model's own packing, run on the patches' numbers instead of their features."""
        if arguments.get("image_sizes") is None:
            raise Unsupported("LLaVA-NeXT needs image_sizes beside the pixels; pass all that its processor returned.")
        config, sizes = model.config, torch.as_tensor(arguments["image_sizes"]).tolist()
        tiles = [1 + _n_crops(size, config.image_grid_pinpoints, config.vision_config.image_size) for size in sizes]
        check_tiles(sum(tiles), n_images)
        probes = [torch.arange(n * n_patches, dtype=torch.float64).reshape(n, n_patches, 1) for n in tiles]
        packed, _ = model.base_model.pack_image_features(
            probes, sizes, config.vision_feature_select_strategy, image_newline=torch.tensor([-1.0]).double()
        )
        return [_of_probe(n, numbers[:, 0].long(), n_patches) for n, numbers in zip(tiles, packed, strict=True)]

    def grid(self, model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Any]) -> TokenGrid:
        """Thumbnail and crops, as the processor cuts them, in pixels of the original image."""
        vision = model.config.vision_config
        pinpoints = pinpoints_of(processor.image_processor.image_grid_pinpoints)
        return tile_grid(image_size, pinpoints, vision.image_size, vision.patch_size)

    def shrunk(self, model: Any, processor: Any, grid: TokenGrid, tokens: int) -> Shrunk:
        """The thumbnail alone, or with the crops of any copy that they may be cut from, in smaller squares."""
        return shrunk_tiles(model, grid, tokens, self.most_crops(model))

    def shrunk_features(self, model: Any, inputs: Mapping[str, Any], shrunk: Shrunk) -> Tensor | None:
        """Packed as the model itself does, whose own code knows one number of patches per tile."""
        tiling = shrunk.tiling
        if tiling is None:
            return None
        images = inputs["pixel_values"][0, : 1 + tiling.high * tiling.wide]
        features = through_tower(model, images, self.has_cls(model))
        return packed(model, features, shrunk.grid.image_size, tiling, self.most_crops(model))

    def most_crops(self, model: Any) -> int | None:
        """Of how many crops' area the stitched grid may be before the model shrinks it; None for any."""
        return None


def check_tiles(expected: int, n_images: int) -> None:
    """Raises Unsupported where the vision tower saw other images than the sizes of the images say."""
    if expected != n_images:
        raise Unsupported(f"The sizes of the images say {expected} tiles, but the vision tower saw {n_images}.")


def _of_probe(n_tiles: int, numbers: Tensor, n_patches: int) -> ImageTokens:
    """Shape: numbers ``(n,)`` int64, tile * n_patches + patch of each token, -1 for newlines."""
    newline = numbers < 0
    # A newline belongs to the tile whose row it ends: that of the last patch before it.
    last = torch.arange(len(numbers)).masked_fill(newline, 0).cummax(dim=0).values
    return ImageTokens(
        n_tiles=n_tiles,
        tile=numbers[last] // n_patches,
        patch=(numbers % n_patches).masked_fill(newline, -1),
    )


def check_same_pinpoints(model: Any, processor: Any, name: str) -> None:
    """Raises Unsupported unless the processor cuts crops from the copies that the model expects."""
    pinpoints = pinpoints_of(model.config.image_grid_pinpoints)
    # LLaVA-1.5's processor, which makes one square of every image, has none.
    if pinpoints != pinpoints_of(getattr(processor.image_processor, "image_grid_pinpoints", ())):
        raise Unsupported(f"{name} has a processor whose image_grid_pinpoints are not those of its model.")
    _check_pinpoints(pinpoints, model.config.vision_config.image_size)


def _check_pinpoints(pinpoints: Sequence[tuple[int, int]], side: int) -> None:
    """Raises Unsupported unless whole tiles of ``side`` px can be cut from every copy."""
    if not pinpoints or any(length < side or length % side for pair in pinpoints for length in pair):
        raise Unsupported(f"These image_grid_pinpoints are no multiples of the tile of {side} px: {pinpoints}.")


def _stated_pinpoints(config: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Those of a ``config.json``. Raises Unplanned where they are no pairs of whole numbers."""
    given = config.get("image_grid_pinpoints")
    if not isinstance(given, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in given):
        raise Unplanned("image_grid_pinpoints")
    numbers = range(len(given))
    return [
        (stated(config, "image_grid_pinpoints", i, 0), stated(config, "image_grid_pinpoints", i, 1)) for i in numbers
    ]


def _n_crops(size: Sequence[int], pinpoints: Any, side: int) -> int:
    """Crops of an image of ``(height, width)``, as the model counts them."""
    high, wide = best_resolution((int(size[1]), int(size[0])), pinpoints_of(pinpoints))
    return math.ceil(high / side) * math.ceil(wide / side)
