"""SparseVLM: words of the question rate the image inside the LLM; three times the low-rated go, the best merged."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor

from ..errors import BadInput
from ..types import (
    HEAD_ROWS,
    LLM_INPUT,
    ROTARY_SIMILARITY,
    TEXT_ROWS,
    Budget,
    Diagnostics,
    Params,
    PlanningInfo,
    Schedule,
    Selection,
    Signals,
    Stage,
    TokenMap,
)
from .clustering import KEPT_OR_RECYCLED, keep_and_recycle
from .ops import required
from .per_view import ranked
from .pruner import Paper, Pruner, budget_tokens, choice, fixed_count
from .raters import Raters, rated_attention, text_raters
from .schedules import bracket, carried_layers, layer_spans, weighted_average

# Layers of a 32-layer LLM before which tokens go: behind layers 2, 6, 15 (official ``pruning_loc``).
PUBLISHED_LAYERS = (3, 7, 16)
# The paper's N, and what its keep lists leave of it, recycled clusters included, by the budget that the table prints.
PUBLISHED_VISUAL = 576
PUBLISHED_COUNTS = {
    "v1": {64: (82, 32, 18), 96: (249, 55, 27), 128: (312, 117, 39), 192: (309, 204, 113)},
    "plus": {64: (66, 34, 20), 96: (246, 54, 28), 128: (238, 108, 60), 192: (300, 200, 118)},
}
PLUS_HEADS = 14  # of LLaVA-1.5-7B's 32


@fixed_count
def select(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """v1: top-k of the raters' mean attention in the layer before; the best 30% of the rest come back as clusters.

    ``keep`` counts selected tokens and clusters; clusters stand behind all selected tokens, most prominent first, as in
    the official code. Rows that are no patch are ranked like any other: the official rule takes the whole visual span.
    Shape: signals.attention_rows ``(M, N)``, input_features ``(N_0, D)``, input_text ``(M, D)`` -> kept ``(keep,)``.
    Source: SparseVLM sections 3.2-3.4; official ``score.py``, ``modelling_sparse_llama.py`` (main and v1.5). Differs:
    ranks in float32, ties to the lowest index where the official density has random noise, a ``keep >= N`` changes
    nothing (officially at least one token is always recycled).
    """
    raters = text_raters(signals, scaled=False)
    score = rated_attention(signals, raters, KEPT_OR_RECYCLED)
    found = keep_and_recycle(signals.features, score, keep, neighbours=0, append=True)
    return found.with_diagnostics(lambda own: _rated(own, raters, version="v1"))


@fixed_count
def select_plus(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """SparseVLM+: attention divided by what rotary positions alone would give, from the heads that look most; no merge.

    The heads are those with the largest sum of corrected attention over raters and visual tokens: 14, as in the code,
    where there are 28 or more, else 14 of every 32, at least 1.
    Shape: signals.head_rows ``(H, M, N)``, rotary_similarity ``(M, N)``, input_features, input_text -> ``(keep,)``.
    Source: SparseVLM+ sections 4.2-4.3; official ``USE_VERSION=2_0`` (gravity correction, priority heads), divisor and
    all: far from the text (1707 positions in LLaVA) rotary similarity passes through 0, where dividing by it says
    nothing. A warning tells when that happens.
    """
    raters = text_raters(signals, scaled=False)
    rows = required(signals.head_rows, "head_rows").float()
    similarity = required(signals.rotary_similarity, "rotary_similarity").float()
    chosen = raters.rows
    if len(chosen) == 0:
        chosen = torch.arange(rows.shape[1], device=rows.device)[-1:]
    corrected = rows[:, chosen] / similarity[chosen]
    count = priority_heads(len(rows))
    # Tokens without a score count as not looked at, or one of them would make every head's sum NaN.
    looked_at = corrected.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).sum((1, 2))
    heads = torch.sort(looked_at, descending=True, stable=True).indices[:count].sort().values
    attention, unit = corrected[heads].mean((0, 1)), "probability / rotary similarity"
    score = TokenMap("corrected_attention", "Attention of the raters, corrected for distance", attention, unit)

    def with_heads(own: Diagnostics) -> Diagnostics:
        label = "What distance alone gives (divided out)"
        near = "high is near to the text: its attention counts for less"
        correction = TokenMap("rotary_similarity", label, similarity[chosen].mean(0), direction=near)
        warnings = (*own.warnings, *_distance_warnings(similarity[chosen]))
        rated = _rated(own, raters, version="plus", heads=heads.tolist())
        return replace(rated, maps=(correction,), warnings=warnings)

    return ranked(score, keep).with_diagnostics(with_heads)


def _rated(own: Diagnostics, raters: Raters, version: str, **facts: Any) -> Diagnostics:
    rule = {"version": version, "raters": int(raters.chosen.sum()), "rater_rule": raters.rule}
    return replace(own, facts={**rule, **facts, **own.facts}, text=raters.text)


def _distance_warnings(similarity: Tensor) -> tuple[str, ...]:
    """The sentence for tokens so far from a rater that their correction is no longer positive. Shape: ``(R, N)``."""
    far = int((similarity <= 0).any(0).sum())
    if far == 0:
        return ()
    return (
        f"{far} of {similarity.shape[1]} visual tokens lie so far from the text that their rotary similarity is not "
        "positive: dividing by it, as SparseVLM+ does, says nothing about them.",
    )


def priority_heads(n_heads: int) -> int:
    """How many heads SparseVLM+ listens to: 14 of 28 or more, else 14 of every 32 (rounded half up), at least 1."""
    return PLUS_HEADS if n_heads >= 2 * PLUS_HEADS else max(1, (2 * PLUS_HEADS * n_heads + 32) // 64)


def shares_for(version: str, share: float) -> list[float]:
    """What the three stages leave, as shares of N, for a budget that is ``share`` of N: the published tables as curves.

    Straight lines between the published budgets, from nothing at 0 to everything at 1.
    """
    budgets = [0.0, *(budget / PUBLISHED_VISUAL for budget in PUBLISHED_COUNTS[version]), 1.0]
    printed = [[count / PUBLISHED_VISUAL for count in counts] for counts in PUBLISHED_COUNTS[version].values()]
    left = [[0.0] * 3, *printed, [1.0] * 3]
    for (low, high), (below, above) in zip(pairwise(budgets), pairwise(left), strict=True):
        if share <= high:
            way = (share - low) / (high - low)
            return [b + way * (a - b) for b, a in zip(below, above, strict=True)]
    return [1.0, 1.0, 1.0]


def _at_least_one(version: str, share: float, n: int, stages: int) -> list[float]:
    return [max(1.0, n * part) for part in shares_for(version, share)[3 - stages :]]


def _whole_counts(version: str, share: float, n: int, stages: int) -> list[int]:
    return [math.floor(count + 0.5) for count in _at_least_one(version, share, n, stages)]


def _counts_with_average(version: str, tokens: int, n: int, weights: list[int], where: str = "") -> list[int]:
    """Counts on the published curve whose average, weighted by layers, is ``tokens``. Raises BadInput below 1 token."""
    stages = len(weights) - 1
    least = math.ceil(weighted_average([n] + [1] * stages, weights))
    if tokens < least:
        if where:  # counted on the paper's layers, whose smallest printed budget and all above it are looked up
            least = min(least, math.ceil(min(PUBLISHED_COUNTS[version]) * n / PUBLISHED_VISUAL))
        raise BadInput(
            f"SparseVLM cannot reach an average of {tokens}: the layers before its first stage process all {n}"
            f"{where}. Ask for at least {least}, or count the budget as final."
        )
    share, _ = bracket(lambda s: weighted_average([n, *_at_least_one(version, s, n, stages)], weights), tokens)
    counts = _whole_counts(version, share, n, stages)
    # The last stage takes what keeps the average, rounding of the others included.
    left = sum(weights) * tokens - sum(c * w for c, w in zip([n, *counts[:-1]], weights[:-1], strict=True))
    last = (2 * left + weights[-1]) // (2 * weights[-1])
    return [*counts[:-1], max(1, min([last, n, *counts[:-1]]))]


def plan_counts(version: str, budget: Budget, info: PlanningInfo) -> tuple[list[int], list[int]]:
    """Before which layers tokens go, and how many each stage leaves, recycled clusters included.

    The published lists as curves over B/N (``shares_for``), so that another N gets the same shares.
    ``published``: B is what the paper's table prints, which is what the official logger bills on 32 layers (A_log,
    ``methods.md`` 0.2); printed budgets give the printed lists (192: 309, 204, 113 in v1) whatever the depth, as the
    official code does on 13B's 40 layers, and below the smallest one the curve is searched for A_log = B.
    ``average``: searched for A_in = B at the model's own depth. ``final``: searched for B after the last stage. Raises
    BadInput when the layers before the first stage alone exceed the budget.
    """
    tokens, n = budget_tokens(budget), info.n_visual
    layers = carried_layers(PUBLISHED_LAYERS, info.n_layers)
    if tokens >= n or not layers:
        return layers, [n] * len(layers)
    if budget.counted_as == "final":
        share, _ = bracket(lambda s: n * shares_for(version, s)[-1], tokens)
        counts = _whole_counts(version, share, n, len(layers))
        return layers, [*(max(tokens, count) for count in counts[:-1]), tokens]
    if budget.counted_as == "average":
        return layers, _counts_with_average(version, tokens, n, layer_spans(layers, info.n_layers))
    if tokens * PUBLISHED_VISUAL >= min(PUBLISHED_COUNTS[version]) * n:
        return layers, _whole_counts(version, tokens / n, n, len(layers))
    before, *between, behind = layer_spans(list(PUBLISHED_LAYERS), 32)
    billed = [before - 1, *between, behind + 1]  # the logger bills a stage's last layer with what it leaves
    return layers, _counts_with_average(version, tokens, n, billed, " on the paper's 32")[3 - len(layers) :]


def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """Three stages inside the LLM, before layers 3, 7, 16 of 32; counts: see ``plan_counts``.

    v1 closes the gap in the positions (reindex), SparseVLM+ keeps them. A model of fewer than 4 layers has room for the
    last stages only. Raises BadInput when the average cannot be met.
    """
    version, rated = str(params["version"]), "Rated by text"
    stages = zip(*plan_counts(version, budget, info), strict=True)
    if version == "plus":
        signals = (LLM_INPUT, HEAD_ROWS, ROTARY_SIMILARITY)
        return Schedule(tuple(Stage(layer, count, select_plus, signals, "keep", rated) for layer, count in stages))
    needs, title = (LLM_INPUT, TEXT_ROWS), f"{rated}, pruned ones recycled"
    return Schedule(tuple(Stage(layer, count, select, needs, "reindex", title) for layer, count in stages))


PRUNER = Pruner(
    id="sparsevlm",
    label="SparseVLM",
    family="text-guided",
    claim="Words close to the image rate its tokens at three depths; the best of the pruned return as clusters.",
    paper=Paper(
        "SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference",
        "Zhang et al.",
        2024,
        "https://arxiv.org/abs/2410.04417",
    ),
    needs=(LLM_INPUT, TEXT_ROWS, HEAD_ROWS, ROTARY_SIMILARITY),
    params=(
        choice(
            "version",
            "Version",
            ("v1", "plus"),
            "v1 merges the best pruned tokens and renumbers positions; plus (SparseVLM+) keeps positions, corrects "
            "attention for distance, uses the heads that look most, and merges nothing.",
        ),
    ),
    schedule=schedule,
    merges=True,
)
