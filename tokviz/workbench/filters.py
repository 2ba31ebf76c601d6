"""Conditions on cases, as data: page, address, slice and script all say them alike. A filter is all of them.

Columns are those of fixed lists, so that no request can name another; ``compiler`` makes SQL of them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ..errors import BadInput

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

    column: "ordinal" is the order of the case file; "losses" the number of ``methods`` (empty: of all) that lose the
    answer at the budget, cases with as many by how many of all methods do.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: Number | Measure | Literal["family", "question", "case_id", "losses"] = "ordinal"
    method: str | None = None
    methods: tuple[str, ...] = Field(default=(), max_length=20)
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
        if self.method is None and self.column not in (
            *get_args(Number),
            "family",
            "question",
            "case_id",
            "losses",
        ):
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
