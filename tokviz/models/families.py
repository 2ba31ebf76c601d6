"""The supported families of models. No transformers here: what a configuration says is asked before anything loads."""

from __future__ import annotations

from .base import ModelFamily
from .llava import Llava
from .llava_next import LlavaNext
from .qwen2_5_vl import Qwen25VL
from .qwen2_vl import Qwen2VL

FAMILIES: dict[str, ModelFamily] = {family.id: family for family in (Llava(), LlavaNext(), Qwen2VL(), Qwen25VL())}
"""Supported ``config.model_type`` -> family."""
