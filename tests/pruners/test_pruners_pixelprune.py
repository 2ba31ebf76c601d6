"""PixelPrune on pictures that can be checked on paper, and against a slow reference."""

import math

import pytest
import torch
from loops import each

from tokviz.pruners import get
from tokviz.pruners.pixelprune import NO_GRID, predict, select, steps_of, table_of
from tokviz.types import PIXELS, Budget, PlanningInfo, Signals

NAN = math.nan


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def params(**given):
    return get("pixelprune").complete(given)


def signals(picture, **more):
    """Of a picture of one number per cell (or several). Shape: ``(rows, cols)`` or ``(rows, cols, P)``."""
    picture = torch.as_tensor(picture)
    rows, cols = picture.shape[:2]
    cell = torch.cartesian_prod(torch.arange(rows), torch.arange(cols))
    pixels = picture.reshape(rows * cols, -1)
    return Signals(torch.ones(len(pixels), 2), pixels=pixels, **{"cell": cell, **more})


def adaptive(made, **given):
    return select(made, None, params(count="adaptive", **given), generator())


def roles(selection):
    return next(m.values for m in selection.diagnostics.maps if m.name == "role").tolist()


# ------------------------------------------------------------------------------------------------- on paper

PAGE = [
    [0.0, 0.0, 0.0, 0.0],
    [0.0, 1.0, 1.0, 0.0],
    [0.0, 1.0, 1.0, 0.0],
    [0.0, 0.0, 0.0, 0.0],
]


def test_a_box_on_paper_leaves_its_corners():
    found = adaptive(signals(PAGE))
    # Number 5 is not its left neighbour (0), number 7 not its (1). In the third row 9 is foretold from above, as the
    # one above left is like the left one and unlike the one above: an edge runs down. So is 11. In the last row 13 is
    # like its left neighbour; the one above left (0) is like that, the one above (1) is not: from there, wrong.
    # 14: above left (1) is unlike left (0): from the left, right. 15: above left (1) is unlike left: from the left.
    assert found.kept.tolist() == [0, 5, 7, 13]
    # Whom each is like: 9 and 10 the box, 11 the paper right of it.
    assert found.diagnostics.covered_by.tolist() == [0, 0, 0, 0, 0, 5, 5, 7, 0, 5, 5, 7, 0, 13, 13, 13]
    assert found.diagnostics.facts == {"tolerance": 0.0, "not_foretold": 4, "lossless": 4, "non_finite": 0}
    assert found.diagnostics.warnings == ()


def test_a_budget_above_what_is_needed_goes_to_the_worst_predictions():
    made = signals(PAGE)
    assert select(made, 4, params(), generator()).kept.tolist() == [0, 5, 7, 13]
    found = select(made, 6, params(), generator())  # all others are foretold exactly: the lowest
    assert found.kept.tolist() == [0, 1, 2, 5, 7, 13] and roles(found)[:6] == [2, 1, 1, 0, 0, 2]


def test_a_budget_below_it_loosens_the_tolerance_no_more_than_needed():
    line = [[0.0, 0.1, 0.5, 0.52, 1.0]]
    found = select(signals(line), 4, params(), generator())
    # Differences of 0.02, 0.1, 0.4 and 0.48. Four stay once 0.02 is foretold: level 5 and a half of 255 (0.0216).
    assert found.kept.tolist() == [0, 1, 2, 4]
    assert found.diagnostics.facts["tolerance"] == pytest.approx(5.5 / 255, rel=1e-4)
    assert found.diagnostics.warnings[0].startswith("At this budget the image cannot be restored")
    found = select(signals(line), 2, params(), generator())
    # 0.5 is foretold from what stands for 0.1, which is 0.0: once that counts, 0.52 does not, but it may stay instead.
    assert len(found.kept) == 2 and found.diagnostics.facts["tolerance"] > 0.4


def test_errors_do_not_add_up():
    """Each step is within the tolerance of the one before, but not of the first."""
    assert adaptive(signals([[0.0, 0.04, 0.08, 0.12]]), tau=0.05).kept.tolist() == [0, 2]


@each("distance", [("max", [0, 1]), ("mae", [0]), ("rmse", [0, 1])])
def test_distances(distance):
    # Differences 0.4 and 0: the largest 0.4, the mean 0.2, the root of the mean square 0.283.
    metric, kept = distance
    made = signals([[[0.0, 0.0], [0.4, 0.0]]])
    assert adaptive(made, tau=0.25, metric=metric).kept.tolist() == kept
    assert adaptive(made, tau=0.29, metric="rmse").kept.tolist() == [0]


