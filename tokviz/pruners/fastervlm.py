"""FasterVLM: keep the patches to which the vision tower's [CLS] token attends most."""

from __future__ import annotations

from torch import Generator

from ..types import CLS_ATTENTION, RECEIVED_ATTENTION, Budget, Params, PlanningInfo, Schedule, Selection, Signals, Stage
from .base import Paper, Pruner, budget_tokens
from .ops import fixed_count
from .tower_attention import attention_map, attention_need
from .views import keep_highest_of_each_view


@fixed_count
def select(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """Top-k of the [CLS] row of the block that makes the features, mean over heads; without [CLS], of what is received.

    Rows that are no patch have no [CLS] attention and are never kept (the official code cuts them out too). Crops share
    ``keep`` equally and are ranked each by itself, as in the official code.
    Shape: signals.cls_attention ``(N,)`` -> kept ``(keep,)``.
    Source: FasterVLM, official ``clip_encoder.py`` and ``llava_arch.py``. Differs: ranks in float32, ties to the lowest
    index.
    """
    return keep_highest_of_each_view(signals, attention_map(signals), keep)


def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """One stage: scored inside the vision tower, applied after the projector, as the official code does.

    ``published``, ``final`` and ``average`` coincide, because every block sees what the stage leaves. Raises BadInput
    for a budget below 1 token.
    """
    title = "Highest [CLS] attention" if info.has_cls else "Highest attention received"
    return Schedule((Stage("projector", budget_tokens(budget), select, needs=(attention_need(info),), title=title),))


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
    needs=(CLS_ATTENTION, RECEIVED_ATTENTION),
    does_without=(CLS_ATTENTION, RECEIVED_ATTENTION),
    params=(),
    schedule=schedule,
    notes=(
        "Scored inside the vision tower at the block that makes the features, applied after the projector, as in the "
        "code.",
        "LLaVA-NeXT: every crop keeps its equal share, ranked by itself. The code forces the merge without unpadding "
        "and newlines; here the merge is the model's own and newline tokens are never kept.",
        "Videos: every frame keeps its equal share, ranked by itself; [CLS] tokens of Video-LLaVA's frames are never "
        "kept.",
        "Ties go to the lowest index and ranking is float32; the code ranks half-precision probabilities.",
        "A vision tower without [CLS] (Qwen): ranked by the attention that tokens receive in the last block that "
        "attends over whole pictures, mean over heads, queries and a token's patches.",
    ),
)
