"""Statistics of the fidelity benchmark, on plain arrays: accuracy, F1, retention, clustered bootstrap, exact tests.

Letters: ``V`` variants, ``Q`` questions, ``S`` scenes, ``F`` families, ``B`` resamples. Undefined numbers are NaN here
(None in the stored tables), never a made-up value.

Questions of one scene share picture, tokens and often evidence, so they are not independent: the bootstrap draws whole
scenes. It draws the same scenes for all variants, so that differences between variants are paired.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokviz.runs.metrics import normalised

Floats = NDArray[np.float64]
RESAMPLES = 2000
LEVEL = 0.95
EXACT_UP_TO = 9
"""Most pairs for which all orders are tried (9! = 362,880)."""


@dataclass(frozen=True)
class Counts:
    """Answers counted per scene and family: all that accuracies need, and what the bootstrap resamples.

    Shape:
        right: ``(V, S, F)``, right answers. asked: ``(S, F)``, questions; the same for every variant.
    """

    right: Floats
    asked: Floats

    @property
    def per_family(self) -> Floats:
        """Questions per family, ``(F,)``."""
        return self.asked.sum(axis=0)


def count(right: NDArray[np.bool_], scene: NDArray[Any], family: NDArray[np.int_], n_families: int) -> Counts:
    """Count right answers per scene and family.

    Shape: right ``(V, Q)`` bool; scene ``(Q,)`` any label; family ``(Q,)`` index into the families.
    Raises ValueError when shapes disagree or there is no question.
    """
    right = np.atleast_2d(right)
    if not (right.shape[1] == len(scene) == len(family)):
        raise ValueError(f"{right.shape[1]} answers, {len(scene)} scenes and {len(family)} families do not fit.")
    if len(scene) == 0:
        raise ValueError("There are no questions to count.")
    names, place = np.unique(np.asarray(scene), return_inverse=True)
    cell = place * n_families + np.asarray(family)
    size = len(names) * n_families
    asked = np.bincount(cell, minlength=size).reshape(-1, n_families)
    hits = np.stack([np.bincount(cell, weights=row, minlength=size) for row in right.astype(float)])
    return Counts(hits.astype(float).reshape(len(right), -1, n_families), asked.astype(float))


def accuracies(counts: Counts) -> Floats:
    """Share of right answers, ``(V, F)``; NaN for a family without questions."""
    return _divide(counts.right.sum(axis=1), counts.per_family)


def resampled_accuracies(counts: Counts, generator: np.random.Generator, resamples: int = RESAMPLES) -> Floats:
    """Accuracies of ``resamples`` draws of S scenes with replacement, ``(B, V, F)``; every variant has the same draws.

    NaN where a draw holds no question of a family.
    """
    n_variants, n_scenes, n_families = counts.right.shape
    drawn = generator.multinomial(n_scenes, np.full(n_scenes, 1 / n_scenes), size=resamples).astype(float)
    right = drawn @ counts.right.transpose(1, 0, 2).reshape(n_scenes, -1)
    return _divide(right.reshape(resamples, n_variants, n_families), (drawn @ counts.asked)[:, None, :])


def retention(accuracy: Floats, full: int) -> Floats:
    """Accuracy in percent of that of variant ``full``, same shape; NaN where the unpruned model has none right.

    Shape: accuracy ``(..., V, F)``.
    """
    return 100 * _divide(accuracy, accuracy[..., full : full + 1, :])


def mean_retention(retained: Floats, families: NDArray[np.bool_]) -> Floats:
    """Mean over the chosen families, as the papers' last column; ``(..., V, F)`` -> ``(..., V)``. NaN if none chosen.

    families: ``(F,)`` bool; leaves out those that the unpruned model cannot answer at all.
    """
    if not families.any():
        return np.full(retained.shape[:-1], np.nan)
    return retained[..., families].mean(axis=-1)


def interval(samples: Floats, level: float = LEVEL) -> tuple[Floats, Floats]:
    """Percentile interval along the first axis; draws that are undefined (NaN) are left out.

    NaN where more than half of the draws are undefined: nothing can be said then.
    """
    tail = (1 - level) / 2
    lost = np.isnan(samples)
    if not lost.any():  # many times faster
        low, high = np.quantile(samples, [tail, 1 - tail], axis=0)
        return low, high
    unknown = lost.mean(axis=0) > 0.5
    low, high = np.nanquantile(np.where(unknown, 0.0, samples), [tail, 1 - tail], axis=0)
    return np.where(unknown, np.nan, low), np.where(unknown, np.nan, high)


@dataclass(frozen=True)
class YesNo:
    """Detection figures of yes-or-no questions, as POPE reports them, "yes" being positive.

    yes_ratio: share answered "yes". neither: answers that are neither "yes" nor "no"; they count as not "yes" and, like
    everywhere, as wrong. Undefined ratios are NaN.
    """

    f1: float
    precision: float
    recall: float
    yes_ratio: float
    neither: int


def yes_no(expected: Sequence[str], answers: Sequence[str]) -> YesNo:
    """Precision, recall and F1 of existence questions, answers normalised as for the verdict (``measures.normalised``).

    Raises ValueError when another answer than "yes" or "no" is expected.
    """
    unknown = sorted(set(expected) - {"yes", "no"})
    if unknown:
        raise ValueError(f"An existence question expects yes or no, not {unknown[0]!r}.")
    said = [normalised(answer) for answer in answers]
    true_yes = sum(wanted == word == "yes" for wanted, word in zip(expected, said, strict=True))
    yes, positive = said.count("yes"), list(expected).count("yes")
    return YesNo(
        precision=true_yes / yes if yes else math.nan,
        recall=true_yes / positive if positive else math.nan,
        f1=2 * true_yes / (yes + positive) if yes + positive else math.nan,
        yes_ratio=yes / len(said) if said else math.nan,
        neither=sum(word not in ("yes", "no") for word in said),
    )


def discordant(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> tuple[int, int]:
    """How many questions only we answer right, and how many only they do."""
    return int((ours & ~theirs).sum()), int((~ours & theirs).sum())


def mcnemar(only_ours: int, only_theirs: int) -> float:
    """Exact two-sided McNemar test: p of a split at least this uneven if either side were as likely (binomial, 1/2).

    The smaller tail doubled, at most 1. It takes questions as independent; the clustered intervals stand beside it.
    """
    n, fewer = only_ours + only_theirs, min(only_ours, only_theirs)
    term, tail = 1, 0
    for k in range(fewer + 1):  # exact integers: n can be in the thousands, where 2**-n leaves floating point
        tail += term
        term = term * (n - k) // (k + 1)
    return min(1.0, 2 * tail / 2**n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: adjusted p values, in the order given."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for step, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - step) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def ranks(values: Sequence[float]) -> Floats:
    """Ranks from 1 for the highest value; ties share the mean of their places."""
    array = np.asarray(values, dtype=float)
    above = (array[None, :] > array[:, None]).sum(axis=1)
    same = (array[None, :] == array[:, None]).sum(axis=1)
    return above + (same + 1) / 2


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of ``n`` pairs. rho: None when undefined (fewer than two pairs, or all tied).

    p: exact and two-sided over all orders, None for more than EXACT_UP_TO pairs.
    """

    rho: float | None
    n: int
    p: float | None


