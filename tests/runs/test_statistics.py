"""Tests and intervals against numbers that were worked out by hand, and against what they must agree with."""

import math

import numpy as np
import pytest

from tokviz.statistics import (
    ImageBootstrap,
    band,
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_ratio,
    cases_needed,
    compare_paired,
    fewest_discordant,
    holm,
    majority,
)


def flags(only_a, only_b, both=0, neither=0):
    """Two methods' right answers with so many cases of each kind."""
    a = [True] * only_a + [False] * only_b + [True] * both + [False] * neither
    b = [False] * only_a + [True] * only_b + [True] * both + [False] * neither
    return {"a": np.array(a), "b": np.array(b)}


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    # Twice the binomial tail at one half: (1 + 10) / 2^10 each side, 1 / 2^6, and a tail that is more than a half.
    [(1, 9, 22 / 1024), (9, 1, 22 / 1024), (0, 6, 2 / 64), (5, 5, 1.0), (2, 6, 2 * (1 + 8 + 28) / 256)],
)
def test_mcnemar(only_a, only_b, p):
    (found,) = compare_paired(flags(only_a, only_b, both=30, neither=10), [("a", "b")])
    assert found.p == found.p_holm == pytest.approx(p)
    assert (found.only_first, found.only_second, found.n) == (only_a, only_b, 40 + only_a + only_b)
    assert found.difference == pytest.approx(100 * (only_a - only_b) / found.n)
    assert found.differs is (p < 0.05)


def test_holm():
    # Smallest first: 0.01 x 3, then 0.03 x 2, then 0.04 x 1, which may not fall below the one before.
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []


def test_holm_is_that_of_statsmodels():
    from statsmodels.stats.multitest import multipletests

    for n in (1, 2, 7, 30):
        p_values = np.random.default_rng(n).random(n) ** 3
        assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], rel=1e-12)


def test_p_values_are_corrected_over_all_pairs_also_the_refused():
    right = flags(1, 9, both=30)
    right["c"] = right["a"]
    pairs = compare_paired(right, [("a", "b"), ("a", "c"), ("c", "b")])
    assert [pair.p for pair in pairs] == [pytest.approx(22 / 1024), None, pytest.approx(22 / 1024)]
    assert [pair.p_holm for pair in pairs] == [pytest.approx(3 * 22 / 1024), None, pytest.approx(3 * 22 / 1024)]
    assert pairs[1].differs is None and not pairs[0].differs


def test_too_few_cases_are_refused_with_the_number_needed():
    assert [fewest_discordant(alpha) for alpha in (0.05, 0.01, 2 / 64)] == [6, 8, 7]
    (found,) = compare_paired(flags(5, 0, both=95), [("a", "b")])
    assert found.p is None and found.refusal.need == 120  # 6 / (5 / 100)
    assert str(found.refusal) == (
        "the two differ on 5 of 100 cases, and at least 6 must differ to tell them apart; about 120 would be needed."
    )
    (same,) = compare_paired(flags(0, 0, both=100), [("a", "b")])
    assert same.refusal.need == 200  # 6 / (3 / 100), by the rule of three
    (none,) = compare_paired(flags(0, 0), [("a", "b")])
    assert none.refusal.need is None and none.refusal.have == 0


def test_the_number_needed_is_connors():
    # d = 0.3, e = 0.1: (1.95996 sqrt(0.3) + 0.84162 sqrt(0.29))^2 / 0.01 = (1.07352 + 0.45322)^2 / 0.01 = 233.1
    assert cases_needed(20, 10, 100) == 234
    assert cases_needed(10, 20, 100) == 234 and cases_needed(5, 5, 100) is None and cases_needed(0, 0, 0) is None
    (found,) = compare_paired(flags(20, 10, both=70), [("a", "b")])
    assert found.p == pytest.approx(0.0987, abs=1e-4) and found.needed == 234


def test_the_power_that_is_promised_is_there():
    generator = np.random.default_rng(0)
    n = cases_needed(20, 10, 100)
    counts = generator.multinomial(n, [0.2, 0.1, 0.7], size=300)
    hits = [compare_paired(flags(a, b, both=rest), [("a", "b")])[0].differs for a, b, rest in counts]
    assert 0.7 < np.mean(hits) < 0.87  # the exact test is a little more cautious than the formula


def test_cases_that_one_of_a_pair_lacks_are_left_out_of_it():
    right = {name: values.astype(float) for name, values in flags(1, 9, both=30).items()}
    right["a"] = np.append(right["a"], [np.nan, 1.0])
    right["b"] = np.append(right["b"], [1.0, np.nan])
    (found,) = compare_paired(right, [("a", "b")])
    assert (found.n, found.p) == (40, pytest.approx(22 / 1024))


def test_methods_are_compared_on_the_same_cases():
    with pytest.raises(ValueError, match="same cases"):
        compare_paired({"a": np.ones(3, bool), "b": np.ones(4, bool)}, [("a", "b")])


