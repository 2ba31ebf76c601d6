"""The supported families of models. No transformers here: what a configuration says is asked before anything loads."""

from __future__ import annotations

from .base import ModelFamily
from .idefics3 import Idefics3
from .llava import Llava
from .llava_next import LlavaNext
from .qwen2_5_vl import Qwen25VL
from .qwen2_vl import Qwen2VL
from .smolvlm import SmolVLM

_ALL: tuple[ModelFamily, ...] = (
    Llava(),
    LlavaNext(),
    Qwen2VL(),
    Qwen25VL(),
    SmolVLM(),
    Idefics3(),
)

FAMILIES: dict[str, ModelFamily] = {family.id: family for family in _ALL}
"""Supported ``config.model_type`` -> family."""
