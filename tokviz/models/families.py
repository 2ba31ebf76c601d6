"""The supported families of models. No transformers here: what a configuration says is asked before anything loads."""

from __future__ import annotations

from .base import ModelFamily
from .idefics3 import Idefics3
from .internvl import InternVL
from .llava import Llava
from .llava_next import LlavaNext
from .llava_next_video import LlavaNextVideo
from .llava_onevision import LlavaOnevision
from .qwen2_5_vl import Qwen25VL
from .qwen2_vl import Qwen2VL
from .qwen3_vl import Qwen3VL
from .smolvlm import SmolVLM
from .video_llava import VideoLlava

_ALL: tuple[ModelFamily, ...] = (
    Llava(),
    LlavaNext(),
    LlavaNextVideo(),
    LlavaOnevision(),
    VideoLlava(),
    Qwen2VL(),
    Qwen25VL(),
    Qwen3VL(),
    SmolVLM(),
    Idefics3(),
    InternVL(),
)

FAMILIES: dict[str, ModelFamily] = {family.id: family for family in _ALL}
"""Supported ``config.model_type`` -> family."""
