"""Merging by density peaks: clusters become their means; what SparseVLM, Polymorphic and their recycling share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..types import Chart, Diagnostics, Selection, TokenMap
from .density import density_peaks
from .diagnostics import explained
from .ops import fill_up, group_sums, kept_rows, sanitised, spread, ties_at_threshold, top_k, usable_rows
from .per_view import unrankable

# What the score of ``keep_and_recycle`` means for a token: a recycled one stays as a centre although its score is low.
KEPT_OR_RECYCLED = "high is kept first; of the others the centres of recycled clusters stay"


@dataclass(frozen=True)
class Clusters:
    """What ``cluster_means`` found, in the numbering of the stage.

    Shape: rows ``(m,)``, what was clustered; owner ``(m,)``, the centre that carries each; centres ``(c,)``, most
    prominent first; means ``(c, D)`` float32 and sizes ``(c,)`` in the order of centres; log_density and separation
    ``(m,)``, the axes of the decision graph.
    """

    rows: Tensor
    owner: Tensor
    centres: Tensor
    means: Tensor
    sizes: Tensor
    log_density: Tensor
    separation: Tensor


def cluster_means(features: Tensor, rows: Tensor, count: int, neighbours: int) -> Clusters:
    """DPC-kNN over ``rows``: every cluster becomes the plain mean of its members, the centre among them.

    neighbours: K_nn nearest other rows make the density; 0 does as SparseVLM's code, which takes as many as there are
    clusters and counts the row itself as its own nearest.
    Shape: features ``(N, D)``, rows ``(m,)`` finite, ``1 <= count <= m``.
    Source: SparseVLM ``cluster_and_merge`` (``methods.md`` 6.4c); Polymorphic Eq. 1-7. Differs from the code: ties
    instead of noise (see ``density_peaks``), and no 1e-6 in the denominator of the mean.
    """
    peaks = density_peaks(features[rows].float(), count, neighbours or count, include_self=neighbours == 0)
    place = torch.empty_like(rows)
    place[peaks.centres] = torch.arange(count, device=rows.device)
    sums, sizes = group_sums(features, rows, place[peaks.owner], count)
    return Clusters(
        rows=rows,
        owner=rows[peaks.owner],
        centres=rows[peaks.centres],
        means=sums.div_(sizes.unsqueeze(1)),
        sizes=sizes.float(),
        log_density=peaks.log_density,
        separation=peaks.separation,
    )


def joined(parts: list[Clusters], features: Tensor) -> Clusters:
    """Clusters of several views as one, view after view. Shape: features ``(N, D)``, for the width when none is."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        rows = torch.empty(0, dtype=torch.int64, device=features.device)
        return Clusters(rows, rows, rows, features[:0].float(), *(features.new_empty(0).float() for _ in range(3)))
    return Clusters(*(torch.cat([getattr(part, name) for part in parts]) for name in Clusters.__dataclass_fields__))


def recycled_clusters(pruned: int) -> tuple[int, int]:
    """How many of ``pruned`` tokens are recycled, and into how many clusters: floor(0.3 p) + 1, a tenth of that + 1.

    Source: SparseVLM, official ``modelling_sparse_llama.py`` (``methods.md`` 6.4c).
    """
    recycled = 3 * pruned // 10 + 1
    return recycled, recycled // 10 + 1


def split_keep(n: int, keep: int) -> tuple[int, int]:
    """How ``keep`` of ``n`` tokens divide into selected ones and clusters recycled from the rest.

    The largest number of selected tokens that makes ``keep`` together with its clusters: 309 of 576 are 300 and 9, as
    in SparseVLM's table. At least one token is selected, and a ``keep`` below that has fewer clusters than the rule.
    ``0 < keep < n``.
    """
    for selected in range(keep, 0, -1):
        if selected + recycled_clusters(n - selected)[1] <= keep:
            return selected, keep - selected
    return 1, keep - 1


@dataclass(frozen=True)
class Rankable:
    """The rows that a stage may keep, and those of them that have a feature and a score.

    Shape: pool ``(P,)``, rows ``(n,)``, both ascending; scores and ranked ``(N,)``, as given and ready to be ranked.
    """

    pool: Tensor
    rows: Tensor
    scores: Tensor
    ranked: Tensor

    @property
    def non_finite(self) -> int:
        """How many rows of the pool lack a feature or a score."""
        return len(self.pool) - int(torch.isfinite(self.scores[self.rows].float()).sum())


def rankable(features: Tensor, scores: Tensor, pool: Tensor) -> Rankable:
    """Find the rows of ``pool (P,)`` that can be ranked. Shape: features ``(N, D)``, scores ``(N,)``."""
    ranked, broken = sanitised(scores)
    rows = usable_rows(features, pool)
    return Rankable(pool, rows[ranked[rows] > -torch.inf] if broken else rows, scores, ranked)


