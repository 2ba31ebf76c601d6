"""PixelPrune: drop what the pixels left, above and above left foretell. For documents and screens, not for photographs.

Every cell of the image is predicted as in lossless image coding (LOCO-I): the cell above where an edge runs down
between what is left and above, else the cell to the left. Where the prediction holds, the token goes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..types import (
    PIXELS,
    Budget,
    Diagnostics,
    Params,
    PlanningInfo,
    Reading,
    Schedule,
    Selection,
    Signals,
    Stage,
    TokenMap,
)
from .ops import complement, required, spread, top_k
from .per_view import all_rows, unrankable, usable
from .pruner import Paper, Pruner, budget_tokens, choice, number

LEVELS = 255
NO_GRID = "Where the patches lie in the image is not known, so that each is predicted from the one before it."
NOT_EXACT = (
    "At this budget the image cannot be restored from what is kept: predictions count as right up to {levels} of 255 "
    "levels. {lossless} tokens would keep it exactly."
)


def distances(one: Tensor, other: Tensor, metric: str) -> Tensor:
    """How far apart the pixels of two cells are: the largest difference, the mean one, or the root of the mean square.

    Shape: ``(*, k, P)``, ``(*, k, P)`` -> ``(*, k)``.
    """
    apart = one - other
    if metric == "rmse":
        return apart.square().mean(-1).sqrt()
    return apart.abs().amax(-1) if metric == "max" else apart.abs().mean(-1)


def table_of(signals: Signals, rows: Tensor) -> tuple[Tensor, bool]:
    """Which of ``rows`` shows which cell of which view, -1 where none does, and whether the cells are known.

    Where they are not, a view is one line of cells.
    Shape: rows ``(n,)`` -> ``(views, height, width)`` int64, numbers of 0..n-1.
    """
    view = torch.zeros_like(rows) if signals.view is None else signals.view[rows].long()
    view = torch.unique(view, return_inverse=True)[1]
    cell = None if signals.cell is None else signals.cell[rows].long()
    if cell is None or bool((cell < 0).any()):
        by_view = torch.sort(view, stable=True).indices
        counts = torch.bincount(view)
        first = (counts.cumsum(0) - counts)[view[by_view]]
        place = torch.empty_like(rows).index_copy_(0, by_view, all_rows(rows) - first)
        cell, known = torch.stack([torch.zeros_like(place), place], dim=1), False
    else:
        known = True
        # Crops lie in one stitched grid: each begins at its own corner.
        corner = cell.new_full((int(view.max()) + 1, 2), int(cell.max()))
        corner.scatter_reduce_(0, view[:, None].expand(-1, 2), cell, "amin")
        cell = cell - corner[view]
    height, width = (int(size) + 1 for size in cell.amax(0))
    table = torch.full((int(view.max()) + 1, height, width), -1, dtype=torch.int64, device=rows.device)
    table[view, cell[:, 0], cell[:, 1]] = all_rows(rows)
    return table, known


@dataclass(frozen=True)
class Predicted:
    """What became of ``n`` cells.

    Shape: anchor ``(n,)``, the cell whose pixels stand for each, itself where the prediction failed; error ``(n,)``,
    distance to the prediction, infinite where there is nothing to predict from.
    """

    anchor: Tensor
    error: Tensor

    @property
    def kept(self) -> Tensor:
        """Cells that stand for themselves. Shape: ``(k,)`` ascending."""
        return (self.anchor == all_rows(self.anchor)).nonzero().squeeze(1)


@dataclass(frozen=True)
class Step:
    """The cells of a diagonal that have something before them, which no tolerance changes.

    Shape: here ``(k,)``, shows ``(k, P)``, around ``(3, k)`` (above left, left, above; 0 where there is none),
    all_three ``(k,)`` bool, only_above ``(k,)`` bool.
    """

    here: Tensor
    shows: Tensor
    around: Tensor
    all_three: Tensor
    only_above: Tensor


def steps_of(pixels: Tensor, table: Tensor) -> list[Step]:
    """The diagonals of all views: what a cell is predicted from lies on those before its own.

    Shape: pixels ``(n, P)``, table ``(views, height, width)`` of numbers or -1.
    """
    _, height, width = table.shape
    padded = torch.nn.functional.pad(table, (1, 0, 1, 0), value=-1)
    found = []
    for diagonal in range(height + width - 1):
        row = torch.arange(max(0, diagonal - width + 1), min(height, diagonal + 1), device=table.device)
        column = diagonal - row
        here, corner, left, above = (
            padded[:, row + down, column + right].flatten() for down, right in ((1, 1), (0, 0), (1, 0), (0, 1))
        )
        there = (here >= 0) & ((left >= 0) | (above >= 0))
        here, around = here[there], torch.stack([corner, left, above])[:, there]
        all_three = (around >= 0).all(0)
        found.append(Step(here, pixels[here], around.clamp_min(0), all_three, around[1] < 0))
    return found


def predict(pixels: Tensor, steps: list[Step], tau: float, metric: str) -> Predicted:
    """Predict every cell from what was restored before it, all cells of a diagonal at a time.

    From the cell to the left; from that above where the one above left is like the left one but unlike the one above
    (there an edge runs down), and where there is none to the left. Like is within ``tau``. Neighbours are taken as what
    stands for them, so that errors do not add up.
    Shape: pixels ``(n, P)``.
    Source: PixelPrune; official ``methods/pred_2d.py`` ``_select_2d_loco_anchored``.
    """
    anchor, error = all_rows(pixels), pixels.new_full((len(pixels),), torch.inf)
    for step in steps:
        stand_for = anchor[step.around]
        shown = pixels[stand_for]
        like_left, like_above = distances(shown[:1], shown[1:], metric) <= tau
        downward = step.all_three & like_left & ~like_above
        foretold = torch.where(downward | step.only_above, stand_for[2], stand_for[1])
        wrong = distances(step.shows, pixels[foretold], metric)
        error[step.here] = wrong
        anchor[step.here] = torch.where(wrong <= tau, foretold, step.here)
    return Predicted(anchor, error)


def loosest_needed(pixels: Tensor, steps: list[Step], keep: int, metric: str) -> tuple[Predicted, float]:
    """The predictions at the smallest tolerance that leaves at most ``keep`` cells, and that tolerance.

    0, or a level and a half, so that rounding of pixels decides nothing. Found by halving: what is left falls with the
    tolerance, but for rare cases in which a looser one leaves more. At the loosest one cell of each view is left.
    """
    found = predict(pixels, steps, 0.0, metric)
    if len(found.kept) <= keep:
        return found, 0.0
    low, high = 0, LEVELS
    while high - low > 1:
        middle = (low + high) // 2
        tried = predict(pixels, steps, _tolerance(middle), metric)
        if len(tried.kept) <= keep:
            high, found = middle, tried
        else:
            low = middle
    return found if high < LEVELS else predict(pixels, steps, _tolerance(high), metric), _tolerance(high)


def _tolerance(level: int) -> float:
    return (level + 0.5) / LEVELS


def select(signals: Signals, keep: int | None, params: Params, generator: Generator) -> Selection:
    """Keep the cells that their neighbours do not foretell, in each view by itself.

    With a count: at the smallest tolerance that fits it, then the cells whose predictions were worst. Without one: at
    the tolerance that the parameter names, as many as there are. Rows that are no patch are never kept.
    Shape: signals.pixels ``(N, P)``, cell ``(N, 2)`` -> kept ``(min(keep, patches),)``.
    Source: PixelPrune section 3, official ``pixelprune/methods/pred_2d.py``; counted: ours.
    """
    shown = required(signals.pixels, "pixels")
    n, found = len(shown), usable(signals, shown)
    rows = found.rows
    if keep is not None and keep >= n:
        return Selection(kept=all_rows(shown))
    if len(rows) == 0:
        return unrankable(len(found.pool) if keep is None else keep, found.pool)
    if keep is not None and keep <= 0:
        return Selection(kept=rows[:0])
    pixels, (table, known), metric = shown[rows].float(), table_of(signals, rows), str(params["metric"])
    steps = steps_of(pixels, table)
    if keep is None:
        tau = float(params["tau"])
        made = predict(pixels, steps, tau, metric)
    else:
        made, tau = loosest_needed(pixels, steps, keep, metric)
    left = made.kept
    if keep is not None and len(left) > keep:  # one cell of each view is too many: those of the first views
        placed = table[table >= 0]
        left = placed[torch.isin(placed, left)][:keep]
    rest = complement(left, len(rows))
    worst = rest[top_k(made.error[rest], 0 if keep is None else min(len(rest), keep - len(left)))]
    picks = rows[torch.cat([left, worst])]
    kept = found.kept(picks, len(picks) if keep is None else keep)

    def diagnose() -> Diagnostics:
        role = torch.zeros_like(made.error)
        role[left], role[worst] = 2.0, 1.0
        owner = spread(rows[made.anchor], rows, n, -1)
        owner[kept] = kept
        owner = torch.where(torch.isin(owner, kept), owner, -1)
        sizes = torch.bincount(owner[owner >= 0], minlength=n).float()
        error = made.error.masked_fill(made.error == torch.inf, torch.nan)
        lossless = len(left) if tau == 0 else len(predict(pixels, steps, 0.0, metric).kept)
        inexact = NOT_EXACT.format(levels=f"{tau * LEVELS:.3g}", lossless=lossless)
        high = "high is kept; what has nothing before it has none"
        return found.explained(
            TokenMap("error", "How wrong the prediction was", spread(error, rows, n, torch.nan), "0 to 1", high),
            maps=(
                TokenMap(
                    "role",
                    "Role",
                    spread(role, rows, n, torch.nan),
                    direction="2 not foretold, 1 kept as the budget allows, 0 foretold",
                ),
                TokenMap(
                    "stands_for",
                    "Cells that it stands for",
                    spread(sizes[rows], rows, n, torch.nan),
                    "tokens",
                    "0 is dropped; itself counts",
                ),
            ),
            covered_by=owner,
            readings=(Reading("tolerance", "Largest error that counts as foretold, in levels of 255", tau * LEVELS),),
            facts={"tolerance": float(f"{tau:.6g}"), "not_foretold": len(left), "lossless": lossless},
            warnings=(*(() if known else (NO_GRID,)), *((inexact,) if tau > 0 else ())),
        )

    return Selection(kept, diagnose=diagnose)


def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """One stage behind the projector; tokens keep their positions. ``adaptive`` decides how many at run time."""
    tokens = budget_tokens(budget)
    counted = params["count"] == "exact"
    title = "Not foretold by the pixels around"
    return Schedule((Stage("projector", tokens if counted else None, select, (PIXELS,), "keep", title),))


PRUNER = Pruner(
    id="pixelprune",
    label="PixelPrune",
    family="diversity",
    claim="Drops what the pixels to the left and above foretell: margins, bars, blank paper. Looks at pixels alone.",
    paper=Paper(
        "PixelPrune: Pixel-Level Adaptive Visual Token Reduction via Predictive Coding",
        "Wang et al.",
        2026,
        "https://arxiv.org/abs/2604.00886",
    ),
    needs=(PIXELS,),
    params=(
        choice(
            "count",
            "Token count",
            ("exact", "adaptive"),
            "exact: the budget, at the smallest tolerance that fits it. adaptive: as published, whatever is not "
            "foretold at the tolerance below, be it more or less than the budget.",
        ),
        number(
            "tau",
            "Tolerance τ",
            0.0,
            "Only for adaptive: how far a pixel may be from its prediction, of 0 to 1. Official: 0, no loss.",
            step=0.005,
        ),
        choice(
            "metric",
            "Distance",
            ("max", "mae", "rmse"),
            "Of two cells: the largest difference of a pixel, the mean difference, or the root of the mean square.",
        ),
    ),
    schedule=schedule,
)
