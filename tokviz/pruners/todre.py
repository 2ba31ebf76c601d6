"""ToDRE: a diverse subset before the LLM (greedy k-center), then all visual tokens go once text stops looking."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from ..types import (
    CLS_ATTENTION_LAST_LAYER,
    RECEIVED_ATTENTION,
    TEXT_ROWS,
    Budget,
    Diagnostics,
    Params,
    PlanningInfo,
    Reading,
    Schedule,
    Selection,
    Signals,
    Stage,
    TokenMap,
)
from .ops import required, sanitised, take_rows, unit_rows
from .pairs import cosine_rows
from .per_view import Usable, unrankable, usable
from .pruner import Paper, Pruner, budget_tokens, choice, fixed_count, needs_on, number, switch
from .sampling import (
    cosine_distances,
    diverse_selection,
    farthest_from_mean,
    greedy_cover,
    greedy_max_sum,
    mean_distance,
    sigma_chart,
)


def _pivot(signals: Signals, rows: Tensor, thumbnail_only: bool) -> tuple[Tensor, str]:
    """The first pick, in the numbering of ``rows``, and the rule that found it. Shape: rows ``(n,)`` -> ``(1,)``."""
    attention, rule = signals.cls_attention, "highest [CLS] attention"
    if attention is None:
        attention, rule = signals.received_attention, "highest attention received"
    if attention is not None:
        scores = attention[rows].float()
        if thumbnail_only and signals.view is not None:
            scores = scores.masked_fill(signals.view[rows] != 0, torch.nan)
        scores, non_finite = sanitised(scores)
        if non_finite < len(rows):
            return scores.argmax(0, keepdim=True), rule
    return farthest_from_mean(take_rows(signals.features, rows)), "farthest from the mean"


def _select_diverse(signals: Signals, keep: int, params: Params, thumbnail_only: bool) -> Selection:
    found = usable(signals)
    if len(found.rows) == 0:
        return unrankable(keep, found.pool)
    pivot, rule = _pivot(signals, found.rows, thumbnail_only)
    if params["version"] == "v2":
        return _max_sum(signals, keep, found, pivot, rule)
    distances_to = cosine_rows(unit_rows(take_rows(signals.features, found.rows)), keep, cosine_distances)
    cover = greedy_cover(distances_to, pivot, min(keep, len(found.rows)))
    return diverse_selection(len(signals.features), found, cover, keep, "pivot", {"pivot_rule": rule})


def _max_sum(signals: Signals, keep: int, found: Usable, pivot: Tensor, rule: str) -> Selection:
    n, rows = len(signals.features), found.rows
    cover = greedy_max_sum(take_rows(signals.features, rows), min(keep, len(rows)), pivot)
    picks = rows[cover.picks]

    def diagnose() -> Diagnostics:
        facts = {"pivot": int(picks[0]), "pivot_rule": rule}
        return found.explained(mean_distance(cover, rows, n), charts=sigma_chart(cover), facts=facts)

    return found.picked(picks, keep, n, diagnose)


@fixed_count
def select_diverse(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """Stage 1: from the pivot on, always the token whose largest cosine to the kept ones is smallest.

    ``version = v2``: the one whose sum of cosines to the kept ones is smallest (max-sum, not max-min).

    Pivot: highest [CLS] attention of the last vision layer; without a [CLS] token the highest attention received, and
    without that the token farthest from the mean. Rows that are no patch are never kept, not even when ``keep`` exceeds
    the number of patches.
    Shape: signals.features ``(N, D)``, cls_attention ``(N,)`` or None -> kept ``(min(keep, patches),)``.
    Source: ToDRE (arXiv v1) Eq. 3-6, Algorithm 1, and (arXiv v2) Eq. 3-7, Algorithm 1; no code is public. Differs from
    the print of v1's Algorithm 1, which neither normalises (Eq. 5 does) nor masks picked tokens; v2's does both.
    """
    return _select_diverse(signals, keep, params, thumbnail_only=False)


@fixed_count
def select_diverse_from_thumbnail(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """Stage 1 for AnyRes images: like ``select_diverse``, with the pivot taken from view 0, the thumbnail."""
    return _select_diverse(signals, keep, params, thumbnail_only=True)


def select_withdrawal(signals: Signals, keep: int | None, params: Params, generator: Generator) -> Selection:
    """Stage 2, at one probe: drop every visual token if text hardly attends to them any more.

    alpha_t->v is the share of attention that the text after the image spends on visual tokens in the layer before the
    stage. alpha_v->t is 0 by construction: under a causal mask no visual token sees later text, so Eq. 7's pair of
    conditions reduces to ``alpha_t->v < tau``. The paper does not say that it counts the system prompt as text, and
    that would need attention rows of all visual tokens.
    Shape: signals.attention_rows ``(text rows, N)`` -> kept ``(N,)`` or ``(0,)``.
    Source: ToDRE Eq. 7.
    """
    n, tau = len(signals.features), float(params["tau"])
    everything = torch.arange(n, device=signals.features.device)
    if n == 0:
        return Selection(everything, diagnose=lambda: Diagnostics(facts={"tau": tau, "withdrawn": False}))
    rows = required(signals.attention_rows, "attention_rows").float()
    alpha = float(rows.sum(1).mean()) if len(rows) else math.nan
    withdrawn = alpha < tau

    def diagnose() -> Diagnostics:
        attention = TokenMap(
            "text_attention",
            "Attention of the text behind the image",
            rows.mean(0),
            unit="probability",
            direction="high is looked at by the text; the sum over all tokens decides",
            scale="log",
        )
        to_visual, to_text = "Share of attention that text spends on visual tokens", "Share that visual tokens spend"
        silent = "The attention on visual tokens is not a number here; all of them stay."
        return Diagnostics(
            maps=(attention,),
            readings=(
                Reading("alpha_text_to_visual", to_visual, alpha, line=tau),
                Reading("alpha_visual_to_text", f"{to_text} on the text behind them", 0.0, line=tau),
            ),
            facts={"alpha_text_to_visual": alpha, "alpha_visual_to_text": 0.0, "tau": tau, "withdrawn": withdrawn},
            warnings=(silent,) if math.isnan(alpha) else (),
        )

    return Selection(everything[:0] if withdrawn else everything, diagnose=diagnose)


def probe_layers(n_layers: int, version: str = "v1") -> list[int]:
    """The layers before which withdrawal is probed: L/2, 5L/8, 6L/8, 7L/8 rounded down, without repeats and layer 0.

    ``v2``: 7L/8 alone. A value is the first layer that sees fewer tokens; the attention comes from the layer before
    (``methods.md`` 0.1).
    """
    return sorted({n_layers * eighths // 8 for eighths in ((7,) if version == "v2" else (4, 5, 6, 7))} - {0})


def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """Stage 1 on the embeddings that enter the LLM, then up to four probes (v2: one) inside it; positions stay there.

    ``published``: k = B of stage 1, as the paper's ratios count. ``final`` and ``average`` are the same: how many
    tokens survive, 0 or k, is decided at run time, and a plan cannot but assume that they stay. Without stage 1 all
    tokens enter the LLM, whatever the budget, as in the paper's ablation; with neither stage nothing is pruned. Raises
    BadInput for a budget below 1 token.
    """
    tokens = budget_tokens(budget)
    stages = []
    if params["stage_1"]:
        stages.append(
            Stage(
                "projector",
                tokens,
                select_diverse_from_thumbnail if info.has_tiles else select_diverse,
                needs=needs_on(info, CLS_ATTENTION_LAST_LAYER, RECEIVED_ATTENTION),
                title=f"Diverse subset (greedy {'max-sum' if params['version'] == 'v2' else 'k-center'})",
            )
        )
    if params["stage_2"]:
        stages += [
            Stage(layer, None, select_withdrawal, needs=(TEXT_ROWS,), positions="keep", title="Withdrawal probe")
            for layer in probe_layers(info.n_layers, params["version"])
        ]
    return Schedule(tuple(stages))


PRUNER = Pruner(
    id="todre",
    label="ToDRE",
    family="diversity",
    claim="Keeps a diverse subset, then drops all visual tokens at the depth where text stops attending to them.",
    paper=Paper(
        "ToDRE: Visual Token Pruning via Diversity and Task Awareness for Efficient Large Vision-Language Models",
        "Li et al.",
        2025,
        "https://arxiv.org/abs/2505.18757v1",
    ),
    needs=(CLS_ATTENTION_LAST_LAYER, RECEIVED_ATTENTION, TEXT_ROWS),
    params=(
        number(
            "tau",
            "Withdrawal threshold τ",
            0.03,
            "Visual tokens go once text spends less than this share of its attention on them; 0 never withdraws. "
            "Paper: 0.03 in v1, 0.1 in v2.",
            step=0.005,
        ),
        choice(
            "version",
            "Version of the paper",
            ("v1", "v2"),
            "v1: greedy k-center, the token least similar to its most similar kept one; four probes. v2 (November "
            "2025): greedy max-sum, the token least similar to all kept ones together; one probe, at 7/8 of the depth.",
        ),
        switch("stage_1", "Stage 1", True, "Off: all tokens enter the LLM (the paper's ablation stage 2 only)."),
        switch("stage_2", "Stage 2", True, "Off: what stage 1 keeps stays to the end (the paper's stage 1 only)."),
    ),
    schedule=schedule,
    does_without=(CLS_ATTENTION_LAST_LAYER, RECEIVED_ATTENTION),
)
