"""HOW a schedule of stages is carried out on a stock model. Knows no method by name.

Two ways, the same bits: ``encode`` once and ``shorten`` per lane (no hooks; stages before the LLM), or ``pruning``
around an unchanged ``model.generate`` (every stage). They combine: ``running_on(model, family, short, stages, ...)``.
"""

from .answering import Answer, answer
from .cache import kv_cache_bytes
from .clock import Stopwatch
from .context import Pruned, prune, running_on
from .geometry import Geometry
from .prompt import Prompt, encode, shorten
from .stages import Choose, StageEvent
from .vision import VisionSignals

__all__ = [
    "Answer",
    "Choose",
    "Geometry",
    "Prompt",
    "StageEvent",
    "Stopwatch",
    "Pruned",
    "VisionSignals",
    "answer",
    "encode",
    "kv_cache_bytes",
    "prune",
    "running_on",
    "shorten",
]
