"""V2Drop: keep the visual tokens that the last layer still changed; drop the lazy ones, three times."""

from __future__ import annotations

import math
from itertools import accumulate

import torch
from torch import Generator

from ..errors import BadInput
from ..names import Params
from ..records import TokenMap
from ..types import PREVIOUS_FEATURES, Budget, PlanningInfo, Schedule, Selection, Signals, Stage, tokens_per_layer
from .ops import required, row_blocks
from .per_view import ranked
from .pruner import Paper, Pruner, budget_tokens, choice, fixed_count
from .schedules import bracket, carried_layers, reference_depth

PUBLISHED_LAYERS = {28: (3, 16, 22), 32: (3, 17, 22), 40: (3, 17, 22)}
"""Before which layers tokens go. 40: what the code does, whose layers are fixed; no result was published there."""

PAPER_RATIOS = {192: (0.5, 0.3), 128: (0.28, 0.25), 64: (0.05, 0.05)}
"""What stages 1 and 2 keep of what they are given, by budget of 576 tokens; the third keeps nothing."""


@fixed_count
def select(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """The ``keep`` tokens whose hidden state changed most in the layer before: largest ``||h_p - h_(p-1)||_2``.

    ``h_p`` is what enters layer p, the stage's, and ``h_(p-1)`` what entered the layer before. Rows that are no patch
    are ranked like any other.
    Shape: signals.features, previous_features ``(N, D)`` -> kept ``(keep,)``.
    Source: V2Drop, official ``llava/model/language_model/V2Drop.py``.
    """
    before = required(signals.previous_features, "previous_features")
    variation = torch.empty(len(before), device=before.device)
    for rows in row_blocks(before):
        change = signals.features[rows].float() - before[rows].float()
        variation[rows] = torch.linalg.vector_norm(change, dim=1)
    return ranked(TokenMap("variation", "Change in the layer before", variation, unit="L2 norm"), keep)


def published_layers(n_layers: int) -> list[int]:
    """The layers before which tokens go: 3, 17, 22, for 28 layers (Qwen2-VL) 3, 16, 22; else in proportion to 32."""
    return carried_layers(PUBLISHED_LAYERS, n_layers)


def counts_of(n: int, ratios: tuple[float, float], last: int) -> list[int]:
    """Tokens after each stage when each keeps ``int(ratio * what it is given)``, at least 1, and the last ``last``."""
    kept = accumulate(ratios, lambda left, ratio: max(1, int(left * ratio)), initial=n)
    return [*list(kept)[1:], last]


def solve_average(n: int, tokens: int, last: int, n_layers: int) -> list[int]:
    """Counts of one ratio in stages 1 and 2 whose A_in on ``n_layers`` is nearest to ``tokens``.

    Raises BadInput for an average that even the ratios 0 and 1 do not reach.
    """

    def counts(ratio: float) -> list[int]:
        return counts_of(n, (ratio, ratio), last)

    def average(ratio: float) -> float:
        drops = list(zip(published_layers(n_layers), counts(ratio), strict=False))
        return sum(tokens_per_layer(n, n_layers, drops)) / n_layers

    least, most = average(0.0), average(1.0)
    if not least - 0.5 <= tokens <= most + 0.5:
        raise BadInput(
            f"V2Drop cannot reach an average of {tokens}: its first and last stages allow {math.ceil(least - 0.5)} "
            f"to {math.floor(most + 0.5)} of {n}. Ask for one of those, or count the budget as final."
        )
    return counts(min(bracket(average, tokens), key=lambda ratio: abs(average(ratio) - tokens)))


def plan_counts(budget: Budget, info: PlanningInfo, params: Params) -> list[int]:
    """Tokens after each of the three stages; see ``schedule``."""
    tokens, n, official = budget_tokens(budget), info.n_visual, params["mode"] == "official"
    if tokens >= n or info.n_layers < 2:
        return [n, n, n]
    if budget.counted_as == "final":
        return [*(round(n * (tokens / n) ** (stage / 3)) for stage in (1, 2)), tokens]
    last = 1 if official else 0
    if budget.counted_as == "average":
        return solve_average(n, tokens, last, info.n_layers)
    if official:
        return counts_of(n, (0.25, 0.05) if info.n_layers == 28 else (0.5, 0.5), last)
    for of_576, ratios in PAPER_RATIOS.items():
        if of_576 * n == tokens * 576:
            return counts_of(n, ratios, last)
    return solve_average(n, tokens, last, reference_depth(info.n_layers))


def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """Three stages before layers 3, 17 and 22 (Qwen2-VL: 3, 16, 22; other depths in proportion); positions stay.

    ``published``: the paper's ratios for 192, 128 and 64 of 576, or the same share; for other budgets one ratio for
    stages 1 and 2 whose A_in comes nearest to B, on 32 layers unless the model's depth was published on. In mode
    official the released ratios 0.5, 0.5, 0 (Qwen2-VL: 0.25, 0.05, 0) with at least one survivor, whatever the budget.
    ``average``: one ratio, solved for this model's depth. ``final``: B survive, at equal ratios; no paper does so.
    A budget of N or more drops nothing, nor does a model of one layer. Raises BadInput when a budget cannot be met.
    """
    layers, counts = published_layers(info.n_layers), plan_counts(budget, info, params)
    counts = counts[len(counts) - len(layers) :]  # too shallow for three stages: the last ones decide what is left
    return Schedule(
        tuple(
            Stage(layer, keep, select, (PREVIOUS_FEATURES,), "keep", title=f"Stage {number}: largest variation")
            for number, (layer, keep) in enumerate(zip(layers, counts, strict=True), 1)
        )
    )


PRUNER = Pruner(
    id="v2drop",
    label="V2Drop",
    family="progressive",
    claim="Three times drops the tokens whose hidden state the layer before changed least; needs no attention.",
    paper=Paper(
        "Variation-aware Vision Token Dropping for Faster Large Vision-Language Models",
        "Chen et al.",
        2025,
        "https://arxiv.org/abs/2509.01552",
    ),
    needs=(PREVIOUS_FEATURES,),
    params=(
        choice(
            "mode",
            "Mode",
            ("paper", "official"),
            "paper: ratios by budget, and no token is left in the end. official: the released ratios 0.5, 0.5, 0 "
            "whatever the budget, and one token is left.",
        ),
    ),
    schedule=schedule,
)
