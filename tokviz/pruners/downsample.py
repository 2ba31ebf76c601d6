"""Downsampling: the image itself is given to the model smaller. What a method that keeps as many tokens has to beat."""

from __future__ import annotations

from ..types import Budget, Params, PlanningInfo, Schedule
from .pruner import Pruner, budget_tokens
from .serving_flags import smaller_image


def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """No stage, but another encoding of the image, of at most the budget; every layer sees its tokens and no others.

    All meanings of a budget coincide. Raises BadInput for a budget below 1 token.
    """
    tokens = budget_tokens(budget)
    return Schedule(()) if tokens >= info.n_visual else Schedule((), smaller=tokens)


PRUNER = Pruner(
    id="downsample",
    label="Downsampling",
    family="control",
    claim="Gives the model a smaller image of as many tokens: no selection at all, and the tower gets cheaper too.",
    encodes_anew=True,
    schedule=schedule,
    deployed=lambda served, params: smaller_image(served),
)
