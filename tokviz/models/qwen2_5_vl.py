"""Qwen2.5-VL: most vision blocks attend within windows, and the tower runs in the order of the windows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import Unsupported
from ..records import TokenGrid
from .entries import CatalogEntry
from .memory import Parameters
from .qwen_vl import BOTH, MOST_TOKENS, QwenVL, published


def _sizes(text: tuple[int, int, int, int, int], tied: bool) -> dict[str, Any]:
    vision = {"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": text[0]}
    return published("qwen2_5_vl", text, tied, vision)


class Qwen25VL(QwenVL):
    """Stock ``Qwen2_5_VLForConditionalGeneration``."""

    id = "qwen2_5_vl"
    catalog = (
        CatalogEntry(
            "Qwen/Qwen2.5-VL-3B-Instruct", "Qwen2.5-VL 3B", "qwen2_5_vl", "qwen-research",
            _sizes((2048, 11008, 36, 16, 2), True), Parameters(3_441_197_056, 313_425_920), MOST_TOKENS,
            "66285546d2b821cf421d4f5eb2576359d3770cd3", note="For research only.", takes=BOTH,
        ),
        CatalogEntry(
            "Qwen/Qwen2.5-VL-7B-Instruct", "Qwen2.5-VL 7B", "qwen2_5_vl", "apache-2.0",
            _sizes((3584, 18944, 28, 28, 4), False), Parameters(7_199_817_728, 1_092_348_928), MOST_TOKENS,
            "cc594898137f460bfe9f0759e9844b3ce807cfb5", takes=BOTH,
        ),
    )  # fmt: skip

    def last_whole_frame_block(self, vision: Any) -> int:
        """The last of ``fullatt_block_indexes`` (31 of 7, 15, 23, 31): in all others attention stays in a window."""
        whole = [block for block in vision.fullatt_block_indexes if 0 <= block < vision.depth]
        if not whole:
            raise Unsupported("No vision block of this model attends over whole pictures (fullatt_block_indexes).")
        return max(whole)

    def places(self, vision: Any, grid_thw: Tensor) -> Tensor:
        """Where the window order has put each token. Shape: ``(n, 3)`` -> ``(N,)``."""
        window_index, _ = _windows(vision, grid_thw)
        return window_index.argsort()

    def widths(self, vision: Any) -> tuple[int, int]:
        """``hidden_size`` and ``intermediate_size``."""
        return vision.hidden_size, vision.intermediate_size

    def attended(self, vision: Any, block: int, grid: TokenGrid) -> list[int]:
        """Windows, except in ``fullatt_block_indexes``."""
        if block in vision.fullatt_block_indexes:
            return super().attended(vision, block, grid)
        merge = vision.spatial_merge_size
        frames = [[1, view.rows * merge, view.cols * merge] for view in grid.views]
        _, ends = _windows(vision, torch.tensor(frames))
        lengths: list[int] = ends.diff().tolist()
        return lengths


def _windows(vision: Any, grid_thw: Tensor) -> tuple[Tensor, Tensor]:
    """The order of the tokens in the tower ``(N,)`` and where each window ends, in patches ``(windows + 1,)``."""
    # Not at the top: families are asked about configurations before transformers is loaded.
    from transformers.vision_utils import get_vision_window_index

    index, ends = get_vision_window_index(
        grid_thw,
        spatial_merge_size=vision.spatial_merge_size,
        window_size=vision.window_size,
        patch_size=vision.patch_size,
    )
    return index, ends
