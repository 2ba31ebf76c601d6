"""Building blocks that methods share: unusable rows, clean scores, stable ranking, cosine, reconstruction, merging.

Everything is computed in float32 whatever comes in, ties go to the lowest index, and no building block holds more than
``scratch_limit`` beside its inputs (``methods.md`` 0.6 and 16). How tokens are *picked one after the other* lives in
``sampling.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps

import torch
from torch import Generator, Tensor
from torch.nn.functional import embedding_bag, pad

from ..types import Diagnostics, Params, SelectFunction, Selection, Signals, TokenMap

# Singular values below this share of the largest are directions that float32 cannot tell from rounding.
RANK_TOLERANCE = 1e-6
# Bytes of a block of rows that is worked on at a time: small enough for the caches, large enough for full speed.
BLOCK_BYTES = 4 << 20
SCRATCH_BYTES = 512 << 20


def fixed_count(select: Callable[[Signals, int, Params, Generator], Selection]) -> SelectFunction:
    """Decorate the select function of a stage that keeps a planned number of tokens.

    ``keep >= N`` is the identity and ``keep <= 0`` drops everything; neither does any selection work, so ``select``
    only ever sees ``0 < keep < N``. Raises ValueError for a stage without a count.
    """

    @wraps(select)
    def counted(signals: Signals, keep: int | None, params: Params, generator: Generator) -> Selection:
        if keep is None:
            raise ValueError("This stage keeps a planned number of tokens, but its Stage.keep is None.")
        n, device = signals.features.shape[0], signals.features.device
        if keep >= n:
            return Selection(kept=torch.arange(n, device=device))
        if keep <= 0:
            return Selection(kept=torch.empty(0, dtype=torch.int64, device=device))
        return select(signals, keep, params, generator)

    return counted


def required(signal: Tensor | None, name: str) -> Tensor:
    """The signal itself. Raises ValueError when the engine did not capture it although the stage declares the need."""
    if signal is None:
        raise ValueError(f"This stage needs the signal {name!r}, and Signals.{name} is None.")
    return signal


def candidate_rows(signals: Signals) -> Tensor:
    """Indices of the rows that are image patches (all rows when ``candidates`` is None). Shape: ``(P,)`` ascending."""
    if signals.candidates is None:
        return torch.arange(signals.features.shape[0], device=signals.features.device)
    return signals.candidates.nonzero().squeeze(1)


def scratch_limit(features: Tensor) -> int:
    """Bytes that a selection may hold beside its inputs: 512 MiB, or twice the features where that is more."""
    return max(SCRATCH_BYTES, 2 * features.numel() * features.element_size())


def row_blocks(features: Tensor, block_bytes: int = BLOCK_BYTES) -> Iterator[slice]:
    """Consecutive slices of the rows of ``features (n, D)``, each of at most ``block_bytes`` as float32 (one row at
    least).
    """
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


def usable_rows(features: Tensor, pool: Tensor) -> Tensor:
    """The rows of ``pool`` whose squared length is a finite float32 number; NaN and Inf rows are left out.

    Shape: features ``(N, D)``, pool ``(P,)`` -> ``(n,)`` ascending.
    """
    return pool[torch.isfinite(row_lengths(features).square())[pool]]


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


def whole_groups(rows: Tensor) -> Tensor:
    """The rows and as many zero rows as make their number a multiple of 16. Shape: ``(n, D)`` -> ``(n', D)``.

    Matrix kernels sum the last few rows in another order unless there is a whole group of them, and then
    duplicates would not have the very same product.
    """
    return pad(rows, (0, 0, 0, -len(rows) % 16)) if len(rows) % 16 else rows


def sanitised(scores: Tensor) -> tuple[Tensor, int]:
    """Scores that can be ranked, and how many were not finite (``methods.md`` 16).

    NaN and -inf become -inf (ranked last), +inf becomes the largest finite score, or -inf when there is none.
    Shape: ``(n,)`` -> ``(n,)`` float32.
    """
    scores = scores.float()
    finite = torch.isfinite(scores)
    non_finite = len(scores) - int(finite.count_nonzero())
    if non_finite == 0:
        return scores, 0
    lowest = torch.full_like(scores, -torch.inf)
    largest = torch.where(finite, scores, lowest).max()
    return torch.where(finite, scores, torch.where(scores == torch.inf, largest, lowest)), non_finite


def top_k(scores: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` largest scores, best first, ties to the lowest index. Shape: ``(n,)`` -> ``(count,)``.

    Scores must not contain NaN (see ``sanitised``).
    """
    return torch.sort(scores, descending=True, stable=True).indices[:count]


def ties_at_threshold(scores: Tensor, count: int) -> int:
    """How many scores equal the ``count``-th largest, itself included: 1 means that no tie decided (``methods.md`` 16).

    Shape: scores ``(n,)``, ``1 <= count <= n``.
    """
    threshold = scores.kthvalue(len(scores) - count + 1).values
    return int((scores == threshold).sum())


def evenly_spaced(n: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """The middles of ``count`` equal slices of ``0..n-1``: index ``floor((2i + 1) n / (2 count))``.

    Shape: ``(count,)`` ascending, unique for ``count <= n``.
    """
    return (2 * torch.arange(count, device=device) + 1) * n // (2 * count)


def complement(rows: Tensor, n: int) -> Tensor:
    """The indices of ``0..n-1`` that are not in ``rows``. Shape: ``(k,)`` -> ``(n - k,)`` ascending."""
    outside = torch.ones(n, dtype=torch.bool, device=rows.device)
    outside[rows] = False
    return outside.nonzero().squeeze(1)


def fill_up(picks: Tensor, count: int, pool: Tensor) -> Tensor:
    """``picks`` and, where they are fewer than ``count``, further rows of ``pool``: the lowest first.

    With no pick at all there is nothing to go by, and the rows are evenly spaced over ``pool`` (``methods.md`` 16).
    Shape: picks ``(k,)``, pool ``(P,)`` -> ``(min(count, P),)``, picks first.
    """
    if len(picks) == 0:
        return pool[evenly_spaced(len(pool), min(count, len(pool)), pool.device)]
    spare = pool[~torch.isin(pool, picks)]
    return torch.cat([picks, spare[: max(count - len(picks), 0)]])


def spread(values: Tensor, rows: Tensor, n: int, missing: float) -> Tensor:
    """``values`` at ``rows`` of a vector of ``n``, ``missing`` elsewhere. Shape: ``(k,)``, ``(k,)`` -> ``(n,)``."""
    full = torch.full((n,), missing, dtype=values.dtype, device=values.device)
    full[rows] = values
    return full


def non_finite_warnings(non_finite: int, n: int) -> tuple[str, ...]:
    """The sentence for the user when ``non_finite`` of ``n`` tokens could not be ranked; empty when all could."""
    if non_finite == 0:
        return ()
    return (f"{non_finite} of {n} tokens have a score or feature that is not finite; NaN was ranked last.",)


def unrankable(keep: int, pool: Tensor, score: TokenMap | None = None) -> Selection:
    """Keep evenly spaced rows and say so: the way out when no row of ``pool (P,)`` has a finite score or feature."""
    return Selection(
        kept=fill_up(pool[:0], keep, pool).sort().values,
        diagnose=lambda: Diagnostics(
            score=score,
            facts={"non_finite": len(pool)},
            warnings=(
                "No token has a finite score or feature: evenly spaced tokens were kept instead of ranked ones.",
            ),
        ),
    )


def keep_highest(signals: Signals, score: TokenMap, keep: int, pool: Tensor) -> Selection:
    """Keep the ``keep`` rows of ``pool`` with the highest score: all that an attention-ranked stage does.

    Shape: score.values ``(N,)``, pool ``(P,)`` the rows that take part -> kept ``(min(keep, P),)``.
    """
    ranked, non_finite = sanitised(score.values[pool])
    keep = min(keep, len(pool))
    if non_finite == len(pool):
        return unrankable(keep, pool, score)
    return Selection(
        kept=pool[top_k(ranked, keep)].sort().values,
        diagnose=lambda: Diagnostics(
            score=score,
            facts={"non_finite": non_finite, "ties_at_threshold": ties_at_threshold(ranked, keep)},
            warnings=non_finite_warnings(non_finite, len(pool)),
        ),
    )


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
