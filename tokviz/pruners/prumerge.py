"""PruMerge: keep what [CLS] attends to, add the nearest tokens to it, and sum up the rest in one extra token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor
from torch.nn.functional import embedding_bag

from ..names import Site
from ..types import (
    CLS_FULL_WIDTH_LAST_LAYER,
    FULL_KEYS_LAST_LAYER,
    RECEIVED_ATTENTION,
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
from .diagnostics import explained
from .ops import complement, fill_up, kept_rows, required, spread, take_rows, top_k, unit_rows, whole_groups
from .per_view import Usable, in_each_view, rows_by_view, unrankable, usable
from .pruner import Paper, Pruner, ScheduleFunction, budget_tokens, choice, fixed_count, needs_on, switch, whole


def outlier_line(attention: Tensor) -> float:
    """Q3 + 1.5 IQR, quartiles interpolated linearly: attention above it is an outlier. Shape: ``(n,)``, n >= 1."""
    low, high = torch.quantile(attention.float(), attention.new_tensor([0.25, 0.75]).float()).tolist()
    return high + 1.5 * (high - low)


@dataclass(frozen=True)
class Centres:
    """Tokens that stay, in the numbering of a view. Shape: by_attention ``(a,)`` best first, by_grid ``(g,)``."""

    by_attention: Tensor
    by_grid: Tensor

    @property
    def all(self) -> Tensor:
        """In the official order: by attention, then the grid. Shape: ``(a + g,)``."""
        return torch.cat([self.by_attention, self.by_grid])


def outliers(attention: Tensor) -> int:
    """How many tokens attention singles out, at least one. Shape: ``(n,)`` finite, n >= 1."""
    return max(int((attention > outlier_line(attention)).sum()), 1)


ChooseCentres = Callable[[Tensor, "int | None", Params], Centres]
"""From the attention ``(n,)`` of a view, the number of centres or None for an adaptive count, and the parameters."""


def choose_by_attention(attention: Tensor, count: int | None, params: Params) -> Centres:
    """The ``count`` highest attentions, or all outliers. Shape: attention ``(n,)`` finite, ``1 <= count <= n``."""
    by_attention = top_k(attention, outliers(attention) if count is None else count)
    return Centres(by_attention, by_attention[:0])


@dataclass(frozen=True)
class Absorbed:
    """What ``absorb`` made of the ``n`` tokens of a view.

    Shape: features ``(K, D)`` float32 of the centres; summary ``(D,)``, None when nothing was dropped; owner ``(n,)``,
    the centre that carries each token (the most similar one that took it in, itself for a centre, -1 if none); chosen
    ``(K, n)`` bool, which tokens each centre took in.
    """

    features: Tensor
    summary: Tensor | None
    owner: Tensor
    chosen: Tensor

    @property
    def taken_in(self) -> Tensor:
        """How many centres took each token in. Shape: ``(n,)``."""
        return self.chosen.sum(0)


def highest_per_row(scores: Tensor, count: int) -> Tensor:
    """Which are the ``count`` highest of each row, the lowest index of equals. Shape: ``(K, n)`` -> ``(K, n)`` bool.

    By the threshold that a partial sort gives; a stable sort of whole rows would cost many times as much.
    """
    if count < 1:
        return torch.zeros_like(scores, dtype=torch.bool)
    line = scores.topk(count, dim=1).values[:, -1:]
    above, level = scores > line, scores == line
    return above | (level & (level.cumsum(1) <= count - above.sum(1, keepdim=True)))


def absorb(features: Tensor, keys: Tensor, attention: Tensor, centres: Tensor, neighbours: int) -> Absorbed:
    """Add to each centre its nearest tokens by key, times their attention; sum up all other tokens the same way.

    Neighbours are chosen among all other tokens, centres included, so that a token can be added to several centres; the
    weights are not normalised; what is added are the original features. Ties go to the lowest index.
    Shape: features ``(n, D)``, keys ``(n, d_k)``, attention ``(n,)``, all finite; centres ``(K,)`` ascending, K >= 1.
    Source: PruMerge, official ``clip_encoder.py``.
    """
    n, features = len(features), features.float()
    unit = unit_rows(keys)
    similarity = (whole_groups(unit[centres]) @ whole_groups(unit).T)[: len(centres), :n]  # equal keys tie exactly
    similarity[torch.arange(len(centres), device=centres.device), centres] = -torch.inf
    chosen = highest_per_row(similarity, min(neighbours, n - 1))
    ranked = chosen.nonzero()[:, 1].view(len(centres), -1)
    attention = attention.float()
    merged = features[centres]
    if ranked.shape[1] > 0:
        merged += embedding_bag(ranked, features, mode="sum", per_sample_weights=attention[ranked])
    nearest = similarity.masked_fill(~chosen, -torch.inf).max(0)
    owner = torch.where(nearest.values > -torch.inf, centres[nearest.indices], -1).index_copy(0, centres, centres)
    dropped = complement(centres, n)
    return Absorbed(
        features=merged,
        summary=attention.index_fill(0, centres, 0.0) @ features if len(dropped) else None,
        owner=owner,
        chosen=chosen,
    )


@dataclass(frozen=True)
class _View:
    """One view after selection. Shape: rows ``(n,)``; absorbed is None when the whole view stays as it is."""

    rows: Tensor
    centres: Centres
    absorbed: Absorbed | None = None


def _attention(signals: Signals) -> TokenMap:
    """[CLS]'s, or, in a tower without one, what tokens receive. Shape: values ``(N,)`` float32."""
    name, label, values = "cls_full_width", "[CLS] attention over the full width", signals.cls_full_width
    if values is None and signals.received_attention is not None:
        name, label, values = "received_attention", "Attention received", signals.received_attention
    return TokenMap(name, label, required(values, name).float(), "probability", scale="log")


