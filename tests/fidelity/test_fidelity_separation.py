"""The three demands on hand-made resamples: what holds, what does not, and what is said."""

import numpy as np
import pytest

from benchmarks.fidelity.outcomes import EVIDENCE_ORACLE, FAMILIES, FULL, Variant
from benchmarks.fidelity.pages import separation_text
from benchmarks.fidelity.retained import Retained
from benchmarks.fidelity.separation import separation


def measured(*variants, spread=1.0, seed=0):
    """From (method, budget, mean, noise of its own); ``spread``: noise that all variants share."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(0, spread, 2000)
    samples = np.stack([mean + shared + rng.normal(0, own, 2000) for *_, mean, own in variants], axis=1)
    means = np.array([mean for *_, mean, _ in variants], dtype=float)
    return Retained(
        variants=[Variant(method, {}, method.upper(), budget) for method, budget, *_ in variants],
        mean=means,
        families=np.repeat(means[:, None], len(FAMILIES), axis=1),
        mean_samples=samples,
        family_samples=np.repeat(samples[:, :, None], len(FAMILIES), axis=2),
    )


def said(report):
    return separation_text(report, 576).strip().split("\n\n")


GOOD = (
    (FULL, None, 100, 0.1),
    ("random", 64, 60, 0.5),
    ("random", 32, 50, 0.5),
    ("apet", 64, 95, 0.5),
    ("apet", 32, 90, 0.5),
    ("fastv", 64, 50, 0.5),
    ("fastv", 32, 40, 0.5),
    (EVIDENCE_ORACLE, 64, 99, 0.3),
    (EVIDENCE_ORACLE, 32, 98, 0.3),
)


def changed(**means):
    """GOOD with other means, named method_budget."""
    return [(m, b, means.get(f"{m}_{b}", mean), noise) for m, b, mean, noise in GOOD]


def test_differences_are_paired_so_that_shared_luck_cancels():
    apart = measured(("a", 64, 70, 0.0), ("b", 64, 68, 0.0), spread=30).difference(0, 1)
    assert apart == {"value": 2, "low": pytest.approx(2), "high": pytest.approx(2)}


def test_a_benchmark_that_separates():
    report = separation(measured(*GOOD), 64)
    spread, fall, oracle = report["spread"], report["fall"], report["oracle"]
    assert (spread["best"], spread["worst"], spread["methods"]) == ("APET", "FASTV", 2)
    assert spread["holds"] and spread["between"]["value"] == 45 and spread["to_random"]["value"] == 35
    assert spread["widest_interval"] == pytest.approx(2 * 1.96 * np.hypot(1, 0.5), rel=0.1)
    assert (spread["above_random"], spread["below_random"], spread["undecided"]) == (["APET"], ["FASTV"], [])
    assert (spread["separable_pairs"], spread["pairs"]) == (1, 1)
    assert fall["holds"] and fall["compared"] == 4 and fall["violations"] == fall["within_error"] == []
    assert oracle["holds"] and [at["value"] for at in oracle["budgets"]] == [-1, -2]
    words = " ".join(said(report))
    assert words.count("holds") == 3 and "does not hold" not in words


def test_methods_within_their_intervals_do_not_separate():
    report = separation(measured(*changed(apet_64=61, fastv_64=60, random_64=60)), 64)
    assert not report["spread"]["holds_between"] and not report["spread"]["holds_random"]
    assert "does not hold" in said(report)[0] and "not larger" in said(report)[0]


def test_methods_that_all_equal_random_fail_although_they_differ_from_each_other():
    report = separation(measured(*changed(random_64=95)), 64)
    assert report["spread"]["holds_between"] and not report["spread"]["holds_random"]
    assert not report["spread"]["holds"]


def test_a_rise_beyond_error_is_a_violation_and_is_named():
    report = separation(measured(*changed(fastv_32=60)), 64)
    violation = report["fall"]["violations"][0]
    assert (violation["label"], violation["from"], violation["to"], violation["value"]) == ("FASTV", 64, 32, 10)
    assert not report["fall"]["holds"] and len(report["fall"]["family_violations"]) == len(FAMILIES)
    assert "FASTV from 64 to 32: +10.0 points" in said(report)[1]


def test_a_rise_within_error_is_counted_but_no_violation():
    report = separation(measured(*changed(fastv_32=50.3)), 64)
    assert report["fall"]["holds"] and [step["label"] for step in report["fall"]["within_error"]] == ["FASTV"]


def test_better_than_unpruned_is_told_apart_from_a_rise():
    report = separation(measured(*changed(apet_64=104)), 64)
    assert report["fall"]["holds"]
    assert [(one["label"], one["budget"]) for one in report["fall"]["above_unpruned"]] == [("APET", 64)]


def test_an_oracle_that_loses_more_than_near_is_reported_at_its_budget():
    report = separation(measured(*changed(**{f"{EVIDENCE_ORACLE}_32": 92})), 64)
    assert [at["holds"] for at in report["oracle"]["budgets"]] == [True, False] and not report["oracle"]["holds"]
    assert "32 of 576: -8.0 points" in said(report)[2] and "not near" in said(report)[2]


def test_what_did_not_run_is_not_judged():
    report = separation(measured((FULL, None, 100, 0.1), ("apet", 64, 95, 0.5)), 64)
    assert report["spread"] is None and report["oracle"] is None and report["fall"]["holds"] is None
    assert all("not judged" in sentence for sentence in said(report))
