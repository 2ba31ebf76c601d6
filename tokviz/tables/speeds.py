"""Speeds that papers print of methods, from ``papers/speeds.csv``, each with its device and the table it stands in.

They were measured by others, on other machines, models and software: they say what to expect, not what happened here.
Every number was read in the text of the paper.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from .published import FOLDER

What = Literal["prefill", "decode", "total time", "latency per sample", "throughput"]


@dataclass(frozen=True)
class PublishedSpeed:
    """One printed speed of one method.

    Attributes:
        method: Its id.
        paper: The short name of the paper that printed it, which may be about another method.
        table: Where it stands there.
        model: What was pruned.
        device: What it was measured on.
        on: The benchmark; empty where the paper names none.
        tokens: Visual tokens that were kept, as a number or a percentage, as it is printed.
        of: Visual tokens without pruning; None where the paper does not print them.
        what: What was measured; ``throughput`` counts samples per second, everything else is a time.
        unit: Of ``unpruned`` and ``value``.
        unpruned: Without pruning.
        value: With the method.
        printed: The speed-up as it is printed; None where it is not.
    """

    method: str
    paper: str
    table: str
    model: str
    device: str
    on: str
    tokens: str
    of: int | None
    what: What
    unit: str
    unpruned: float
    value: float
    printed: float | None

    @property
    def speedup(self) -> float:
        """How many times faster the method is: as printed, else of the two printed values. Below 1 it is slower."""
        if self.printed is not None:
            return self.printed
        return self.value / self.unpruned if self.what == "throughput" else self.unpruned / self.value

    @property
    def source(self) -> str:
        """Paper and table."""
        return f"{self.paper}, {self.table}"


def published_speeds(method: str | None = None) -> tuple[PublishedSpeed, ...]:
    """Return the speeds that papers print, of one method by its id or of all, in the order of their tables.

    Example:
        >>> for speed in tokviz.published_speeds("apet"):
        ...     print(f"{speed.what}: {speed.speedup}x on {speed.device} ({speed.source})")
    """
    return tuple(speed for speed in _all() if method in (None, speed.method))


@cache
def _all() -> tuple[PublishedSpeed, ...]:
    with (FOLDER / "speeds.csv").open(encoding="utf-8", newline="") as file:
        return tuple(map(_speed, csv.DictReader(file, strict=True)))


def _speed(line: dict[str, Any]) -> PublishedSpeed:
    """A line of the file; what is empty is not printed."""
    numbers: dict[str, Any] = {
        "of": int(line["of"]) if line["of"] else None,
        "unpruned": float(line["unpruned"]),
        "value": float(line["value"]),
        "printed": float(line["printed"]) if line["printed"] else None,
    }
    return PublishedSpeed(**{**line, **numbers})
