"""Building blocks that methods share: rows of features, rankings, merging.

Everything is computed in float32 whatever comes in, ties go to the lowest index, and no building block holds more than
``scratch_limit`` beside its inputs. How tokens are picked one after the other lives in ``sampling.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from ..types import Signals

# Bytes of a block of rows that is worked on at a time: small enough for the caches, large enough for full speed.
BLOCK_BYTES = 4 << 20
SCRATCH_BYTES = 512 << 20
# Up to this many scores a stable sort is as fast as the steps of a partial one.
SMALL = 1024
# Singular values below this share of the largest are directions that float32 cannot tell from rounding.
RANK_TOLERANCE = 1e-6


def required(signal: Tensor | None, name: str) -> Tensor:
    """Return the signal. Raises ValueError when it was not captured although the stage declares the need."""
    if signal is None:
        raise ValueError(f"This stage needs the signal {name!r}, and Signals.{name} is None.")
    return signal


def candidate_rows(signals: Signals) -> Tensor:
    """Indices of the rows that are image patches (all rows when ``candidates`` is None). Shape: ``(P,)`` ascending."""
    if signals.candidates is None:
        return torch.arange(len(signals.features), device=signals.features.device)
    return signals.candidates.nonzero().squeeze(1)


def scratch_limit(features: Tensor) -> int:
    """Bytes that a selection may hold beside its inputs: 512 MiB, or twice the features where that is more."""
    return max(SCRATCH_BYTES, 2 * features.numel() * features.element_size())


def row_blocks(features: Tensor, block_bytes: int = BLOCK_BYTES) -> Iterator[slice]:
    """Consecutive slices of the rows of ``features (n, D)``, each of at most ``block_bytes`` in float32, or one row."""
    rows = max(1, block_bytes // (4 * max(1, features.shape[1])))
    return (slice(start, min(start + rows, len(features))) for start in range(0, len(features), rows))


def take_rows(features: Tensor, rows: Tensor) -> Tensor:
    """``features[rows]`` in float32, without a copy when these are all rows. Shape: ``(N, D)``, ascending ``(n,)``."""
    return (features if len(rows) == len(features) else features[rows]).float()


def kept_rows(features: Tensor, kept: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """``features[kept]`` with ``values`` in place of ``rows``, all of which are kept; nothing else is copied.

    Shape: features ``(N, D)``, kept ``(K,)`` ascending, rows ``(r,)``, values ``(r, D)`` -> ``(K, D)``.
    """
    return features[kept].index_copy_(0, torch.searchsorted(kept, rows), values.to(features.dtype))


def row_lengths(features: Tensor) -> Tensor:
    """Euclidean length of every row, computed in float32 without a float32 copy of all rows. Shape: -> ``(n,)``."""
    if features.dtype == torch.float32:
        return torch.linalg.vector_norm(features, dim=1)
    lengths = torch.empty(len(features), device=features.device)
    for rows in row_blocks(features):
        lengths[rows] = torch.linalg.vector_norm(features[rows].float(), dim=1)
    return lengths


def usable_rows(values: Tensor, pool: Tensor) -> Tensor:
    """The rows of ``pool`` whose number, or whose squared length, is finite in float32.

    Shape: values ``(N,)`` or ``(N, D)``, pool ``(P,)`` -> ``(n,)`` ascending.
    """
    numbers = values if values.dim() == 1 else row_lengths(values).square_()
    # A sum is finite only if every term is; where it overflows, the terms are looked at one by one.
    return pool if math.isfinite(numbers.sum()) else pool[torch.isfinite(numbers)[pool]]


def unit_rows(features: Tensor, rows: Tensor | None = None) -> Tensor:
    """All or some rows divided by ``max(||x||, 1e-12)``, so that a zero row has cosine 0 with everything.

    Shape: features ``(N, D)``, rows ``(n,)`` or None for all -> ``(n, D)`` float32, the only copy that is made.
    """
    if rows is not None:
        features = features[rows]
    lengths = row_lengths(features).clamp_min_(1e-12).unsqueeze(1)
    if rows is None and features.dtype == torch.float32:
        return features / lengths
    return features.float().div_(lengths)


def whole_groups(rows: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The rows and as many zero rows as make their number a multiple of 16. Shape: ``(n, D)`` -> ``(n', D)``.

    Matrix kernels sum the last few rows in another order unless there is a whole group of them, and then
    duplicates would not have the very same product.
    """
    n, missing = len(rows), -len(rows) % 16
    if not missing:
        return rows.to(dtype or rows.dtype)
    padded = torch.empty(n + missing, rows.shape[1], dtype=dtype or rows.dtype, device=rows.device)
    padded[:n], padded[n:] = rows, 0
    return padded


def complement(rows: Tensor, n: int) -> Tensor:
    """The indices of ``0..n-1`` that are not in ``rows``. Shape: ``(k,)`` -> ``(n - k,)`` ascending."""
    outside = torch.ones(n, dtype=torch.bool, device=rows.device)
    outside[rows] = False
    return outside.nonzero().squeeze(1)


