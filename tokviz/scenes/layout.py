"""Where things lie: a random arrangement without overlaps, in units of 1/192 of the picture's shorter edge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokviz.scenes.lettering import FONT_FILES, PLATE_STYLES, plate_size
from tokviz.scenes.words import COLORS, SHAPES, SIGN_NUMBERS, SIGN_WORDS, SIZES

CANVAS = 192.0
"""Side of the central square in layout units."""
RADIUS = {"small": (8.5, 11.5), "large": (15.0, 20.0)}
GAP = 2.0
COLOR_NAMES = tuple(COLORS)


@dataclass(frozen=True)
class PlacedObject:
    """An object before drawing; centre and radius in layout units, angle in degrees."""

    shape: str
    color: str
    size: str
    x: float
    y: float
    radius: float
    angle: float


@dataclass(frozen=True)
class PlacedSign:
    """A sign before drawing; box in layout units, `font` an index, `style` the index of the plate's colours."""

    text: str
    kind: str
    x0: float
    y0: float
    x1: float
    y1: float
    font: int
    font_height: float
    style: int


@dataclass(frozen=True)
class Layout:
    """All that is placed in one scene."""

    objects: tuple[PlacedObject, ...]
    signs: tuple[PlacedSign, ...]


class _Canvas:
    """The boxes taken so far; finds free places by trying a batch of random ones."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.taken = np.empty((64, 4))
        self.used = 0

    def place(self, half_w: float, half_h: float) -> tuple[float, float] | None:
        """Centre of a free place for a box of the given half sides, or None when 24 tries failed."""
        xs = self.rng.uniform(half_w + 1, CANVAS - half_w - 1, 24)
        ys = self.rng.uniform(half_h + 1, CANVAS - half_h - 1, 24)
        taken = self.taken[: self.used]
        apart = (
            (xs[:, None] - half_w - GAP >= taken[:, 2])
            | (xs[:, None] + half_w + GAP <= taken[:, 0])
            | (ys[:, None] - half_h - GAP >= taken[:, 3])
            | (ys[:, None] + half_h + GAP <= taken[:, 1])
        ).all(axis=1)
        free = np.flatnonzero(apart)
        if not len(free):
            return None
        x, y = float(xs[free[0]]), float(ys[free[0]])
        self.taken[self.used] = (x - half_w, y - half_h, x + half_w, y + half_h)
        self.used += 1
        return x, y


def _sign_texts(rng: np.random.Generator, dense: bool) -> list[tuple[str, str]]:
    """(text, kind) of each sign: at most one of a kind, so that "the sign" is one thing; more of them if `dense`."""
    if dense:
        kinds = rng.random(int(rng.integers(3, 10))) < 0.65
    else:
        kinds = np.array([True] * (rng.random() < 0.55) + [False] * (rng.random() < 0.45), dtype=bool)
    words = rng.choice(len(SIGN_WORDS), 9, replace=False)
    numbers = rng.choice(len(SIGN_NUMBERS), 9, replace=False)
    return [
        (SIGN_WORDS[words[i]], "word") if is_word else (SIGN_NUMBERS[numbers[i]], "number")
        for i, is_word in enumerate(kinds)
    ]


def _looks(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """(shape, colour) of each object: a few themes repeated with one property changed, so near-duplicates abound."""
    looks: list[tuple[str, str]] = []
    while len(looks) < count:
        shape = SHAPES[rng.integers(len(SHAPES))]
        color = COLOR_NAMES[rng.integers(len(COLOR_NAMES))]
        looks.append((shape, color))
        for _ in range(int(rng.integers(0, 4))):
            change = rng.random()
            if change < 0.4:
                looks.append((shape, color))
            elif change < 0.7:
                looks.append((shape, COLOR_NAMES[rng.integers(len(COLOR_NAMES))]))
            else:
                looks.append((SHAPES[rng.integers(len(SHAPES))], color))
    return looks[:count]


def _object_count(rng: np.random.Generator, dense: bool) -> int:
    """3-8 in half of the scenes, 9-14 in a third, 15-20 in the rest; `dense` scenes hold 8-22."""
    if dense:
        return int(rng.integers(8, 23))
    part = rng.random()
    if part < 0.5:
        return int(rng.integers(3, 9))
    return int(rng.integers(9, 15)) if part < 0.85 else int(rng.integers(15, 21))


def random_layout(rng: np.random.Generator, dense: bool = False) -> Layout:
    """Arrange signs first (they need the most room), then objects.

    Args:
        rng: all randomness comes from here.
        dense: many more objects and several signs, for training the vision tower; not meant for questions.
    """
    canvas = _Canvas(rng)
    signs: list[PlacedSign] = []
    for text, kind in _sign_texts(rng, dense):
        font = int(rng.integers(len(FONT_FILES)))
        font_height = float(rng.integers(15, 24))  # whole steps, so that rendered texts can be cached
        width, height = plate_size(text, font, font_height)
        spot = canvas.place(width / 2, height / 2)
        if spot is not None:
            x, y = spot
            box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
            style = int(rng.integers(len(PLATE_STYLES)))
            signs.append(PlacedSign(text, kind, *box, font=font, font_height=font_height, style=style))
    objects: list[PlacedObject] = []
    count = _object_count(rng, dense)
    large_share = 0.25 if count > 14 else 0.4
    for shape, color in _looks(rng, count):
        size = SIZES[int(rng.random() < large_share)]
        radius = float(rng.uniform(*RADIUS[size]))
        angle = float(rng.uniform(-14, 14))
        spot = canvas.place(radius, radius)
        if spot is not None:
            objects.append(PlacedObject(shape, color, size, *spot, radius=radius, angle=angle))
    return Layout(tuple(objects), tuple(signs))
