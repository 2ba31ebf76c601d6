"""The tables of one mined run: methods by slice, methods by budget, and each method against another with tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..errors import BadInput
from ..names import UNPRUNED
from ..statistics import MIN_IMAGES, ImageBootstrap, Interval, Paired, compare_paired
from .results import Flags, Floats, Results, names_of
from .table import Cell, ResultTable, RowKind, TableRow

UNPRUNED_NAME = "No pruning"
RANDOM = "random"
_MOST_NAMED = 6
INTERVALS = (
    "Intervals: 95%, percentiles over resampled images, drawn with all their questions; "
    f"none for fewer than {MIN_IMAGES} images."
)
_BANDS = "± in a method's name: it is random, its numbers are means over {} seeds."
IN_BAND = "~"
_IN_BAND = "~: between the lowest and the highest seed of random, so not told apart from chance here."


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
    return ResultTable(title=title, head="method", columns=columns, rows=rows, notes=_notes(results, rows))


def by_budget(results: Results) -> ResultTable:
    """Methods by budget, from large to small."""
    every = np.ones((1, results.n), dtype=bool)
    per_budget = []
    for budget in results.budgets:
        points = {UNPRUNED: results.unpruned} | {key: results.points(key, budget) for key in _mined(results, budget)}
        rows = _rows(results, points, every, [{"budget": budget}])
        per_budget.append({row.name: row for row in rows})
    names = list(dict.fromkeys(name for rows in per_budget for name in rows))
    failed = {(names_of(results.methods)[key], budget) for key, budget in results.missing}
    merged = []
    for name in names:
        first = next(rows[name] for rows in per_budget if name in rows)
        cells = tuple(
            rows[name].cells[0] if name in rows else Cell(text="failed" if (name, budget) in failed else "not mined")
            for budget, rows in zip(results.budgets, per_budget, strict=True)
        )
        merged.append(TableRow(name=name, cells=cells, kind=first.kind))
    columns = tuple(_tokens(results, budget) for budget in results.budgets)
    title = f"{results.name}: {results.unit}, by budget"
    return ResultTable(title=title, head="method", columns=columns, rows=tuple(merged), notes=_notes(results, merged))


def against(results: Results, budget: int | None = None, reference: str | None = None) -> ResultTable:
    """Every method against a reference on the same cases, with McNemar's exact test, corrected by Holm.

    A random method counts as right on a case where most of its seeds are. Cases that one of a pair failed on are left
    out of it.

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
    if reference != UNPRUNED and results.method(reference).key not in mined:
        raise BadInput(f"{reference} has no answers at {budget} tokens, so nothing can be tested against it.")
    names = {UNPRUNED: UNPRUNED_NAME, **names_of(results.methods)}
    right = {key: results.most_right(key, budget) for key in mined}
    right[UNPRUNED] = results.unpruned_right[0]
    others = [key for key in mined if key != reference]
    rows: list[TableRow] = []
    pairs = compare_paired(right, [(key, reference) for key in others])
    for pair, gap in zip(pairs, _gaps(results, right, pairs), strict=True):
        kind: RowKind = "control" if results.method(pair.first).kind == "control" else "method"
        cells = _test_cells(pair, gap, 100 * float(np.nanmean(right[pair.first])), budget, names[reference])
        rows.append(TableRow(name=names[pair.first], cells=cells, kind=kind))
    other = names[reference]
    columns = ("right, %", "difference, points", "only it", f"only {other}", "p", "p (Holm)", "verdict")
    notes = (
        f"p: McNemar's exact test, two-sided, on {_range(pair.n for pair in pairs)} cases; Holm: over the "
        f"{len(others)} methods.",
        "The test takes cases as independent; the interval of the difference is over images.",
        *left_out(results),
    )
    title = f"{results.name}: each method against {other}, at {_tokens(results, budget)}"
    return ResultTable(title=title, head="method", columns=columns, rows=tuple(rows), notes=notes)


def _gaps(results: Results, right: dict[str, Floats], pairs: Sequence[Paired]) -> list[Interval | None]:
    """The difference of each pair in points, with its interval over images; None where no case has both answers."""
    gaps = [100 * (right[pair.first] - right[pair.second]) for pair in pairs]
    filled = np.array([gap for gap, pair in zip(gaps, pairs, strict=True) if pair.n]).reshape(-1, results.n)
    known = (~np.isnan(filled)).astype(float)
    found = iter(ImageBootstrap(results.images).intervals(np.nan_to_num(filled), known) if len(filled) else ())
    return [next(found) if pair.n else None for pair in pairs]


def _range(numbers: Iterable[int]) -> str:
    """The smallest and the largest of some numbers."""
    every = sorted(set(numbers)) or [0]
    return f"{every[0]:,}" if len(every) == 1 else f"{every[0]:,} to {every[-1]:,}"


def _test_cells(pair: Paired, gap: Interval | None, right: float, budget: int, against: str) -> tuple[Cell, ...]:
    """A row of tests. right: percent; against: name of the reference."""
    place = {"method": pair.first, "budget": budget}
    only = ((pair.only_first, True), (pair.only_second, False))
    return (
        Cell(value=right, n=pair.n),
        Cell() if gap is None else Cell(value=gap.value, low=gap.low, high=gap.high, n=pair.n, refusal=gap.refusal),
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
    chance = next((row for key, row in zip(points, rows, strict=True) if key == RANDOM), None)
    return tuple(rows if chance is None else [_beside(row, chance) for row in rows])


def _beside(row: TableRow, chance: TableRow) -> TableRow:
    """A method's row with a mark on cells that lie in the band of random's seeds."""
    if row.kind != "method":
        return row
    inside = [
        cell.value is not None and other.band is not None and other.band[0] <= cell.value <= other.band[1]
        for cell, other in zip(row.cells, chance.cells, strict=True)
    ]
    marked = (
        c.model_copy(update={"text": IN_BAND}) if there else c for c, there in zip(row.cells, inside, strict=True)
    )
    return row.model_copy(update={"cells": tuple(marked)})


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


def _notes(results: Results, rows: Sequence[TableRow]) -> tuple[str, ...]:
    """What must be known to read a table of means."""
    seeds = max((len(results.by_seed(m.key, b)) for m in results.methods for b in results.budgets), default=1)
    notes = [INTERVALS]
    if seeds > 1:
        notes.append(_BANDS.format(seeds))
    if any(cell.text == IN_BAND for row in rows for cell in row.cells):
        notes.append(_IN_BAND)
    return (*notes, *left_out(results))


def left_out(results: Results) -> list[str]:
    """Sentences on cases and answers that are in no table."""
    notes = []
    if results.not_judged:
        notes.append(f"{results.name}: {results.not_judged:,} cases have no expected answer and are left out.")
    names = names_of(results.methods)
    alike: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for (key, budget), count in results.missing.items():
        alike.setdefault((key, results.reasons[key, budget]), []).append((budget, count))
    told = [
        f"{names[key]} at {_listed(budget for budget, _ in some)}, {_answers(sum(n for _, n in some))}: {why}"
        for (key, why), some in alike.items()
    ]
    if told:
        more = [f"And {len(told) - _MOST_NAMED} more methods or reasons."] if len(told) > _MOST_NAMED else []
        shown = " ".join([*told[:_MOST_NAMED], *more])
        notes.append(f"{results.name}: answers that failed are left out. {shown}")
    return notes


def _listed(budgets: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(budgets, reverse=True)))


def _answers(count: int) -> str:
    return "1 answer" if count == 1 else f"{count:,} answers"
