"""LLaVA-NeXT (1.6): a thumbnail of the picture, then crops of a larger copy of it, stitched, unpadded, with newlines.

What a picture becomes (``engine.md`` section 7): the ``n * n`` patches of the thumbnail, then the rows of the stitched
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
from .base import PictureTokens, VisionTower
from .entries import CLIP_L_336, MISTRAL_7B, VICUNA_7B, VICUNA_13B, CatalogEntry
from .llava import Llava, side_of
from .memory import Parameters
from .tiles import best_resolution, tile_grid

SQUARE = (1000, 1000)
_SIZES = {
    "model_type": "llava_next", "vision_feature_layer": -2, "vision_config": CLIP_L_336,
    "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
}  # fmt: skip


class LlavaNext(Llava):
    """Tower, projector and decoder as in LLaVA-1.5 (Llama or Mistral); ``image_sizes`` decide the tokens."""

    id = "llava_next"
    catalog: tuple[CatalogEntry, ...] = (
        CatalogEntry(
            "llava-hf/llava-v1.6-vicuna-7b-hf", "LLaVA-NeXT 7B (Vicuna)", "llava_next", "llama2",
            {**_SIZES, "text_config": VICUNA_7B}, Parameters(6_798_966_784, 264_464_384), 2928,
            revision="c916e6cdcd760b4cecd1dd4907f84ac649f93b23",
        ),
        CatalogEntry(
            "llava-hf/llava-v1.6-vicuna-13b-hf", "LLaVA-NeXT 13B (Vicuna)", "llava_next", "llama2",
            {**_SIZES, "text_config": VICUNA_13B}, Parameters(13_021_216_768, 330_283_008), 2928,
        ),
        CatalogEntry(
            "llava-hf/llava-v1.6-mistral-7b-hf", "LLaVA-NeXT 7B (Mistral)", "llava_next", "apache-2.0",
            {**_SIZES, "text_config": MISTRAL_7B}, Parameters(7_302_283_264, 264_464_384), 2928,
            revision="52320fb52229c8d942b1dcb8b63b3dc8087bc83b",
        ),
    )  # fmt: skip
    layout_arguments: tuple[str, ...] = ("image_sizes",)

    def check(self, model: Any, processor: Any, name: str) -> None:
        """As LLaVA, and model and processor must cut pictures alike."""
        self.check_features(model, processor, name)
        vision, image_processor = model.config.vision_config, processor.image_processor
        sides = {side_of(image_processor.size), side_of(image_processor.crop_size), vision.image_size}
        if len(sides) != 1 or processor.patch_size != vision.patch_size:
            raise Unsupported(
                f"{name} has a processor that cuts tiles of other sizes ({sorted(sides)} px) or patches than its model."
            )
        pinpoints = pinpoints_of(model.config.image_grid_pinpoints)
        # LLaVA-1.5's processor, which makes one square of every picture, has none.
        if pinpoints != pinpoints_of(getattr(image_processor, "image_grid_pinpoints", ())):
            raise Unsupported(f"{name} has a processor whose image_grid_pinpoints are not those of its model.")
        check_pinpoints(pinpoints, vision.image_size)
        self.check_counts(model, processor, name)

    def planned(self, config: Mapping[str, Any]) -> PlanningInfo:
        """Thumbnail, crops and newlines of a square picture."""
        vision = config["vision_config"]
        pinpoints, side = pinpoints_of(config["image_grid_pinpoints"]), int(vision["image_size"])
        check_pinpoints(pinpoints, side)
        grid = tile_grid(SQUARE, pinpoints, side, int(vision["patch_size"]))
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
        pinpoints = pinpoints_of(processor.image_processor.image_grid_pinpoints)
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


def pinpoints_of(given: Any) -> list[tuple[int, int]]:
    """``(height, width)`` of each copy that crops may be cut from, as ints."""
    return [(int(height), int(width)) for height, width in given]


def check_pinpoints(pinpoints: Sequence[tuple[int, int]], side: int) -> None:
    """Raises Unsupported unless whole tiles of ``side`` px can be cut from every copy."""
    if not pinpoints or any(length < side or length % side for pair in pinpoints for length in pair):
        raise Unsupported(f"These image_grid_pinpoints are no multiples of the tile of {side} px: {pinpoints}.")


def _n_crops(size: Sequence[int], pinpoints: Any, side: int) -> int:
    """Crops of a picture of ``(height, width)``, as the model counts them."""
    high, wide = best_resolution((int(size[1]), int(size[0])), pinpoints_of(pinpoints))
    return math.ceil(high / side) * math.ceil(wide / side)
