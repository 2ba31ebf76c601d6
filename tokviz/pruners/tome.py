"""ToMe: in every block of the vision tower the most similar pairs of tokens become one, and the tower gets shorter."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Generator, Tensor

from ..errors import BadInput
from ..names import Site, VisionBlock
from ..types import (
    Budget,
    Chart,
    Diagnostics,
    Params,
    PlanningInfo,
    Reading,
    Schedule,
    SelectFunction,
    Selection,
    Signals,
    Stage,
    TokenMap,
)
from .diagnostics import non_finite_warnings
from .ops import required, spread, usable_rows
from .pairs_of_halves import Pairs, bipartite_soft_matching, weighted_means
from .per_view import rows_by_view
from .pruner import Paper, Param, Pruner, budget_tokens, fixed_count
from .tome_behind import NEEDS_BEHIND, select_behind


def _matched(signals: Signals, usable: Tensor, r: int, has_cls: bool) -> Pairs:
    """``bipartite_soft_matching`` for every picture by itself; each gives ``r / pictures`` tokens.

    Raises BadInput when ``r`` cannot be shared equally or is more than half of the tokens.
    """
    keys = required(signals.keys, "keys")
    views = rows_by_view(signals, torch.arange(len(keys), device=keys.device))
    share, rest = divmod(r, len(views))
    if rest:
        raise BadInput(f"{r} tokens cannot be merged away equally in {len(views)} pictures.")
    if share > min(len(rows) for rows in views) // 2:
        raise BadInput(
            f"ToMe merges at most half of the tokens of a picture in one block, not {share} of "
            f"{min(len(rows) for rows in views)}. Ask for more tokens."
        )
    pairs = [bipartite_soft_matching(keys, usable, rows, share, has_cls) for rows in views]
    if len(pairs) == 1:
        return pairs[0]
    return Pairs(*(torch.cat([getattr(pair, f.name) for pair in pairs]) for f in fields(Pairs)))


def _merge_select(has_cls: bool, leaves_tower: bool) -> SelectFunction:
    @fixed_count
    def select(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
        """Merge ``N - keep`` tokens into their most similar partners, by means weighted with the sizes of both.

        A merged token goes by the smallest original index of its patches. It stays in ToMe's own order inside the
        tower, as the next block's halves depend on it; behind the last merging block parameter ``order`` decides.
        Tokens that are not finite are neither merged nor merged into; where the count demands it they are dropped.
        Shape: signals.features ``(N, D)``, keys ``(N, d_k)``, sizes and origin ``(N,)`` or None -> kept ``(keep,)``,
        features ``(keep, D)`` in the given dtype, sizes ``(keep,)``. Raises BadInput when ``keep`` is below half.
        Source: ToMe sections 3 and Eq. 1; facebookresearch/ToMe ``merge.py`` (``merge_wavg``, ``merge_source``).
        """
        return _select(signals, keep, has_cls, leaves_tower and params["order"] == "raster")

    return select


_SELECT = {(cls, last): _merge_select(cls, last) for cls in (True, False) for last in (True, False)}


def _select(signals: Signals, keep: int, has_cls: bool, in_raster_order: bool) -> Selection:
    features, n = signals.features, len(signals.features)
    everything = torch.arange(n, device=features.device)
    usable = torch.zeros(n, dtype=torch.bool, device=features.device)
    usable[usable_rows(required(signals.keys, "keys"), usable_rows(features, everything))] = True
    sizes = torch.ones_like(everything) if signals.sizes is None else signals.sizes
    origin = everything if signals.origin is None else signals.origin
    pairs = _matched(signals, usable, n - keep, has_cls)
    averaged = torch.isfinite(pairs.similarity)

    dropped = torch.zeros_like(usable)
    dropped[pairs.sources] = ~averaged
    place, smallest, kept, assignment = _named(pairs, origin, dropped)
    groups, means, totals = weighted_means(features, sizes, pairs.sources[averaged], pairs.targets[averaged])
    merged, group_sizes = features[kept], sizes[pairs.order]
    merged[torch.searchsorted(kept, assignment[groups])] = means
    group_sizes[place[groups]] = totals
    order = smallest.argsort() if in_raster_order else everything[:keep]  # places in the order in which they go on
    position = torch.empty_like(order)
    position[order] = everything[:keep]
    return Selection(
        kept=kept,
        assignment=assignment,
        features=merged,
        sequence=position[place[kept]].argsort(),
        sizes=group_sizes[place[kept]],
        diagnose=lambda: Diagnostics(
            **_shown(pairs, group_sizes, place, dropped),
            score=_distances(pairs, n),
            facts={
                "non_finite": n - int(usable.sum()),
                "merged": int(averaged.sum()),
                "largest_group": int(group_sizes.max()),
            },
            warnings=non_finite_warnings(n - int(usable.sum()), n),
        ),
    )


def _named(pairs: Pairs, origin: Tensor, dropped: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Every group by the row with the smallest original index, which is how it finds back into raster order.

    Shape: origin ``(N,)``, dropped ``(N,)`` bool -> place ``(N,)``, of each row's group in the order of ToMe; smallest
    ``(K,)`` original index of the group at each place; kept ``(K,)`` and assignment ``(N,)`` as in ``Selection``.
    """
    places = torch.arange(len(pairs.order), device=origin.device)
    place = torch.empty_like(origin)
    place[pairs.order] = places
    place[pairs.sources] = place[pairs.targets]
    beyond = origin.max() + 1
    smallest = beyond.repeat(len(places)).scatter_reduce(0, place, origin.masked_fill(dropped, beyond), "amin")
    kept = ((origin == smallest[place]) & ~dropped).nonzero().squeeze(1)
    leader = torch.empty_like(places)
    leader[place[kept]] = kept
    return place, smallest, kept, leader[place].masked_fill(dropped, -1)


