"""SCOPE and greedy coverage on an example that can be checked on paper, and against a slow reference."""

import math

import pytest
import torch

from tokviz.pruners import coverage, get
from tokviz.pruners.coverage import cosine_cover, greedy_coverage, regions, worth_of_all
from tokviz.pruners.ops import unit_rows
from tokviz.pruners.scope import select
from tokviz.types import CLS_ATTENTION, RECEIVED_ATTENTION, Budget, PlanningInfo, Signals

NAN = math.nan


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def params(**given):
    return get("scope").complete(given)


def shown(selection, name):
    return next(m.values for m in selection.diagnostics.maps if m.name == name).tolist()


# ------------------------------------------------------------------------------------------------- on paper

# Three east, one between east and north (cosine 0.6 and 0.8), two north.
SIX = torch.tensor([[2.0, 0], [1, 0], [3, 0], [3, 4], [0, 1], [0, 5]])
EQUAL = torch.full((6,), 0.1)


def test_coverage_alone():
    selection = select(Signals(SIX, cls_attention=EQUAL), 3, params(alpha=0.0), generator())
    # At first a token is worth the sum of its cosines: east 3 + 0.6 = 3.6, between 3 * 0.6 + 1 + 2 * 0.8 = 4.4, north
    # 2 + 0.8. Then east adds 3 * 0.4 = 1.2 and north 2 * 0.2 = 0.4; after east north still adds 0.4.
    assert selection.order.tolist() == [1, -1, -1, 0, 2, -1] and selection.kept.tolist() == [0, 3, 4]
    assert selection.diagnostics.score.values.tolist() == pytest.approx([1.2, 0, 0, 4.4, 0.4, 0], abs=1e-6)
    assert list(selection.diagnostics.charts[0].y) == pytest.approx([4.4, 1.2, 0.4])
    assert selection.assignment is None and selection.features is None, "nothing is merged"
    assert selection.diagnostics.covered_by.tolist() == [0, 0, 0, 3, 4, 4]
    assert shown(selection, "region") == [3, 0, 0, 1, 2, 0]
    assert selection.diagnostics.facts == {
        "mean_coverage": 1.0, "least_coverage": 1.0, "largest_region": 3, "non_finite": 0
    }  # fmt: skip


def test_attention_multiplies_what_is_added():
    attention = torch.tensor([0.1, 0.2, 0.1, 0.1, 0.1, 0.3])
    selection = select(Signals(SIX, cls_attention=attention), 2, params(), generator())
    # 3.6 * 0.2 = 0.72 against 4.4 * 0.1 and 2.8 * 0.3 = 0.84: north, the second of them. It covers token 3 to 0.8: what
    # is left for east is 3 * 0.2 = 0.6, for token 3 (3 * 0.6 + 0.2) * 0.1 = 0.2.
    assert selection.order.tolist() == [-1, 1, -1, -1, -1, 0]
    assert selection.diagnostics.score.values.tolist() == pytest.approx([0, 0.6, 0, 0.02, 0, 0.84], abs=1e-6)
    assert selection.diagnostics.covered_by.tolist() == [1, 1, 1, 5, 5, 5]
    assert shown(selection, "covered") == pytest.approx([1, 1, 1, 0.8, 1, 1])
    # With the square of attention: 3.6 * 0.04 = 0.144 against 2.8 * 0.09 = 0.252.
    squared = select(Signals(SIX, cls_attention=attention), 1, params(alpha=2.0), generator())
    assert squared.diagnostics.score.values[5].item() == pytest.approx(0.252)


def test_what_nothing_covers_belongs_to_no_region():
    features = torch.tensor([[1.0, 0], [-1, 0], [0, 0], [NAN, 0]])
    selection = select(Signals(features, cls_attention=torch.tensor([0.4, 0.3, 0.2, 0.1])), 1, params(), generator())
    assert selection.kept.tolist() == [0]
    assert selection.diagnostics.covered_by.tolist() == [0, -1, -1, -1]
    assert shown(selection, "covered") == pytest.approx([1, 0, 0, NAN], nan_ok=True)
    assert selection.diagnostics.facts["non_finite"] == 1


def test_ties_go_to_the_lowest_index_and_nothing_comes_twice():
    selection = select(Signals(torch.ones(7, 3), cls_attention=torch.full((7,), 0.1)), 4, params(), generator())
    assert selection.kept.tolist() == [0, 1, 2, 3]
    zero = select(Signals(torch.zeros(7, 3), cls_attention=torch.full((7,), 0.1)), 4, params(), generator())
    assert zero.kept.tolist() == [0, 1, 2, 3] and zero.diagnostics.covered_by.tolist() == [0, 1, 2, 3, -1, -1, -1]


def test_every_view_covers_itself():
    two = torch.cat([SIX, SIX])
    view = torch.tensor([0] * 6 + [1] * 6)
    signals = Signals(two, cls_attention=torch.cat([EQUAL, EQUAL]), view=view)
    selection = select(signals, 6, params(alpha=0.0), generator())
    assert selection.kept.tolist() == [0, 3, 4, 6, 9, 10]
    assert selection.diagnostics.covered_by.tolist() == [0, 0, 0, 3, 4, 4, 6, 6, 6, 9, 10, 10]
    assert len(selection.diagnostics.charts) == 2