def spearman(left: Sequence[float], right: Sequence[float]) -> Correlation:
    """Pearson's correlation of the ranks (ties share ranks), with the share of orders that are at least as extreme."""
    n = len(left)
    if n != len(right):
        raise ValueError(f"{n} and {len(right)} values cannot be paired.")
    if n < 2:
        return Correlation(None, n, None)
    x, y = ranks(left) - (n + 1) / 2, ranks(right) - (n + 1) / 2
    scale = math.sqrt(float(x @ x) * float(y @ y))
    if scale == 0:
        return Correlation(None, n, None)
    observed = float(x @ y)
    p = None
    if n <= EXACT_UP_TO:
        p = float((np.abs(y[_orders(n)] @ x) >= abs(observed) - 1e-9).mean())
    return Correlation(observed / scale, n, p)


@lru_cache
def _orders(n: int) -> NDArray[np.int8]:
    """All orders of ``n`` things, ``(n!, n)``."""
    return np.array(list(permutations(range(n))), dtype=np.int8)


def mean(values: Iterable[float]) -> float:
    """The mean, NaN of nothing."""
    every = list(values)
    return sum(every) / len(every) if every else math.nan


def _divide(top: Floats, bottom: Floats) -> Floats:
    """top / bottom with NaN where bottom is 0 or undefined."""
    bottom = np.broadcast_to(bottom, np.broadcast_shapes(top.shape, bottom.shape))
    return np.divide(top, bottom, out=np.full(bottom.shape, np.nan), where=bottom > 0)
