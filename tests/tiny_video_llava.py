"""A tiny Video-LLaVA: 4 x 4 patches of an image; of a video [CLS] and 4 x 4 patches of every frame."""

from __future__ import annotations

from typing import Any

import torch
from tiny_case import IMAGE, PATCH, TEMPLATE, VIDEO, Case, Cell, clip, text, tokenizer
from transformers import (
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
    VideoLlavaImageProcessor,
    VideoLlavaProcessor,
    VideoLlavaVideoProcessor,
)

from tokviz.names import Media

SIDE = 32


def video_llava_processor(side: int = SIDE, patch: int = PATCH, **videos: Any) -> Any:
    """The real processor with small settings; ``videos``: further ones of its part for videos."""
    cut = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    return VideoLlavaProcessor(
        VideoLlavaImageProcessor(**cut), VideoLlavaVideoProcessor(**{**cut, **videos}), tokenizer(), patch_size=patch,
        vision_feature_select_strategy="default", chat_template=TEMPLATE, num_additional_image_tokens=1,
    )  # fmt: skip


class TinyVideoLlava(Case):
    """Two towers with weights of their own."""

    family = "video_llava"

    def build(self) -> Any:
        """Images and frames of 32 px."""
        return VideoLlavaForConditionalGeneration(VideoLlavaConfig(
            vision_config=clip(SIDE), text_config=text(), image_token_index=IMAGE, video_token_index=VIDEO,
        ))  # fmt: skip

    def processor(self) -> Any:
        """Middle squares of 32 px."""
        return video_llava_processor()

    def layout(self, media: Media, size: tuple[int, int], n_frames: int) -> list[Cell]:
        """A frame's [CLS] comes first, and is no patch."""
        if media == "image":
            return [Cell(0, patch, (patch,)) for patch in range(16)]
        return [Cell(i, row, (row - 1,) if row else ()) for i in range(n_frames) for row in range(17)]

    def tower(self, model: Any) -> Any:
        """Each medium has its own."""
        return model.model.video_tower if self.media == "video" else model.model.image_tower

    def rows(self, model: Any, images: torch.Tensor) -> torch.Tensor:
        """Frames keep [CLS]."""
        states = self.tower(model)(images, output_hidden_states=True).hidden_states
        rows = states[model.config.vision_feature_layer]
        return rows if self.media == "video" else rows[:, 1:]

    def images(self, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """transformers 5.23 calls the pixels of images by an old name unless asked."""
        if self.media == "video":
            return super().images(inputs)
        return list(inputs.get("pixel_values", inputs.get("pixel_values_images"))[:, None])
