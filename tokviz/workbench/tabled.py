"""The tables of a filtered set, whose cells open the cases they are made of. What is in them is ``tokviz.tables``'."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from ..errors import BadInput
from ..mining.mined import open_run
from ..tables import CATEGORIES, NUMBERS, Cell, Results, ResultTable, against, by_budget, by_slice, retention
from .filters import Filter, about_cases, parsed
from .queries import Found
from .run import OpenRun

Kind = Literal["budget", "slice", "against", "retention"]


def slice_columns() -> list[str]:
    """Columns by which tables slice the cases."""
    return [*CATEGORIES, *NUMBERS]


def result_table(
    run: OpenRun, found: Found, kind: Kind, budget: int, by: str = "family", reference: str | None = None
) -> ResultTable:
    """A table of the cases that a filter finds, its conditions on methods left out (``about_cases``).

    Args:
        kind: Methods by budget, methods by slice at one budget, every method against a reference at one budget, or
            retention in the shape of the papers' Table 1.
        by: What slices the cases: one of ``slice_columns``.
        reference: As of ``tokviz.tables.against``.

    Raises BadInput where it cannot be made.
    """
    if by not in slice_columns():
        raise BadInput(f"Cases are sliced by {', '.join(slice_columns())}, not by {by[:60]!r}.")
    plain = about_cases(found.asked)
    if plain != found.asked:
        found = Found(run, plain, found.labels)
    if not len(found):
        raise BadInput("No case fits the filters on cases, so there is nothing to count.")
    results = _results(run, found)
    makers = {
        "budget": lambda: by_budget(results),
        "slice": lambda: by_slice(results, by, budget),
        "against": lambda: against(results, budget, reference),
        "retention": lambda: retention([results], by),
    }
    return makers[kind]()


def _results(run: OpenRun, found: Found) -> Results:
    """Read once for all cases; a filtered set is read again, as it is another set of pandas' columns."""
    everything = len(found) == len(run.query("SELECT ordinal FROM facts"))

    def read() -> Results:
        mined = open_run(run.folder)
        return Results(mined) if everything else Results(mined, case_ids=set(run.ids_of(found.ordinals_found)))

    return run.remembered("results", read) if everything else read()


def cell_conditions(cell: Cell) -> list[dict[str, Any]] | None:
    """The filter that opens a cell, as data: of a method's cell the answers that it lost, of the unpruned model's those
    that are wrong; what ``against`` counts as it says. None for a cell that is made of no cases.
    """
    if cell.where is None:
        return None
    place = dict(cell.where)
    method, budget = place.pop("method", None), place.pop("budget", None)
    conditions = []
    if method is not None and budget is not None:
        conditions += _of_method(place, method, budget)
    for column, value in place.items():
        conditions.append(_of_case(column, value))
    if method is None and budget is not None:
        conditions.append({"kind": "bool", "column": "right", "values": [False]})
    parsed({"conditions": conditions}, Filter, "The cell")
    return conditions


def _of_method(place: dict[str, Any], method: str, budget: int) -> list[dict[str, Any]]:
    about = {"kind": "outcome", "method": method, "budget": budget}
    outcome, right, other = (place.pop(name, None) for name in ("outcome", "right", "against"))
    if outcome is not None:
        return [{**about, "results": [outcome]}]
    if right is not None and isinstance(other, Mapping):
        its = {**about, "method": other["method"], "results": ["right"], "negate": not other["right"]}
        return [{**about, "results": ["right"], "negate": not right}, its]
    return [{**about, "results": ["lost", "differs"]}]


def _of_case(column: str, value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        low = None if value.get("low") is None else math.nextafter(value["low"], math.inf)
        return {"kind": "range", "column": column, "low": low, "high": value.get("high")}
    if isinstance(value, bool):
        return {"kind": "bool", "column": column, "values": [value]}
    return {"kind": "is", "column": column, "values": [value]}


def table_json(table: ResultTable) -> dict[str, Any]:
    """A table as data for the browser."""
    rows = [
        {
            "name": row.name,
            "kind": row.kind,
            "group": row.group,
            "source": row.source,
            "cells": [_cell_json(cell) for cell in row.cells],
        }
        for row in table.rows
    ]
    return {"title": table.title, "head": table.head, "columns": table.columns, "rows": rows, "notes": table.notes}


def _cell_json(cell: Cell) -> dict[str, Any]:
    conditions = cell_conditions(cell)
    return {
        "text": cell.text if cell.value is None else f"{cell.value:.{cell.digits}f} {cell.text}".rstrip(),
        "value": cell.value,
        "low": cell.low,
        "high": cell.high,
        "band": cell.band,
        "n": cell.n,
        "refusal": None if cell.refusal is None else str(cell.refusal),
        "conditions": conditions,
        "budget": None if cell.where is None else cell.where.get("budget"),
    }
