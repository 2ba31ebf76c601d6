"""Qwen2-VL: every vision block attends over whole pictures and frames, in the LLM's order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .qwen_vl import QwenVL


class Qwen2VL(QwenVL):
    """Stock ``Qwen2VLForConditionalGeneration``."""

    id = "qwen2_vl"

    def last_whole_frame_block(self, vision: Any) -> int:
        """The last one (block 31 of 32)."""
        return int(vision.depth) - 1

    def places(self, vision: Any, grid_thw: Tensor) -> Tensor:
        """The tower keeps the order of the LLM. Shape: ``(n, 3)`` -> ``(N,)``."""
        n_tokens = int(grid_thw.prod(dim=-1).sum()) // vision.spatial_merge_size**2
        return torch.arange(n_tokens, device=grid_thw.device)

    def widths(self, vision: Any) -> tuple[int, int]:
        """``embed_dim``, and ``mlp_ratio`` times as much."""
        return vision.embed_dim, int(vision.embed_dim * vision.mlp_ratio)
