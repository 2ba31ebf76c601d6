"""What ApET does to one set of tokens: basis, reconstruction error, who stays, who merges into whom, in both modes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from ..types import Params
from .density import density_peaks
from .ops import complement, merge_into_nearest, reconstruction_error, ties_at_threshold, top_k
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
        error: ``(n,)``, NaN where nothing was ranked.
        targets, sizes: ``(t,)``, those that took others in, and how many tokens each is the mean of.
        basis: ``(M,)``, the tokens that became the basis, in order; one drawn again comes again.
        singular: ``(min(M, D),)``, singular values of the basis.
        overwritten: the tokens over which the features of the basis were written, in the order of ``basis``.
        sequence: ``(T,)``, the rows in the order in which the LLM gets them, None for ascending.
        ties: counts errors at the threshold, 0 where there was none.
    """

    rows: Tensor
    features: Tensor
    owner: Tensor
    error: Tensor
    targets: Tensor
    sizes: Tensor
    basis: Tensor
    singular: Tensor
    overwritten: Tensor
    sequence: Tensor | None = None
    ties: Callable[[], int] = lambda: 0


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
    """Keep the tokens with the largest error beside the basis, and merge each of the others into the most similar one.

    The basis is M' = min(M, keep - 1) tokens (none for keep = 1, when the error is the token's length), fewer if there
    are fewer distinct ones. ``paper``: the basis stays at its places, with the T - M largest errors of the rest.
    ``official``: the T largest errors stay, and the feature of the M last of them is overwritten by a basis token's;
    what those held is lost, they receive no merges, and the basis tokens' own places count as dropped.
    ``official`` and places ``behind``: ALL others merge into the T - M largest errors, best first, then come the basis
    tokens as they were, always tokens and none of them twice. So what they hold is there twice: by itself, and in the
    mean of the most similar of the others.
    Shape: features ``(n, D)`` float32, finite.
    Source: ApET section 3.3 ("we explicitly retain the base tokens"); official ``llava/model/utils.py``,
    ``modeling_llama_x.py`` and ``video-llava/videollava/model/llava_arch.py``, ``encode_videos``.
    """
    n, everything = len(features), torch.arange(len(features), device=features.device)
    if keep <= 0 or keep >= n:
        return _unranked(features, everything, stay=keep > 0)
    official, behind = params["mode"] == "official", places == "behind"
    drawn = {**params, "mode": "paper"} if behind else params
    basis, written = sample_basis(features, min(params["basis_tokens"], keep - 1), drawn, generator)
    error, singular = reconstruction_error(features, written, OFFICIAL_RIDGE if official else 0.0)
    rounding = ROUNDING * max(ROUNDING_TERMS, features.shape[1]) ** 0.5
    error = error.masked_fill(error <= rounding * features.norm(dim=1), 0.0)
    if official and not behind:
        ranked, wanted = error, keep
        best = top_k(error, keep)
        targets, overwritten = best[: keep - len(basis)].sort().values, best[keep - len(basis) :]
        overwritten = overwritten if places == "by_rank" else overwritten.sort().values
        kept, sources, sequence = best.sort().values, complement(best, n), None
    else:
        rest = complement(basis, n)
        ranked, wanted = error[rest], keep - len(basis)
        best = rest[top_k(ranked, wanted)]
        kept, overwritten = torch.cat([basis, best]).sort().values, basis[:0]
        targets, sequence = (best.sort().values, torch.cat([best, basis])) if official else (kept, None)
        sources = complement(targets, n)
    merge = merge_into_nearest(features, targets, sources)
    values = merge.features
    if official:
        values = features[kept].index_copy_(0, torch.searchsorted(kept, targets), values)
        values.index_copy_(0, torch.searchsorted(kept, overwritten), written[: len(overwritten)])
    owner = everything.index_copy(0, sources, merge.owner)
    return Reduction(
        rows=kept,
        features=values,
        owner=owner.index_copy(0, basis, basis) if behind else owner,
        error=error,
        targets=targets,
        sizes=merge.sizes,
        basis=basis,
        singular=singular,
        overwritten=overwritten,
        sequence=sequence,
        ties=lambda: ties_at_threshold(ranked, wanted),
    )


def _unranked(features: Tensor, everything: Tensor, stay: bool) -> Reduction:
    """Every token stays as it is, or none does and nothing is left to merge into."""
    none, error = everything[:0], torch.full_like(features[:, 0], torch.nan)
    rows, owner = (everything, everything) if stay else (none, torch.full_like(everything, -1))
    return Reduction(rows, features[rows], owner, error, none, none, none, error[:0], none)
