"""The contract of a method: one object that plans stages and whose stages select tokens.

A method is one file in this package that ends in ``PRUNER = Pruner(...)`` and one line in ``pruners/__init__.py``. The
page's controls, the API schema, the docs and the contract tests are generated from that object.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, Literal, get_args

import torch
from torch import Generator

from ..errors import BadInput, Unsupported, nearest
from ..names import UNPRUNED, BudgetMeaning, MethodFamily, PositionPolicy, Site
from ..records import ServingFlag
from ..short import passed
from ..types import (
    RECEIVED_ATTENTION,
    Budget,
    Need,
    Params,
    PlanningInfo,
    Schedule,
    SelectFunction,
    Selection,
    Signals,
    Stage,
)
from .schedules import survivors_for_average
from .serving_flags import Served

ParamValue = bool | int | float | str
ScheduleFunction = Callable[[Budget, PlanningInfo, Params], Schedule]


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


def choice(name: str, label: str, choices: tuple[str, ...], help: str) -> Param:
    """A choice whose default is the first one."""
    return Param(name, label, "choice", choices[0], help, choices=choices)


def whole(name: str, label: str, default: int, help: str, *, minimum: int, maximum: int) -> Param:
    """A whole number between ``minimum`` and ``maximum``."""
    return Param(name, label, "int", default, help, minimum=minimum, maximum=maximum, step=1)


def number(
    name: str, label: str, default: float, help: str, *, minimum: float = 0.0, maximum: float = 1.0, step: float = 0.05
) -> Param:
    """A number between ``minimum`` and ``maximum``, by default a share."""
    return Param(name, label, "float", default, help, minimum=minimum, maximum=maximum, step=step)


def switch(name: str, label: str, default: bool, help: str) -> Param:
    """On or off."""
    return Param(name, label, "bool", default, help)


POSITIONS = choice(
    "positions",
    "Positions of later tokens",
    ("source", "keep", "reindex"),
    "source: as the method's paper or code has it; keep: every token keeps the position that it had in the whole "
    "prompt; reindex: what is left is numbered without gaps.",
)
"""The switch of every method that prunes: what becomes of rotary positions. Renumbering loses where things are."""


RECTIFY = switch(
    "rectify",
    "Merged tokens weigh as many",
    False,
    "Adds ln(group size) to the attention logits of merged tokens in every later layer of the LLM, so that each draws "
    "as much attention as the tokens that it carries (proportional attention of ToMe, ERA).",
)
"""The switch of every method that merges. Source: ToMe section 3, Eq. 1; ERA (arXiv 2606.31982)."""


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


def fixed_count(select: Callable[[Signals, int, Params, Generator], Selection]) -> SelectFunction:
    """Decorate the select function of a stage that keeps a planned number of tokens.

    ``keep >= N`` is the identity and ``keep <= 0`` drops everything; neither does any selection work, so ``select``
    only ever sees ``0 < keep < N``. Raises ValueError for a stage without a count.
    """

    @wraps(getattr(select, "func", select))  # of a partial, which has no name of its own
    def counted(signals: Signals, keep: int | None, params: Params, generator: Generator) -> Selection:
        if keep is None:
            raise ValueError("This stage keeps a planned number of tokens, but its Stage.keep is None.")
        n, device = len(signals.features), signals.features.device
        if keep >= n:
            return Selection(kept=torch.arange(n, device=device))
        if keep <= 0:
            return Selection(kept=torch.empty(0, dtype=torch.int64, device=device))
        return select(signals, keep, params, generator)

    return counted


def needs_on(info: PlanningInfo, *needs: Need) -> tuple[Need, ...]:
    """Of the needs those that this model can meet: attention received stands in for [CLS] where there is none."""
    by_cls = {need for need in needs if need.kind.startswith("cls_")}
    left_out = by_cls if not info.has_cls else {RECEIVED_ATTENTION} if by_cls else set()
    return tuple(need for need in needs if need not in left_out)


def single_stage(
    select: SelectFunction,
    site: Site | Callable[[PlanningInfo, Params], Site] = "projector",
    *,
    needs: tuple[Need, ...] | Callable[[PlanningInfo, Params], tuple[Need, ...]] = (),
    title: str | Callable[[PlanningInfo], str] = "",
    positions: PositionPolicy | None = None,
    tiled: SelectFunction | None = None,
    label: str = "This method",
) -> ScheduleFunction:
    """Plan one stage that leaves the budget.

    Before the LLM all meanings of a budget coincide, because every layer sees what the stage leaves; a stage inside it
    leaves what makes its average. Where a model merges patches into tokens, ``"encoder"`` is behind the projector.

    Args:
        select: what the stage does; decorate it with ``fixed_count``.
        site: where it lies, or how to find that.
        needs: signals, or how to find them; see ``needs_on``.
        title: a few words about the stage, or how to find them.
        positions: None keeps those of the tokens behind a stage inside the LLM and closes the gap before it.
        tiled: what it does instead where view 0 is a thumbnail and the others are crops.
        label: the method, for the sentences of refusals.
    """

    def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
        tokens = budget_tokens(budget)
        where = site(info, params) if callable(site) else site
        if isinstance(where, int):
            if not 0 <= where < info.n_layers:
                raise BadInput(f"{label} drops tokens before layer {where}; this model has 0 to {info.n_layers - 1}.")
            if budget.counted_as == "average":
                tokens = survivors_for_average(label, tokens, info, where)
        stage = Stage(
            "projector" if where == "encoder" and info.merges_patches else where,
            tokens,
            tiled if tiled and info.has_tiles else select,
            needs_on(info, *(needs(info, params) if callable(needs) else needs)),
            positions or ("keep" if isinstance(where, int) else "reindex"),
            title(info) if callable(title) else title,
        )
        return Schedule((stage,))

    return schedule


@dataclass(frozen=True, kw_only=True)
class Pruner:
    """One published method (or control).

    Args:
        id: a short name, an identifier in lower case.
        label: its name in menus and tables.
        family: the idea it belongs to.
        claim: one line, what it keeps and at what price.
        paper: where it was published; None for a control.
        needs: every signal that any of its stages may ask for, so that the page can say what a model must provide.
        does_without: those of them that it can replace when the model lacks them.
        params: its own parameters; see ``settings`` for all that it takes.
        schedule: ``(budget, info, params) -> Schedule``; pure. Raises BadInput when the budget cannot be met, saying
            why, and (for every method alike, see ``missing``) Unsupported for a model that lacks what the method needs.
            Where positions cannot be renumbered, every stage keeps them.
        needs_tiles: works only on a thumbnail with crops (LLaVA-NeXT).
        needs_frames: works only on two or more frames of a video.
        merges_in_vision: has stages inside vision layers.
        does_without_tower: but can merge behind them as well.
        encodes_anew: gives the model another image instead of dropping tokens.
        merges: a kept token can carry others (``Selection.assignment``), at least in its default setting.
        deployed: ``(what the run pruned, params) -> flags`` of the serving stacks that have the method; see
            ``serving_flags.py``.
        aliases: other names that it is published under; ``get`` knows them.

    Where paper and code differ, and what was done where a source is silent, is told in ``docs/methods/<id>.md``.
    """

    id: str
    label: str
    family: MethodFamily
    claim: str
    schedule: ScheduleFunction
    paper: Paper | None = None
    needs: tuple[Need, ...] = ()
    does_without: tuple[Need, ...] = ()
    params: tuple[Param, ...] = ()
    needs_tiles: bool = False
    needs_frames: bool = False
    merges_in_vision: bool = False
    does_without_tower: bool = False
    encodes_anew: bool = False
    merges: bool = False
    deployed: Callable[[Served, Params], Sequence[ServingFlag]] | None = None
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        plan = getattr(self.schedule, "__wrapped__", self.schedule)  # dataclasses.replace hands over a wrapped one

        @wraps(plan)
        def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
            missing = self.missing(info)
            if missing is not None:
                raise Unsupported(missing)
            planned = plan(budget, info, params)
            if RECTIFY in self.settings and params.get(RECTIFY.name, False):
                planned = replace(planned, stages=tuple(replace(stage, rectify=True) for stage in planned.stages))
            asked = params.get(POSITIONS.name, "source") if POSITIONS in self.settings else "source"
            if asked == "source":
                # Kept tokens of multi-dimensional positions keep them, whatever the method does elsewhere.
                asked = "source" if info.renumbers else "keep"
            elif asked == "reindex" and not info.renumbers and planned.stages:
                raise Unsupported(
                    f"{self.label} cannot renumber positions here: on this model they have several axes. "
                    "Choose positions source or keep."
                )
            if asked == "source":
                return planned
            return replace(planned, stages=tuple(replace(stage, positions=asked) for stage in planned.stages))

        object.__setattr__(self, "schedule", schedule)

    @property
    def settings(self) -> tuple[Param, ...]:
        """The method's own parameters, and the switches of every method; a control that never prunes has none."""
        if self.id == UNPRUNED:
            return self.params
        own = {param.name for param in self.params}
        switches = (POSITIONS, RECTIFY) if self.merges else (POSITIONS,)
        return (*self.params, *(param for param in switches if param.name not in own))

    def missing(self, info: PlanningInfo) -> str | None:
        """What this method needs and this model cannot give, as one sentence; None when it can run.

        The page greys the method out with this sentence, and a schedule refuses with it.
        """
        needed = {need.kind for need in self.needs if need not in self.does_without}
        if any(kind.startswith("cls_") for kind in needed) and not info.has_cls:
            return f"{self.label} reads the [CLS] token, and the vision tower of this model has none."
        if "clip_relevance" in needed and not info.has_text_tower:
            return f"{self.label} compares patches with the question by CLIP's text tower, which this model lacks."
        if self.encodes_anew and not info.shrinks:
            what = "a video" if info.has_frames else "images"
            return (
                f"{self.label} needs a model that can take {what} in fewer tokens, and tokviz cannot shrink them here."
            )
        if "evidence" in needed and not info.has_evidence:
            return (
                f"{self.label} needs evidence, boxes around what answers the question: evidence=[(x0, y0, x1, y1)] of "
                "tokviz.compare or tokviz.inputs_for, --evidence on the command line, or an example on the page."
            )
        if self.needs_tiles and not info.has_tiles:
            looks = "takes the frames of a video" if info.has_frames else "takes one image"
            return f"{self.label} compares a thumbnail with its crops, and this model {looks} without crops."
        if self.needs_frames and not (info.has_frames and info.n_views > 1):
            given = "this is an image" if info.takes_video else "this model takes images only"
            given = "there is only one here" if info.has_frames else given
            return f"{self.label} compares the frames of a video, and {given}."
        no_tower = info.n_vision_layers is None or info.merges_patches
        if self.merges_in_vision and no_tower and not self.does_without_tower:
            return f"{self.label} merges inside the vision tower, and this model's tower does not allow it."
        return None

    def complete(self, given: Mapping[str, Any] | None) -> dict[str, ParamValue]:
        """Defaults overlaid with ``given``, every value checked. Raises BadInput for unknown names or bad values."""
        known = {param.name: param for param in self.settings}
        unknown = sorted(set(given or {}) - set(known), key=str)
        if unknown:
            if unknown[0] == RECTIFY.name:
                raise BadInput(
                    f"{self.label} merges nothing, so that no token can weigh as many (rectify); choose a method that "
                    "merges."
                )
            near = nearest(unknown[0], known)
            has = f"its parameters are {', '.join(known)}" if known else "it has no parameters"
            advice = f"did you mean {near!r}?" if near else f"{has}."
            raise BadInput(f"{self.label} has no parameter {passed(unknown[0])}; {advice}")
        values = {param.name: param.default for param in self.settings}
        values.update({name: known[name].check(value) for name, value in (given or {}).items()})
        return values
