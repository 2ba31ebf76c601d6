"""FasterVLM: keep the patches to which the vision tower's [CLS] token attends most."""

from __future__ import annotations

from torch import Generator

from ..types import CLS_ATTENTION, Budget, Params, PlanningInfo, Schedule, Selection, Signals, Stage, TokenMap
from .base import Paper, Pruner, budget_tokens
from .ops import candidate_rows, fixed_count, keep_highest, required


@fixed_count
def select(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """Top-k of the [CLS] row of the block that makes the features, mean over heads.

    Rows that are no patch have no [CLS] attention and are never kept (the official code cuts them out too). Several
    views are ranked together; the official code ranks each crop of LLaVA-NeXT by itself.
    Shape: signals.cls_attention ``(N,)`` -> kept ``(keep,)``.
    Source: FasterVLM, official ``clip_encoder.py`` and ``llava_arch.py``. Differs: ranks in float32, ties to the lowest
    index.
    """
    attention = required(signals.cls_attention, "cls_attention").float()
    score = TokenMap("cls_attention", "[CLS] attention", attention, unit="probability")
    return keep_highest(signals, score, keep, candidate_rows(signals))


def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """One stage: scored inside the vision tower, applied after the projector, as the official code does.

    ``published``, ``final`` and ``average`` coincide, because every block sees what the stage leaves. Raises BadInput
    for a budget below 1 token.
    """
    return Schedule(
        (Stage("projector", budget_tokens(budget), select, needs=(CLS_ATTENTION,), title="Highest [CLS] attention"),)
    )


PRUNER = Pruner(
    id="fastervlm",
    label="FasterVLM",
    family="attention-ranked",
    claim="Keeps the patches that the vision encoder's [CLS] token attends to most; blind to the question.",
    paper=Paper(
        "[CLS] Attention is All You Need for Training-Free Visual Token Pruning: Make VLM Inference Faster",
        "Zhang et al.",
        2024,
        "https://arxiv.org/abs/2412.01818v1",
    ),
    needs=(CLS_ATTENTION,),
    params=(),
    schedule=schedule,
)
