"""A case's image as it is shown in a grid of cards, and the numbers that place the case on a map."""

from __future__ import annotations

import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..engine import Prompt
from ..media.images import InputImage
from ..media.video import Video

THUMBNAIL = 160
"""Longer side of the image in the grid of cards, in pixels."""
FEATURES = 128
"""Numbers that describe an image, and as many its question; see ``features_of``."""


def thumbnail(media: InputImage | Video) -> bytes:
    """The image, or the first frame, as a small JPEG without any metadata."""
    image = media.frames[0] if isinstance(media, Video) else media.image
    small = image.convert("RGB").copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC)
    sink = io.BytesIO()
    small.save(sink, "JPEG", quality=80)
    return sink.getvalue()


def features_of(prompt: Prompt) -> NDArray[np.float16]:
    """What the model sees and reads, in 256 numbers: the mean of the visual tokens as they enter the LLM, and the mean
    of the text's embeddings behind them.

    Each is projected randomly (the same way for every case and model of that width) to 128 numbers, where it is wider,
    and has length 1. Shape: ``(256,)``.
    """
    visual = prompt.visual_mask[0]
    behind = torch.zeros_like(visual)
    behind[int(visual.nonzero().max()) + 1 :] = True
    parts = []
    for mask in (visual, behind):
        mean = prompt.inputs_embeds[0, mask.to(prompt.inputs_embeds.device)].float().mean(dim=0).cpu().double().numpy()
        mean = np.nan_to_num(mean)
        if len(mean) > FEATURES:
            mean = mean @ _projection(len(mean))
        length = float(np.linalg.norm(mean))
        parts.append(np.pad(mean / (length or 1.0), (0, max(0, FEATURES - len(mean)))))
    return np.concatenate(parts).astype(np.float16)


_PROJECTIONS: dict[int, NDArray[np.float64]] = {}


def _projection(width: int) -> NDArray[np.float64]:
    """Shape: ``(width, FEATURES)``, independent normal numbers."""
    if width not in _PROJECTIONS:
        _PROJECTIONS[width] = np.random.Generator(np.random.PCG64(0)).standard_normal((width, FEATURES))
    return _PROJECTIONS[width]
