"""Two methods on top of each other: one before the LLM, one inside it, as serving stacks and UniPruneBench run them."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Literal

from torch import Generator

from ..errors import BadInput, Unsupported
from ..types import Budget, Params, PlanningInfo, Schedule, SelectFunction, Selection, Signals, Stage
from .pruner import Pruner, budget_tokens, number

JOIN = "+"
"""Between the ids of two methods in the id of their stack: ``divprune+fastv``."""
LABEL = "{first} + {second}"
CLAIM = "{first} before the LLM, then {second} on what is left, inside it."
PARAM, PARAM_LABEL = "{place}_{name}", "{method}: {label}"
"""What a stack makes of the labels and the parameters of its two methods; place: ``first`` or ``second``. The page's
menu makes them of the same words."""


def parts(id: object) -> tuple[str, str] | None:
    """The ids of the two methods in the id of a stack; None for anything else."""
    first, join, second = id.partition(JOIN) if isinstance(id, str) else ("", "", "")
    return (first.strip(), second.strip()) if join and JOIN not in second else None


SHARE = number(
    "share",
    "Split of the budget",
    2.0,
    "The first method leaves this many times the budget, the second brings that down to the budget.",
    minimum=1.0,
    maximum=8.0,
    step=0.25,
)
"""The parameter that a stack has beside those of its two methods."""

_TYPICAL = PlanningInfo(2880, 32, n_views=5, n_vision_layers=23, has_text_tower=True)


@cache
def place_in_stack(pruner: Pruner) -> Literal["first", "second"] | None:
    """Where the method stands in a stack with its default parameters, on a model that serves it; None: nowhere."""
    info = replace(_TYPICAL, has_tiles=pruner.needs_tiles)
    try:
        stages = pruner.schedule(Budget(1500), info, pruner.complete({})).stages
    except BadInput:
        return None
    inside = {isinstance(stage.site, int) for stage in stages}
    if len(inside) != 1:
        return None
    if inside == {True}:
        return "second"
    return None if any(stage.keep is None for stage in stages) else "first"


@cache
def stack(first: Pruner, second: Pruner) -> Pruner:
    """Return the method that runs ``first`` before the LLM and ``second`` on what it leaves, inside the LLM.

    The first leaves ``share`` times the budget, the second brings that down to the budget, counted its own way. The
    parameters of both are those of the stack, called ``first_...`` and ``second_...``.

    Raises BadInput for two methods of which one can never stand there. The stack's schedule raises Unsupported when
    the first has a stage inside the LLM or decides at run time how many tokens it leaves, when the second has a stage
    before the LLM, and whatever the methods themselves raise.
    Source: UniPruneBench (arXiv 2511.02650) stacks methods before and inside the LLM; it prints no split of its own.
    """
    for pruner in (first, second):
        if pruner.family == "control" and not pruner.settings:
            raise BadInput(f"{pruner.label} never prunes, so that there is nothing to stack.")
        if JOIN in pruner.id:
            raise BadInput("A stack is of two methods: one before the LLM, one inside it.")
    both = (("first", first), ("second", second))
    labels = {"first": first.label, "second": second.label}

    def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
        own = {place: _own(place, pruner, params) for place, pruner in both}
        tokens = budget_tokens(budget)
        between = min(info.n_visual, max(tokens, math.floor(params["share"] * tokens + 0.5)))
        before = first.schedule(Budget(between, "final"), info, own["first"]).stages
        _check_before(first, before)
        left = before[-1].keep if before else info.n_visual
        inside = second.schedule(budget, replace(info, n_visual=min(left or 0, info.n_visual)), own["second"]).stages
        _check_inside(second, inside)
        return Schedule(
            tuple(
                replace(stage, select=_with(stage.select, own[place]), title=f"{pruner.label}: {stage.title}")
                for (place, pruner), stages in zip(both, (before, inside), strict=True)
                for stage in stages
            )
        )

    return Pruner(
        id=f"{first.id}{JOIN}{second.id}",
        label=LABEL.format(**labels),
        family=first.family,
        claim=CLAIM.format(**labels),
        needs=tuple(dict.fromkeys((*first.needs, *second.needs))),
        does_without=tuple(dict.fromkeys((*first.does_without, *second.does_without))),
        params=(
            SHARE,
            *(
                replace(
                    param,
                    name=PARAM.format(place=place, name=param.name),
                    label=PARAM_LABEL.format(method=pruner.label, label=param.label),
                )
                for place, pruner in both
                for param in pruner.settings
            ),
        ),
        schedule=schedule,
        needs_tiles=first.needs_tiles or second.needs_tiles,
        merges_in_vision=first.merges_in_vision,
        does_without_tower=first.does_without_tower,
        merges=first.merges or second.merges,
    )


def _own(place: str, pruner: Pruner, params: Params) -> dict[str, bool | int | float | str]:
    """The parameters of one of the two methods, by its own names."""
    return {param.name: params[PARAM.format(place=place, name=param.name)] for param in pruner.settings}


def _with(select: SelectFunction, own: Params) -> SelectFunction:
    def selected(signals: Signals, keep: int | None, params: Params, generator: Generator) -> Selection:
        return select(signals, keep, own, generator)

    return selected


def _check_before(first: Pruner, stages: tuple[Stage, ...]) -> None:
    inside = next((stage for stage in stages if isinstance(stage.site, int)), None)
    if inside is not None:
        raise Unsupported(
            f"{first.label} prunes inside the LLM ({inside.site_label}); the first method of a stack prunes before it. "
            "Swap the two, or switch that stage off."
        )
    if any(stage.keep is None for stage in stages):
        raise Unsupported(f"{first.label} decides while it runs how many tokens it leaves; put it alone.")


def _check_inside(second: Pruner, stages: tuple[Stage, ...]) -> None:
    before = next((stage for stage in stages if not isinstance(stage.site, int)), None)
    if before is not None:
        raise Unsupported(
            f"{second.label} prunes before the LLM ({before.site_label}); the second method of a stack prunes inside "
            "it. Swap the two, or switch that stage off."
        )
