"""Whether a difference between methods is more than chance: paired tests, intervals over images, bands over seeds.

Where there are too few cases to say anything, a ``Refusal`` says how many are needed instead of a number that would be
believed. docs/cases.md says what is computed and why.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import need
from .records import Record

ALPHA = 0.05
POWER = 0.8
LEVEL = 0.95
RESAMPLES = 2_000
MIN_IMAGES = 20
"""Fewest images for an interval: percentiles of resamples of fewer are too narrow by far."""
Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]


class Refusal(Record):
    """Why nothing is said. have: cases (or images) there are. need: how many it takes, estimated; None: cannot say."""

    reason: str
    have: int
    need: int | None = None

    def __str__(self) -> str:
        wanted = f"; about {self.need:,} would be needed" if self.need is not None else ""
        return f"{self.reason}{wanted}."


class Interval(Record):
    """A value with its percentile interval. images: how many were resampled. low, high: None where refused."""

    value: float
    low: float | None = None
    high: float | None = None
    images: int
    refusal: Refusal | None = None


class Paired(Record):
    """Two methods on the same cases.

    Attributes:
        first: Name of the one. second: Name of the other.
        n: Cases that both answered.
        only_first: Cases that only the first has right. only_second: Those that only the second has.
        difference: Right answers of the first minus those of the second, in points (percent of the cases).
        p: Of McNemar's exact test, two-sided; None where refused.
        p_holm: Corrected by Holm over the tests of one call.
        needed: Cases it would take to find a difference of this size with 80% power among so many tests, where p_holm
            does not show one; None where it does, and where there is no difference to find.
        refusal: Why there is no p.
    """

    first: str
    second: str
    n: int
    only_first: int
    only_second: int
    difference: float
    p: float | None = None
    p_holm: float | None = None
    needed: int | None = None
    refusal: Refusal | None = None

    @property
    def differs(self) -> bool | None:
        """Whether the two differ at the 5% level; None where nothing can be said."""
        return None if self.p_holm is None else self.p_holm < ALPHA


class Band(Record):
    """What a random method reaches over its seeds: mean, lowest and highest."""

    mean: float
    low: float
    high: float
    seeds: int

    def holds(self, value: float) -> bool:
        """Whether a value lies in the band: such a method has not been told apart from chance."""
        return self.low <= value <= self.high


def compare_paired(
    right: Mapping[str, Flags | Floats], pairs: Sequence[tuple[str, str]], *, alpha: float = ALPHA
) -> list[Paired]:
    """Compare pairs of methods on the same cases, by McNemar's exact test, corrected by Holm over the pairs.

    The test takes cases as independent. Where many questions share an image, the interval over images of
    ``bootstrap_difference`` is the safer number beside it.

    Args:
        right: By method, whether each case is right: booleans, or 0 and 1 with NaN where there is no answer; such cases
            are left out of the pairs that lack one. Shape: ``(n,)`` each, the same cases in the same order.
        pairs: Names of the methods that are compared.

    Raises:
        BadInput: If scipy or statsmodels is not installed.
        ValueError: If the numbers of cases differ.
    """
    _need_statistics()
    from statsmodels.stats.contingency_tables import mcnemar

    if len({len(flags) for flags in right.values()}) > 1:
        raise ValueError("methods are compared on the same cases")
    found: list[dict[str, Any]] = []
    for first, second in pairs:
        a, b = np.asarray(right[first], dtype=np.float64), np.asarray(right[second], dtype=np.float64)
        known = ~np.isnan(a) & ~np.isnan(b)
        a, b = a[known] == 1, b[known] == 1
        n, only_a, only_b = len(a), int((a & ~b).sum()), int((b & ~a).sum())
        refusal = _too_few(only_a + only_b, n, alpha)
        table = [[0, only_a], [only_b, 0]]
        p = None if refusal else float(mcnemar(table, exact=True).pvalue)
        difference = 100 * (only_a - only_b) / n if n else 0.0
        counts = {"n": n, "only_first": only_a, "only_second": only_b, "difference": difference}
        found.append({"first": first, "second": second, **counts, "p": p, "refusal": refusal})
    tested = [entry for entry in found if entry["p"] is not None]
    if tested:
        # Over all pairs, also those that were refused: looking at them was part of the question.
        p_values = [entry["p"] for entry in tested] + [1.0] * (len(found) - len(tested))
        for entry, p_holm in zip(tested, holm(p_values), strict=False):
            entry["p_holm"] = p_holm
            if p_holm >= alpha:
                seen = entry["only_first"], entry["only_second"], entry["n"]
                entry["needed"] = cases_needed(*seen, alpha=alpha / len(pairs))
    return [Paired(**entry) for entry in found]


def fewest_discordant(alpha: float = ALPHA) -> int:
    """How many cases must differ for McNemar's exact test to reach ``alpha`` if all do in one way: 2 / 2^d < alpha."""
    return math.floor(math.log2(2 / alpha)) + 1


