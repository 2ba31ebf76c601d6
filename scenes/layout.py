"""Where things lie: a random arrangement without overlaps, in units of 1/192 of the picture's shorter edge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scenes.lettering import FONT_FILES, PLATE_STYLES, TRAINING_FONTS, handwritten_numbers, plate_size
from scenes.words import COLORS, SHAPES, SIGN_NUMBERS, SIGN_WORDS, SIZES, UNSEEN_PAIRS

CANVAS = 192.0
"""Side of the central square in layout units."""
RADIUS = {"small": (4.6, 6.6), "large": (10.0, 16.0)}
"""In a grid of 24 x 24 patches a patch is 8 units wide. Of the small things 91 % cover a sixteenth or more of one to
four patches; with any pixel at all 57 % touch at most four, the others five to nine (measured, and held by a test)."""
GAP = 1.5
NOTE_SIDE = (13, 24)
"""Side of the note that a handwritten digit stands on."""
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
    """A sign before drawing.

    Box in layout units; `font` an index of FONT_FILES, or the number of the handwritten image where `kind` is "digit";
    `style` the index of the plate's colours.
    """

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


class Canvas:
    """The boxes taken so far; finds free places by trying a batch of random ones."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.taken = np.empty((96, 4))
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


def _sign_kinds(rng: np.random.Generator, dense: bool) -> list[str]:
    """At most one sign of a kind, so that "the sign" is one thing; several of them if `dense`."""
    if dense:
        return [("word", "number", "digit")[k] for k in rng.choice(3, int(rng.integers(3, 12)), p=(0.5, 0.22, 0.28))]
    return [kind for kind, share in (("word", 0.5), ("number", 0.42), ("digit", 0.42)) if rng.random() < share]


def sign_texts(rng: np.random.Generator, dense: bool) -> list[tuple[str, str]]:
    """(text, kind) of each sign."""
    words = rng.choice(len(SIGN_WORDS), 11, replace=False)
    return [
        (SIGN_WORDS[words[i]] if kind == "word" else SIGN_NUMBERS[int(rng.integers(10))], kind)
        for i, kind in enumerate(_sign_kinds(rng, dense))
    ]


def random_looks(rng: np.random.Generator, count: int, unseen: bool) -> list[tuple[str, str]]:
    """(shape, colour) of each object: a few themes repeated with one property changed, so near-duplicates abound."""
    looks: list[tuple[str, str]] = []

    def add(shape: str, color: str) -> None:
        if unseen or (color, shape) not in UNSEEN_PAIRS:
            looks.append((shape, color))

    while len(looks) < count:
        shape = SHAPES[rng.integers(len(SHAPES))]
        color = COLOR_NAMES[rng.integers(len(COLOR_NAMES))]
        add(shape, color)
        for _ in range(int(rng.integers(0, 4))):
            change = rng.random()
            if change < 0.4:
                add(shape, color)
            elif change < 0.7:
                add(shape, COLOR_NAMES[rng.integers(len(COLOR_NAMES))])
            else:
                add(SHAPES[rng.integers(len(SHAPES))], color)
    return looks[:count]


def _object_count(rng: np.random.Generator, dense: bool) -> int:
    """3-8 in half of the scenes, 9-14 in a third, 15-24 in the rest; `dense` scenes hold 12-36."""
    if dense:
        return int(rng.integers(12, 37))
    part = rng.random()
    if part < 0.5:
        return int(rng.integers(3, 9))
    return int(rng.integers(9, 15)) if part < 0.82 else int(rng.integers(15, 25))


def place_sign(rng: np.random.Generator, canvas: Canvas, text: str, kind: str, unseen: bool) -> PlacedSign | None:
    """A sign of random size in a free place, or None where there is none."""
    new = unseen and bool(rng.random() < 0.5)
    if kind == "digit":
        numbers = handwritten_numbers(int(text), new)
        font, font_height = int(numbers[rng.integers(len(numbers))]), float(rng.integers(*NOTE_SIDE))
        width = height = font_height
    else:
        font = int(rng.integers(TRAINING_FONTS, len(FONT_FILES)) if new else rng.integers(TRAINING_FONTS))
        # Whole steps, so that rendered texts can be cached.
        font_height = float(rng.integers(9, 23))
        width, height = plate_size(text, font, font_height)
    spot = canvas.place(width / 2, height / 2)
    if spot is None:
        return None
    x, y = spot
    box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    style = int(rng.integers(len(PLATE_STYLES)))
    return PlacedSign(text, kind, *box, font=font, font_height=font_height, style=style)


def random_layout(rng: np.random.Generator, dense: bool = False, unseen: bool = False) -> Layout:
    """Arrange signs first (they need the most room), then objects.

    Args:
        rng: all randomness comes from here.
        dense: many more objects and several signs, for training the vision tower; not meant for questions.
        unseen: half of the signs in held-out fonts and handwriting, and UNSEEN_PAIRS among the objects.
    """
    canvas = Canvas(rng)
    texts = sign_texts(rng, dense)
    placed = [place_sign(rng, canvas, text, kind, unseen) for text, kind in texts]
    objects: list[PlacedObject] = []
    count = _object_count(rng, dense)
    large_share = 0.25 if count > 14 else 0.4
    for shape, color in random_looks(rng, count, unseen):
        size = SIZES[int(rng.random() < large_share)]
        radius = float(rng.uniform(*RADIUS[size]))
        angle = float(rng.uniform(-14, 14))
        spot = canvas.place(radius, radius)
        if spot is not None:
            objects.append(PlacedObject(shape, color, size, *spot, radius=radius, angle=angle))
    return Layout(tuple(objects), tuple(sign for sign in placed if sign is not None))