def _select(signals: Signals, keep: int | None, params: Params, choose: ChooseCentres) -> Selection:
    features, keys, score = signals.features, required(signals.full_keys, "full_keys"), _attention(signals)
    found = usable(signals, score.values, keys)
    rows, pool = found.rows, found.pool
    if len(rows) == 0:
        return unrankable(len(pool) if keep is None else min(keep, len(pool)), pool)

    def reduce(view: Tensor, share: int | None) -> _View:
        """``share``: tokens that the view may leave, its summary included; None counts adaptively."""
        attention = score.values[view]
        if share is not None and share >= len(view):
            everything = torch.arange(len(view), device=view.device)
            return _View(view, Centres(everything, everything[:0]))
        centres = choose(attention, None if share is None else max(share - 1, 1), params)
        given, chosen = (take_rows(features, view), take_rows(keys, view), attention), centres.all.sort().values
        absorbed = absorb(*given, chosen, int(params["neighbours"]))
        # A share of one has no room for the summary.
        return _View(view, centres, replace(absorbed, summary=None) if share == 1 else absorbed)

    if keep is None:
        views = [reduce(view, None) for view in rows_by_view(signals, rows)]
    else:
        views = [view for _, view in in_each_view(signals, rows, keep, reduce)]
    ordered = torch.cat([view.rows[view.centres.all] for view in views])
    ordered = fill_up(ordered, len(ordered) if keep is None or keep <= len(rows) else keep, pool)
    return _selection(features, found, score, views, ordered, params["order"] == "attention")


def _selection(
    features: Tensor, found: Usable, score: TokenMap, views: list[_View], ordered: Tensor, by_attention: bool
) -> Selection:
    """Back to the numbering of the stage. Shape: ordered ``(K,)``, the kept rows in the official order."""
    changed, values, summaries = [ordered[:0]], [features[:0].float()], []
    assignment = torch.full((len(features),), -1, device=ordered.device)
    for view in views:
        if view.absorbed is not None:
            changed.append(view.rows[view.centres.all.sort().values])
            values.append(view.absorbed.features)
            owner = view.absorbed.owner
            assignment[view.rows] = torch.where(owner < 0, -1, view.rows[owner.clamp_min(0)])
            if view.absorbed.summary is not None:
                summaries.append(view.absorbed.summary)
    kept, sequence = ordered.sort().values, None
    assignment[kept] = kept
    if by_attention:
        added = torch.arange(len(summaries), device=kept.device) + len(kept)
        sequence = torch.cat([torch.searchsorted(kept, ordered), added])
    return Selection(
        kept=kept,
        assignment=assignment,
        features=kept_rows(features, kept, torch.cat(changed), torch.cat(values)),
        extra=torch.stack(summaries).to(features.dtype) if summaries else None,
        sequence=sequence,
        diagnose=lambda: _explained(found, score, views, len(summaries)),
    )


def _explained(found: Usable, score: TokenMap, views: list[_View], n_summaries: int) -> Diagnostics:
    taken_in, group = (torch.zeros(len(score.values), device=found.rows.device) for _ in range(2))
    lines = [outlier_line(score.values[view.rows]) for view in views]
    for view in views:
        group[view.rows[view.centres.by_attention]] = 2.0
        group[view.rows[view.centres.by_grid]] = 1.0
        if view.absorbed is not None:
            taken_in[view.rows] = view.absorbed.taken_in.float()

    def shown(values: Tensor) -> Tensor:
        """NaN where a row is no patch or not finite."""
        return spread(values[found.rows], found.rows, len(values), torch.nan)

    outlying = sum(int((score.values[view.rows] > line).sum()) for view, line in zip(views, lines, strict=True))
    by_grid = int((group == 1).sum())
    direction = "high is kept first" + ("; others come from the grid" if by_grid else "")
    summed_up = "the sum of what was dropped, weighted by attention"
    kept_by, dropped = "2 by attention, 1 by the grid, 0 dropped", "a dropped one with 0 is in the summary at most"
    facts = {"outliers": outlying, "by_attention": int((group == 2).sum()), "by_grid": by_grid}
    return explained(
        replace(score, values=shown(score.values), direction=direction),
        maps=(
            TokenMap("group", "Kept by", shown(group), direction=kept_by),
            TokenMap("taken_in", "Kept tokens that it was added to", shown(taken_in), "tokens", dropped),
        ),
        charts=[_chart(score, number, views, line) for number, line in enumerate(lines)],
        readings=(Reading("outliers", "Share of outliers of attention", outlying / len(found.rows)),),
        extra_name=summed_up,
        facts={**facts, "summary_tokens": n_summaries, **({"added": summed_up} if n_summaries else {})},
        non_finite=found.non_finite,
        of=len(found.pool),
    )


