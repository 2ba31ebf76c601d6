"""HoloV on examples that can be checked on paper, and against a slow strip-by-strip reference."""

import math

import pytest
import torch

from tokviz.pruners import get
from tokviz.pruners.holov import allocate, holistic_scores, select, strip_sizes
from tokviz.types import CLS_ATTENTION, Budget, PlanningInfo, Signals

NAN = math.nan


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def params(**given):
    return get("holov").complete(given)


def values(selection, name):
    return next(token_map.values for token_map in selection.diagnostics.maps if token_map.name == name).tolist()


# ------------------------------------------------------------------------------------------------- on paper

# Two strips of three. All directions at right angles, so that every cosine and with it every variance is 0.
SIX = torch.eye(6)
ATTENTION = torch.tensor([0.1, 0.3, 0.2, 0.05, 0.3, 0.05])


def test_strips_share_by_mean_score_and_attention_picks():
    selection = select(Signals(SIX, cls_attention=ATTENTION), 3, params(strips=2), generator())
    # Means 200 and 133: weights 0.6 and 0.4, so 1.8 and 1.2 tokens: 1 and 1, and the third to the first strip.
    assert values(selection, "holistic") == pytest.approx([100, 300, 200, 50, 300, 50])
    assert values(selection, "strip_weight") == pytest.approx([0.6] * 3 + [0.4] * 3)
    assert values(selection, "strip") == [0, 0, 0, 1, 1, 1]
    assert selection.kept.tolist() == [1, 2, 4]
    assert selection.sequence is None
    assert selection.extra is None
    assert selection.diagnostics.facts == {
        "strips": 2,
        "given": [2, 1],
        "taken": [2, 1],
        "zero_tokens": 0,
        "non_finite": 0,
    }
    assert (list(selection.diagnostics.charts[0].y), list(selection.diagnostics.charts[0].marked)) == ([2, 1], [])


def test_the_official_order_is_by_attention_within_each_strip():
    attention = torch.tensor([0.1, 0.2, 0.3, 0.05, 0.3, 0.05])
    selection = select(Signals(SIX, cls_attention=attention), 3, params(strips=2, order="attention"), generator())
    assert selection.kept.tolist() == [1, 2, 4]
    assert selection.kept[selection.sequence].tolist() == [2, 1, 4]


LOUD = torch.tensor([0.3, 0.3, 0.3, 0.01, 0.02, 0.03])


def test_a_surplus_goes_to_the_next_strip_or_is_lost_to_zeros():
    signals = Signals(SIX, cls_attention=LOUD)
    # Weights 0.94 and 0.06: 4 and 0 of 5, the fifth to the first strip as well: 5, and it has 3.
    kept = select(signals, 5, params(strips=2), generator())
    assert kept.diagnostics.facts["given"] == [5, 0]
    assert kept.diagnostics.facts["taken"] == [3, 2]
    assert kept.kept.tolist() == [0, 1, 2, 4, 5]
    assert list(kept.diagnostics.charts[0].marked) == [0]
    official = select(signals, 5, params(strips=2, surplus="zeros", order="attention"), generator())
    assert official.kept.tolist() == [0, 1, 2]
    assert official.extra.tolist() == [[0.0] * 6] * 2
    assert official.sequence.tolist() == [0, 1, 2, 3, 4]
    assert official.diagnostics.facts["zero_tokens"] == 2


def test_a_strip_that_stays_whole_stays_in_raster_order():
    attention = torch.tensor([0.1, 0.2, 0.3, 0.05, 0.3, 0.05])
    selection = select(Signals(SIX, cls_attention=attention), 5, params(strips=2, order="attention"), generator())
    assert selection.diagnostics.facts["taken"] == [3, 2]
    assert selection.kept[selection.sequence].tolist() == [0, 1, 2, 4, 3]


def test_a_surplus_goes_down_the_strips_by_weight_round_after_round():
    # Weights 0.5, 0.2, 0.3 of 10: 5, 2, 3; sizes 1, 4, 8. Four over: strip 2 (0.3), strip 1 (0.2), strip 2, strip 1.
    scores = torch.tensor([5.0, 2.0, 3.0])
    assert allocate(scores, [1, 4, 8], 10, redistribute=True)[1:] == ([5, 2, 3], [1, 4, 5])
    assert allocate(scores, [1, 4, 8], 10, redistribute=False)[1:] == ([5, 2, 3], [1, 2, 3])


def test_variety_counts_within_the_strip():
    # Cosines: row 0 and 1 are alike (1), row 2 is at right angles to both. Zeroed diagonal, n - 1 = 2.
    x = torch.tensor([[1.0, 0], [2, 0], [0, 5]])
    # Means 0.5, 0.5, 0. Variances: ((0 - .5)^2 + (1 - .5)^2 + (0 - .5)^2) / 2 = 0.375 twice, and 0. Mean 0.25.
    # Attention 0.1, 0.2, 0.3: mean 200. Scale 200 / 0.25 = 800: 0.09 * 0.375 * 800 = 27.
    found = holistic_scores(x, torch.tensor([0.1, 0.2, 0.3])).tolist()
    assert found == pytest.approx([127, 227, 300], rel=1e-4)


def test_a_strip_of_one_token_is_not_scaled():
    assert holistic_scores(torch.ones(1, 2), torch.tensor([0.25])).tolist() == [0.25]


