"""Conditions on cases, as data: page, address, slice and script all say them alike. A filter is all of them.

Each condition becomes one boolean SQL expression over ``facts`` (alias ``f``); every value is a parameter. Names of
columns come from the fixed lists of ``run``, never from a request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ..errors import BadInput
from .run import GOOD, OUTCOMES

Word = Literal["family", "split", "metric", "answer", "model", "expected"]
Bool = Literal["right", "difficult", "is_video"]
Number = Literal[
    "margin",
    "score",
    "logprob",
    "cls_entropy",
    "effective_rank",
    "evidence_size",
    "evidence_tokens",
    "n_tokens",
    "ordinal",
]
Measure = Literal[
    "score",
    "margin",
    "logprob",
    "reference_logprob",
    "n_kept",
    "n_final",
    "average_tokens",
    "evidence_kept",
    "evidence_absorbed",
    "evidence_lost",
    "evidence_gone_layer",
    "agreement",
    "flip_budget",
    "effective_rank",
]
Flag = Literal["only_failure", "all_failed", "random_beats_it", "flipped"]
Result = Literal["kept", "lost", "rescued", "changed", "wrong", "same", "differs", "error", "right", "not right"]
Status = Literal["unreviewed", "confirmed", "dismissed", "unclear"]
STATUSES: tuple[str, ...] = get_args(Status)
MOST_CONDITIONS = 60
MOST_WORDS = 12
_TEXT_COLUMNS = {
    "question": ("question",),
    "answer": ("answer",),
    "expected": ("expected",),
    "id": ("case_id",),
    "all": ("question", "answer", "expected", "case_id"),
}


class _Condition(BaseModel):
    """Base. negate: cases for which it does not hold."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    negate: bool = False

    @property
    def about(self) -> str:
        """What the condition is about: a facet of the same name is counted without it."""
        raise NotImplementedError


class IsOneOf(_Condition):
    """A word of the case is one of ``values``; None among them: it has none."""

    kind: Literal["is"] = "is"
    column: Word
    values: tuple[str | None, ...] = Field(max_length=200)

    @property
    def about(self) -> str:
        """The column."""
        return self.column


class IsTrue(_Condition):
    """A yes-or-no column has one of these values; None among them: it is not known."""

    kind: Literal["bool"] = "bool"
    column: Bool
    values: tuple[bool | None, ...] = Field(max_length=3)

    @property
    def about(self) -> str:
        """The column."""
        return self.column


class Within(_Condition):
    """A number of the case lies in ``[low, high]``; an open end is None. Cases without the number are left out."""

    kind: Literal["range"] = "range"
    column: Number
    low: float | None = None
    high: float | None = None

    @property
    def about(self) -> str:
        """The column."""
        return self.column


class _OfMethod(_Condition):
    method: str = Field(max_length=300)
    budget: int

    @property
    def about(self) -> str:
        """The method and budget, with what is asked of them."""
        return f"{getattr(self, 'column', 'outcome')}@{self.method}@{self.budget}"


class Outcome(_OfMethod):
    """What became of the answer under a method. "right": kept, rescued or same; "not right": anything else that ran.

    seeds: whether it must be so for most of the seeds (more than half), for any, or for all of them.
    """

    kind: Literal["outcome"] = "outcome"
    results: tuple[Result, ...] = Field(min_length=1, max_length=10)
    seeds: Literal["most", "any", "all"] = "most"


class MeasureWithin(_OfMethod):
    """A number of a method's row lies in ``[low, high]``, as of ``Within``; the mean over its seeds."""

    kind: Literal["measure"] = "measure"
    column: Measure
    low: float | None = None
    high: float | None = None


class HasFlag(_OfMethod):
    """A flag of a method's row is set, for any of its seeds."""

    kind: Literal["flag"] = "flag"
    column: Flag
    value: bool = True


class HasText(_Condition):
    """Every word of ``text`` occurs, whatever its case, in one of the columns: "all" looks into each of them."""

    kind: Literal["text"] = "text"
    text: str = Field(min_length=1, max_length=400)
    where: Literal["all", "question", "answer", "expected", "id"] = "all"

    @property
    def about(self) -> str:
        """The text search."""
        return "text"


