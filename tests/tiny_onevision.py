"""Tiny LLaVA-OneVision models with images and with videos, and what these become there, by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tiny_case import IMAGE, PATCH, TEMPLATE, VIDEO, Case, Cell, Seen, text, tokenizer
from torch.nn.functional import interpolate
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.image_processing_utils import select_best_resolution

from tokviz.types import ENCODER_KEYS, RECEIVED_ATTENTION, Need

SIDE = 28
"""Not a multiple of the patch: 4 px of every tile are seen by nobody, as 6 of the published 384."""

MOST = 2
"""Crops' worth of patches that an image may have before it is shrunk; up to 9 crops are cut."""


def pinpoints_to(most: int, side: int = SIDE) -> list[list[int]]:
    """``(height, width)`` of all copies of up to ``most x most`` tiles."""
    return [[high * side, wide * side] for high in range(1, most + 1) for wide in range(1, most + 1)]


PINPOINTS = pinpoints_to(3)


def onevision_processor(
    side: int = SIDE, patch: int = PATCH, pinpoints: list[list[int]] = PINPOINTS, most: int = MOST
) -> Any:
    """The real processor with small settings."""
    size = {"height": side, "width": side}
    return LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=pinpoints), tokenizer(),
        LlavaOnevisionVideoProcessor(size=size), num_image_tokens=(side // patch) ** 2,
        vision_feature_select_strategy="full", chat_template=TEMPLATE, vision_aspect_ratio=f"anyres_max_{most}",
    )  # fmt: skip


@dataclass(frozen=True)
class Mixed(Cell):
    """A token with how much of every patch of its image or video it is made of: nothing for a newline.

    Shape: mixture ``(images, patches)``.
    """

    mixture: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class SeenMixed(Seen):
    """Shape: mixture ``(N, images * patches)``, over all images of the row."""

    mixture: torch.Tensor

    @property
    def is_patch(self) -> torch.Tensor:
        """Shape: ``(N,)`` bool."""
        return self.mixture.any(dim=1)

    def of_patches(self, values: torch.Tensor) -> torch.Tensor:
        """What the tokens that are patches take of ``values (images, patches, ...)``. Shape: ``(n, ...)``."""
        return torch.tensordot(self.mixture[self.is_patch].to(values.dtype), values.flatten(0, 1), dims=1)


