"""FasterVLM: keep the patches to which the vision tower's [CLS] token attends most."""

from __future__ import annotations

from torch import Generator

from ..types import Params, Selection, Signals
from .per_view import TOWER_ATTENTION, ranked_per_view, tower_attention
from .pruner import Paper, Pruner, fixed_count, single_stage


@fixed_count
def select(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """Top-k of the [CLS] row of the layer that makes the features, mean over heads; without [CLS], of what is received.

    Rows that are no patch are never kept. Crops share ``keep`` equally and are ranked each by itself.
    Shape: signals.cls_attention ``(N,)`` -> kept ``(keep,)``.
    Source: FasterVLM, official ``clip_encoder.py`` and ``llava_arch.py``.
    """
    return ranked_per_view(signals, tower_attention(signals), keep)


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
    needs=TOWER_ATTENTION,
    does_without=TOWER_ATTENTION,
    schedule=single_stage(
        select,
        needs=TOWER_ATTENTION,
        title=lambda info: "Highest [CLS] attention" if info.has_cls else "Highest attention received",
    ),
)
