"""ToMe's bipartite soft matching, and the means of what it merges: shared by ToMe inside and behind the tower."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .ops import top_k, unit_rows, whole_groups


@dataclass(frozen=True)
class Pairs:
    """Whom bipartite soft matching pairs, in row numbers.

    Shape: sources, targets, similarity ``(r,)``, most similar pair first; order ``(n - r,)``, what is left in the
    order in which it goes on; ranked, distance ``(n_A,)``, the half whose tokens may be merged away, and how far each
    lies from its best partner.
    """

    sources: Tensor
    targets: Tensor
    similarity: Tensor
    order: Tensor
    ranked: Tensor
    distance: Tensor


def bipartite_soft_matching(keys: Tensor, usable: Tensor, rows: Tensor, r: int, has_cls: bool) -> Pairs:
    """Pair the ``r`` tokens of one half that are most similar to a token of the other half with that token.

    Halves alternate along the sequence and the first token is in the half that gives. With a [CLS] token that is
    [CLS], which stays for itself; so among the patches the second, fourth, ... may be merged away. What is left goes on
    as [rest of the giving half | taking half], the rest in sequence order with a [CLS] token, else most similar first.
    Rows that are not ``usable`` have similarity -inf to all others.
    Shape: keys ``(N, d_k)``, usable ``(N,)`` bool, rows ``(n,)`` the tokens of one picture, in sequence order.
    Source: ToMe section 3; facebookresearch/ToMe ``merge.py``. Differs: cosines in float32, ties to the lowest index,
    a key of length zero has cosine 0 with all.
    """
    giving, taking = (rows[1::2], rows[0::2]) if has_cls else (rows[0::2], rows[1::2])
    unit = unit_rows(keys.where(usable.unsqueeze(1), torch.zeros((), dtype=keys.dtype, device=keys.device)))
    products = whole_groups(unit[giving]) @ whole_groups(unit[taking]).T  # equal keys tie exactly
    similarity = products[: len(giving), : len(taking)]
    similarity = similarity.masked_fill(~(usable[giving].unsqueeze(1) & usable[taking]), -torch.inf)
    partner = similarity.argmax(1)
    best = similarity.gather(1, partner.unsqueeze(1)).squeeze(1)
    ranking = top_k(best, len(best))
    merged, rest = ranking[:r], ranking[r:]
    if has_cls:
        rest = rest.sort().values
    return Pairs(
        sources=giving[merged],
        targets=taking[partner[merged]],
        similarity=best[merged],
        order=torch.cat([giving[rest], taking]),
        ranked=giving,
        distance=1 - best,
    )


def weighted_means(features: Tensor, sizes: Tensor, sources: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The targets that take something in, means of their groups weighted by size, and sizes of their groups.

    Shape: features ``(N, D)``, sizes ``(N,)``, sources and targets ``(r,)`` rows -> ``(G,)``, ``(G, D)`` in the dtype
    of ``features``, ``(G,)`` in that of ``sizes``.
    """
    groups, group = torch.unique(targets, return_inverse=True)
    accurate = torch.promote_types(features.dtype, torch.float32)  # float64 stays what it is
    # A matrix product instead of index_add_: atomics would sum in a different order on every CUDA run.
    member = torch.zeros(len(groups), len(sources), dtype=accurate, device=features.device)
    member[group, torch.arange(len(sources), device=features.device)] = 1.0
    own, given = sizes[groups].to(accurate), sizes[sources].to(accurate)
    totals = (own + member @ given).unsqueeze(1)
    sums = features[groups] * own.unsqueeze(1) + member @ (features[sources] * given.unsqueeze(1))
    return groups, (sums / totals).to(features.dtype), totals.squeeze(1).round().to(sizes.dtype)
