"""Does the benchmark separate? Three demands, checked on numbers; the report says what holds and what does not.

Spread: at 64 of 576 tokens the methods differ from each other, and from random tokens, by more than the intervals.
Fall: for every method retention falls with the budget; a rise counts as a violation when its interval lies above zero.
Oracle: tokens chosen by who knows the evidence answer as well as all tokens, or lose less than NEAR points.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from .outcomes import EVIDENCE_ORACLE, FAMILIES, FULL
from .statistics import Floats, interval
from .wording import names, number, points, verdict

NEAR = 5.0
"""Percentage points that the oracle's whole interval may lie below the unpruned model."""

CONTROLS = ("random", "uniform")
"""What every method has to beat."""


@dataclass(frozen=True)
class Measured:
    """Retention of all variants with its resamples, in percent of the unpruned model.

    rows: what a variant is called across budgets. labels: the same for readers. methods: ids. budgets: None for FULL.

    Shape:
        rows, labels, methods, budgets: V. mean ``(V,)``, families ``(V, F)``, mean_samples ``(B, V)``,
        family_samples ``(B, V, F)``; column 0 of no other meaning than the others.
    """

    rows: Sequence[str]
    labels: Sequence[str]
    methods: Sequence[str]
    budgets: Sequence[int | None]
    mean: Floats
    families: Floats
    mean_samples: Floats
    family_samples: Floats

    def at(self, budget: int, *, controls: bool = False) -> list[int]:
        """Indices of the methods at a budget; the controls and the oracle only if asked for."""
        left_out = () if controls else (*CONTROLS, EVIDENCE_ORACLE)
        return [
            v
            for v, (method, own) in enumerate(zip(self.methods, self.budgets, strict=True))
            if own == budget and method not in left_out
        ]

    def find(self, method: str, budget: int | None) -> int | None:
        """Index of the first variant of a method at a budget (its defaults, where tables hold them first)."""
        pairs = list(zip(self.methods, self.budgets, strict=True))
        return pairs.index((method, budget)) if (method, budget) in pairs else None


def estimate(value: float, samples: Floats) -> dict[str, float]:
    """A number with its interval, as tables store it."""
    low, high = interval(samples)
    return {"value": float(value), "low": float(low), "high": float(high)}


def difference(measured: Measured, one: int, other: int) -> dict[str, float]:
    """Mean retention of ``one`` minus that of ``other`` in points, with the interval of the paired difference."""
    samples = measured.mean_samples
    return estimate(measured.mean[one] - measured.mean[other], samples[:, one] - samples[:, other])


def separation(measured: Measured, budget: int) -> dict[str, Any]:
    """The report on all three demands; ``budget`` is the one at which the spread is judged."""
    return {
        "budget": budget,
        "near": NEAR,
        "spread": _spread(measured, budget),
        "fall": _fall(measured),
        "oracle": _oracle(measured),
    }


def _spread(measured: Measured, budget: int) -> dict[str, Any] | None:
    """None with fewer than two methods or without ``random``: there is nothing to judge then."""
    methods, random = measured.at(budget), measured.find("random", budget)
    if len(methods) < 2 or random is None:
        return None
    order = sorted(methods, key=lambda v: -measured.mean[v])
    best, worst = order[0], order[-1]
    low, high = interval(measured.mean_samples[:, methods])
    widest = float((high - low).max())
    between, to_random = difference(measured, best, worst), difference(measured, best, random)
    differences = [(measured.labels[v], difference(measured, v, random)) for v in order]
    upper, lower = np.quantile(measured.mean[methods], [0.75, 0.25])
    holds_between = bool(between["value"] > widest and between["low"] > 0)
    holds_random = bool(to_random["value"] > to_random["high"] - to_random["low"] and to_random["low"] > 0)
    return {
        "methods": len(methods),
        "best": measured.labels[best],
        "worst": measured.labels[worst],
        "between": between,
        "middle_half": float(upper - lower),
        "widest_interval": widest,
        "median_interval": float(np.median(high - low)),
        "separable_pairs": _separable(measured, methods),
        "pairs": len(methods) * (len(methods) - 1) // 2,
        "to_random": to_random,
        "random_width": to_random["high"] - to_random["low"],
        "above_random": [label for label, d in differences if d["low"] > 0],
        "below_random": [label for label, d in differences if d["high"] < 0],
        "undecided": [label for label, d in differences if not (d["low"] > 0 or d["high"] < 0)],
        "holds_between": holds_between,
        "holds_random": holds_random,
        "holds": holds_between and holds_random,
    }


def _separable(measured: Measured, methods: Sequence[int]) -> int:
    """Pairs of methods whose paired difference has an interval without zero."""
    found = 0
    for place, one in enumerate(methods[:-1]):
        low, high = interval(measured.mean_samples[:, [one]] - measured.mean_samples[:, methods[place + 1 :]])
        found += int(((low > 0) | (high < 0)).sum())
    return found


def _steps(measured: Measured) -> Iterator[tuple[int, int]]:
    """(more tokens, fewer tokens): neighbouring budgets of the same row."""
    for row in dict.fromkeys(measured.rows):  # controls and the oracle too
        own = [v for v, name in enumerate(measured.rows) if name == row and measured.budgets[v] is not None]
        own.sort(key=lambda v: -(measured.budgets[v] or 0))
        yield from pairwise(own)


