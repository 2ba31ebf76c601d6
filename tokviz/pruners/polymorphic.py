"""Polymorphic: clusters of what [CLS] neglects before the LLM, then pruning by the words of the question inside it."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Generator, Tensor

from ..errors import BadInput, Unsupported
from ..names import PositionPolicy, Site
from ..types import (
    CLS_ATTENTION,
    LLM_INPUT,
    RECEIVED_ATTENTION,
    TEXT_FEATURES,
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
from .clustering import (
    KEPT_OR_RECYCLED,
    cluster_means,
    clustered_selection,
    keep_and_recycle,
    kept_without_merging,
    rankable,
)
from .ops import candidate_rows, complement, required, top_k
from .per_view import shared
from .pruner import Paper, Pruner, budget_tokens, choice, fixed_count, needs_on, number, switch, whole
from .raters import Raters, alignment_logits, log_odds, rated_attention, text_raters
from .schedules import carried_layers, geometric_ratio, layer_spans, least_budget, staircase, weighted_average

# Layers before which tokens go (layers 3, 7, 16 of LLaVA and 3, 7, 13 of Qwen2-VL count from 1 and prune behind it).
PUBLISHED_LAYERS = {28: (3, 7, 13), 32: (3, 7, 16), 40: (3, 7, 16)}


def merged_count(keep: int) -> int:
    """How many of ``keep`` tokens of stage 1 are clusters: ``keep / 6.4`` rounded half up, retained:merged = 5.4:1."""
    return (20 * keep + 64) // 128


@fixed_count
def select_consolidated(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """Stage 1: the tokens that [CLS] attends to most stay alone; density peaks cluster all others into means.

    Of several images or crops each gets an equal share and is consolidated for itself. Rows that are no patch and
    tokens without a finite score or feature are kept only where ``keep`` cannot be met without them.
    Shape: signals.features ``(N, D)``, cls_attention ``(N,)`` (or received_attention) -> kept ``(keep,)``.
    Raises Unsupported when there is neither. Source: Polymorphic section 3.2, Eq. 1-7; no code is public.
    """
    if signals.cls_attention is None and signals.received_attention is None:
        raise Unsupported(
            "Polymorphic keeps the tokens that [CLS], or without one all visual tokens, attend to, and this model's "
            "vision tower shows neither. Switch its stage 1 off."
        )
    label, attention = "[CLS] attention", signals.cls_attention
    if attention is None:
        label, attention = "Attention received from all visual tokens", signals.received_attention
    stays = "high stays for itself; of the others the centres of clusters stay"
    score = TokenMap("attention", label, required(attention, "attention").float(), "probability", stays, "log")
    features, neighbours = signals.features, int(params["neighbours"])
    found = rankable(features, score, candidate_rows(signals))
    if len(found.rows) <= keep:
        return kept_without_merging(found, keep, torch.cat([found.pool, complement(found.pool, len(features))]))
    alone: list[Tensor] = []
    rest: list[tuple[Tensor, int]] = []
    lines: list[tuple[Tensor, int]] = []
    for view, share in shared(signals, found.rows, keep):
        count = merged_count(share) if share < len(view) else 0
        by_score = view[top_k(found.ranked[view], len(view))]
        alone.append(by_score[: share - count])
        if count:
            rest.append((by_score[share - count :].sort().values, count))
            lines.append((view, share - count))
    dominant, clusters = torch.cat(alone), sum(count for _, count in rest)
    means = cluster_means(features, rest, neighbours) if rest else None
    facts = {"dominant": len(dominant), "clusters": clusters, "neighbours": neighbours}
    return clustered_selection(features, found, dominant, means, lines, params["order"] == "append", facts)


@fixed_count
def select_rated(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """Stage 2: raters score the visual tokens, the best stay, the best 30% of the others come back as clusters.

    Raters are found on what entered the LLM, the same at every stage; with ``raters = layer`` on the hidden states
    before this layer, the one matrix of which Eq. 9-11 speak. ``embed`` scores by Eq. 9 and 11 on the hidden states
    before this layer: the mean share that a visual token gives the raters of its softmax over all text. It ranks by the
    log odds of that share, which order the tokens alike and do not saturate. ``attn`` scores by the raters' attention,
    as SparseVLM does. Exactly ``keep`` tokens and clusters stay, where Eq. 12's threshold would keep more on ties.
    Shape: signals.features ``(N, D)``, text_features ``(M, D)`` or attention_rows ``(M, N)``, input_features,
    input_text -> kept ``(keep,)``.
    Source: Polymorphic section 3.3, Eq. 9-12; recycling by SparseVLM's rule; no code is public.
    """
    rated_on = (signals.features, signals.text_features) if params["raters"] == "layer" else None
    raters, neighbours, logits = text_raters(signals, scaled=True, on=rated_on), int(params["neighbours"]), None
    if params["signal"] == "attn":
        score = rated_attention(signals, raters, KEPT_OR_RECYCLED)
    else:
        text = required(signals.text_features, "text_features")
        logits = alignment_logits(signals.features, text, signals.features.shape[1] ** -0.5)
        odds, label = log_odds(logits, raters.chosen), "Alignment with the raters, as log odds"
        score = TokenMap("alignment_log_odds", label, odds, "ln odds", KEPT_OR_RECYCLED)
    rule = {"raters": len(raters.rows), "rater_rule": raters.rule, "neighbours": neighbours}

    def rated(own: Diagnostics) -> Diagnostics:
        facts = {"signal": str(params["signal"]), **rule, **own.facts}
        maps, readings = ((), ()) if logits is None else _alignment(logits, raters)
        return replace(own, facts=facts, text=raters.text, readings=readings, maps=(*maps, *own.maps))

    found = keep_and_recycle(signals.features, score, keep, neighbours, params["order"] == "append")
    return found.with_diagnostics(rated)


def _alignment(logits: Tensor, raters: Raters) -> tuple[tuple[TokenMap, ...], tuple[Reading, ...]]:
    """Eq. 9's shares of the raters, and the share of visual tokens that give more than 99% to one text token.

    Shape: logits ``(N, M)``.
    """
    shares = logits.softmax(1)
    alpha = shares[:, raters.chosen].sum(1) / max(1, len(raters.rows))
    leans, several = "high leans on the raters; its log odds rank", shares.shape[1] > 1 and len(shares) > 0
    one_hot = float((shares.max(1).values > 0.99).float().mean()) if several else 0.0
    reading = Reading("one_hot", "Visual tokens whose softmax is one-hot", one_hot, unit="share")
    return (TokenMap("alignment", "Alignment α with the raters", alpha, "share of the softmax", leans),), (reading,)


def _whole(counts: list[float]) -> list[int]:
    return [max(1, math.floor(count + 0.5)) for count in counts]


def plan_counts(budget: Budget, info: PlanningInfo, params: Params) -> tuple[int, list[int], list[int]]:
    """What stage 1 leaves, before which layers stage 2 prunes, and what it leaves there, recycled clusters included.

    ``published`` and ``average``: stage 1 leaves K B tokens (N when it is off, or when that is less), and the rest
    follows a staircase n_k = n_0 r^k with A_in = B, rounded half up (LLaVA-7B, 192: 384, 272, 192, 136; the paper
    prints K B and the average, not the counts). ``final``: the same staircase with B at its end. K = 1 leaves nothing
    for stage 2, and so does a model of one layer. Raises BadInput when no staircase is steep enough, as without stage 1
    for small budgets.
    """
    tokens, n = budget_tokens(budget), info.n_visual
    layers = carried_layers(PUBLISHED_LAYERS, info.n_layers)
    if tokens >= n or not layers:
        return min(tokens, n), layers, [n] * len(layers)
    spans, stages = layer_spans(layers, info.n_layers), len(layers)
    stage_1 = bool(params["stage_1"])
    factor = float(params["factor"]) if stage_1 else n / tokens
    if budget.counted_as == "final":
        end = geometric_ratio(factor, 1.0, spans) ** stages
        first = n if not stage_1 or tokens >= n * end else math.floor(tokens / end + 0.5)
        counts = _whole(staircase(first, (tokens / first) ** (1 / stages), stages))
        return first, layers, [*(max(tokens, count) for count in counts[1:-1]), tokens]
    falling = _falling(tokens, n, factor, spans)
    if falling is None:
        least = least_budget(lambda t: _falling(t, n, factor if stage_1 else n / t, spans) is not None, tokens, n)
        raise BadInput(
            f"Polymorphic cannot reach an average of {tokens}: {_entering(tokens, n, factor)} enter the LLM, and its "
            f"first {spans[0]} of {info.n_layers} layers process them all. "
            f"{'Lower K' if stage_1 else 'Switch stage 1 on'}, or ask for at least {least}."
        )
    return falling[0], layers, falling[1:]


def _entering(tokens: int, n: int, factor: float) -> int:
    return min(n, math.floor(factor * tokens + 0.5))


def _falling(tokens: int, n: int, factor: float, spans: list[int]) -> list[int] | None:
    """Counts from what enters the LLM on, with this average to the nearest; None where none falls steeply enough."""
    first, stages = _entering(tokens, n, factor), len(spans) - 1
    if weighted_average([first] + [1] * stages, spans) > tokens + 0.5:
        return None
    counts = _whole(staircase(first, geometric_ratio(first, tokens, spans), stages))
    return counts if weighted_average(counts, spans) <= tokens + 0.5 else None


def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """Stage 1 at the encoder's output, stage 2 before layers 3, 7, 16 of 32 (and of 40; 3, 7, 13 of 28).

    Other depths: in proportion, see ``carried_layers``. Counts: see ``plan_counts``. Positions are renumbered where
    that can be done. Families that merge patches behind their encoder have stage 1 on the embeddings that enter the
    LLM. Without [CLS] it ranks by the attention received, as the paper does on Qwen2-VL. Raises BadInput when the
    average cannot be met.
    """
    first, layers, counts = plan_counts(budget, info, params)
    positions: PositionPolicy = "reindex" if info.renumbers else "keep"
    site: Site = "projector" if info.merges_patches else "encoder"
    needs = needs_on(info, CLS_ATTENTION, RECEIVED_ATTENTION)
    clustered = Stage(site, first, select_consolidated, needs, positions, "Stage 1: neglected tokens clustered")
    if params["stage_1"] and all(count == first for count in counts):
        return Schedule((clustered,))
    rated_on = TEXT_FEATURES if params["raters"] == "layer" else LLM_INPUT
    needs = (rated_on, TEXT_ROWS if params["signal"] == "attn" else TEXT_FEATURES)
    needs = tuple(dict.fromkeys(needs))
    title = "Stage 2: rated by text, pruned ones recycled"
    rated = (
        Stage(layer, count, select_rated, needs, positions, title) for layer, count in zip(layers, counts, strict=True)
    )
    return Schedule((clustered, *rated) if params["stage_1"] else tuple(rated))


PRUNER = Pruner(
    id="polymorphic",
    label="Polymorphic",
    family="text-guided",
    claim="Clusters what [CLS] neglects before the LLM; inside it, words of the question decide three times more.",
    paper=Paper(
        "Polymorphic: Plug-and-Play Visual Token Compression for Scalable VLMs",
        "Anonymous (under review)",
        2025,
        "https://openreview.net/forum?id=Px0UrEUcFQ",
    ),
    needs=(CLS_ATTENTION, RECEIVED_ATTENTION, LLM_INPUT, TEXT_FEATURES, TEXT_ROWS),
    does_without=(CLS_ATTENTION, RECEIVED_ATTENTION),
    params=(
        number(
            "factor",
            "Budget factor K",
            2.0,
            "Stage 1 keeps K times the budget, stage 2 brings the average down to it; 1 leaves stage 2 nothing to do.",
            minimum=1.0,
            maximum=4.0,
            step=0.5,
        ),
        switch(
            "stage_1",
            "Stage 1",
            True,
            "Off: all tokens enter the LLM and text alone decides, as in the paper's ablation without stage 1.",
        ),
        choice(
            "signal",
            "Stage 2 scores by",
            ("embed", "attn"),
            "embed: similarity of the hidden states of image and text, the paper's formula; attn: attention of the "
            "raters, as in SparseVLM.",
        ),
        choice(
            "raters",
            "Raters found",
            ("input", "layer"),
            "input: once, on what enters the LLM, as in SparseVLM; layer: at every stage anew, on the matrix that also "
            "scores, as Eq. 10 and 11 read literally.",
        ),
        whole(
            "neighbours",
            "Neighbours K_nn",
            5,
            "Nearest other tokens that make the density of one; 0 takes as many as clusters, itself included, as "
            "SparseVLM's code does.",
            minimum=0,
            maximum=64,
        ),
        choice(
            "order",
            "Place of clusters",
            ("raster", "append"),
            "raster: where their centre stood; append: behind all other visual tokens, as in SparseVLM's code.",
        ),
    ),
    schedule=schedule,
    merges=True,
)
