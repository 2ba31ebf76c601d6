"""FastV: after the first K layers keep the visual tokens to which the last prompt token attends most."""

from __future__ import annotations

from dataclasses import replace

from torch import Generator

from ..errors import BadInput
from ..types import LAST_ROW, Budget, Chart, Diagnostics, Params, PlanningInfo, Schedule, Selection, Signals, Stage
from .per_view import last_row, ranked
from .pruner import Paper, Pruner, budget_tokens, fixed_count, whole
from .schedules import survivors_for_average


@fixed_count
def select(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """Top-k of the last prompt token's attention row in layer K-1, mean over heads; dropped once, at prefill.

    Rows that are no patch are ranked like any other: the official rule takes the whole visual span.
    Shape: signals.attention_rows ``(1, N)`` -> kept ``(keep,)``.
    Source: FastV; official variant that drops once and keeps a KV cache (``methods.md`` 5, variant c). Differs: the
    visual span is exact (official scripts are one token off), ranks in float32, ties to the lowest index.
    """
    score = last_row(signals)
    selection = ranked(score, keep)

    def with_chart(found: Diagnostics) -> Diagnostics:
        places = list(range(len(score.values)))
        chart = Chart(
            "attention_over_position",
            "Attention over the place in the sequence; marked tokens stay",
            "scatter",
            x=places,
            y=score.values.tolist(),
            x_label="place in the sequence of visual tokens",
            y_label="attention",
            tokens=places,
            marked=selection.kept.tolist(),
        )
        return replace(found, charts=(chart,))

    return selection.with_diagnostics(with_chart)


def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """One stage before layer K; tokens keep their positions.

    ``final``: R = B tokens survive. ``average``: all layers together process B on average, so
    R = (L B - N K) / (L - K), rounded to the nearest integer. ``published``: R = B. FastV's own scripts set R itself
    (ATTENTION_RANK); what the 192/128/64 rows of later tables mean is printed nowhere: the collapse at 64 fits
    ``average`` (R = 30 for N = 576, L = 32, K = 2), llmc's configuration uses ``final``. ``final`` was chosen, because
    ``average`` has no solution for small budgets on shallow models (8 layers, K = 2: nothing below a quarter of N).

    Raises BadInput when K is not a layer of this model, or when the average cannot be met.
    """
    tokens, k = budget_tokens(budget), int(params["layer"])
    if info.n_layers < 2:
        raise BadInput(
            "FastV reads the attention of one layer and prunes before the next; this model has a single one."
        )
    if not 0 < k < info.n_layers:
        raise BadInput(
            f"FastV's layer must lie between 1 and {info.n_layers - 1} for a model of {info.n_layers} layers, not {k}."
        )
    if budget.counted_as == "average":
        tokens = survivors_for_average("FastV", tokens, info, k)
    return Schedule((Stage(k, tokens, select, needs=(LAST_ROW,), positions="keep", title="Highest attention"),))


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
            2,
            "The first K layers see every token; the attention of layer K-1 decides. Paper: 2.",
            minimum=1,
            maximum=63,
        ),
    ),
    schedule=schedule,
)
