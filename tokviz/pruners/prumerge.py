"""PruMerge: keep what [CLS] attends to, add the nearest tokens to it, and sum up the rest in one extra token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import embedding_bag

from ..names import Site
from ..types import (
    CLS_FULL_WIDTH_LAST_BLOCK,
    FULL_KEYS_LAST_BLOCK,
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
from .diagnostics import non_finite_warnings
from .ops import (
    candidate_rows,
    complement,
    fill_up,
    kept_rows,
    required,
    row_lengths,
    spread,
    take_rows,
    top_k,
    unit_rows,
    usable_rows,
    whole_groups,
)
from .per_view import equal_shares, rows_by_view, unrankable
from .pruner import Paper, Param, Pruner, budget_tokens, fixed_count, needs_on


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
    the centre that carries each token (the most similar one that took it in, itself for a centre, -1 if none); taken_in
    ``(n,)``, how many centres took it in.
    """

    features: Tensor
    summary: Tensor | None
    owner: Tensor
    taken_in: Tensor


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
        taken_in=chosen.sum(0),
    )


@dataclass(frozen=True)
class _View:
    """One view after selection. Shape: rows ``(n,)``; absorbed is None when the whole view stays as it is."""

    rows: Tensor
    centres: Centres
    absorbed: Absorbed | None
    line: float


def _reduce(signals: Signals, rows: Tensor, share: int | None, params: Params, choose: ChooseCentres) -> _View:
    """``share``: tokens that the view may leave, its summary included; None counts adaptively."""
    attention = _attention(signals)[rows]
    keys = take_rows(required(signals.full_keys, "full_keys"), rows)
    line = outlier_line(attention)
    if share is not None and share >= len(rows):
        everything = torch.arange(len(rows), device=rows.device)
        return _View(rows, Centres(everything, everything[:0]), None, line)
    centres = choose(attention, None if share is None else max(share - 1, 1), params)
    absorbed = absorb(
        take_rows(signals.features, rows), keys, attention, centres.all.sort().values, int(params["neighbours"])
    )
    if share == 1:  # no room for the summary
        absorbed = Absorbed(absorbed.features, None, absorbed.owner, absorbed.taken_in)
    return _View(rows, centres, absorbed, line)


def _select(signals: Signals, keep: int | None, params: Params, choose: ChooseCentres) -> Selection:
    attention = _attention(signals)
    keys = required(signals.full_keys, "full_keys")
    pool = candidate_rows(signals)
    rows = usable_rows(signals.features, pool)
    rows = rows[torch.isfinite(attention[rows]) & torch.isfinite(row_lengths(keys).square()[rows])]
    if len(rows) == 0:
        return unrankable(len(pool) if keep is None else min(keep, len(pool)), pool)
    parts = rows_by_view(signals, rows)
    shares = [None] * len(parts) if keep is None else equal_shares([len(part) for part in parts], keep)
    views = [
        _reduce(signals, part, share, params, choose) for part, share in zip(parts, shares, strict=True) if share != 0
    ]
    ordered = torch.cat([view.rows[view.centres.all] for view in views])
    wanted = len(ordered) if keep is None or keep <= len(rows) else keep
    return _selection(signals, pool, rows, views, fill_up(ordered, wanted, pool), params)


def _selection(
    signals: Signals, pool: Tensor, rows: Tensor, views: list[_View], ordered: Tensor, params: Params
) -> Selection:
    """Back to the numbering of the stage. Shape: ordered ``(K,)``, the kept rows in the official order."""
    n_all, original, device = len(signals.features), signals.features, rows.device
    changed, values = [ordered[:0]], [original[:0].float()]
    assignment = torch.full((n_all,), -1, device=device)
    taken_in, group = torch.zeros(n_all, device=device), torch.zeros(n_all, device=device)
    summaries = []
    for view in views:
        group[view.rows[view.centres.by_attention]] = 2.0
        group[view.rows[view.centres.by_grid]] = 1.0
        if view.absorbed is not None:
            changed.append(view.rows[view.centres.all.sort().values])
            values.append(view.absorbed.features)
            owner = view.absorbed.owner
            assignment[view.rows] = torch.where(owner < 0, -1, view.rows[owner.clamp_min(0)])
            taken_in[view.rows] = view.absorbed.taken_in.float()
            if view.absorbed.summary is not None:
                summaries.append(view.absorbed.summary)
    kept = ordered.sort().values
    assignment[kept] = kept
    sequence = None
    if params["order"] == "attention":
        added = torch.arange(len(summaries), device=device) + len(kept)
        sequence = torch.cat([torch.searchsorted(kept, ordered), added])
    outlying = sum(int((_attention_of(signals, view) > view.line).sum()) for view in views)
    non_finite = len(pool) - len(rows)
    return Selection(
        kept=kept,
        assignment=assignment,
        features=kept_rows(original, kept, torch.cat(changed), torch.cat(values)),
        extra=torch.stack(summaries).to(original.dtype) if summaries else None,
        sequence=sequence,
        diagnose=lambda: Diagnostics(
            score=TokenMap(
                *_ATTENTION_NAMES[signals.cls_full_width is None],
                _of_usable(_attention(signals), rows),
                unit="probability",
                direction="high is kept first" + ("; others come from the grid" if bool((group == 1).any()) else ""),
                scale="log",
            ),
            maps=(
                TokenMap(
                    "group", "Kept by", _of_usable(group, rows), direction="2 by attention, 1 by the grid, 0 dropped"
                ),
                TokenMap(
                    "taken_in",
                    "Kept tokens that it was added to",
                    _of_usable(taken_in, rows),
                    unit="tokens",
                    direction="a dropped one with 0 is in the summary at most",
                ),
            ),
            charts=tuple(_chart(signals, number, view, len(views)) for number, view in enumerate(views)),
            readings=(Reading("outliers", "Share of outliers of attention", outlying / len(rows)),),
            facts={
                "outliers": outlying,
                "by_attention": int((group == 2).sum()),
                "by_grid": int((group == 1).sum()),
                "summary_tokens": len(summaries),
                **({"added": "the sum of what was dropped, weighted by attention"} if summaries else {}),
                "non_finite": non_finite,
            },
            warnings=non_finite_warnings(non_finite, len(pool)),
        ),
    )


