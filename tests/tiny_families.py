"""Tiny stock models of every family, with random weights, their real processors, and what their towers make by hand.

A further family is one more entry of ``CASES``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaProcessor,
    MistralConfig,
    PreTrainedTokenizerFast,
)
from transformers.image_processing_utils import select_best_resolution

from tokviz.models.families import FAMILIES

IMAGE = 90
PAD = 0
BLOCKS = 6
SIDE, PATCH = 24, 8
PINPOINTS = [[24, 48], [48, 24], [48, 48], [72, 24], [24, 72]]
SIZES = [(60, 40), (31, 90), (48, 48), (100, 20), (200, 190)]
"""Width and height of the pictures of a prompt, in turn."""

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "user", "assistant", ":", "?", "what", "is", "it", "the", "star", "color"]
TEMPLATE = (
    "{% for message in messages %}{{ message.role }} : {% for part in message.content %}"
    "{% if part.type == 'image' %}<image> {% else %}{{ part.text }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)


@dataclass(frozen=True)
class Seen:
    """What a row's pictures are made of, by hand. Shape: features ``(N, D_v)``, embeddings ``(N, D)``, source ``(N,)``.

    source: the tower's patch (counted over all images of the row) that each token is made of, -1 for newlines, whose
    features are 0.
    """

    features: torch.Tensor
    embeddings: torch.Tensor
    source: torch.Tensor


@dataclass(frozen=True)
class Case:
    """One architecture. ``layout``: ``(width, height) -> per token (image, patch)`` of one picture, written by hand."""

    family: str
    build: Callable[[], Any]
    processor: Callable[[], Any]
    layout: Callable[[int, int], list[tuple[int, int]]]

    def model(self, dtype: torch.dtype = torch.float64, attention: str = "sdpa") -> Any:
        """The model with wide random weights: attention far from uniform, so that a dropped token shows."""
        torch.manual_seed(0)
        model = self.build().eval()
        model.set_attn_implementation(attention)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, 1.4 / parameter.shape[-1] ** 0.5 if parameter.dim() == 2 else 0.1)
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = PAD
        # The stock model takes a generated <image> for a picture when it runs without a cache.
        model.generation_config.suppress_tokens = [IMAGE]
        return model.to(dtype)

    @property
    def here(self) -> Any:
        """tokviz's own description of the family."""
        return FAMILIES[self.family]

    def prompt(self, model: Any, rows: list[list[Any]], seed: int = 1) -> dict[str, torch.Tensor]:
        """Inputs of a left-padded batch; each row is a list of "picture" and counts of text tokens."""
        generator = torch.Generator().manual_seed(seed)
        ids, pictures = [], []
        for parts in rows:
            row: list[int] = []
            for part in parts:
                if part == "picture":
                    pictures.append(noise(*SIZES[len(pictures) % len(SIZES)], seed=seed + len(pictures)))
                    row += [IMAGE] * len(self.layout(*pictures[-1].size))
                else:
                    row += torch.randint(4, 89, (part,), generator=generator).tolist()
            ids.append(row)
        length = max(map(len, ids))
        inputs = {
            "input_ids": torch.tensor([[PAD] * (length - len(row)) + row for row in ids]),
            "attention_mask": torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in ids]),
        }
        if pictures:
            encoded = self.processor().image_processor(pictures, return_tensors="pt")
            inputs.update({k: v.to(model.dtype) if v.is_floating_point() else v for k, v in encoded.items()})
        return inputs

    def images(self, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Per picture the images that the tower sees of it. Shape: ``(images, 3, H, W)`` each."""
        pixels = inputs["pixel_values"]
        if pixels.dim() == 4:
            return list(pixels[:, None])
        counts = [1 + n_crops(w, h) for h, w in inputs["image_sizes"].tolist()]
        return [tiles[:n] for tiles, n in zip(pixels, counts, strict=True)]

    @torch.no_grad()
    def seen(self, model: Any, inputs: dict[str, torch.Tensor]) -> list[Seen | None]:
        """Per row of the batch what its visual tokens are, None without a picture."""
        images = self.images(inputs) if "pixel_values" in inputs else []
        sizes = inputs["image_sizes"].tolist() if "image_sizes" in inputs else [[0, 0]] * len(images)
        found, at = [], 0
        for ids in inputs["input_ids"]:
            left, rows, before = int((ids == IMAGE).sum()), [], 0
            while left:
                layout = self.layout(*reversed(sizes[at]))
                n_patches = 1 + max(patch for _, patch in layout)
                rows.append((images[at], [-1 if p < 0 else (before + i) * n_patches + p for i, p in layout]))
                before, left, at = before + len(images[at]), left - len(layout), at + 1
            found.append(self._row(model, rows) if rows else None)
        return found

    def _row(self, model: Any, pictures: list[tuple[torch.Tensor, list[int]]]) -> Seen:
        # As many images at a time as in the engine, where the tower runs once for the whole batch: bits may differ.
        tower = model.model.vision_tower(torch.cat([p for p, _ in pictures]), output_hidden_states=True)
        patches = tower.hidden_states[model.config.vision_feature_layer][:, 1:].flatten(0, 1)
        source = torch.tensor([s for _, sources in pictures for s in sources])
        features = torch.stack([patches[s] if s >= 0 else torch.zeros_like(patches[0]) for s in source.tolist()])
        projected = model.model.multi_modal_projector(patches)
        newline = getattr(model.model, "image_newline", None)
        embeddings = torch.stack([projected[s] if s >= 0 else newline for s in source.tolist()])
        return Seen(features, embeddings, source)


def noise(width: int, height: int, seed: int) -> Image.Image:
    """A picture in which no two patches look alike."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def _vision(side: int) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=24, intermediate_size=32, num_hidden_layers=4, num_attention_heads=3, image_size=side,
        patch_size=PATCH,
    )  # fmt: skip


