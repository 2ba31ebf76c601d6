"""AdaptVTP on an example that can be checked on paper, and against brute force."""

import math
from dataclasses import replace

import pytest
import torch

from tokviz.pruners import get, pairs
from tokviz.pruners.adaptvtp import alignment, correlation, select
from tokviz.pruners.sampling import greedy_max_sum
from tokviz.types import QUESTION_FEATURES, TEXT_FEATURES, Budget, PlanningInfo, Signals

NAN = math.nan

# Text at the origin: alpha is minus the length. The longest token (row 2) of five is filtered out.
# Cosines of the rest (0, 1, 3, 4): directions east, east, north, west.
FIVE = torch.tensor([[1.0, 0], [2, 0], [0, 9], [0, 4], [-3, 0]])
ORIGIN = torch.zeros(1, 2)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def params(**given):
    return get("adaptvtp").complete(given)


def values(selection, name):
    return next(token_map.values for token_map in selection.diagnostics.maps if token_map.name == name).tolist()


# ------------------------------------------------------------------------------------------------- on paper


def test_the_longest_fifth_goes_and_the_rest_is_spread_out():
    selection = select(Signals(FIVE, question_features=ORIGIN), 2, params(), generator())
    assert values(selection, "alignment") == pytest.approx([-1, -2, -9, -4, -3])
    assert values(selection, "filtered") == [0, 0, 1, 0, 0]
    # Mean cosines with east, east, north, west: (1 + 1 + 0 - 1) / 4 twice, 1 / 4, (-1 - 1 + 0 + 1) / 4: west first.
    # Then sigma = -1, -1, 0: east, the lower index.
    assert selection.order.tolist() == [1, -1, -1, -1, 0]
    assert selection.kept.tolist() == [0, 4]
    # The seed shows its distance to all; token 0 its distance to the seed; 1 and 3 their mean distance to both.
    assert selection.diagnostics.score.values.tolist() == pytest.approx([2, 1, NAN, 1, 1.25], nan_ok=True)
    assert selection.diagnostics.facts["survivors"] == 4
    assert selection.diagnostics.facts["first_pick"] == 4
    assert selection.diagnostics.facts["correlation_with_length"] == pytest.approx(1.0)
    assert selection.diagnostics.readings[0].value == pytest.approx(1.0)
    sigma, scatter = selection.diagnostics.charts
    assert (list(sigma.x), list(sigma.y)) == ([2], pytest.approx([-1.0]))
    assert list(scatter.x) == pytest.approx([1, 2, 9, 4, 3])
    assert list(scatter.y) == pytest.approx([-1, -2, -9, -4, -3])
    assert list(scatter.tokens) == [0, 1, 2, 3, 4]
    assert list(scatter.marked) == [0, 1, 3, 4]
    assert scatter.line == pytest.approx(-4)


def test_sigma_is_a_sum_over_all_picks_and_not_the_nearest_one():
    # Directions in degrees. Mean cosines: 180 is lowest; then 30, the lower index; then sigma is -0.87 + 1 = 0.13 for
    # its duplicate and 0 + 0.5 at 90. Max-min would take 90.
    angles = torch.tensor([180.0, 30, 30, 90]).deg2rad()
    assert greedy_max_sum(torch.stack([angles.cos(), angles.sin()], 1), 3).picks.tolist() == [0, 1, 2]


def test_without_the_filter_all_tokens_take_part():
    selection = select(Signals(FIVE, question_features=ORIGIN), 2, params(filter=False), generator())
    # Mean cosines with east, east, north, north, west: 1/5, 1/5, 2/5, 2/5, -1/5.
    assert selection.kept.tolist() == [0, 4]
    assert values(selection, "filtered") == [0, 0, 0, 0, 0]
    assert selection.diagnostics.facts["survivors"] == 5
    assert selection.diagnostics.charts[1].line is None


def test_a_budget_above_the_filter_raises_it():
    selection = select(Signals(FIVE, question_features=ORIGIN), 4, params(survivors=0.4), generator())
    assert selection.kept.tolist() == [0, 1, 3, 4]


