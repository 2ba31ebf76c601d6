"""Pooling: every view as a coarser grid, each cell the mean of its patches. What a plain resize of the grid keeps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from ..errors import Unsupported
from ..grids import Grid, nearest_grid
from ..types import Diagnostics, Params, Selection, Signals, TokenMap
from .diagnostics import explained, group_sizes
from .ops import group_sums, kept_rows, row_lengths, spread
from .per_view import Usable, shared, usable
from .pruner import Pruner, fixed_count, single_stage


@fixed_count
def select(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """Average each view over the cells of the nearest grid that its equal share of ``keep`` allows.

    Row i of R belongs to row ``floor(i R' / R)`` of R', columns alike: cells that share no patch, unlike those of
    ``adaptive_avg_pool2d``, which overlap where R' does not divide R. A cell is its row of lowest index, whose feature
    becomes the mean of the cell's finite ones. Rows that are no patch are dropped, and views without a share too.
    Shape: signals.features ``(N, D)``, cell ``(N, 2)`` -> kept ``(K,)``, features ``(K, D)``, K <= ``keep``.
    Raises Unsupported where nobody said in which cell each token lies.
    """
    if signals.cell is None:
        raise Unsupported(
            "Pooling needs to know where the visual tokens lie in the image: make the inputs with "
            "tokviz.inputs_for(vlm, image, question), or leave image_sizes among what the processor returned."
        )
    features, found = signals.features, usable(signals)
    n, group, grids, cells = len(features), torch.full_like(signals.cell[:, 0], -1), [], 0
    for rows, share in shared(signals, found.pool, keep):
        if share:
            grids.append(cells_of(signals.cell[rows], share))
            group[rows] = cells + grids[-1][1]
            cells += grids[-1][0][0] * grids[-1][0][1]
    members = found.rows[group[found.rows] >= 0]
    # The lowest finite row of each cell; one that is not finite only where there is no other.
    rank = torch.arange(n, 2 * n, device=group.device).index_copy_(0, found.rows, found.rows)
    inside = found.pool[group[found.pool] >= 0]
    first = torch.full((cells,), 2 * n, device=group.device)
    first = first.scatter_reduce(0, group[inside], rank[inside], "amin")
    sums, counts = group_sums(features, members, group[members], cells)
    kept = (first[first < 2 * n] % n).sort().values
    averaged = first[counts > 0]
    owner = spread(first[group[members]], members, n, -1).index_copy_(0, kept, kept)
    selection = Selection(
        kept=kept,
        assignment=owner,
        features=kept_rows(features, kept, averaged, sums[counts > 0] / counts[counts > 0].unsqueeze(1)),
    )
    sizes = [grid for grid, _ in grids]
    return selection.with_diagnostics(lambda _: _explained(features, found, selection, sizes, keep))


def cells_of(cell: Tensor, tokens: int) -> tuple[Grid, Tensor]:
    """The grid of one view, and the number of the cell of each of its patches. Shape: cell ``(n, 2)`` -> ``(n,)``."""
    corner = cell.amin(0)
    rows, columns = (cell.amax(0) - corner + 1).tolist()
    high, wide = nearest_grid(rows, columns, tokens)
    row, column = (cell - corner).unbind(1)
    return (high, wide), row * high // rows * wide + column * wide // columns


def _explained(features: Tensor, found: Usable, selection: Selection, grids: Sequence[Grid], keep: int) -> Diagnostics:
    n, members = len(features), found.rows
    owner = torch.full((n,), -1, device=members.device) if selection.assignment is None else selection.assignment
    members = members[owner[members] >= 0]
    means = features if selection.features is None else selection.features
    mean = means[torch.searchsorted(selection.kept, owner[members])]
    lost = row_lengths(features[members].float() - mean.float())
    names, kept = [f"{high} x {wide}" for high, wide in grids], len(selection.kept)
    shown = names[0] if len(set(names)) == 1 else ", ".join(names)
    each = " for each view" if len(names) > 1 and len(set(names)) == 1 else ""
    fewer = f"Pooling kept {kept} of the {keep} tokens asked for: {shown} is the nearest grid{each}."
    return explained(
        maps=(
            group_sizes(selection, n),
            TokenMap(
                "averaged_away",
                "Distance from the mean of its cell",
                spread(lost, members, n, torch.nan),
                "L2 norm",
                "high loses most by being averaged",
            ),
        ),
        facts={"grids": names, "asked_for": keep, "cells": kept},
        warnings=(fewer,) if kept < min(keep, len(found.pool)) else (),
        non_finite=found.non_finite,
        of=len(found.pool),
    )


PRUNER = Pruner(
    id="pool",
    label="Pooling",
    family="control",
    claim="Averages the patches of each cell of a coarser grid: merging that looks at no content.",
    schedule=single_stage(select, title="Averages over a coarser grid"),
    merges=True,
)
