"""A part of the cases that takes seconds: every family, every method, every value of every parameter at least once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

SHARES = {"own generate": 12, "refusals": 1, "words": 5}
"""Of the kinds of cases that are not runs, every so many."""
SLOW = "tokviz-tiny"
"""Families of this name are covered by one run each."""
RUNS = 600
"""Of the runs, one in so many beside those that cover."""


def of(names: Sequence[str]) -> list[str]:
    """A covering part of these names, the same in every process."""
    runs = [name for name in names if name.count("/") == 5]
    quick = [name for name in runs if not name.startswith(SLOW)] or runs
    chosen = {*_covering(quick, lambda f, m, given, *_: (m, given)), *_covering(runs, lambda f, *_: f)}
    chosen |= {name for name in quick if _number(name) % RUNS == 0}
    for mark, share in SHARES.items():
        chosen |= {name for name in names if mark in name.split("/") and _number(name) % share == 0}
    return sorted(chosen)


def _covering(runs: Iterable[str], key: Callable[..., object]) -> set[str]:
    """One run for each key: of those that have it, the one with the smallest number."""
    best: dict[object, str] = {}
    for name in runs:
        mine = key(*name.split("/"))
        if mine not in best or _number(name) < _number(best[mine]):
            best[mine] = name
    return set(best.values())


def _number(name: str) -> int:
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
