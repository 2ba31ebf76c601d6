"""Ranking scores: what is not finite comes last, and ties go to the lowest index."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Up to this many scores a stable sort is as fast as the steps of a partial one.
SMALL = 1024


def sanitised(scores: Tensor) -> tuple[Tensor, int]:
    """Scores that can be ranked, and how many were not finite.

    NaN and -inf become -inf (ranked last), +inf becomes the largest finite score, or -inf when there is none.
    Shape: ``(n,)`` -> ``(n,)`` float32.
    """
    scores = scores.float()
    # A sum is finite only if every term is; where it overflows, the terms are looked at one by one.
    if math.isfinite(scores.sum()):
        return scores, 0
    finite = torch.isfinite(scores)
    lowest = torch.full_like(scores, -torch.inf)
    largest = torch.where(finite, scores, lowest).max()
    clean = torch.where(finite, scores, torch.where(scores == torch.inf, largest, lowest))
    return clean, len(scores) - int(finite.count_nonzero())


def highest(scores: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` largest scores, ascending, ties to the lowest index. Shape: ``(n,)`` -> ``(count,)``.

    Scores must not contain NaN (see ``sanitised``); ``0 <= count <= n``. A partial sort finds the threshold, which
    costs a fraction of the stable sort of ``top_k``.
    """
    if count == len(scores):
        return torch.arange(count, device=scores.device)
    if count == 0:
        return torch.empty(0, dtype=torch.int64, device=scores.device)
    line = scores.topk(count, sorted=False).values.min()
    found = (scores >= line).nonzero().squeeze(1)
    if len(found) == count:
        return found
    above = scores > line
    level = (scores == line).logical_and_((scores == line).cumsum(0) <= count - above.sum())
    return above.logical_or_(level).nonzero().squeeze(1)


def top_k(scores: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` largest scores, best first, ties to the lowest index. Shape: ``(n,)`` -> ``(count,)``.

    Scores must not contain NaN (see ``sanitised``).
    """
    if len(scores) <= SMALL or not 0 <= count < len(scores) // 2:
        return torch.sort(scores, descending=True, stable=True).indices[:count]
    found = highest(scores, count)
    return found[torch.sort(scores[found], descending=True, stable=True).indices]


def ties_at_threshold(scores: Tensor, count: int) -> int:
    """How many scores equal the ``count``-th largest, itself included: 1 means that no tie decided.

    Shape: scores ``(n,)``, ``1 <= count <= n``.
    """
    threshold = scores.kthvalue(len(scores) - count + 1).values
    return int((scores == threshold).sum())


def evenly_spaced(n: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """The middles of ``count`` equal slices of ``0..n-1``: index ``floor((2i + 1) n / (2 count))``.

    Shape: ``(count,)`` ascending, unique for ``count <= n``.
    """
    return (2 * torch.arange(count, device=device) + 1) * n // (2 * count)


def fill_up(picks: Tensor, count: int, pool: Tensor) -> Tensor:
    """``picks`` and, where they are fewer than ``count``, further rows of ``pool``: the lowest first.

    With no pick at all there is nothing to go by, and the rows are evenly spaced over ``pool``.
    Shape: picks ``(k,)``, pool ``(P,)`` -> ``(min(count, P),)``, picks first.
    """
    if len(picks) == 0:
        return pool[evenly_spaced(len(pool), min(count, len(pool)), pool.device)]
    if len(picks) >= count:
        return picks
    return torch.cat([picks, pool[~torch.isin(pool, picks)][: count - len(picks)]])
