"""Hooks that are safe while other threads put up and take down theirs on the same module.

torch first lists a module's hooks and then looks up, one by one, which of them want keyword arguments. A hook that
another thread removes (or adds) in between is called without them. That can only happen to a forward of a thread that
does not own the hook, so such a call is left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

Active = Callable[[], bool]


def before_forward(module: nn.Module, hook: Callable[[Any, dict[str, Any]], Any], active: Active) -> Callable[[], None]:
    """Call ``hook(args, kwargs)`` before ``module`` runs where ``active()``; returns what removes it."""

    def guarded(_module: Any, args: Any, kwargs: dict[str, Any] | None = None) -> Any:
        return hook(args, kwargs) if kwargs is not None and active() else None

    return module.register_forward_pre_hook(guarded, with_kwargs=True).remove


def after_forward(module: nn.Module, hook: Callable[[dict[str, Any], Any], None], active: Active) -> Callable[[], None]:
    """Call ``hook(kwargs, output)`` after ``module`` ran where ``active()``; returns what removes it."""

    def guarded(_module: Any, _args: Any, *kwargs_and_output: Any) -> None:
        if len(kwargs_and_output) == 2 and active():
            hook(*kwargs_and_output)

    return module.register_forward_hook(guarded, with_kwargs=True).remove
