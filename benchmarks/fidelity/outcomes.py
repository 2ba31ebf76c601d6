"""The nouns of the fidelity benchmark: a variant (one row of the table at one budget) and its outcomes. No torch.

The runner makes them, the cache stores them, statistics and tables read nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar, Literal, NotRequired, TypedDict, get_args

from pydantic import ConfigDict, Field, TypeAdapter

from tokviz.errors import BadInput

FORMAT = 2
"""Version of the stored lines; files of another version are not read. 2: with a last line that seals them."""

Family = Literal["existence", "attribute", "relation", "counting", "reading"]
FAMILIES: tuple[Family, ...] = get_args(Family)
"""Families of questions, in the order of the table's columns. "relation" is the scenes' family "spatial"."""

MIRRORS = {
    "existence": "POPE",
    "attribute": "GQA (attribute)",
    "relation": "GQA (relation)",
    "counting": "MME (count)",
    "reading": "TextVQA",
}
"""The published benchmark whose kind of question each family mirrors. Nothing of those benchmarks is in it."""

_STORED = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
"""Stored lines have exactly these fields with values of exactly these types."""

FULL = "full"
"""Method id of the unpruned model."""

EVIDENCE_ORACLE = "evidence_oracle"
"""Id of the control that knows the evidence: tokens by covered evidence pixels, descending, the rest by lot. It is no
registered method, because a method may not know the answer's place."""


BASELINES = ("random", "uniform", "pool", "downsample")
"""Ids of the controls that every method has to beat."""

CONTROLS = (FULL, EVIDENCE_ORACLE, *BASELINES, "random_at")
"""Ids of all that is no method."""


@dataclass(frozen=True)
class Variant:
    """One row of a table at one budget: a method with its parameters.

    method: id of a registered method, or EVIDENCE_ORACLE. params: only what differs from the method's defaults. label:
    the row's name for readers; two variants that differ in nothing else are the same. budget: visual tokens, counted as
    the method's paper counts them; None for FULL. draw: which of several drawings of what is drawn by lot; 0 is that of
    the scene's own seed.
    """

    method: str
    params: Mapping[str, Any]
    label: str = field(compare=False)
    budget: int | None
    draw: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "params", dict(self.params))
        if (self.budget is None) != (self.method == FULL):
            raise ValueError(f"only {FULL!r} has no budget, got {self.method!r} with {self.budget!r}")

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def key(self) -> str:
        """The same text for equal variants and only for them."""
        drawn = [self.draw] if self.draw else []
        return json.dumps([self.method, dict(self.params), self.budget, *drawn], sort_keys=True)

    @property
    def row(self) -> str:
        """The same text for a method with the same parameters at every budget, and only for it."""
        return json.dumps([self.method, dict(self.params)], sort_keys=True)

    @property
    def file_name(self) -> str:
        """Where the cache keeps it: readable in front, unmistakable behind."""
        budget = "" if self.budget is None else f"-{self.budget}"
        return f"{self.method}{budget}-{hashlib.sha256(self.key.encode()).hexdigest()[:12]}.jsonl"


def judged_budget(budgets: Iterable[int], n_visual: int) -> int:
    """Where the spread between methods is judged: at 64 of 576 tokens, or at the smallest budget where that is none.

    Raises ValueError without any budget.
    """
    ascending = sorted(budgets)
    return next((budget for budget in ascending if 576 * budget == 64 * n_visual), min(ascending))


