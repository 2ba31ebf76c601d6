"""Where kept tokens lie: on masks that can be checked on paper, and against the scenes' own evidence."""

import math

import numpy as np
import pytest

from benchmarks.fidelity.papers import variant
from benchmarks.fidelity.position_bias import METHODS, Place, Ranked, agreement, evidence_places, leanings
from benchmarks.fidelity.questions import largest_correlation, position_correlation, thirds
from scenes import generate_scene

APET, FASTV, CLS = (next(m for m in METHODS if m.name == name) for name in ("apet", "fastv", "fastervlm"))


def mask(n, *kept):
    found = np.zeros(n, dtype=bool)
    found[list(kept)] = True
    return found


def rng():
    return np.random.default_rng(0)


def test_correlation_on_paper():
    # Positions 0..3 have mean 1.5 and variance 1.25; keeping the last two: covariance (2.5 - 1.5) / 2 = 0.5, mask
    # variance 0.25, so r = 0.5 / sqrt(1.25 * 0.25).
    assert position_correlation(mask(4, 2, 3)) == pytest.approx(0.5 / math.sqrt(0.3125), abs=1e-6)
    assert position_correlation(mask(4, 0, 1)) == pytest.approx(-0.5 / math.sqrt(0.3125), abs=1e-6)
    assert position_correlation(mask(4, 0, 3)) == 0
    assert position_correlation(mask(4)) is None
    assert position_correlation(mask(4, 0, 1, 2, 3)) is None


@pytest.mark.parametrize(("kept", "n"), [(2, 4), (64, 576), (32, 576), (6, 576), (1, 2), (575, 576)])
def test_the_largest_correlation_is_that_of_the_last_tokens(kept, n):
    assert position_correlation(mask(n, *range(n - kept, n))) == pytest.approx(largest_correlation(kept, n), abs=1e-6)


def test_no_largest_correlation_where_nothing_is_chosen():
    assert math.isnan(largest_correlation(0, 576))
    assert math.isnan(largest_correlation(576, 576))
    assert largest_correlation(64, 576) == pytest.approx(0.5443, abs=1e-4)


def test_thirds_count_rows_and_leave_out_what_is_no_patch():
    row = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, -1]
    assert thirds(mask(13, 0, 3, 4, 9, 11, 12), row) == [2, 1, 2]
    # Four rows: 0 and 1 are 0 and 0 of 3 thirds, 2 is 1, 3 is 2.
    assert thirds(mask(4, 0, 1, 2, 3), [0, 1, 2, 3]) == [2, 1, 1]


def test_leanings_in_exact_numbers():
    # Two equal scenes, so that every draw of scenes has the same means. 64 of 576 kept.
    most = largest_correlation(64, 576)
    rows = [
        (FASTV, [Place(s, most / 2, (0, 16, 48)) for s in (1, 1, 2, 2)]),
        (APET, [Place(s, 0.0, (16, 32, 16)) for s in (1, 2)]),
        (CLS, [Place(s, -most, (64, 0, 0)) for s in (1, 2)]),
    ]
    fastv, apet, cls = leanings(rows, [1, 2], 576, rng())
    assert fastv.lean == pytest.approx({"value": 0.5, "low": 0.5, "high": 0.5})
    assert fastv.correlation["value"] == pytest.approx(most / 2)
    assert [third["value"] for third in (fastv.top, fastv.middle, fastv.bottom)] == [0, 25, 75]
    assert fastv.difference == pytest.approx({"value": 0.5, "low": 0.5, "high": 0.5})
    assert (fastv.patches, fastv.undefined, agreement(fastv)) == (64, 0, "agrees")
    assert (apet.difference, agreement(apet)) == (None, "–")
    assert cls.difference["value"] == pytest.approx(-1)
    assert agreement(cls) == "–"  # the papers' claim is about attention inside the LLM


def test_scenes_weigh_the_same_however_many_questions_they_have():
    many = [Place(1, 0.3, (1, 1, 1))] * 9 + [Place(2, 0.1, (1, 1, 1))]
    (row,) = leanings([(FASTV, many)], [1, 2], 576, rng())
    assert row.correlation["value"] == pytest.approx(0.2)
    assert row.correlation["low"] == pytest.approx(0.1)
    assert row.correlation["high"] == pytest.approx(0.3)
    assert (row.difference, agreement(row)) == (None, "undefined")  # without the row to compare with


def test_questions_that_keep_nothing_are_counted_and_left_out():
    kept = [Place(1, 0.2, (1, 1, 2)), Place(1, None, (0, 0, 0)), Place(2, None, (0, 0, 0))]
    (row,) = leanings([(FASTV, kept)], [1, 2], 576, rng())
    assert row.undefined == 2
    assert row.correlation["value"] == pytest.approx(0.2)
    assert row.bottom["value"] == 50


@pytest.mark.parametrize(
    ("fastv", "verdict"),
    [((0.2, 0.1), "agrees"), ((-0.1, -0.2), "disagrees"), ((0.1, -0.1), "no difference that these scenes could show")],
)
def test_agreement_with_the_papers(fastv, verdict):
    rows = [
        (FASTV, [Place(seed, r, (1, 1, 1)) for seed, r in enumerate(fastv)]),
        (APET, [Place(seed, 0.0, (1, 1, 1)) for seed in (0, 1)]),
    ]
    assert agreement(leanings(rows, [0, 1], 576, rng())[0]) == verdict


def test_rows_without_questions_are_refused():
    for rows, seeds in (([(FASTV, [])], [1]), ([(FASTV, [Place(1, 0.1, (1, 1, 1))])], [])):
        with pytest.raises(ValueError, match="at least one scene"):
            leanings(rows, seeds, 576, rng())


def test_names_of_methods_differ_and_one_is_the_reference():
    names = [method.name for method in METHODS]
    assert len(set(names)) == len(names)
    assert names.count("apet") == 1
    assert {m.name for m in METHODS if m.late} == {"fastv", "sparsevlm", "pdrop"}
    assert Ranked("x", variant("apet", 64), "y").late is False


def test_evidence_places_against_pixels():
    seed = 201_000_003
    found = evidence_places([seed], 576)
    asked = [question for question in generate_scene(seed, questions_per_family=2).questions if question.evidence]
    assert len(found) == len(asked) > 0
    for place, question in zip(found, asked, strict=True):
        # A tenth of a patch of 14 x 14 pixels, counted in an image four times as fine.
        shown = np.zeros((1344, 1344), dtype=bool)
        for x0, y0, x1, y1 in question.evidence:
            shown[round(4 * y0) : round(4 * y1), round(4 * x0) : round(4 * x1)] = True
        share = shown.reshape(24, 56, 24, 56).mean((1, 3))
        sure, possible = share > 0.12, share > 0.08
        for part in range(3):
            rows = slice(8 * part, 8 * part + 8)
            assert sure[rows].sum() <= place.thirds[part] <= possible[rows].sum()


def test_evidence_needs_a_square_grid():
    with pytest.raises(ValueError, match="577"):
        evidence_places([1], 577)