def _text(kind: Callable[..., Any] = LlamaConfig, **more: Any) -> Any:
    return kind(
        vocab_size=100, hidden_size=32, intermediate_size=48, num_hidden_layers=BLOCKS, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, bos_token_id=1, eos_token_id=None, pad_token_id=PAD, **more,
    )  # fmt: skip


def tokenizer() -> PreTrainedTokenizerFast:
    """Whole words, ``<image>`` is number 90."""
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    vocabulary |= {f"w{number}": number for number in range(len(WORDS), 100) if number != IMAGE}
    vocabulary["<image>"] = IMAGE
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>",
        additional_special_tokens=["<image>"], model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def _llava() -> Any:
    config = LlavaConfig(vision_config=_vision(32), text_config=_text(), image_token_index=IMAGE, image_token_id=IMAGE)
    return LlavaForConditionalGeneration(config)


def _llava_processor() -> Any:
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return LlavaProcessor(
        pictures, tokenizer(), patch_size=PATCH, vision_feature_select_strategy="default", chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    )  # fmt: skip


def _llava_next(text: Any) -> Any:
    config = LlavaNextConfig(
        vision_config=_vision(SIDE), text_config=text, image_token_index=IMAGE, image_grid_pinpoints=PINPOINTS,
        image_seq_length=(SIDE // PATCH) ** 2,
    )  # fmt: skip
    return LlavaNextForConditionalGeneration(config)


def llava_next_processor(side: int = SIDE, patch: int = PATCH, pinpoints: list[list[int]] = PINPOINTS) -> Any:
    """The real processor with small settings."""
    pictures = LlavaNextImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}, image_grid_pinpoints=pinpoints
    )
    return LlavaNextProcessor(
        pictures, tokenizer(), patch_size=patch, vision_feature_select_strategy="default", chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    )  # fmt: skip


def n_crops(width: int, height: int) -> int:
    """Crops of a picture under ``PINPOINTS``."""
    high, wide = select_best_resolution((height, width), PINPOINTS)
    return (high // SIDE) * (wide // SIDE)


def llava_next_layout(
    width: int, height: int, side: int = SIDE, pinpoints: list[list[int]] = PINPOINTS
) -> list[tuple[int, int]]:
    """Thumbnail, then the stitched crops row by row without padding, a newline (patch -1) after each row."""
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


CASES = {
    "llava": Case("llava", _llava, _llava_processor, lambda width, height: [(0, patch) for patch in range(16)]),
    "llava_next (vicuna)": Case("llava_next", lambda: _llava_next(_text()), llava_next_processor, llava_next_layout),
    "llava_next (mistral)": Case(
        "llava_next", lambda: _llava_next(_text(MistralConfig, sliding_window=None)), llava_next_processor,
        llava_next_layout,
    ),
}  # fmt: skip
