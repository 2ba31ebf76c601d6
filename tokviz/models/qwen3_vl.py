"""Qwen3-VL: every vision block attends over whole frames, and three of them speak again inside the LLM (deepstack).

What the tower's blocks ``deepstack_visual_indexes`` made of a token is added to it behind the LLM's first blocks. A
kept token keeps its own, whatever was merged into it; a token that a method adds gets none (``engine/sequence.py``).
Frames of a video stand in the prompt one pair after the other, with the seconds as text between them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..errors import BadInput, Unsupported
from .base import PatchMerging
from .entries import CatalogEntry, decoder
from .memory import Parameters
from .qwen_vl import BOTH, QwenVL

_MOST_TOKENS = 16777216 // 32**2
"""``longest_edge`` of the published processors, in pixels, over the pixels of a cell."""

_TOWER = {"num_heads": 16, "in_channels": 3, "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2,
          "num_position_embeddings": 2304}  # fmt: skip
_SMALL_TOWER = {
    **_TOWER, "depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]
}  # fmt: skip
_BIG_TOWER = {
    **_TOWER, "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "deepstack_visual_indexes": [8, 16, 24]
}  # fmt: skip


def _sizes(text: tuple[int, int, int, int, int], tied: bool, tower: dict[str, Any]) -> dict[str, Any]:
    """Args: text: hidden size, MLP width, blocks, heads, key and value heads. tied: one matrix for words in and out."""
    return {
        "model_type": "qwen3_vl",
        "tie_word_embeddings": tied,
        "vision_config": {**tower, "out_hidden_size": text[0]},
        "text_config": {**decoder("qwen3_vl_text", *text, vocabulary=151936), "head_dim": 128},
        "visual_tokens": 31 * 31,  # not of config.json: of a picture of 1000 x 1000 px, in cells of 32 px
    }


class Qwen3VL(QwenVL):
    """Stock ``Qwen3VLForConditionalGeneration``."""

    id = "qwen3_vl"
    catalog = (
        CatalogEntry(
            "Qwen/Qwen3-VL-2B-Instruct", "Qwen3-VL 2B", "qwen3_vl", "apache-2.0",
            _sizes((2048, 6144, 28, 16, 8), True, _SMALL_TOWER), Parameters(1_811_939_328, 315_592_704),
            _MOST_TOKENS, "89644892e4d85e24eaac8bacfd4f463576704203", takes=BOTH,
        ),
        CatalogEntry(
            "Qwen/Qwen3-VL-4B-Instruct", "Qwen3-VL 4B", "qwen3_vl", "apache-2.0",
            _sizes((2560, 9728, 36, 32, 8), True, _SMALL_TOWER), Parameters(4_044_357_632, 393_458_176),
            _MOST_TOKENS, "ebb281ec70b05090aa6165b016eac8ec08e71b17", takes=BOTH,
        ),
        CatalogEntry(
            "Qwen/Qwen3-VL-8B-Instruct", "Qwen3-VL 8B", "qwen3_vl", "apache-2.0",
            _sizes((4096, 12288, 36, 32, 8), False, _BIG_TOWER), Parameters(7_517_270_016, 1_249_853_680),
            _MOST_TOKENS, "0c351dd01ed87e9c1b53cbc748cba10e6187ff3b", takes=BOTH,
        ),
    )  # fmt: skip

    def widths(self, vision: Any) -> tuple[int, int]:
        """``hidden_size`` and ``intermediate_size``."""
        return vision.hidden_size, vision.intermediate_size

    def patch_merging(self, model: Any) -> PatchMerging | None:
        """``visual`` with its merger, and how many of its blocks speak again inside the LLM."""
        merging = super().patch_merging(model)
        assert merging is not None
        return replace(merging, added_in_llm=len(model.config.vision_config.deepstack_visual_indexes))

    def check(self, model: Any, processor: Any, name: str) -> None:
        """As of all Qwen models; and there must be blocks of the LLM behind those where features are added."""
        super().check(model, processor, name)
        n_added, n_blocks = len(model.config.vision_config.deepstack_visual_indexes), len(self.blocks(model))
        if n_added >= n_blocks:
            raise Unsupported(f"{name} adds {n_added} vision features inside an LLM of only {n_blocks} blocks.")

    def too_short(self, n_frames: int) -> list[int]:
        """Raises BadInput: this processor repeats no frame."""
        raise BadInput(f"This model looks at pairs of frames; a video of {n_frames} frame has none.")

    def resized_frames(self, video_processor: Any, frame_size: tuple[int, int], n_frames: int) -> tuple[int, int]:
        """The limits hold for all frames of a video together: the more frames, the fewer tokens each.

        Where the processor caps what a single frame may have (``cap_pixels_per_frame``), that as well.
        """
        # Not at the top: families are asked about configurations before transformers is loaded.
        from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize

        cell, size = video_processor.patch_size * video_processor.merge_size, video_processor.size
        most = size["longest_edge"]
        if getattr(video_processor, "cap_pixels_per_frame", None):
            share = min(video_processor.max_video_tokens * cell * cell, most // n_frames)
            most = max(share, int(size["shortest_edge"] * 1.05)) * n_frames
        height, width = smart_resize(
            n_frames, frame_size[1], frame_size[0], video_processor.temporal_patch_size, cell, size["shortest_edge"],
            most,
        )  # fmt: skip
        return height, width
