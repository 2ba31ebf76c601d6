"""A saved video folder answers questions: many behind one clip for counting, one by one through the stock classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
)

from scenes import ClipQuestion
from training.clip_prompts import VIDEO_TOKENS, WORDS, encode
from training.prompts import Block
from training.scoring import check_blocks


def load_video_folder(folder: Path) -> tuple[LlavaNextVideoForConditionalGeneration, LlavaNextVideoProcessor]:
    """Model (float32, evaluation mode) and processor of a folder, through the Auto classes alone.

    Raises:
        TypeError: the folder does not hold stock LLaVA-NeXT-Video classes, or not as float32.
    """
    model = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True)
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    classes = (type(model), type(processor), model.dtype)
    if classes != (LlavaNextVideoForConditionalGeneration, LlavaNextVideoProcessor, torch.float32):
        raise TypeError(f"expected stock LLaVA-NeXT-Video classes in float32, but got {classes}")
    return model.eval(), processor


@torch.no_grad()
def project_video(model: LlavaNextVideoForConditionalGeneration, pixels: Tensor) -> Tensor:
    """Visual tokens of a clip as the language model gets them.

    Shape:
        pixels: (FRAMES, 3, 336, 336); returns (1, VIDEO_TOKENS, D).
    """
    tokens: Tensor = model.model.get_video_features(pixels[None]).pooler_output
    return tokens


@torch.no_grad()
def check_clip(
    model: LlavaNextVideoForConditionalGeneration,
    features: Tensor,
    questions: Sequence[ClipQuestion],
    visible: NDArray[np.int64] | None = None,
    closed: bool = False,
) -> list[bool]:
    """Whether the greedy answer to each question is the right one.

    Args:
        visible: the visual tokens that the model sees, in ascending order; None for all.
        closed: whether positions close the gaps that missing tokens leave ("re-indexed").

    Shape:
        features: (1, VIDEO_TOKENS, D) projected; visible: (V,) int64.
    """
    seen = np.arange(VIDEO_TOKENS) if visible is None else visible
    blocks = [Block([*encode(q.text), WORDS["assistant"]], encode(q.answer), q.family) for q in questions]
    return check_blocks(model, features[:, torch.from_numpy(seen)], seen[None], [blocks], closed, VIDEO_TOKENS)[0]


def ask_video(
    model: LlavaNextVideoForConditionalGeneration,
    processor: LlavaNextVideoProcessor,
    frames: NDArray[np.uint8],
    question: str,
) -> str:
    """The answer to one question about the frames, by the stock processor and `generate`.

    Shape:
        frames: (T, H, W, 3) uint8 RGB.
    """
    content = [{"type": "video"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(videos=[frames], text=text, return_tensors="pt")
    out = model.generate(**inputs)
    answer: str = processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return answer.strip()
