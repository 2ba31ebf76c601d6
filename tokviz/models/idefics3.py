"""Idefics3 and the first SmolVLM: crops of a large copy of the picture and, last, the whole picture; 2x2 or more
patches become one token. Between the images stands text (``<row_1_col_2>``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import Unsupported
from ..names import Box, Media
from ..records import GridView, TokenGrid
from ..types import PlanningInfo
from .base import PatchMerging, PicturesOnly, PictureTokens, VisionTower
from .entries import CatalogEntry, decoder
from .flops import prefill_flops
from .memory import Parameters

_MAX_SIDE = 4096
"""No copy of a picture is larger, in px (transformers' ``MAX_IMAGE_SIZE``)."""


def shuffled_tower(hidden: int, inner: int, blocks: int, heads: int, side: int, patch: int) -> dict[str, Any]:
    """``vision_config`` of a SigLIP tower. Sizes in px."""
    return {
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": blocks, "num_attention_heads": heads,
        "image_size": side, "patch_size": patch,
    }  # fmt: skip


SIGLIP_BASE = shuffled_tower(768, 3072, 12, 12, 512, 16)
SMOLLM_135M = decoder("llama", 576, 1536, 30, 9, 3, 49280)
SMOLLM_360M = decoder("llama", 960, 2560, 32, 15, 5, 49280)


class Idefics3(PicturesOnly):
    """SigLIP tower without [CLS], ``scale_factor`` squared patches side by side into one linear layer, Llama decoder.

    Every image (crop or whole picture) becomes as many tokens. What enters the projection is one row per token already,
    so features can be pruned and merged before it; attention received and keys of a token are the mean of its patches.
    """

    id = "idefics3"
    catalog: tuple[CatalogEntry, ...] = (
        CatalogEntry(
            "HuggingFaceTB/SmolVLM-256M-Instruct", "SmolVLM 256M", "idefics3", "apache-2.0",
            {
                "model_type": "idefics3", "scale_factor": 4, "tie_word_embeddings": False, "visual_tokens": 17 * 64,
                "text_config": SMOLLM_135M, "vision_config": SIGLIP_BASE,
            },
            Parameters(198_180_864, 58_304_064), visual_tokens=17 * 64,
            revision="7e3e67edbbed1bf9888184d9df282b700a323964",
        ),
        CatalogEntry(
            "HuggingFaceTB/SmolVLM-500M-Instruct", "SmolVLM 500M", "idefics3", "apache-2.0",
            {
                "model_type": "idefics3", "scale_factor": 4, "tie_word_embeddings": False, "visual_tokens": 17 * 64,
                "text_config": SMOLLM_360M, "vision_config": SIGLIP_BASE,
            },
            Parameters(411_303_936, 96_178_368), visual_tokens=17 * 64,
        ),
        CatalogEntry(
            "HuggingFaceM4/Idefics3-8B-Llama3", "Idefics3 8B", "idefics3", "apache-2.0",
            {
                "model_type": "idefics3", "scale_factor": 2, "tie_word_embeddings": False, "visual_tokens": 17 * 169,
                "text_config": decoder("llama", 4096, 14336, 32, 32, 8, 128259),
                "vision_config": shuffled_tower(1152, 4304, 27, 16, 364, 14),
            },
            Parameters(7_409_266_688, 1_052_819_696), visual_tokens=17 * 169,
        ),
    )  # fmt: skip
    reindexes = True
    projects_cls = True
    layout_arguments: tuple[str, ...] = ()

    def check(self, model: Any, processor: Any, name: str) -> None:
        """Model and processor must cut images alike, and the processor must cut squares."""
        vision, image_processor = model.config.vision_config, processor.image_processor
        side, n_tokens = image_processor.max_image_size["longest_edge"], tokens_per_image(model.config)
        if side != vision.image_size or processor.image_seq_len != n_tokens:
            raise Unsupported(
                f"{name} has a processor that makes {processor.image_seq_len} tokens of {side} px, but its model makes "
                f"{n_tokens} of {vision.image_size} px."
            )
        if not image_processor.do_resize:
            raise Unsupported(f"{name} has a processor that does not resize pictures; tokviz needs do_resize.")

    def planned(self, config: Mapping[str, Any]) -> PlanningInfo:
        """How many tokens a picture becomes is in no ``config.json``: known of the menu's models only."""
        vision = config["vision_config"]
        side = int(vision["image_size"]) // int(vision["patch_size"]) // int(config["scale_factor"])
        n_visual = int(config["visual_tokens"])
        return PlanningInfo(
            n_visual=n_visual,
            n_blocks=int(config["text_config"]["num_hidden_layers"]),
            family=self.id,
            has_cls=False,
            n_views=n_visual // side**2,
            has_tiles=n_visual > side**2,
        )

    def language_model(self, model: Any) -> Any:
        """``model.model.text_model`` (called with keywords only)."""
        return model.base_model.text_model

    def blocks(self, model: Any) -> Sequence[nn.Module]:
        """Decoder blocks in order."""
        layers: Sequence[nn.Module] = self.language_model(model).layers
        return layers

    def visual_token_ids(self, model: Any) -> tuple[int, ...]:
        """The id of ``<image>``, of which every visual token is one."""
        return (model.config.image_token_id,)

    def vision_attention(self, model: Any, block: Literal["feature", "last"], media: Media = "picture") -> nn.Module:
        """Attention of the last block, which makes the features."""
        whole: Any = self.vision_block(model, block, media)
        attention: nn.Module = whole.self_attn
        return attention

    def vision_block(self, model: Any, block: Literal["feature", "last"], media: Media = "picture") -> nn.Module:
        """The last block of the tower: the features leave it (through a norm)."""
        layers: Sequence[nn.Module] = model.base_model.vision_model.encoder.layers
        return layers[-1]

    def vision_tower(self, model: Any) -> VisionTower | None:
        """None: with fewer patches on the way there would be no squares left to lay side by side."""
        return None

    def patch_merging(self, model: Any) -> PatchMerging | None:
        """None: patches are laid side by side before the projection, image by image."""
        return None

    def has_encoder_site(self, model: Any) -> bool:
        """Always: patches are laid side by side before the projection."""
        return True

    def has_cls(self, model: Any) -> bool:
        """Never."""
        return False

    def pictures(
        self, model: Any, arguments: Mapping[str, Any], n_images: int, n_patches: int
    ) -> Sequence[PictureTokens]:
        """Every image is a picture of its own to the engine; ``n_patches`` are rows of the projection, its tokens."""
        vision, scale = model.config.vision_config, model.config.scale_factor
        side = vision.image_size // vision.patch_size // scale
        if n_patches != side * side:
            raise Unsupported(
                f"The projection got {n_patches} rows per image instead of {side * side}; pictures must be cut into "
                f"squares of {vision.image_size} px."
            )
        token = torch.arange(n_patches)
        return [PictureTokens(1, torch.zeros_like(token), token, side_by_side(side, scale))] * n_images

    def projector(self, model: Any) -> nn.Module:
        """``connector.modality_projection``, behind the laying side by side."""
        projection: nn.Module = model.base_model.connector.modality_projection
        return projection

    def project(self, model: Any, features: Tensor) -> Tensor:
        """Per-token projection. Shape: ``(K, scale_factor^2 D_v)`` -> ``(K, D)``."""
        projected: Tensor = self.projector(model)(features)
        return projected

    def vision_flops(self, model: Any, grid: TokenGrid) -> float:
        """All blocks of the tower, on every image."""
        vision = model.config.vision_config
        lengths = [(vision.image_size // vision.patch_size) ** 2] * vision.num_hidden_layers * len(grid.views)
        return prefill_flops(lengths, vision.hidden_size, vision.intermediate_size)

    def grid(self, model: Any, processor: Any, picture_size: tuple[int, int], inputs: Mapping[str, Any]) -> TokenGrid:
        """Crops as the processor cuts them, then the whole picture; only this where there is nothing to cut."""
        image_processor, vision = processor.image_processor, model.config.vision_config
        high, wide = 0, 0
        if image_processor.do_image_splitting:
            high, wide = crops(picture_size, image_processor.size["longest_edge"], vision.image_size)
        cell = vision.patch_size * model.config.scale_factor
        return shuffled_grid(picture_size, high, wide, vision.image_size, cell)


def side_by_side(n: int, scale: int) -> Tensor:
    """The patches of one image, ``scale x scale`` of them, that become each of ``n x n`` tokens.

    Shape: ``(n * n, scale * scale)`` int64, patches in raster order.
    """
    token, within = torch.arange(n * n)[:, None, None], torch.arange(scale)
    rows, columns = token // n * scale + within[:, None], token % n * scale + within
    return (rows * (n * scale) + columns).flatten(1)


def tokens_per_image(config: Any) -> int:
    """Visual tokens that one image (crop, whole picture, frame) becomes."""
    side = config.vision_config.image_size // config.vision_config.patch_size // config.scale_factor
    return int(side * side)


def crops(picture_size: tuple[int, int], longest: int, side: int) -> tuple[int, int]:
    """Rows and columns of crops of a picture of ``(width, height)`` px; ``(0, 0)`` when it is not cut.

    Args: longest: px of the long edge of the copy that is cut; side: of a crop.
    """
    width, height = picture_size
    aspect = width / height
    # As transformers rounds: the copy, made even, then within the largest side that it allows, then whole crops.
    if width >= height:
        wide, high = longest, _even(int(longest / aspect))
    else:
        wide, high = _even(int(longest * aspect)), longest
    if wide >= high and wide > _MAX_SIDE:
        wide, high = _MAX_SIDE, int(_MAX_SIDE / (wide / high))
    elif high > wide and high > _MAX_SIDE:
        wide, high = int(_MAX_SIDE * (wide / high)), _MAX_SIDE
    wide, high = max(wide, 1), max(high, 1)
    aspect = wide / high
    if wide >= high:
        columns = math.ceil(wide / side)
        rows = math.ceil(int(columns * side / aspect) / side)
    else:
        rows = math.ceil(high / side)
        columns = math.ceil(int(rows * side * aspect) / side)
    return (0, 0) if rows <= 1 and columns <= 1 else (max(rows, 1), max(columns, 1))


def _even(length: int) -> int:
    return length + length % 2


def shuffled_grid(picture_size: tuple[int, int], high: int, wide: int, side: int, cell: int) -> TokenGrid:
    """Geometry of ``high x wide`` crops (rows of the picture first), then the picture as a whole, all squeezed to fit.

    View 0 is the whole picture (layer 0), whose tokens come last; the crops follow (layer 1). Args: side of an image
    and of a token's cell in its px; what is left of ``side`` behind the last cell is seen by nobody.
    """
    width, height = picture_size
    n = side // cell

    def seen(row: int, col: int, rows: int, cols: int) -> Box:
        """The image in a row and column of so many."""
        across, down = width / (cols * side), height / (rows * side)
        x, y = col * side, row * side
        return (x * across, y * down, (x + n * cell) * across, (y + n * cell) * down)

    def box(image: Box, row: int, col: int) -> Box:
        across, down = (image[2] - image[0]) / n, (image[3] - image[1]) / n
        return (
            image[0] + col * across, image[1] + row * down, image[0] + (col + 1) * across, image[1] + (row + 1) * down,
        )  # fmt: skip

    views = [GridView(name="whole picture" if high else "picture", rows=n, cols=n, seen=seen(0, 0, 1, 1))]
    for row in range(high):
        for col in range(wide):
            name = f"crop in row {row + 1}, column {col + 1}"
            views.append(GridView(
                name=name, rows=n, cols=n, seen=seen(row, col, high, wide), layer=1, top=row * n, left=col * n
            ))  # fmt: skip
    order = [*range(1, len(views)), 0]
    cells = [(view, row, col) for view in order for row in range(n) for col in range(n)]
    return TokenGrid(
        picture_size=picture_size,
        views=views,
        view=[view for view, _, _ in cells],
        row=[row for _, row, _ in cells],
        col=[col for _, _, col in cells],
        box=[box(views[view].seen, row, col) for view, row, col in cells],
    )
