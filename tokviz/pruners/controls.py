"""Controls: no pruning, random tokens, evenly spaced tokens. What a method has to beat."""

from __future__ import annotations

from torch import Generator

from ..types import Budget, Params, PlanningInfo, Schedule, Selection, Signals, Stage
from .base import Pruner, budget_tokens
from .ops import evenly_spaced, fixed_count
from .sampling import random_rows


def _no_stages(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """No stage at all; the budget is checked and otherwise ignored. Raises BadInput for a budget below 1."""
    budget_tokens(budget)
    return Schedule(())


@fixed_count
def select_random(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """``keep`` different rows with equal chance, drawn from ``generator``; rows that are no patch count like any other.

    Shape: kept ``(keep,)``.
    """
    features = signals.features
    return Selection(kept=random_rows(len(features), keep, generator, features.device).sort().values)


@fixed_count
def select_uniform(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """The middle of each of ``keep`` equal slices of the raster sequence.

    Even along the sequence, not over the plane: a budget that divides the number of rows well gives a lattice, others
    give points that drift from row to row (slanted lines), and few points can share a column. Every count is met
    exactly, which no plane lattice could do. Rows that are no patch count like any other. Shape: kept ``(keep,)``.
    """
    return Selection(kept=evenly_spaced(len(signals.features), keep, signals.features.device))


def _random_schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """One stage before the LLM, so that the three meanings of the budget coincide. Raises BadInput below 1 token."""
    return Schedule((Stage("projector", budget_tokens(budget), select_random, title="Random tokens"),))


def _uniform_schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """One stage before the LLM, so that the three meanings of the budget coincide. Raises BadInput below 1 token."""
    return Schedule((Stage("projector", budget_tokens(budget), select_uniform, title="Evenly spaced tokens"),))


FULL = Pruner(
    id="full",
    label="No pruning",
    family="control",
    claim="Every visual token reaches every block: the answer that pruning is measured against.",
    paper=None,
    needs=(),
    params=(),
    schedule=_no_stages,
)

RANDOM = Pruner(
    id="random",
    label="Random",
    family="control",
    claim="Keeps tokens by lot (seeded): a method that does not beat this selects nothing.",
    paper=None,
    needs=(),
    params=(),
    schedule=_random_schedule,
)

UNIFORM = Pruner(
    id="uniform",
    label="Uniform",
    family="control",
    claim="Keeps evenly spaced tokens: what a coarser picture would give.",
    paper=None,
    needs=(),
    params=(),
    schedule=_uniform_schedule,
)
