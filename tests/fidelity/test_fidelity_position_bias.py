"""Where kept tokens lie: on sets that can be checked on paper."""

import math

import numpy as np
import pytest

from benchmarks.fidelity.position_bias import (
    METHODS,
    TRUTH,
    agreement,
    largest_correlation,
    leanings,
    position_correlation,
    thirds,
)
from tests.fidelity.conftest import GRID, entry, flags, measured
from tokviz.mining.kept import pack_indices


def correlation(n, *kept):
    return position_correlation(np.array(kept, dtype=np.int64), n)


def test_correlation_on_paper():
    # Positions 0..3 have mean 1.5 and variance 1.25; keeping the last two: covariance (2.5 - 1.5) / 2 = 0.5, mask
    # variance 0.25, so r = 0.5 / sqrt(1.25 * 0.25).
    assert correlation(4, 2, 3) == pytest.approx(0.5 / math.sqrt(0.3125))
    assert correlation(4, 0, 1) == pytest.approx(-0.5 / math.sqrt(0.3125))
    assert correlation(4, 0, 3) == 0
    assert correlation(4) is None and correlation(4, 0, 1, 2, 3) is None


def test_correlation_is_pearsons():
    rng = np.random.default_rng(0)
    for n in (7, 576):
        mask = rng.random(n) < 0.3
        expected = np.corrcoef(mask, np.arange(n))[0, 1]
        assert position_correlation(np.flatnonzero(mask), n) == pytest.approx(expected)


@pytest.mark.parametrize(("kept", "n"), [(2, 4), (64, 576), (32, 576), (6, 576), (1, 2), (575, 576)])
def test_the_largest_correlation_is_that_of_the_last_tokens(kept, n):
    assert correlation(n, *range(n - kept, n)) == pytest.approx(largest_correlation(kept, n))


def test_no_largest_correlation_where_nothing_is_chosen():
    assert math.isnan(largest_correlation(0, 576)) and math.isnan(largest_correlation(576, 576))
    assert largest_correlation(64, 576) == pytest.approx(0.5443, abs=1e-4)


def test_thirds_count_rows_and_leave_out_what_is_no_patch():
    row = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, -1]
    assert thirds(np.array([0, 3, 4, 9, 11, 12]), row).tolist() == [2, 1, 2]
    # Four rows: 0 and 1 are 0 and 0 of 3 thirds, 2 is 1, 3 is 2.
    assert thirds(np.arange(4), [0, 1, 2, 3]).tolist() == [2, 1, 1]


def test_leanings_in_exact_numbers(tmp_path):
    methods = [entry("fastv"), entry("fastervlm"), entry("apet"), entry("todre", stage_2=False)]
    kept = [range(512, 576), range(64), [*range(32), *range(544, 576)], []]
    columns = {(m.key, 64): {"kept": pack_indices(k), "answer": "x"} for m, k in zip(methods, kept, strict=True)}
    run = measured(tmp_path, {(m.key, 64): [flags()] for m in methods}, methods, columns)
    fastv, cls, apet, todre, truth = leanings(run)
    one = {"value": pytest.approx(1), "low": pytest.approx(1), "high": pytest.approx(1)}
    assert fastv.lean == one and fastv.difference == one, "ApET keeps both ends alike"
    assert fastv.correlation["value"] == pytest.approx(largest_correlation(64, 576))
    assert [third["value"] for third in (fastv.top, fastv.middle, fastv.bottom)] == [0, 0, 100]
    assert (fastv.patches, fastv.undefined, agreement(fastv)) == (64, 0, "agrees")
    assert apet.lean["value"] == pytest.approx(0) and (apet.difference, agreement(apet)) == (None, "–")
    assert cls.difference["value"] == pytest.approx(-1)
    assert agreement(cls) == "–"  # the papers' claim is about attention inside the LLM
    assert (todre.undefined, todre.lean["value"], todre.bottom["value"]) == (100, None, None)
    assert truth.name == TRUTH and truth.patches == 1 and truth.bottom["value"] == 100, "the bottom right token"
    assert GRID.n_tokens == 576


def test_names_of_methods_differ_and_one_is_the_reference():
    names = [method.name for method in METHODS]
    assert len(set(names)) == len(names) and names.count("apet") == 1
    assert {m.name for m in METHODS if m.late} == {"fastv", "sparsevlm", "pdrop"}