def without(rows: Tensor, others: Tensor, n: int) -> Tensor:
    """``rows`` but for ``others``, in their order; all are below ``n``. Shape: ``(k,)``, ``(m,)`` -> ``(l,)``."""
    left = torch.ones(n, dtype=torch.bool, device=rows.device)
    left[others] = False
    return rows[left[rows]]


def spread(values: Tensor, rows: Tensor, n: int, missing: float) -> Tensor:
    """``values`` at ``rows`` of a vector of ``n``, ``missing`` elsewhere. Shape: ``(k,)``, ``(k,)`` -> ``(n,)``."""
    full = torch.full((n,), missing, dtype=values.dtype, device=values.device)
    full[rows] = values
    return full


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


def reconstruction_error(features: Tensor, basis: Tensor, ridge: float = 0.0) -> tuple[Tensor, Tensor]:
    """Length of what the basis cannot reconstruct, and the singular values of the basis.

    Least squares ``min_A ||X - A B||^2 + ridge ||A||^2`` solved in the singular basis of B: direction ``v_i`` is
    reconstructed by the share ``s_i^2 / (s_i^2 + ridge)``. Unlike the normal equations ``B B^T + ridge I`` of ApET's
    code this stays exact for a rank-deficient basis (``methods.md`` 16); for a full-rank basis both agree. The residual
    is formed explicitly, as ``||x||^2 - ||Q^T x||^2`` loses small errors to cancellation.
    Shape: features ``(n, D)``, basis ``(M, D)``, both finite -> ``(n,)``, ``(min(M, D),)``.
    """
    features, basis = features.float(), basis.float()
    if len(basis) == 0:
        return row_lengths(features), features.new_empty(0)
    # The SVD of the small triangle R of B^T = Q R is that of B turned by Q, at a fraction of the price.
    frame, triangle = torch.linalg.qr(basis.T)
    turn, singular, _ = torch.linalg.svd(triangle, full_matrices=False)
    directions = (frame @ turn).T
    share = singular.square() / (singular.square() + ridge)
    share = torch.where(singular > RANK_TOLERANCE * singular.max(), share, torch.zeros_like(share))
    shrunk = directions * share.unsqueeze(1)
    error = torch.empty(len(features), device=features.device)
    for rows in row_blocks(features):
        part = features[rows]
        error[rows] = torch.linalg.vector_norm(torch.addmm(part, part @ directions.T, shrunk, alpha=-1), dim=1)
    return error, singular


@dataclass(frozen=True)
class Merge:
    """What ``merge_into_nearest`` did.

    Shape: features ``(T, D)`` float32, the targets after merging, in the order in which they were given; owner
    ``(S,)``, for every source the row of the target that absorbed it; sizes ``(T,)`` int64, tokens in each mean.
    """

    features: Tensor
    owner: Tensor
    sizes: Tensor


def merge_into_nearest(features: Tensor, targets: Tensor, sources: Tensor) -> Merge:
    """Average every source into the target with the highest cosine, the target itself counted once.

    A plain mean over the group; ties go to the target that is listed first, so list targets ascending.
    Shape: features ``(n, D)`` finite, targets ``(T,)`` with T >= 1, sources ``(S,)``: row indices.
    """
    nearest = nearest_by_cosine(features[targets], features, sources)
    sums, counts = group_sums(features, sources, nearest, len(targets))
    sizes = counts + 1
    merged = sums.add_(features[targets].float()).div_(sizes.unsqueeze(1))
    return Merge(merged, targets[nearest], sizes)


def nearest_by_cosine(targets: Tensor, features: Tensor, sources: Tensor) -> Tensor:
    """For every source row of ``features`` the position of the target with the highest cosine, ties to the first.

    Only the targets are brought to length 1: the length of a source multiplies all its cosines alike (a zero row is 0
    to all targets, and gets the first). Equal targets tie exactly (see ``whole_groups``).
    Shape: targets ``(T, D)``, features ``(n, D)``, sources ``(S,)`` -> ``(S,)``.
    """
    unit = whole_groups(unit_rows(targets)).T
    nearest = torch.empty_like(sources)
    step = max(256, BLOCK_BYTES // max(1, len(targets)))
    for start in range(0, len(sources), step):
        part = sources[start : start + step]
        nearest[start : start + step] = (features[part].float() @ unit)[:, : len(targets)].argmax(1)
    return nearest


def group_sums(
    features: Tensor, sources: Tensor, group: Tensor, n_groups: int, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sum of the (weighted) source rows of each group, added in the order of ``sources``, and how many they are.

    The bags of an embedding table do just this: one read of the features, no copy of the sources, and, unlike
    ``index_add_``, the same order of summation on every run on CUDA.
    Shape: features ``(n, D)``, sources, group and weights ``(S,)`` -> ``(n_groups, D)`` float32 (float64 for float64),
    ``(n_groups,)`` int64.
    """
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    counts = torch.bincount(group, minlength=n_groups)
    if len(sources) == 0:
        return features.new_zeros(n_groups, features.shape[1]), counts
    by_group = torch.sort(group, stable=True).indices
    starts = counts.cumsum(0) - counts
    weights = None if weights is None else weights[by_group].to(features.dtype)
    return embedding_bag(sources[by_group], features, starts, mode="sum", per_sample_weights=weights), counts
