"""The contract of a method: one object that plans stages and whose stages select tokens.

A method is one file in this package that ends in ``PRUNER = Pruner(...)`` and one line in ``pruners/__init__.py``. The
page's controls, the API schema, the docs table and the contract tests are generated from that object.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, Literal, get_args

from ..errors import BadInput, Unsupported, nearest
from ..names import BudgetMeaning, MethodFamily
from ..short import passed
from ..types import Budget, Need, Params, PlanningInfo, Schedule

ParamValue = bool | int | float | str


@dataclass(frozen=True)
class Param:
    """One knob of a method; the page builds its control from it.

    kind: ``int`` and ``float`` use ``minimum``, ``maximum``, ``step``; ``choice`` uses ``choices``; ``bool`` neither.
    """

    name: str
    label: str
    kind: Literal["int", "float", "choice", "bool"]
    default: ParamValue
    help: str
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    choices: tuple[str, ...] = ()

    def check(self, value: Any) -> ParamValue:
        """Return ``value`` as this parameter's type. Raises BadInput with the allowed range."""
        if self.kind == "bool":
            if isinstance(value, bool):
                return value
            raise BadInput(f"{self.name} must be true or false, not {passed(value)}.")
        if self.kind == "choice":
            if isinstance(value, str) and value in self.choices:
                return value
            raise BadInput(f"{self.name} must be one of {', '.join(self.choices)}, not {passed(value)}.")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadInput(f"{self.name} must be a number, not {passed(value)}.")
        number: int | float = value
        if isinstance(number, float) and not math.isfinite(number):
            raise BadInput(f"{self.name} must be a finite number, not {passed(value)}.")
        if self.kind == "int":
            if number != int(number):
                raise BadInput(f"{self.name} must be a whole number, not {passed(value)}.")
            number = int(number)
        if not (self.minimum is None or number >= self.minimum) or not (self.maximum is None or number <= self.maximum):
            raise BadInput(f"{self.name} must lie between {self.minimum} and {self.maximum}, not {passed(value)}.")
        return number


def budget_tokens(budget: Budget) -> int:
    """The budget in tokens; every schedule starts here, so that every method refuses the same budgets.

    Raises BadInput unless it is a whole number of at least 1, counted in one of the three known ways. Budgets above N
    are fine: a stage that keeps N or more tokens is the identity.
    """
    tokens = budget.tokens
    is_number = isinstance(tokens, int | float) and not isinstance(tokens, bool)
    finite = is_number and (isinstance(tokens, int) or math.isfinite(tokens))
    if not finite or tokens != int(tokens) or tokens < 1:
        raise BadInput(f"The budget must be a whole number of at least 1 visual token, not {passed(tokens)}.")
    if budget.counted_as not in get_args(BudgetMeaning):
        raise BadInput(
            f"The budget must be counted as {', '.join(get_args(BudgetMeaning))}, not {budget.counted_as!r}."
        )
    return int(tokens)


@dataclass(frozen=True)
class Paper:
    """Where the method was published."""

    title: str
    authors: str
    year: int
    url: str


@dataclass(frozen=True)
class Pruner:
    """One published method (or control).

    claim: one line, what it keeps and at what price. schedule: ``(budget, info, params) -> Schedule``; pure; raises
    BadInput when the budget cannot be met, saying why, and (for every method alike, see ``missing``) Unsupported for a
    model that lacks what the method needs; where positions cannot be renumbered, every stage keeps them. needs: every
    signal that any of its stages may ask for, so that the page can say what a model must provide; ``does_without``:
    those that it can replace when the model lacks them. needs_tiles: works only on a thumbnail with crops (LLaVA-NeXT).
    merges_in_vision: has stages inside vision blocks, ``does_without_tower``: but can merge behind them as well.
    merges: a kept token can carry others (``Selection.assignment``), at least in its default setting.
    notes: for docs/methods.md, one sentence each: where the source is silent or contradicts itself and what was done,
    where official code and paper differ, what differs here.
    """

    id: str
    label: str
    family: MethodFamily
    claim: str
    paper: Paper | None
    needs: tuple[Need, ...]
    params: tuple[Param, ...]
    schedule: Callable[[Budget, PlanningInfo, Params], Schedule]
    notes: tuple[str, ...] = ()
    does_without: tuple[Need, ...] = ()
    needs_tiles: bool = False
    merges_in_vision: bool = False
    does_without_tower: bool = False
    merges: bool = False

    def __post_init__(self) -> None:
        plan = getattr(self.schedule, "__wrapped__", self.schedule)  # dataclasses.replace hands over a wrapped one

        @wraps(plan)
        def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
            missing = self.missing(info)
            if missing is not None:
                raise Unsupported(missing)
            planned = plan(budget, info, params)
            if info.renumbers:
                return planned
            # Kept tokens of multi-dimensional positions keep them, whatever the method does elsewhere.
            return Schedule(tuple(replace(stage, positions="keep") for stage in planned.stages))

        object.__setattr__(self, "schedule", schedule)

    def missing(self, info: PlanningInfo) -> str | None:
        """What this method needs and this model cannot give, as one sentence; None when it can run.

        The page greys the method out with this sentence, and a schedule refuses with it.
        """
        needed = {need.kind for need in self.needs if need not in self.does_without}
        if any(kind.startswith("cls_") for kind in needed) and not info.has_cls:
            return f"{self.label} reads the [CLS] token, and the vision tower of this model has none."
        if "clip_relevance" in needed and not info.has_text_tower:
            return f"{self.label} compares patches with the question by CLIP's text tower, which this model lacks."
        if self.needs_tiles and not info.has_tiles:
            looks = "looks at the frames of a video" if info.has_frames else "looks at one picture"
            return f"{self.label} compares a thumbnail with its crops, and this model {looks} without crops."
        no_tower = info.vision_blocks is None or info.merges_patches
        if self.merges_in_vision and no_tower and not self.does_without_tower:
            return f"{self.label} merges inside the vision tower, and this model's tower does not allow it."
        return None

    def complete(self, given: Mapping[str, Any] | None) -> dict[str, ParamValue]:
        """Defaults overlaid with ``given``, every value checked. Raises BadInput for unknown names or bad values."""
        known = {param.name: param for param in self.params}
        unknown = sorted(set(given or {}) - set(known), key=str)
        if unknown:
            near = nearest(unknown[0], known)
            has = f"its parameters are {', '.join(known)}" if known else "it has no parameters"
            advice = f"did you mean {near!r}?" if near else f"{has}."
            raise BadInput(f"{self.label} has no parameter {passed(unknown[0])}; {advice}")
        values = {param.name: param.default for param in self.params}
        values.update({name: known[name].check(value) for name, value in (given or {}).items()})
        return values
