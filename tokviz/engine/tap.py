"""A read-only tap on attention: sees queries, keys and mask as the kernel gets them, and changes nothing.

transformers looks its attention functions up in one process-wide table at every call. While at least one module is
tapped, one wrapper stands in that table; it calls the taps of the module at hand and then the original function. There
is never a second wrapper, so contexts may be entered and left in any order and from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

Tap = Callable[[Tensor, Tensor, "Tensor | None", float], None]
"""``(query (B, H, L_q, d), key (B, H_kv, L_k, d), mask or None, scaling)``; positions and q/k norms already applied."""

_lock = threading.RLock()
_taps: dict[int, tuple[Tap, ...]] = {}
_users: dict[str, int] = {}
_replaced: dict[str, Any] = {}
_ABSENT = object()


def can_tap(implementation: str) -> bool:
    """Whether attention of this kind goes through the table (eager attention does not)."""
    return implementation != "eager" and implementation in ALL_ATTENTION_FUNCTIONS


def is_hub_kernel(implementation: str) -> bool:
    """Whether this is a kernel of the hub (``owner/repository``, a revision or a function may follow) that is loaded.

    transformers registers it under that name, behind its own flash attention function and with the masks of flash
    attention (a row of real columns, or none), so whatever holds for ``flash_attention_2`` holds for it.
    """
    return "/" in implementation and implementation in ALL_ATTENTION_FUNCTIONS


@contextmanager
def tapped(module: nn.Module, implementation: str, tap: Tap) -> Iterator[None]:
    """Call ``tap`` before every attention call of ``module`` in any thread, until the block is left."""
    with _lock:
        _install(implementation)
        _taps[id(module)] = (*_taps.get(id(module), ()), tap)
    try:
        yield
    finally:
        with _lock:
            left = list(_taps[id(module)])
            left.remove(tap)
            if left:
                _taps[id(module)] = tuple(left)
            else:
                del _taps[id(module)]
            _uninstall(implementation)


def _install(implementation: str) -> None:
    _users[implementation] = _users.get(implementation, 0) + 1
    if _users[implementation] > 1:
        return
    original = ALL_ATTENTION_FUNCTIONS[implementation]
    _replaced[implementation] = ALL_ATTENTION_FUNCTIONS._local_mapping.get(implementation, _ABSENT)

    # Some callers pass the mask by keyword, others by position: the names must be exactly transformers' own.
    @wraps(original)
    def wrapper(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> Any:
        for tap in _taps.get(id(module), ()):
            scaling = kwargs.get("scaling")
            tap(query, key, attention_mask, query.shape[-1] ** -0.5 if scaling is None else scaling)
        return original(module, query, key, value, attention_mask, **kwargs)

    ALL_ATTENTION_FUNCTIONS._local_mapping[implementation] = wrapper


def _uninstall(implementation: str) -> None:
    _users[implementation] -= 1
    if _users[implementation]:
        return
    replaced = _replaced.pop(implementation)
    if replaced is _ABSENT:
        del ALL_ATTENTION_FUNCTIONS._local_mapping[implementation]
    else:
        ALL_ATTENTION_FUNCTIONS._local_mapping[implementation] = replaced
