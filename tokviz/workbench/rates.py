"""Tables of how often methods are right, by budget and by slice. Every cell says which cases it counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .columns import case_columns, verdicts
from .filters import Compiler, Condition, Filter, IsOneOf, Labels, Outcome
from .manifest import shown_method
from .queries import Found
from .run import OUTCOMES, OpenRun
from .slices import about_cases

MOST_FAMILIES = 20
_LOST = OUTCOMES.index("lost")
_DIFFERS = OUTCOMES.index("differs")


@dataclass(frozen=True)
class Rate:
    """A cell: right on how many of how many cases, how many answers were lost, and the filter that finds those."""

    n: int
    right: int
    lost: int
    budget: int
    conditions: tuple[Any, ...]

    def to_json(self) -> dict[str, Any]:
        """As data for the browser."""
        conditions = [condition.model_dump(mode="json") for condition in self.conditions]
        return {**vars(self), "conditions": conditions}


@dataclass(frozen=True)
class RateTable:
    """Methods in rows. columns: names, each with the number of its cases where the columns are slices."""

    title: str
    note: str
    columns: tuple[tuple[str, int | None], ...]
    rows: tuple[tuple[str, tuple[Rate, ...]], ...]

    def to_json(self) -> dict[str, Any]:
        """As data for the browser."""
        columns = [{"name": name} if n is None else {"name": name, "n": n} for name, n in self.columns]
        rows = [{"name": name, "cells": [cell.to_json() for cell in cells]} for name, cells in self.rows]
        return {"title": self.title, "note": self.note, "columns": columns, "rows": rows}


def budget_table(run: OpenRun, asked: Filter, labels: Labels | None = None) -> RateTable:
    """Methods by budgets, on the filtered cases; conditions on what methods did are left out, see ``about_cases``."""
    members = _members(run, about_cases(asked), labels)
    budgets = sorted(run.manifest.budgets, reverse=True)

    def cells(key: str) -> tuple[Rate, ...]:
        return tuple(_rate(run, key, budget, members, ()) for budget in budgets)

    note = f"Share of {int(np.count_nonzero(members)):,} cases that a method answers right (of most seeds)."
    columns = tuple((f"{budget} tokens", None) for budget in budgets)
    return RateTable("Methods by budget", f"{note} A cell opens the answers it lost.", columns, _rows(run, cells))


def slice_table(
    run: OpenRun,
    asked: Filter,
    budget: int,
    saved: Sequence[tuple[str, Filter]] = (),
    labels: Labels | None = None,
) -> RateTable:
    """Methods by question family and saved slice, at one budget, on the filtered cases as of ``budget_table``."""
    everything = _members(run, about_cases(asked), labels)
    family = case_columns(run).words["family"]
    slices: list[tuple[str, tuple[Condition, ...], NDArray[np.bool_]]] = [("all", (), everything)]
    for code, name in enumerate(family.names[:MOST_FAMILIES]):
        slices.append((name, (IsOneOf(column="family", values=(name,)),), everything & (family.codes == code)))
    for name, its in saved:
        slices.append((name, about_cases(its).conditions, everything & _members(run, about_cases(its), labels)))
    slices = [one for one in slices if one[2].any()]

    def cells(key: str) -> tuple[Rate, ...]:
        return tuple(_rate(run, key, budget, members, conditions) for _, conditions, members in slices)

    columns = tuple((name, int(np.count_nonzero(members))) for name, _, members in slices)
    note = "Share of the slice that a method answers right (of most seeds). A cell opens the answers it lost."
    return RateTable(f"Methods by slice, at {budget} tokens", note, columns, _rows(run, cells))


def _members(run: OpenRun, asked: Filter, labels: Labels | None) -> NDArray[np.bool_]:
    return np.isin(case_columns(run).ordinal, Found(run, asked, labels).ordinals_found)


def _rows(run: OpenRun, cells: Callable[[str], tuple[Rate, ...]]) -> tuple[tuple[str, tuple[Rate, ...]], ...]:
    return tuple((shown_method(method), cells(method.key)) for method in run.manifest.methods)


def _rate(run: OpenRun, key: str, budget: int, members: NDArray[np.bool_], conditions: tuple[Condition, ...]) -> Rate:
    found = verdicts(run, *Compiler(run.methods, run.manifest.budgets).place(key, budget))
    inside = members & found.there
    lost = int(np.count_nonzero(np.isin(found.verdict[inside], (_LOST, _DIFFERS))))
    which = Outcome(method=key, budget=budget, results=("lost", "differs"))
    right = int(np.count_nonzero(found.good[inside]))
    return Rate(int(np.count_nonzero(inside)), right, lost, budget, (*conditions, which))
