"""Qwen2-VL: every vision block attends over whole pictures and frames, in the LLM's order."""

from __future__ import annotations

from typing import Any

from .entries import CatalogEntry
from .memory import Parameters
from .qwen_vl import BOTH, MOST_TOKENS, QwenVL, published


def _sizes(text: tuple[int, int, int, int, int], tied: bool) -> dict[str, Any]:
    return published("qwen2_vl", text, tied, {"embed_dim": 1280, "mlp_ratio": 4, "hidden_size": text[0]})


class Qwen2VL(QwenVL):
    """Stock ``Qwen2VLForConditionalGeneration``."""

    id = "qwen2_vl"
    catalog = (
        CatalogEntry(
            "Qwen/Qwen2-VL-2B-Instruct", "Qwen2-VL 2B", "qwen2_vl", "apache-2.0",
            _sizes((1536, 8960, 28, 12, 2), True), Parameters(1_973_420_032, 235_565_568), MOST_TOKENS,
            "895c3a49bc3fa70a340399125c650a463535e71c", takes=BOTH,
        ),
        CatalogEntry(
            "Qwen/Qwen2-VL-7B-Instruct", "Qwen2-VL 7B", "qwen2_vl", "apache-2.0",
            _sizes((3584, 18944, 28, 28, 4), False), Parameters(7_198_998_528, 1_092_377_088), MOST_TOKENS,
            "eed13092ef92e448dd6875b2a00151bd3f7db0ac", takes=BOTH,
        ),
    )  # fmt: skip

    def widths(self, vision: Any) -> tuple[int, int]:
        """``embed_dim``, and ``mlp_ratio`` times as much."""
        return vision.embed_dim, int(vision.embed_dim * vision.mlp_ratio)