def test_the_stage():
    stages = get("scope").schedule(Budget(64), PlanningInfo(576, 32), params()).stages
    assert [(s.site, s.keep, s.needs, s.positions) for s in stages] == [("encoder", 64, (CLS_ATTENTION,), "reindex")]
    qwen = PlanningInfo(576, 28, "qwen2_vl", has_cls=False, merges_patches=True, renumbers=False, published_as="qwen")
    stages = get("scope").schedule(Budget(64), qwen, params()).stages
    assert [(s.site, s.needs, s.positions) for s in stages] == [("projector", (RECEIVED_ATTENTION,), "keep")]


# ------------------------------------------------------------------------------------------------- brute force


def slow(x, attention, count, alpha):
    """Picks, what each added, and how near the runner-up was; every sum anew, one number at a time, float64."""
    rows = [row.tolist() for row in x.double()]

    def cosine(a, b):
        length = math.hypot(*a) * math.hypot(*b)
        return sum(p * q for p, q in zip(a, b, strict=True)) / length if length else 0.0

    likeness = [[cosine(a, b) for b in rows] for a in rows]
    picks, gains, margin = [], [], math.inf
    for _ in range(count):
        covered = [max([0.0, *(likeness[i][j] for j in picks)]) for i in range(len(rows))]
        worth = {
            j: float(attention[j]) ** alpha * sum(max(0.0, likeness[i][j] - covered[i]) for i in range(len(rows)))
            for j in range(len(rows))
            if j not in picks
        }
        best = min(worth, key=lambda j: (-worth[j], j))
        margin = min(margin, *(worth[best] - worth[j] for j in worth if j != best), math.inf)
        picks.append(best)
        gains.append(worth[best])
    owner = []
    for i in range(len(rows)):
        nearest = max(picks, key=lambda j: likeness[i][j])
        owner.append(i if i in picks else nearest if likeness[i][nearest] > 0 else -1)
    return picks, gains, owner, margin


@pytest.mark.parametrize("clustered", [False, True])
def test_against_a_slow_reference(clustered):
    compared = 0
    for seed in range(60):
        n, count = 5 + seed % 19, 1 + seed % 7
        count = min(count, n - 1)
        x = torch.randn(n, 8, generator=generator(seed))
        if clustered:
            x = torch.randn(3, 8, generator=generator(seed))[torch.arange(n) % 3] + 0.3 * x
        attention = torch.rand(n, generator=generator(100 + seed)) / n
        alpha = (1.0, 0.0, 2.0)[seed % 3]
        picks, gains, owner, margin = slow(x, attention, count, alpha)
        if margin < 1e-6:
            continue
        compared += 1
        selection = select(Signals(x, cls_attention=attention), count, params(alpha=alpha), generator())
        assert [selection.order.tolist().index(step) for step in range(count)] == picks
        assert list(selection.diagnostics.charts[0].y) == pytest.approx(gains, rel=1e-4, abs=1e-6)
        assert selection.diagnostics.covered_by.tolist() == owner
    assert compared >= 40


def plain_greedy(matrix, weights, count):
    """The same loop without shortcuts: everything anew at every step."""
    cover, worth_least, picks = torch.zeros(matrix.shape[1]), torch.zeros(len(matrix)), []
    for _ in range(count):
        worth = (matrix - cover).clamp_min(0).sum(1) * weights + worth_least
        pick = int(worth.argmax())
        picks.append(pick)
        worth_least[pick] = -torch.inf
        cover = torch.maximum(cover, matrix[pick])
    return picks, cover


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 40, 333])
def test_looking_only_at_those_that_may_be_best_changes_no_pick(n):
    for seed in range(6):
        x = torch.randn(n, 6, generator=generator(seed))
        if seed % 2:
            x = x[torch.arange(n) // 3]  # equals, which tie
        weights = torch.rand(n, generator=generator(seed)) if seed % 3 else torch.ones(n)
        unit = unit_rows(x)
        covers = cosine_cover(unit)
        matrix = covers(torch.arange(n))
        count = 1 + (n - 1) * (1 + seed) // 6
        found = greedy_coverage(covers, n, weights, count)
        picks, cover = plain_greedy(matrix, weights, count)
        assert found.picks.tolist() == picks
        assert torch.equal(found.cover, cover)
        left = worth_of_all(covers, found.cover, weights)
        assert torch.allclose(left, (matrix - cover).clamp_min(0).sum(1) * weights)


def test_without_room_for_the_matrix_the_picks_are_the_same(monkeypatch):
    x = torch.randn(50, 12, generator=generator(7))
    unit, weights = unit_rows(x), torch.rand(50, generator=generator(8))
    stored = greedy_coverage(cosine_cover(unit), 50, weights, 20)
    monkeypatch.setattr(coverage, "LARGEST_COSINE_MATRIX", 10)
    computed = greedy_coverage(cosine_cover(unit), 50, weights, 20)
    assert torch.equal(stored.picks, computed.picks)
    assert torch.allclose(stored.gains, computed.gains, rtol=1e-5)
    assert torch.equal(regions(cosine_cover(unit), stored), regions(cosine_cover(unit), computed))