def _distances(pairs: Pairs, n: int) -> TokenMap:
    distance = pairs.distance.masked_fill(~torch.isfinite(pairs.distance), torch.nan)
    return TokenMap(
        "partner_distance",
        "Distance to the most similar partner (tokens of the giving half)",
        spread(distance, pairs.ranked, n, torch.nan),
        unit="1 - cosine",
        direction="low is merged first",
    )


def _shown(pairs: Pairs, group_sizes: Tensor, place: Tensor, dropped: Tensor) -> dict[str, Any]:
    """Maps, chart and reading of one stage, as fields of ``Selection``."""
    nan, n = torch.nan, len(place)
    sizes = group_sizes.float()[place].masked_fill(dropped, nan)
    edges = spread(pairs.similarity.masked_fill(~torch.isfinite(pairs.similarity), nan), pairs.sources, n, nan)
    counts = torch.bincount(group_sizes).tolist()
    present = [size for size, count in enumerate(counts) if count]
    finite = [value for value in pairs.similarity.tolist() if value > -torch.inf]
    label = "Similarity of the least similar merged pair"
    return {
        "maps": (
            TokenMap("group_size", "Patches in its group", sizes, "patches", "high stands for many patches"),
            TokenMap("merged_similarity", "Similarity to the partner", edges, "cosine", "high was merged first"),
        ),
        "charts": (
            Chart(
                "group_sizes",
                "How many tokens stand for how many patches",
                "bars",
                y=[counts[size] for size in present],
                names=[str(size) for size in present],
                x_label="patches",
                y_label="tokens",
            ),
        ),
        "readings": (Reading("least_similar_pair", label, min(finite), unit="cosine"),) if finite else (),
    }


