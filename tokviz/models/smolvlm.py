"""SmolVLM2: as Idefics3, and videos: each frame is one image, named by its time in the text."""

from __future__ import annotations

from typing import Any

from ..errors import Unsupported
from ..names import Media
from ..records import TokenGrid
from .base import VideoFacts
from .entries import CatalogEntry, decoder
from .frames import frame_by_frame
from .idefics3 import SIGLIP_BASE, SMOLLM_135M, SMOLLM_360M, Idefics3, shuffled_grid, shuffled_tower
from .memory import Parameters


class SmolVLM(Idefics3):
    """Stock ``SmolVLMForConditionalGeneration``; the tokens of frames are ``<image>`` tokens too."""

    id = "smolvlm"
    takes: tuple[Media, ...] = ("picture", "video")
    catalog: tuple[CatalogEntry, ...] = (
        CatalogEntry(
            "HuggingFaceTB/SmolVLM2-256M-Video-Instruct", "SmolVLM2 256M", "smolvlm", "apache-2.0",
            {
                "model_type": "smolvlm", "scale_factor": 4, "tie_word_embeddings": False, "visual_tokens": 17 * 64,
                "text_config": SMOLLM_135M, "vision_config": SIGLIP_BASE,
            },
            Parameters(198_180_864, 58_304_064), visual_tokens=64 * 64, takes=takes,
        ),
        CatalogEntry(
            "HuggingFaceTB/SmolVLM2-500M-Video-Instruct", "SmolVLM2 500M", "smolvlm", "apache-2.0",
            {
                "model_type": "smolvlm", "scale_factor": 4, "tie_word_embeddings": False, "visual_tokens": 17 * 64,
                "text_config": SMOLLM_360M, "vision_config": SIGLIP_BASE,
            },
            Parameters(411_303_936, 96_178_368), visual_tokens=64 * 64, takes=takes,
        ),
        CatalogEntry(
            "HuggingFaceTB/SmolVLM2-2.2B-Instruct", "SmolVLM2 2.2B", "smolvlm", "apache-2.0",
            {
                "model_type": "smolvlm", "scale_factor": 3, "tie_word_embeddings": False, "visual_tokens": 17 * 81,
                "text_config": decoder("llama", 2048, 8192, 24, 32, 32, 49280),
                "vision_config": shuffled_tower(1152, 4304, 27, 16, 384, 14),
            },
            Parameters(2_042_916_864, 203_868_016), visual_tokens=64 * 81, takes=takes,
        ),
    )  # fmt: skip

    def check(self, model: Any, processor: Any, name: str) -> None:
        """As Idefics3, and frames must be squeezed into the same squares."""
        super().check(model, processor, name)
        video_processor, side = processor.video_processor, model.config.vision_config.image_size
        if not video_processor.do_resize or video_processor.max_image_size["longest_edge"] != side:
            raise Unsupported(f"{name} has a processor that does not squeeze frames into squares of {side} px.")

    def sampled(self, processor: Any, facts: VideoFacts, wanted: int | None) -> list[int]:
        """The processor's own rule: so many per second, up to a limit, of long videos without the first and last."""
        if wanted is not None:
            return evenly(facts.n_frames, wanted)
        # Not at the top: families are asked about configurations before transformers is loaded.
        from transformers.video_utils import VideoMetadata

        width, height = facts.size
        metadata = VideoMetadata(facts.n_frames, facts.fps, width, height, facts.duration_s)
        numbers: list[int] = processor.video_processor.sample_frames(metadata).tolist()
        return numbers

    def video_grid(self, model: Any, processor: Any, frame_size: tuple[int, int], n_frames: int) -> TokenGrid:
        """Every frame is squeezed into one square image."""
        vision = model.config.vision_config
        one = shuffled_grid(frame_size, 0, 0, vision.image_size, vision.patch_size * model.config.scale_factor)
        return frame_by_frame(one, n_frames)


def evenly(n_frames: int, wanted: int) -> list[int]:
    """``wanted`` frames from the first to the last, all of them when there are no more."""
    last, steps = n_frames - 1, min(wanted, n_frames) - 1
    return [round(last * step / steps) for step in range(steps + 1)] if steps else [last // 2]
