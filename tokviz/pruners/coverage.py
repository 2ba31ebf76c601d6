"""Greedy maximum coverage: the pick that adds most to what the picks cover, and the region that each pick covers.

Facility location: a row is covered as well as by its best pick, a candidate is worth what it would add to all rows.
SCOPE covers the patches, MMTok the patches and the words of the question.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .ops import BLOCK_BYTES, whole_groups
from .pairs import LARGEST_COSINE_MATRIX, symmetric_product

# Candidates whose worth is computed anew together on a CPU; more than one, as a single sum may be split over threads.
AT_ONCE = 16
# Numbers that a GPU compares at once: a block of 64 MiB.
ON_A_GPU = 1 << 24

CoverRows = Callable[[Tensor], Tensor]
"""How well each of the candidates ``(b,)`` covers every row ``(R,)``. Shape: ``(b,)`` -> ``(b, R)``."""


@dataclass(frozen=True)
class Coverage:
    """What ``greedy_coverage`` picked.

    Shape: picks ``(count,)`` in the order of picking; gains ``(count,)``, what each was worth when it was picked; cover
    ``(R,)``, how well every row is covered at the end.
    """

    picks: Tensor
    gains: Tensor
    cover: Tensor


def greedy_coverage(covers: CoverRows, n_rows: int, weights: Tensor, count: int) -> Coverage:
    """Repeat: pick the candidate j with the largest ``w_j sum_r max(0, C_jr - c_r)``, where c is the cover so far.

    c begins at 0 everywhere and becomes ``max(c, C_j)``. Ties go to the lowest index; no candidate comes twice.

    What a candidate is worth only falls, term by term and so in floats as well: one that was worth less than another is
    now needs no second look. On a CPU only those that might be best are computed anew, a fraction of all, which
    changes no pick; on a GPU all are, so that the loop never waits for an answer.
    Shape: C ``(n, n_rows)``, weights ``(n,)``, at least 0; ``1 <= count <= n``.
    """
    cover = torch.zeros(n_rows, device=weights.device)
    worth = worth_of_all(covers, cover, weights)
    if weights.device.type == "cpu":
        return _lazily(covers, cover, weights, count, worth)
    picked = torch.zeros_like(worth)
    picks, gains = [], []
    for step in range(count):
        if step:
            worth = worth_of_all(covers, cover, weights) + picked
        pick = worth.argmax(0, keepdim=True)
        picks.append(pick)
        gains.append(worth.index_select(0, pick))
        torch.maximum(cover, covers(pick).squeeze(0), out=cover)
        picked.index_fill_(0, pick, -torch.inf)  # so that it is never picked again
    return Coverage(torch.cat(picks), torch.cat(gains), cover)


def _lazily(covers: CoverRows, cover: Tensor, weights: Tensor, count: int, worth: Tensor) -> Coverage:
    """The loop of ``greedy_coverage`` on a CPU. NumPy takes a tenth of torch's time per small call.

    Shape: cover ``(R,)`` and worth ``(n,)``, of before the first pick; both are overwritten.
    """
    bound, picks, gains = worth.numpy(), [], []
    stale = np.zeros(len(bound), dtype=bool)
    at_once = min(AT_ONCE, len(bound))
    for _ in range(count):
        # The best one, the lowest of equals, is the pick once it is computed anew: no other can be worth more.
        while stale[best := int(bound.argmax())]:
            open_ = np.where(stale, bound, -np.inf)
            likely = np.argpartition(open_, -at_once)[-at_once:]
            likely[open_[likely].argmin()] = best  # of equals the lowest may be missing
            now = _worth(covers, cover, weights, torch.from_numpy(likely)).numpy()
            bound[likely] = np.where(bound[likely] > -np.inf, now, -np.inf)
            stale[likely] = False
        picks.append(best)
        gains.append(float(bound[best]))
        torch.maximum(cover, covers(torch.tensor([best], device=cover.device)).squeeze(0), out=cover)
        bound[best] = -np.inf  # so that it is never picked again
        stale[:] = True
    here = cover.device  # the default one may be another
    return Coverage(torch.tensor(picks, device=here), torch.tensor(gains, dtype=cover.dtype, device=here), cover)


def worth_of_all(covers: CoverRows, cover: Tensor, weights: Tensor) -> Tensor:
    """What every candidate would add to ``cover (R,)``, times its weight. Shape: weights ``(n,)`` -> ``(n,)``."""
    numbers = BLOCK_BYTES // 4 if weights.device.type == "cpu" else ON_A_GPU
    every = torch.arange(len(weights), device=weights.device)
    parts = every.split(max(AT_ONCE, numbers // max(1, len(cover))))
    return torch.cat([_worth(covers, cover, weights, part) for part in parts])


def _worth(covers: CoverRows, cover: Tensor, weights: Tensor, candidates: Tensor) -> Tensor:
    return (covers(candidates) - cover).clamp_min_(0).sum(1).mul_(weights[candidates])


def cosine_cover(unit: Tensor) -> CoverRows:
    """How well rows cover one another: their cosines, stored as a matrix up to 8192 rows and computed again beyond.

    Shape: unit ``(n, D)``, rows of length 1 or 0.
    """
    if len(unit) <= LARGEST_COSINE_MATRIX:
        matrix = symmetric_product(unit)
        return lambda candidates: matrix[candidates]
    padded = whole_groups(unit)
    return lambda candidates: (whole_groups(unit[candidates]) @ padded.T)[: len(candidates), : len(unit)]


def regions(covers: CoverRows, coverage: Coverage) -> Tensor:
    """Which pick covers each row best, the first pick of equals; -1 where none covers it at all. Shape: ``(R,)``."""
    best = torch.zeros_like(coverage.cover)
    owner = torch.full_like(best, -1, dtype=torch.int64)
    for part in coverage.picks.split(64):
        found = covers(part).max(0)
        better = found.values > best
        owner = owner.where(~better, part[found.indices])
        best = torch.maximum(best, found.values)
    return owner