class InLasso(_Condition):
    """The case lies inside a polygon on the map, given by its corners (x, y)."""

    kind: Literal["lasso"] = "lasso"
    polygon: tuple[tuple[float, float], ...] = Field(min_length=3, max_length=120)

    @property
    def about(self) -> str:
        """The map."""
        return "map"


class HasTag(_Condition):
    """People gave the case one of these tags."""

    kind: Literal["tag"] = "tag"
    values: tuple[str, ...] = Field(min_length=1, max_length=100)

    @property
    def about(self) -> str:
        """The tags."""
        return "tag"


class HasStatus(_Condition):
    """The case's review has one of these states."""

    kind: Literal["status"] = "status"
    values: tuple[Status, ...] = Field(min_length=1)

    @property
    def about(self) -> str:
        """The status."""
        return "status"


class HasNote(_Condition):
    """Somebody wrote a note on the case."""

    kind: Literal["note"] = "note"

    @property
    def about(self) -> str:
        """The notes."""
        return "note"


class IsCase(_Condition):
    """The case is one of these, by its place in the case file."""

    kind: Literal["cases"] = "cases"
    ordinals: tuple[int, ...] = Field(max_length=20_000)

    @property
    def about(self) -> str:
        """The selection."""
        return "cases"


class AnyOf(_Condition):
    """At least one of several conditions holds."""

    kind: Literal["any"] = "any"
    of: tuple[Condition, ...] = Field(min_length=1, max_length=20)

    @property
    def about(self) -> str:
        """Nothing that has a facet."""
        return "any"


Condition = Annotated[
    IsOneOf | IsTrue | Within | Outcome | MeasureWithin | HasFlag | HasText | InLasso | HasTag | HasStatus | HasNote
    | IsCase | AnyOf,
    Field(discriminator="kind"),
]  # fmt: skip
AnyOf.model_rebuild()


class Filter(BaseModel):
    """Cases for which all conditions hold; without any, all cases."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    conditions: tuple[Condition, ...] = Field(default=(), max_length=MOST_CONDITIONS)

    def also(self, *more: Condition) -> Filter:
        """The filter with further conditions."""
        return Filter(conditions=(*self.conditions, *more))


def condition_about_methods(condition: Any) -> bool:
    """Whether a condition asks what a method did, also inside of "any of"."""
    parts = getattr(condition, "of", ())
    return condition.kind in ("outcome", "measure", "flag") or any(map(condition_about_methods, parts))


def about_cases(asked: Filter) -> Filter:
    """A filter without its conditions on what methods did.

    Cases that were chosen by their outcome prove nothing about it: tables and tests are made of all the others.
    """
    return Filter(conditions=tuple(one for one in asked.conditions if not condition_about_methods(one)))


class Sort(BaseModel):
    """The order of cases: by a number of the case, or of a method's row; cases without it come last.

    column "ordinal" is the order of the case file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: Number | Measure | Literal["family", "question", "case_id"] = "ordinal"
    method: str | None = None
    budget: int | None = None
    descending: bool = False

    @field_validator("method")
    @classmethod
    def _not_endless(cls, value: str | None) -> str | None:
        if value is not None and len(value) > 300:
            raise ValueError("too long")
        return value

    @model_validator(mode="after")
    def _has_place(self) -> Sort:
        if self.method is None and self.column not in (*get_args(Number), "family", "question", "case_id"):
            raise ValueError("belongs to a method: name one, and a budget")
        if self.method is not None and (self.budget is None or self.column not in get_args(Measure)):
            raise ValueError("is no number of a method at a budget")
        return self


def parsed(data: Any, model: type[Any], what: str) -> Any:
    """A request's data as one of the models here. Raises BadInput with the first thing that is wrong."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])[:120]
        raise BadInput(f"{what} cannot be read: {place or 'it'}: {first['msg'][:200]}.") from error


class Labels(BaseModel):
    """Which cases people tagged, as a filter needs it: ids by tag, by status (but "unreviewed"), and with a note."""

    tags: dict[str, list[str]] = {}
    statuses: dict[str, list[str]] = {}
    noted: list[str] = []


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