_ATTENTION_NAMES = {
    False: ("cls_full_width", "[CLS] attention over the full width"),
    True: ("received_attention", "Attention received"),
}  # fmt: skip
"""Name and label of the score, by whether the tower lacks a [CLS] token."""


def _of_usable(values: Tensor, rows: Tensor) -> Tensor:
    """``values`` at the usable rows, NaN elsewhere: no patch or not finite. Shape: ``(N,)``, ``(n,)`` -> ``(N,)``."""
    return spread(values[rows], rows, len(values), torch.nan)


def _attention(signals: Signals) -> Tensor:
    """[CLS]'s, or, in a tower without one, what tokens receive. Shape: ``(N,)`` float32."""
    if signals.cls_full_width is None and signals.received_attention is not None:
        return signals.received_attention.float()
    return required(signals.cls_full_width, "cls_full_width").float()


def _attention_of(signals: Signals, view: _View) -> Tensor:
    return _attention(signals)[view.rows]


def _chart(signals: Signals, number: int, view: _View, n_views: int) -> Chart:
    """Attention of every token, highest first, and the line above which it is an outlier."""
    attention = _attention_of(signals, view)
    ranked = top_k(attention, len(attention))
    return Chart(
        f"attention_{number}",
        "Attention, ranked, and the outlier line Q3 + 1.5 IQR",
        "scatter",
        x=list(range(1, len(ranked) + 1)),
        y=attention[ranked].tolist(),
        x_label="rank",
        y_label=_ATTENTION_NAMES[signals.cls_full_width is None][1],
        line=view.line,
        tokens=view.rows[ranked].tolist(),
        marked=torch.isin(ranked, view.centres.all).nonzero().squeeze(1).tolist(),
        about=int(view.rows[0]) if n_views > 1 else None,
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


select, select_adaptive = stage_selects(choose_by_attention)


def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """One stage on the encoder's output, before the projector; the summary token is part of the budget.

    ``published``, ``final`` and ``average`` coincide, because every block sees what the stage leaves. With ``adaptive``
    the picture decides how many tokens stay, and the budget plays no part. Raises BadInput for a budget below 1 token.
    """
    tokens = budget_tokens(budget)
    keep, chosen = (None, select_adaptive) if params["adaptive"] else (tokens, select)
    return Schedule((stage_for(info, keep, chosen, "Outliers of attention, and a summary"),))


def stage_for(info: PlanningInfo, keep: int | None, select: SelectFunction, title: str) -> Stage:
    """The one stage: before the projector, or behind it where several patches become a token there."""
    site: Site = "projector" if info.merges_patches else "encoder"
    return Stage(site, keep, select, needs_on(info, CLS_FULL_WIDTH_LAST_BLOCK, RECEIVED_ATTENTION, KEYS), title=title)


KEYS = FULL_KEYS_LAST_BLOCK
NEEDS = (CLS_FULL_WIDTH_LAST_BLOCK, RECEIVED_ATTENTION, KEYS)
REPLACEABLE = (CLS_FULL_WIDTH_LAST_BLOCK, RECEIVED_ATTENTION)
PAPER = Paper(
    "LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models",
    "Shang et al.",
    2024,
    "https://arxiv.org/abs/2403.15388",
)
PARAMS = (
    Param(
        "adaptive",
        "Adaptive count",
        "bool",
        False,
        "On lets the number of attention outliers decide how many tokens stay, as published; off keeps the budget.",
    ),
    Param(
        "neighbours",
        "Neighbours",
        "int",
        32,
        "How many of the nearest tokens, by key, are added to each kept one. Official: 32.",
        minimum=0,
        maximum=256,
        step=1,
    ),
    Param(
        "order",
        "Order",
        "choice",
        "raster",
        "raster: as in the picture. attention: highest attention first, then the grid, as in the official code.",
        choices=("raster", "attention"),
    ),
)

PRUNER = Pruner(
    id="prumerge",
    label="PruMerge",
    family="merging",
    claim="Keeps what [CLS] attends to, adds the nearest tokens to it, and sums up the rest in one extra token.",
    paper=PAPER,
    needs=NEEDS,
    does_without=REPLACEABLE,
    params=PARAMS,
    schedule=schedule,
    merges=True,
)
