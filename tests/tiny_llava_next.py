"""Tiny LLaVA-NeXT models with Llama and with Mistral, and what an image becomes there, by hand."""

from __future__ import annotations

from typing import Any

import torch
from tiny_case import IMAGE, PATCH, TEMPLATE, Case, Cell, clip, text, tokenizer
from transformers import (
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    MistralConfig,
)
from transformers.image_processing_utils import select_best_resolution

SIDE = 24
PINPOINTS = [[24, 48], [48, 24], [48, 48], [72, 24], [24, 72]]


def llava_next_processor(side: int = SIDE, patch: int = PATCH, pinpoints: list[list[int]] = PINPOINTS) -> Any:
    """The real processor with small settings."""
    return LlavaNextProcessor(
        llava_next_image_processor(side, pinpoints), tokenizer(), patch_size=patch,
        vision_feature_select_strategy="default", chat_template=TEMPLATE, num_additional_image_tokens=1,
    )  # fmt: skip


def llava_next_image_processor(side: int = SIDE, pinpoints: list[list[int]] = PINPOINTS) -> Any:
    """Its part for images."""
    return LlavaNextImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}, image_grid_pinpoints=pinpoints
    )


def llava_next_layout(
    width: int, height: int, side: int = SIDE, pinpoints: list[list[int]] = PINPOINTS
) -> list[tuple[int, int]]:
    """Per token (image, patch): the thumbnail, then the stitched, unpadded crops; each row ends in a newline (-1)."""
    n = side // PATCH
    high, wide = select_best_resolution((height, width), pinpoints)
    grid = [
        [(1 + row // n * (wide // side) + col // n, row % n * n + col % n) for col in range(wide // PATCH)]
        for row in range(high // PATCH)
    ]
    rows, cols = len(grid), len(grid[0])
    if width / height > cols / rows:
        padding = (rows - int(round(height * (cols / width), 7))) // 2
        grid = grid[padding : rows - padding]
    else:
        padding = (cols - int(round(width * (rows / height), 7))) // 2
        grid = [row[padding : cols - padding] for row in grid]
    thumbnail = [(0, patch) for patch in range(n * n)]
    return thumbnail + [cell for row in grid for cell in [*row, (row[-1][0] if row else 0, -1)]]


class TinyLlavaNext(Case):
    """With a decoder of the Llama kind."""

    family = "llava_next"
    side = SIDE
    pinpoints = PINPOINTS

    def build(self) -> Any:
        """Tiles of 24 px."""
        return LlavaNextForConditionalGeneration(LlavaNextConfig(
            vision_config=clip(SIDE), text_config=self.decoder(), image_token_index=IMAGE,
            image_grid_pinpoints=PINPOINTS, image_seq_length=(SIDE // PATCH) ** 2,
        ))  # fmt: skip

    def decoder(self) -> Any:
        """The decoder's configuration."""
        return text()

    def processor(self) -> Any:
        """The real one, with small tiles."""
        return llava_next_processor()

    def layout(self, media: str, size: tuple[int, int], n_frames: int) -> list[Cell]:
        """A newline has no row."""
        layout = llava_next_layout(*size, self.side, self.pinpoints)
        return [Cell(image, patch, () if patch < 0 else (patch,)) for image, patch in layout]

    def images(self, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Thumbnail and crops; what pads them to the longest image is none."""
        targets = [select_best_resolution((h, w), self.pinpoints) for h, w in inputs["image_sizes"].tolist()]
        counts = [1 + (high // self.side) * (wide // self.side) for high, wide in targets]
        return [tiles[:n] for tiles, n in zip(inputs["pixel_values"], counts, strict=True)]

    def layouts(self, inputs: dict[str, torch.Tensor]) -> list[list[Cell]]:
        """By the sizes of the images."""
        return [self.layout("image", (w, h), 1) for h, w in inputs["image_sizes"].tolist()]


class TinyLlavaNextMistral(TinyLlavaNext):
    """With a decoder of the Mistral kind."""

    def decoder(self) -> Any:
        """No sliding window, as in LLaVA-NeXT."""
        return text(MistralConfig, sliding_window=None)
