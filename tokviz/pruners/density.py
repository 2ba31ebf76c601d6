"""Density peaks: centres that are dense and far from anything denser, and the nearest centre of every row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .ops import top_k
from .pairs import euclidean_distances

# Rows of a matrix that are looked at at once.
ROW_TILE = 128
# Columns of a group of which only the smallest number is looked at first, and fewer groups than are worth the detour.
GROUPED_COLUMNS, FEW_GROUPS = 8, 100


@dataclass(frozen=True)
class DensityPeaks:
    """What ``density_peaks`` found.

    Shape: centres ``(count,)``, highest ``density * separation`` first; log_density (natural) and separation ``(n,)``,
    the two axes of the decision graph; owner ``(n,)``, for every row the centre nearest to it (itself for a centre).
    """

    centres: Tensor
    log_density: Tensor
    separation: Tensor
    owner: Tensor


def density_peaks(features: Tensor, count: int, neighbours: int, include_self: bool = True) -> DensityPeaks:
    """DPC-kNN: centres are rows that are dense and far from anything denser (``methods.md`` 2, 6, 16).

    With ``d = ||x - y|| / sqrt(D)``: density = exp(-mean of d^2 over the ``neighbours`` nearest), the row itself being
    one of them, as in SparseVLM's code, unless ``include_self`` is False; separation = smallest d to a denser row, for
    the densest row the largest d of all. Of equally dense rows the lower index counts as denser (the official code adds
    random noise instead). Rows are ranked by ``log(density * separation)``, as the density itself underflows to 0 for
    rows that are far apart. Duplicates are exactly 0 apart (see ``euclidean_distances``); one ``(n, n)`` matrix is
    held, all else goes by row tiles.
    Shape: features ``(n, D)`` finite, ``1 <= count <= n``, neighbours >= 1 (fewer where there are not so many rows).
    """
    n, scale, device = len(features), features.shape[1] ** 0.5, features.device
    include_self = include_self or n == 1
    distance = euclidean_distances(features)
    nearest, columns = _nearest(distance, min(neighbours, n if include_self else n - 1), include_self)
    crowding = (nearest / scale).square().mean(1)
    by_density = torch.sort(crowding, stable=True).indices
    place = torch.empty(n, dtype=torch.int32, device=device)
    place[by_density] = torch.arange(n, dtype=torch.int32, device=device)
    # A denser row is mostly among the nearest ones; only the other rows are looked for in all.
    separation = nearest.masked_fill(place[columns] >= place.unsqueeze(1), torch.inf).amin(1)
    separation[by_density[0]] = distance.max()
    missing = (separation == torch.inf).nonzero().squeeze(1)
    for rows in missing.split(ROW_TILE) if len(missing) else ():
        not_denser = place >= place[rows].unsqueeze(1)
        separation[rows] = distance[rows].masked_fill_(not_denser, torch.inf).amin(1)
    separation /= scale
    # Distances that overflow make inf - inf: such rows are the last choice.
    centres = top_k((separation.log() - crowding).nan_to_num(nan=-torch.inf), count)
    ascending = centres.sort().values
    owner = ascending[(distance[ascending] / scale).argmin(0)]  # divided, as rounding decides what is equal
    owner[centres] = centres
    return DensityPeaks(centres, -crowding, separation, owner)


def _nearest(distance: Tensor, count: int, include_self: bool) -> tuple[Tensor, Tensor]:
    """The ``count`` smallest distances of every row, ascending, and to which rows they are.

    Shape: ``(n, n)``, diagonal 0 -> two of ``(n, count)``.
    """
    if not include_self:
        distance.fill_diagonal_(torch.inf)
    values, columns = zip(*(_smallest(tile, count) for tile in distance.split(ROW_TILE)), strict=True)
    distance.fill_diagonal_(0.0)
    return torch.cat(values), torch.cat(columns)


def _smallest(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` smallest numbers of every row, ascending, and their columns. Shape: ``(r, n)`` -> ``(r, count)``.

    In a long row they lie in the ``count`` groups of columns whose own smallest are smallest, or equal what does.
    """
    size = rows.shape[1] // GROUPED_COLUMNS
    if size < max(FEW_GROUPS, 2 * count):
        found = rows.topk(count, largest=False)
        return found.values, found.indices
    in_groups = torch.arange(0, size * GROUPED_COLUMNS, size, device=rows.device).unsqueeze(1)
    best = rows[:, : len(in_groups) * size].unflatten(1, (-1, size)).amin(1).topk(count, largest=False, sorted=False)
    rest = torch.arange(size * GROUPED_COLUMNS, rows.shape[1], device=rows.device).expand(len(rows), -1)
    columns = torch.cat([(best.indices.unsqueeze(1) + in_groups).flatten(1), rest], 1)
    found = rows.gather(1, columns).topk(count, largest=False)
    return found.values, columns.gather(1, found.indices)
