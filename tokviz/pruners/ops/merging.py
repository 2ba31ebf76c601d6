"""Merging rows into others, and how well a few rows reconstruct all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from .rows import BLOCK_BYTES, row_blocks, row_lengths, unit_rows, whole_groups

# Singular values below this share of the largest are directions that float32 cannot tell from rounding.
RANK_TOLERANCE = 1e-6


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
