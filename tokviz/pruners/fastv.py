"""FastV: after the first K layers keep the visual tokens to which the last prompt token attends most."""

from __future__ import annotations

from dataclasses import replace

from torch import Generator, Tensor

from ..types import LAST_ROW, Chart, Params, PlanningInfo, Selection, Signals, TokenMap
from .per_view import last_row, ranked
from .pruner import Paper, Pruner, fixed_count, single_stage, whole
from .schedules import layer_asked

PUBLISHED_LAYER = 2


@fixed_count
def select(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """Top-k of the last prompt token's attention row in layer K-1, mean over heads; dropped once, at prefill.

    Rows that are no patch are ranked like any other: the official rule takes the whole visual span.
    Shape: signals.attention_rows ``(1, N)`` -> kept ``(keep,)``.
    Source: FastV; official variant that drops once and keeps a KV cache (``methods.md`` 5, variant c).
    """
    score = last_row(signals)
    selection = ranked(score, keep)
    return selection.with_diagnostics(lambda found: replace(found, charts=(_chart(score, selection.kept),)))


def _chart(score: TokenMap, kept: Tensor) -> Chart:
    places, label = list(range(len(score.values))), "Attention over the place in the sequence; marked tokens stay"
    return Chart(
        "attention_over_position",
        label,
        "scatter",
        y=score.values.tolist(),
        x=places,
        x_label="place in the sequence of visual tokens",
        y_label="attention",
        tokens=places,
        marked=kept.tolist(),
    )


def layer(info: PlanningInfo, params: Params) -> int:
    """K, the first layer that sees fewer tokens. Raises BadInput when it is not a layer of this model, or the first.

    Layer 0 has no layer before it that could attend, so that 0 stands for the published 2, in proportion to 32 layers.
    """
    return layer_asked("FastV", "attention", params["layer"], PUBLISHED_LAYER, info)


PRUNER = Pruner(
    id="fastv",
    label="FastV",
    family="attention-ranked",
    claim="After layer K keeps the tokens that the last prompt token attends to; leans towards late positions.",
    paper=Paper(
        "An Image is Worth 1/2 Tokens After Layer 2: "
        "Plug-and-Play Inference Acceleration for Large Vision-Language Models",
        "Chen et al.",
        2024,
        "https://arxiv.org/abs/2403.06764",
    ),
    needs=(LAST_ROW,),
    params=(
        whole(
            "layer",
            "Layer K",
            0,
            "The first K layers see every token; the attention of layer K-1 decides. 0: as published, 2 of 28, 32 or "
            "40, else in proportion to 32.",
            minimum=0,
            maximum=63,
        ),
    ),
    schedule=single_stage(select, layer, needs=(LAST_ROW,), title="Highest attention", label="FastV"),
)
