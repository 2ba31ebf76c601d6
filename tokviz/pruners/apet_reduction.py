"""What ApET does to one set of tokens: basis, reconstruction error, who stays, who merges into whom, in both modes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from ..types import Params
from .ops import complement, merge_into_nearest, reconstruction_error, spread, ties_at_threshold, top_k
from .sampling import density_peaks, farthest_from_mean, farthest_points, random_rows

# The official solve adds this to the diagonal of B B^T (absolute, whatever the scale of the features).
OFFICIAL_RIDGE = 1e-5
# An error below this share of the token's length is rounding: it counts as 0, so that a basis that spans everything
# leaves raster order instead of an order by noise. Rounding of sums of D terms grows with sqrt(D): 8e-6 at D = 4096.
ROUNDING = torch.finfo(torch.float32).eps
ROUNDING_TERMS = 256  # narrower features round as much as these, by the other steps of the fit

BasisPlaces = Literal["by_position", "by_rank", "behind"]
"""Where official mode puts the features of the basis: over the lowest-ranked kept tokens in ascending order (LLaVA's
stage 1) or in order of rank (its stage 2), or behind the kept tokens of a frame (Video-LLaVA)."""


@dataclass(frozen=True)
class Basis:
    """What all tokens are reconstructed from.

    Shape: rows ``(M,)`` in the order of picking, with repetitions only when drawn with replacement; features ``(M, D)``
    float32, those of the rows or, for official density peaks, the means of their clusters.
    """

    rows: Tensor
    features: Tensor


@dataclass(frozen=True)
class Kept:
    """What one mode decided about ``n`` tokens, in their own numbering.

    Shape: rows ``(T,)`` ascending; features ``(T, D)`` float32; owner ``(n,)``, the kept token that carries each one,
    -1 if none; sizes ``(n,)``, how many tokens are averaged in it, 0 if dropped; places ``(M,)`` or ``(0,)``, the
    tokens over which the features of the basis were written; ties: see ``ties_at_threshold``. sequence ``(T,)``: the
    same tokens as rows, in the order in which the LLM gets them, None for ascending.
    """

    rows: Tensor
    features: Tensor
    owner: Tensor
    sizes: Tensor
    places: Tensor
    ties: int
    sequence: Tensor | None = None


@dataclass(frozen=True)
class Reduction:
    """``Kept``, and how it came about. Shape: error ``(n,)``, NaN where nothing was ranked; singular ``(min(M, D),)``.

    order ``(n,)``: step at which a token became part of the basis, -1 else. replaced_by ``(n,)``: that step of the
    basis token whose feature was written over this token, -1 if none.
    """

    kept: Kept
    error: Tensor
    singular: Tensor
    order: Tensor
    replaced_by: Tensor


def sample_basis(features: Tensor, count: int, params: Params, generator: Generator) -> Basis:
    """At most ``count`` rows; farthest point sampling stops at duplicates. Shape: features ``(n, D)`` float32, finite.

    Official mode draws ``random`` with replacement and takes the means of the clusters for ``dpc``, as the released
    code does; paper mode needs tokens that it can keep, so it draws without replacement and takes the centres.
    """
    n, device, official = len(features), features.device, params["mode"] == "official"
    if count <= 0:
        rows = torch.empty(0, dtype=torch.int64, device=device)
    elif params["sampling"] == "random":
        lots = torch.randint(n, (count,), generator=generator, device=generator.device).to(device)
        rows = lots if official else random_rows(n, count, generator, device)
    elif params["sampling"] == "dpc":
        peaks = density_peaks(features, count, neighbours=count)
        rows = peaks.centres
        if official:
            member = (peaks.owner.unsqueeze(0) == rows.unsqueeze(1)).float()
            return Basis(rows, member @ features / member.sum(1, keepdim=True))
    else:
        first = random_rows(n, 1, generator, device) if params["start"] == "random" else farthest_from_mean(features)
        rows = farthest_points(features, count, first)
    return Basis(rows, features[rows])


def _keep_as_paper(features: Tensor, error: Tensor, basis: Basis, keep: int) -> Kept:
    """Kept = basis and the T - M largest errors of the rest, each at its own place; the rest merges into all of them.

    Source: ApET section 3.3 ("we explicitly retain the base tokens").
    """
    n, device = len(features), features.device
    rest = complement(basis.rows, n)
    wanted = keep - len(basis.rows)
    kept = torch.cat([basis.rows, rest[top_k(error[rest], wanted)]]).sort().values
    dropped = complement(kept, n)
    merge = merge_into_nearest(features, kept, dropped)
    return Kept(
        rows=kept,
        features=merge.features,
        owner=torch.arange(n, device=device).index_copy(0, dropped, merge.owner),
        sizes=spread(merge.sizes, kept, n, 0),
        places=kept[:0],
        ties=ties_at_threshold(error[rest], wanted),
    )


def _keep_as_video_code(features: Tensor, error: Tensor, basis: Basis, keep: int) -> Kept:
    """Kept = the T - M largest errors, best first, into which ALL others merge, then the basis tokens as they were.

    So what the basis tokens hold is there twice: by itself, and in the mean of the most similar of the others.
    Source: official ``video-llava/videollava/model/llava_arch.py``, ``encode_videos`` (``methods.md`` 1.4).
    """
    n, device = len(features), features.device
    rest = complement(basis.rows, n)
    wanted = keep - len(basis.rows)
    ranked = rest[top_k(error[rest], wanted)]
    targets = ranked.sort().values
    sources = complement(targets, n)
    merge = merge_into_nearest(features, targets, sources)
    owner = torch.arange(n, device=device).index_copy(0, sources, merge.owner)
    sequence = torch.cat([ranked, basis.rows])
    kept, order = torch.cat([targets, basis.rows]).sort()
    return Kept(
        rows=kept,
        features=torch.cat([merge.features, basis.features])[order],
        owner=owner.index_copy(0, basis.rows, basis.rows),
        sizes=spread(merge.sizes, targets, n, 0).index_fill(0, basis.rows, 1),
        places=kept[:0],
        ties=ties_at_threshold(error[rest], wanted),
        sequence=sequence,
    )


def _keep_as_official(features: Tensor, error: Tensor, basis: Basis, keep: int, by_rank: bool) -> Kept:
    """Kept = the T largest errors; the feature of the M last of them is overwritten by a basis token's.

    What the M overwritten tokens held is lost, they receive no merges, and the basis tokens' own places count as
    dropped. Basis features are written in the order of picking to the overwritten places in ascending order (stage 1)
    or in order of rank (stage 2).
    Source: official ``llava/model/utils.py`` and ``modeling_llama_x.py`` (``methods.md`` 1.4 e-g).
    """
    n, m, device = len(features), len(basis.rows), features.device
    ranked = top_k(error, keep)
    targets, places = ranked[: keep - m].sort().values, ranked[keep - m :]
    places = places if by_rank else places.sort().values
    dropped = complement(ranked, n)
    merge = merge_into_nearest(features, targets, dropped)
    kept, order = torch.cat([targets, places]).sort()
    return Kept(
        rows=kept,
        features=torch.cat([merge.features, basis.features])[order],
        owner=torch.arange(n, device=device).index_copy(0, dropped, merge.owner),
        sizes=spread(merge.sizes, targets, n, 0).index_fill(0, places, 1),
        places=places,
        ties=ties_at_threshold(error, keep),
    )


def _unranked(features: Tensor, stay: bool) -> Reduction:
    """Every token stays as it is, or none does and nothing is left to merge into."""
    n, device = len(features), features.device
    everything = torch.arange(n, device=device)
    none = torch.full((n,), -1, device=device)
    rows = everything if stay else everything[:0]
    sizes = torch.full((n,), int(stay), device=device)
    kept = Kept(rows, features[rows], everything if stay else none, sizes, everything[:0], ties=0)
    return Reduction(kept, features.new_full((n,), torch.nan), features.new_empty(0), none, none)


def reduce_tokens(features: Tensor, keep: int, params: Params, generator: Generator, places: BasisPlaces) -> Reduction:
    """Reduce ``n`` tokens to ``keep``, by ``params["mode"]``; places: of the basis, in official mode.

    The basis is M' = min(M, keep - 1) tokens (none for keep = 1, when the error is the token's length), fewer if there
    are fewer distinct ones. Behind a frame it is always made of tokens, none of them twice.
    Shape: features ``(n, D)`` float32, finite.
    """
    n, device = len(features), features.device
    if keep <= 0 or keep >= n:
        return _unranked(features, stay=keep > 0)
    official = params["mode"] == "official"
    drawn = {**params, "mode": "paper"} if places == "behind" else params
    basis = sample_basis(features, min(int(params["basis_tokens"]), keep - 1), drawn, generator)
    error, singular = reconstruction_error(features, basis.features, OFFICIAL_RIDGE if official else 0.0)
    rounding = ROUNDING * max(ROUNDING_TERMS, features.shape[1]) ** 0.5
    error = error.masked_fill(error <= rounding * features.norm(dim=1), 0.0)
    if official and places == "behind":
        kept = _keep_as_video_code(features, error, basis, keep)
    elif official:
        kept = _keep_as_official(features, error, basis, keep, by_rank=places == "by_rank")
    else:
        kept = _keep_as_paper(features, error, basis, keep)
    first_draws = torch.tensor(list(dict.fromkeys(basis.rows.tolist())), dtype=torch.int64, device=device)
    order = spread(torch.arange(len(first_draws), device=device), first_draws, n, -1)
    replaced_by = spread(order[basis.rows][: len(kept.places)], kept.places, n, -1)
    return Reduction(kept, error, singular, order, replaced_by)
