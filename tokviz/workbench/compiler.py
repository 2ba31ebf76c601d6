"""Filters as SQL: one boolean expression per condition over ``facts`` (alias ``f``).

Every value is a parameter. Names of columns come from the fixed lists of ``filters``, never from a request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import BadInput
from .filters import Filter, HasStatus, HasText, InLasso, IsOneOf, IsTrue, Labels, Outcome
from .run import GOOD, OUTCOMES

MOST_WORDS = 12
_TEXT_COLUMNS = {
    "question": ("question",),
    "answer": ("answer",),
    "expected": ("expected",),
    "id": ("case_id",),
    "all": ("question", "answer", "expected", "case_id"),
}


class Compiler:
    """Turns conditions into SQL. parameters: grows with each; ``labels`` says what people tagged."""

    def __init__(self, methods: Sequence[str], budgets: Sequence[int], labels: Labels | None = None):
        self.parameters: list[Any] = []
        self._methods = {key: number for number, key in enumerate(methods)}
        self._budgets = set(budgets)
        self._labels = labels or Labels()
        self._by_kind: Mapping[str, Callable[[Any], str]] = {
            "is": self._is,
            "bool": self._bool,
            "range": lambda c: self._between(f"f.{c.column}", c.low, c.high),
            "outcome": self._outcome,
            "measure": lambda c: self._in_cells(c, self._between(c.column, c.low, c.high)),
            "flag": lambda c: self._in_cells(c, f"coalesce({c.column}, false) = {self.value(c.value)}"),
            "text": self._text,
            "lasso": self._lasso,
            "tag": lambda c: self._ids(one for tag in c.values for one in self._labels.tags.get(tag, ())),
            "status": self._status,
            "note": lambda c: self._ids(self._labels.noted),
            "cases": lambda c: f"f.ordinal IN (SELECT unnest({self.value(list(c.ordinals))}::BIGINT[]))",
            "any": lambda c: "(" + " OR ".join(self.sql(one) for one in c.of) + ")",
        }

    def sql(self, condition: Any) -> str:
        """A boolean expression that is never NULL. Raises BadInput for a method or budget that was not mined."""
        holds = f"coalesce({self._by_kind[condition.kind](condition)}, false)"
        return f"(NOT {holds})" if condition.negate else holds

    def where(self, asked: Filter) -> str:
        """The whole filter as one expression."""
        return " AND ".join(self.sql(condition) for condition in asked.conditions) or "true"

    def value(self, value: Any) -> str:
        """The placeholder of a new parameter."""
        self.parameters.append(value)
        return f"${len(self.parameters)}"

    def place(self, method: str, budget: int) -> tuple[int, int]:
        """Number of a method and the budget, as ``cells`` holds them. Raises BadInput if they were not mined."""
        if method not in self._methods:
            raise BadInput(f"This run has no method {method[:80]!r}; it has {', '.join(self._methods)[:400]}.")
        if budget not in self._budgets:
            raise BadInput(f"This run has no budget {budget}; it has {', '.join(map(str, sorted(self._budgets)))}.")
        return self._methods[method], budget

    def _is(self, condition: IsOneOf) -> str:
        column, known = f"f.{condition.column}", [value for value in condition.values if value is not None]
        holds = f"{column} IN (SELECT unnest({self.value(known)}::VARCHAR[]))"
        return f"({holds} OR {column} IS NULL)" if None in condition.values else holds

    def _bool(self, condition: IsTrue) -> str:
        tests = {True: "f.{} = true", False: "f.{} = false", None: "f.{} IS NULL"}
        return "(" + (" OR ".join(tests[value].format(condition.column) for value in condition.values) or "false") + ")"

    def _between(self, column: str, low: float | None, high: float | None) -> str:
        ends = [f"{column} >= {self.value(low)}"] if low is not None else []
        ends += [f"{column} <= {self.value(high)}"] if high is not None else []
        return " AND ".join(ends) or f"{column} IS NOT NULL"

    def _in_cells(self, condition: Any, holds: str) -> str:
        m, budget = self.place(condition.method, condition.budget)
        there = f"m = {self.value(m)} AND budget = {self.value(budget)}"
        return f"f.ordinal IN (SELECT ordinal FROM cells WHERE {there} AND {holds})"

    def _outcome(self, condition: Outcome) -> str:
        names: set[str] = set()
        for result in condition.results:
            bad = {name for name in OUTCOMES if name not in GOOD and name != "error"}
            names |= {"right": set(GOOD), "not right": bad}.get(result, {result})
        count = "(" + " + ".join(f"n_{name}" for name in sorted(names)) + ")"
        return self._in_cells(
            condition,
            {"most": f"2 * {count} > seeds", "any": f"{count} > 0", "all": f"{count} = seeds"}[condition.seeds],
        )

    def _text(self, condition: HasText) -> str:
        words = condition.text.lower().split()[:MOST_WORDS]
        columns = _TEXT_COLUMNS[condition.where]

        def anywhere(word: str) -> str:
            value = self.value(word)
            return "(" + " OR ".join(f"coalesce(contains(lower(f.{c}), {value}), false)" for c in columns) + ")"

        return " AND ".join(map(anywhere, words)) or "true"

    def _lasso(self, condition: InLasso) -> str:
        """A ray from the point to the right crosses the polygon's edges an odd number of times."""
        corners = condition.polygon
        crossings = []
        for (x0, y0), (x1, y1) in zip(corners, (*corners[1:], corners[0]), strict=True):
            if y0 == y1:
                continue
            slope = (x1 - x0) / (y1 - y0)
            a, b, x, s = (self.value(float(v)) for v in (y0, y1, x0, slope))
            crossings.append(f"(({a} > f.y) != ({b} > f.y) AND f.x < {x} + {s} * (f.y - {a}))::INTEGER")
        return f"f.x IS NOT NULL AND ({' + '.join(crossings) or '0'}) % 2 = 1"

    def _status(self, condition: HasStatus) -> str:
        given = self._ids(one for status in condition.values for one in self._labels.statuses.get(status, ()))
        if "unreviewed" not in condition.values:
            return given
        reviewed = self._ids(one for ids in self._labels.statuses.values() for one in ids)
        return f"({given} OR NOT {reviewed})"

    def _ids(self, ids: Any) -> str:
        return f"f.case_id IN (SELECT unnest({self.value(list(ids))}::VARCHAR[]))"
