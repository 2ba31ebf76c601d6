"""Errors whose message is a sentence for the user: what is wrong and what to do, what was meant, what to install."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import wraps
from importlib.util import find_spec
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")


class BadInput(ValueError):
    """The request cannot be served as given. The message is safe to show and says what to do."""


class Unsupported(BadInput):
    """The request is fine, but this model, cache or setting cannot be pruned; nothing was run."""


class Stopped(Exception):
    """The user pressed Stop; what had been produced until then is kept."""


def nearest(unknown: object, names: Iterable[str]) -> str | None:
    """The name that was probably meant by a misspelt one, None when none is near."""
    near = get_close_matches(unknown, list(names), n=1, cutoff=0.5) if isinstance(unknown, str) else []
    return near[0] if near else None


def knows_its_keywords(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Raise TypeError for a keyword that the function does not take, naming the nearest that it does."""
    names = list(inspect.signature(function).parameters)

    @wraps(function)
    def called(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        unknown = next((name for name in kwargs if name not in names), None)
        if unknown is not None:
            near = nearest(unknown, names)
            advice = f"did you mean {near!r}?" if near else f"it takes {', '.join(names)}."
            raise TypeError(f"{function.__name__}() has no argument {unknown!r}; {advice}")
        return function(*args, **kwargs)

    return called


def is_installed(package: str) -> bool:
    """Whether a top-level package can be imported; it is not imported to find out."""
    return find_spec(package) is not None


def need(package: str, extra: str, purpose: str) -> None:
    """Raise BadInput, with the command that helps, unless a package of an extra is installed.

    purpose: the subject of the sentence, such as "Reading a video".
    """
    if not is_installed(package):
        raise BadInput(f"{purpose} needs the package {package}, which is not installed: pip install 'tokviz[{extra}]'.")
