"""What the outcomes of all variants come to on the questions that they share, with resamples over scenes. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokviz.errors import BadInput

from . import statistics as stats
from .outcomes import CONTROLS, FAMILIES, FULL, Outcome, Variant, shared_questions
from .statistics import Floats

Outcomes = Mapping[Variant, Sequence[Outcome]]


@dataclass(frozen=True)
class Retained:
    """Retention of all variants with its resamples, in percent of the unpruned model.

    Shape: variants V; mean ``(V,)``, families ``(V, F)``, mean_samples ``(B, V)``, family_samples ``(B, V, F)``.
    """

    variants: Sequence[Variant]
    mean: Floats
    families: Floats
    mean_samples: Floats
    family_samples: Floats

    def at(self, budget: int) -> list[int]:
        """Indices of the methods at a budget, without the controls and the oracle."""
        return [v for v, own in enumerate(self.variants) if own.budget == budget and own.method not in CONTROLS]

    def find(self, method: str, budget: int | None) -> int | None:
        """Index of the first variant of a method at a budget (its defaults, where tables hold them first)."""
        return next((v for v, own in enumerate(self.variants) if (own.method, own.budget) == (method, budget)), None)

    @property
    def full(self) -> int:
        """Index of the unpruned model."""
        return [variant.method for variant in self.variants].index(FULL)

    def of(self, v: int) -> dict[str, float]:
        """The mean retention of a variant."""
        return estimate(self.mean[v], self.mean_samples[:, v])

    def difference(self, one: int, other: int) -> dict[str, float]:
        """Mean retention of ``one`` minus that of ``other`` in points, with the interval of the paired difference."""
        samples = self.mean_samples
        return estimate(self.mean[one] - self.mean[other], samples[:, one] - samples[:, other])


@dataclass(frozen=True)
class Measured(Retained):
    """The answers behind it.

    outcomes: per variant, of the same questions in the same order.

    Shape: right ``(V, Q)``; accuracy ``(V, F)``, accuracy_samples ``(B, V, F)``, NaN for a family without questions;
    answerable ``(F,)``, families of which the unpruned model gets something right: those that the mean is over.
    """

    outcomes: Sequence[Sequence[Outcome]]
    right: NDArray[np.bool_]
    counts: stats.Counts
    accuracy: Floats
    accuracy_samples: Floats
    answerable: NDArray[np.bool_]


def estimate(value: float, samples: Floats) -> dict[str, float]:
    """A number with its interval, as tables store it."""
    low, high = stats.interval(samples)
    return {"value": float(value), "low": float(low), "high": float(high)}


def measure(outcomes: Outcomes, *, resamples: int = stats.RESAMPLES, seed: int = 0) -> Measured:
    """Count, retain, resample; by falling budget, the unpruned model first, otherwise in the order given.

    Raises BadInput without exactly one run of the unpruned model, without shared questions, when the same question
    differs between variants, and when the unpruned model answers nothing right, so that retention has no meaning.
    """
    variants = sorted(outcomes, key=lambda v: -math.inf if v.budget is None else -v.budget)
    if sum(variant.method == FULL for variant in variants) != 1:
        raise BadInput("Retention needs exactly one run of the unpruned model among the outcomes.")
    ordered = _aligned([outcomes[variant] for variant in variants], shared_questions(outcomes))
    right = np.array([[outcome.right for outcome in own] for own in ordered], dtype=bool)
    scene = np.array([outcome.seed for outcome in ordered[0]], dtype=np.int64)
    family = np.array([FAMILIES.index(outcome.family) for outcome in ordered[0]])
    counts = stats.count(right, scene, family, len(FAMILIES))
    accuracy = stats.accuracies(counts)
    samples = stats.resampled_accuracies(counts, np.random.default_rng(seed), resamples)
    answerable = np.nan_to_num(accuracy[0]) > 0
    if not answerable.any():
        raise BadInput("The unpruned model answers no question right, so there is nothing that pruning could retain.")
    retained, drawn = stats.retention(accuracy, 0), stats.retention(samples, 0)
    return Measured(
        variants=variants,
        mean=stats.mean_retention(retained, answerable),
        families=retained,
        mean_samples=stats.mean_retention(drawn, answerable),
        family_samples=drawn,
        outcomes=ordered,
        right=right,
        counts=counts,
        accuracy=accuracy,
        accuracy_samples=samples,
        answerable=answerable,
    )


def _aligned(outcomes: Sequence[Sequence[Outcome]], ids: Sequence[tuple[int, int]]) -> list[list[Outcome]]:
    """Every variant's outcomes of the questions ``ids``, in that order."""
    if not ids:
        raise BadInput("The variants have no question in common.")
    by_id = [{outcome.id: outcome for outcome in own} for own in outcomes]
    ordered = [[of[key] for key in ids] for of in by_id]
    for own in ordered:
        for ours, first in zip(own, ordered[0], strict=True):
            if (ours.family, ours.question, ours.expected) != (first.family, first.question, first.expected):
                raise BadInput(f"Question {ours.id} is not the same for all variants; were the scenes generated anew?")
    return ordered
