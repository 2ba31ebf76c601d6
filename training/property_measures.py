"""What tokens and rows of attention tell: measures on plain tensors, and means over scenes with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

OUTLIER_FACTOR = 2.0
"""A token is an outlier when it is more than so many times as long as the median background token of its picture."""
STRONGEST = 0.05
"""The share of patches that `top_share` adds up."""
RESAMPLES = 2000
SEED = 11
Value = float | list[float]
Estimate = dict[str, Any]
"""`mean`, `low` and `high` (a number each, or a list of one per block), and `scenes`, the number behind them."""


def auc(scores: Tensor, marked: Tensor, others: Tensor) -> float:
    """How often a marked token scores higher than one of the others; ties count half. NaN when a side is empty.

    Shape:
        scores: (N,); marked, others: (N,) bool.
    """
    high, low = scores[marked].double().contiguous(), scores[others].double().sort().values
    if len(high) == 0 or len(low) == 0:
        return math.nan
    below, upto = torch.searchsorted(low, high), torch.searchsorted(low, high, right=True)
    return float((below + upto).double().mean() / (2 * len(low)))


def outliers(lengths: Tensor) -> tuple[float, float, float]:
    """Of background tokens: the share of outliers, their mean length over the median, and the longest over the median.

    The second is NaN where there is no outlier; all are where there is no token.

    Shape:
        lengths: (n,).
    """
    if len(lengths) == 0:
        return math.nan, math.nan, math.nan
    ratio = lengths.double() / lengths.double().median()
    long = ratio > OUTLIER_FACTOR
    factor = float(ratio[long].mean()) if bool(long.any()) else math.nan
    return float(long.double().mean()), factor, float(ratio.max())


def evenness(weights: Tensor) -> Tensor:
    """Entropy of non-negative weights over ln N: 1 when all are equal, 0 when one has everything.

    Shape:
        weights: (..., N) with N >= 2; returns (...) float64.
    """
    shares = weights.double() / weights.double().sum(-1, keepdim=True)
    return torch.special.entr(shares).sum(-1) / math.log(weights.shape[-1])


def top_share(weights: Tensor) -> Tensor:
    """The share that the strongest `STRONGEST` of the weights (at least one) have of their sum.

    Shape:
        weights: (..., N); returns (...) float64.
    """
    count = max(1, math.ceil(STRONGEST * weights.shape[-1] - 1e-9))
    return weights.double().topk(count, dim=-1).values.sum(-1) / weights.double().sum(-1)


def cosines(tokens: Tensor, words: Tensor) -> Tensor:
    """Cosine of every token with every word; 0 where either has no length.

    Shape:
        tokens: (n, D); words: (W, D); returns (n, W) float64.
    """
    return (
        torch.nn.functional.normalize(tokens.double(), dim=1) @ torch.nn.functional.normalize(words.double(), dim=1).T
    )


def naming_auc(similar: Tensor, right: Tensor) -> Tensor:
    """For every token the share of the other words that are less similar to it than its right one; ties count half.

    Shape:
        similar: (n, W) with W >= 2; right: (n,) int64, the right word of each token; returns (n,) float64.
    """
    own = similar.gather(1, right[:, None])
    wins = (similar < own).double() + 0.5 * (similar == own).double()
    return (wins.sum(1) - 0.5) / (similar.shape[1] - 1)  # the right word ties with itself


def pearson(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation; NaN when one of them is constant.

    Shape:
        a, b: (N,).
    """
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    product = a.norm() * b.norm()
    return float(a @ b / product) if float(product) > 0 else math.nan


def ranks(values: Tensor) -> Tensor:
    """Ranks from 0 on; equal values share their mean rank.

    Shape:
        values: (N,); returns (N,) float64.
    """
    _, place, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return ((last - counts + last - 1) / 2)[place]


def spearman(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation; NaN when one of them is constant.

    Shape:
        a, b: (N,).
    """
    return pearson(ranks(a), ranks(b))


def mean_known(values: Sequence[float]) -> float:
    """The mean of what is not NaN; NaN when nothing is left."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def summarise(scenes: Sequence[Mapping[str, Value]]) -> dict[str, Estimate]:
    """Mean over scenes of every measure, with the 95% interval of a bootstrap that draws whole scenes.

    NaN means that a scene says nothing about a measure: it is left out there. None where no scene says anything.
    """
    draws = np.random.default_rng(SEED).multinomial(len(scenes), np.full(len(scenes), 1 / len(scenes)), size=RESAMPLES)
    return {
        name: _estimate(np.array([scene[name] for scene in scenes], np.float64), draws.astype(np.float64))
        for name in scenes[0]
    }


def _estimate(values: NDArray[np.float64], draws: NDArray[np.float64]) -> Estimate:
    """Shape: values (S,) or (S, K); draws (B, S), how often each scene was drawn."""
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = filled.sum(0) / known.sum(0)
        drawn = (draws @ filled) / (draws @ known.astype(np.float64))
    low, high = (_quantile(drawn, q) for q in (0.025, 0.975))
    return {"mean": _plain(mean), "low": _plain(low), "high": _plain(high), "scenes": int(known.any(-1).sum())
            if values.ndim > 1 else int(known.sum())}  # fmt: skip


def _quantile(drawn: NDArray[np.float64], q: float) -> NDArray[np.float64]:
    columns = drawn.reshape(len(drawn), -1)
    found = [np.quantile(c[np.isfinite(c)], q) if np.isfinite(c).any() else np.nan for c in columns.T]
    return np.array(found).reshape(drawn.shape[1:])


def _plain(values: NDArray[np.float64] | float) -> Any:
    """Rounded numbers for JSON; None instead of NaN."""
    rounded = np.round(np.asarray(values, np.float64), 4).tolist()
    if isinstance(rounded, list):
        return [None if math.isnan(value) else value for value in rounded]
    return None if math.isnan(rounded) else rounded
