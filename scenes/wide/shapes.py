"""Outlines of everything that the wide world draws: the six named shapes in many variants, and unnamed kinds."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from scenes.wide.dice import between
from scenes.words import SHAPES

Points = NDArray[np.float64]
OTHER_SHAPES: tuple[str, ...] = ("heart", "moon", "arrow", "bolt", "oval", "rectangle", "drop", "hexagon")
"""Kinds that count as objects and that no question names."""
LEAST_SIDE = {"hexagon": 46.0, "oval": 26.0, "rectangle": 22.0, "moon": 26.0, "heart": 24.0, "drop": 26.0}
"""Below this many pixels a kind would pass for a named shape."""
RING_HOLE = (0.46, 0.68)
"""Radius of a ring's hole in radii of the ring."""
_SQUARE: Points = np.array([(-1.0, -1.0), (1, -1), (1, 1), (-1, 1)])


@lru_cache(maxsize=64)
def _directions(count: int) -> Points:
    """Unit vectors to the corners of a regular polygon, the first one up."""
    angles = -math.pi / 2 + np.arange(count) * (2 * math.pi / count)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _circle(rng: np.random.Generator) -> Points:
    return _directions(40)


def _square(rng: np.random.Generator) -> Points:
    return _SQUARE


def _triangle(rng: np.random.Generator) -> Points:
    tip = between(rng, -0.35, 0.35) if rng.random() < 0.5 else 0.0
    height = between(rng, 1.5, 2.0)
    return np.array([(tip, -height / 2), (1.0, height / 2), (-1.0, height / 2)])


def _star(rng: np.random.Generator) -> Points:
    tips = 5 if rng.random() < 0.75 else (4, 6)[int(rng.random() * 2)]
    inner = between(rng, 0.36, 0.48) if tips > 4 else between(rng, 0.3, 0.38)
    points = _directions(2 * tips).copy()
    points[1::2] *= inner
    return points


def _cross(rng: np.random.Generator) -> Points:
    arm = between(rng, 0.2, 0.38)
    quarter = [(arm, -1.0), (arm, -arm), (1.0, -arm), (1.0, arm), (arm, arm), (arm, 1.0)]
    return np.array([*quarter, *((-x, -y) for x, y in quarter)])


def _heart(rng: np.random.Generator) -> Points:
    t = np.arange(40) * (2 * math.pi / 40)
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([16 * np.sin(t) ** 3, y], axis=1)


def _moon(rng: np.random.Generator) -> Points:
    shift, radius = 0.85, between(rng, 0.66, 0.74)  # so thick that its middle lies on it
    tip = (1 + shift**2 - radius**2) / (2 * shift)  # where both circles meet
    outer_start, inner_start = math.acos(tip), math.acos((tip - shift) / radius)
    outer = np.linspace(outer_start, 2 * math.pi - outer_start, 28)
    inner = np.linspace(2 * math.pi - inner_start, inner_start, 20)
    bow = np.stack([np.cos(outer), np.sin(outer)], axis=1)
    return np.concatenate([bow, np.stack([shift + radius * np.cos(inner), radius * np.sin(inner)], axis=1)])


def _arrow(rng: np.random.Generator) -> Points:
    shaft = between(rng, 0.18, 0.32)
    return np.array([(-1, -shaft), (0.1, -shaft), (0.1, -0.7), (1, 0), (0.1, 0.7), (0.1, shaft), (-1, shaft)])


def _bolt(rng: np.random.Generator) -> Points:
    return np.array([(0.1, -1), (-0.55, 0.15), (-0.05, 0.15), (-0.3, 1), (0.6, -0.25), (0.1, -0.25), (0.45, -1)])


def _oval(rng: np.random.Generator) -> Points:
    return _directions(40) * (1.0, between(rng, 0.4, 0.58))


def _rectangle(rng: np.random.Generator) -> Points:
    return _SQUARE * (1.0, between(rng, 0.28, 0.55))


def _drop(rng: np.random.Generator) -> Points:
    arc = np.linspace(-0.2 * math.pi, 1.2 * math.pi, 24)
    return np.concatenate([np.stack([0.6 * np.cos(arc), 0.6 * np.sin(arc) + 0.4], axis=1), [(0.0, -1.0)]])


def _hexagon(rng: np.random.Generator) -> Points:
    return _directions(6)


_OUTLINES: dict[str, Callable[[np.random.Generator], Points]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _circle,
    "heart": _heart,
    "moon": _moon,
    "arrow": _arrow,
    "bolt": _bolt,
    "oval": _oval,
    "rectangle": _rectangle,
    "drop": _drop,
    "hexagon": _hexagon,
}


def outline(rng: np.random.Generator, shape: str, side: float, angle: float) -> Points:
    """A random variant of a shape, turned, its bounding box centred on the origin with the longer side `side`.

    Shape:
        returns: (P, 2) float64, (x, y) in pixels.
    """
    points = _OUTLINES[shape](rng)
    slack = 0.06 if shape in ("circle", "ring", "square") else 0.16 if shape in SHAPES else 0.0
    stretch = between(rng, 1 - slack, 1 + slack)
    turn = math.radians(angle)
    cosine, sine = math.cos(turn), math.sin(turn)
    points = points @ np.array([[cosine, sine], [-sine * stretch, cosine * stretch]])
    low, high = points.min(axis=0), points.max(axis=0)
    return np.asarray((points - (low + high) / 2) * (side / float((high - low).max())))
