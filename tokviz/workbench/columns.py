"""The columns of an open run as arrays, one entry per case in the order of the case file: what facets are counted from.

Read once per reading of the run and kept; of 50,000 cases all of them together take a few megabytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .run import BOOLS, FLAGS, MEASURES, NUMBERS, OUTCOMES, WORDS, OpenRun

BINS = 24
NONE = 255
"""Code of a missing value."""
MOST_VALUES = 250


@dataclass(frozen=True)
class Words:
    """A column of words. names: the most frequent values; codes ``(n,)`` uint8 into them, ``NONE`` without a value.

    Values beyond ``MOST_VALUES`` have the code ``NONE - 1`` and no name.
    """

    names: list[str]
    codes: NDArray[np.uint8]


@dataclass(frozen=True)
class Number:
    """A column of numbers ``(n,)`` float64 with NaN where there is none, and the bin of each, ``NONE`` for NaN.

    low, high: over the whole run, so that a histogram keeps its axis while it is filtered; None for an empty column.
    """

    values: NDArray[np.float64]
    low: float | None
    high: float | None
    bins: NDArray[np.uint8]


@dataclass(frozen=True)
class CaseColumns:
    """What is known of each case."""

    ordinal: NDArray[np.int32]
    words: dict[str, Words]
    bools: dict[str, NDArray[np.int8]]
    numbers: dict[str, Number]
    x: NDArray[np.float32]
    y: NDArray[np.float32]


@dataclass(frozen=True)
class Verdicts:
    """What became of each case under one method at one budget. verdict: index into ``OUTCOMES``, or ``NONE``.

    good: whether most seeds are right (or unchanged, where nothing is expected). there: whether it was mined there.
    """

    there: NDArray[np.bool_]
    verdict: NDArray[np.uint8]
    good: NDArray[np.bool_]


@dataclass(frozen=True)
class CellColumns:
    """What was measured of each case under one method at one budget."""

    flags: dict[str, NDArray[np.bool_]]
    numbers: dict[str, Number]


def case_columns(run: OpenRun) -> CaseColumns:
    """The columns of the cases, kept with the run."""
    return run.remembered("cases", lambda: _case_columns(run))


def verdicts(run: OpenRun, m: int, budget: int) -> Verdicts:
    """The outcomes of one method, by number, at one budget; kept with the run."""
    return run.remembered(f"verdicts {m} {budget}", lambda: _verdicts(run, m, budget))


def cell_columns(run: OpenRun, m: int, budget: int) -> CellColumns:
    """Flags and measures of one method, by number, at one budget; kept with the run."""
    return run.remembered(f"cell {m} {budget}", lambda: _cell_columns(run, m, budget))


def _case_columns(run: OpenRun) -> CaseColumns:
    names = ", ".join(f"f.{name}" for name in (*WORDS, *BOOLS, *NUMBERS))
    read = run.columns(f"SELECT f.ordinal, f.x, f.y, {names} FROM facts f ORDER BY f.ordinal")
    return CaseColumns(
        np.asarray(read["ordinal"], np.int32),
        {name: _words(read[name]) for name in WORDS},
        {name: np.ma.filled(np.ma.asarray(read[name]).astype(np.int8), -1) for name in BOOLS},
        {name: _number(read[name]) for name in NUMBERS},
        np.ma.filled(np.ma.asarray(read["x"], np.float32), np.nan),
        np.ma.filled(np.ma.asarray(read["y"], np.float32), np.nan),
    )


def _verdicts(run: OpenRun, m: int, budget: int) -> Verdicts:
    at, read = _cells(run, "verdict, good", m, budget)
    n = len(case_columns(run).ordinal)
    there = _spread(np.ones(len(at), bool), at, n, False)
    return Verdicts(there, _spread(read["verdict"], at, n, NONE), _spread(read["good"], at, n, False))


def _cell_columns(run: OpenRun, m: int, budget: int) -> CellColumns:
    at, read = _cells(run, ", ".join((*MEASURES, *FLAGS)), m, budget)
    n = len(case_columns(run).ordinal)
    flags = {name: _spread(np.ma.asarray(read[name]).astype(bool), at, n, False) for name in FLAGS}
    values = {name: _spread(np.ma.asarray(read[name]).astype(np.float64), at, n, np.nan) for name in MEASURES}
    return CellColumns(flags, {name: _number(values[name], whole=_range(run, name)) for name in MEASURES})


def _cells(run: OpenRun, names: str, m: int, budget: int) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """Columns of the cells of a method at a budget, and the place of each among all cases."""
    sql = f"SELECT ordinal, {names} FROM cells WHERE m = $1 AND budget = $2 ORDER BY ordinal"
    read = run.columns(sql, [m, budget])
    return np.searchsorted(case_columns(run).ordinal, np.asarray(read["ordinal"], np.int32)), read


def _spread(values: Any, at: NDArray[np.int64], n: int, empty: Any) -> Any:
    """Values at their places among ``n``, ``empty`` elsewhere and where they are masked."""
    plain = np.ma.filled(np.ma.asarray(values), empty)
    whole = np.full(n, empty, plain.dtype)
    whole[at] = plain
    return whole


def _range(run: OpenRun, name: str) -> tuple[float | None, float | None]:
    """Of a measure over all methods and budgets: two methods' histograms have one axis."""
    ends = ", ".join(f"min({n}) FILTER (isfinite({n})), max({n}) FILTER (isfinite({n}))" for n in MEASURES)
    row = run.remembered("ranges", lambda: run.query(f"SELECT {ends} FROM cells")[0])
    at = 2 * MEASURES.index(name)
    return row[at], row[at + 1]


def _words(values: Any) -> Words:
    texts = np.ma.filled(np.ma.asarray(values).astype(object), None)
    found: dict[str, int] = {}
    for text in texts:
        if text is not None:
            found[text] = found.get(text, 0) + 1
    names = sorted(found, key=lambda name: (-found[name], name))[:MOST_VALUES]
    code = {name: number for number, name in enumerate(names)}
    codes = [NONE if text is None else code.get(text, NONE - 1) for text in texts]
    return Words(names, np.asarray(codes, np.uint8))


def _number(values: Any, whole: tuple[float | None, float | None] | None = None) -> Number:
    plain = np.ma.filled(np.ma.asarray(values).astype(np.float64), np.nan)
    finite = np.isfinite(plain)
    if whole is None:
        whole = (float(plain[finite].min()), float(plain[finite].max())) if finite.any() else (None, None)
    low, high = whole
    bins = np.full(len(plain), NONE, np.uint8)
    if low is not None and high is not None:
        width = (high - low) / BINS or 1.0
        bins[finite] = np.clip((plain[finite] - low) / width, 0, BINS - 1).astype(np.uint8)
    return Number(np.where(finite, plain, np.nan), low, high, bins)


def outcome_counts(verdict: NDArray[np.uint8], chosen: NDArray[np.bool_]) -> dict[str, int]:
    """How many of the chosen cases have which outcome."""
    counts = np.bincount(verdict[chosen], minlength=NONE + 1)
    return {name: int(counts[at]) for at, name in enumerate(OUTCOMES) if counts[at]}