def keep_and_recycle(features: Tensor, score: TokenMap, keep: int, neighbours: int, append: bool) -> Selection:
    """Keep the highest scores, cluster the best 30% of the others, let the rest go; kept and clusters are ``keep``.

    Rows without a finite feature or score are kept only where ``keep`` cannot be met without them.
    Shape: features ``(N, D)``, score.values ``(N,)``, ``0 < keep < N`` -> kept ``(keep,)``, features ``(keep, D)``.
    Source: SparseVLM ``attn_postprocess_topk`` and recycling; Polymorphic section 3.3.
    """
    found = rankable(features, score.values, torch.arange(len(features), device=features.device))
    rows = found.rows
    if len(rows) <= keep:
        return kept_without_merging(found, keep, found.pool, score)
    selected, n_clusters = split_keep(len(rows), keep)
    recycled = recycled_clusters(len(rows) - selected)[0] if n_clusters else 0
    by_score = rows[top_k(found.ranked[rows], len(rows))]
    again = by_score[selected : selected + recycled].sort().values
    parts = [cluster_means(features, again, n_clusters, neighbours)] if n_clusters else []

    def facts() -> dict[str, int]:
        return {
            "selected": selected,
            "recycled": recycled,
            "clusters": n_clusters,
            "ties_at_threshold": ties_at_threshold(found.ranked[rows], selected),
        }

    return clustered_selection(features, by_score[:selected], parts, score, append, found, facts)


def kept_without_merging(found: Rankable, keep: int, pool: Tensor, score: TokenMap) -> Selection:
    """All rows that can be ranked, and others of ``pool`` to make up the number: nothing usable is left to merge."""
    if len(found.rows) == 0:
        return unrankable(keep, pool, score)
    kept = fill_up(found.rows, keep, pool).sort().values
    return Selection(kept, diagnose=lambda: explained(score, non_finite=found.non_finite, of=len(pool)))


def clustered_selection(
    features: Tensor,
    alone: Tensor,
    parts: list[Clusters],
    score: TokenMap,
    append: bool,
    found: Rankable,
    facts: Callable[[], Mapping[str, Any]],
) -> Selection:
    """The Selection of tokens kept ``alone (k,)`` and of the clusters of every view, each at its centre's place.

    append: the LLM gets the clusters behind the tokens kept alone, most prominent first, as in SparseVLM's code;
    otherwise every cluster stands where its centre stood.
    """
    n, device, merges = len(features), features.device, bool(parts)
    clusters = joined(parts, features)
    kept = torch.cat([alone, clusters.centres]).sort().values
    owner = torch.full((n,), -1, device=device).index_copy_(0, clusters.rows, clusters.owner)

    def diagnose() -> Diagnostics:
        sizes = torch.zeros(n, device=device).index_fill(0, alone, 1.0).index_copy(0, clusters.centres, clusters.sizes)
        return explained(
            score,
            maps=(*_graph_maps(clusters, n), group_sizes(sizes)),
            charts=decision_graph(clusters),
            facts=facts(),
            non_finite=found.non_finite,
            of=len(found.pool),
        )

    return Selection(
        kept=kept,
        assignment=owner.index_copy_(0, alone, alone),
        features=kept_rows(features, kept, clusters.centres, clusters.means) if merges else None,
        sequence=torch.searchsorted(kept, torch.cat([alone.sort().values, clusters.centres]))
        if append and merges
        else None,
        diagnose=diagnose,
    )


def group_sizes(sizes: Tensor) -> TokenMap:
    """How many tokens each kept one stands for. Shape: ``(N,)``."""
    return TokenMap("group_size", "Tokens merged into one", sizes, unit="tokens", direction="0 is dropped")


def _graph_maps(clusters: Clusters, n: int) -> tuple[TokenMap, ...]:
    if len(clusters.rows) == 0:
        return ()
    density, separation = (spread(v, clusters.rows, n, torch.nan) for v in (clusters.log_density, clusters.separation))
    return (
        TokenMap("log_density", "Local density, ln ρ", density, direction="high with high δ makes a cluster centre"),
        TokenMap(
            "separation",
            "Distance δ to a denser token",
            separation,
            unit="distance / √D",
            direction="high with high ρ makes a cluster centre",
        ),
    )


def decision_graph(clusters: Clusters) -> tuple[Chart, ...]:
    """Density against separation of every clustered token, centres marked; nothing when no token was clustered.

    The density is shown as its logarithm: between hidden states deep in an LLM the density itself underflows to 0.
    """
    if len(clusters.rows) == 0:
        return ()
    return (
        Chart(
            name="decision_graph",
            label="Decision graph: centres are dense and far from denser tokens",
            kind="scatter",
            x=clusters.log_density.tolist(),
            y=clusters.separation.tolist(),
            x_label="local density, ln ρ",
            y_label="distance δ to a denser token",
            tokens=clusters.rows.tolist(),
            marked=torch.isin(clusters.rows, clusters.centres).nonzero().squeeze(1).tolist(),
        ),
    )
