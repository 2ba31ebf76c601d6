"""VTW: by mid-depth the text has absorbed the image, so every visual token is withdrawn before layer K."""

from __future__ import annotations

import torch
from torch import Generator

from ..errors import BadInput
from ..types import Budget, Params, PlanningInfo, PublishedModel, Schedule, Selection, Signals, Stage
from .pruner import Paper, Pruner, budget_tokens, whole
from .schedules import carried_layers

PUBLISHED_LAYERS = {32: (15,), 40: (20,)}  # the released default, and that of its chat
VIDEO_LLAVA_LAYERS = {32: (16,)}


def select_nothing(signals: Signals, keep: int | None, params: Params, generator: Generator) -> Selection:
    """Nothing to choose: no token stays, whatever ``keep`` says; rows that are no patch go like all others.

    Shape: kept ``(0,)``. Source: VTW, official ``llava/model/language_model/VTW.py``.
    """
    return Selection(kept=torch.empty(0, dtype=torch.int64, device=signals.features.device))


def published_layer(n_layers: int, published_as: PublishedModel | None = "llava") -> int | None:
    """K of the released code, in proportion to 32 at depths that it says nothing about.

    None for a model of one layer, which has no layer that could do without.
    """
    layers = carried_layers(VIDEO_LLAVA_LAYERS if published_as == "video_llava" else PUBLISHED_LAYERS, n_layers)
    return layers[0] if layers else None


def withdrawal_layer(budget: Budget, info: PlanningInfo, params: Params) -> int | None:
    """K, the first layer without visual tokens, or None when all layers keep them; see ``schedule``."""
    tokens, layer = budget_tokens(budget), params["layer"]
    if layer:
        return layer if layer < info.n_layers else None  # as officially: a K behind the last layer is no pruning
    if tokens >= info.n_visual:
        return None
    if budget.counted_as == "final":
        raise BadInput(
            "VTW leaves no visual token at the end, so that a final count cannot be asked for. "
            "Count the budget as published or average, or give VTW a layer."
        )
    if budget.counted_as == "published":
        return published_layer(info.n_layers, info.published_as)
    nearest = (2 * info.n_layers * tokens + info.n_visual) // (2 * info.n_visual)
    return max(1, nearest) if nearest < info.n_layers else None


def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """One stage that keeps nothing, before layer K; the text keeps its positions.

    The layers process N K / L tokens on average. ``published``: the published K whatever the budget (one of N or more
    drops nothing). ``average``: the K whose average is nearest to B, K = round(L B / N), at least 1. ``final``:
    impossible. The parameter ``layer`` sets K and overrules all three.
    Raises BadInput for ``final`` without a layer, and for a budget below 1 token.
    """
    layer = withdrawal_layer(budget, info, params)
    if layer is None:
        return Schedule(())
    return Schedule((Stage(layer, 0, select_nothing, positions="keep", title="Withdrawal of all visual tokens"),))


PRUNER = Pruner(
    id="vtw",
    label="VTW",
    family="progressive",
    claim="Withdraws every visual token before layer K, once the text is thought to have absorbed the image.",
    paper=Paper(
        "Boosting Multimodal Large Language Models with Visual Tokens Withdrawal for Rapid Inference",
        "Lin et al.",
        2024,
        "https://arxiv.org/abs/2405.05803",
    ),
    params=(
        whole(
            "layer",
            "Layer K",
            0,
            "The first layer without visual tokens. 0: as published (15 of 32, 20 of 40, 16 on Video-LLaVA, else in "
            "proportion). `python -m tokviz calibrate` searches it for a model.",
            minimum=0,
            maximum=127,
        ),
    ),
    schedule=schedule,
)
