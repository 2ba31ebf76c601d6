"""Statistics against hand-worked numbers, brute force and properties."""

import math
from fractions import Fraction
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fidelity import statistics as stats

bits = st.lists(st.booleans(), min_size=1, max_size=40)


def test_accuracy_per_family_by_hand():
    right = np.array([[1, 0, 1, 1, 0, 1], [0, 0, 1, 0, 0, 0]], dtype=bool)
    counts = stats.count(right, np.array([7, 7, 7, 9, 9, 9]), np.array([0, 0, 1, 0, 1, 1]), 3)
    assert counts.asked.tolist() == [[2, 1, 0], [1, 2, 0]]
    assert counts.right[0].tolist() == [[1, 1, 0], [1, 1, 0]]
    accuracy = stats.accuracies(counts)
    assert np.allclose(accuracy[:, :2], [[2 / 3, 2 / 3], [0, 1 / 3]])
    assert np.isnan(accuracy[:, 2]).all()


def test_counting_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="do not fit"):
        stats.count(np.ones((1, 3), bool), np.arange(2), np.zeros(3, int), 1)
    with pytest.raises(ValueError, match="no questions"):
        stats.count(np.ones((1, 0), bool), np.arange(0), np.zeros(0, int), 1)


def test_retention_is_percent_of_the_unpruned_accuracy_family_by_family():
    accuracy = np.array([[0.8, 0.5, 0.0], [0.6, 0.25, 0.1]])
    retained = stats.retention(accuracy, 0)
    assert np.allclose(retained[:, :2], [[100, 100], [75, 50]]) and np.isnan(retained[:, 2]).all()
    # The papers' last column: the mean of the ratios, not the ratio of the means (which would be 65.4).
    assert np.allclose(stats.mean_retention(retained, np.array([True, True, False])), [100, 62.5])
    assert np.isnan(stats.mean_retention(retained, np.zeros(3, bool))).all()


def test_resampling_draws_whole_scenes_and_the_same_ones_for_every_variant():
    scene = np.repeat(np.arange(6), 4)
    family = np.tile([0, 0, 1, 1], 6)
    rng = np.random.default_rng(3)
    right = rng.random((2, 24)) < 0.6
    right = np.vstack([right, right[0]])
    counts = stats.count(right, scene, family, 2)
    samples = stats.resampled_accuracies(counts, np.random.default_rng(5), 50)
    drawn = np.random.default_rng(5).multinomial(6, np.full(6, 1 / 6), size=50)
    for b in range(50):
        picked = np.concatenate([np.flatnonzero(scene == s) for s in range(6) for _ in range(drawn[b, s])])
        for v, f in product(range(3), range(2)):
            assert samples[b, v, f] == pytest.approx(right[v, picked[family[picked] == f]].mean())
    assert (samples[:, 0] == samples[:, 2]).all()


def test_interval_approaches_the_exact_distribution_of_all_draws_of_scenes():
    right = np.array([[1, 1, 0, 1, 0, 0, 1, 0]], dtype=bool)
    scene = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    counts = stats.count(right, scene, np.zeros(8, int), 1)
    every = [counts.right[0, list(draw), 0].sum() / 8 for draw in product(range(4), repeat=4)]
    low, high = stats.interval(stats.resampled_accuracies(counts, np.random.default_rng(0), 20000))
    assert (low[0, 0], high[0, 0]) == pytest.approx(np.quantile(every, [0.025, 0.975]), abs=1e-9)


@pytest.mark.generator
def test_intervals_of_dependent_questions_are_wider_than_those_of_independent_ones():
    rng = np.random.default_rng(1)
    scenes = rng.random(100) < 0.5
    right = np.repeat(scenes, 10)[None]  # all ten questions of a scene stand or fall together

    def width(scene):
        counts = stats.count(right, scene, np.zeros(1000, int), 1)
        low, high = stats.interval(stats.resampled_accuracies(counts, np.random.default_rng(2)))
        return float(high[0, 0] - low[0, 0])

    assert width(np.repeat(np.arange(100), 10)) == pytest.approx(math.sqrt(10) * width(np.arange(1000)), rel=0.12)
    assert width(np.repeat(np.arange(100), 10)) == pytest.approx(2 * 1.96 * 0.5 / 10, rel=0.08)


def test_interval_leaves_out_undefined_draws_and_says_nothing_when_most_are():
    samples = np.array([[1.0, np.nan], [2.0, np.nan], [np.nan, np.nan], [3.0, 5.0]])
    low, high = stats.interval(samples, level=0.5)
    assert (low[0], high[0]) == (1.5, 2.5)
    assert np.isnan(low[1]) and np.isnan(high[1])


