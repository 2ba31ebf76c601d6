"""With which arguments a model's own ``get_image_features`` is called: ``generate`` hands them to nothing else.

The sizes that decide how many tokens a picture becomes never reach a module's forward there. While at least one context
watches a model, one wrapper stands in for the method on that instance; it tells the watchers and calls the original.
Contexts may be entered and left in any order and from any thread.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any

from .watching import Active

_METHOD = "get_image_features"
_lock = threading.RLock()
_watchers: dict[int, tuple[Callable[[Mapping[str, Any]], None], ...]] = {}


@contextmanager
def watched_encoding(base: Any, see: Callable[[Mapping[str, Any]], None], active: Active) -> Iterator[None]:
    """Call ``see(arguments by name)`` before ``base`` encodes pictures where ``active()``, until the block is left."""

    def guarded(arguments: Mapping[str, Any]) -> None:
        if active():
            see(arguments)

    with _lock:
        if not _watchers.get(id(base)):
            _install(base)
        _watchers[id(base)] = (*_watchers.get(id(base), ()), guarded)
    try:
        yield
    finally:
        with _lock:
            left = tuple(watcher for watcher in _watchers[id(base)] if watcher is not guarded)
            if left:
                _watchers[id(base)] = left
            else:
                del _watchers[id(base)]
                delattr(base, _METHOD)


def _install(base: Any) -> None:
    original = getattr(base, _METHOD)
    signature, name = inspect.signature(original), id(base)

    @wraps(original)  # transformers filters the arguments of ``generate`` by this method's signature
    def watched(*args: Any, **kwargs: Any) -> Any:
        for watcher in _watchers.get(name, ()):
            watcher(signature.bind(*args, **kwargs).arguments)
        return original(*args, **kwargs)

    setattr(base, _METHOD, watched)
