"""Qwen3-VL: every vision layer attends over whole frames, and three of them speak again inside the LLM (deepstack).

What the tower's layers ``deepstack_visual_indexes`` made of a token is added to it behind the LLM's first layers. A
kept token keeps its own, whatever was merged into it; a token that a method adds gets none (``engine/sequence.py``).
Frames of a video stand in the prompt one pair after the other, with the seconds as text between them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..errors import BadInput, Unsupported
from .base import PatchMerging
from .qwen_vl import QwenVL


class Qwen3VL(QwenVL):
    """Stock ``Qwen3VLForConditionalGeneration``."""

    id = "qwen3_vl"

    def widths(self, vision: Any) -> tuple[int, int]:
        """``hidden_size`` and ``intermediate_size``."""
        return vision.hidden_size, vision.intermediate_size

    def patch_merging(self, model: Any) -> PatchMerging:
        """``visual`` with its merger, and how many of its layers speak again inside the LLM."""
        n_added = len(model.config.vision_config.deepstack_visual_indexes)
        return replace(super().patch_merging(model), added_in_llm=n_added)

    def check(self, model: Any, processor: Any, name: str) -> None:
        """As of all Qwen models; and there must be layers of the LLM behind those where features are added."""
        super().check(model, processor, name)
        n_added, n_layers = len(model.config.vision_config.deepstack_visual_indexes), len(self.layers(model))
        if n_added >= n_layers:
            raise Unsupported(f"{name} adds {n_added} vision features inside an LLM of only {n_layers} layers.")

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
            num_frames=n_frames,
            height=frame_size[1],
            width=frame_size[0],
            temporal_factor=video_processor.temporal_patch_size,
            factor=cell,
            min_pixels=size["shortest_edge"],
            max_pixels=most,
        )
        return height, width