@pytest.mark.parametrize(
    ("n", "count", "sizes"), [(576, 16, [36] * 16), (18, 4, [5, 5, 4, 4]), (3, 16, [1, 1, 1]), (144, 16, [9] * 16)]
)
def test_strips_are_cut_as_equal_as_can_be(n, count, sizes):
    assert strip_sizes(n, count) == sizes


def test_no_attention_at_all_still_fills_the_budget():
    signals = Signals(torch.zeros(6, 2), cls_attention=torch.zeros(6))
    # All weights are 0: one token for each strip, and the rest is surplus.
    assert select(signals, 5, params(strips=2), generator()).kept.tolist() == [0, 1, 2, 3, 4]
    assert len(select(signals, 5, params(strips=2, surplus="zeros"), generator()).extra) == 3


def test_strips_run_over_patches_only_and_over_all_views():
    x = torch.cat([SIX[:3], torch.full((1, 6), 9.0), SIX[3:]])
    attention = torch.cat([ATTENTION[:3], torch.tensor([NAN]), ATTENTION[3:]])
    candidates = torch.tensor([True] * 3 + [False] + [True] * 3)
    signals = Signals(x, cls_attention=attention, candidates=candidates, view=torch.tensor([0] * 3 + [1] * 4))
    selection = select(signals, 3, params(strips=2), generator())
    assert selection.kept.tolist() == [1, 2, 5]
    assert selection.diagnostics.facts["non_finite"] == 0


def test_the_stage():
    stages = get("holov").schedule(Budget(64), PlanningInfo(576, 32), params()).stages
    assert [(s.site, s.keep, s.needs, s.positions) for s in stages] == [("projector", 64, (CLS_ATTENTION,), "reindex")]


# ------------------------------------------------------------------------------------------------- brute force


def slow(x, attention, keep, count):
    """Kept tokens in official order, and what each strip was given. Single rows and float64; cosines one by one."""
    x, attention = x.double(), attention.double().tolist()
    n = len(x)
    length = n // count
    strips, at = [], 0
    for strip in range(count):
        end = at + length + (1 if strip < n % count else 0)
        if end > at:
            strips.append(list(range(at, end)))
        at = end
    means = []
    for strip in strips:
        m = len(strip)
        if m == 1:
            means.append(attention[strip[0]])
            continue
        unit = [x[i] / (x[i].norm() + 1e-6) for i in strip]
        s = [[float(a @ b) if a is not b else 0.0 for b in unit] for a in unit]
        mu = [sum(row) / (m - 1) for row in s]
        var = [sum((v - mu[i]) ** 2 for v in s[i]) / (m - 1) for i in range(m)]
        loud = [1e3 * attention[i] for i in strip]
        scale = (sum(loud) / m) / (sum(var) / m + 1e-6)
        means.append(sum(a + 0.09 * v * scale for a, v in zip(loud, var, strict=True)) / m)
    weights = [m / (sum(means) + 1e-6) for m in means]
    given = [math.floor(w * keep) for w in weights]
    margin = min(abs(w * keep - round(w * keep)) for w in weights)
    for strip in sorted(range(len(strips)), key=lambda i: (-weights[i], i))[: keep - sum(given)]:
        given[strip] += 1
    kept = []
    for strip, more in zip(strips, given, strict=True):
        ranked = sorted(strip, key=lambda i: (-attention[i], i))
        kept += strip if more >= len(strip) else ranked[:more]
    return kept, given, margin


@pytest.mark.parametrize("kind", ["gaussian", "zero rows", "duplicates", "nan", "constant"])
def test_against_brute_force(kind):
    compared = 0
    for seed in range(80):
        g = generator(seed)
        n, width, count = 2 + seed % 37, 2 + seed % 5, (16, 4, 3)[seed % 3]
        x, attention = torch.randn(n, width, generator=g), torch.rand(n, generator=g).pow(3)
        attention = attention / attention.sum() * 0.9
        if kind == "zero rows":
            x[torch.rand(n, generator=g) < 0.3] = 0.0
        if kind == "duplicates":
            x = x[torch.randint(max(1, n // 3), (n,), generator=g)]
        if kind == "nan":
            x[torch.rand(n, generator=g) < 0.2, 0] = NAN
            attention[torch.rand(n, generator=g) < 0.1] = NAN
        if kind == "constant":
            x = torch.ones(n, width)
        rows = [i for i in range(n) if x[i].isfinite().all() and attention[i].isfinite()]
        keep = 1 + seed % (n - 1)
        signals = Signals(x, cls_attention=attention)
        full = select(signals, keep, params(strips=count), generator())
        assert len(full.kept) == keep
        assert set(full.kept.tolist()) <= set(rows) or set(rows) <= set(full.kept.tolist())
        official = select(signals, keep, params(strips=count, surplus="zeros", order="attention"), generator())
        if len(rows) < keep:
            assert torch.equal(official.kept, full.kept)
            continue
        kept, given, margin = slow(x[rows], attention[rows], keep, count)
        if margin < 1e-5:
            continue  # the share is a whole number up to rounding
        compared += 1
        assert official.diagnostics.facts["given"] == given
        assert official.kept[official.sequence[: len(kept)]].tolist() == [rows[i] for i in kept]
        assert (0 if official.extra is None else len(official.extra)) == keep - len(kept)
        assert set(official.kept.tolist()) <= set(full.kept.tolist())
    assert compared > 30
