"""See which visual tokens each pruning method keeps, why, and what that does to the answer.

Example:
    >>> import tokviz
    >>> vlm = tokviz.load()
    >>> result = tokviz.compare(vlm, "scene.png", "what color is the star?", methods=["apet", "random"], budget=64)
    >>> print(result.answers)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .api import Inputs, inputs_for, list_models, prune
    from .attention import Inside, InsideLayer, InsideToken, TowerLayer
    from .cases import Case, CaseFile, CaseReport, check_cases, open_cases
    from .comparison import Comparison
    from .costs import PartCost, RunCost
    from .errors import BadInput, Unsupported
    from .horizon import HorizonLayer, InformationHorizon
    from .mining.mine import MiningProgress, mine
    from .mining.mined import MinedRun, open_run
    from .models.loading import VisionLanguageModel, load, wrap
    from .names import VisionLayer
    from .pruners import Pruner, methods, register
    from .pruners.define import keep_highest, pruner
    from .pruners.ops import evenly_spaced, merge_into_nearest
    from .pruners.per_view import equal_shares, rows_by_view
    from .pruners.pruner import Paper, Param, budget_tokens
    from .records import Chart, Reading, Run, TextScores, TokenMap
    from .rescues import Rescue, RescueBlock
    from .runs.compare import compare, compare_events
    from .runs.edits import ask_with, edited, tokens_in
    from .runs.events import Event
    from .runs.examples import Example, load_examples
    from .runs.horizon import information_horizon
    from .runs.inside import inside
    from .runs.rescue import rescue
    from .runs.selecting import select_only
    from .runs.sweep import SweepEvent, sweep, sweep_events
    from .selections import Selected, Selections
    from .sweeps import Sweep, SweepCurve, SweepPoint
    from .tables.speeds import PublishedSpeed, published_speeds
    from .types import (
        CLIP_RELEVANCE,
        CLS_ATTENTION,
        CLS_ATTENTION_LAST_LAYER,
        CLS_FEATURE,
        CLS_FULL_WIDTH_LAST_LAYER,
        CLS_LOGITS_LAST_LAYER,
        DEEP_ATTENTION,
        ENCODER_FEATURES,
        EVIDENCE,
        FULL_KEYS_LAST_LAYER,
        HEAD_ROWS,
        KEY_NORMS,
        LAST_ROW,
        LAST_ROW_OF_NEXT_LAYER,
        LLM_INPUT,
        NORMED_FEATURES,
        OBJECT_ATTENTION,
        PIXELS,
        PREVIOUS_FEATURES,
        PROMPT_FEATURES,
        QUESTION_FEATURES,
        RECEIVED_ATTENTION,
        ROTARY_MEANS,
        ROTARY_SIMILARITY,
        SEQUENCE_INDEX,
        SHALLOW_ATTENTION,
        TEXT_FEATURES,
        TEXT_ROWS,
        VALUES,
        Budget,
        Diagnostics,
        Need,
        PlanningInfo,
        Schedule,
        Selection,
        Signals,
        Stage,
    )
    from .types import ENCODER_KEYS as KEYS

# Imported on first use, so that `import tokviz` and the first screen of the page do not import torch.
_NAMES = {
    "api": "Inputs inputs_for list_models prune",
    "errors": "BadInput Unsupported",
    "mining.mine": "MiningProgress mine",
    "mining.mined": "MinedRun open_run",
    "models.loading": "VisionLanguageModel load wrap",
    "names": "VisionLayer",
    "pruners": "Pruner methods register",
    "pruners.pruner": "Paper Param budget_tokens",
    "pruners.define": "keep_highest pruner",
    "pruners.ops": "evenly_spaced merge_into_nearest",
    "pruners.per_view": "equal_shares rows_by_view",
    "attention": "Inside InsideLayer InsideToken TowerLayer",
    "cases": "Case CaseFile CaseReport check_cases open_cases",
    "comparison": "Comparison",
    "horizon": "HorizonLayer InformationHorizon",
    "rescues": "Rescue RescueBlock",
    "selections": "Selected Selections",
    "sweeps": "Sweep SweepCurve SweepPoint",
    "tables.speeds": "PublishedSpeed published_speeds",
    "costs": "PartCost RunCost",
    "runs.edits": "ask_with edited tokens_in",
    "runs.horizon": "information_horizon",
    "runs.rescue": "rescue",
    "runs.selecting": "select_only",
    "runs.sweep": "SweepEvent sweep sweep_events",
    "runs.inside": "inside",
    "records": "Chart Reading Run TextScores TokenMap",
    "runs.compare": "compare compare_events",
    "runs.events": "Event",
    "runs.examples": "Example load_examples",
    "types": "Budget Diagnostics Need PlanningInfo Schedule Selection Signals Stage CLIP_RELEVANCE CLS_ATTENTION "
    "CLS_ATTENTION_LAST_LAYER CLS_FEATURE CLS_FULL_WIDTH_LAST_LAYER CLS_LOGITS_LAST_LAYER DEEP_ATTENTION "
    "ENCODER_FEATURES EVIDENCE FULL_KEYS_LAST_LAYER HEAD_ROWS KEY_NORMS LAST_ROW LAST_ROW_OF_NEXT_LAYER "
    "LLM_INPUT NORMED_FEATURES OBJECT_ATTENTION PIXELS PREVIOUS_FEATURES PROMPT_FEATURES QUESTION_FEATURES "
    "RECEIVED_ATTENTION ROTARY_MEANS ROTARY_SIMILARITY SEQUENCE_INDEX SHALLOW_ATTENTION TEXT_FEATURES TEXT_ROWS VALUES",
}
_WHERE = {name: (module, name) for module, names in _NAMES.items() for name in names.split()}
_WHERE["KEYS"] = "types", "ENCODER_KEYS"
__all__ = [
    "CLIP_RELEVANCE",
    "CLS_ATTENTION",
    "CLS_ATTENTION_LAST_LAYER",
    "CLS_FEATURE",
    "CLS_FULL_WIDTH_LAST_LAYER",
    "CLS_LOGITS_LAST_LAYER",
    "DEEP_ATTENTION",
    "ENCODER_FEATURES",
    "EVIDENCE",
    "FULL_KEYS_LAST_LAYER",
    "HEAD_ROWS",
    "KEYS",
    "KEY_NORMS",
    "LAST_ROW",
    "LAST_ROW_OF_NEXT_LAYER",
    "LLM_INPUT",
    "NORMED_FEATURES",
    "OBJECT_ATTENTION",
    "PIXELS",
    "PREVIOUS_FEATURES",
    "PROMPT_FEATURES",
    "QUESTION_FEATURES",
    "RECEIVED_ATTENTION",
    "ROTARY_MEANS",
    "ROTARY_SIMILARITY",
    "SEQUENCE_INDEX",
    "SHALLOW_ATTENTION",
    "TEXT_FEATURES",
    "TEXT_ROWS",
    "VALUES",
    "BadInput",
    "Budget",
    "Case",
    "CaseFile",
    "CaseReport",
    "Chart",
    "Comparison",
    "Diagnostics",
    "Event",
    "Example",
    "HorizonLayer",
    "InformationHorizon",
    "Inputs",
    "Inside",
    "InsideLayer",
    "InsideToken",
    "MinedRun",
    "MiningProgress",
    "Need",
    "Paper",
    "Param",
    "PartCost",
    "PlanningInfo",
    "Pruner",
    "PublishedSpeed",
    "Reading",
    "Rescue",
    "RescueBlock",
    "Run",
    "RunCost",
    "Schedule",
    "Selected",
    "Selection",
    "Selections",
    "Signals",
    "Stage",
    "Sweep",
    "SweepCurve",
    "SweepEvent",
    "SweepPoint",
    "TextScores",
    "TokenMap",
    "TowerLayer",
    "Unsupported",
    "VisionLanguageModel",
    "VisionLayer",
    "__version__",
    "ask_with",
    "budget_tokens",
    "check_cases",
    "compare",
    "compare_events",
    "edited",
    "equal_shares",
    "evenly_spaced",
    "information_horizon",
    "inputs_for",
    "inside",
    "keep_highest",
    "list_models",
    "load",
    "load_examples",
    "merge_into_nearest",
    "methods",
    "mine",
    "open_cases",
    "open_run",
    "prune",
    "pruner",
    "published_speeds",
    "register",
    "rescue",
    "rows_by_view",
    "select_only",
    "sweep",
    "sweep_events",
    "tokens_in",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'tokviz' has no attribute {name!r}")
    module, attribute = _WHERE[name]
    value = getattr(import_module(f".{module}", __name__), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
