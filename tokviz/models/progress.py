"""How far loading has come, for whoever wants to show it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging as transformers_logging

Progress = Callable[[str, float | None], None]
"""``(what is being done, share of it that is done or None)``; called from any thread."""

_bars = threading.Lock()


def unheard(_words: str, _share: float | None) -> None:
    """Progress that nobody asked for."""


@contextmanager
def weights_reported(report: Progress) -> Iterator[None]:
    """Tell ``report`` how far transformers has come with the weights that this thread loads; others are not touched.

    transformers makes its bars through one hook for the whole process; the one that was there is put back.
    """
    thread = threading.get_ident()

    def hook(factory: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        bar = (previous or _plain)(factory, args, kwargs)
        if threading.get_ident() != thread or not args or kwargs.get("desc") != "Loading weights":
            return bar
        return _Counted(bar, len(args[0]), report)

    with _bars:
        previous = transformers_logging.set_tqdm_hook(hook)
        try:
            yield
        finally:
            transformers_logging.set_tqdm_hook(previous)


def _plain(factory: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return factory(*args, **kwargs)


class _Counted:
    """A progress bar over weights that says how many of them have passed."""

    def __init__(self, bar: Any, total: int, report: Progress) -> None:
        self._bar, self._total, self._report = bar, total, report

    def __iter__(self) -> Iterator[Any]:
        for number, item in enumerate(self._bar):
            yield item
            self._report("Loading weights", (number + 1) / max(self._total, 1))
