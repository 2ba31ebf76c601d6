"""Rows of features: which can be compared, how long they are, and how to gather them without needless copies."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ...types import Signals

# Bytes of a block of rows that is worked on at a time: small enough for the caches, large enough for full speed.
BLOCK_BYTES = 4 << 20
SCRATCH_BYTES = 512 << 20


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
