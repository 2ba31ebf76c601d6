"""Does the benchmark separate? Three demands, checked on numbers; the report says what holds and what does not.

Spread: at 64 of 576 tokens the methods differ from each other, and from random tokens, by more than the intervals.
Fall: for every method retention falls with the budget; a rise counts as a violation when its interval lies above zero.
Oracle: tokens chosen by who knows the evidence answer as well as all tokens, or lose less than NEAR points.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from .outcomes import EVIDENCE_ORACLE, FAMILIES, FULL
from .retained import Retained, estimate
from .statistics import interval

NEAR = 5.0
"""Percentage points that the oracle's whole interval may lie below the unpruned model."""


def separation(measured: Retained, budget: int) -> dict[str, Any]:
    """The report on all three demands; ``budget`` is the one at which the spread is judged."""
    return {
        "budget": budget,
        "near": NEAR,
        "spread": _spread(measured, budget),
        "fall": _fall(measured),
        "oracle": _oracle(measured),
    }


def _spread(measured: Retained, budget: int) -> dict[str, Any] | None:
    """None with fewer than two methods or without ``random``: there is nothing to judge then."""
    methods, random = measured.at(budget), measured.find("random", budget)
    if len(methods) < 2 or random is None:
        return None
    labels = [variant.label for variant in measured.variants]
    order = sorted(methods, key=lambda v: -measured.mean[v])
    best, worst = order[0], order[-1]
    low, high = interval(measured.mean_samples[:, methods])
    widest = float((high - low).max())
    between, to_random = measured.difference(best, worst), measured.difference(best, random)
    differences = [(labels[v], measured.difference(v, random)) for v in order]
    upper, lower = np.quantile(measured.mean[methods], [0.75, 0.25])
    holds_between = bool(between["value"] > widest and between["low"] > 0)
    holds_random = bool(to_random["value"] > to_random["high"] - to_random["low"] and to_random["low"] > 0)
    return {
        "methods": len(methods),
        "best": labels[best],
        "worst": labels[worst],
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


def _separable(measured: Retained, methods: Sequence[int]) -> int:
    """Pairs of methods whose paired difference has an interval without zero."""
    found = 0
    for place, one in enumerate(methods[:-1]):
        low, high = interval(measured.mean_samples[:, [one]] - measured.mean_samples[:, methods[place + 1 :]])
        found += int(((low > 0) | (high < 0)).sum())
    return found


def _steps(measured: Retained) -> Iterator[tuple[int, int]]:
    """(more tokens, fewer tokens): neighbouring budgets of the same row."""
    by_row: dict[str, list[int]] = {}  # controls and the oracle too
    for v, variant in enumerate(measured.variants):
        if variant.budget is not None:
            by_row.setdefault(variant.row, []).append(v)
    for own in by_row.values():
        yield from pairwise(sorted(own, key=lambda v: -(measured.variants[v].budget or 0)))


def _fall(measured: Retained) -> dict[str, Any]:
    """Rises as the budget shrinks: of the mean (violations, and those within error) and of single families."""
    violations, within, families, compared = [], [], [], 0
    for more, fewer in _steps(measured):
        compared += 1
        one, other = measured.variants[fewer], measured.variants[more]
        head = {"label": one.label, "from": other.budget, "to": one.budget}
        rise = measured.difference(fewer, more)
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


def _above_unpruned(measured: Retained) -> list[dict[str, Any]]:
    """Variants that answer better than the unpruned model beyond error; no violation of the fall, but worth knowing."""
    full = measured.find(FULL, None)
    found = []
    for v, variant in enumerate(measured.variants):
        if full is not None and variant.budget is not None:
            gain = measured.difference(v, full)
            if gain["low"] > 0:
                found.append({"label": variant.label, "budget": variant.budget, **gain})
    return found


def _oracle(measured: Retained) -> dict[str, Any] | None:
    """The evidence oracle minus the unpruned model per budget; None when the oracle was not run."""
    full = measured.find(FULL, None)
    budgets = sorted({own.budget for own in measured.variants if own.budget is not None}, reverse=True)
    found = []
    for budget in budgets:
        oracle = measured.find(EVIDENCE_ORACLE, budget)
        if oracle is not None and full is not None:
            gap = measured.difference(oracle, full)
            found.append({"budget": budget, **gap, "holds": gap["low"] >= -NEAR})
    return {"budgets": found, "holds": all(at["holds"] for at in found)} if found else None