@pytest.mark.parametrize(("n", "share", "survivors"), [(145, 0.8, 116), (100, 0.29, 29), (576, 0.8, 460), (9, 0.8, 7)])
def test_the_share_is_rounded_down_and_not_below(n, share, survivors):
    x = torch.randn(n, 4, generator=generator(1))
    selection = select(Signals(x, question_features=x[:2]), 1, params(survivors=share), generator())
    assert selection.diagnostics.facts["survivors"] == survivors


def test_unit_lengths_compare_directions():
    text = torch.tensor([[5.0, 0]])
    selection = select(Signals(FIVE, question_features=text), 2, params(normalize=True), generator())
    assert values(selection, "alignment") == pytest.approx([0, 0, -math.sqrt(2), -math.sqrt(2), -2])


def test_the_text_that_was_asked_for_is_compared_with():
    far = torch.tensor([[0.0, 9]])
    signals = Signals(FIVE, question_features=far, text_features=ORIGIN)
    assert values(select(signals, 2, params(), generator()), "filtered") == [0, 0, 0, 0, 1]
    assert values(select(signals, 2, params(text="all_text"), generator()), "filtered") == [0, 0, 1, 0, 0]
    for text, need in (("question", QUESTION_FEATURES), ("all_text", TEXT_FEATURES)):
        stages = get("adaptvtp").schedule(Budget(9), PlanningInfo(144, 8), params(text=text)).stages
        assert [(stage.site, stage.keep, stage.needs, stage.positions) for stage in stages] == [
            ("projector", 9, (need,), "reindex")
        ]


@pytest.mark.parametrize("text", [torch.zeros(0, 2), torch.full((3, 2), NAN)])
def test_without_text_nothing_is_filtered(text):
    selection = select(Signals(FIVE, question_features=text), 2, params(), generator())
    assert selection.kept.tolist() == [0, 4]
    assert selection.diagnostics.facts["survivors"] == 5
    assert "no text token" in selection.diagnostics.warnings[0]


def test_a_text_row_that_is_not_finite_is_left_out():
    text = torch.cat([ORIGIN, torch.full((1, 2), NAN)])
    selection = select(Signals(FIVE, question_features=text), 2, params(), generator())
    assert values(selection, "alignment") == pytest.approx([-1, -2, -9, -4, -3])
    assert selection.diagnostics.facts["text_tokens"] == 1


def test_tokens_of_one_length_have_no_correlation_with_it():
    x = torch.nn.functional.normalize(torch.randn(8, 3, generator=generator(4)), dim=1)
    selection = select(Signals(torch.ones(8, 3), question_features=x[:2]), 3, params(), generator())
    assert selection.kept.tolist() == [0, 1, 2]
    assert selection.diagnostics.readings == ()
    assert "correlation_with_length" not in selection.diagnostics.facts
    assert correlation(torch.tensor([1.0, 2, 3]), torch.tensor([3.0, 2, 1])) == pytest.approx(-1)


# ------------------------------------------------------------------------------------------------- brute force


def cosine(a, b):
    length = math.sqrt(float(a @ a)) * math.sqrt(float(b @ b))
    return float(a @ b) / length if length else 0.0


def slow_alignment(x, text):
    return [-sum(math.dist(row, word) for word in text.tolist()) / len(text) for row in x.tolist()]


def assert_greedy(x, picks, tolerance=1e-5):
    """Every pick is, in float64 and up to rounding, the least similar to those before it (the first: to all rows)."""
    for step, pick in enumerate(picks):
        others = picks[:step] if step else range(len(x))
        cost = {
            i: sum(cosine(x[i], x[j]) for j in others) / len(others) for i in range(len(x)) if i not in picks[:step]
        }
        assert pick not in picks[:step]
        assert cost[pick] <= min(cost.values()) + tolerance


CONTENTS = ("gaussian", "duplicates", "zero rows", "constant", "nan")


