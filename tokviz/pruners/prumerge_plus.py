"""PruMerge+: PruMerge with an even grid of further tokens, so that no part of the image goes unseen."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..types import Params
from .ops import complement, evenly_spaced, top_k
from .prumerge import PRUNER as PRUMERGE
from .prumerge import Centres, outliers, planned, stage_selects
from .pruner import number


def choose_with_grid(attention: Tensor, count: int | None, params: Params) -> Centres:
    """Centres by attention and an even grid of further ones.

    Adaptive: all outliers, and every ``int(int(1 / share of outliers) / 3)``-th (at least every) token of 0..n-2 that
    is not kept yet. With a ``count``: ``attention_share`` of it (at least one token) by attention, the others evenly
    spaced over what is left.
    Shape: attention ``(n,)`` finite, ``1 <= count <= n``.
    Source: PruMerge+, official ``clip_encoder.py``, ``if_adaptive=True`` (written for 576 tokens).
    """
    n = len(attention)
    if count is None:
        by_attention = top_k(attention, outliers(attention))
        stride = max(int(1 / (len(by_attention) / n)) // 3, 1)
        grid = torch.arange(0, n - 1, stride, device=attention.device)
        return Centres(by_attention, grid[~torch.isin(grid, by_attention)])
    by_attention = top_k(attention, max(int(count * float(params["attention_share"])), 1))
    rest = complement(by_attention, n)
    return Centres(by_attention, rest[evenly_spaced(len(rest), count - len(by_attention), rest.device)])


select, select_adaptive = selects = stage_selects(choose_with_grid)

PRUNER = replace(
    PRUMERGE,
    id="prumerge_plus",
    label="PruMerge+",
    claim="PruMerge with an even grid of further tokens, so that no part of the image goes unseen.",
    params=(
        *PRUMERGE.params,
        number(
            "attention_share",
            "Share by attention",
            0.25,
            "With a planned count: how many of the kept tokens come by attention, the others by the grid. 0.25 is what "
            "the adaptive rule gives; the fixed-ratio branch of the official code takes 0.5.",
        ),
    ),
    schedule=planned(selects, "Outliers of attention, a grid and a summary"),
)
