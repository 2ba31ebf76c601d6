"""``@pruner``: make a method from a single function, whose keyword parameters become the method's parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Generator, Tensor

from ..errors import BadInput
from ..names import MethodFamily, PositionPolicy, Site, VisionLayer
from ..short import passed
from ..types import Need, Params, SelectFunction, Selection, Signals, TokenMap
from .ops import candidate_rows
from .per_view import ranked
from .plugins import check_pruner
from .pruner import Paper, Param, Pruner, fixed_count, single_stage

SelectLike = Callable[..., "Selection | Tensor | Sequence[int]"]


def pruner(
    id: str,
    *,
    needs: Iterable[Need] = (),
    site: Site = "projector",
    label: str | None = None,
    claim: str | None = None,
    family: MethodFamily = "custom",
    paper: Paper | None = None,
    positions: PositionPolicy | None = None,
) -> Callable[[SelectLike], Pruner]:
    """Make a pruner of ``function(signals, keep, *, ...)``, for everything that takes the id of a method.

    The function gets the ``Signals`` of one image or video and how many tokens to keep, always fewer than there are,
    and returns a ``Selection`` or the indices of the tokens that stay, in any order. More than asked for is an error;
    fewer is a warning on the run. It must be pure. Where it has a parameter ``generator``, it gets the seeded
    ``torch.Generator`` of the run.

    Its other parameters are keywords with defaults, and become parameters of the method: ``bool``, ``int``, ``float``,
    or ``Literal`` of several texts. ``Annotated[float, Field(ge=0, le=1, description="...")]`` (pydantic's, or bounds
    of annotated_types) says what is allowed and what it means.

    Args:
        id: Its name on the command line and in sessions: letters, digits, hyphens.
        needs: Signals beside the features, such as ``tokviz.KEYS``; docs/own_pruner.md lists them.
        site: Where it drops tokens: ``"projector"`` (what enters the LLM), ``"encoder"``, the number of the layer of
            the LLM to drop before, or ``VisionLayer(i)`` (inside the vision tower).
        label: For people; the id by default.
        claim: One line on what it keeps; the first line of the docstring by default.
        family: Which group it belongs to.
        paper: Where it was published.
        positions: Whether what is left is renumbered without gaps ("reindex") or keeps its positions ("keep"); by
            default a stage before the LLM renumbers, and one inside it keeps them.

    Raises:
        BadInput: For an id that cannot be written on a command line.
        TypeError: For a function whose parameters cannot be those of a method.

    Example:
        >>> @tokviz.pruner("my-norm", needs=[tokviz.KEYS])
        ... def my_norm(signals, keep, *, power: float = 1.0):
        ...     return tokviz.keep_highest(signals.keys.norm(dim=1) ** power, keep)
    """
    needs = tuple(needs)
    for need in needs:
        if not isinstance(need, Need):
            raise TypeError(f"needs are such as tokviz.KEYS or tokviz.LAST_ROW, not {passed(need)}")

    def made(function: SelectLike) -> Pruner:
        name = label or id
        select = _select(function, name)
        result = Pruner(
            id=id,
            label=name,
            family=family,
            claim=claim or (inspect.getdoc(function) or "").partition("\n")[0],
            paper=paper,
            needs=needs,
            params=tuple(_params(function)),
            schedule=single_stage(select, site, needs=needs, title=name, positions=positions, label=name),
            merges_in_vision=isinstance(site, VisionLayer),
        )
        check_pruner(result)
        return result

    return made


def _select(function: SelectLike, label: str) -> SelectFunction:
    """The select function of a stage, which checks what came back. Kept and added tokens count, as for every method."""
    takes = inspect.signature(function).parameters
    wants_generator = "generator" in takes

    @fixed_count
    def select(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
        random = {"generator": generator} if wants_generator else {}
        own = {name: value for name, value in params.items() if name in takes}  # not the switches of every method
        made = function(signals, keep, **own, **random)
        if not isinstance(made, Selection):
            kept = torch.as_tensor(made, device=signals.features.device)
            if kept.is_floating_point() or kept.dtype == torch.bool or kept.dim() != 1:
                raise TypeError(
                    f"{_name(function)} must return a Selection or the indices of the tokens to keep, not "
                    f"{kept.dtype} of shape {tuple(kept.shape)}"
                )
            made = Selection(kept=kept.long().sort().values)
        left = len(made.kept) + (0 if made.extra is None else len(made.extra))
        if left > keep:
            raise ValueError(f"{_name(function)} was to keep {keep} tokens and kept {left}")
        if left < keep and left < len(candidate_rows(signals)):  # rows that are no patch may all go
            fewer = f"{label} kept {left} of the {keep} visual tokens that it was asked for."
            return made.with_diagnostics(lambda found: replace(found, warnings=(*found.warnings, fewer)))
        return made

    return select


def _name(function: SelectLike) -> str:
    return getattr(function, "__name__", "the function")


def _params(function: SelectLike) -> Iterable[Param]:
    """The method's parameters, from the function's keywords. Raises TypeError."""
    hints = get_type_hints(function, include_extras=True)
    given = [p for p in inspect.signature(function).parameters.values() if p.name != "generator"]
    if len(given) < 2 or any(p.kind is p.VAR_POSITIONAL for p in given):
        raise TypeError(f"{_name(function)} must be a function of (signals, keep, *, ...)")
    for parameter in given[2:]:
        where = f"the parameter {parameter.name!r} of {_name(function)}"
        if parameter.kind not in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            raise TypeError(f"{where} cannot be a parameter of a method; write a keyword with a default")
        if parameter.default is parameter.empty:
            raise TypeError(f"{where} needs a default")
        yield _param(where, parameter.name, parameter.default, hints.get(parameter.name, type(parameter.default)))


def _param(where: str, name: str, default: Any, hint: Any) -> Param:
    metadata: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *rest = get_args(hint)
        metadata = tuple(part for entry in rest for part in (entry, *getattr(entry, "metadata", ())))
    help = next((text for entry in metadata if (text := getattr(entry, "description", None))), "")
    label = name.replace("_", " ").capitalize()
    if get_origin(hint) is Literal and all(isinstance(choice, str) for choice in get_args(hint)):
        made = Param(name, label, "choice", default, help, choices=get_args(hint))
    elif hint is bool:
        made = Param(name, label, "bool", default, help)
    elif hint in (int, float):
        if any(getattr(entry, name, None) is not None for entry in metadata for name in ("gt", "lt")):
            raise TypeError(f"{where} has a bound that it may not reach; write ge and le, which a control can show")
        low, high = (_bound(metadata, name) for name in ("ge", "le"))
        step = 1 if hint is int else None
        made = Param(name, label, "int" if hint is int else "float", default, help, low, high, step)
    else:
        raise TypeError(f"{where} must be a bool, int, float or Literal of texts, not {hint!r}")
    try:
        made.check(default)
    except BadInput as error:
        raise TypeError(f"{where} has a default that it does not allow: {error}") from error
    return made


def _bound(metadata: Iterable[Any], name: str) -> float | None:
    return next((bound for entry in metadata if (bound := getattr(entry, name, None)) is not None), None)


def keep_highest(scores: Tensor, keep: int, *, among: Tensor | None = None, label: str = "Score") -> Selection:
    """Keep the ``keep`` tokens with the highest scores.

    Ties go to the lowest index; scores that are not finite rank last.

    Args:
        scores: ``(N,)``.
        keep: Number of tokens to keep.
        among: ``(N,)`` bool or ``(P,)`` indices: the tokens to choose from, such as ``signals.candidates``; None for
            all.
        label: Name of the scores, shown with the heat map.
    """
    pool = None
    if among is not None:
        pool = torch.arange(len(scores), device=scores.device)[among.to(scores.device)].sort().values
    return ranked(TokenMap("score", label, scores.float()), keep, pool)
