"""What ``sweep`` found: the answers of each method over budgets, and how likely the unpruned answer stays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from .names import BudgetMeaning
from .records import AnswerToken, BudgetMeanings, Many, Record, RequestedMethod
from .short import short
from .study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


class SweepPoint(Record):
    """One method at one budget with one seed: what ``compare`` gives at this budget.

    Attributes:
        budget: Visual tokens asked for.
        seed: Of everything random. A method that draws no random numbers at this budget has the first seed only.
        kept: Original indices of the tokens that are left after the last stage; None if nothing was pruned.
        actual: Tokens that were left, in all three meanings of a budget.
        same: Whether the answer is the unpruned one, apart from case, spaces and final punctuation.
        logprob: Log-probability in nats of the whole unpruned answer, its end included, after the pruned prompt.
        verdict: How the answer compares with the right one where it is known, else with the unpruned one.
        error: A sentence if the method cannot keep this budget, else None.
    """

    budget: int
    seed: int
    answer: str = ""
    answer_tokens: Many[AnswerToken] = Field(default_factory=list)
    kept: Many[int] | None = None
    actual: BudgetMeanings | None = None
    same: bool = False
    logprob: float | None = None
    verdict: str | None = None
    error: str | None = None

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """The budget, and the answer or the reason why there is none."""
        said = ("answer", short(self.answer)) if self.error is None else ("error", short(self.error))
        logprob = None if self.logprob is None else round(self.logprob, 4)
        return [("budget", self.budget), ("seed", self.seed), said, ("logprob", logprob)]


class Change(NamedTuple):
    """Between two neighbouring budgets of a sweep the answer changes: with ``upper`` tokens it is ``before``."""

    upper: int
    lower: int
    before: str
    after: str


class SweepCurve(Record):
    """One method over all budgets.

    Attributes:
        points: From the largest budget to the smallest, then by seed. Points that were not reached are missing.
        is_random: Whether the method drew random numbers at some budget.
        error: A sentence if the method cannot run on this model or image at all, else None.
    """

    requested: RequestedMethod
    label: str
    family: str
    points: Many[SweepPoint] = Field(default_factory=list)
    is_random: bool = False
    error: str | None = None

    @property
    def key(self) -> str:
        """The name of its run in a comparison: the method id, plus what sets it apart if there are several."""
        return self.requested.key

    def at(self, budget: int) -> list[SweepPoint]:
        """The points of this budget that have an answer, one per seed."""
        return [point for point in self.points if point.budget == budget and point.error is None]

    def of_seed(self, seed: int) -> list[SweepPoint]:
        """The answered points of one seed, largest budget first; where nothing was random, those of the first seed."""
        found: dict[int, SweepPoint] = {}
        for point in self.points:
            if point.error is None and (point.budget not in found or point.seed == seed):
                found[point.budget] = point
        return list(found.values())

    @property
    def seeds(self) -> list[int]:
        """The seeds that this method ran with, ascending."""
        return sorted({point.seed for point in self.points})

    def changes(self, seed: int | None = None) -> list[Change]:
        """Every pair of neighbouring budgets between which the answer turns, from the unpruned one or back to it.

        seed: None for the first one.
        """
        points = self.of_seed(seed if seed is not None else min(self.seeds, default=0))
        return [
            Change(upper.budget, lower.budget, upper.answer, lower.answer)
            for upper, lower in pairwise(points)
            if upper.same != lower.same or (not upper.same and upper.answer != lower.answer)
        ]

    def flip(self, seed: int | None = None) -> int | None:
        """The flip point: the largest measured budget at which the answer is not the unpruned one; None for none.

        All larger budgets give the unpruned answer. seed: None for the first one.
        """
        points = self.of_seed(seed if seed is not None else min(self.seeds, default=0))
        return next((point.budget for point in points if not point.same), None)

    def holds_to(self, seed: int | None = None) -> int | None:
        """The smallest measured budget down to which every budget gives the unpruned answer; None if not even one."""
        flip = self.flip(seed)
        points = self.of_seed(seed if seed is not None else min(self.seeds, default=0))
        return min((point.budget for point in points if flip is None or point.budget > flip), default=None)

    def share_same(self, budget: int) -> float | None:
        """The share of the seeds with the unpruned answer at this budget; None without any point."""
        points = self.at(budget)
        return sum(point.same for point in points) / len(points) if points else None


class Sweep(Study):
    """The answers of each method over budgets.

    Attributes:
        comparison: The question, the image, and the unpruned run, whose answer is scored (``runs[0]``).
        logprob: Log-probability of the unpruned answer with all tokens, its end included, in nats.
        budgets: Visual tokens, descending; ``budget_as`` what they count.
        seeds: Those that methods ran with which draw random numbers.
        curves: One per method, in the order asked for.
        seconds: What it took, encoding included.
        notes: What was left out, in sentences.
    """

    kind: ClassVar[str] = "sweep"
    refusal: ClassVar[str] = "This file is not a sweep of tokviz, or it was written by another version."

    logprob: float
    budgets: Many[int]
    budget_as: BudgetMeaning
    seeds: Many[int]
    curves: Many[SweepCurve]
    seconds: float
    seconds_allowed: float | None = None
    notes: Many[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        n, budgets = self.comparison.grid.n_tokens, set(self.budgets)
        if not self.comparison.runs or sorted(budgets, reverse=True) != self.budgets or not self.seeds:
            raise ValueError("budgets descend, and there are an unpruned run and a seed")
        for curve in self.curves:
            places = [(-point.budget, point.seed) for point in curve.points]
            if places != sorted({*places}) or not {point.budget for point in curve.points} <= budgets:
                raise ValueError("the points of a curve are ordered by budget and seed")
            for point in curve.points:
                if point.seed not in self.seeds or not all(0 <= token < n for token in point.kept or ()):
                    raise ValueError("a point does not fit the sweep")
        return self

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """The answer, the budgets, and where each of the first methods flips."""
        flips = {short(curve.key): curve.flip() for curve in self.curves[:4] if curve.error is None}
        return [("answer", short(self.answer)), ("budgets", short(self.budgets)), ("flips", flips)]

    @property
    def answer(self) -> str:
        """The unpruned answer."""
        return self.comparison.runs[0].answer

    def __getitem__(self, name: str | int) -> SweepCurve:
        """Return a curve by its key, by its method id if the method is there only once, or by its index.

        Raises:
            KeyError: If there is no such curve; the message lists the keys that exist.
        """
        if isinstance(name, int):
            return self.curves[name]
        found = [curve for curve in self.curves if curve.key == name] or [
            curve for curve in self.curves if curve.requested.method == name
        ]
        if len(found) == 1:
            return found[0]
        raise KeyError(f"no curve {name!r}; this sweep has {[curve.key for curve in self.curves]}")

    def __iter__(self) -> Iterator[SweepCurve]:  # type: ignore[override]
        """Iterate over the curves."""
        return iter(self.curves)

    def __len__(self) -> int:
        """Return the number of methods."""
        return len(self.curves)

    def __bool__(self) -> bool:
        """Return True, even before the first point is there."""
        return True

    def to_pandas(self) -> DataFrame:
        """Return a table with one row per point: method, budget, seed, answer, log-probability, tokens left.

        Raises:
            BadInput: If pandas is not installed.
        """
        from .viz.sweeps import data_frame

        return data_frame(self)

    def figure(
        self,
        path: str | Path | None = None,
        *,
        methods: Sequence[str] | None = None,
        theme: Literal["light", "dark"] = "light",
        dpi: int = 300,
    ) -> Figure:
        """Draw the log-probability of the unpruned answer over the budgets, and below it what each method answered.

        Flip points are marked; of a random method the band over its seeds is drawn with their mean.

        Args:
            path: A file that ends in .png, .svg or .pdf.
            methods: Curves by key; None for all.
            theme: Colours of the page.
            dpi: Pixels per inch.

        Raises:
            BadInput: For an unknown method, and if the file cannot be written.
        """
        from .viz.sweeps import save_sweep, sweep_figure

        if path is not None:
            save_sweep(self, path, methods=methods, theme=theme, dpi=dpi)
        return sweep_figure(self, methods=methods, theme=theme, dpi=dpi)
