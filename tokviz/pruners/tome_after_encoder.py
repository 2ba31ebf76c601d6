"""ToMe after the encoder, for models whose tower cannot run with fewer tokens: rounds of the same matching."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..types import Diagnostics, Params, Selection, Signals, TokenMap
from .bipartite_matching import bipartite_soft_matching, least_similar, sizes_chart, weighted_means
from .diagnostics import explained
from .ops import kept_rows, required, spread
from .per_view import Usable, shared, unrankable, usable
from .pruner import fixed_count


@dataclass
class _Merged:
    """The tokens of one view while they become fewer, and what happened to the ``n`` tokens it had.

    Shape: features ``(m, D)`` and keys ``(m, d_k)`` float32, sizes ``(m,)``; group ``(n,)``, which of the m carries
    each token; similarity and turn ``(n,)``, how close it was to what took it (and its group) in, and in which round,
    NaN for the one token of each group that was never given away. rounds: how many there were.
    """

    features: Tensor
    keys: Tensor
    sizes: Tensor
    group: Tensor
    similarity: Tensor
    turn: Tensor
    rounds: int = 0


def merge_in_rounds(features: Tensor, keys: Tensor, sizes: Tensor, share: int) -> _Merged:
    """Merge the most similar pairs, at most half of the tokens in a round, until ``share`` are left.

    A group's features and keys are the means of its patches; the next round compares those.
    Shape: features ``(n, D)``, keys ``(n, d_k)`` and sizes ``(n,)``, how many patches each stands for, of one view,
    finite, in raster order; ``1 <= share <= n``.
    Source: ToMe's ``bipartite_soft_matching`` and ``merge_wavg`` for towers without [CLS]; that it is repeated after
    the encoder is ours.
    """
    n, device = len(features), features.device
    carrier = torch.arange(n, device=device)  # the token of each group that was never given away
    never = torch.full((n,), torch.nan, device=device)
    now = _Merged(features.float(), keys.float(), sizes.clone(), carrier, similarity=never, turn=never.clone())
    while (m := len(now.features)) > share:
        rows = torch.arange(m, device=device)
        pairs = bipartite_soft_matching(now.keys, None, rows, min(m // 2, m - share), has_cls=False)
        now.rounds += 1
        now.similarity[carrier[pairs.sources]] = pairs.similarity
        now.turn[carrier[pairs.sources]] = float(now.rounds)
        carrier = carrier[pairs.order]
        groups, means, totals = weighted_means(now.features, now.sizes, pairs.sources, pairs.targets)
        _, key_means, _ = weighted_means(now.keys, now.sizes, pairs.sources, pairs.targets)
        place = torch.empty_like(rows)
        place[pairs.order] = rows[: len(pairs.order)]
        place[pairs.sources] = place[pairs.targets]
        now.features = now.features[pairs.order].index_copy_(0, place[groups], means)
        now.keys = now.keys[pairs.order].index_copy_(0, place[groups], key_means)
        now.sizes = now.sizes[pairs.order].index_copy_(0, place[groups], totals)
        now.group = place[now.group]
    return now


@fixed_count
def select_after_encoder(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """Merge every view (image, crop, frame) by itself to an equal share of ``keep``; nothing finite is lost.

    A merged token goes by its smallest patch and stands there. Rows that are no patch are dropped, and rows that are
    not finite neither merged nor merged into.
    Shape: signals.features ``(N, D)``, keys ``(N, d_k)`` -> kept ``(min(keep, patches),)``, features ``(K, D)`` in the
    given dtype, sizes ``(K,)``. Source: see ``merge_in_rounds``.
    """
    features, keys = signals.features, required(signals.keys, "keys")
    n, device = len(features), features.device
    found = usable(signals, keys)
    if len(found.rows) == 0:
        return unrankable(min(keep, len(found.pool)), found.pool)
    assignment = torch.full((n,), -1, device=device)
    given = torch.ones(n, dtype=torch.int64, device=device) if signals.sizes is None else signals.sizes
    sizes, changed, values = given.clone(), [found.pool[:0]], [features[:0].float()]
    views = shared(signals, found.rows, keep)
    parts = [(view, merge_in_rounds(features[view], keys[view], given[view], share)) for view, share in views if share]
    for view, merged in parts:
        share = len(merged.features)
        first = view.new_full((share,), n).scatter_reduce(0, merged.group, view, "amin")
        assignment[view] = first[merged.group]
        sizes[view] = merged.sizes[merged.group]
        grown = torch.bincount(merged.group, minlength=share) > 1
        changed.append(first[grown])
        values.append(merged.features[grown])
    leaders = (assignment == torch.arange(n, device=device)).nonzero().squeeze(1)
    kept = found.kept(leaders, min(keep, len(found.pool)))
    assignment[kept] = kept
    order = torch.cat(changed).argsort()
    return Selection(
        kept=kept,
        assignment=assignment,
        features=kept_rows(features, kept, torch.cat(changed)[order], torch.cat(values)[order]),
        sizes=sizes[kept],
        diagnose=lambda: _explained(found, parts, sizes, kept, [share for _, share in views]),
    )


def _explained(
    found: Usable, parts: list[tuple[Tensor, _Merged]], sizes: Tensor, kept: Tensor, shares: list[int]
) -> Diagnostics:
    """Shape: sizes ``(N,)``, of the group of each row; kept ``(K,)``."""
    n, nan = len(sizes), torch.nan
    similarity, turn = (torch.full((n,), nan, device=kept.device) for _ in range(2))
    for view, merged in parts:
        similarity[view], turn[view] = merged.similarity, merged.turn
    group_size = spread(sizes[found.rows].float(), found.rows, n, nan)
    return explained(
        TokenMap("merged_similarity", "Similarity to the partner", similarity, "cosine", "high was merged first"),
        maps=(
            TokenMap("group_size", "Patches in its group", group_size, "tokens", "high stands for many"),
            TokenMap("turn", "Round in which it was merged", turn, "round", "low was merged first"),
        ),
        charts=(sizes_chart(sizes[kept], "How many tokens stand for how many", "tokens before"),),
        readings=least_similar(similarity),
        facts={
            "merged": int(turn.isfinite().sum()),
            "rounds": max((merged.rounds for _, merged in parts), default=0),
            "kept_per_view": shares,
        },
        non_finite=found.non_finite,
        of=len(found.pool),
    )
