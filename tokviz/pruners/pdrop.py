"""PDrop (PyramidDrop): after each stage of layers keep a fixed share of the tokens that the last prompt token reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Generator

from ..errors import BadInput
from ..types import (
    LAST_ROW_OF_NEXT_LAYER,
    Budget,
    Diagnostics,
    Params,
    PlanningInfo,
    Reading,
    Schedule,
    Selection,
    Signals,
    Stage,
)
from .per_view import last_row, ranked
from .pruner import Paper, Param, Pruner, budget_tokens, choice, fixed_count, number
from .schedules import (
    carried_layers,
    geometric_ratio,
    layer_spans,
    least_budget,
    reference_depth,
    staircase,
    weighted_average,
)

PUBLISHED_RATIOS = (0.5, 0.25, 0.125)
LAYER_LISTS = {"8-16-24": (8, 16, 24), "4-8-16": (4, 8, 16), "2-6-15": (2, 6, 15)}
"""Published first; the others are for budgets that it cannot meet, in the order in which they are tried."""


@fixed_count
def select(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """Top-k of the last prompt token's attention row in the layer that is about to run, mean over heads.

    The row is computed from the input of that layer, so that no layer has to return attention. Rows that are no patch
    (newlines) are ranked like any other, as in the official code.
    Shape: signals.attention_rows ``(1, N)`` -> kept ``(keep,)``.
    Source: PyramidDrop, official ``llava/model/modeling_llama_pdrop.py``. Differs: ranks in float32 (the code casts
    back to the model's dtype first), ties to the lowest index.
    """
    score, label = last_row(signals), "Attention of the last prompt token on all visual tokens"

    def with_reading(own: Diagnostics) -> Diagnostics:
        reading = Reading("visual_attention", label, float(score.values.sum()), unit="probability")
        return replace(own, readings=(reading,))

    return ranked(score, keep).with_diagnostics(with_reading)


def counts_of(n: int, ratios: Sequence[float]) -> list[int]:
    """Tokens after each stage: ``int(N ratio)`` of the ORIGINAL N, never more than the stage before left."""
    counts: list[int] = []
    for ratio in ratios:
        counts.append(min([int(n * ratio + 1e-9), *counts]))
    return counts


def solve_ratio(n: int, tokens: int, published: tuple[int, ...], n_layers: int) -> float | None:
    """The ratio r with counts N r, N r^2, N r^3 and A_in = ``tokens``; None when fewer than one token would be left.

    Shape: published, a list of ``LAYER_LISTS``.
    """
    layers = carried_layers(published, n_layers)
    if len(layers) < len(published):
        return None
    ratio = geometric_ratio(n, tokens, layer_spans(layers, n_layers))
    return ratio if n * ratio**3 >= 1.0 else None


def _nearest_counts(n: int, tokens: int, ratio: float, spans: list[int]) -> list[int]:
    """Integer counts near N r^k whose A_in is nearest to ``tokens``: each rounded, the last stage makes up for it."""
    first, second = (max(1, round(n * ratio**stage)) for stage in (1, 2))
    spent = weighted_average([n, first, second, 0], spans) * sum(spans)
    return [first, second, min(max(1, round((tokens * sum(spans) - spent) / spans[3])), second)]


def _solved(budget: Budget, info: PlanningInfo, params: Params) -> tuple[tuple[int, ...], list[int]]:
    """Layer list and counts for a budget below N. Raises BadInput when no list can meet it."""
    tokens, n = budget_tokens(budget), info.n_visual
    chosen = params["layers"]
    lists = list(LAYER_LISTS.values()) if chosen == "auto" else [LAYER_LISTS[chosen]]
    if budget.counted_as == "final":
        first, second, _ = counts_of(n, staircase(1, (tokens / n) ** (1 / 3), 3)[1:])
        return lists[0], [max(first, tokens), max(second, tokens), tokens]
    average = budget.counted_as == "average"
    depth = info.n_layers if average else reference_depth(info.n_layers)
    for published in lists:
        ratio = solve_ratio(n, tokens, published, depth)
        if ratio is not None:
            spans = layer_spans(carried_layers(published, depth), depth)
            falling = counts_of(n, staircase(1, ratio, 3)[1:])
            return published, _nearest_counts(n, tokens, ratio, spans) if average else falling
    least = least_budget(lambda more: solve_ratio(n, more, lists[-1], depth) is not None, tokens, n)
    raise BadInput(
        f"PDrop cannot reach an average of {tokens}: its first layers process all {n}. Ask for at least {least}, "
        "count the budget as final, or choose its published ratios."
    )


def plan(budget: Budget, info: PlanningInfo, params: Params) -> tuple[tuple[int, ...], list[int]]:
    """Which published list of layers, and how many tokens are left after each. See ``schedule``."""
    tokens, n = budget_tokens(budget), info.n_visual
    if params["ratios"] != "solved":
        own = [float(params[f"ratio_{stage}"]) for stage in (1, 2, 3)]
        layers = LAYER_LISTS["8-16-24" if params["layers"] == "auto" else params["layers"]]
        return layers, counts_of(n, own if params["ratios"] == "own" else PUBLISHED_RATIOS)
    if tokens >= n or info.n_layers < 2:
        return LAYER_LISTS["8-16-24"], [n, n, n]
    return _solved(budget, info, params)


def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """Three stages, by default before layers 8, 16 and 24 of 32; what is left is renumbered without gaps.

    The paper's own setting keeps 1/2, 1/4 and 1/8 of N (parameter ``ratios`` = published: 288, 144, 72 of 576, A_in
    270), whatever the budget. The settings behind the 192/128/64 columns of later tables were never published, so
    ``published`` solves them: one ratio r with counts int(N r), int(N r^2), int(N r^3) and A_in = B, on layers 8/16/24
    if at least one token is left then, else on 4/8/16, else on 2/6/15 (192: 145, 36, 9; 128: 203, 71, 25; 64: 129,
    29, 6). It is solved for 32 layers unless the model's depth was published on, so that a budget means the same share
    everywhere. ``average`` solves it for this model's own depth, to the nearest counts. ``final``: N r^3 = B survive.
    A budget of N or more drops nothing, and neither does a model of one layer.
    Raises BadInput when no layer list can meet the budget.
    """
    published, counts = plan(budget, info, params)
    layers = carried_layers(published, info.n_layers)
    counts = counts[len(counts) - len(layers) :]  # too shallow for three stages: the last ones decide what is left
    return Schedule(
        tuple(
            Stage(layer, keep, select, (LAST_ROW_OF_NEXT_LAYER,), title=f"Stage {number}: highest attention")
            for number, (layer, keep) in enumerate(zip(layers, counts, strict=True), 1)
        )
    )


def _own_ratio(stage: int, default: float) -> Param:
    help = f"Share of all N tokens after stage {stage}; used when the ratios are your own."
    return number(f"ratio_{stage}", f"Own ratio {stage}", default, help, step=0.005)


PRUNER = Pruner(
    id="pdrop",
    label="PDrop",
    family="progressive",
    claim="Thins the visual tokens out in three steps, by the attention of the last prompt token at each depth.",
    paper=Paper(
        "PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy Reduction",
        "Xing et al.",
        2024,
        "https://arxiv.org/abs/2410.17247",
    ),
    needs=(LAST_ROW_OF_NEXT_LAYER,),
    params=(
        choice(
            "ratios",
            "Ratios",
            ("solved", "published", "own"),
            "solved: one ratio that meets the budget. published: 1/2, 1/4, 1/8 of all tokens, whatever the budget. "
            "own: the three below.",
        ),
        choice(
            "layers",
            "Layers",
            ("auto", *LAYER_LISTS),
            "Before which layers (of 32) tokens go. auto: 8-16-24 as published, earlier ones for small budgets.",
        ),
        _own_ratio(1, 0.5),
        _own_ratio(2, 0.25),
        _own_ratio(3, 0.125),
    ),
    schedule=schedule,
)