def onevision_layout(
    width: int, height: int, side: int = SIDE, patch: int = PATCH, pinpoints: list[list[int]] = PINPOINTS,
    most: int = MOST,
) -> list[torch.Tensor]:  # fmt: skip
    """Per token its mixture: the thumbnail, then the stitched, unpadded, shrunk crops; each row ends in a newline."""
    n = side // patch
    height_of_crops, width_of_crops = select_best_resolution((height, width), pinpoints)
    high, wide = height_of_crops // side, width_of_crops // side
    every = torch.eye((1 + high * wide) * n * n, dtype=torch.float64)
    grid = every[n * n :].reshape(high, wide, n, n, -1).permute(4, 0, 2, 1, 3).flatten(3).flatten(1, 2)
    rows, cols = grid.shape[1:]
    if width / height > cols / rows:
        padding = (rows - int(round(height * (cols / width), 7))) // 2
        grid = grid[:, padding : rows - padding]
    else:
        padding = (cols - int(round(width * (rows / height), 7))) // 2
        grid = grid[:, :, padding : cols - padding]
    rows, cols = grid.shape[1:]
    ratio = math.sqrt(rows * cols / (most * n * n))
    if ratio > 1.1:
        grid = interpolate(grid[None], [int(rows // ratio), int(cols // ratio)], mode="bilinear")[0]
    tokens = list(every[: n * n])
    for row in range(grid.shape[1]):
        tokens += [*grid[:, row].T, torch.zeros(len(every), dtype=torch.float64)]
    return [token.reshape(-1, n * n) for token in tokens]


def video_layout(n_frames: int, side: int = SIDE, patch: int = PATCH) -> list[torch.Tensor]:
    """Per token its mixture: every frame shrunk to half, rounded up; one newline."""
    n = side // patch
    half = math.ceil(n / 2)
    every = torch.eye(n_frames * n * n, dtype=torch.float64).reshape(n_frames, n, n, -1).permute(0, 3, 1, 2)
    tokens = interpolate(every, [half, half], mode="bilinear").permute(0, 2, 3, 1).flatten(0, 2)
    return [token.reshape(n_frames, n * n) for token in [*tokens, torch.zeros_like(tokens[0])]]


class TinyOnevision(Case):
    """SigLIP, Qwen2; nothing can be pruned before the projector."""

    family = "llava_onevision"
    early = ("projector",)
    vision: tuple[Need, ...] = (RECEIVED_ATTENTION, ENCODER_KEYS)

    def build(self) -> Any:
        """Tiles of 28 px with 3 x 3 patches."""
        vision = SiglipVisionConfig(
            hidden_size=24, intermediate_size=32, num_hidden_layers=4, num_attention_heads=3, image_size=SIDE,
            patch_size=PATCH, vision_use_head=False,
        )  # fmt: skip
        return LlavaOnevisionForConditionalGeneration(LlavaOnevisionConfig(
            vision_config=vision, text_config=text(Qwen2Config), image_token_index=IMAGE, video_token_index=VIDEO,
            image_grid_pinpoints=PINPOINTS, vision_aspect_ratio=f"anyres_max_{MOST}",
        ))  # fmt: skip

    def processor(self) -> Any:
        """The real one, with small tiles."""
        return onevision_processor()

    def layout(self, media: str, size: tuple[int, int], n_frames: int) -> list[Cell]:
        """Each token lies in the image that it is mostly of, a newline in that of the token before it."""
        cells: list[Cell] = []
        for mixture in onevision_layout(*size) if media == "image" else video_layout(n_frames):
            image, row = divmod(int(mixture.argmax()), mixture.shape[1])
            newline = not mixture.any()
            cells.append(Mixed(cells[-1].image if newline else image, -1 if newline else row, (), mixture))
        return cells

    def images(self, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Thumbnail and crops, or frames."""
        if self.media == "video":
            return super().images(inputs)
        counts = [len(layout[0].mixture) for layout in self.layouts(inputs)]
        return [tiles[:n] for tiles, n in zip(inputs["pixel_values"], counts, strict=True)]

    def layouts(self, inputs: dict[str, torch.Tensor]) -> list[Any]:
        """By the sizes of the images."""
        if self.media == "video":
            return super().layouts(inputs)
        return [self.layout("image", (w, h), 1) for h, w in inputs["image_sizes"].tolist()]

    def rows(self, model: Any, images: torch.Tensor) -> torch.Tensor:
        """No [CLS]."""
        return self.tower(model)(images, output_hidden_states=True).hidden_states[-1]

    def by_hand(self, model: Any, images: torch.Tensor) -> dict[Need, torch.Tensor]:
        """Of the last layer, which is the one that makes the features."""
        layer, states = self.tower(model).encoder.layers[-1], self.tower(model)(images, output_hidden_states=True)
        normed = layer.layer_norm1(states.hidden_states[-2])
        query, key = (
            p(normed).unflatten(-1, (3, -1)).transpose(1, 2) for p in (layer.self_attn.q_proj, layer.self_attn.k_proj)
        )
        weights = (query @ key.transpose(2, 3) * key.shape[-1] ** -0.5).softmax(-1)
        return {RECEIVED_ATTENTION: weights.mean((1, 2)), ENCODER_KEYS: key.mean(1)}

    def _row(self, model: Any, input_images: Sequence[tuple[torch.Tensor, Any]]) -> Seen:
        rows = self.rows(model, torch.cat([images for images, _ in input_images]))
        projected, flat = self.project(model, rows).flatten(0, 1), rows.flatten(0, 1)
        mixtures, tiles, features, before = [], [], [], 0
        for images, cells in input_images:
            for cell in cells:
                mixture = torch.zeros(rows.shape[:2], dtype=torch.float64)
                mixture[before : before + len(images)] = cell.mixture
                mixtures.append(mixture.flatten())
                tiles.append(before + cell.image)
                features.append(flat[mixture.argmax()] * float(cell.row >= 0))
            before += len(images)
        mixture = torch.stack(mixtures)
        embeddings = mixture.to(projected.dtype) @ projected
        embeddings[~mixture.any(dim=1)] = self.newline(model)
        return SeenMixed(torch.stack(features), embeddings, torch.tensor(tiles), torch.empty(0), mixture=mixture)
