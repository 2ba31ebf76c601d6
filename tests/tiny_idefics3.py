"""Tiny stock Idefics3 and SmolVLM models with random weights, and their real processors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from tiny_case import IMAGE, LAYERS, SIZES, TEMPLATE, Case, Cell, text, tokenizer
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from tokviz.names import Media
from tokviz.types import ENCODER_KEYS, RECEIVED_ATTENTION, Need

SIDE, PATCH, SCALE = 24, 4, 2
LONGEST = 60
PER_SIDE = SIDE // PATCH // SCALE
N_TOKENS = PER_SIDE**2
"""Of one image."""
MARKS = ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<video>"]
MARKS += [f"<row_{row}_col_{col}>" for row in range(1, 4) for col in range(1, 4)]
MARK_IDS = {mark: 70 + number for number, mark in enumerate(MARKS)}


def _config(kind: Any) -> Any:
    vision = {
        "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 3,
        "image_size": SIDE, "patch_size": PATCH,
    }  # fmt: skip
    decoder = text(max_position_embeddings=2048)
    assert decoder.num_hidden_layers == LAYERS
    return kind(text_config=decoder, vision_config=vision, scale_factor=SCALE, image_token_id=IMAGE)


def idefics3_processor(side: int = SIDE, longest: int = LONGEST, n_tokens: int = N_TOKENS, **more: Any) -> Any:
    """The real processor with small settings."""
    images = Idefics3ImageProcessor(size={"longest_edge": longest}, max_image_size={"longest_edge": side}, **more)
    words = tokenizer({"<image>": IMAGE, **MARK_IDS})
    return Idefics3Processor(images, words, image_seq_len=n_tokens, chat_template=TEMPLATE)


def smolvlm_processor(side: int = SIDE, longest: int = LONGEST, n_tokens: int = N_TOKENS, **more: Any) -> Any:
    """The real processor with small settings."""
    sizes: Any = {"size": {"longest_edge": longest}, "max_image_size": {"longest_edge": side}}
    videos = SmolVLMVideoProcessor(**sizes)
    videos.num_frames, videos.fps = 6, 1
    words = tokenizer({"<image>": IMAGE, **MARK_IDS})
    return SmolVLMProcessor(
        SmolVLMImageProcessor(**sizes, **more), words, videos, image_seq_len=n_tokens, chat_template=TEMPLATE
    )


@cache
def n_images_of(size: tuple[int, int]) -> int:
    """How many images the real processor makes of an image of ``(width, height)`` px."""
    return idefics3_processor().image_processor([[Image.new("RGB", size, "red")]])["pixel_values"].shape[1]


class TinyIdefics3(Case):
    """Crops and whole image, each behind a mark of text; 2 x 2 patches become a token."""

    family = "idefics3"
    tokens = {"image": IMAGE, "video": IMAGE}  # noqa: RUF012 (declared by the base class)
    vision = (RECEIVED_ATTENTION, ENCODER_KEYS)

    def __init__(self, media: Media = "image") -> None:
        super().__init__(media)
        self._per_row: list[int] = []

    def build(self) -> Any:
        return Idefics3ForConditionalGeneration(_config(Idefics3Config))

    def processor(self) -> Any:
        return idefics3_processor()

    def layout(self, media: Media, size: tuple[int, int], n_frames: int) -> list[Cell]:
        n_images = n_frames
        if media == "image":
            n_images = n_images_of(size)
        wide = PER_SIDE * SCALE
        return [
            Cell(image, row * PER_SIDE + col, tuple(
                (row * SCALE + down) * wide + col * SCALE + right for down in range(SCALE) for right in range(SCALE)
            ))
            for image in range(n_images) for row in range(PER_SIDE) for col in range(PER_SIDE)
        ]  # fmt: skip

    def span(self, media: Media, cells: Sequence[Cell]) -> list[int]:
        """A mark before each image: visual tokens are not one stretch."""
        return [
            token for image in range(len(cells) // N_TOKENS) for token in [70 + image % len(MARKS), *[IMAGE] * N_TOKENS]
        ]

    def prompt(self, model: Any, rows: list[list[Any]], seed: int = 1) -> dict[str, torch.Tensor]:
        """The processor wants images row by row."""
        self._per_row = [sum(not isinstance(part, int) for part in parts) for parts in rows]
        return super().prompt(model, rows, seed)

    def encoded(self, model: Any, media: Media, things: Sequence[Any]) -> dict[str, torch.Tensor]:
        left = list(things)
        rows = [[left.pop(0) for _ in range(count)] for count in self._per_row]
        processor = self.processor()
        if media == "image":
            made = dict(processor.image_processor(rows, return_tensors="pt"))
        else:  # all frames of a row one after the other, as ever row's images are
            videos = [np.stack([np.asarray(f.resize(SIZES[0])) for v in row for f in v]) for row in rows if row]
            made = dict(processor.video_processor(videos, do_sample_frames=False, return_tensors="pt"))
            empty = [number for number, row in enumerate(rows) if not row]
            for name, value in made.items():
                filled = value.new_zeros(len(rows), *value.shape[1:])
                filled[[n for n in range(len(rows)) if n not in empty]] = value
                made[name] = filled
        return {k: v.to(model.dtype) if v.is_floating_point() else v for k, v in made.items()}

    def language_model(self, model: Any) -> Any:
        return model.model.text_model

    def project(self, model: Any, features: torch.Tensor) -> torch.Tensor:
        return model.model.connector.modality_projection(features)

    def tower(self, model: Any) -> Any:
        return model.model.vision_model

    def rows(self, model: Any, images: torch.Tensor) -> torch.Tensor:
        """Patches side by side, 2 x 2 by 2 x 2."""
        patches = self.tower(model)(images).last_hidden_state
        grid = patches.unflatten(1, (PER_SIDE, SCALE, PER_SIDE, SCALE))
        return grid.transpose(2, 3).flatten(3).flatten(1, 2)

    def layouts(self, inputs: dict[str, torch.Tensor]) -> list[list[Cell]]:
        return [cells for cells, _ in self._images(inputs)]

    def images(self, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        return [images for _, images in self._images(inputs)]

    def _images(self, inputs: dict[str, torch.Tensor]) -> list[tuple[list[Cell], torch.Tensor]]:
        """Images that are 0 everywhere only fill rows up."""
        real = inputs["pixel_values"].flatten(0, 1)
        real = real[(real != 0).flatten(1).any(dim=1)]
        found: list[tuple[list[Cell], torch.Tensor]] = []
        while len(real):
            cells = self.layout(self.media, SIZES[len(found) % len(SIZES)], 3)
            n_images = len(cells) // N_TOKENS
            found.append((cells, real[:n_images]))
            real = real[n_images:]
        return found

    def by_hand(self, model: Any, images: torch.Tensor) -> dict[Need, torch.Tensor]:
        tower = self.tower(model)
        layer, caught = tower.encoder.layers[-1], []
        handle = layer.register_forward_pre_hook(lambda _module, args: caught.append(args[0]))
        tower(images)
        handle.remove()
        normed = layer.layer_norm1(caught[0])
        query, key = (
            p(normed).unflatten(-1, (3, -1)).transpose(1, 2) for p in (layer.self_attn.q_proj, layer.self_attn.k_proj)
        )
        attention = (query @ key.transpose(2, 3) * key.shape[-1] ** -0.5).softmax(-1)
        return {RECEIVED_ATTENTION: attention.mean(1).mean(1), ENCODER_KEYS: key.mean(1)}


class TinySmolVLM(TinyIdefics3):
    """As Idefics3; a frame is an image."""

    family = "smolvlm"

    def build(self) -> Any:
        return SmolVLMForConditionalGeneration(_config(SmolVLMConfig))

    def processor(self) -> Any:
        return smolvlm_processor()
