"""From an image or video and a question to the model's inputs, and which of the tokens are the user's own words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..media.video import Video
from .loading import VisionLanguageModel

# A private-use character: no template and no tokenizer knows it.
_SLOT = "\ue000"


def model_inputs(
    vlm: VisionLanguageModel,
    media: Image.Image | Video,
    question: str,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[dict[str, Tensor], Tensor | None]:
    """The processor's output for one image or video and a question, with the model's chat template, on its device.

    ``more``: further arguments of the processor.
    The second value is the question mask: ``(1, L)`` bool, True for tokens that hold something the user wrote; None
    when template or tokenizer do not let them be told apart.
    """
    tokenizer = vlm.processor.tokenizer
    text = _rendered(vlm, media, question)
    options = {"return_offsets_mapping": True} if tokenizer.is_fast else {}
    encoded = vlm.processor(**_seen(media), text=[text], return_tensors="pt", **options, **more)
    inputs = {name: value for name, value in encoded.items() if isinstance(value, Tensor)}
    offsets = inputs.pop("offset_mapping", None)
    span, mask = question_span(text, _rendered(vlm, media, _SLOT), question), None
    if offsets is not None and span is not None:
        plain = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        mask = question_tokens(text, span, placeholders(vlm), offsets[0], max(end for _, end in plain))
    dtype = vlm.model.dtype
    # Pixels enter the model's own layers; what else has fractions (seconds per frame) is reckoned with as it is.
    on_device = {
        name: tensor.to(vlm.device, dtype if name.startswith("pixel_values") else None)
        for name, tensor in inputs.items()
    }
    return on_device, None if mask is None else mask[None].to(vlm.device)


def placeholders(vlm: VisionLanguageModel) -> list[str]:
    """What the processor replaces in a prompt by the tokens of an image or video."""
    names = (getattr(vlm.processor, name, None) for name in ("image_token", "video_token"))
    return [name for name in names if name]


def _seen(media: Image.Image | Video) -> dict[str, Any]:
    """The processor's arguments: an image, or all frames of a video, which were chosen before."""
    if not isinstance(media, Video):
        return {"images": [media]}
    from transformers.video_utils import VideoMetadata

    facts = media.facts
    metadata = VideoMetadata(
        total_num_frames=facts.n_frames,
        fps=facts.fps,
        width=facts.size[0],
        height=facts.size[1],
        duration=facts.duration_s,
        frames_indices=list(media.indices),
    )
    frames = np.stack([np.asarray(frame) for frame in media.frames])
    # Nested as the videos of one text: SmolVLM's processor of transformers 5.17 takes the frames for videos else.
    return {"videos": [[frames]], "video_metadata": [metadata], "do_sample_frames": False}


def _rendered(vlm: VisionLanguageModel, media: Image.Image | Video, question: str) -> str:
    kind = "video" if isinstance(media, Video) else "image"
    messages = [{"role": "user", "content": [{"type": kind}, {"type": "text", "text": question}]}]
    text: str = vlm.processor.apply_chat_template(messages, add_generation_prompt=True)
    return text


def question_span(text: str, with_slot: str, question: str) -> tuple[int, int] | None:
    """Where the question stands in the rendered prompt: what it is around does not matter, even if it says the same.

    ``with_slot`` is the prompt rendered with a character instead of the question that occurs nowhere else. None when
    the template writes the question several times, not at all or in other words.
    """
    before, *rest = with_slot.split(_SLOT)
    if len(rest) != 1 or text != before + question + rest[0]:
        return None
    return len(before), len(before) + len(question)


def question_tokens(
    text: str, span: tuple[int, int], placeholders: Sequence[str], offsets: Tensor, plain_end: int
) -> Tensor | None:
    """Tokens that hold a visible character of ``text[start:end]``.

    Shape: offsets ``(L, 2)`` of the tokens, in the text that the processor made of ``text`` -> ``(L,)`` bool.
    The processor puts visual tokens, and around them times, numbers or marks, where a placeholder stands; what is
    behind the last one is as it was, but shifted. ``plain_end``: where the last token of ``text`` ends without that.
    None for a question between two placeholders.
    """
    start, end = span
    spans = [(text.find(word), text.rfind(word) + len(word)) for word in placeholders if word in text]
    if not spans or end <= min(first for first, _ in spans):
        shift = 0
    elif start >= max(last for _, last in spans):
        shift = int(offsets[:, 1].max()) - plain_end
    else:
        return None
    tokens = [
        any(start <= at < end and not text[at].isspace() for at in range(low - shift, high - shift))
        if high - shift > start and low - shift < end
        else False
        for low, high in offsets.tolist()
    ]
    return torch.tensor(tokens, dtype=torch.bool)
