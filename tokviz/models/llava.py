"""LLaVA-1.5 and every stock ``LlavaForConditionalGeneration`` with a CLIP tower, the embedded model included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import Unsupported
from ..names import Box, Media
from ..records import GridView, TokenGrid
from ..types import PlanningInfo
from .base import PatchMerging, PicturesOnly, PictureTokens, VisionTower, VisionTowerBlock
from .entries import CLIP_L_336, VICUNA_7B, VICUNA_13B, CatalogEntry
from .flops import prefill_flops
from .memory import Parameters

_SIZES = {"model_type": "llava", "vision_feature_layer": -2, "vision_config": CLIP_L_336}


class Llava(PicturesOnly):
    """CLIP tower with [CLS], features of ``vision_feature_layer``, two-layer projector, Llama-like decoder."""

    id = "llava"
    catalog: tuple[CatalogEntry, ...] = (
        CatalogEntry(
            "llava-hf/llava-1.5-7b-hf", "LLaVA-1.5 7B", "llava", "llama2", {**_SIZES, "text_config": VICUNA_7B},
            Parameters(6_798_966_784, 264_460_288), 576,
            revision="b234b804b114d9e37bb655e11cbbb5f5e971b7a9",
        ),
        CatalogEntry(
            "llava-hf/llava-1.5-13b-hf", "LLaVA-1.5 13B", "llava", "llama2", {**_SIZES, "text_config": VICUNA_13B},
            Parameters(13_021_216_768, 330_277_888), 576,
        ),
    )  # fmt: skip
    reindexes = True
    projects_cls = True
    layout_arguments: tuple[str, ...] = ()

    def check(self, model: Any, processor: Any, name: str) -> None:
        """Patches only, of one vision layer; and the processor makes the squares, and tokens, that the model takes."""
        self.check_features(model, processor, name)
        self.check_counts(model, processor, name)
        vision, image_processor = model.config.vision_config, processor.image_processor
        size, crop = image_processor.size, image_processor.crop_size if image_processor.do_center_crop else None
        side = side_of(crop if crop and not getattr(image_processor, "do_pad", False) else size)
        # The shortest edge alone is no square.
        if not image_processor.do_resize or side != vision.image_size or (crop is None and not size.get("height")):
            raise Unsupported(
                f"{name} has a processor that does not cut pictures to the {vision.image_size} px that its model sees."
            )

    def check_features(self, model: Any, processor: Any, name: str) -> None:
        """Patches only, of one vision layer that lies behind a block."""
        strategy = model.config.vision_feature_select_strategy
        if strategy != "default":
            raise Unsupported(
                f"{name} feeds the LLM with vision features {strategy!r}; tokviz supports 'default' only."
            )
        layer = model.config.vision_feature_layer
        if not is_behind_a_block(layer, model.config.vision_config.num_hidden_layers):
            raise Unsupported(
                f"{name} takes its features from vision layers {layer}; tokviz needs one layer behind a block."
            )

    def check_counts(self, model: Any, processor: Any, name: str) -> None:
        """The processor must write as many tokens for a square as the model makes patches of it."""
        patch, added = processor.patch_size, processor.num_additional_image_tokens
        if processor.vision_feature_select_strategy == "default":
            added -= 1  # [CLS] is left out
        if patch != model.config.vision_config.patch_size or added:
            raise Unsupported(
                f"{name} has a processor that counts patches of {patch} px and {added:+d} more tokens for a picture; "
                f"its model makes one of every {model.config.vision_config.patch_size} px and no more."
            )

    def planned(self, config: Mapping[str, Any]) -> PlanningInfo:
        """As many tokens as the vision tower has patches."""
        text, vision = config["text_config"], config["vision_config"]
        layer, n_vision = int(config["vision_feature_layer"]), int(vision["num_hidden_layers"])
        side = int(vision["image_size"]) // int(vision["patch_size"])
        return PlanningInfo(
            n_visual=side * side,
            n_blocks=int(text["num_hidden_layers"]),
            family=self.id,
            has_cls=vision["model_type"] == "clip_vision_model",
            # hidden_states entry h leaves block h - 1 (entry 0 are the embeddings), so h blocks were passed.
            vision_blocks=layer if layer >= 0 else n_vision + 1 + layer,
        )

    def language_model(self, model: Any) -> Any:
        """``model.model.language_model`` (called with keywords only)."""
        return model.base_model.language_model

    def blocks(self, model: Any) -> Sequence[nn.Module]:
        """Decoder blocks in order."""
        return self.language_model(model).layers

    def visual_token_ids(self, model: Any) -> tuple[int, ...]:
        """The id of ``<image>``."""
        return (model.config.image_token_id,)

    def vision_attention(self, model: Any, block: Literal["feature", "last"], media: Media = "picture") -> nn.Module:
        """Attention module of the block that makes the features (``vision_feature_layer``), or of the last block."""
        whole: Any = self.vision_block(model, block, media)
        attention: nn.Module = whole.self_attn
        return attention

    def vision_block(self, model: Any, block: Literal["feature", "last"], media: Media = "picture") -> nn.Module:
        """The block that makes the features (``vision_feature_layer``), or the last block of the tower."""
        layers: Sequence[nn.Module] = _tower(model).encoder.layers
        return layers[-1] if block == "last" else layers[_feature_blocks(model) - 1]

    def vision_tower(self, model: Any) -> VisionTower | None:
        """CLIP's blocks up to the one that makes the features; None for towers other than CLIP and mixed layers."""
        tower = _tower(model)
        if not self.has_cls(model) or not isinstance(model.config.vision_feature_layer, int):
            return None
        return VisionTower(
            embed=lambda pixels: tower.pre_layrnorm(tower.embeddings(pixels)),
            blocks=[
                VisionTowerBlock(block.layer_norm1, block.self_attn, block.layer_norm2, block.mlp)
                for block in tower.encoder.layers[: _feature_blocks(model)]
            ],
        )

    def patch_merging(self, model: Any) -> PatchMerging | None:
        """Every patch is a token."""
        return None

    def has_encoder_site(self, model: Any) -> bool:
        """Always."""
        return True

    def has_cls(self, model: Any) -> bool:
        """CLIP towers have one; SigLIP towers do not."""
        return model.config.vision_config.model_type == "clip_vision_model"

    def pictures(
        self, model: Any, arguments: Mapping[str, Any], n_images: int, n_patches: int
    ) -> Sequence[PictureTokens]:
        """Every patch of every picture is a token."""
        patch = torch.arange(n_patches)
        return [PictureTokens(1, torch.zeros_like(patch), patch)] * n_images

    def projector(self, model: Any) -> nn.Module:
        """``multi_modal_projector``."""
        return model.base_model.multi_modal_projector

    def project(self, model: Any, features: Tensor) -> Tensor:
        """Per-token projection. Shape: ``(K, D_v)`` -> ``(K, D)``."""
        return self.projector(model)(features)

    def vision_flops(self, model: Any, grid: TokenGrid) -> float:
        """All blocks of the tower, on every view."""
        vision = model.config.vision_config
        length = (vision.image_size // vision.patch_size) ** 2 + int(self.has_cls(model))
        lengths = [length] * vision.num_hidden_layers * len(grid.views)
        return prefill_flops(lengths, vision.hidden_size, vision.intermediate_size)

    def grid(self, model: Any, processor: Any, picture_size: tuple[int, int], inputs: Mapping[str, Any]) -> TokenGrid:
        """Patches of the square that the processor cuts out (or pads), in pixels of the original picture."""
        image_processor = processor.image_processor
        patch = model.config.vision_config.patch_size
        if getattr(image_processor, "do_pad", False):
            side = side_of(image_processor.size)
            return padded_square_grid(picture_size, side, patch)
        crop = image_processor.crop_size if image_processor.do_center_crop else image_processor.size
        shortest = image_processor.size.get("shortest_edge")
        if not shortest:
            return squeezed_grid(picture_size, side_of(image_processor.size), side_of(crop), patch)
        return centre_crop_grid(picture_size, int(shortest), side_of(crop), patch)


def _tower(model: Any) -> Any:
    """The module that owns ``embeddings`` and ``encoder`` (one level deeper in older transformers)."""
    tower = model.base_model.vision_tower
    return getattr(tower, "vision_model", tower)


def _feature_blocks(model: Any) -> int:
    """How many vision blocks the features pass through. Raises Unsupported for features of several layers."""
    feature_layer = model.config.vision_feature_layer
    if not isinstance(feature_layer, int):
        raise Unsupported(
            f"This model mixes the vision layers {feature_layer}; methods that look into the vision tower need one."
        )
    # hidden_states has one entry more than there are blocks (entry 0 = embeddings): entry h leaves block h - 1.
    return feature_layer if feature_layer >= 0 else len(_tower(model).encoder.layers) + 1 + feature_layer


def is_behind_a_block(layer: Any, n_blocks: int) -> bool:
    """Whether ``vision_feature_layer`` is one of the hidden states of ``n_blocks`` blocks, and not the first of them.

    They are numbered from 0, the embeddings, or from -1 backwards.
    """
    return isinstance(layer, int) and 1 <= (layer if layer >= 0 else n_blocks + 1 + layer) <= n_blocks


def side_of(size: Mapping[str, int]) -> int:
    """The side in px of a square that a processor's ``size`` or ``crop_size`` describes. Raises Unsupported else."""
    height, width = size.get("height") or size.get("shortest_edge"), size.get("width") or size.get("shortest_edge")
    if not height or height != width:
        raise Unsupported(f"LLaVA pictures are cut to a square; this processor's size is {dict(size)}.")
    return int(height)


def centre_crop_grid(picture_size: tuple[int, int], resize_to: int, crop: int, patch: int) -> TokenGrid:
    """Geometry of "resize the shortest edge, cut the centre square", CLIP's processor (``engine.md`` section 7).

    Args: picture_size ``(width, height)`` px; resize_to, crop, patch in px of the resized picture.
    """
    width, height = picture_size
    if height <= width:
        new_height, new_width = resize_to, int(resize_to * width / height)
    else:
        new_height, new_width = int(resize_to * height / width), resize_to
    left, top = int((new_width - crop) / 2), int((new_height - crop) / 2)
    scale_x, scale_y = width / new_width, height / new_height
    return _square_grid(picture_size, crop // patch, lambda column, row: (
        (column * patch + left) * scale_x, (row * patch + top) * scale_y
    ))  # fmt: skip


