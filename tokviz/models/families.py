"""The supported families of models. No transformers here: what a configuration says is asked before anything loads."""

from __future__ import annotations

from .base import ModelFamily
from .llava import Llava
from .llava_next import LlavaNext

FAMILIES: dict[str, ModelFamily] = {family.id: family for family in (Llava(), LlavaNext())}
"""Supported ``config.model_type`` -> family."""
