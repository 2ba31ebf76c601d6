"""The layouts of case files."""

from __future__ import annotations

from .coco import Pope, RefCoco, RefCocoPoint, VqaV2
from .layout import Layout
from .lines import JsonLines
from .logs import LlavaQuestions, LmmsEval, VlmEvalKit
from .photographs import Gqa, Mme, ScienceQa, TextVqa, VizWiz

LAYOUTS: tuple[type[Layout], ...] = (
    JsonLines,
    Pope,
    VqaV2,
    Gqa,
    TextVqa,
    VizWiz,
    ScienceQa,
    RefCoco,
    RefCocoPoint,
    LmmsEval,
    LlavaQuestions,
    VlmEvalKit,
    Mme,
)
"""In the order in which they are tried when nobody named one; the first that recognises a file reads it."""