def _too_few(discordant: int, n: int, alpha: float) -> Refusal | None:
    """The refusal where even cases that all differ in one direction could not reach ``alpha``."""
    wanted = fewest_discordant(alpha)
    if discordant >= wanted:
        return None
    # Without any, the share that differs is below 3/n with 95% confidence (the rule of three).
    share = max(discordant, 3) / n if n else None
    reason = f"the two differ on {discordant:,} of {n:,} cases, and at least {wanted} must differ to tell them apart"
    return Refusal(reason=reason, have=n, need=None if share is None else math.ceil(wanted / min(share, 1.0)))


def cases_needed(
    only_first: int, only_second: int, n: int, *, alpha: float = ALPHA, power: float = POWER
) -> int | None:
    """Cases it takes to find the observed difference; None where there is none.

    With shares d = (a + b) / n that differ and e = |a - b| / n of difference, McNemar's test needs
    (z_(alpha/2) sqrt(d) + z_power sqrt(d - e^2))^2 / e^2 cases.

    Source: R. J. Connor, Sample size for testing differences in proportions for the paired-sample design, Biometrics
    43, 1987.

    Raises:
        BadInput: If scipy is not installed.
    """
    _need_statistics()
    from scipy.stats import norm

    if not n or only_first == only_second:
        return None
    share, effect = (only_first + only_second) / n, abs(only_first - only_second) / n
    z_alpha, z_power = norm.isf(alpha / 2), norm.isf(1 - power)
    return math.ceil((z_alpha * math.sqrt(share) + z_power * math.sqrt(share - effect**2)) ** 2 / effect**2)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values by Holm's step-down procedure, in the order given.

    Not statsmodels' ``multipletests``, which collects all garbage of the process in every call: a fifth of a second.
    """
    p, n = np.asarray(p_values, dtype=np.float64), len(p_values)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(n)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(n, 0, -1)), 1.0)
    return adjusted.tolist()


class ImageBootstrap:
    """Resamples of a set of images, the same for everything that is computed with them, so that it can be compared.

    Questions about one image share what makes it hard, so whole images are drawn, with all their cases.

    Args:
        images: What each case is about; cases with the same one are drawn together. Shape: ``(n,)``.
        seed: Of the draws.
    """

    def __init__(self, images: Sequence[Hashable], seed: int = 0) -> None:
        places: dict[Hashable, int] = {}
        self._place = np.array([places.setdefault(image, len(places)) for image in images], dtype=np.int64)
        self._n, self._seed = len(places), seed

    def intervals(self, tops: Floats, bottoms: Floats, *, level: float = LEVEL) -> list[Interval]:
        """The ratio of two sums over cases, with its percentile interval, for several pairs of them.

        A case that does not count has 0 at the bottom. A mean has ones there, a retention the other method's scores.

        Args:
            tops, bottoms: Per ratio and case. Shape: ``(k, n)`` each.

        Raises:
            ValueError: If the shapes do not fit, or the sum at the bottom is 0.
        """
        values, images, low, high = self._resampled(tops[:, None], bottoms[:, None], level)
        return [_interval(*numbers) for numbers in zip(values, low, high, images, strict=True)]

    def mean_ratios(
        self, tops: Floats, bottoms: Floats, counted: NDArray[Any] | None = None, *, level: float = LEVEL
    ) -> list[Interval]:
        """The mean of several ratios, such as the retention over data sets, for several such means; as ``intervals``.

        Args:
            tops, bottoms: Per mean, ratio and case. Shape: ``(m, k, n)`` each.
            counted: The cases of each ratio, where some of them have 0 at the bottom. An interval needs enough images
                of each ratio.
        """
        values, images, low, high = self._resampled(tops, bottoms, level, counted)
        return [_interval(*numbers) for numbers in zip(values, low, high, images, strict=True)]

    def _resampled(
        self, tops: Floats, bottoms: Floats, level: float, counted: NDArray[Any] | None = None
    ) -> tuple[Floats, NDArray[Any], Floats, Floats]:
        """Means over ratios, fewest images of a ratio, percentiles. Shape: ``(m, k, n)`` each -> ``(m,)`` each."""
        if tops.shape != bottoms.shape or tops.shape[2] != len(self._place):
            raise ValueError(f"shapes {tops.shape} and {bottoms.shape} do not fit {len(self._place)} cases")
        m, k, n = tops.shape
        cases = bottoms != 0 if counted is None else counted
        top, bottom, there = (self._sums(some.reshape(m * k, n)) for some in (tops, bottoms, cases))
        if not bottom.sum(axis=1).all():
            raise ValueError("nothing is a share of 0")
        values = (top.sum(axis=1) / bottom.sum(axis=1)).reshape(m, k).mean(axis=1)
        images = (there > 0).sum(axis=1).reshape(m, k).min(axis=1)
        if not (images >= MIN_IMAGES).any():
            return values, images, values, values
        ratios = self._ratios(top, bottom).reshape(-1, m, k).mean(axis=2)
        low, high = np.nanpercentile(ratios, [50 * (1 - level), 50 * (1 + level)], axis=0)
        return values, images, low, high

    def _sums(self, values: NDArray[Any]) -> Floats:
        """Sums over the cases of each image. Shape: ``(k, n)`` -> ``(k, images)``."""
        return np.stack([np.bincount(self._place, row.astype(np.float64), self._n) for row in values])

    def _ratios(self, top: Floats, bottom: Floats) -> Floats:
        """Of every resample, NaN where nothing counts. Shape: ``(k, images)`` each -> ``(resamples, k)``."""
        generator, batch, parts = np.random.default_rng(self._seed), max(1, 4_000_000 // self._n), []
        for start in range(0, RESAMPLES, batch):
            draws = generator.integers(self._n, size=(min(batch, RESAMPLES - start), self._n))
            weights = np.stack([np.bincount(draw, minlength=self._n) for draw in draws]).astype(np.float64)
            parts.append((weights @ top.T, weights @ bottom.T))
        tops, bottoms = (np.concatenate(some) for some in zip(*parts, strict=True))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios: Floats = tops / bottoms
        ratios[~np.isfinite(ratios)] = np.nan
        return ratios


def _interval(value: float, low: float, high: float, images: int) -> Interval:
    if images < MIN_IMAGES:
        reason = f"{images:,} images are too few for an interval"
        return Interval(value=value, images=images, refusal=Refusal(reason=reason, have=images, need=MIN_IMAGES))
    return Interval(value=value, low=low, high=high, images=images)


def bootstrap_mean(values: Floats, images: Sequence[Hashable], *, seed: int = 0) -> Interval:
    """The mean of a value per case, with its 95% percentile interval over resampled images.

    Args:
        values: Of each case, such as 0 and 100 for wrong and right. Shape: ``(n,)``.
        images: What each case is about; see ``ImageBootstrap``. Shape: ``(n,)``.
        seed: Of the draws.

    Raises:
        ValueError: If there are no cases, or their numbers differ.
    """
    top = np.asarray(values, dtype=np.float64)[None]
    return ImageBootstrap(images, seed).intervals(top, np.ones_like(top))[0]


def bootstrap_difference(first: Floats, second: Floats, images: Sequence[Hashable], *, seed: int = 0) -> Interval:
    """The difference of two means over the same cases, first minus second; arguments as for ``bootstrap_mean``."""
    return bootstrap_mean(np.asarray(first, dtype=np.float64) - second, images, seed=seed)


def bootstrap_ratio(first: Floats, second: Floats, images: Sequence[Hashable], *, seed: int = 0) -> Interval:
    """The first mean in percent of the second over the same cases (retention); arguments as for ``bootstrap_mean``.

    Raises:
        ValueError: Also if the second mean is 0.
    """
    top, bottom = (np.asarray(values, dtype=np.float64)[None] for values in (first, second))
    return ImageBootstrap(images, seed).intervals(100 * top, bottom)[0]


def band(values: Sequence[float]) -> Band:
    """The band of a figure over seeds.

    Raises:
        ValueError: If there are none.
    """
    if not len(values):
        raise ValueError("a band needs at least one seed")
    # Of equal numbers the mean may lie a rounding outside.
    mean = min(max(float(np.mean(values)), min(values)), max(values))
    return Band(mean=mean, low=float(min(values)), high=float(max(values)), seeds=len(values))


def majority(right: Sequence[bool]) -> bool:
    """Whether more than half of the seeds have a case right: the one outcome a random method has in a paired test."""
    return 2 * sum(right) > len(right)


def _need_statistics() -> None:
    for package in ("scipy", "statsmodels"):
        need(package, "mine", "Testing a difference")
