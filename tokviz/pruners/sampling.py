"""Picking rows one after the other: farthest points, k-center, max-sum.

Farthest point sampling (Euclid), greedy k-center and greedy max-min (cosine) are one loop: pick the row whose distance
to its nearest pick is largest. ``greedy_cover`` is that loop; the methods differ in the distance and the first pick.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..types import Chart, Diagnostics, Selection, TokenMap
from .ops import row_blocks, row_lengths, spread, unit_rows, whole_groups
from .pairs import PairRows, StoredRows, cosine_rows
from .per_view import Usable

# How many rows a step of farthest point sampling measures exactly.
CANDIDATES = 8
# Rows whose squared distance is below this share of the largest squared length are duplicates (methods.md 16).
DUPLICATE_SHARE = 1e-12


@dataclass(frozen=True)
class GreedyCover:
    """What ``greedy_cover`` picked.

    Shape: picks ``(count,)`` in the order of picking; gaps ``(count,)``, distance of each pick to the nearest earlier
    one when it was picked (inf for the first); nearest ``(n,)``, distance of every row to its nearest pick, -inf for
    the picks themselves.
    """

    picks: Tensor
    gaps: Tensor
    nearest: Tensor


def greedy_cover(distances_to: PairRows, first: Tensor, count: int) -> GreedyCover:
    """Repeat: pick the row farthest from everything picked so far. Ties go to the lowest index; no row comes twice.

    With cosine distances (``cosine_distances``) this is greedy k-center: ToDRE Eq. 4 and, for another first pick,
    DivPrune's max-min. One running minimum, so ``count`` distance rows in all, and no waiting on a GPU.
    Shape: ``distances_to`` gives the distances of all rows to one ``(n,)``; first ``(1,)``; ``1 <= count <= n``.
    """
    picks, gaps = [first], [torch.full((1,), torch.inf, device=first.device)]
    # A picked row is worth -inf from then on: min() keeps it there, so it can never be picked again.
    nearest = distances_to(first).float().index_fill(0, first, -torch.inf)
    if isinstance(distances_to, StoredRows) and nearest.device.type == "cpu":
        return _stored_cover(distances_to.matrix.numpy(), first, count, nearest)
    for _ in range(count - 1):
        pick = nearest.argmax(0, keepdim=True)
        picks.append(pick)
        gaps.append(nearest.index_select(0, pick))
        torch.minimum(nearest, distances_to(pick, nearest), out=nearest).index_fill_(0, pick, -torch.inf)
    return GreedyCover(torch.cat(picks), torch.cat(gaps), nearest)


def _stored_cover(distances: np.ndarray[Any, Any], first: Tensor, count: int, nearest: Tensor) -> GreedyCover:
    """The loop of ``greedy_cover`` over a stored matrix: NumPy takes a tenth of torch's time per small call."""
    picks, gaps, running = [int(first)], [float("inf")], nearest.numpy()
    for _ in range(count - 1):
        pick = int(running.argmax())
        picks.append(pick)
        gaps.append(float(running[pick]))
        np.minimum(running, distances[pick], out=running)
        running[pick] = -np.inf
    here = nearest.device  # the default one may be another
    return GreedyCover(torch.tensor(picks, device=here), torch.tensor(gaps, dtype=nearest.dtype, device=here), nearest)


def _distance_bounds(features: Tensor, squares: Tensor, point: Tensor, square: Tensor) -> Tensor:
    """An upper bound of every row's squared distance to ``point (1, D)``, at the price of one matrix-vector product.

    ``|x|^2 - 2 x.p + |p|^2`` is off by rounding in proportion to ``|x|^2 + |p|^2``, not to the distance; four times the
    expected error of sums of D terms is added to it.
    Shape: features ``(n, D)``, squares ``(n,)`` and square ``(1,)`` the squared lengths -> ``(n,)``.
    """
    grown = 1.0 + 4.0 * torch.finfo(torch.float32).eps * features.shape[1] ** 0.5
    return torch.addmv(squares + square, features, point.squeeze(0), alpha=-2.0, beta=grown)


