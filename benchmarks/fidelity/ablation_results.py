"""What came of the ablations: every setting beside its reference here, and beside the paper in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .ablation_papers import Ablation, Setting
from .outcomes import FAMILIES, FULL, About, Outcome, Variant
from .position_bias import Leaning
from .separation import estimate
from .statistics import Floats, accuracies, count, mean_retention, resampled_accuracies, retention
from .wording import number

NO_PRUNING = Variant(FULL, {}, "No pruning", None)
SEED = 0
"""Of the bootstrap."""

REFERENCE = "reference"
NOT_IN_PAPER = "differs; not in the paper"
AGREES = "agrees"
DISAGREES = "disagrees"
ONLY_HERE = "differs; equal in the paper"
UNDECIDED = "no difference that these questions could show"
UNCHANGED = "no effect: the same outcome in every question"
UNDEFINED = "undefined"

_CLAUSES = {
    AGREES: "points the way of the paper",
    DISAGREES: "points the other way",
    ONLY_HERE: "differs where the paper prints no difference",
    UNDECIDED: "shows no difference that these questions could show",
    UNCHANGED: "has no effect at all, the same outcome in every question",
    UNDEFINED: "is undefined",
}
"""Verdicts on settings that the paper has, and how a sentence says them of one setting."""

Paired = Mapping[Variant, Sequence[Outcome]]
"""Outcomes of the same questions in the same order under every variant."""


@dataclass(frozen=True)
class Result:
    """What came of one setting.

    accuracy: percent per family, NaN where no question is. retained: mean retention with its interval. difference: that
    minus the reference's, paired by scene; None for the reference itself. kept, average: means over the questions, see
    ``Outcome``. none_kept: share of the questions at whose end no visual token was left. verdict: beside the paper.
    """

    accuracy: Sequence[float]
    retained: Mapping[str, float]
    difference: Mapping[str, float] | None
    kept: float
    average: float
    none_kept: float
    verdict: str


@dataclass(frozen=True)
class AblationResult:
    """One ablation: what came of each setting, or a sentence that says why it was not run."""

    ablation: Ablation
    results: Mapping[str, Result | str]

    @property
    def run(self) -> list[tuple[Setting, Result]]:
        """The settings that were run, in order."""
        found = ((setting, self.results[setting.name]) for setting in self.ablation.settings)
        return [(setting, result) for setting, result in found if isinstance(result, Result)]

    def verdicts(self) -> list[tuple[str, str]]:
        """Name and verdict of every comparison that the paper has too."""
        return [
            (setting.name, result.verdict)
            for setting, result in self.run
            if result.verdict != REFERENCE and self.ablation.paper_direction(setting) is not None
        ]

    @property
    def sentence(self) -> str:
        """Whether ours points the way of the paper, and which setting is highest in both."""
        told = [
            f"{', '.join(names)} {_CLAUSES[verdict] if len(names) == 1 else _plural(_CLAUSES[verdict])}"
            for verdict in _CLAUSES
            if (names := [name for name, own in self.verdicts() if own == verdict])
        ]
        if not told:
            return "Nothing of the paper's ablation could be compared here."
        return f"Beside {self.ablation.reference}: {'; '.join(told)}.{self._best()}"

    def _best(self) -> str:
        both = [(s, r, mean) for s, r in self.run if (mean := self.ablation.paper_mean(s)) is not None]
        if len(both) < 2:
            return ""
        here, best = _highest([(setting.name, result.retained["value"]) for setting, result, _ in both])
        paper, printed = _highest([(setting.name, mean) for setting, _, mean in both])
        return f" Highest here: {here} ({number(best)}%); highest in the paper: {paper} ({number(printed)}%)."


def _highest(values: Sequence[tuple[str, float]]) -> tuple[str, float]:
    """The names that share the highest value, and the value."""
    most = max(value for _, value in values)
    return ", ".join(name for name, value in values if value == most), most


def _plural(clause: str) -> str:
    verb, rest = clause.split(" ", 1)
    return f"{ {'points': 'point', 'differs': 'differ', 'shows': 'show', 'has': 'have', 'is': 'are'}[verb] } {rest}"


@dataclass(frozen=True)
class Measured:
    """Shape: accuracy ``(V, F)``, answerable ``(F,)``, mean ``(V,)`` and samples ``(B, V)`` of the mean retention."""

    index: Mapping[Variant, int]
    accuracy: Floats
    answerable: NDArray[np.bool_]
    mean: Floats
    samples: Floats

    def difference(self, one: Variant, other: Variant) -> dict[str, float]:
        """Mean retention of ``one`` minus that of ``other`` in points, with the interval of the paired difference."""
        a, b = self.index[one], self.index[other]
        return estimate(self.mean[a] - self.mean[b], self.samples[:, a] - self.samples[:, b])


def measure(paired: Paired) -> Measured:
    """Count, retain, resample. Families of which the unpruned model gets nothing right are left out of the mean."""
    index = {variant: v for v, variant in enumerate(paired)}
    full, first = index[NO_PRUNING], paired[NO_PRUNING]
    counts = count(
        np.array([[outcome.right for outcome in each] for each in paired.values()], dtype=bool),
        np.array([outcome.seed for outcome in first], dtype=np.int64),
        np.array([FAMILIES.index(outcome.family) for outcome in first]),
        len(FAMILIES),
    )
    accuracy = accuracies(counts)
    answerable = np.nan_to_num(accuracy[full]) > 0
    samples = retention(resampled_accuracies(counts, np.random.default_rng(SEED)), full)
    mean = mean_retention(retention(accuracy, full), answerable)
    return Measured(index, accuracy, answerable, mean, mean_retention(samples, answerable))


def ablation_result(
    ablation: Ablation, paired: Paired, measured: Measured, why: Mapping[tuple[str, int | None], str]
) -> AblationResult:
    """Every setting of an ablation.

    why: label and budget of variants that were left out -> the reason; the budget is None where it does not matter.
    """
    found: dict[str, Result | str] = {}
    for setting in ablation.settings:
        own = setting.variant
        if own in paired:
            found[setting.name] = _result(ablation, setting, paired, measured)
        else:
            reasons = [why[key] for key in ((own.label, own.budget), (own.label, None)) if key in why]
            found[setting.name] = reasons[0] if reasons else "There are no outcomes of it."
    return AblationResult(ablation, found)


def _result(ablation: Ablation, setting: Setting, paired: Paired, measured: Measured) -> Result:
    variant, reference = setting.variant, ablation.reference_setting.variant
    mine, v = paired[variant], measured.index[variant]
    difference, verdict = None, REFERENCE
    if setting.name != ablation.reference:
        unchanged = False
        if reference in paired:
            difference = measured.difference(variant, reference)
            unchanged = list(mine) == list(paired[reference])
        verdict = judged(ablation.paper_direction(setting), difference, unchanged)
    return Result(
        accuracy=[100 * float(share) for share in measured.accuracy[v]],
        retained=estimate(measured.mean[v], measured.samples[:, v]),
        difference=difference,
        kept=sum(outcome.kept for outcome in mine) / len(mine),
        average=sum(outcome.average for outcome in mine) / len(mine),
        none_kept=sum(outcome.kept == 0 for outcome in mine) / len(mine),
        verdict=verdict,
    )


def judged(direction: int | None, difference: Mapping[str, float] | None, unchanged: bool) -> str:
    """Our difference beside the paper's direction: 1 above its reference, -1 below, 0 equal, None not said."""
    if unchanged:
        return UNCHANGED
    if difference is None or math.isnan(difference["low"]):
        return UNDEFINED
    if difference["low"] <= 0 <= difference["high"]:
        return UNDECIDED
    if direction is None:
        return NOT_IN_PAPER
    if direction == 0:
        return ONLY_HERE
    return AGREES if (difference["low"] > 0) == (direction > 0) else DISAGREES


@dataclass(frozen=True)
class Report:
    """All that the document says. families: those that the mean is taken over; unpruned: accuracy in percent."""

    about: About
    questions: int
    scenes: int
    families: Sequence[str]
    unpruned: Sequence[float]
    ablations: Sequence[AblationResult]
    positions: Sequence[Leaning]
