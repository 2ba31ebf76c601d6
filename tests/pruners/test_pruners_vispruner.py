"""VisPruner on examples that can be checked on paper, and against a slow list-by-list reference."""

import itertools
import math

import pytest
import torch

from tokviz.pruners import get
from tokviz.pruners.vispruner import remove_duplicates, select
from tokviz.types import CLS_ATTENTION, Budget, PlanningInfo, Signals

NAN = math.nan


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def params(**given):
    return get("vispruner").complete(given)


def values(selection, name):
    return next(token_map.values for token_map in selection.diagnostics.maps if token_map.name == name).tolist()


def directions(*degrees):
    angles = torch.tensor([float(d) for d in degrees]).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], 1)


# ------------------------------------------------------------------------------------------------- on paper

# In order of attention: 3, 1, 0, 2, 4, 5. Directions of rows 0..5.
SIX = directions(0, 90, 10, 45, 70, 200)
ATTENTION = torch.tensor([0.20, 0.25, 0.15, 0.30, 0.08, 0.02])


def test_half_by_attention_and_half_distinct():
    selection = select(Signals(SIX, cls_attention=ATTENTION), 4, params(), generator())
    # Important: 3, 1. The rest by attention: 0, 2, 4, 5 at 0, 10, 70, 200 degrees; even places 0 and 4, odd 2 and 5.
    # Token 0 is 10 degrees from token 2, token 4 is 60 from it; two have to go: both even ones.
    assert selection.kept.tolist() == [1, 2, 3, 5]
    assert values(selection, "group") == [0, 2, 1, 2, 0, 1]
    assert values(selection, "removed_in") == pytest.approx([1, NAN, NAN, NAN, 1, NAN], nan_ok=True)
    assert list(selection.diagnostics.charts[0].y) == pytest.approx([0.5])
    assert selection.diagnostics.facts == {"important": 2, "distinct": 2, "non_finite": 0}
    five = select(Signals(SIX, cls_attention=ATTENTION), 5, params(important_share=0.4), generator())
    assert five.kept.tolist() == [1, 2, 3, 4, 5]  # only the nearer duplicate, token 0, goes


def test_the_surviving_even_tokens_are_listed_most_similar_first():
    # Places 0..5 at 0, 100, 30, 200, 75, 300 degrees; even: 0, 30, 75, odd: 100, 200, 300. Nearest odd 60, 70, 25 away.
    # Down to 5: 75 goes. The list is then 0 (60 away), 30 (70 away), and the odd ones.
    x = directions(0, 100, 30, 200, 75, 300)
    assert remove_duplicates(x, 5).left.tolist() == [0, 2, 1, 3, 5]
    # With 30 and 75 swapped for 60 and 45: nearest odd 60, 40, 55 away. 60 goes, and 45 is listed before 0.
    assert remove_duplicates(directions(0, 100, 60, 200, 45, 300), 5).left.tolist() == [4, 0, 1, 3, 5]


def test_rounds_remove_eight_and_then_what_is_left_to_remove():
    x = torch.randn(40, 6, generator=generator(1))
    thinned = remove_duplicates(x, 21)
    rounds = thinned.removed_in.bincount().tolist()
    assert rounds == [21, 8, 8, 3]
    assert len(thinned.similarity) == 3


def test_a_list_of_odd_length_has_one_even_token_more():
    # 0, 50, 100: the even ones are 50 from the odd one. Both are equally near: the first goes, and then 50 or 100.
    thinned = remove_duplicates(directions(0, 50, 100), 2)
    assert thinned.left.tolist() in ([2, 1], [0, 1])  # equal up to rounding
    assert remove_duplicates(directions(0, 50, 100), 1).left.tolist() == [1]
    assert remove_duplicates(directions(0, 50, 90), 2).left.tolist() == [0, 1]


def test_ties_go_to_what_is_listed_first():
    x = torch.eye(2)[[0, 0, 0, 1, 0, 0]]  # even: three times east; odd: east, north, east
    assert remove_duplicates(x, 5).left.tolist() == [2, 4, 1, 3, 5]


@pytest.mark.parametrize(("keep", "share", "important"), [(1, 0.5, 0), (3, 0.5, 1), (5, 1.0, 5), (5, 0.0, 0)])
def test_the_important_share_is_rounded_down(keep, share, important):
    selection = select(Signals(SIX, cls_attention=ATTENTION), keep, params(important_share=share), generator())
    assert selection.diagnostics.facts["important"] == important
    assert len(selection.kept) == keep


