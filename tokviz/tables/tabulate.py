"""The tables of one mined run: methods by slice, methods by budget, and each method against another with tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..names import UNPRUNED
from ..statistics import MIN_IMAGES, ImageBootstrap, Interval, Paired, compare_paired
from .results import Flags, Floats, Results, names_of
from .table import Cell, ResultTable, RowKind, TableRow

UNPRUNED_NAME = "No pruning"
RANDOM = "random"
INTERVALS = (
    "In brackets: 95% percentile intervals over resampled images, drawn with all their questions; "
    f"none for fewer than {MIN_IMAGES} images."
)
_BANDS = "± in a method's name: it is random, its numbers are means over {} seeds."


def by_slice(results: Results, column: str, budget: int | None = None) -> ResultTable:
    """Methods by slice at one budget.

    Args:
        results: The run.
        column: What slices the cases: a column of ``results.CATEGORIES`` or ``results.NUMBERS``.
        budget: One of the run's; the smallest where it is None.

    Raises:
        BadInput: For a column or budget that there is not.
    """
    budget = results.check_budget(budget)
    slices = results.slices(column)
    masks = np.stack([np.ones(results.n, dtype=bool), *(some.there for some in slices)])
    places = [{}, *(some.where for some in slices)]
    columns = ("all", *(f"{some.name} (n = {int(some.there.sum()):,})" for some in slices))
    points = {UNPRUNED: results.unpruned} | {key: results.points(key, budget) for key in _mined(results, budget)}
    rows = _rows(results, points, masks, [{"budget": budget, **place} for place in places])
    title = f"{results.name}: {results.unit}, by {column.replace('_', ' ')}, at {_tokens(results, budget)}"
    return ResultTable(title=title, head="method", columns=columns, rows=rows, notes=_notes(results))


def by_budget(results: Results) -> ResultTable:
    """Methods by budget, from large to small."""
    every = np.ones((1, results.n), dtype=bool)
    per_budget = []
    for budget in results.budgets:
        points = {UNPRUNED: results.unpruned} | {key: results.points(key, budget) for key in _mined(results, budget)}
        rows = _rows(results, points, every, [{"budget": budget}])
        per_budget.append({row.name: row for row in rows})
    names = list(dict.fromkeys(name for rows in per_budget for name in rows))
    missing = Cell(text="not mined")
    merged = []
    for name in names:
        first = next(rows[name] for rows in per_budget if name in rows)
        cells = tuple(rows[name].cells[0] if name in rows else missing for rows in per_budget)
        merged.append(TableRow(name=name, cells=cells, kind=first.kind))
    columns = tuple(_tokens(results, budget) for budget in results.budgets)
    title = f"{results.name}: {results.unit}, by budget"
    return ResultTable(title=title, head="method", columns=columns, rows=tuple(merged), notes=_notes(results))


def against(results: Results, budget: int | None = None, reference: str | None = None) -> ResultTable:
    """Every method against a reference on the same cases, with McNemar's exact test, corrected by Holm.

    A random method counts as right on a case where most of its seeds are. Cases that either failed on are left out.

    Args:
        results: The run.
        budget: One of the run's; the smallest where it is None.
        reference: Key of a method, ``"full"`` for the unpruned answers; random where it was mined, else ``"full"``.

    Raises:
        BadInput: For a budget or reference that there is not, or if scipy or statsmodels is not installed.
    """
    budget = results.check_budget(budget)
    mined = _mined(results, budget)
    if reference is None:
        reference = RANDOM if RANDOM in mined else UNPRUNED
    if reference != UNPRUNED:
        results.method(reference)
    names = {UNPRUNED: UNPRUNED_NAME, **names_of(results.methods)}
    right = {key: results.most_right(key, budget) for key in mined}
    right[UNPRUNED] = results.unpruned_right[0]
    others = [key for key in mined if key != reference]
    known: Flags = np.logical_and.reduce([~np.isnan(right[key]) for key in [*others, reference]])
    flags = {key: values[known] == 1 for key, values in right.items()}
    rows: list[TableRow] = []
    if known.any() and others:
        images = ImageBootstrap([image for image, there in zip(results.images, known, strict=True) if there])
        gaps = np.stack([100.0 * (flags[key].astype(float) - flags[reference]) for key in others])
        pairs = compare_paired(flags, [(key, reference) for key in others])
        for pair, gap in zip(pairs, images.intervals(gaps, np.ones_like(gaps)), strict=True):
            kind: RowKind = "control" if results.method(pair.first).kind == "control" else "method"
            cells = _test_cells(pair, gap, 100 * float(flags[pair.first].mean()), budget, names[reference])
            rows.append(TableRow(name=names[pair.first], cells=cells, kind=kind))
    other = names[reference]
    columns = ("right, %", "difference, points", "only it", f"only {other}", "p", "p (Holm)", "verdict")
    notes = (
        f"p: McNemar's exact test on {int(known.sum()):,} cases, two-sided; Holm: over the {len(others)} methods.",
        "The test takes cases as independent; the interval of the difference is over images.",
        *_notes(results)[1:],
    )
    title = f"{results.name}: each method against {other}, at {_tokens(results, budget)}"
    return ResultTable(title=title, head="method", columns=columns, rows=tuple(rows), notes=notes)


def _test_cells(pair: Paired, gap: Interval, right: float, budget: int, against: str) -> tuple[Cell, ...]:
    """A row of tests. right: percent; against: name of the reference."""
    place = {"method": pair.first, "budget": budget}
    only = ((pair.only_first, True), (pair.only_second, False))
    return (
        Cell(value=right, n=pair.n),
        Cell(value=gap.value, low=gap.low, high=gap.high, n=pair.n, refusal=gap.refusal),
        *(Cell(value=n, digits=0, n=n, where=place | _outcome(pair.second, first)) for n, first in only),
        Cell(value=pair.p, digits=4, refusal=pair.refusal),
        Cell(value=pair.p_holm, digits=4, refusal=pair.refusal),
        Cell(text=_verdict(pair, against)),
    )


def _rows(
    results: Results, points: dict[str, Floats], masks: Flags, places: Sequence[dict[str, Any]]
) -> tuple[TableRow, ...]:
    """A row per method with the mean points of each slice. Shape: points ``(n,)`` each, masks ``(slices, n)``."""
    names = {UNPRUNED: UNPRUNED_NAME, **names_of(results.methods)}
    counted = np.concatenate([masks & ~np.isnan(values) for values in points.values()])
    every = np.concatenate([np.broadcast_to(np.nan_to_num(values), masks.shape) for values in points.values()])
    filled: Flags = np.logical_or.reduce(counted, axis=1)
    intervals = ImageBootstrap(results.images).intervals((every * counted)[filled], counted[filled].astype(float))
    found = iter(intervals)
    known = [next(found) if there else None for there in filled]
    rows = []
    for number, key in enumerate(points):
        budget = places[0]["budget"]
        seeds = None if key == UNPRUNED else results.by_seed(key, budget)
        cells = []
        for at, place in enumerate(places):
            index = number * len(places) + at
            where = dict(place) if key == UNPRUNED else {"method": key, **place}
            cells.append(_cell(known[index], int(counted[index].sum()), where, seeds, masks[at]))
        kind: RowKind = "unpruned" if key == UNPRUNED else "method"
        if key != UNPRUNED and results.method(key).kind == "control":
            kind = "control"
        several = seeds is not None and len(seeds) > 1
        rows.append(TableRow(name=f"{names[key]} ±" if several else names[key], cells=tuple(cells), kind=kind))
    return tuple(rows)


def _cell(interval: Interval | None, n: int, where: dict[str, Any], seeds: Floats | None, mask: Flags) -> Cell:
    if interval is None:
        return Cell(n=0, where=where)
    band = None
    if seeds is not None and len(seeds) > 1:
        means = [float(np.nanmean(values[mask])) for values in seeds if not np.isnan(values[mask]).all()]
        band = (min(means), max(means)) if means else None
    low, high, refusal = interval.low, interval.high, interval.refusal
    return Cell(value=interval.value, low=low, high=high, band=band, n=n, where=where, refusal=refusal)


def _mined(results: Results, budget: int) -> list[str]:
    """Keys of the methods that have rows at a budget, in their order."""
    return [m.key for m in results.methods if m.id != UNPRUNED and len(results.by_seed(m.key, budget))]


def _outcome(reference: str, only_first: bool) -> dict[str, Any]:
    """The filter of cases that only one of two has right."""
    if reference == UNPRUNED:
        return {"outcome": "rescued" if only_first else "lost"}
    return {"right": only_first, "against": {"method": reference, "right": not only_first}}


def _verdict(pair: Paired, against: str) -> str:
    if pair.refusal is not None:
        return f"too few: {pair.refusal}"
    if pair.differs:
        return "more right" if pair.difference > 0 else "fewer right"
    wanted = f"; about {pair.needed:,} cases would show this difference" if pair.needed else ""
    return f"not told apart from {against}{wanted}"


def _tokens(results: Results, budget: int) -> str:
    n = results.n_tokens
    return f"{budget:,} of {n:,} tokens" if n else f"{budget:,} tokens"


def _notes(results: Results) -> tuple[str, ...]:
    """What must be known to read a table of means."""
    seeds = max((len(results.by_seed(m.key, b)) for m in results.methods for b in results.budgets), default=1)
    notes = [INTERVALS]
    if seeds > 1:
        notes.append(_BANDS.format(seeds))
    return (*notes, *left_out(results))


def left_out(results: Results) -> list[str]:
    """Sentences on cases and answers that are in no table."""
    notes = []
    if results.not_judged:
        notes.append(f"{results.name}: {results.not_judged:,} cases have no expected answer and are left out.")
    if results.missing:
        notes.append(f"{results.name}: {results.missing:,} answers failed and are left out.")
    return notes
