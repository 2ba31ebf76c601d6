"""HoloV: the budget is spread over 16 strips of the picture by attention and variety; inside, attention decides."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..types import (
    CLS_ATTENTION,
    RECEIVED_ATTENTION,
    Budget,
    Chart,
    Diagnostics,
    Params,
    PlanningInfo,
    Schedule,
    Selection,
    Signals,
    Stage,
    TokenMap,
)
from .diagnostics import non_finite_warnings
from .ops import candidate_rows, fill_up, spread, top_k, usable_rows
from .per_view import tower_attention, unrankable
from .pruner import Paper, Param, Pruner, budget_tokens, fixed_count, needs_on

# Constants of the official code: attention is scaled up, variance enters with this weight, and divisions are guarded.
ATTENTION_SCALE = 1e3
VARIANCE_WEIGHT = 0.09
GUARD = 1e-6


def strip_sizes(n: int, count: int) -> list[int]:
    """Lengths of ``count`` contiguous strips of ``n`` tokens: equal, the first ones 1 longer, empty ones left out."""
    each, longer = divmod(n, count)
    return [size for size in (each + (strip < longer) for strip in range(count)) if size]


def holistic_scores(features: Tensor, attention: Tensor) -> Tensor:
    """1000 times the attention, plus 0.09 times the variance of the token's cosines within the strip, scaled to match.

    The cosine with itself counts as 0 and takes part in the variance, which is divided by n - 1; the variance is scaled
    by mean attention / mean variance of the strip. A strip of one token scores its plain attention, not 1000 times it
    (as officially).
    Shape: features ``(n, D)``, attention ``(n,)``, one strip -> ``(n,)``. Source: HoloV, ``llava/model/utils.py``.
    """
    n, attention = len(features), attention.float()
    if n == 1:
        return attention
    features = features.float()
    unit = features / (features.norm(dim=1, keepdim=True) + GUARD)
    similarity = (unit @ unit.T).fill_diagonal_(0.0)
    mean = similarity.sum(1) / (n - 1)
    variance = (similarity - mean.unsqueeze(1)).square().sum(1) / (n - 1)
    attention = attention * ATTENTION_SCALE
    to_match = attention.abs().mean() / (variance.abs().mean() + GUARD)
    return attention + VARIANCE_WEIGHT * (variance * to_match)


@dataclass(frozen=True)
class Allocation:
    """Tokens per strip: what the weights gave, and what is taken once no strip gives more than it has."""

    given: list[int]
    taken: list[int]


def allocate(scores: Tensor, sizes: list[int], keep: int, redistribute: bool) -> tuple[Tensor, Allocation]:
    """Weights of the strips, and how many tokens each gives.

    Each strip gets floor(weight * keep); what is left goes to the highest weights, one each. What exceeds a strip is
    lost, or, with ``redistribute``, goes one by one down the strips with room in order of weight, round after round.
    Shape: scores ``(P,)``, mean holistic score of each strip -> ``(P,)``, Allocation.
    """
    weights = scores / (scores.sum() + GUARD)
    given = (weights * keep).floor().long().clamp_min(0).tolist()
    by_weight = top_k(weights, len(sizes)).tolist()
    for strip in by_weight[: max(keep - sum(given), 0)]:
        given[strip] += 1
    taken = [min(more, size) for more, size in zip(given, sizes, strict=True)]
    while redistribute and sum(taken) < min(keep, sum(sizes)):
        with_room = [strip for strip in by_weight if taken[strip] < sizes[strip]]
        for strip in with_room[: keep - sum(taken)]:
            taken[strip] += 1
    return weights, Allocation(given, taken)


@fixed_count
def select(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """Cut the sequence into strips, share ``keep`` among them by their mean score, keep the highest attention in each.

    The strips run over all views together, in the order of the sequence, and over patches only. ``surplus = zeros``
    appends a zero vector for every token that a strip was given beyond its size, as the official code does.
    Shape: signals.features ``(N, D)``, cls_attention ``(N,)`` -> kept ``(K,)``, extra ``(E, D)`` with
    K + E = ``min(keep, patches)``.
    Source: HoloV, official ``llava/model/utils.py``. Differs: float32 and stable ties; in raster order and with the
    surplus given to other strips, unless asked otherwise; tokens that are not finite are taken out before cutting.
    """
    score = tower_attention(signals, direction="high is kept first in its strip")
    attention = score.values
    pool = candidate_rows(signals)
    rows = usable_rows(signals.features, pool)
    rows = rows[torch.isfinite(attention[rows])]
    keep = min(keep, len(pool))
    if len(rows) == 0:
        return unrankable(keep, pool, score)
    sizes = strip_sizes(len(rows), int(params["strips"]))
    strips = rows.split(sizes)
    scores = [holistic_scores(signals.features[strip], attention[strip]) for strip in strips]
    means = torch.stack([part.mean() for part in scores])
    redistribute = params["surplus"] == "redistribute" or len(rows) < keep  # then every usable token stays
    weights, allocation = allocate(means, sizes, min(keep, len(rows)), redistribute)
    # A strip that stays whole stays in raster order, also where the others are in order of attention (as officially).
    picks = torch.cat(
        [
            strip if count == len(strip) else strip[top_k(attention[strip], count)]
            for strip, count in zip(strips, allocation.taken, strict=True)
        ]
    )
    extra = None
    if not redistribute and len(picks) < keep:
        extra = signals.features.new_zeros(keep - len(picks), signals.features.shape[1])
    ordered = picks if extra is not None else fill_up(picks, keep, pool)
    kept = ordered.sort().values
    sequence = None
    if params["order"] == "attention":
        added = torch.arange(0 if extra is None else len(extra), device=kept.device) + len(kept)
        sequence = torch.cat([torch.searchsorted(kept, ordered), added])
    non_finite = len(pool) - len(rows)
    return Selection(
        kept=kept,
        extra=extra,
        sequence=sequence,
        diagnose=lambda: Diagnostics(
            score=score,
            maps=_maps(torch.cat(scores), weights, sizes, rows, len(attention)),
            charts=(_chart(allocation, sizes),),
            facts={
                "strips": len(sizes),
                "given": allocation.given,
                "taken": allocation.taken,
                "zero_tokens": 0 if extra is None else len(extra),
                "non_finite": non_finite,
            },
            warnings=non_finite_warnings(non_finite, len(pool)),
        ),
    )


def _maps(scores: Tensor, weights: Tensor, sizes: list[int], rows: Tensor, n_all: int) -> tuple[TokenMap, ...]:
    lengths = torch.tensor(sizes, device=rows.device)
    numbers = torch.arange(len(sizes), device=rows.device).float()
    return (
        TokenMap(
            "holistic",
            "Holistic score: attention and variety",
            spread(scores, rows, n_all, torch.nan),
            direction="its mean over a strip is the strip's weight",
        ),
        TokenMap(
            "strip_weight",
            "Weight of the strip",
            spread(weights.repeat_interleave(lengths), rows, n_all, torch.nan),
            unit="share of the budget",
            direction="high gives more tokens",
        ),
        TokenMap(
            "strip",
            "Strip",
            spread(numbers.repeat_interleave(lengths), rows, n_all, torch.nan),
            direction="number in the order of the sequence",
        ),
    )


def _chart(allocation: Allocation, sizes: list[int]) -> Chart:
    """Tokens kept in each strip; marked are the strips that were given more than they have."""
    return Chart(
        "tokens_per_strip",
        "Tokens kept per strip; marked strips were given more than they have",
        "bars",
        y=allocation.taken,
        names=[str(strip + 1) for strip in range(len(sizes))],
        x_label="strip",
        y_label="tokens",
        marked=[strip for strip, size in enumerate(sizes) if allocation.given[strip] > size],
    )


def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """One stage on the embeddings that enter the LLM.

    ``published``, ``final`` and ``average`` coincide, because every block sees what the stage leaves, zero vectors
    included. Raises BadInput for a budget below 1 token.
    """
    return Schedule(
        (
            Stage(
                "projector",
                budget_tokens(budget),
                select,
                needs=needs_on(info, CLS_ATTENTION, RECEIVED_ATTENTION),
                title="Attention within strips",
            ),
        )
    )


PRUNER = Pruner(
    id="holov",
    label="HoloV",
    family="attention-ranked",
    claim="Shares the budget among 16 strips by attention and variety, so that no part of the picture is left out.",
    paper=Paper(
        'Don\'t Just Chase "Highlighted Tokens" in MLLMs: Revisiting Visual Holistic Context Retention',
        "Zou et al.",
        2025,
        "https://arxiv.org/abs/2510.02912",
    ),
    needs=(CLS_ATTENTION, RECEIVED_ATTENTION),
    does_without=(CLS_ATTENTION, RECEIVED_ATTENTION),
    params=(
        Param(
            "surplus",
            "Surplus of a full strip",
            "choice",
            "redistribute",
            "What a strip was given beyond its size: redistribute gives it to the next strips by weight; zeros appends "
            "zero vectors instead, as the official code does.",
            choices=("redistribute", "zeros"),
        ),
        Param(
            "order",
            "Order",
            "choice",
            "raster",
            "raster: as in the picture. attention: strip by strip, highest attention first (whole strips in raster), "
            "as in the official code.",
            choices=("raster", "attention"),
        ),
        Param(
            "strips",
            "Strips",
            "int",
            16,
            "How many contiguous strips of the raster sequence share the budget. Official: 16.",
            minimum=1,
            maximum=64,
            step=1,
        ),
    ),
    schedule=schedule,
)
