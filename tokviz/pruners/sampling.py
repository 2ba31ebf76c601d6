"""Picking rows one after the other: farthest points, k-center, density peaks.

Farthest point sampling (Euclid), greedy k-center and greedy max-min (cosine) are one loop: pick the row whose distance
to its nearest pick is largest. ``greedy_cover`` is that loop; the methods differ in the distance and the first pick.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..types import Selection, Signals, TokenMap
from .ops import fill_up, non_finite_warnings, spread, top_k

# Rows of a distance matrix that density peaks look at at once.
ROW_TILE = 1024


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


def greedy_cover(distances_to: Callable[[Tensor], Tensor], first: Tensor, count: int) -> GreedyCover:
    """Repeat: pick the row farthest from everything picked so far. Ties go to the lowest index; no row comes twice.

    Shape: ``distances_to`` maps an index ``(1,)`` to the distances of all rows ``(n,)``; first ``(1,)``;
    ``1 <= count <= n``. One running minimum, so ``count`` distance rows in all, and no host synchronisation.
    """
    picks, gaps = [first], [torch.full((1,), torch.inf, device=first.device)]
    # A picked row is worth -inf from then on: min() keeps it there, so it can never be picked again.
    nearest = distances_to(first).float().index_fill(0, first, -torch.inf)
    for _ in range(count - 1):
        pick = nearest.argmax().unsqueeze(0)
        picks.append(pick)
        gaps.append(nearest.index_select(0, pick))
        nearest = torch.minimum(nearest, distances_to(pick)).index_fill_(0, pick, -torch.inf)
    return GreedyCover(torch.cat(picks), torch.cat(gaps), nearest)


def farthest_from_mean(features: Tensor) -> Tensor:
    """The row farthest from the mean of all rows (Euclid). Shape: ``(n, D)``, n >= 1 -> ``(1,)``."""
    features = features.float()
    return (features - features.mean(0)).square().sum(1).argmax().unsqueeze(0)


def farthest_points(features: Tensor, count: int, first: Tensor) -> Tensor:
    """Farthest point sampling with squared Euclidean distance, in the order of picking.

    Stops early when every remaining row is a duplicate of a pick: max-min distance <= 1e-12 max||x||^2, as
    ``methods.md`` 16 asks. Shape: features ``(n, D)`` finite, first ``(1,)`` -> ``(<= count,)``.
    """
    features = features.float()
    difference = torch.empty_like(features)  # reused: fresh pages for every pick cost more than the arithmetic

    def distances_to(pick: Tensor) -> Tensor:
        torch.sub(features, features.index_select(0, pick), out=difference)
        return difference.square_().sum(1)

    cover = greedy_cover(distances_to, first, count)
    distinct = cover.gaps > 1e-12 * features.square().sum(1).max()
    return cover.picks[: int(distinct.sum())]


def k_center(similarity: Tensor, first: Tensor, count: int) -> GreedyCover:
    """Greedy k-center on a similarity: pick the row whose largest similarity to the picks is smallest.

    Distances are ``1 - similarity``, at least 0. With cosine this is ToDRE Eq. 4 and, for another first pick,
    DivPrune's max-min.
    Shape: similarity ``(n, n)`` symmetric, first ``(1,)``, ``1 <= count <= n``.
    """

    def distances_to(pick: Tensor) -> Tensor:
        return (1.0 - similarity.index_select(0, pick).squeeze(0)).clamp_min(0.0)

    return greedy_cover(distances_to, first, count)


def diverse_selection(
    signals: Signals,
    rows: Tensor,
    similarity: Tensor,
    first: Tensor,
    keep: int,
    pool: Tensor,
    facts: Mapping[str, Any],
) -> Selection:
    """The Selection of a method that picks by ``k_center`` on the usable ``rows`` of ``pool``.

    ``score`` ranks tokens as they were picked: a kept token has its distance to the nearest earlier pick, a dropped one
    its distance to the nearest kept token. The first pick has no earlier one: it gets the distance of the next in line.
    Shape: rows ``(n,)`` with n >= 1, similarity ``(n, n)`` and first ``(1,)`` in the numbering of ``rows``.
    """
    n_all = signals.features.shape[0]
    cover = k_center(similarity, first, min(keep, len(rows)))
    second = cover.gaps[1] if len(cover.gaps) > 1 else cover.nearest.max().clamp_min(0.0)
    gaps = torch.cat([second.unsqueeze(0), cover.gaps[1:]])
    picked_at = cover.nearest.index_copy(0, cover.picks, gaps)
    to_kept = cover.nearest.index_fill(0, cover.picks, 0.0)
    steps = torch.arange(len(cover.picks), device=rows.device)
    unusable = len(pool) - len(rows)
    return Selection(
        kept=fill_up(rows[cover.picks], keep, pool).sort().values,
        score=TokenMap(
            "distance_when_picked",
            "Distance when picked",
            spread(picked_at, rows, n_all, torch.nan),
            unit="cosine distance",
            direction="high is kept first; dropped tokens show their distance to the nearest kept one",
        ),
        order=spread(steps, rows[cover.picks], n_all, -1),
        maps=(
            TokenMap(
                "nearest_kept",
                "Distance to the nearest kept token",
                spread(to_kept, rows, n_all, torch.nan),
                unit="cosine distance",
                direction="0 is kept; high is badly covered",
            ),
        ),
        facts={**facts, "non_finite": unusable},
        warnings=non_finite_warnings(unusable, len(pool)),
    )


@dataclass(frozen=True)
class DensityPeaks:
    """What ``density_peaks`` found.

    Shape: centres ``(count,)``, highest ``density * separation`` first; density and separation ``(n,)``, the two axes
    of the decision graph; owner ``(n,)``, for every row the centre nearest to it (itself for a centre).
    """

    centres: Tensor
    density: Tensor
    separation: Tensor
    owner: Tensor


def density_peaks(features: Tensor, count: int, neighbours: int, include_self: bool = True) -> DensityPeaks:
    """DPC-kNN: centres are rows that are dense and far from anything denser (``methods.md`` 2, 6, 16).

    With ``d = ||x - y|| / sqrt(D)``: density = exp(-mean of d^2 over the ``neighbours`` nearest), the row itself being
    one of them, as in SparseVLM's code, unless ``include_self`` is False; separation = smallest d to a denser row, for
    the densest row the largest d of all. Of equally dense rows the lower index counts as denser (the official code adds
    random noise instead). Rows are ranked by ``log(density * separation)``, as the density itself underflows to 0 for
    rows that are far apart. Distances are computed without the matrix-product shortcut, so that duplicates are exactly
    0 apart; one ``(n, n)`` matrix is held, all else goes by row tiles.
    Shape: features ``(n, D)`` finite, ``1 <= count <= n``, neighbours >= 1 (fewer where there are not so many rows).
    """
    features = features.float()
    n, device = len(features), features.device
    distance = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist") / features.shape[1] ** 0.5
    crowding = _mean_square_of_nearest(distance, min(neighbours, n if include_self else n - 1), include_self)
    by_density = torch.sort(crowding, stable=True).indices
    place = torch.empty_like(by_density)
    place[by_density] = torch.arange(n, device=device)
    separation = torch.cat(
        [
            tile.masked_fill(place.unsqueeze(0) >= places.unsqueeze(1), torch.inf).min(1).values
            for tile, places in zip(distance.split(ROW_TILE), place.split(ROW_TILE), strict=True)
        ]
    )
    separation[by_density[0]] = distance.max()
    # Distances that overflow make inf - inf: such rows are the last choice.
    centres = top_k((separation.log() - crowding).nan_to_num(nan=-torch.inf), count)
    ascending = centres.sort().values
    owner = ascending[distance[:, ascending].argmin(1)]
    owner[centres] = centres
    return DensityPeaks(centres, torch.exp(-crowding), separation, owner)


def _mean_square_of_nearest(distance: Tensor, neighbours: int, include_self: bool) -> Tensor:
    """Mean of the ``neighbours`` smallest squared distances of every row. Shape: ``(n, n)`` -> ``(n,)``."""
    if neighbours < 1:
        return torch.zeros(len(distance), device=distance.device)
    found = []
    for start, tile in enumerate(distance.split(ROW_TILE)):
        if not include_self:
            diagonal = torch.arange(len(tile), device=tile.device)
            tile = tile.index_put((diagonal, diagonal + start * ROW_TILE), tile.new_tensor(torch.inf))
        found.append(tile.topk(neighbours, largest=False).values.square().mean(1))
    return torch.cat(found)


def random_rows(n: int, count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """``count`` different rows of ``n``, drawn on the generator's device so that every device gets the same rows."""
    return torch.randperm(n, generator=generator, device=generator.device)[:count].to(device)
