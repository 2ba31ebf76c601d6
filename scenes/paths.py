"""Smooth paths through the canvas of a moving scene: one centre per frame, in layout units."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from scenes.layout import CANVAS

PATHS: tuple[str, ...] = ("still", "linear", "bouncing", "circling")
LINEAR_SPEED = (4.0, 12.0)
"""Layout units per frame; a patch of 24 x 24 is 8 units wide."""
BOUNCING_SPEED = (8.0, 20.0)
CIRCLE_REACH = (10.0, 40.0)
CIRCLE_TURN = (0.3, 0.85)
"""Share of a full turn over the whole path; less than one, so that no place comes twice."""
_MARGIN = 1.0

Points = NDArray[np.float64]


def random_path(rng: np.random.Generator, kind: str, frames: int, radius: float) -> Points:
    """A random path of a kind for a thing of the given radius that stays wholly inside the canvas.

    Args:
        rng: all randomness comes from here.
        kind: one of PATHS.
        frames: how many frames show the thing, at least two.
        radius: of the thing, in layout units.

    Shape:
        returns: (frames, 2) float64, (x, y) of the centre.
    """
    low, high = radius + _MARGIN, CANVAS - radius - _MARGIN
    if kind == "still":
        return np.repeat(rng.uniform(low, high, (1, 2)), frames, axis=0)
    if kind == "linear":
        return _linear(rng, frames, low, high)
    if kind == "bouncing":
        return _bouncing(rng, frames, low, high)
    if kind == "circling":
        return _circling(rng, frames, low, high)
    raise ValueError(f"expected one of {PATHS}, but got {kind!r}")


def _linear(rng: np.random.Generator, frames: int, low: float, high: float) -> Points:
    """Straight on with one speed."""
    length = min(rng.uniform(*LINEAR_SPEED) * (frames - 1), 0.8 * (high - low))
    direction = rng.uniform(0, 2 * math.pi)
    way = length * np.array([math.cos(direction), math.sin(direction)])
    start = rng.uniform(low - np.minimum(way, 0), high - np.maximum(way, 0))
    return start + way * np.linspace(0, 1, frames)[:, None]


def _bouncing(rng: np.random.Generator, frames: int, low: float, high: float) -> Points:
    """To one border and back with one speed, drifting along it."""
    # Before the middle: a hit in the very middle of two frames would leave the thing where it was.
    hit = (frames - 1) * rng.uniform(0.25, 0.45)
    speed = min(rng.uniform(*BOUNCING_SPEED), 0.9 * (high - low) / (frames - 1 - hit))
    away = np.abs(np.arange(frames) - hit) * speed
    across = low + away if rng.random() < 0.5 else high - away
    drift = rng.uniform(-0.5, 0.5) * (high - low)
    along = rng.uniform(low - min(drift, 0), high - max(drift, 0)) + drift * np.linspace(0, 1, frames)
    pair = [across, along] if rng.random() < 0.5 else [along, across]
    return np.stack(pair, axis=1)


def _circling(rng: np.random.Generator, frames: int, low: float, high: float) -> Points:
    """Along a part of a circle with one speed, either way round."""
    reach = rng.uniform(CIRCLE_REACH[0], min(CIRCLE_REACH[1], (high - low) / 2))
    center = rng.uniform(low + reach, high - reach, 2)
    turn = rng.uniform(*CIRCLE_TURN) * 2 * math.pi * (1 if rng.random() < 0.5 else -1)
    angles = rng.uniform(0, 2 * math.pi) + turn * np.linspace(0, 1, frames)
    return center + reach * np.stack([np.cos(angles), np.sin(angles)], axis=1)
