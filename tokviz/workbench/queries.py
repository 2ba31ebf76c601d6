"""Which cases a filter finds, in which order, and the counts of every facet beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput
from .columns import BINS, NONE, CaseColumns, Number, case_columns, cell_columns, outcome_counts, verdicts
from .compiler import Compiler
from .filters import Filter, Labels, Sort
from .run import OUTCOMES, OpenRun

PAGE = 60
"""Cards of a page."""
MOST_COUNTED = 60
"""Values of a facet that are counted, the most frequent first."""
MOST_POINTS = 200_000


@dataclass(frozen=True)
class Facets:
    """Counts beside a filter. Each facet is counted without the conditions on itself, so that its other values show
    what choosing them would give.

    Attributes:
        total: Cases in the run.
        found: Cases of the filter.
        outcomes: By method, at one budget: how many cases have which outcome (of most seeds).
        words: By column: pairs of a value (None: none) and its count, the most frequent first.
        flags: By name: counts of yes, no and not known (None) of a case's flags; of a method's flags, of yes.
        numbers: By column: ``low``, ``high``, ``counts`` of ``BINS`` bins, and ``missing``.
        tags, statuses: What people gave, with counts.
        noted: Cases with a note.
    """

    total: int
    found: int
    outcomes: dict[str, dict[str, int]]
    words: dict[str, list[tuple[str | None, int]]]
    flags: dict[str, dict[str, int]]
    numbers: dict[str, dict[str, Any]]
    tags: list[tuple[str, int]]
    statuses: dict[str, int]
    noted: int


class Found:
    """The cases of a filter. Computed once: which conditions fail is a bit mask per case, ``(n,)`` uint64.

    Raises BadInput for a method or budget that was not mined.
    """

    def __init__(self, run: OpenRun, asked: Filter, labels: Labels | None = None):
        self.run, self.asked, self.labels = run, asked, labels or Labels()
        self._abouts = [condition.about for condition in asked.conditions]
        self._columns: CaseColumns = case_columns(run)
        self._fails = self._mask()
        self.ordinals_found = self._columns.ordinal[self._fails == 0]

    def __len__(self) -> int:
        """How many cases the filter finds."""
        return len(self.ordinals_found)

    def _mask(self) -> NDArray[np.uint64]:
        if not self.asked.conditions:
            return np.zeros(len(self._columns.ordinal), np.uint64)
        compiler = self._compiler()
        conditions = [compiler.sql(condition) for condition in self.asked.conditions]
        bits = " + ".join(f"(NOT {sql})::UBIGINT * {1 << at}" for at, sql in enumerate(conditions))
        read = self.run.columns(
            f"SELECT f.ordinal, {bits} AS fails FROM facts f ORDER BY f.ordinal", compiler.parameters
        )
        return np.asarray(read["fails"], np.uint64)

    def _compiler(self) -> Compiler:
        return Compiler(self.run.methods, self.run.manifest.budgets, self.labels)

    def _without(self, about: str) -> NDArray[np.bool_]:
        """Cases for which all conditions hold but those about a facet ``(n,)``."""
        own = sum(1 << at for at, one in enumerate(self._abouts) if one == about)
        return (self._fails & ~np.uint64(own)) == 0

    # --- order -------------------------------------------------------------------------------------------------------

    def ordinals(self, sort: Sort | None = None) -> NDArray[np.int32]:
        """The cases in order, by their place in the case file; those without the number that sorts come last."""
        sort = sort or Sort()
        if sort.column == "ordinal":
            return self.ordinals_found[::-1] if sort.descending else self.ordinals_found
        if sort.column in ("family", "question", "case_id"):
            return self._by_text(sort)
        if sort.column == "losses":
            return self._by_losses(sort)
        if sort.method is None:
            values = self._columns.numbers[sort.column].values
        else:
            m, budget = self._compiler().place(sort.method, sort.budget or 0)
            values = cell_columns(self.run, m, budget).numbers[sort.column].values
        chosen = values[self._fails == 0]
        return self.ordinals_found[np.argsort(-chosen if sort.descending else chosen, kind="stable")]

    def _by_losses(self, sort: Sort) -> NDArray[np.int32]:
        budget = min(self.run.manifest.budgets) if sort.budget is None else sort.budget
        shown, every = (
            self._losses(methods, budget) for methods in (sort.methods or self.run.methods, self.run.methods)
        )
        sign = -1 if sort.descending else 1
        order = np.lexsort((sign * every, sign * shown))  # stable: the last key counts first
        return self.ordinals_found[order]

    def _losses(self, methods: Sequence[str], budget: int) -> NDArray[np.int64]:
        """How many methods lose each of the cases ``(found,)``: wrong where right before, or other than before."""
        place, lost = self._compiler().place, [OUTCOMES.index(name) for name in ("lost", "differs")]
        found = [np.isin(verdicts(self.run, *place(key, budget)).verdict, lost)[self._fails == 0] for key in methods]
        return np.sum(found, axis=0, dtype=np.int64)

    def _by_text(self, sort: Sort) -> NDArray[np.int32]:
        way = "DESC" if sort.descending else "ASC"
        sql = f"SELECT f.ordinal FROM facts f ORDER BY f.{sort.column} {way} NULLS LAST, f.ordinal"
        key = f"order {sort.column} {way}"
        order = self.run.remembered(key, lambda: np.asarray(self.run.columns(sql)["ordinal"], np.int32))
        return order[np.isin(order, self.ordinals_found)]

    def neighbours(self, ordinal: int, sort: Sort | None = None) -> dict[str, int | None]:
        """Where a case stands: ``at`` (from 0), ``of``, and the cases ``before`` and ``after`` it.

        A case that the filter does not find (any more) has no place: ``at`` is None and ``after`` is the first.
        """
        order = self.ordinals(sort)
        places = np.flatnonzero(order == ordinal)
        if not len(places):
            return {"at": None, "of": len(order), "before": None, "after": int(order[0]) if len(order) else None}
        at = int(places[0])
        after = int(order[at + 1]) if at + 1 < len(order) else None
        return {"at": at, "of": len(order), "before": int(order[at - 1]) if at else None, "after": after}

    # --- facets ------------------------------------------------------------------------------------------------------

    def facets(self, budget: int, focus: str) -> Facets:
        """Count every facet at a budget; flags and measures of rows are those of the method ``focus``."""
        compiler = self._compiler()
        cells = cell_columns(self.run, *compiler.place(focus, budget))
        return Facets(
            len(self._columns.ordinal),
            len(self),
            {key: self._outcomes(key, *compiler.place(key, budget)) for key in self.run.methods},
            {name: self._words(name) for name in self._columns.words},
            {name: self._bools(name) for name in self._columns.bools}
            | {f"row.{name}": self._flag(name, focus, budget, flag) for name, flag in cells.flags.items()},
            {name: self._histogram(name, number) for name, number in self._columns.numbers.items()}
            | {
                f"row.{name}": self._histogram(f"{name}@{focus}@{budget}", number)
                for name, number in cells.numbers.items()
            },
            *self._given(),
        )

    def _outcomes(self, key: str, m: int, budget: int) -> dict[str, int]:
        return outcome_counts(verdicts(self.run, m, budget).verdict, self._without(f"outcome@{key}@{budget}"))

    def _words(self, name: str) -> list[tuple[str | None, int]]:
        column = self._columns.words[name]
        counts = np.bincount(column.codes[self._without(name)], minlength=NONE + 1)
        found = [(value, int(counts[code])) for code, value in enumerate(column.names) if counts[code]]
        found.sort(key=lambda pair: -pair[1])
        rest: list[tuple[str | None, int]] = [(None, int(counts[NONE]))] if counts[NONE] else []
        return [*found[:MOST_COUNTED], *rest]

    def _bools(self, name: str) -> dict[str, int]:
        counts = np.bincount(self._columns.bools[name][self._without(name)] + 1, minlength=3)
        return {"none": int(counts[0]), "no": int(counts[1]), "yes": int(counts[2])}

    def _flag(self, name: str, focus: str, budget: int, flag: NDArray[np.bool_]) -> dict[str, int]:
        return {"yes": int(np.count_nonzero(flag & self._without(f"{name}@{focus}@{budget}")))}

    def _histogram(self, about: str, number: Number) -> dict[str, Any]:
        counts = np.bincount(number.bins[self._without(about)], minlength=NONE + 1)
        return {
            "low": number.low,
            "high": number.high,
            "counts": counts[:BINS].tolist(),
            "missing": int(counts[NONE]),
        }

    def _given(self) -> tuple[list[tuple[str, int]], dict[str, int], int]:
        """Tags, statuses and notes with counts."""
        tags = [(tag, self._among(ids, "tag")) for tag, ids in sorted(self.labels.tags.items())]
        statuses = {status: self._among(ids, "status") for status, ids in self.labels.statuses.items()}
        rest = int(np.count_nonzero(self._without("status"))) - sum(statuses.values())
        return tags, {"unreviewed": rest, **statuses}, self._among(self.labels.noted, "note")

    def _among(self, ids: Sequence[str], about: str) -> int:
        if not ids:
            return 0
        places = self.run.places_of(ids)
        return int(np.count_nonzero(self._without(about)[places]))


def count(run: OpenRun, asked: Filter, labels: Labels | None = None) -> int:
    """How many cases a filter finds."""
    compiler = Compiler(run.methods, run.manifest.budgets, labels)
    where = compiler.where(asked)
    return int(run.query(f"SELECT count(*) FROM facts f WHERE {where}", compiler.parameters)[0][0])


def points(run: OpenRun, budget: int, focus: str) -> dict[str, Any]:
    """The map: ordinals ``(n,)`` int32, x and y ``(n,)`` float32, and per point the outcome of a method and its family.

    Cases without a place are left out. Raises BadInput where there is no map, or it is too large to draw.
    """
    outcome = verdicts(run, *Compiler(run.methods, run.manifest.budgets).place(focus, budget))
    columns = case_columns(run)
    there = np.isfinite(columns.x) & np.isfinite(columns.y)
    n = int(np.count_nonzero(there))
    if n == 0:
        raise BadInput("This run has no map: it is made while mining, unless tokviz mine was told not to.")
    if n > MOST_POINTS:
        raise BadInput(f"The map has {n:,} points; at most {MOST_POINTS:,} are drawn.")
    family = columns.words["family"]
    return {
        "ordinal": columns.ordinal[there].astype("<i4"),
        "x": columns.x[there].astype("<f4"),
        "y": columns.y[there].astype("<f4"),
        "verdict": outcome.verdict[there],
        "family": family.codes[there],
        "families": family.names,
    }