def content(kind, n, width, g):
    x = torch.randn(n, width, generator=g)
    if kind == "duplicates":
        x = x[torch.randint(max(1, n // 3), (n,), generator=g)]
    if kind == "zero rows":
        x[torch.rand(n, generator=g) < 0.4] = 0.0
    if kind == "constant":
        x = torch.full((n, width), 2.0)
    if kind == "nan":
        x[torch.rand(n, generator=g) < 0.3, 0] = NAN
    return x


@pytest.mark.parametrize("kind", CONTENTS)
def test_against_brute_force(kind):
    for seed in range(60):
        g = generator(seed)
        n, width = 3 + seed % 14, 2 + seed % 5
        x, text = content(kind, n, width, g) * (1 + seed % 3), torch.randn(1 + seed % 4, width, generator=g)
        keep = 1 + seed % (n - 1)
        selection = select(Signals(x, question_features=text), keep, params(), generator())
        rows = [i for i in range(n) if x[i].isfinite().all()]
        if not rows:
            continue
        exact = x.double()
        alpha = dict(zip(rows, slow_alignment(exact[rows], text.double()), strict=True))
        found = torch.tensor(values(selection, "alignment"))
        assert torch.allclose(found[rows].double(), torch.tensor([alpha[i] for i in rows]).double(), atol=1e-5)
        alive = [i for i in rows if not values(selection, "filtered")[i]]
        wanted = min(max(math.floor(0.8 * n), keep), len(rows))
        assert len(alive) == wanted == selection.diagnostics.facts["survivors"]
        assert all(alpha[i] >= alpha[j] - 1e-5 for i in alive for j in rows if j not in alive)
        order = selection.order.tolist()
        picks = [order.index(step) for step in range(max(order) + 1)]
        assert len(picks) == min(keep, len(alive))
        assert set(picks) <= set(selection.kept.tolist())
        assert_greedy(exact[alive], [alive.index(pick) for pick in picks])
        for step, pick in enumerate(picks):
            others = picks[:step] if step else alive
            mean = sum(1 - cosine(exact[pick], exact[other]) for other in others) / len(others)
            assert selection.diagnostics.score.values[pick].item() == pytest.approx(mean, abs=1e-4)


def test_ties_go_to_the_lowest_index():
    # Two tokens at right angles, each three times: every cosine is exactly 0 or 1.
    x = torch.eye(2).repeat(3, 1)
    selection = select(Signals(x, question_features=torch.zeros(1, 2)), 4, params(), generator())
    # All alphas tie: the last two of six go (N1 = 4). Then rows 0, 1 and, at equal means, 2 and 3.
    assert values(selection, "filtered") == [0, 0, 0, 0, 1, 1]
    assert selection.order.tolist() == [0, 1, 2, 3, -1, -1]


def test_large_pools_compute_rows_as_they_need_them(monkeypatch):
    x = torch.randn(200, 16, generator=generator(3))
    stored = greedy_max_sum(x, 60)
    monkeypatch.setattr(pairs, "LARGEST_COSINE_MATRIX", 10)
    computed = greedy_max_sum(x, 60)
    assert torch.equal(stored.picks, computed.picks)
    assert torch.allclose(stored.similarity, computed.similarity, atol=1e-5)


def test_distances_do_not_cancel():
    # Tokens of length 10^4 that lie 1e-2 apart: the expansion a^2 - 2ab + b^2 would lose all of it in float32.
    text = torch.full((3, 64), 1250.0)
    x = text[:1] + 0.25 * torch.arange(1, 4).unsqueeze(1) / 8
    expected = [-0.25 * k for k in (1, 2, 3)]
    assert alignment(x, text, normalize=False).tolist() == pytest.approx(expected, rel=1e-4)


def test_half_precision_is_compared_in_float32():
    x = torch.randn(24, 8, generator=generator(2)).to(torch.bfloat16)
    text = torch.randn(3, 8, generator=generator(5)).to(torch.bfloat16)
    half = Signals(x, question_features=text)
    full = replace(half, features=x.float(), question_features=text.float())
    assert torch.equal(select(half, 9, params(), generator()).order, select(full, 9, params(), generator()).order)