def test_yes_no_by_hand():
    expected = ["yes", "yes", "yes", "no", "no", "no"]
    answers = ["yes", "Yes.", "no", "yes", "no", "red"]
    figures = stats.yes_no(expected, answers)
    assert figures == stats.YesNo(precision=2 / 3, recall=2 / 3, f1=2 / 3, yes_ratio=0.5, neither=1)


def test_yes_no_without_any_yes_is_undefined_not_zero():
    figures = stats.yes_no(["no"], ["no"])
    assert math.isnan(figures.f1) and math.isnan(figures.precision) and math.isnan(figures.recall)
    assert stats.yes_no(["yes"], ["no"]).f1 == 0
    with pytest.raises(ValueError, match="maybe"):
        stats.yes_no(["maybe"], ["no"])


@pytest.mark.generator
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_f1_is_the_harmonic_mean_of_precision_and_recall(pairs):
    expected = ["yes" if wanted else "no" for wanted, _ in pairs]
    answers = ["yes" if said else "no" for _, said in pairs]
    figures = stats.yes_no(expected, answers)
    if not math.isnan(figures.precision) and not math.isnan(figures.recall) and figures.f1 > 0:
        assert figures.f1 == pytest.approx(2 / (1 / figures.precision + 1 / figures.recall))
    assert figures.yes_ratio == pytest.approx(sum(said for _, said in pairs) / len(pairs))


@pytest.mark.parametrize(("b", "c", "p"), [(0, 0, 1), (5, 5, 1), (1, 0, 1), (0, 6, 2 / 64), (8, 2, 112 / 1024)])
def test_mcnemar_by_hand(b, c, p):
    assert stats.mcnemar(b, c) == p


@given(st.integers(0, 9), st.integers(0, 9))
def test_mcnemar_against_all_ways_that_the_coins_can_fall(b, c):
    n = b + c
    share = Fraction(sum(math.comb(n, k) for k in range(n + 1) if abs(2 * k - n) >= abs(b - c)), 2**n)
    assert stats.mcnemar(b, c) == float(share) == stats.mcnemar(c, b)


def test_mcnemar_of_thousands_neither_overflows_nor_vanishes():
    assert stats.mcnemar(5000, 5000) == 1
    assert 0 < stats.mcnemar(900, 100) < 1e-150


@pytest.mark.generator
@given(bits, st.randoms())
def test_discordant_counts(ours, random):
    ours = np.array(ours)
    theirs = np.array([random.random() < 0.5 for _ in ours])
    b, c = stats.discordant(ours, theirs)
    assert b - c == int(ours.sum()) - int(theirs.sum())
    assert b == sum(x and not y for x, y in zip(ours, theirs, strict=True))


def test_holm_by_hand():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.6, 0.7]) == [1, 1]
    assert stats.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values):
    adjusted = stats.holm(p_values)
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for alpha in (0.01, 0.05, 0.5):
        rejected = set()
        for step, index in enumerate(order):
            if min(1.0, (len(p_values) - step) * p_values[index]) > alpha:
                break
            rejected.add(index)
        assert {i for i, p in enumerate(adjusted) if p <= alpha} == rejected


def test_ranks_share_places_when_tied():
    assert stats.ranks([3.0, 9.0, 3.0, 1.0]).tolist() == [2.5, 1.0, 2.5, 4.0]


def test_spearman_by_hand():
    # d = 0, 1, -1, 0 -> 1 - 6 * 2 / (4 * 15) = 0.8; of 24 orders 1 has rho 1, 3 have 0.8; as many mirrored.
    assert stats.spearman([4, 3, 2, 1], [9, 5, 7, 1]) == stats.Correlation(pytest.approx(0.8), 4, pytest.approx(8 / 24))
    assert stats.spearman([1, 2, 3], [3, 2, 1]) == stats.Correlation(pytest.approx(-1), 3, pytest.approx(2 / 6))
    assert stats.spearman([1, 1], [2, 3]) == stats.Correlation(None, 2, None)
    assert stats.spearman([1], [2]) == stats.Correlation(None, 1, None)
    assert stats.spearman(range(10), range(10)) == stats.Correlation(pytest.approx(1), 10, None)


@pytest.mark.generator
@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=6))
def test_spearman_with_ties_against_brute_force(pairs):
    left, right = zip(*pairs, strict=True)
    found = stats.spearman(left, right)

    def rho(x, y):
        place = [[sorted(z, reverse=True).index(v) + (z.count(v) + 1) / 2 for v in z] for z in (list(x), list(y))]
        return np.corrcoef(*place)[0, 1]

    if len(set(left)) == 1 or len(set(right)) == 1:
        assert found.rho is None and found.p is None
        return
    assert found.rho == pytest.approx(rho(left, right))
    orders = [rho(left, order) for order in permutations(right)]
    assert found.p == pytest.approx(np.mean([abs(r) >= abs(found.rho) - 1e-9 for r in orders]))
