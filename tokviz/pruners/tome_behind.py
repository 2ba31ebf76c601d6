"""ToMe behind the vision tower, for models whose tower cannot run with fewer tokens: rounds of the same matching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from ..types import ENCODER_KEYS, Chart, Diagnostics, Params, Reading, Selection, Signals, TokenMap
from .diagnostics import non_finite_warnings
from .ops import candidate_rows, fill_up, kept_rows, required, spread, usable_rows
from .pairs_of_halves import bipartite_soft_matching, weighted_means
from .per_view import equal_shares, rows_by_view, unrankable
from .pruner import fixed_count

NEEDS_BEHIND = (ENCODER_KEYS,)


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
    Source: ToMe's ``bipartite_soft_matching`` and ``merge_wavg`` for towers without [CLS]; that it is repeated behind
    the tower is ours (``methods.md`` 15.1: post-merger only).
    """
    n, device = len(features), features.device
    nan = torch.full((n,), torch.nan, device=device)
    now = _Merged(
        features.float(), keys.float(), sizes.clone(),
        torch.arange(n, device=device), nan, nan.clone(),
    )  # fmt: skip
    carrier = torch.arange(n, device=device)  # the token of each group that was never given away
    while (m := len(now.features)) > share:
        rows = torch.arange(m, device=device)
        pairs = bipartite_soft_matching(
            now.keys, torch.ones(m, dtype=torch.bool, device=device), rows, min(m // 2, m - share), has_cls=False
        )
        now.similarity[carrier[pairs.sources]] = pairs.similarity
        now.turn[carrier[pairs.sources]] = float(now.rounds + 1)
        carrier = carrier[pairs.order]
        groups, means, totals = weighted_means(now.features, now.sizes, pairs.sources, pairs.targets)
        _, key_means, _ = weighted_means(now.keys, now.sizes, pairs.sources, pairs.targets)
        place = torch.empty_like(rows)
        place[pairs.order] = torch.arange(len(pairs.order), device=device)
        place[pairs.sources] = place[pairs.targets]
        for name, values in (("features", means), ("keys", key_means), ("sizes", totals)):
            setattr(now, name, getattr(now, name)[pairs.order].index_copy(0, place[groups], values))
        now.group, now.rounds = place[now.group], now.rounds + 1
    return now


@fixed_count
def select_behind(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """Every view (picture, crop, frame) is merged by itself to an equal share of ``keep``; nothing finite is lost.

    A merged token goes by its smallest patch and stands there. Rows that are no patch are dropped, and rows that are
    not finite neither merged nor merged into.
    Shape: signals.features ``(N, D)``, keys ``(N, d_k)`` -> kept ``(min(keep, patches),)``, features ``(K, D)`` in the
    given dtype, sizes ``(K,)``. Source: see ``merge_in_rounds``.
    """
    features, keys = signals.features, required(signals.keys, "keys")
    n, device = len(features), features.device
    pool = candidate_rows(signals)
    rows = usable_rows(keys, usable_rows(features, pool))
    if not len(rows):
        return unrankable(min(keep, len(pool)), pool)
    views = rows_by_view(signals, rows)
    shares = equal_shares([len(view) for view in views], keep)
    assignment = torch.full((n,), -1, device=device)
    given = torch.ones(n, dtype=torch.int64, device=device) if signals.sizes is None else signals.sizes
    sizes = given.clone()
    similarity, turn = (torch.full((n,), torch.nan, device=device) for _ in range(2))
    changed, values, rounds = [pool[:0]], [features[:0].float()], 0
    for view, share in zip(views, shares, strict=True):
        if not share:
            continue
        merged = merge_in_rounds(features[view], keys[view], given[view], share)
        first = view.new_full((share,), n).scatter_reduce(0, merged.group, view, "amin")
        assignment[view] = first[merged.group]
        sizes[view] = merged.sizes[merged.group]
        similarity[view], turn[view] = merged.similarity, merged.turn
        grown = torch.bincount(merged.group, minlength=share) > 1
        changed.append(first[grown])
        values.append(merged.features[grown])
        rounds = max(rounds, merged.rounds)
    leaders = (assignment == torch.arange(n, device=device)).nonzero().squeeze(1)
    kept = fill_up(leaders, min(keep, len(pool)), pool).sort().values
    assignment[kept] = kept
    order = torch.cat(changed).argsort()
    return Selection(
        kept=kept,
        assignment=assignment,
        features=kept_rows(features, kept, torch.cat(changed)[order], torch.cat(values)[order]),
        sizes=sizes[kept],
        diagnose=lambda: Diagnostics(
            **_shown(sizes, turn, similarity, rows, kept),
            score=TokenMap(
                "merged_similarity", "Similarity to the partner", similarity, "cosine", "high was merged first"
            ),
            facts={
                "non_finite": len(pool) - len(rows),
                "merged": int(turn.isfinite().sum()),
                "rounds": rounds,
                "kept_per_view": shares,
            },
            warnings=non_finite_warnings(len(pool) - len(rows), len(pool)),
        ),
    )


def _shown(sizes: Tensor, turn: Tensor, similarity: Tensor, rows: Tensor, kept: Tensor) -> dict[str, Any]:
    """Maps, chart and reading, as fields of ``Selection``. Shape: sizes, turn and similarity ``(N,)``."""
    counts = torch.bincount(sizes[kept]).tolist()
    present = [size for size, count in enumerate(counts) if count]
    finite = similarity[similarity.isfinite()]
    label = "Similarity of the least similar merged pair"
    return {
        "maps": (
            TokenMap(
                "group_size", "Patches in its group", spread(sizes[rows].float(), rows, len(sizes), torch.nan),
                "tokens", "high stands for many",
            ),
            TokenMap("turn", "Round in which it was merged", turn, "round", "low was merged first"),
        ),
        "charts": (
            Chart(
                "group_sizes", "How many tokens stand for how many", "bars", y=[counts[size] for size in present],
                names=[str(size) for size in present], x_label="tokens before", y_label="tokens",
            ),
        ),
        "readings": (
            (Reading("least_similar_pair", label, float(finite.min()), unit="cosine"),) if len(finite) else ()
        ),
    }  # fmt: skip
