"""ToMe: in every layer of the vision tower the most similar pairs of tokens become one, and the tower gets shorter."""

from __future__ import annotations

from dataclasses import fields
from itertools import accumulate

import torch
from torch import Generator, Tensor

from ..errors import BadInput
from ..names import Site, VisionLayer
from ..types import (
    ENCODER_KEYS,
    Budget,
    Diagnostics,
    Params,
    PlanningInfo,
    Schedule,
    SelectFunction,
    Selection,
    Signals,
    Stage,
    TokenMap,
)
from .bipartite_matching import Pairs, bipartite_soft_matching, least_similar, sizes_chart, weighted_means
from .diagnostics import non_finite_warnings
from .ops import required, spread
from .per_view import rows_by_view, usable
from .pruner import Paper, Pruner, budget_tokens, choice, fixed_count, switch
from .tome_after_encoder import select_after_encoder


def _matched(keys: Tensor, views: list[Tensor], usable: Tensor | None, r: int, has_cls: bool) -> Pairs:
    """``bipartite_soft_matching`` for every image by itself; each gives ``r / images`` tokens.

    Raises BadInput when ``r`` cannot be shared equally or is more than half of the tokens.
    """
    share, rest = divmod(r, len(views))
    if rest:
        raise BadInput(f"{r} tokens cannot be merged away equally in {len(views)} images.")
    smallest = min(len(rows) for rows in views)
    if share > smallest // 2:
        raise BadInput(
            f"ToMe merges at most half of the tokens of an image in one layer, not {share} of {smallest}. "
            "Ask for more tokens."
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
        tower, as the next layer's halves depend on it; behind the last merging layer parameter ``order`` decides.
        Tokens that are not finite are neither merged nor merged into; where the count demands it they are dropped.
        Shape: signals.features ``(N, D)``, keys ``(N, d_k)``, sizes and origin ``(N,)`` or None -> kept ``(keep,)``,
        features ``(keep, D)`` in the given dtype, sizes ``(keep,)``. Raises BadInput when ``keep`` is below half.
        Source: ToMe sections 3 and Eq. 1; facebookresearch/ToMe ``merge.py`` (``merge_wavg``, ``merge_source``).
        """
        features, keys, n = signals.features, required(signals.keys, "keys"), len(signals.features)
        everything = torch.arange(n, device=features.device)
        found = usable(signals, keys, pool=everything)
        sizes = torch.ones_like(everything) if signals.sizes is None else signals.sizes
        origin = everything if signals.origin is None else signals.origin
        mask = None
        if found.non_finite:
            mask = torch.zeros_like(sizes, dtype=torch.bool).index_fill(0, found.rows, True)
        pairs = _matched(keys, rows_by_view(signals, everything), mask, n - keep, has_cls)
        sources, targets, dropped = pairs.sources, pairs.targets, everything[:0]
        if mask is not None:  # what cannot be compared must leave where the count demands it
            merged = pairs.similarity > -torch.inf
            sources, targets, dropped = sources[merged], targets[merged], sources[~merged]
        place, smallest, kept, assignment = _named(pairs, origin, dropped)
        groups, means, totals = weighted_means(features, sizes, sources, targets)
        values, group_sizes = features[kept], sizes[pairs.order]
        values[torch.searchsorted(kept, assignment[groups])] = means
        group_sizes[place[groups]] = totals
        in_raster_order = leaves_tower and params["order"] == "raster"
        order = smallest.argsort() if in_raster_order else everything[:keep]  # places in the order in which they go on
        position = torch.empty_like(order)
        position[order] = everything[:keep]
        kept_places = place[kept]
        return Selection(
            kept=kept,
            assignment=assignment,
            features=values,
            sequence=position[kept_places].argsort(),
            sizes=group_sizes[kept_places],
            diagnose=lambda: _explained(pairs, group_sizes, place, dropped, len(sources), found.non_finite),
        )

    return select


_SELECT = {(cls, last): _merge_select(cls, last) for cls in (True, False) for last in (True, False)}


def _named(pairs: Pairs, origin: Tensor, dropped: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Every group by the row with the smallest original index, which is how it finds back into raster order.

    Shape: origin ``(N,)``, dropped ``(d,)`` rows -> place ``(N,)``, of each row's group in the order of ToMe; smallest
    ``(K,)`` original index of the group at each place; kept ``(K,)`` and assignment ``(N,)`` as in ``Selection``.
    """
    places = torch.arange(len(pairs.order), device=origin.device)
    place = torch.empty_like(origin)
    place[pairs.order] = places
    place[pairs.sources] = place[pairs.targets]
    nowhere = torch.iinfo(origin.dtype).max
    living = origin.index_fill(0, dropped, nowhere) if len(dropped) else origin
    smallest = torch.full_like(places, nowhere).scatter_reduce_(0, place, living, "amin")
    kept = (living == smallest[place]).nonzero().squeeze(1)
    leader = torch.empty_like(places)
    leader[place[kept]] = kept
    assignment = leader[place]
    return place, smallest, kept, assignment.index_fill_(0, dropped, -1) if len(dropped) else assignment


def _explained(
    pairs: Pairs, group_sizes: Tensor, place: Tensor, dropped: Tensor, merged: int, non_finite: int
) -> Diagnostics:
    """Shape: group_sizes ``(K,)`` in ToMe's order, place ``(N,)``, dropped ``(d,)``."""
    n = len(place)

    def shown(values: Tensor, rows: Tensor) -> Tensor:
        return spread(values.masked_fill(~values.isfinite(), torch.nan), rows, n, torch.nan)

    label = "Distance to the most similar partner (tokens of the giving half)"
    distance, similarity = shown(1 - pairs.best, pairs.giving), shown(pairs.similarity, pairs.sources)
    sizes = group_sizes.float()[place].index_fill(0, dropped, torch.nan)
    return Diagnostics(
        score=TokenMap("partner_distance", label, distance, "1 - cosine", "low is merged first"),
        maps=(
            TokenMap("group_size", "Patches in its group", sizes, "patches", "high stands for many patches"),
            TokenMap("merged_similarity", "Similarity to the partner", similarity, "cosine", "high was merged first"),
        ),
        charts=(sizes_chart(group_sizes, "How many tokens stand for how many patches", "patches"),),
        readings=least_similar(pairs.similarity),
        facts={"non_finite": non_finite, "merged": merged, "largest_group": int(group_sizes.max())},
        warnings=non_finite_warnings(non_finite, n),
    )


def merges_per_layer(n: int, total: int, layers: int, images: int = 1) -> list[int]:
    """How many tokens each of ``layers`` vision layers merges away so that ``total`` of ``n`` are gone in the end.

    As evenly as possible and the larger numbers first, under ToMe's limit of half of the tokens in every layer: of 23
    layers and 576 patches 384 = 16 x 17 + 7 x 16, 448 = 11 x 20 + 12 x 19, 512 = 6 x 23 + 17 x 22 (``methods.md`` 9.5).
    Raises BadInput with the fewest tokens that can be reached when the layers are too few, and the budget that asks for
    them, which is ``images`` times as large.
    """

    def planned(level: int, fuller: int) -> list[int]:
        """``level`` per layer, one more in the first ``fuller``; half of what is left where that is less."""
        left, merges = n, []
        for layer in range(layers):
            merges.append(min(level + (layer < fuller), left // 2))
            left -= merges[-1]
        return merges

    most = sum(planned(n, 0))
    if total > most:
        raise BadInput(
            f"ToMe leaves at least {n - most} of an image's {n} tokens in {layers} vision layers, as each merges at "
            f"most half. Ask for at least {images * (n - most)}."
        )
    level = next(level for level in range(n + 1) if sum(planned(level + 1, 0)) >= total)
    # One more layer at the higher number removes one token more or, behind a halving, none: each total is met exactly.
    return next(plan for fuller in range(layers + 1) if sum(plan := planned(level, fuller)) == total)


def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """One stage in every vision layer that merges; all of them lie before the LLM.

    Where the tower cannot run with fewer tokens: one stage behind it, on what enters the projector or, where patches
    are merged or mixed, the LLM; see ``tome_after_encoder``.

    ``published``, ``final`` and ``average`` coincide, as every LLM layer sees what the tower leaves. Several images
    each lose the same number, so that a published budget is met or undercut by less than one token per image, and
    other budgets that cannot be shared are refused. Raises BadInput for a budget below 1 token, for one that the tower
    is too shallow for, and for one that cannot be shared.
    """
    n, views = info.n_visual, max(1, info.n_views)
    if info.n_vision_layers is None or info.merges_patches:
        site: Site = "projector" if info.merges_patches else "encoder"
        tokens = budget_tokens(budget)
        return Schedule((Stage(site, tokens, select_after_encoder, (ENCODER_KEYS,), title="Merge pairs in rounds"),))
    total = n - min(budget_tokens(budget), n)
    merges = merges_per_layer(n // views, -(-total // views), info.n_vision_layers or 0, views)
    if total % views and budget.counted_as != "published":
        raise BadInput(
            f"ToMe merges the same number of tokens in each of {views} images: "
            f"ask for {n - views * (total // views)} tokens, or count the budget as published."
        )
    merging = [(layer, views * r) for layer, r in enumerate(merges) if r]
    left = accumulate((-r for _, r in merging), initial=n)
    next(left)
    weighted = bool(params["proportional_attention"])
    return Schedule(
        tuple(
            Stage(
                VisionLayer(layer),
                keep,
                _SELECT[info.has_cls, layer == merging[-1][0]],
                title=f"Merge {r} pairs",
                proportional_attention=weighted,
            )
            for (layer, r), keep in zip(merging, left, strict=True)
        )
    )


PRUNER = Pruner(
    id="tome",
    label="ToMe",
    family="merging",
    claim="Merges the most similar pairs of tokens in every layer of the vision tower; nothing is thrown away.",
    paper=Paper("Token Merging: Your ViT But Faster", "Bolya et al.", 2022, "https://arxiv.org/abs/2210.09461"),
    needs=(ENCODER_KEYS,),
    params=(
        choice(
            "order",
            "Order for the LLM",
            ("raster", "official"),
            "raster sorts the merged tokens by their smallest patch; official hands on the order that merging leaves, "
            "which is scrambled.",
        ),
        switch(
            "proportional_attention",
            "Proportional attention",
            True,
            "A merged token draws as much attention as its patches together (ln size added to the logits of its key).",
        ),
    ),
    schedule=schedule,
    merges=True,
    merges_in_vision=True,
    does_without_tower=True,
)
