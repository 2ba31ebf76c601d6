"""HiPrune on an image that can be checked on paper, and against a slow reference."""

import math

import pytest
import torch

from tokviz.pruners import get
from tokviz.pruners.hiprune import NO_GRID, select
from tokviz.types import DEEP_ATTENTION, OBJECT_ATTENTION, Budget, PlanningInfo, Signals

NAN = math.nan


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def params(**given):
    return get("hiprune").complete(given)


def grid(rows, cols):
    return torch.cartesian_prod(torch.arange(rows), torch.arange(cols))


def signals(middle, deep, rows, cols, **more):
    middle, deep = torch.as_tensor(middle), torch.as_tensor(deep)
    given = {"cell": grid(rows, cols), **more}
    return Signals(torch.ones(len(middle), 2), object_attention=middle, deep_attention=deep, **given)


def roles(selection):
    return next(m.values for m in selection.diagnostics.maps if m.name == "role").tolist()


# ------------------------------------------------------------------------------------------------- on paper

# 3 rows of 4: the object is at row 1, column 0 (number 4), then number 3; deep attention falls from the end.
MIDDLE = [0.01, 0.02, 0.03, 0.20, 0.30, 0.05, 0.06, 0.07, 0.08, 0.09, 0.04, 0.05]
DEEP = [0.01 * number for number in range(12)]


def test_anchors_buffers_registers():
    selection = select(signals(MIDDLE, DEEP, 3, 4), 6, params(alpha=0.8), generator())
    # round(6 * 0.8 / 5) = 1 anchor: number 4. Above it 0, right of it 5, below it 8; nothing is left of it. The two
    # others are the last ones by deep attention.
    assert roles(selection) == [2, 0, 0, 0, 3, 2, 0, 0, 2, 0, 1, 1]
    assert selection.kept.tolist() == [0, 4, 5, 8, 10, 11]
    assert selection.diagnostics.facts == {"anchors": 1, "buffers": 3, "registers": 2, "non_finite": 0}
    assert selection.diagnostics.charts[0].marked == selection.kept.tolist()


def test_the_official_code_goes_around_the_edge():
    selection = select(signals(MIDDLE, DEEP, 3, 4), 6, params(alpha=0.8, buffers="official"), generator())
    assert roles(selection) == [2, 0, 0, 2, 3, 2, 0, 0, 2, 0, 0, 1]  # number 3 is "left" of number 4
    # Of the very last patch below and right are itself, as numbers are cut off at the end.
    last = torch.tensor(MIDDLE).roll(7)
    selection = select(signals(last, DEEP, 3, 4), 5, params(alpha=1.0, buffers="official"), generator())
    assert roles(selection) == [0, 0, 0, 0, 0, 0, 0, 2, 1, 1, 2, 3]


@pytest.mark.parametrize(("keep", "alpha", "anchors"), [(64, 0.1, 1), (128, 0.1, 3), (192, 0.1, 4), (25, 0.1, 0)])
def test_how_many_are_anchors(keep, alpha, anchors):
    values = torch.rand(256, generator=generator(1))
    selection = select(signals(values, values.flip(0), 16, 16), keep, params(alpha=alpha), generator())
    assert selection.diagnostics.facts["anchors"] == anchors
    assert len(selection.kept) == keep


def test_where_buffers_do_not_fit_those_that_attention_likes_most_stay():
    # round(3 * 1.0 / 5) = 1 anchor and room for two of its neighbours 0, 5, 8: 8 has 0.08, 5 has 0.05.
    selection = select(signals(MIDDLE, DEEP, 3, 4), 3, params(alpha=1.0), generator())
    assert roles(selection) == [0, 0, 0, 0, 3, 2, 0, 0, 2, 0, 0, 0]


def test_one_view_has_no_neighbours_in_another():
    view = torch.tensor([0] * 4 + [1] * 4)
    cell = torch.tensor([(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 3), (1, 2), (1, 3)])  # two crops side by side
    middle = torch.tensor([0.0, 0.9, 0, 0, 0, 0, 0, 0.9])
    found = select(signals(middle, middle, 1, 8, cell=cell, view=view), 6, params(alpha=1.0), generator())
    assert roles(found) == [2, 3, 0, 2, 0, 2, 2, 3]


def test_without_a_grid_there_are_no_buffers():
    found = select(signals(MIDDLE, DEEP, 3, 4, cell=None), 5, params(alpha=1.0), generator())
    assert found.kept.tolist() == [4, 8, 9, 10, 11] and found.diagnostics.warnings == (NO_GRID,)


def test_what_is_not_finite_is_no_neighbour_and_no_anchor():
    middle = torch.tensor([0.1, NAN, 0.1, 0.5, NAN, 0.2])
    found = select(signals(middle, middle, 2, 3), 3, params(alpha=1.0), generator())
    assert roles(found) == pytest.approx([2, NAN, 0, 3, NAN, 1], nan_ok=True)


def test_the_stage():
    stages = get("hiprune").schedule(Budget(64), PlanningInfo(576, 32), params()).stages
    needs = (OBJECT_ATTENTION, DEEP_ATTENTION)
    assert [(s.site, s.keep, s.needs, s.positions) for s in stages] == [("projector", 64, needs, "reindex")]
    qwen = PlanningInfo(576, 28, "qwen2_vl", has_cls=False, merges_patches=True, renumbers=False, published_as="qwen")
    stages = get("hiprune").schedule(Budget(64), qwen, params()).stages
    assert [(s.site, s.needs, s.positions) for s in stages] == [("projector", needs, "keep")]


# ------------------------------------------------------------------------------------------------- brute force


def slow(middle, deep, rows, cols, keep, alpha, wrapped):
    """Roles by number, from lists."""
    n = rows * cols
    ranked = sorted(range(n), key=lambda i: (-float(middle[i]), i))
    anchors = set(ranked[: min(keep, round(keep * alpha / 5))])
    near = set()
    for i in anchors:
        row, col = divmod(i, cols)
        if wrapped:
            near |= {min(max(j, 0), n - 1) for j in (i - 1, i + 1, i - cols, i + cols)}
        else:
            steps = ((row, col - 1), (row, col + 1), (row - 1, col), (row + 1, col))
            near |= {r * cols + c for r, c in steps if 0 <= r < rows and 0 <= c < cols}
    buffers = [i for i in ranked if i in near - anchors][: keep - len(anchors)]
    found = {**dict.fromkeys(range(n), 0), **dict.fromkeys(anchors, 3), **dict.fromkeys(buffers, 2)}
    for i in sorted(range(n), key=lambda i: (-float(deep[i]), i)):
        if not found[i] and sum(role > 0 for role in found.values()) < keep:
            found[i] = 1
    return [found[i] for i in range(n)]


def test_against_a_slow_reference():
    for seed in range(80):
        rows, cols = 1 + seed % 6, 2 + seed % 7
        n = rows * cols
        middle, deep = (
            torch.randint(8 if seed % 2 else 999, (n,), generator=generator(seed + k)) / n for k in (0, 500)
        )
        keep, alpha = 1 + seed % (n - 1), (0.1, 0.5, 1.0)[seed % 3]
        for wrapped, name in ((False, "image"), (True, "official")):
            given = signals(middle, deep, rows, cols)
            found = select(given, keep, params(alpha=alpha, buffers=name), generator())
            assert roles(found) == slow(middle, deep, rows, cols, keep, alpha, wrapped)
            assert len(found.kept) == keep
