"""HOW a schedule of stages is carried out on a stock model. Knows no method by name.

Two ways, the same bits: ``encode`` once and ``shorten`` per method (no hooks; stages before the LLM), or ``prune``
around an unchanged ``model.generate`` (every stage). They combine: ``running_on(model, family, short, stages, ...)``.
"""

from .attention_watch import AttentionWatch, watching
from .cache import kv_cache_bytes
from .context import Pruned, prune, running_on
from .forced import ForcedAnswer
from .generate import Answer, answer
from .prompt import Prompt, encode, shorten
from .signals import Geometry
from .stages import Select, StageEvent, Stopwatch, selector
from .tower_layers import TowerAttention, tower_attention
from .vision_signals import VisionSignals

__all__ = [
    "Answer",
    "AttentionWatch",
    "ForcedAnswer",
    "Geometry",
    "Prompt",
    "Pruned",
    "Select",
    "StageEvent",
    "Stopwatch",
    "TowerAttention",
    "VisionSignals",
    "answer",
    "encode",
    "kv_cache_bytes",
    "prune",
    "running_on",
    "selector",
    "shorten",
    "tower_attention",
    "watching",
]