def _farthest_row(features: Tensor, bounds: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The row farthest from its nearest point, that squared distance, and whether no other row can be as far.

    Only the ``CANDIDATES`` rows with the largest bounds are measured, by differences; the answer is certain when all
    other bounds lie below what was found.
    Shape: features ``(n, D)``, bounds ``(n,)`` of squared distances, n > CANDIDATES, -inf for rows that do not count,
    points ``(k, D)`` -> three of ``(1,)``.
    """
    highest = bounds.topk(CANDIDATES + 1)
    candidates = highest.indices[:CANDIDATES].sort().values
    distances = (features[candidates].unsqueeze(1) - points).square_().sum(2).amin(1)
    distances.masked_fill_(bounds[candidates] == -torch.inf, -torch.inf)
    best = distances.argmax(0, keepdim=True)
    distance = distances[best]
    return candidates[best], distance, highest.values[CANDIDATES] < distance


def farthest_from_mean(features: Tensor) -> Tensor:
    """The row farthest from the mean of all rows (Euclid), the lowest of equals. Shape: ``(n, D)``, n >= 1 -> ``(1,)``.

    Found as in ``farthest_points``: candidates by a matrix-vector product, the choice by differences.
    """
    features = features.float()
    mean = features.mean(0, keepdim=True)
    if len(features) > CANDIDATES:
        bounds = _distance_bounds(features, row_lengths(features).square_(), mean, mean.square().sum(1))
        row, _, certain = _farthest_row(features, bounds, mean)
        if certain:
            return row
    blocks = [(features[rows] - mean).square_().sum(1) for rows in row_blocks(features)]
    return torch.cat(blocks).argmax(0, keepdim=True)


def farthest_points(features: Tensor, count: int, first: Tensor) -> Tensor:
    """Farthest point sampling with squared Euclidean distance, in the order of picking.

    Stops early when every remaining row is a duplicate of a pick: max-min distance <= 1e-12 max||x||^2, as
    ``methods.md`` 16 asks. Matrix-vector products rule out all but a few rows per step, and those are compared by
    exact differences, so the picks are those of the plain method, ties included; where the products cannot tell
    (duplicates, distances that are tiny against the lengths), the plain method runs instead.
    Shape: features ``(n, D)`` finite, first ``(1,)`` -> ``(<= count,)``.
    """
    features = features.float()
    squares = row_lengths(features).square_()
    # Below that the plain method is as fast.
    if len(features) > 4 * CANDIDATES and count > 1:
        picks, certain = _farthest_points_by_bounds(features, squares, count, first)
        if certain:
            return picks
    return _farthest_points_by_differences(features, squares, count, first)


def _farthest_points_by_bounds(features: Tensor, squares: Tensor, count: int, first: Tensor) -> tuple[Tensor, Tensor]:
    """The picks, and whether every one of them is certain. No host synchronisation in the loop."""
    picks, found, duplicate = [first], [], DUPLICATE_SHARE * squares.max()
    points = torch.empty(count, features.shape[1], device=features.device)
    points[0] = features[first].squeeze(0)
    bounds = torch.full((len(features),), torch.inf, device=features.device)
    for step in range(1, count):
        last = points[step - 1 : step]
        bound = _distance_bounds(features, squares, last, squares.index_select(0, picks[-1]))
        torch.minimum(bounds, bound, out=bounds).index_fill_(0, picks[-1], -torch.inf)
        pick, distance, certain = _farthest_row(features, bounds, points[:step])
        picks.append(pick)
        found.append(certain & (distance > duplicate))
        points[step] = features.index_select(0, pick).squeeze(0)
    return torch.cat(picks), torch.cat(found).all()


def _farthest_points_by_differences(features: Tensor, squares: Tensor, count: int, first: Tensor) -> Tensor:
    blocks = list(row_blocks(features))

    def distances_to(pick: Tensor, worth: Tensor | None = None) -> Tensor:
        point = features.index_select(0, pick)
        return torch.cat([(features[rows] - point).square_().sum(1) for rows in blocks])

    cover = greedy_cover(distances_to, first, min(count, len(features)))
    distinct = cover.gaps > DUPLICATE_SHARE * squares.max()
    return cover.picks[: int(distinct.sum())]


def cosine_distances(similarity: Tensor, rows: Tensor) -> Tensor:
    """``1 - similarity``, at least 0, in place of the similarity: the ``finish`` of rows of cosines."""
    return similarity.neg_().add_(1.0).clamp_min_(0.0)


def diverse_selection(
    n: int, usable: Usable, cover: GreedyCover, keep: int, first: str, facts: Mapping[str, Any] | None = None
) -> Selection:
    """Return the Selection of a method that picks by ``greedy_cover`` on the usable rows of ``n``.

    first: what its facts call the first pick.

    ``score`` ranks tokens as they were picked: a kept token has its distance to the nearest earlier pick, a dropped one
    its distance to the nearest kept token. The first pick has no earlier one: it gets the distance of the next in line.
    """
    picks, unit = usable.rows[cover.picks], "cosine distance"

    def diagnose() -> Diagnostics:
        second = cover.gaps[1] if len(cover.gaps) > 1 else cover.nearest.max().clamp_min(0.0)
        gaps = torch.cat([second.unsqueeze(0), cover.gaps[1:]])
        to_kept = cover.nearest.index_fill(0, cover.picks, 0.0)
        radius = float(f"{float(to_kept.max()):.6g}")
        when_picked, nearest_kept = (
            spread(values, usable.rows, n, torch.nan)
            for values in (cover.nearest.index_copy(0, cover.picks, gaps), to_kept)
        )
        ranks = "high is kept first; dropped tokens show their distance to the nearest kept one"
        covers, label = "0 is kept; high is badly covered", "Distance to the nearest kept token"
        return usable.explained(
            TokenMap("distance_when_picked", "Distance when picked", when_picked, unit, ranks),
            maps=(TokenMap("nearest_kept", label, nearest_kept, unit, covers),),
            charts=_distance_chart(cover, picks, radius, unit),
            facts={first: int(picks[0]), **(facts or {}), "coverage_radius": radius},
        )

    return usable.picked(picks, keep, n, diagnose)


def _distance_chart(cover: GreedyCover, picks: Tensor, radius: float, unit: str) -> tuple[Chart, ...]:
    """Distance at every pick from the second on, as the first has nothing to be far from."""
    gaps, steps = cover.gaps[1:].tolist(), list(range(2, len(picks) + 1))
    if not steps:
        return ()
    name, label, tokens = "distance_over_picks", "Distance of each pick to the nearest earlier one", picks[1:].tolist()
    return (Chart(name, label, "line", gaps, steps, x_label="pick", y_label=unit, line=radius, tokens=tokens),)


@dataclass(frozen=True)
class MaxSum:
    """What ``greedy_max_sum`` picked.

    Shape: picks ``(count,)`` in the order of picking; similarity ``(n,)``, mean cosine to the tokens picked earlier: of
    a pick when it was picked (of the first one its mean over all rows), of every other row at the end.
    """

    picks: Tensor
    similarity: Tensor


def greedy_max_sum(features: Tensor, count: int, first: Tensor | None = None) -> MaxSum:
    """Pick the row that is least similar to all rows, then always the one least similar, on average, to the picks.

    Ties go to the lowest index; no row comes twice. No waiting on a GPU in the loop.
    Shape: features ``(n, D)`` finite, ``1 <= count <= n``; first, a pick to begin with in place of that row ``(1,)``.
    Source: AdaptVTP Eq. 8-16, where sigma is a running sum; ToDRE (arXiv v2).
    """
    unit = unit_rows(features)
    cosines_with = cosine_rows(unit, count, negated)
    to_all = (whole_groups(unit) @ unit.mean(0))[: len(unit)]
    pick = to_all.argmin(0, keepdim=True) if first is None else first
    picks, when_picked = [pick], []
    # Minus sigma: what a row is worth. A picked one is worth -inf from then on, so it can never be picked again.
    worth = cosines_with(pick, -to_all).index_fill(0, pick, -torch.inf)
    for _ in range(1, count):
        pick = worth.argmax(0, keepdim=True)
        picks.append(pick)
        when_picked.append(worth.index_select(0, pick))
        worth.add_(cosines_with(pick, worth)).index_fill_(0, pick, -torch.inf)
    chosen = torch.cat(picks)
    sums = torch.cat([to_all[:0], *when_picked]) / -torch.arange(1, count, device=unit.device)
    means = torch.cat([to_all.index_select(0, chosen[:1]), sums])
    return MaxSum(chosen, (worth / -count).index_copy(0, chosen, means))


def negated(similarity: Tensor, rows: Tensor) -> Tensor:
    """Minus the similarity, in its place: the ``finish`` of rows of cosines."""
    return similarity.neg_()


def mean_distance(cover: MaxSum, rows: Tensor, n: int) -> TokenMap:
    """The score of a method that picks by ``greedy_max_sum`` among ``rows`` of ``n``. Shape: values ``(n,)``."""
    distance = spread(1.0 - cover.similarity, rows, n, torch.nan)
    high = "high is kept first; of a kept token, to those kept before it"
    return TokenMap("mean_distance", "Mean distance to the kept tokens", distance, "cosine distance", high)


def sigma_chart(cover: MaxSum) -> list[Chart]:
    """Return the mean cosine of every pick after the first to those before it."""
    picks, label = cover.picks[1:], "Similarity of each pick to those before it"
    if len(picks) == 0:
        return []
    steps, mean = list(range(2, len(picks) + 2)), "mean cosine σ / (t - 1)"
    return [Chart("sigma", label, "line", cover.similarity[picks].tolist(), steps, x_label="pick", y_label=mean)]


def random_rows(n: int, count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """``count`` different rows of ``n``, drawn on the generator's device so that every device gets the same rows."""
    return torch.randperm(n, generator=generator, device=generator.device)[:count].to(device)
