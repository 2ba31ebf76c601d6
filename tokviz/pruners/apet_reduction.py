"""What ApET does to one set of tokens: basis, reconstruction error, who stays, who merges into whom, in both modes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Generator, Tensor

from ..types import Params
from .density import density_peaks
from .ops import complement, merge_into_nearest, reconstruction_error, top_k
from .sampling import farthest_from_mean, farthest_points, random_rows

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
class Reduction:
    """What was decided about ``n`` tokens, in their own numbering.

    Shape:
        rows, features: ``(T,)`` ascending and ``(T, D)`` float32, the tokens that stay.
        owner: ``(n,)``, the kept token that carries each one, -1 if none.
        targets, sizes: ``(t,)``, those that took others in, and how many tokens each is the mean of.
        sequence: ``(T,)``, the rows in the order in which the LLM gets them, None for ascending.
        basis: ``(M,)``, the tokens that became the basis, in order; one drawn again comes again.
        overwritten: the tokens over which the features of the basis were written, in the order of ``basis``.
        error: ``(n,)``, NaN where nothing was ranked. ranked: those of the tokens that competed for ``wanted`` places.
        singular: ``(min(M, D),)``, singular values of the basis.
    """

    rows: Tensor
    features: Tensor
    owner: Tensor
    targets: Tensor
    sizes: Tensor
    basis: Tensor
    overwritten: Tensor
    error: Tensor
    ranked: Tensor
    wanted: int
    singular: Tensor
    sequence: Tensor | None = None


def sample_basis(features: Tensor, count: int, params: Params, generator: Generator) -> tuple[Tensor, Tensor]:
    """Pick at most ``count`` rows; farthest point sampling stops at duplicates.

    Official mode draws ``random`` with replacement and takes the means of the clusters for ``dpc``, as the released
    code does; paper mode needs tokens that it can keep, so it draws without replacement and takes the centres.
    Shape: features ``(n, D)`` float32, finite -> rows ``(M,)`` and their features, or the means, ``(M, D)``.
    """
    n, device, official = len(features), features.device, params["mode"] == "official"
    if count <= 0:
        rows = torch.empty(0, dtype=torch.int64, device=device)
    elif params["sampling"] == "random":
        # Drawn in both modes, as what a seed gives includes what was drawn before.
        again = torch.randint(n, (count,), generator=generator, device=generator.device).to(device)
        rows = again if official else random_rows(n, count, generator, device)
    elif params["sampling"] == "dpc":
        peaks = density_peaks(features, count, neighbours=count)
        rows = peaks.centres
        if official:
            member = (peaks.owner.unsqueeze(0) == rows.unsqueeze(1)).float()
            return rows, member @ features / member.sum(1, keepdim=True)
    else:
        first = random_rows(n, 1, generator, device) if params["start"] == "random" else farthest_from_mean(features)
        rows = farthest_points(features, count, first)
    return rows, features[rows]


def reduce_tokens(features: Tensor, keep: int, params: Params, generator: Generator, places: BasisPlaces) -> Reduction:
    """Reduce ``n`` tokens to ``keep``, by ``params["mode"]``; places: of the basis, in official mode.

    The basis is M' = min(M, keep - 1) tokens (none for keep = 1, when the error is the token's length), fewer if there
    are fewer distinct ones. Behind a frame it is always made of tokens, none of them twice.
    Shape: features ``(n, D)`` float32, finite.
    """
    if keep <= 0 or keep >= len(features):
        return _unranked(features, stay=keep > 0)
    official = params["mode"] == "official"
    drawn = {**params, "mode": "paper"} if places == "behind" else params
    basis, values = sample_basis(features, min(int(params["basis_tokens"]), keep - 1), drawn, generator)
    error, singular = reconstruction_error(features, values, OFFICIAL_RIDGE if official else 0.0)
    rounding = ROUNDING * max(ROUNDING_TERMS, features.shape[1]) ** 0.5
    error = error.masked_fill(error <= rounding * features.norm(dim=1), 0.0)
    if official and places != "behind":
        found = _overwrite(features, error, basis, values, keep, by_rank=places == "by_rank")
    else:
        found = _keep_basis(features, error, basis, keep, merges_basis=official)
    return replace(found, singular=singular)


def _keep_basis(features: Tensor, error: Tensor, basis: Tensor, keep: int, merges_basis: bool) -> Reduction:
    """Keep the basis and the T - M largest errors of the rest.

    Each stays at its own place, and the rest merges into all of them. ``merges_basis`` does as the official code for
    videos: ALL others merge into the T - M, best first, then come the basis tokens as they were. So what the basis
    tokens hold is there twice: by itself, and in the mean of the most similar of the others.
    Source: ApET section 3.3 ("we explicitly retain the base tokens"); official
    ``video-llava/videollava/model/llava_arch.py``, ``encode_videos``.
    """
    n = len(features)
    rest = complement(basis, n)
    ranked, wanted = error[rest], keep - len(basis)
    best = rest[top_k(ranked, wanted)]
    kept = torch.cat([basis, best]).sort().values
    targets = best.sort().values if merges_basis else kept
    sources = complement(targets, n)
    merge = merge_into_nearest(features, targets, sources)
    values = merge.features
    if merges_basis:
        values = features[kept].index_copy_(0, torch.searchsorted(kept, targets), merge.features)
    owner = torch.arange(n, device=kept.device).index_copy(0, sources, merge.owner)
    return Reduction(
        rows=kept,
        features=values,
        owner=owner.index_copy(0, basis, basis),
        targets=targets,
        sizes=merge.sizes,
        basis=basis,
        overwritten=kept[:0],
        error=error,
        ranked=ranked,
        wanted=wanted,
        singular=error[:0],
        sequence=torch.cat([best, basis]) if merges_basis else None,
    )


def _overwrite(features: Tensor, error: Tensor, basis: Tensor, values: Tensor, keep: int, by_rank: bool) -> Reduction:
    """Keep the T largest errors; the feature of the M last of them is overwritten by a basis token's.

    What the M overwritten tokens held is lost, they receive no merges, and the basis tokens' own places count as
    dropped. Basis features are written in the order of picking to the overwritten places in ascending order (stage 1)
    or in order of rank (stage 2).
    Source: official ``llava/model/utils.py`` and ``modeling_llama_x.py``.
    """
    n, m = len(features), len(basis)
    ranked = top_k(error, keep)
    targets, places = ranked[: keep - m].sort().values, ranked[keep - m :]
    places = places if by_rank else places.sort().values
    dropped = complement(ranked, n)
    merge = merge_into_nearest(features, targets, dropped)
    kept, order = torch.cat([targets, places]).sort()
    return Reduction(
        rows=kept,
        features=torch.cat([merge.features, values])[order],
        owner=torch.arange(n, device=kept.device).index_copy(0, dropped, merge.owner),
        targets=targets,
        sizes=merge.sizes,
        basis=basis,
        overwritten=places,
        error=error,
        ranked=error,
        wanted=keep,
        singular=error[:0],
    )


def _unranked(features: Tensor, stay: bool) -> Reduction:
    """Every token stays as it is, or none does and nothing is left to merge into."""
    n, device = len(features), features.device
    everything = torch.arange(n, device=device)
    rows, none = everything if stay else everything[:0], everything[:0]
    owner = everything if stay else torch.full((n,), -1, device=device)
    error = features.new_full((n,), torch.nan)
    empty = error[:0]
    return Reduction(rows, features[rows], owner, none, none, none, none, error, empty, wanted=0, singular=empty)
