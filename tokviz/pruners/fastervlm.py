"""FasterVLM: keep the patches to which the vision tower's [CLS] token attends most."""

from __future__ import annotations

from torch import Generator

from ..types import CLS_ATTENTION, Budget, Params, PlanningInfo, Schedule, Selection, Signals, Stage, TokenMap
from .base import Paper, Pruner, budget_tokens
from .ops import fixed_count, required
from .views import keep_highest_of_each_view


@fixed_count
def select(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """Top-k of the [CLS] row of the block that makes the features, mean over heads.

    Rows that are no patch have no [CLS] attention and are never kept (the official code cuts them out too). Crops share
    ``keep`` equally and are ranked each by itself, as in the official code.
    Shape: signals.cls_attention ``(N,)`` -> kept ``(keep,)``.
    Source: FasterVLM, official ``clip_encoder.py`` and ``llava_arch.py``. Differs: ranks in float32, ties to the lowest
    index.
    """
    attention = required(signals.cls_attention, "cls_attention").float()
    score = TokenMap("cls_attention", "[CLS] attention", attention, unit="probability", scale="log")
    return keep_highest_of_each_view(signals, score, keep)


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
    notes=(
        "Scored inside the vision tower at the block that makes the features, applied after the projector, as in the "
        "code.",
        "LLaVA-NeXT: every crop keeps its equal share, ranked by itself. The code forces the merge without unpadding "
        "and newlines; here the merge is the model's own and newline tokens are never kept.",
        "Ties go to the lowest index and ranking is float32; the code ranks half-precision probabilities.",
    ),
)
