"""HoloV: the budget is spread over 16 strips of the image by attention and variety; inside, attention decides."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ..records import Chart, TokenMap
from ..types import Diagnostics, Params, Selection, Signals
from .ops import fill_up, spread, top_k
from .per_view import TOWER_ATTENTION, tower_attention, unrankable, usable
from .pruner import Paper, Pruner, choice, fixed_count, single_stage, whole

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
    variance = similarity.sub_(mean.unsqueeze(1)).square_().sum(1) / (n - 1)
    attention = attention * ATTENTION_SCALE
    to_match = attention.abs().mean() / (variance.abs().mean() + GUARD)
    return attention + VARIANCE_WEIGHT * (variance * to_match)


def allocate(scores: Tensor, sizes: list[int], keep: int, redistribute: bool) -> tuple[Tensor, list[int], list[int]]:
    """Weights of the strips, how many tokens each is given by them, and how many it gives in the end.

    Each strip is given floor(weight * keep); what is left goes to the highest weights, one each. What exceeds a strip
    is lost, or, with ``redistribute``, goes one by one down the strips with room in order of weight, round after round.
    Shape: scores ``(P,)``, mean holistic score of each strip -> ``(P,)``, ``P`` ints, ``P`` ints.
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
    return weights, given, taken


@fixed_count
def select(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """Cut the sequence into strips, share ``keep`` among them by their mean score, keep the highest attention in each.

    The strips run over all views together, in the order of the sequence, and over finite patches only. ``surplus =
    zeros`` appends a zero vector for every token that a strip was given beyond its size.
    Shape: signals.features ``(N, D)``, cls_attention ``(N,)`` -> kept ``(K,)``, extra ``(E, D)`` with
    K + E = ``min(keep, patches)``.
    Source: HoloV, official ``llava/model/utils.py``.
    """
    score = tower_attention(signals, "high is kept first in its strip")
    attention, found = score.values, usable(signals, score.values)
    rows, keep = found.rows, min(keep, len(found.pool))
    if len(rows) == 0:
        return unrankable(keep, found.pool, score)
    sizes = strip_sizes(len(rows), params["strips"])
    strips = rows.split(sizes)
    scores = [holistic_scores(signals.features[strip], attention[strip]) for strip in strips]
    redistribute = params["surplus"] == "redistribute" or len(rows) < keep  # then every usable token stays
    means = torch.stack([part.mean() for part in scores])
    weights, given, taken = allocate(means, sizes, min(keep, len(rows)), redistribute)
    # A strip that stays whole stays in raster order, also where the others are in order of attention (as officially).
    picks = torch.cat(
        [
            strip if count == len(strip) else strip[top_k(attention[strip], count)]
            for strip, count in zip(strips, taken, strict=True)
        ]
    )
    zeros = 0 if redistribute else keep - len(picks)
    ordered = picks if zeros else fill_up(picks, keep, found.pool)
    kept, sequence = ordered.sort().values, None
    if params["order"] == "attention":
        added = torch.arange(zeros, device=kept.device) + len(kept)
        sequence = torch.cat([torch.searchsorted(kept, ordered), added])

    def diagnose() -> Diagnostics:
        of_strip = torch.arange(len(sizes), device=rows.device).repeat_interleave(
            torch.tensor(sizes, device=rows.device)
        )
        holistic, weight, number = (
            spread(values, rows, len(attention), torch.nan)
            for values in (torch.cat(scores), weights[of_strip], of_strip.float())
        )
        mean, more = "its mean over a strip is the strip's weight", "high gives more tokens"
        return found.explained(
            score,
            maps=(
                TokenMap("holistic", "Holistic score: attention and variety", holistic, direction=mean),
                TokenMap("strip_weight", "Weight of the strip", weight, "share of the budget", more),
                TokenMap("strip", "Strip", number, direction="number in the order of the sequence"),
            ),
            charts=(_chart(given, taken, sizes),),
            extra_name="zero tokens",
            facts={"strips": len(sizes), "given": given, "taken": taken, "zero_tokens": zeros},
        )

    extra = signals.features.new_zeros(zeros, signals.features.shape[1]) if zeros else None
    return Selection(kept=kept, extra=extra, sequence=sequence, diagnose=diagnose)


def _chart(given: list[int], taken: list[int], sizes: list[int]) -> Chart:
    """Tokens kept in each strip; marked are the strips that were given more than they have."""
    label = "Tokens kept per strip; marked strips were given more than they have"
    names = [str(strip + 1) for strip in range(len(sizes))]
    full = [strip for strip, size in enumerate(sizes) if given[strip] > size]
    return Chart("tokens_per_strip", label, "bars", taken, names=names, x_label="strip", y_label="tokens", marked=full)


PRUNER = Pruner(
    id="holov",
    label="HoloV",
    family="attention-ranked",
    claim="Shares the budget among 16 strips by attention and variety, so that no part of the image is left out.",
    paper=Paper(
        'Don\'t Just Chase "Highlighted Tokens" in MLLMs: Revisiting Visual Holistic Context Retention',
        "Zou et al.",
        2025,
        "https://arxiv.org/abs/2510.02912",
    ),
    needs=TOWER_ATTENTION,
    does_without=TOWER_ATTENTION,
    params=(
        choice(
            "surplus",
            "Surplus of a full strip",
            ("redistribute", "zeros"),
            "What a strip was given beyond its size: redistribute gives it to the next strips by weight; zeros appends "
            "zero vectors instead, as the official code does.",
        ),
        choice(
            "order",
            "Order",
            ("raster", "attention"),
            "raster: as in the image. attention: strip by strip, highest attention first (whole strips in raster), "
            "as in the official code.",
        ),
        whole(
            "strips",
            "Strips",
            16,
            "How many contiguous strips of the raster sequence share the budget. Official: 16.",
            minimum=1,
            maximum=64,
        ),
    ),
    schedule=single_stage(select, needs=TOWER_ATTENTION, title="Attention within strips"),
)
