"""Cheap draws: numpy's own scalar functions take several times as long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """A number between two others, evenly."""
    return low + (high - low) * rng.random()


@overload
def pick(rng: np.random.Generator, options: Sequence[T]) -> T: ...
@overload
def pick(rng: np.random.Generator, options: NDArray[Any]) -> Any: ...
def pick(rng: np.random.Generator, options: Any) -> Any:
    """One of the options, evenly."""
    return options[int(rng.random() * len(options))]
