"""InternVL as transformers has it: InternViT with [CLS], 2 x 2 patches side by side into the projector, Qwen2.5.

A picture is squeezed into a rectangle of square crops, and behind them comes the whole picture once more, unless there
is one crop. Of a video every frame is one square, behind its number in words ("Frame1: ").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from ..errors import Unsupported
from ..names import Media, VideoFacts
from ..records import TokenGrid
from ..types import PlanningInfo
from .base import PictureTokens, VisionTower
from .entries import CatalogEntry, decoder
from .flops import prefill_flops
from .frames import frame_by_frame, stock_frames
from .idefics3 import shuffled_grid, side_by_side
from .llava import Llava, side_of
from .memory import Parameters

_PER_IMAGE = 256
_SIZES = {
    "model_type": "internvl", "vision_feature_layer": -1, "vision_feature_select_strategy": "default",
    "downsample_ratio": 0.5, "tie_word_embeddings": False, "visual_tokens": 10 * _PER_IMAGE,
    "vision_config": {
        "model_type": "internvl_vision", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
        "num_attention_heads": 16, "image_size": [448, 448], "patch_size": [14, 14], "attention_bias": True,
    },
}  # fmt: skip
_BOTH: tuple[Media, ...] = ("picture", "video")
_MOST = 13 * _PER_IMAGE


def _decoder(hidden: int, inner: int, blocks: int, heads: int, kv_heads: int) -> dict[str, Any]:
    return {**decoder("qwen2", hidden, inner, blocks, heads, kv_heads, 151674), "tie_word_embeddings": False}


class InternVL(Llava):
    """What enters the projector is one row per token, four patches wide; signals of a token are the mean of these.

    The model is not told which images are crops of one picture: to the engine, each is a picture of its own.
    """

    id = "internvl"
    takes = _BOTH
    catalog = (
        CatalogEntry(
            "OpenGVLab/InternVL3-1B-hf", "InternVL3 1B", "internvl", "qwen",
            {**_SIZES, "text_config": _decoder(896, 4864, 24, 14, 2)},
            Parameters(664_289_280, 273_903_744), _MOST, takes=_BOTH,
        ),
        CatalogEntry(
            "OpenGVLab/InternVL3-2B-hf", "InternVL3 2B", "internvl", "qwen",
            {**_SIZES, "text_config": _decoder(1536, 8960, 28, 12, 2)},
            Parameters(1_620_836_352, 468_121_088), _MOST, takes=_BOTH,
        ),
        CatalogEntry(
            "OpenGVLab/InternVL3-8B-hf", "InternVL3 8B", "internvl", "qwen",
            {**_SIZES, "text_config": _decoder(3584, 18944, 28, 28, 4)},
            Parameters(6_854_803_456, 1_089_570_304), _MOST, takes=_BOTH,
        ),
    )  # fmt: skip
    projects_cls = False

    def check(self, model: Any, processor: Any, name: str) -> None:
        """Patches only, whole groups of them, and model and processor must cut pictures and frames alike."""
        self.check_features(model, processor, name)
        side, patch = _shape(model)
        scale = _scale(model)
        if side % (patch * scale):
            raise Unsupported(f"{name} has images of {side} px, from which no whole tokens can be cut.")
        sizes = [side_of(part.size) for part in (processor.image_processor, processor.video_processor)]
        n_tokens = (side // patch // scale) ** 2
        if sizes != [side, side] or processor.image_seq_length != n_tokens:
            raise Unsupported(
                f"{name} has a processor that makes {processor.image_seq_length} tokens of {sizes} px (pictures, "
                f"frames), but its model makes {n_tokens} of {side} px."
            )
        both = processor.image_processor, processor.video_processor
        if processor.video_processor.do_center_crop or not all(part.do_resize for part in both):
            raise Unsupported(f"{name} has a processor that does not squeeze pictures and frames into squares.")

    def planned(self, config: Mapping[str, Any]) -> PlanningInfo:
        """How many tokens a picture becomes is in no ``config.json``: known of the menu's models only."""
        vision, n_visual = config["vision_config"], int(config["visual_tokens"])
        rows, columns = (int(s) // int(p) for s, p in zip(vision["image_size"], vision["patch_size"], strict=True))
        n_views = n_visual // int(rows * columns * float(config["downsample_ratio"]) ** 2)
        return PlanningInfo(
            n_visual=n_visual,
            n_blocks=int(config["text_config"]["num_hidden_layers"]),
            family=self.id,
            n_views=n_views,
            has_tiles=n_views > 1,
            projects_cls=self.projects_cls,
        )

    def vision_attention(self, model: Any, block: Literal["feature", "last"], media: Media = "picture") -> nn.Module:
        """Attention module of the block that makes the features, or of the last block."""
        whole: Any = self.vision_block(model, block, media)
        attention: nn.Module = whole.attention
        return attention

    def vision_block(self, model: Any, block: Literal["feature", "last"], media: Media = "picture") -> nn.Module:
        """The block that makes the features (``vision_feature_layer``), or the last block of the tower."""
        layers: Sequence[nn.Module] = model.base_model.vision_tower.encoder.layer
        # Hidden states have one entry more than there are blocks (entry 0 = embeddings): entry h leaves block h - 1.
        entry = model.config.vision_feature_layer
        return layers[-1] if block == "last" else layers[entry if entry < 0 else entry - 1]

    def vision_tower(self, model: Any) -> VisionTower | None:
        """None: with fewer patches on the way there would be no 2 x 2 groups left to lay side by side."""
        return None

    def has_cls(self, model: Any) -> bool:
        """Always."""
        return True

    def pictures(
        self, model: Any, arguments: Mapping[str, Any], n_images: int, n_patches: int
    ) -> Sequence[PictureTokens]:
        """Every image is a picture of its own; ``n_patches`` are rows that enter the projector, its tokens."""
        (side, patch), scale = _shape(model), _scale(model)
        n = side // patch // scale
        if n_patches != n * n:
            raise Unsupported(
                f"The projector got {n_patches} rows per image instead of {n * n}; pictures must be cut into squares "
                f"of {side} px."
            )
        token = torch.arange(n * n)
        return [PictureTokens(1, torch.zeros_like(token), token, side_by_side(n, scale))] * n_images

    def vision_flops(self, model: Any, grid: TokenGrid) -> float:
        """All blocks of the tower, on every image."""
        vision, (side, patch) = model.config.vision_config, _shape(model)
        lengths = [1 + (side // patch) ** 2] * vision.num_hidden_layers * len(grid.views)
        return prefill_flops(lengths, vision.hidden_size, vision.intermediate_size)

    def grid(self, model: Any, processor: Any, picture_size: tuple[int, int], inputs: Mapping[str, Any]) -> TokenGrid:
        """Crops as the processor cuts them, then the whole picture; only this where there is one crop."""
        (side, patch), image_processor = _shape(model), processor.image_processor
        high, wide = crops(picture_size, side, image_processor.min_patches, image_processor.max_patches)
        # Whether to cut at all may be said in several places: ask the processor how many images it would make.
        asked = processor._get_num_multimodal_tokens(image_sizes=[picture_size[::-1]])
        if asked["num_image_patches"] == [1]:
            high, wide = 0, 0
        return shuffled_grid(picture_size, high, wide, side, patch * _scale(model))

    def sampled(self, processor: Any, facts: VideoFacts, wanted: int | None) -> list[int]:
        """The stock processor's: from the middle of equal parts of the video."""
        return stock_frames(processor, facts, wanted)

    def video_grid(self, model: Any, processor: Any, frame_size: tuple[int, int], n_frames: int) -> TokenGrid:
        """Every frame is squeezed into one square."""
        side, patch = _shape(model)
        return frame_by_frame(shuffled_grid(frame_size, 0, 0, side, patch * _scale(model)), n_frames)


def _shape(model: Any) -> tuple[int, int]:
    """Side of an image and of a patch, px. Raises Unsupported where these are no squares."""
    vision = model.config.vision_config
    if len({*vision.image_size}) != 1 or len({*vision.patch_size}) != 1:
        raise Unsupported(
            f"This model's images of {list(vision.image_size)} px and patches of {list(vision.patch_size)} px are no "
            "squares; tokviz supports squares only."
        )
    return int(vision.image_size[0]), int(vision.patch_size[0])


def _scale(model: Any) -> int:
    """How many patches, each way, become one token."""
    return int(1 / model.config.downsample_ratio)


def crops(picture_size: tuple[int, int], side: int, fewest: int, most: int) -> tuple[int, int]:
    """Rows and columns of crops of a picture of ``(width, height)`` px, ``(0, 0)`` for one: nothing to cut.

    Of all rectangles of ``fewest`` to ``most`` crops of ``side`` px, the one with the proportions closest to the
    picture's; of those equally close (1 x 1, 2 x 2) a larger one while the picture fills more than half of it.
    """
    width, height = picture_size
    shapes = [(wide, high) for wide in range(1, most + 1) for high in range(1, most + 1)]
    shapes = sorted((s for s in shapes if fewest <= s[0] * s[1] <= most), key=lambda shape: shape[0] * shape[1])
    found, closest = (1, 1), float("inf")
    for wide, high in shapes:
        distance = abs(width / height - wide / high)
        if distance < closest or (distance == closest and width * height > 0.5 * side * side * wide * high):
            found, closest = (wide, high), distance
    wide, high = found
    return (0, 0) if wide * high == 1 else (high, wide)