def squeezed_grid(picture_size: tuple[int, int], resize_to: int, crop: int, patch: int) -> TokenGrid:
    """Geometry of "squeeze the picture into a square, cut the centre out". Sizes as in ``centre_crop_grid``."""
    width, height = picture_size
    before = int((resize_to - crop) / 2)
    return _square_grid(picture_size, crop // patch, lambda column, row: (
        (column * patch + before) * width / resize_to, (row * patch + before) * height / resize_to
    ))  # fmt: skip


def padded_square_grid(picture_size: tuple[int, int], side: int, patch: int) -> TokenGrid:
    """Geometry of "pad to a square, resize" (``LlavaImageProcessor(do_pad=True)``). Sizes in px."""
    width, height = picture_size
    longest = max(width, height)
    scale = longest / side
    left, top = (longest - width) // 2, (longest - height) // 2
    return _square_grid(
        picture_size, side // patch, lambda column, row: (column * patch * scale - left, row * patch * scale - top)
    )


def _square_grid(picture_size: tuple[int, int], n: int, corner: Any) -> TokenGrid:
    """An ``n x n`` raster whose cell corners ``corner(column, row)`` gives; boxes are clipped to the picture."""
    width, height = picture_size

    def clipped(column: float, row: float, column_end: float, row_end: float) -> Box:
        x0, y0 = corner(column, row)
        x1, y1 = corner(column_end, row_end)
        return (
            min(max(x0, 0.0), width), min(max(y0, 0.0), height), min(max(x1, 0.0), width), min(max(y1, 0.0), height),
        )  # fmt: skip

    cells = [(row, column) for row in range(n) for column in range(n)]
    return TokenGrid(
        picture_size=picture_size,
        views=[GridView(name="picture", rows=n, cols=n, seen=clipped(0, 0, n, n))],
        view=[0] * len(cells),
        row=[row for row, _ in cells],
        col=[column for _, column in cells],
        box=[clipped(column, row, column + 1, row + 1) for row, column in cells],
    )
