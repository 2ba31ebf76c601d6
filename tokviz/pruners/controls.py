"""Controls: no pruning, random tokens before the LLM or inside it, evenly spaced tokens. What a method has to beat."""

from __future__ import annotations

import torch
from torch import Generator

from ..types import Budget, Params, PlanningInfo, Schedule, Selection, Signals
from .ops import evenly_spaced
from .pruner import Pruner, budget_tokens, choice, fixed_count, single_stage, whole
from .sampling import random_rows


def _no_stages(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """No stage at all; the budget is checked and otherwise ignored. Raises BadInput for a budget below 1."""
    budget_tokens(budget)
    return Schedule(())


@fixed_count
def select_random(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """Draw ``keep`` different rows with equal chance; rows that are no patch count like any other.

    Shape: kept ``(keep,)``.
    """
    features = signals.features
    return Selection(kept=random_rows(len(features), keep, generator, features.device).sort().values)


def random_layer(info: PlanningInfo, params: Params) -> int:
    """The first layer that sees fewer tokens: the one asked for, or half of the model's depth."""
    layer: int = params["layer"]
    return layer or info.n_layers // 2


@fixed_count
def select_uniform(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """Keep the middle of each of ``keep`` equal slices of the raster sequence, or one place in all of them, drawn once.

    Even along the sequence, not over the plane. Rows that are no patch count like any other. Shape: kept ``(keep,)``.
    """
    n, device = len(signals.features), signals.features.device
    if params["phase"] == "middle":
        return Selection(kept=evenly_spaced(n, keep, device))
    drawn = int(torch.randint(2 * n, (1,), generator=generator, device=generator.device))
    return Selection(kept=(torch.arange(keep, device=device) * 2 * n + drawn) // (2 * keep))


FULL = Pruner(
    id="full",
    label="No pruning",
    family="control",
    claim="Every visual token reaches every layer: the answer that pruning is measured against.",
    schedule=_no_stages,
)

RANDOM = Pruner(
    id="random",
    label="Random",
    family="control",
    claim="Keeps random tokens (seeded): a method that does not beat this selects nothing.",
    schedule=single_stage(select_random, title="Random tokens"),
)

UNIFORM = Pruner(
    id="uniform",
    label="Uniform",
    family="control",
    claim="Keeps evenly spaced tokens: what a coarser image would give.",
    params=(
        choice(
            "phase",
            "Phase",
            ("middle", "drawn"),
            "Where in each of the equal slices the kept token lies. middle: in its middle. drawn: at one place in all "
            "of them, drawn with the seed, so that several seeds show how much the place matters.",
        ),
    ),
    schedule=single_stage(select_uniform, title="Evenly spaced tokens"),
)

RANDOM_AT = Pruner(
    id="random_at",
    label="Random from a layer on",
    family="control",
    claim="Keeps random tokens (seeded) from one LLM layer on: what a method that prunes there has to beat.",
    params=(
        whole(
            "layer",
            "Layer",
            0,
            "The first layer that sees fewer tokens; all before it see every one. 0: half of the model's layers.",
            minimum=0,
            maximum=127,
        ),
    ),
    schedule=single_stage(select_random, random_layer, title="Random tokens", label="Random from a layer on"),
)
