"""Which pruning context owns which thread, per model: two users on one model are never mixed.

Hooks of every context fire in every thread; each acts only when ``here(model)`` is itself.
"""

from __future__ import annotations

import threading
from typing import Any

from ..errors import Unsupported

_lock = threading.Lock()
_owners: dict[tuple[int, int], Any] = {}


def here(model: Any) -> Any:
    """The context that owns the current thread for ``model``, or None."""
    return _owners.get((id(model), threading.get_ident()))


def claim(model: Any, context: Any) -> tuple[int, int]:
    """Give the current thread to ``context``. Raises Unsupported when another context has it."""
    key = (id(model), threading.get_ident())
    with _lock:
        if key in _owners:
            raise Unsupported("This thread is already inside pruning() for this model; leave that context first.")
        _owners[key] = context
    return key


def release(key: tuple[int, int]) -> None:
    """Give the thread back; from any thread."""
    with _lock:
        _owners.pop(key, None)


def here_by_id(model_id: int) -> Any:
    """Like ``here`` for ``id(model)``; for a cache, which must not hold the model."""
    return _owners.get((model_id, threading.get_ident()))