def test_every_view_by_itself():
    x, attention = torch.cat([SIX, SIX]), torch.cat([ATTENTION, ATTENTION])
    view = torch.tensor([0] * 6 + [1] * 6)
    selection = select(Signals(x, cls_attention=attention, view=view), 8, params(), generator())
    assert selection.kept.tolist() == [1, 2, 3, 5, 7, 8, 9, 11]
    assert len(selection.diagnostics.charts) == 2


def test_the_stage():
    stages = get("vispruner").schedule(Budget(64), PlanningInfo(576, 32), params()).stages
    assert [(s.site, s.keep, s.needs, s.positions) for s in stages] == [("encoder", 64, (CLS_ATTENTION,), "reindex")]


# ------------------------------------------------------------------------------------------------- brute force


def cosine(a, b):
    length = math.sqrt(float(a @ a)) * math.sqrt(float(b @ b))
    return float(a @ b) / length if length else 0.0


def slow(x, attention, keep, share):
    """Kept rows, and the round in which each other one went. Lists of single rows, one cosine at a time, float64."""
    x = x.double()
    ranked = sorted(range(len(x)), key=lambda i: (-float(attention[i]), i))
    n_important = int(keep * share)
    residual, gone, turn, margin = ranked[n_important:], {}, 0, 1.0
    while keep > n_important and len(residual) > keep - n_important:
        turn += 1
        even, odd = residual[0::2], residual[1::2]
        likeness = {i: max(cosine(x[i], x[j]) for j in odd) for i in even}
        even.sort(key=lambda i: -likeness[i])  # stable: the list's order among equals
        remove = min(8, len(residual) - (keep - n_important), len(even))
        gaps = [likeness[a] - likeness[b] for a, b in itertools.pairwise(even)]
        margin = min([margin, *gaps])
        gone.update(dict.fromkeys(even[:remove], turn))
        residual = even[remove:] + odd
    kept = ranked[:n_important] + (residual if keep > n_important else [])
    return sorted(kept), gone, margin


@pytest.mark.parametrize("kind", ["gaussian", "zero rows", "nan", "equal attention"])
def test_against_brute_force(kind):
    compared = 0
    for seed in range(100):
        g = generator(seed)
        n, width = 3 + seed % 40, 3 + seed % 5
        x, attention = torch.randn(n, width, generator=g), torch.rand(n, generator=g)
        if kind == "zero rows":
            x[torch.rand(n, generator=g) < 0.2] = 0.0
        if kind == "nan":
            x[torch.rand(n, generator=g) < 0.2, 0] = NAN
            attention[torch.rand(n, generator=g) < 0.1] = NAN
        if kind == "equal attention":
            attention = torch.full((n,), 1 / n)
        rows = [i for i in range(n) if x[i].isfinite().all() and attention[i].isfinite()]
        keep, share = 1 + seed % (n - 1), (0.5, 0.25, 0.0)[seed % 3]
        selection = select(Signals(x, cls_attention=attention), keep, params(important_share=share), generator())
        assert len(selection.kept) == keep
        if len(rows) <= keep:
            assert set(rows) <= set(selection.kept.tolist())
            continue
        kept, gone, margin = slow(x[rows], attention[rows], keep, share)
        if 0 < margin < 1e-6:
            continue  # rounding decides; exact ties (margin 0: zero rows) are compared
        compared += 1
        assert selection.kept.tolist() == [rows[i] for i in kept]
        removed = values(selection, "removed_in")
        assert {i: removed[i] for i in range(n) if removed[i] == removed[i]} == {rows[i]: t for i, t in gone.items()}
    assert compared > 40


@pytest.mark.parametrize(("n", "count"), [(130, 11), (300, 40), (301, 64), (300, 250), (558, 96)])
def test_long_lists_full_of_ties(n, count):
    """Signs in 16 dimensions: every cosine is a multiple of 1/8 and exact, so that the order of the list decides."""
    x = torch.randn(n, 16, generator=generator(n)).sign()
    likeness = (x @ x.T / 16).tolist()
    rows, gone, turn = list(range(n)), [0] * n, 0
    while len(rows) > count:
        turn += 1
        even, odd = rows[::2], rows[1::2]
        even.sort(key=lambda i: -max(likeness[i][j] for j in odd))
        remove = min(8, len(rows) - count, len(even))
        for row in even[:remove]:
            gone[row] = turn
        rows = even[remove:] + odd
    thinned = remove_duplicates(x, count)
    assert thinned.left.tolist() == rows
    assert thinned.removed_in.tolist() == gone
