"""VisPruner: half of the budget by [CLS] attention, half by removing near-duplicates among the rest, round by round."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..types import CLS_ATTENTION, Budget, Chart, Params, PlanningInfo, Schedule, Selection, Signals, Stage, TokenMap
from .base import Paper, Param, Pruner, budget_tokens
from .ops import (
    candidate_rows,
    cosine_similarity,
    fill_up,
    fixed_count,
    non_finite_warnings,
    required,
    spread,
    top_k,
    unrankable,
    usable_rows,
)
from .planning import equal_shares, rows_by_view

# The official loop removes this many tokens per round.
REMOVED_PER_ROUND = 8


@dataclass(frozen=True)
class Thinned:
    """What ``remove_duplicates`` left.

    Shape: left ``(count,)``, in the order of the last list; removed_in ``(n,)``, the round (from 1) in which a row was
    removed, 0 for rows that are left; similarity, per round the smallest cosine at which a row was removed ``(1,)``.
    """

    left: Tensor
    removed_in: Tensor
    similarity: list[Tensor]


def remove_duplicates(features: Tensor, count: int) -> Thinned:
    """Remove the rows that look most like another one until ``count`` are left, at most 8 per round.

    A round splits the list into rows at even and at odd places and removes those even rows whose largest cosine to an
    odd row is highest. The next list is the surviving even rows, most similar first, then the odd rows as they were.
    Ties go to the row that is listed first. A list of odd length has one even row more, and a round never removes more
    than its even rows.
    Shape: features ``(n, D)`` finite, in the order of the first list; ``1 <= count <= n``.
    Source: VisPruner, official ``llava_arch.py`` ``encode_images``. Differs: the official code stops with an error at a
    list of odd length, and where it would have to remove more than half.
    """
    similarity = cosine_similarity(features)
    rows = torch.arange(len(features), device=features.device)
    removed_in, at_similarity, turn = torch.zeros_like(rows), [], 0
    while len(rows) > count:
        even, odd = rows[::2], rows[1::2]
        removed = min(REMOVED_PER_ROUND, len(rows) - count, len(even))
        turn += 1
        nearest = similarity[even][:, odd].max(1).values
        ranked = top_k(nearest, len(even))
        removed_in[even[ranked[:removed]]] = turn
        at_similarity.append(nearest[ranked[removed - 1 : removed]])
        rows = torch.cat([even[ranked[removed:]], odd])
    return Thinned(rows, removed_in, at_similarity)


@fixed_count
def select(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """In each view with its equal share T: the int(T rho) highest [CLS] attentions, then the most distinct of the rest.

    The rest enters ``remove_duplicates`` in descending order of attention. Rows that are no patch are never kept.
    Shape: signals.features ``(N, D)``, cls_attention ``(N,)`` -> kept ``(min(keep, patches),)``.
    Source: VisPruner, official ``llava_arch.py``. Differs: see ``remove_duplicates``; ranks in float32, ties to the
    lowest index; a zero token has cosine 0 with everything instead of NaN.
    """
    attention = required(signals.cls_attention, "cls_attention").float()
    pool = candidate_rows(signals)
    rows = usable_rows(signals.features, pool)
    rows = rows[torch.isfinite(attention[rows])]
    score = TokenMap("cls_attention", "[CLS] attention", attention, unit="probability")
    if len(rows) == 0:
        return unrankable(min(keep, len(pool)), pool, score)
    n_all = len(signals.features)
    views = rows_by_view(signals, rows)
    shares = equal_shares([len(view) for view in views], keep)
    group = spread(torch.zeros(len(rows), device=rows.device), rows, n_all, torch.nan)
    removed_in = torch.full((n_all,), torch.nan, device=rows.device)
    charts = []
    for number, (view, share) in enumerate(zip(views, shares, strict=True)):
        n_important = int(share * float(params["important_share"]))
        by_attention = view[top_k(attention[view], len(view))]
        important, rest = by_attention[:n_important], by_attention[n_important:]
        group[important] = 2.0
        if share > n_important:
            thinned = remove_duplicates(signals.features[rest], share - n_important)
            group[rest[thinned.left]] = 1.0
            removed_in[rest] = torch.where(thinned.removed_in > 0, thinned.removed_in.float(), torch.nan)
            charts += _chart(thinned, number, len(views))
    picks = (group > 0).nonzero().squeeze(1)
    non_finite = len(pool) - len(rows)
    return Selection(
        kept=fill_up(picks, keep, pool).sort().values,
        score=score,
        maps=(
            TokenMap("group", "Important or distinct", group, direction="2 kept by attention, 1 kept as distinct"),
            TokenMap("removed_in", "Round of removal", removed_in, unit="round", direction="low went first"),
        ),
        charts=tuple(charts),
        facts={
            "important": int((group == 2).sum()),
            "distinct": int((group == 1).sum()),
            "non_finite": non_finite,
        },
        warnings=non_finite_warnings(non_finite, len(pool)),
    )


def _chart(thinned: Thinned, number: int, n_views: int) -> list[Chart]:
    """The similarity at which each round removed; none when nothing was removed."""
    if not thinned.similarity:
        return []
    return [
        Chart(
            f"similarity_{number}",
            "Similarity at which tokens were removed" + (f", view {number}" if n_views > 1 else ""),
            "line",
            y=torch.cat(thinned.similarity).tolist(),
            x=list(range(1, len(thinned.similarity) + 1)),
            x_label="round",
            y_label="lowest cosine that was removed",
        )
    ]


def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """One stage on the encoder's output, before the projector, as the official code does.

    ``published``, ``final`` and ``average`` coincide, because every block sees what the stage leaves. Raises BadInput
    for a budget below 1 token.
    """
    return Schedule(
        (Stage("encoder", budget_tokens(budget), select, needs=(CLS_ATTENTION,), title="Important and distinct"),)
    )


PRUNER = Pruner(
    id="vispruner",
    label="VisPruner",
    family="attention-ranked",
    claim="Keeps half of the budget by [CLS] attention and half as the most distinct of the rest.",
    paper=Paper(
        "Beyond Text-Visual Attention: Exploiting Visual Cues for Effective Token Pruning in VLMs",
        "Zhang et al.",
        2024,
        "https://arxiv.org/abs/2412.01818",
    ),
    needs=(CLS_ATTENTION,),
    params=(
        Param(
            "important_share",
            "Important share ρ",
            "float",
            0.5,
            "How much of the budget goes to the highest [CLS] attention; the rest goes to distinct tokens. Paper: 0.5.",
            minimum=0.0,
            maximum=1.0,
            step=0.05,
        ),
    ),
    schedule=schedule,
    notes=(
        "The official loop fails when the list of the rest has odd length, and when a round would have to remove more "
        "than half of it. Here the even half of an odd list has one token more, and a round removes no more than the "
        "even half; where the official code runs, both agree.",
        "The result depends on the parity of the ranking by attention: every round looks for duplicates of tokens at "
        "even places among those at odd places only.",
        "Cosines that differ by rounding can swap places in the list, and so the parity of all that follow: where that "
        "happens, the official code itself keeps only about three quarters of the same tokens in float64.",
        "With several views each gets an equal share, as officially each crop gets T; a view with fewer tokens hands "
        "its surplus on.",
    ),
)
