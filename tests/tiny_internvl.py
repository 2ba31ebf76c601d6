"""Tiny InternVL models with images and with videos, and what these become there, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tiny_case import IMAGE, PATCH, SIZES, Case, Cell, text, tokenizer
from transformers import (
    GenerationMixin,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    InternVLVisionConfig,
    Qwen2Config,
)
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

from tokviz.names import Media
from tokviz.types import CLS_ATTENTION, CLS_FEATURE, CLS_LOGITS_LAST_LAYER, ENCODER_KEYS, Need

SIDE, SCALE, MOST = 32, 2, 6
PER_SIDE = SIDE // PATCH // SCALE
N_TOKENS = PER_SIDE**2
"""Of one image."""

SPECIAL = {"<IMG_CONTEXT>": IMAGE, "<img>": 92, "</img>": 93, "<video>": 94}
SPECIAL |= {f"Frame{number}:": 94 + number for number in range(1, 5)}
TEMPLATE = (
    "{% for message in messages %}{{ message.role }} : {% for part in message.content %}"
    "{% if part.type == 'image' %}<IMG_CONTEXT>\n{% elif part.type == 'video' %}<video>\n"
    "{% else %}{{ part.text }} {% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %}assistant :{% endif %}"
)


def internvl_processor(side: int = SIDE, n_tokens: int = N_TOKENS, most: int = MOST, **video: Any) -> Any:
    """The real processor with small settings."""
    size = {"height": side, "width": side}
    words = tokenizer(
        SPECIAL,
        extra_special_tokens={
            "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )  # fmt: skip
    return InternVLProcessor(
        GotOcr2ImageProcessor(size=size, max_patches=most), words, InternVLVideoProcessor(size=size, **video),
        image_seq_length=n_tokens, chat_template=TEMPLATE,
    )  # fmt: skip


def n_images_of(size: tuple[int, int]) -> int:
    """Crops of an image of ``(width, height)`` px, and itself once more where there are several."""
    wide, high = get_optimal_tiled_canvas(size[::-1], (SIDE, SIDE), 1, MOST)
    return wide * high + int(wide * high > 1)


class TinyInternVL(Case):
    """InternViT, with norms of queries and keys or not; videos have the placeholder of images, and text between."""

    family = "internvl"
    tokens = {"image": IMAGE, "video": IMAGE}  # noqa: RUF012 (declared by the base class)
    vision: tuple[Need, ...] = (CLS_ATTENTION, CLS_LOGITS_LAST_LAYER, ENCODER_KEYS)

    def __init__(self, media: Media = "image", norms: bool = False, layer: int = -1) -> None:
        super().__init__(media)
        self._norms, self._layer, self._images_of = norms, layer, [1]

    def build(self) -> Any:
        """Images of 32 px with 4 x 4 patches, 2 x 2 tokens."""
        vision = InternVLVisionConfig(
            hidden_size=24, intermediate_size=32, num_hidden_layers=4, num_attention_heads=3, image_size=[SIDE, SIDE],
            patch_size=[PATCH, PATCH], use_qk_norm=self._norms, attention_bias=not self._norms,
            norm_type="rms_norm" if self._norms else "layer_norm", layer_scale_init_value=0.7,
        )  # fmt: skip
        return InternVLForConditionalGeneration(InternVLConfig(
            vision_config=vision, text_config=text(Qwen2Config), image_token_id=IMAGE, image_seq_length=N_TOKENS,
            vision_feature_layer=self._layer, tie_word_embeddings=False,
        ))  # fmt: skip

    @property
    def beams(self) -> bool:
        """Older transformers repeat images for beams one by one, and so mix up those of one image."""
        return hasattr(GenerationMixin, "_prepare_multimodal_encoder_kwargs_for_generation")

    def processor(self) -> Any:
        """The real one, with small images."""
        return internvl_processor()

    def layout(self, media: Media, size: tuple[int, int], n_frames: int) -> list[Cell]:
        """Image by image; a token is made of 2 x 2 patches of 4 x 4."""
        corners = (0, 2, 8, 10)
        return [
            Cell(image, row, (corner, corner + 1, corner + 4, corner + 5))
            for image in range(n_images_of(size) if media == "image" else n_frames)
            for row, corner in enumerate(corners)
        ]

    def span(self, media: Media, cells: Sequence[Cell]) -> list[int]:
        """Between marks; every frame of a video behind a word of its own."""
        if media == "image":
            return [92, *[IMAGE] * len(cells), 93]
        frames = len(cells) // N_TOKENS
        return [token for frame in range(frames) for token in [95 + frame, 92, *[IMAGE] * N_TOKENS, 93]]

    def encoded(self, model: Any, media: Media, things: Sequence[Any]) -> dict[str, torch.Tensor]:
        """All images one after the other; the model is not told which belong together."""
        if media == "image":
            processor = self.processor()
            made = processor.image_processor(list(things), crop_to_patches=True, return_tensors="pt")
            self._images_of = made["num_patches"].tolist()
            return {"pixel_values": made["pixel_values"].to(model.dtype)}
        things = [[frame.resize(SIZES[0]) for frame in video] for video in things]  # the processor stacks them
        made = super().encoded(model, media, things)
        self._images_of = [made["pixel_values_videos"].shape[1]] * len(things)
        return {"pixel_values": made["pixel_values_videos"].flatten(0, 1)}

    def images(self, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """As many as the last prompt's images or videos had."""
        return list(inputs["pixel_values"].split(self._images_of))

    def layouts(self, inputs: dict[str, torch.Tensor]) -> list[list[Cell]]:
        """By the number of images."""
        return [self.layout("video", SIZES[0], count) for count in self._images_of]

    def rows(self, model: Any, images: torch.Tensor) -> torch.Tensor:
        """Four patches side by side: of the upper row, then of the lower."""
        seen = self.tower(model)(images, output_hidden_states=True).hidden_states[self._layer][:, 1:]
        corners = torch.tensor([0, 2, 8, 10])[:, None] + torch.tensor([0, 1, 4, 5])
        return seen[:, corners].flatten(2)

    def n_patches(self, model: Any) -> int:
        """4 x 4."""
        return (SIDE // PATCH) ** 2

    def by_hand(self, model: Any, images: torch.Tensor) -> dict[Need, torch.Tensor]:
        """With the norms of queries and keys, over all heads together."""
        layers, states = self.tower(model).encoder.layer, self.tower(model)(images, output_hidden_states=True)

        def attention(number: int) -> tuple[torch.Tensor, torch.Tensor]:
            layer, here = layers[number], layers[number].attention
            normed = layer.layernorm_before(states.hidden_states[number])
            query, key = here.q_norm(here.q_proj(normed)), here.k_norm(here.k_proj(normed))
            query, key = (x.unflatten(-1, (3, 8)).transpose(1, 2) for x in (query, key))
            return (query[:, :, :1] @ key.transpose(2, 3) * 8**-0.5)[:, :, 0], key

        feature_layer = 4 if self._layer == -1 else 5 + self._layer
        logits, key = attention(feature_layer - 1)
        return {
            CLS_ATTENTION: logits.softmax(-1).mean(1)[:, 1:],
            CLS_LOGITS_LAST_LAYER: attention(3)[0].mean(1)[:, 1:],
            ENCODER_KEYS: key.mean(1)[:, 1:],
            CLS_FEATURE: states.hidden_states[feature_layer][:, 0],
        }