def _fall(measured: Measured) -> dict[str, Any]:
    """Rises as the budget shrinks: of the mean (violations, and those within error) and of single families."""
    violations, within, families, compared = [], [], [], 0
    for more, fewer in _steps(measured):
        compared += 1
        head = {"label": measured.labels[fewer], "from": measured.budgets[more], "to": measured.budgets[fewer]}
        rise = difference(measured, fewer, more)
        if rise["low"] > 0:
            violations.append({**head, **rise})
        elif rise["value"] > 0:
            within.append({**head, **rise})
        for f, family in enumerate(FAMILIES):
            samples = measured.family_samples[:, fewer, f] - measured.family_samples[:, more, f]
            step = estimate(measured.families[fewer, f] - measured.families[more, f], samples)
            if step["low"] > 0:
                families.append({**head, "family": family, **step})
    return {
        "compared": compared,
        "violations": violations,
        "within_error": within,
        "family_violations": families,
        "above_unpruned": _above_unpruned(measured),
        "holds": not violations if compared else None,
    }


def _above_unpruned(measured: Measured) -> list[dict[str, Any]]:
    """Variants that answer better than the unpruned model beyond error; no violation of the fall, but worth knowing."""
    full = measured.find(FULL, None)
    found = []
    for v, budget in enumerate(measured.budgets):
        if full is not None and budget is not None:
            gain = difference(measured, v, full)
            if gain["low"] > 0:
                found.append({"label": measured.labels[v], "budget": budget, **gain})
    return found


def _oracle(measured: Measured) -> dict[str, Any] | None:
    """The evidence oracle minus the unpruned model per budget; None when the oracle was not run."""
    full = measured.find(FULL, None)
    budgets = sorted({b for b in measured.budgets if b is not None}, reverse=True)
    found = []
    for budget in budgets:
        oracle = measured.find(EVIDENCE_ORACLE, budget)
        if oracle is not None and full is not None:
            gap = difference(measured, oracle, full)
            found.append({"budget": budget, **gap, "holds": gap["low"] >= -NEAR})
    return {"budgets": found, "holds": all(at["holds"] for at in found)} if found else None


def sentences(report: dict[str, Any], n_visual: int) -> list[str]:
    """The report in words, one paragraph per demand; every number comes from the report."""
    return [
        _spread_words(report["spread"], report["budget"], n_visual),
        _fall_words(report["fall"]),
        _oracle_words(report["oracle"], report["near"], n_visual),
    ]


def _spread_words(spread: dict[str, Any] | None, budget: int, n_visual: int) -> str:
    if spread is None:
        return f"Spread at {budget} of {n_visual} tokens: not judged, fewer than two methods or no random control ran."
    widest, middle, median, to_control = (
        number(spread[name]) for name in ("widest_interval", "middle_half", "median_interval", "random_width")
    )
    larger, beyond = ("larger" if spread[name] else "not larger" for name in ("holds_between", "holds_random"))
    return (
        f"**Spread at {budget} of {n_visual} tokens: {verdict(spread['holds'])}.** From {spread['best']} down to "
        f"{spread['worst']} mean retention spans {points(spread['between'])}; the widest interval of a method is "
        f"{widest} points wide, so the spread between methods is {larger}. The middle half of the {spread['methods']} "
        f"methods spans {middle} points against a median interval of {median}, and {spread['separable_pairs']} of "
        f"{spread['pairs']} pairs differ beyond their paired interval. {spread['best']} minus random is "
        f"{points(spread['to_random'])}, an interval {to_control} points wide, so the difference is {beyond}. Above "
        f"random beyond error: {names(spread['above_random'])}; below it: {names(spread['below_random'])}; undecided: "
        f"{names(spread['undecided'])}."
    )


def _fall_words(fall: dict[str, Any]) -> str:
    if not fall["compared"]:
        return "Fall with the budget: not judged, no method ran at two budgets."
    listed = "; ".join(
        f"{step['label']} from {step['from']} to {step['to']}: {points(step)}" for step in fall["violations"]
    )
    text = (
        f"**Fall with the budget: {verdict(fall['holds'])}.** Of {fall['compared']} steps to the next smaller budget "
    )
    text += f"{len(fall['violations'])} rise beyond error" + (f" ({listed})" if listed else "")
    text += f" and {len(fall['within_error'])} within it; about {0.025 * fall['compared']:.0f} would rise beyond error "
    text += "by chance if nothing changed. "
    single = "; ".join(
        f"{step['label']}, {step['family']}, {step['from']} to {step['to']}: {points(step)}"
        for step in fall["family_violations"]
    )
    tried = fall["compared"] * len(FAMILIES)
    text += f"In single families {len(fall['family_violations'])} of {tried} steps rise beyond error"
    text += f" ({single})" if single else ""
    text += f"; about {0.025 * tried:.0f} would by chance if nothing changed. "
    above = "; ".join(f"{one['label']} at {one['budget']}: {points(one)}" for one in fall["above_unpruned"])
    return text + f"Better than the unpruned model beyond error: {above or 'none'}."


def _oracle_words(oracle: dict[str, Any] | None, near: float, n_visual: int) -> str:
    if oracle is None:
        return "Evidence oracle near the unpruned model: not judged, the oracle did not run."
    listed = "; ".join(
        f"{at['budget']} of {n_visual}: {points(at)}{'' if at['holds'] else ', not near'}" for at in oracle["budgets"]
    )
    return (
        f"**Evidence oracle near the unpruned model: {verdict(oracle['holds'])}.** Its mean retention minus that of "
        f"the unpruned model: {listed}. Near means that it loses less than {near:.0f} points even at the lower end "
        "of the interval; it may gain."
    )