def test_an_interval_has_the_width_that_theory_gives():
    values = np.array([0.0, 100.0] * 400)
    found = bootstrap_mean(values, range(800))
    half = 1.96 * 50 / math.sqrt(800)
    assert found.value == 50 and found.low == pytest.approx(50 - half, abs=0.4)
    assert found.high == pytest.approx(50 + half, abs=0.4)
    assert found == bootstrap_mean(values, range(800))


def test_questions_of_one_image_are_drawn_together():
    """Four questions that share the fate of their image say as much as one."""
    values = np.array([0.0, 100.0] * 100)
    one = bootstrap_mean(values, range(200))
    four = bootstrap_mean(np.repeat(values, 4), np.repeat(np.arange(200), 4).tolist())
    alone = bootstrap_mean(np.repeat(values, 4), range(800))
    assert (four.low, four.high, four.images) == (one.low, one.high, 200)
    assert alone.high - alone.low < 0.6 * (four.high - four.low)


def test_intervals_of_what_does_not_vary_are_points():
    ones = np.full(40, 100.0)
    assert (bootstrap_mean(ones, range(40)).low, bootstrap_mean(ones, range(40)).high) == (100, 100)
    same = bootstrap_difference(ones, ones, range(40))
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_differences_and_retention_are_paired():
    """A method that loses one answer in ten wherever the other is right: its retention is 90% in every resample."""
    other = np.tile([1.0] * 10 + [0.0] * 10, 20)
    method = np.tile([1.0] * 9 + [0.0] * 11, 20)
    images = np.repeat(np.arange(20), 20).tolist()
    kept = bootstrap_ratio(method, other, images)
    assert (kept.value, kept.low, kept.high) == pytest.approx((90, 90, 90))
    gap = bootstrap_difference(100 * method, 100 * other, images)
    assert (gap.value, gap.low, gap.high) == pytest.approx((-5, -5, -5))
    with pytest.raises(ValueError, match="share of 0"):
        bootstrap_ratio(method, 0 * other, images)


def test_few_images_have_no_interval():
    found = bootstrap_mean(np.ones(38), np.repeat(np.arange(19), 2).tolist())
    assert (found.value, found.low, found.high, found.images) == (1.0, None, None, 19)
    assert str(found.refusal) == "19 images are too few for an interval; about 20 would be needed."
    assert bootstrap_mean(np.ones(40), np.repeat(np.arange(20), 2).tolist()).low == 1.0
    for values, images in ((np.ones(3), [1, 2]), (np.ones(0), [])):
        with pytest.raises(ValueError, match=r"do not fit|share of 0"):
            bootstrap_mean(values, images)


def test_intervals_are_those_of_scipy():
    from scipy.stats import bootstrap

    generator = np.random.default_rng(3)
    values, images = 100.0 * (generator.random(600) < 0.3), generator.integers(0, 150, 600)
    mine = bootstrap_mean(values, images.tolist())
    sums, counts = np.bincount(images, values, 150), np.bincount(images, minlength=150)
    theirs = bootstrap(
        (sums, counts),
        lambda s, n, axis: s.sum(axis) / n.sum(axis),
        paired=True,
        method="percentile",
        n_resamples=4_000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), abs=0.35)


def test_a_slice_is_drawn_with_the_run():
    """Cases outside of a slice have 0 at the bottom: the value is that of the slice, its images are counted."""
    right = np.array([[100.0, 0.0, 100.0, 100.0] * 25] * 2)
    counted = np.array([[1.0, 1.0, 0.0, 0.0] * 25, [1.0, 1.0] * 8 + [0.0] * 84])
    whole, few = ImageBootstrap(range(100)).intervals(right * counted, counted)
    assert whole.value == 50 and whole.images == 50 and whole.low < 50 < whole.high
    assert (few.images, few.low) == (16, None) and few.refusal.need == 20


def test_the_band_of_seeds():
    found = band([61.0, 64.0, 60.0])
    assert (found.low, found.high, found.seeds) == (60, 64, 3) and found.mean == pytest.approx(61.6667, abs=1e-4)
    assert found.holds(60) and found.holds(63.9) and not found.holds(64.1) and not found.holds(59)
    assert band([0.1] * 3).holds(0.1)
    with pytest.raises(ValueError, match="at least one seed"):
        band([])
    assert [majority(seeds) for seeds in ([True], [True, False], [True, True, False], [])] == [True, False, True, False]


def test_the_mean_of_ratios_is_that_of_its_parts():
    """Two data sets that vary together: 50% of one and 100% of the other is 75%, and what one lacks the mean shows."""
    full = np.array([[[1.0, 0.0] * 30, [0.0, 1.0] * 30]])
    kept = np.array([[[1.0, 0.0, 0.0, 0.0] * 15, [0.0, 1.0] * 30]])
    (found,) = ImageBootstrap(range(60)).mean_ratios(100 * kept, full)
    alone, _ = ImageBootstrap(range(60)).intervals(100 * kept[0], full[0])
    assert (found.value, found.images) == (75, 30)
    assert (found.low, found.high) == pytest.approx((50 + alone.low / 2, 50 + alone.high / 2))
