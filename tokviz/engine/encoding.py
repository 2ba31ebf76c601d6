"""With which arguments a model's own encoders are called: ``generate`` hands them to nothing else.

What decides how many tokens a picture or video becomes (sizes, frames) never reaches a module's forward there. While at
least one context watches a model, one wrapper each stands in for its ``get_image_features`` and ``get_video_features``
on that instance; it tells the watchers and calls the original. Contexts may be entered and left in any order and from
any thread.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any

from .watching import Active

_METHODS = ("get_image_features", "get_video_features")
_lock = threading.RLock()
_within = threading.local()
_watchers: dict[int, tuple[Callable[[Mapping[str, Any]], None], ...]] = {}


@contextmanager
def watched_encoding(base: Any, see: Callable[[Mapping[str, Any]], None], active: Active) -> Iterator[None]:
    """Call ``see(arguments by name)`` before ``base`` encodes pictures or videos where ``active()``, until left."""

    def guarded(arguments: Mapping[str, Any]) -> None:
        if active():
            see(arguments)

    with _lock:
        if not _watchers.get(id(base)):
            for method in _methods(base):
                _install(base, method)
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
                for method in _methods(base):
                    delattr(base, method)


def _methods(base: Any) -> list[str]:
    return [method for method in _METHODS if hasattr(type(base), method)]


def _install(base: Any, method: str) -> None:
    original = getattr(base, method)
    signature, name = inspect.signature(original), id(base)

    @wraps(original)  # transformers filters the arguments of ``generate`` by this method's signature
    def watched(*args: Any, **kwargs: Any) -> Any:
        if getattr(_within, "encoding", False):  # some encode videos by their method for pictures: told once
            return original(*args, **kwargs)
        arguments = dict(signature.bind(*args, **kwargs).arguments)
        if method == "get_video_features" and "pixel_values" in arguments:  # its name in older transformers
            arguments["pixel_values_videos"] = arguments.pop("pixel_values")
        for watcher in _watchers.get(name, ()):
            watcher(arguments)
        _within.encoding = True
        try:
            return original(*args, **kwargs)
        finally:
            _within.encoding = False

    setattr(base, method, watched)
