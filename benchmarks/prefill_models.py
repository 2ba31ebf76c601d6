"""The models of the prefill benchmark: published shapes with random weights, and prompts that need no processor.

Nothing is downloaded: shapes come from the menu's configurations, weights are drawn on the device, pictures are noise
and questions random ids; how long a model takes does not depend on what they say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText

from tokviz.engine import Prompt, encode
from tokviz.models.base import ModelFamily
from tokviz.models.catalog import find
from tokviz.models.families import FAMILIES
from tokviz.models.llava import centre_crop_grid
from tokviz.models.llava_next import tile_grid
from tokviz.models.loading import VisionLanguageModel
from tokviz.models.qwen_geometry import merged_patch_grid
from tokviz.records import ModelRecord, TokenGrid
from tokviz.runs.execute import planning_info
from tokviz.runs.inputs import geometry_of
from tokviz.types import Need, PlanningInfo

Shape = Literal["tiny", "small", "full"]
SHAPES: tuple[Shape, ...] = ("tiny", "small", "full")

BEFORE, AFTER = 35, 30
"""Text tokens before the picture (as LLaVA's template has, ``methods.md`` 0.3) and behind it, Qwen's marks included."""
QUESTION = slice(5, 25)
"""Which of those behind the picture the user wrote."""

_TEXT: Mapping[str, Mapping[str, Any]] = {
    "full": {},
    "small": {
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": 4096,
        "bos_token_id": 1,
        "eos_token_id": None,
    },
    "tiny": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 4096,
        "bos_token_id": 1,
        "eos_token_id": None,
    },
}
_CLIP: Mapping[str, Mapping[str, Any]] = {
    "full": {},
    "small": {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 2},
    "tiny": {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 3},
}
_QWEN_TOWER: Mapping[str, Mapping[str, Any]] = {
    "full": {"fullatt_block_indexes": [7, 15, 23, 31], "window_size": 112},
    "small": {
        "hidden_size": 128,
        "intermediate_size": 342,
        "depth": 4,
        "num_heads": 2,
        "out_hidden_size": 256,
        "fullatt_block_indexes": [1, 3],
        "window_size": 112,
    },
    "tiny": {
        "hidden_size": 24,
        "intermediate_size": 40,
        "depth": 4,
        "num_heads": 2,
        "out_hidden_size": 32,
        "fullatt_block_indexes": [1, 3],
        "window_size": 112,
    },
}
_MROPE = {"full": [16, 24, 24], "small": [8, 12, 12], "tiny": [1, 1, 2]}
_SMALL_IDS = {
    "image_token_id": 4000,
    "video_token_id": 4001,
    "vision_start_token_id": 4002,
    "vision_end_token_id": 4003,
}


@dataclass(frozen=True)
class Kind:
    """One model of the efficiency tables.

    budgets: visual tokens, as the papers print them; of: how many tokens the papers
    say a picture has (what it really becomes may be more: LLaVA-NeXT's newlines). config, grid: ``shape -> ...``.
    pixels: ``(config, grid) -> (pixel tensor's size, what else decides the layout)``.
    """

    id: str
    label: str
    budgets: tuple[int, ...]
    of: int
    config: Callable[[Shape], Any]
    grid: Callable[[Any, Shape], TokenGrid]
    pixels: Callable[[Any, TokenGrid], tuple[tuple[int, ...], dict[str, list[list[int]]]]]

    def budgets_of(self, shape: Shape) -> list[int]:
        """The published budgets; of a tiny model the same shares of its tokens."""
        if shape != "tiny":
            return list(self.budgets)
        n = self.grid(self.config(shape), shape).n_tokens
        return [max(1, round(budget * n / self.of)) for budget in self.budgets]


def _published(catalogue: str) -> dict[str, Any]:
    entry = find(catalogue)
    if entry is None or entry.config is None:
        raise ValueError(f"The menu has no configuration of {catalogue}.")
    # ``visual_tokens`` is the menu's own note, no part of a config.json.
    return {name: value for name, value in entry.config.items() if name != "visual_tokens"}


def _made(published: Mapping[str, Any], text: Mapping[str, Any], vision: Mapping[str, Any], **more: Any) -> Any:
    whole = {**published, **more}
    whole["text_config"] = {**published["text_config"], **text}
    whole["vision_config"] = {**published["vision_config"], **vision}
    return AutoConfig.for_model(whole.pop("model_type"), **whole)


def _llava_config(catalogue: str, tiny_side: int) -> Callable[[Shape], Any]:
    def config(shape: Shape) -> Any:
        published, vision = _published(catalogue), dict(_CLIP[shape])
        more: dict[str, Any] = {} if shape == "full" else {"image_token_index": _SMALL_IDS["image_token_id"]}
        if shape == "tiny":
            side = published["vision_config"]["image_size"]
            vision |= {"image_size": tiny_side, "patch_size": 4}
            if pinpoints := published.get("image_grid_pinpoints"):
                more["image_grid_pinpoints"] = [[length * tiny_side // side for length in pair] for pair in pinpoints]
        return _made(published, {"max_position_embeddings": 4096, **_TEXT[shape]}, vision, **more)

    return config


def _qwen_config(shape: Shape) -> Any:
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": _MROPE[shape]}
    more = {} if shape == "full" else _SMALL_IDS
    published = _published("Qwen/Qwen2.5-VL-7B-Instruct")
    return _made(published, {"rope_parameters": rope, **_TEXT[shape]}, _QWEN_TOWER[shape], **more)


def _llava_grid(config: Any, shape: Shape) -> TokenGrid:
    vision = config.vision_config
    return centre_crop_grid((vision.image_size,) * 2, vision.image_size, vision.image_size, vision.patch_size)


def _next_grid(config: Any, shape: Shape) -> TokenGrid:
    vision, side = config.vision_config, config.vision_config.image_size
    pinpoints = [(high, wide) for high, wide in config.image_grid_pinpoints]
    return tile_grid((2 * side, 2 * side), pinpoints, side, vision.patch_size)


def _qwen_grid(config: Any, shape: Shape) -> TokenGrid:
    side = 12 if shape == "tiny" else 36
    cell = config.vision_config.patch_size * config.vision_config.spatial_merge_size
    return merged_patch_grid((side * cell, side * cell), side, side)


def _llava_pixels(config: Any, grid: TokenGrid) -> tuple[tuple[int, ...], dict[str, list[list[int]]]]:
    side = config.vision_config.image_size
    return (1, 3, side, side), {}


def _next_pixels(config: Any, grid: TokenGrid) -> tuple[tuple[int, ...], dict[str, list[list[int]]]]:
    side = config.vision_config.image_size
    return (1, len(grid.views), 3, side, side), {"image_sizes": [list(reversed(grid.image_size))]}


def _qwen_pixels(config: Any, grid: TokenGrid) -> tuple[tuple[int, ...], dict[str, list[list[int]]]]:
    vision, view = config.vision_config, grid.views[0]
    rows, columns = view.rows * vision.spatial_merge_size, view.cols * vision.spatial_merge_size
    values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    return (rows * columns, values), {"image_grid_thw": [[1, rows, columns]]}


KINDS: tuple[Kind, ...] = (
    Kind(
        id="llava-1.5-7b",
        label="LLaVA-1.5 7B",
        budgets=(192, 128, 64),
        of=576,
        config=_llava_config("llava-hf/llava-1.5-7b-hf", 48),
        grid=_llava_grid,
        pixels=_llava_pixels,
    ),
    Kind(
        id="llava-next-7b",
        label="LLaVA-NeXT 7B (Vicuna)",
        budgets=(640, 320, 160),
        of=2880,
        config=_llava_config("llava-hf/llava-v1.6-vicuna-7b-hf", 24),
        grid=_next_grid,
        pixels=_next_pixels,
    ),
    Kind(
        id="qwen2.5-vl-7b",
        label="Qwen2.5-VL 7B",
        budgets=(259, 130),  # 20% and 10% of an image of 1000 x 1000 px
        of=1296,
        config=_qwen_config,
        grid=_qwen_grid,
        pixels=_qwen_pixels,
    ),
)


@dataclass
class Bench:
    """One model with the prompt that is measured on it.

    inputs: keyword arguments of the stock model. Shape: question_mask ``(1, L)`` bool.
    """

    kind: Kind
    shape: Shape
    model: Any
    family: ModelFamily
    grid: TokenGrid
    inputs: dict[str, Tensor]
    question_mask: Tensor

    @property
    def device(self) -> torch.device:
        """Where everything lies."""
        return self.inputs["input_ids"].device

    @property
    def n_layers(self) -> int:
        """Layers of the LLM."""
        return len(self.family.layers(self.model))

    @property
    def kernels(self) -> tuple[str, str]:
        """The attention kernels of the vision tower and of the LLM."""
        config = self.model.config
        return config.vision_config._attn_implementation, config.get_text_config()._attn_implementation

    @property
    def info(self) -> PlanningInfo:
        """What methods plan with."""
        text = self.model.config.get_text_config()
        record = ModelRecord(
            name=self.kind.id,
            family=self.family.id,
            n_layers=self.n_layers,
            hidden_size=text.hidden_size,
            dtype=str(self.model.dtype),
            device=str(self.device),
            attention=self.kernels[1],
            embedded=False,
        )
        vlm = VisionLanguageModel(self.model, None, self.family, record)
        return planning_info(vlm, self.grid, has_evidence=False)

    def encoded(self, needs: set[Need]) -> Prompt:
        """The prompt at the LLM's door, with the vision signals asked for."""
        return encode(
            self.model,
            self.family,
            self.inputs,
            needs,
            question_mask=self.question_mask,
            geometry=[geometry_of(self.grid)],
        )


def bench(kind: Kind, shape: Shape, device: torch.device, dtype: torch.dtype, attention: str) -> Bench:
    """Build a model on ``device``, without a copy anywhere else, and a prompt for it. Batch 1."""
    config = kind.config(shape)
    torch.manual_seed(0)
    with torch.device(device):
        model: Any = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation=attention)
    model = model.eval().requires_grad_(False)
    strangers = {name for name, p in model.named_parameters() if p.device.type != device.type or p.dtype != dtype}
    if strangers:
        raise RuntimeError(f"not made on {device} in {dtype}: {sorted(strangers)[:3]}")
    model.generation_config.eos_token_id = None  # every answer has the same length
    model.generation_config.pad_token_id = 0
    grid = kind.grid(config, shape)
    inputs, question = _prompt(kind, config, grid, device, dtype)
    return Bench(kind, shape, model, FAMILIES[config.model_type], grid, inputs, question)


def _prompt(
    kind: Kind, config: Any, grid: TokenGrid, device: torch.device, dtype: torch.dtype
) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(1)
    before, after = (torch.randint(5, 4000, (count,), generator=generator) for count in (BEFORE, AFTER))
    if hasattr(config, "vision_start_token_id"):
        before[-1], after[0] = config.vision_start_token_id, config.vision_end_token_id
    image = torch.full((grid.n_tokens,), config.image_token_id)
    ids = torch.cat([before, image, after])[None].to(device)
    size, layout = kind.pixels(config, grid)
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(size, generator=generator).to(device, dtype),
        **{name: torch.tensor(value, device=device) for name, value in layout.items()},
    }
    if hasattr(config, "vision_start_token_id"):
        inputs["mm_token_type_ids"] = (ids == config.image_token_id).int()
    asked = torch.zeros_like(ids, dtype=torch.bool)
    asked[0, len(before) + len(image) :][QUESTION] = True
    return inputs, asked