@dataclass(frozen=True)
class Outcome:
    """One question under one variant.

    seed, number: the scene and the index of the question in it; together they name the question. family: one of
    FAMILIES. right: whether ``answer`` is ``expected`` but for case, outer spaces and final punctuation. kept: visual
    tokens after the last stage, tokens that a method added included. average: visual tokens that the LLM's layers
    process, averaged over the layers. evidence_recall: share of the evidence tokens (patches of which the evidence
    covers at least a tenth) that are kept to the end, None where the question has no evidence. position_correlation:
    Pearson's r between being kept and the position in raster order, None where all or none are kept. kept_thirds: kept
    patches in the top, middle and bottom third of the grid's rows (row * 3 // rows), None where they were not counted.
    """

    seed: int
    number: int
    family: Family
    question: str
    expected: str
    answer: str
    right: bool
    kept: int
    average: float
    evidence_recall: float | None
    position_correlation: float | None
    kept_thirds: Annotated[list[int], Field(min_length=3, max_length=3)] | None = None

    __pydantic_config__: ClassVar[ConfigDict] = _STORED

    @property
    def id(self) -> tuple[int, int]:
        """What pairs the same question under different variants."""
        return self.seed, self.number


class LeftOut(TypedDict):
    """A variant that this model or budget does not allow; why, in a sentence."""

    label: str
    budget: int | None
    why: str


class About(TypedDict):
    """What a table says beside its numbers.

    scenes: how many all variants have; first_seed: of the first one. budgets: descending. seconds: what the outcomes
    took on all workers together, measured (cached ones as they took when they were made). methods: type and sites per
    method id, see ``describing.describe``.
    """

    command: str
    machine: str
    date: str
    versions: dict[str, str]
    model: str
    fingerprint: str
    n_visual: int
    n_layers: int
    first_seed: int
    scenes: int
    budgets: list[int]
    workers: int
    seconds: float
    left_out: list[LeftOut]
    methods: NotRequired[dict[str, dict[str, Any]]]


@dataclass(frozen=True)
class Header:
    """First line of a stored file: which model, scenes and variant the outcomes behind it belong to.

    fingerprint: of the weights and everything else that answers depend on. first_seed, scenes: the range of scenes.
    seconds: what making them took.
    """

    fingerprint: str
    first_seed: int
    scenes: int
    variant: Variant
    seconds: float

    __pydantic_config__: ClassVar[ConfigDict] = _STORED


_HEADER, _OUTCOME = TypeAdapter(Header), TypeAdapter(Outcome)


class EarlierFormat(BadInput):
    """Outcomes that an earlier version stored, which are made again."""


def to_lines(header: Header, outcomes: Iterable[Outcome]) -> str:
    """Header and outcomes as JSON lines, and a last line that says what the others must be."""
    rows = [{"format": FORMAT, **asdict(header)}, *(asdict(outcome) for outcome in outcomes)]
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    return text + _seal(text)


def _seal(text: str) -> str:
    return json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest()}) + "\n"


def from_lines(text: str) -> tuple[Header, list[Outcome]]:
    """Read what ``to_lines`` wrote. Raises BadInput for another format version and for anything damaged or cut off."""
    try:
        first = json.loads(text.partition("\n")[0])
        version = first.pop("format")
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise BadInput("This is no file of benchmark outcomes, or it is damaged.") from error
    if isinstance(version, int) and version < FORMAT:
        raise EarlierFormat("These benchmark outcomes were stored by an earlier version.")
    if version != FORMAT:
        raise BadInput(f"These benchmark outcomes have format {version!r}; this tokviz reads format {FORMAT}.")
    lines = text.splitlines(keepends=True)
    if lines[-1] != _seal("".join(lines[:-1])):
        raise BadInput("These benchmark outcomes are cut off or were changed.")
    try:
        return _HEADER.validate_json(json.dumps(first)), [_OUTCOME.validate_json(line) for line in lines[1:-1]]
    except (TypeError, ValueError, RecursionError) as error:  # pydantic's errors are ValueErrors
        raise BadInput("These benchmark outcomes are damaged.") from error


def shared_questions(outcomes: Mapping[Variant, Sequence[Outcome]]) -> list[tuple[int, int]]:
    """Ids of the questions that every variant has, ascending: what comparisons between variants rest on."""
    ids = [{outcome.id for outcome in each} for each in outcomes.values()]
    return sorted(set.intersection(*ids)) if ids else []
