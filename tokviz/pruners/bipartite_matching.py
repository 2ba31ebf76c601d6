"""ToMe's bipartite soft matching, and the means of what it merges: inside the vision tower and after the encoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..types import Chart, Reading
from .ops import top_k, unit_rows, whole_groups

# Rows whose similarities are held at once: few enough for the caches.
TILE = 256


@dataclass(frozen=True)
class Pairs:
    """Whom bipartite soft matching pairs, in row numbers.

    Shape: sources, targets, similarity ``(r,)``, most similar pair first; order ``(n - r,)``, what is left in the
    order in which it goes on; giving, best ``(n_A,)``, the half whose tokens may be merged away, and how similar each
    is to its best partner, -inf for one that cannot be compared.
    """

    sources: Tensor
    targets: Tensor
    similarity: Tensor
    order: Tensor
    giving: Tensor
    best: Tensor


def bipartite_soft_matching(keys: Tensor, usable: Tensor | None, rows: Tensor, r: int, has_cls: bool) -> Pairs:
    """Pair the ``r`` tokens of one half that are most similar to a token of the other half with that token.

    Halves alternate along the sequence and the first token is in the half that gives. With a [CLS] token that is
    [CLS], which stays for itself; so among the patches the second, fourth, ... may be merged away. What is left goes on
    as [rest of the giving half | taking half], the rest in sequence order with a [CLS] token, else most similar first.
    Rows that are not ``usable`` (None: all are) have similarity -inf to all others.
    Shape: keys ``(N, d_k)``, usable ``(N,)`` bool, rows ``(n,)`` the tokens of one image, in sequence order.
    Source: ToMe section 3; facebookresearch/ToMe ``merge.py``. Differs: cosines in float32, ties to the lowest index,
    a key of length zero has cosine 0 with all.
    """
    giving, taking = (rows[1::2], rows[0::2]) if has_cls else (rows[0::2], rows[1::2])
    if usable is not None:
        keys = keys.where(usable.unsqueeze(1), torch.zeros((), dtype=keys.dtype, device=keys.device))
    lengthless = unit_rows(keys, None if len(rows) == len(keys) else rows)
    unit, others = whole_groups(lengthless[has_cls::2]), whole_groups(lengthless[not has_cls :: 2]).T  # equal keys tie

    def similarity(part: Tensor, numbers: Tensor) -> Tensor:
        products = (whole_groups(part) @ others)[: len(numbers), : len(taking)]
        if usable is None:
            return products
        return products.masked_fill_(~(usable[giving[numbers]].unsqueeze(1) & usable[taking]), -torch.inf)

    numbers = torch.arange(len(giving), device=rows.device)
    tiles = zip(unit.split(TILE), numbers.split(TILE), strict=True)
    best = torch.cat([similarity(part, tile).amax(1) for part, tile in tiles])
    ranking = top_k(best, len(best))
    merged, rest = ranking[:r], ranking[r:]
    if has_cls:
        rest = rest.sort().values
    partners = [similarity(unit[tile], tile).max(1).indices for tile in merged.split(TILE)]
    return Pairs(
        sources=giving[merged],
        targets=taking[torch.cat(partners)],
        similarity=best[merged],
        order=torch.cat([giving[rest], taking]),
        giving=giving,
        best=best,
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


def sizes_chart(sizes: Tensor, label: str, x_label: str) -> Chart:
    """How many tokens there are of each size. Shape: sizes ``(K,)`` int64."""
    counts = {size: count for size, count in enumerate(torch.bincount(sizes).tolist()) if count}
    y, names = list(counts.values()), [str(size) for size in counts]
    return Chart("group_sizes", label, "bars", y, names=names, x_label=x_label, y_label="tokens")


def least_similar(similarity: Tensor) -> tuple[Reading, ...]:
    """The similarity of the least similar pair; nothing when there is no finite one. Shape: any number of them."""
    finite, label = similarity[similarity.isfinite()], "Similarity of the least similar merged pair"
    return (Reading("least_similar_pair", label, float(finite.min()), unit="cosine"),) if len(finite) else ()
