"""A tiny LLaVA-1.5: an image is the 4 x 4 patches of its middle square."""

from __future__ import annotations

from typing import Any

from tiny_case import IMAGE, PATCH, TEMPLATE, Case, Cell, clip, text, tokenizer
from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor


class TinyLlava(Case):
    """CLIP tower, two-layer projector, Llama."""

    family = "llava"

    def build(self) -> Any:
        """Images of 32 px."""
        config = LlavaConfig(vision_config=clip(32), text_config=text(), image_token_index=IMAGE, image_token_id=IMAGE)
        return LlavaForConditionalGeneration(config)

    def processor(self) -> Any:
        """Middle squares of 32 px."""
        images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
        return LlavaProcessor(
            images, tokenizer(), patch_size=PATCH, vision_feature_select_strategy="default", chat_template=TEMPLATE,
            num_additional_image_tokens=1,
        )  # fmt: skip

    def layout(self, media: str, size: tuple[int, int], n_frames: int) -> list[Cell]:
        """Every patch is a token."""
        return [Cell(0, patch, (patch,)) for patch in range(16)]