def test_views_are_pictures_of_their_own():
    cell = torch.tensor([(0, 0), (0, 1), (0, 2), (0, 3)])  # two crops of one row, side by side
    made = signals([[1.0, 1.0, 1.0, 1.0]], cell=cell, view=torch.tensor([1, 1, 2, 2]))
    assert adaptive(made).kept.tolist() == [0, 2]
    assert select(made, 1, params(), generator()).kept.tolist() == [0]


def test_without_a_grid_each_is_predicted_from_the_one_before():
    found = adaptive(signals(PAGE, cell=None))
    assert found.kept.tolist() == [0, 5, 7, 9, 11] and found.diagnostics.warnings == (NO_GRID,)


def test_cells_that_are_gone_or_broken_foretell_nothing():
    picture = torch.tensor([[1.0, NAN, 1.0], [1.0, 1.0, 1.0]])
    # Number 2 has no left neighbour and none above: it stays. Number 4 is foretold from the left, 5 too.
    found = adaptive(signals(picture))
    assert found.kept.tolist() == [0, 2] and found.diagnostics.facts["non_finite"] == 1
    assert math.isnan(roles(found)[1])


def test_rows_that_are_no_patch_go():
    made = signals([[0.0, 1.0, 0.0]], candidates=torch.tensor([True, True, False]))
    assert adaptive(made).kept.tolist() == [0, 1]


def test_the_stage():
    for info in (PlanningInfo(576, 32), PlanningInfo(576, 28, "qwen3_vl", has_cls=False, renumbers=False)):
        for count, keep in (("exact", 64), ("adaptive", None)):
            stages = get("pixelprune").schedule(Budget(64), info, params(count=count)).stages
            assert [(s.site, s.keep, s.needs, s.positions) for s in stages] == [("projector", keep, (PIXELS,), "keep")]


# ------------------------------------------------------------------------------------------------- brute force


def slow(picture, tau, metric):
    """Kept cells and the worst error of what is restored from them, cell by cell."""
    rows, cols, _ = picture.shape
    restored = picture.clone()

    def like(one, other):
        apart = (one - other).abs()
        return float({"max": apart.max(), "mae": apart.mean(), "rmse": apart.square().mean().sqrt()}[metric]) <= tau

    kept = [0]
    for row in range(rows):
        for col in range(cols):
            if row == col == 0:
                continue
            left = restored[row, col - 1] if col else None
            above = restored[row - 1, col] if row else None
            foretold = above if left is None else left
            if row and col:
                corner = restored[row - 1, col - 1]
                if like(corner, left) and not like(corner, above):
                    foretold = above
            if like(picture[row, col], foretold):
                restored[row, col] = foretold
            else:
                kept.append(row * cols + col)
    return kept, restored


@each("seed", range(40))
def test_against_a_loop_over_cells(seed):
    g = generator(seed)
    rows, cols, width = (int(torch.randint(*ends, (1,), generator=g)) for ends in ((1, 9), (1, 9), (1, 5)))
    levels = int(torch.randint(2, 6, (1,), generator=g))
    picture = torch.randint(levels, (rows, cols, width), generator=g) / levels
    picture = picture[..., :1].expand_as(picture) if seed % 2 else picture
    for metric in ("max", "mae", "rmse"):
        for tau in (0.0, 0.1537, 0.3071):  # no mean of the levels
            kept, restored = slow(picture, tau, metric)
            made = signals(picture)
            found = adaptive(made, tau=tau, metric=metric)
            assert found.kept.tolist() == kept
            assert torch.equal(made.pixels[found.diagnostics.covered_by], restored.reshape(rows * cols, -1))


@each("seed", range(20))
def test_no_stricter_tolerance_would_do(seed):
    g = generator(100 + seed)
    picture = torch.rand(6, 7, 2, generator=g)
    keep = int(torch.randint(1, 41, (1,), generator=g))
    found = select(signals(picture), keep, params(), g)
    level = round(found.diagnostics.facts["tolerance"] * 255 - 0.5)
    table, _ = table_of(signals(picture), torch.arange(42))
    pixels = picture.reshape(42, 2)
    made = predict(pixels, steps_of(pixels, table), (level - 0.5) / 255 if level > 1 else 0.0, "max")
    assert len(found.kept) == keep and level >= 1 and len(made.kept) > keep