def _chart(score: TokenMap, number: int, views: list[_View], line: float) -> Chart:
    """Attention of every token of a view, highest first, and the line above which it is an outlier."""
    view = views[number]
    attention = score.values[view.rows]
    ranked = top_k(attention, len(attention))
    return Chart(
        f"attention_{number}",
        "Attention, ranked, and the outlier line Q3 + 1.5 IQR",
        "scatter",
        y=attention[ranked].tolist(),
        x=list(range(1, len(ranked) + 1)),
        x_label="rank",
        y_label=score.label,
        line=line,
        tokens=view.rows[ranked].tolist(),
        marked=torch.isin(ranked, view.centres.all).nonzero().squeeze(1).tolist(),
        about=int(view.rows[0]) if len(views) > 1 else None,
    )


def stage_selects(choose: ChooseCentres) -> tuple[SelectFunction, SelectFunction]:
    """The select functions of a method that differs in how it chooses centres: planned count, adaptive count."""

    @fixed_count
    def select(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
        """``keep - 1`` centres and the summary of what was dropped; a single centre without summary for ``keep = 1``.

        In each view by itself, with an equal share of ``keep``; a view that stays whole is not merged. Rows that are no
        patch are dropped, and rows that are not finite neither stay (unless the count needs them) nor are added.
        Shape: signals.features ``(N, D)``, cls_full_width or received_attention ``(N,)``, full_keys ``(N, d_k)`` ->
        kept ``(K,)``, features ``(K, D)`` in the given dtype, extra ``(E, D)``, one summary per
        view, K + E = ``min(keep, patches)``.
        Source: PruMerge section 3, official ``clip_encoder.py``; see ``absorb``.
        """
        return _select(signals, keep, params, choose)

    def select_adaptive(signals: Signals, keep: int | None, params: Params, generator: Generator) -> Selection:
        """As many centres as attention has outliers, and the summary. Shape: as ``select``.

        Where no token is an outlier one is kept; the official PruMerge would keep none, and PruMerge+ divides by 0.
        """
        if len(signals.features) == 0:
            return Selection(kept=torch.empty(0, dtype=torch.int64, device=signals.features.device))
        return _select(signals, None, params, choose)

    return select, select_adaptive


def planned(selects: tuple[SelectFunction, SelectFunction], title: str) -> ScheduleFunction:
    """Plan one stage on the encoder's output, before the projector (behind it where patches are merged there).

    The summary token is part of the budget, and all its meanings coincide, because every layer sees what the stage
    leaves. With ``adaptive`` the image decides how many tokens stay, and the budget plays no part.
    """

    def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
        tokens = budget_tokens(budget)
        keep, select = (None, selects[1]) if params["adaptive"] else (tokens, selects[0])
        site: Site = "projector" if info.merges_patches else "encoder"
        return Schedule((Stage(site, keep, select, needs_on(info, *NEEDS), title=title),))

    return schedule


select, select_adaptive = selects = stage_selects(choose_by_attention)

NEEDS = (CLS_FULL_WIDTH_LAST_LAYER, RECEIVED_ATTENTION, FULL_KEYS_LAST_LAYER)

PRUNER = Pruner(
    id="prumerge",
    label="PruMerge",
    family="merging",
    claim="Keeps what [CLS] attends to, adds the nearest tokens to it, and sums up the rest in one extra token.",
    paper=Paper(
        "LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models",
        "Shang et al.",
        2024,
        "https://arxiv.org/abs/2403.15388",
    ),
    needs=NEEDS,
    does_without=(CLS_FULL_WIDTH_LAST_LAYER, RECEIVED_ATTENTION),
    params=(
        switch(
            "adaptive",
            "Adaptive count",
            False,
            "On lets the number of attention outliers decide how many tokens stay, as published; off keeps the budget.",
        ),
        whole(
            "neighbours",
            "Neighbours",
            32,
            "How many of the nearest tokens, by key, are added to each kept one. Official: 32.",
            minimum=0,
            maximum=256,
        ),
        choice(
            "order",
            "Order",
            ("raster", "attention"),
            "raster: as in the image. attention: highest attention first, then the grid, as in the official code.",
        ),
    ),
    schedule=planned(selects, "Outliers of attention, and a summary"),
    merges=True,
)
