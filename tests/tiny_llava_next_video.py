"""A tiny LLaVA-NeXT-Video, and what frames become there, by hand: 3 x 3 tokens of 2 x 2 patches each."""

from __future__ import annotations

from typing import Any

import torch
from tiny_case import IMAGE, PATCH, TEMPLATE, VIDEO, Cell, clip, text, tokenizer
from tiny_llava_next import TinyLlavaNext, llava_next_image_processor
from transformers import (
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
    LlavaNextVideoVideoProcessor,
)

from tokviz.names import Media

SIDE = 48
PINPOINTS = [[48, 96], [96, 48], [48, 144]]


def llava_next_video_processor(
    side: int = SIDE, patch: int = PATCH, pinpoints: list[list[int]] = PINPOINTS, **videos: Any
) -> Any:
    """The real processor with small settings; ``videos``: further ones of its part for videos."""
    frames = LlavaNextVideoVideoProcessor(**{
        "size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}, **videos,
    })  # fmt: skip
    return LlavaNextVideoProcessor(
        frames, llava_next_image_processor(side, pinpoints), tokenizer(), chat_template=TEMPLATE, patch_size=patch,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip


class TinyLlavaNextVideo(TinyLlavaNext):
    """Images as LLaVA-NeXT, frames pooled in front of the projector."""

    family = "llava_next_video"
    side, pinpoints = SIDE, PINPOINTS

    def __init__(self, media: Media = "image", pooling: str = "average") -> None:
        super().__init__(media)
        self.pooling = pooling

    def build(self) -> Any:
        """Tiles and frames of 48 px: 6 x 6 patches."""
        return LlavaNextVideoForConditionalGeneration(LlavaNextVideoConfig(
            vision_config=clip(SIDE), text_config=text(), image_token_index=IMAGE, video_token_index=VIDEO,
            image_grid_pinpoints=PINPOINTS, spatial_pool_mode=self.pooling, spatial_pool_stride=2,
        ))  # fmt: skip

    def processor(self) -> Any:
        """The real one, with small tiles and frames."""
        return llava_next_video_processor()

    def layout(self, media: Media, size: tuple[int, int], n_frames: int) -> list[Cell]:
        """A token of a frame takes the signals of its four patches; there are no newlines."""
        if media == "image":
            return super().layout(media, size, n_frames)
        return [
            Cell(
                frame,
                3 * row + col,
                tuple(6 * (2 * row + down) + 2 * col + right for down in (0, 1) for right in (0, 1)),
            )
            for frame in range(n_frames)
            for row in range(3)
            for col in range(3)
        ]

    def images(self, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Thumbnails and crops, or frames."""
        return list(inputs["pixel_values_videos"]) if self.media == "video" else super().images(inputs)

    def layouts(self, inputs: dict[str, torch.Tensor]) -> list[list[Cell]]:
        """Images by their sizes, videos by their frames."""
        if self.media == "image":
            return super().layouts(inputs)
        return [self.layout("video", (0, 0), len(frames)) for frames in inputs["pixel_values_videos"]]

    def rows(self, model: Any, images: torch.Tensor) -> torch.Tensor:
        """Frames pooled by hand."""
        patches = super().rows(model, images)
        if self.media == "image":
            return patches
        cells = patches.unflatten(1, (3, 2, 3, 2)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        if self.pooling == "conv":  # a cell's patches with a matrix for each place in it
            conv = model.model.vision_resampler.pool
            return torch.einsum("ptkd,odk->pto", cells, conv.weight.flatten(2)) + conv.bias
        return cells.mean(dim=2) if self.pooling == "average" else cells.amax(dim=2)