def merges_per_block(n: int, total: int, blocks: int, pictures: int = 1) -> list[int]:
    """How many tokens each of ``blocks`` vision blocks merges away so that ``total`` of ``n`` are gone in the end.

    As evenly as possible and the larger numbers first, under ToMe's limit of half of the tokens in every block: of 23
    blocks and 576 patches 384 = 16 x 17 + 7 x 16, 448 = 11 x 20 + 12 x 19, 512 = 6 x 23 + 17 x 22 (``methods.md`` 9.5).
    Raises BadInput with the fewest tokens that can be reached when the blocks are too few, and the budget that asks for
    them, which is ``pictures`` times as large.
    """

    def planned(level: int, fuller: int) -> list[int]:
        """``level`` per block, one more in the first ``fuller``; half of what is left where that is less."""
        left, merges = n, []
        for block in range(blocks):
            merges.append(min(level + (block < fuller), left // 2))
            left -= merges[-1]
        return merges

    most = sum(planned(n, 0))
    if total > most:
        raise BadInput(
            f"ToMe leaves at least {n - most} of a picture's {n} tokens in {blocks} vision blocks, as each merges at "
            f"most half. Ask for at least {pictures * (n - most)}."
        )
    level = next(level for level in range(n + 1) if sum(planned(level + 1, 0)) >= total)
    # One more block at the higher number removes one token more or, behind a halving, none: each total is met exactly.
    return next(plan for fuller in range(blocks + 1) if sum(plan := planned(level, fuller)) == total)


def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """One stage in every vision block that merges; all of them lie before the LLM.

    Where the tower cannot run with fewer tokens: one stage behind it, on what enters the projector or, where patches
    are merged or mixed, the LLM; see ``tome_behind``.

    ``published``, ``final`` and ``average`` coincide, as every LLM block sees what the tower leaves. Several pictures
    each lose the same number, so that a published budget is met or undercut by less than one token per picture, and
    other budgets that cannot be shared are refused. Raises BadInput for a budget below 1 token, for one that the tower
    is too shallow for, and for one that cannot be shared.
    """
    n, views = info.n_visual, max(1, info.n_views)
    if info.vision_blocks is None or info.merges_patches:
        site: Site = "projector" if info.merges_patches else "encoder"
        tokens = budget_tokens(budget)
        return Schedule((Stage(site, tokens, select_behind, NEEDS_BEHIND, title="Merge pairs in rounds"),))
    total = n - min(budget_tokens(budget), n)
    merges = merges_per_block(n // views, -(-total // views), info.vision_blocks or 0, views)
    if total % views and budget.counted_as != "published":
        raise BadInput(
            f"ToMe merges the same number of tokens in each of {views} pictures: "
            f"ask for {n - views * (total // views)} tokens, or count the budget as published."
        )
    stages, left = [], n
    last = max((block for block, r in enumerate(merges) if r), default=-1)
    for block, r in enumerate(merges):
        if r:
            left -= views * r
            stages.append(
                Stage(
                    VisionBlock(block),
                    left,
                    _SELECT[info.has_cls, block == last],
                    title=f"Merge {views * r} pairs",
                    proportional_attention=bool(params["proportional_attention"]),
                )
            )
    return Schedule(tuple(stages))


PRUNER = Pruner(
    id="tome",
    label="ToMe",
    family="merging",
    claim="Merges the most similar pairs of tokens in every block of the vision tower; nothing is thrown away.",
    paper=Paper("Token Merging: Your ViT But Faster", "Bolya et al.", 2022, "https://arxiv.org/abs/2210.09461"),
    needs=NEEDS_BEHIND,
    params=(
        Param(
            "order",
            "Order for the LLM",
            "choice",
            "raster",
            "raster sorts the merged tokens by their smallest patch; official hands on the order that merging leaves, "
            "which is scrambled.",
            choices=("raster", "official"),
        ),
        Param(
            "proportional_attention",
            "Proportional attention",
            "bool",
            True,
            "A merged token draws as much attention as its patches together (ln size added to the logits of its key).",
        ),
    ),
    schedule=schedule,
    merges=True,
    merges_in_vision=True,
    does_without_tower=True,
)
