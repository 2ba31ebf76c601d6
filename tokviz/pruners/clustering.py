"""Merging by density peaks: clusters become their means; what SparseVLM, Polymorphic and their recycling share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def cluster_means(features: Tensor, parts: Sequence[tuple[Tensor, int]], neighbours: int) -> Clusters:
    """DPC-kNN in each part by itself: every cluster becomes the plain mean of its members, the centre among them.

    neighbours: K_nn nearest other rows make the density; 0 does as SparseVLM's code, which takes as many as there are
    clusters and counts the row itself as its own nearest.
    Shape: features ``(N, D)``; parts, at least one, each of rows ``(m,)`` finite and how many clusters, 1 to m.
    Source: SparseVLM ``cluster_and_merge`` (``methods.md`` 6.4c); Polymorphic Eq. 1-7. Differs from the code: ties
    instead of noise (see ``density_peaks``), and no 1e-6 in the denominator of the mean.
    """
    found = []
    for rows, count in parts:
        peaks = density_peaks(features[rows].float(), count, neighbours or count, include_self=neighbours == 0)
        place = torch.empty_like(rows)
        place[peaks.centres] = torch.arange(count, device=rows.device)
        sums, sizes = group_sums(features, rows, place[peaks.owner], count)
        means = sums.div_(sizes.unsqueeze(1))
        numbers = (rows[peaks.owner], rows[peaks.centres], means, sizes.float(), peaks.log_density, peaks.separation)
        found.append((rows, *numbers))
    return Clusters(*(of_parts[0] if len(found) == 1 else torch.cat(of_parts) for of_parts in zip(*found, strict=True)))


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

    Shape: pool ``(P,)``, rows ``(n,)``, both ascending; score.values and ranked ``(N,)``, as given and ready to be
    ranked.
    """

    pool: Tensor
    rows: Tensor
    score: TokenMap
    ranked: Tensor

    def explained(self, of: int | None = None, **shown: Any) -> Diagnostics:
        """Diagnostics that also tell of the rows without a feature or a score, ``of`` how many (None: the pool)."""
        finite = int(torch.isfinite(self.score.values[self.rows].float()).sum())
        of = len(self.pool) if of is None else of
        return explained(self.score, non_finite=len(self.pool) - finite, of=of, **shown)


def rankable(features: Tensor, score: TokenMap, pool: Tensor) -> Rankable:
    """Find the rows of ``pool (P,)`` that can be ranked. Shape: features ``(N, D)``, score.values ``(N,)``."""
    ranked, broken = sanitised(score.values)
    rows = usable_rows(features, pool)
    return Rankable(pool, rows[ranked[rows] > -torch.inf] if broken else rows, score, ranked)


def keep_and_recycle(features: Tensor, score: TokenMap, keep: int, neighbours: int, append: bool) -> Selection:
    """Keep the highest scores, cluster the best 30% of the others, let the rest go; kept and clusters are ``keep``.

    Rows without a finite feature or score are kept only where ``keep`` cannot be met without them.
    Shape: features ``(N, D)``, score.values ``(N,)``, ``0 < keep < N`` -> kept ``(keep,)``, features ``(keep, D)``.
    Source: SparseVLM ``attn_postprocess_topk`` and recycling; Polymorphic section 3.3.
    """
    found = rankable(features, score, torch.arange(len(features), device=features.device))
    rows = found.rows
    if len(rows) <= keep:
        return kept_without_merging(found, keep, found.pool)
    selected, n_clusters = split_keep(len(rows), keep)
    recycled = recycled_clusters(len(rows) - selected)[0] if n_clusters else 0
    by_score = rows[top_k(found.ranked[rows], len(rows))]
    parts = [(by_score[selected : selected + recycled].sort().values, n_clusters)] if n_clusters else []
    facts = {"selected": selected, "recycled": recycled, "clusters": n_clusters}
    clusters = cluster_means(features, parts, neighbours) if parts else None
    return clustered_selection(features, found, by_score[:selected], clusters, [(rows, selected)], append, facts)


def kept_without_merging(found: Rankable, keep: int, pool: Tensor) -> Selection:
    """All rows that can be ranked, and others of ``pool`` to make up the number: nothing usable is left to merge."""
    if len(found.rows) == 0:
        return unrankable(keep, pool, found.score)
    return Selection(fill_up(found.rows, keep, pool).sort().values, diagnose=lambda: found.explained(of=len(pool)))


def clustered_selection(
    features: Tensor,
    found: Rankable,
    alone: Tensor,
    clusters: Clusters | None,
    lines: Sequence[tuple[Tensor, int]],
    append: bool,
    facts: Mapping[str, Any],
) -> Selection:
    """The Selection of tokens kept ``alone (k,)`` and of clusters, each at its centre's place.

    lines: of what rows how many were kept alone, by their score. append: the LLM gets the clusters behind the tokens
    kept alone, most prominent first, as in SparseVLM's code; otherwise every cluster stands where its centre stood.
    """
    n, device = len(features), features.device
    assignment = torch.full((n,), -1, device=device)
    kept, merged, sequence = alone.sort().values, None, None
    if clusters is not None:
        assignment.index_copy_(0, clusters.rows, clusters.owner)
        order = torch.cat([kept, clusters.centres])
        kept = order.sort().values
        merged = kept_rows(features, kept, clusters.centres, clusters.means)
        sequence = torch.searchsorted(kept, order) if append else None

    def diagnose() -> Diagnostics:
        ties = max([1, *(ties_at_threshold(found.ranked[rows], count) for rows, count in lines)])
        sizes = torch.zeros(n, device=device).index_fill(0, alone, 1.0)
        maps, charts = ((), ()) if clusters is None else _decision_graph(clusters, n)
        if clusters is not None:
            sizes.index_copy_(0, clusters.centres, clusters.sizes)
        sizes_map = TokenMap("group_size", "Tokens merged into one", sizes, unit="tokens", direction="0 is dropped")
        return found.explained(maps=(*maps, sizes_map), charts=charts, facts={**facts, "ties_at_threshold": ties})

    return Selection(kept, None, assignment.index_copy_(0, alone, alone), merged, None, sequence, diagnose=diagnose)


def _decision_graph(clusters: Clusters, n: int) -> tuple[tuple[TokenMap, ...], tuple[Chart, ...]]:
    """Density against separation of every clustered token of ``n``, as maps and as a chart with the centres marked.

    The density is shown as its logarithm: between hidden states deep in an LLM the density itself underflows to 0.
    """
    density, delta = (spread(v, clusters.rows, n, torch.nan) for v in (clusters.log_density, clusters.separation))
    dense, far = ("high with high δ makes a cluster centre", "high with high ρ makes a cluster centre")
    maps = (
        TokenMap("log_density", "Local density, ln ρ", density, direction=dense),
        TokenMap("separation", "Distance δ to a denser token", delta, "distance / √D", far),
    )
    chart = Chart(
        name="decision_graph",
        label="Decision graph: centres are dense and far from denser tokens",
        kind="scatter",
        x=clusters.log_density.tolist(),
        y=clusters.separation.tolist(),
        x_label="local density, ln ρ",
        y_label="distance δ to a denser token",
        tokens=clusters.rows.tolist(),
        marked=torch.isin(clusters.rows, clusters.centres).nonzero().squeeze(1).tolist(),
    )
    return maps, (chart,)
