"""One seed, one picture: what is in it, where it lies, and how it is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from scenes.types import Box
from scenes.words import SIGN_NUMBERS, SIGN_WORDS
from testworld import asking, backgrounds, lettering, paint, shapes
from testworld.types import CROWDED, SINGLE, UNIFORM, Caption, Thing, World

DEFAULT_SIDE = 336
LARGEST = 80.0
"""Diameter of things in pixels."""
MOST_HIDDEN = 0.2
"""No thing is covered by others to a larger share."""
_CONTRAST = 30.0
"""Least distance in CIE Lab between a thing and the ground around it, else it gets a rim."""
_TRIES = 40
CAPTIONS = 10_000
"""Number of the first caption while things are still being added: captions are drawn first, but numbered last."""
Page = NDArray[np.float32]


@dataclass(frozen=True)
class Wanted:
    """A thing before it is drawn."""

    shape: str
    color: str
    diameter: float


def _one(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _looks(kind: str, rng: np.random.Generator) -> list[tuple[str, str]]:
    """(shape, colour) of everything: two crowds, whose sizes are drawn evenly, near misses, and strangers."""
    colors = tuple(paint.NAMED)
    if kind == SINGLE:
        return [(_one(rng, shapes.NAMED), _one(rng, colors))]
    if kind == UNIFORM:
        color = _one(rng, colors)
        return [(_one(rng, shapes.NAMED), color) for _ in range(int(rng.integers(1, 7)))]
    looks: list[tuple[str, str]] = []
    for most in (6, 4):
        shape, color = _one(rng, shapes.NAMED), _one(rng, colors)
        looks += [(shape, color)] * int(rng.integers(most + 1))
        for _ in range(int(rng.integers(1, 3))):
            looks.append((shape, _one(rng, colors)) if rng.random() < 0.5 else (_one(rng, shapes.NAMED), color))
    for _ in range(int(rng.integers(0, 4))):
        shape = _one(rng, shapes.UNNAMED) if rng.random() < 0.65 else _one(rng, shapes.NAMED)
        looks.append((shape, _one(rng, (*colors, *paint.UNNAMED))))
    return looks


def _wanted(kind: str, rng: np.random.Generator) -> list[Wanted]:
    """What is to be drawn, the largest first, so that small things come to lie on large ones."""
    looks = _looks(kind, rng)
    most = LARGEST if len(looks) <= 6 else 0.72 * LARGEST if len(looks) <= 11 else 0.55 * LARGEST
    result = []
    for shape, color in looks:
        least = shapes.SMALLEST.get(shape, shapes.SMALLEST_UNNAMED)
        result.append(Wanted(shape, color, least * (most / least) ** float(rng.random())))
    return sorted(result, key=lambda thing: -thing.diameter)


class Canvas:
    """The picture so far: its colours, and which thing or caption each pixel shows."""

    def __init__(self, page: Page, rng: np.random.Generator) -> None:
        self.page, self.rng = page, rng
        self.side = page.shape[0]
        self.owner = np.full(page.shape[:2], -1, np.int16)
        self.areas: dict[int, int] = {}
        """Pixels of each thing before any was covered."""

    def window(self, height: int, width: int) -> tuple[slice, slice] | None:
        """A random place for a page of this size; None where it does not fit."""
        if max(height, width) > self.side - 4:
            return None
        y, x = int(self.rng.integers(2, self.side - height - 1)), int(self.rng.integers(2, self.side - width - 1))
        return slice(y, y + height), slice(x, x + width)

    def near_a_thing(self, side: int) -> tuple[slice, slice] | None:
        """A place for a square page that may touch a thing; None where there is none yet, or it does not fit there."""
        shown = np.argwhere((self.owner >= 0) & (self.owner < CAPTIONS))
        if not len(shown):
            return None
        y, x = shown[int(self.rng.integers(len(shown)))] + self.rng.integers(-side, 1, 2)
        inside = min(y, x) >= 2 and max(y, x) + side <= self.side - 2
        return (slice(int(y), int(y) + side), slice(int(x), int(x) + side)) if inside else None

    def free(self, place: tuple[slice, slice], mask: NDArray[np.bool_], overlaps: bool) -> bool:
        """Whether something may lie here: on nothing, or (with `overlaps`) on things that stay visible enough."""
        below = self.owner[place]
        if not overlaps:
            near = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
            return not (below[near] >= 0).any()
        for number in np.unique(below[mask & (below >= 0)]):
            left = int((self.owner == number).sum()) - int((below[mask] == number).sum())
            if int(number) not in self.areas or left < (1 - MOST_HIDDEN) * self.areas[int(number)]:
                return False
        return True

    def add(self, wanted: Wanted, number: int) -> str | None:
        """Draw a thing in a free place; its style, or None where none was found."""
        rng = self.rng
        hollow = wanted.shape in shapes.HOLLOW and wanted.diameter >= 26 and bool(rng.random() < 0.2)
        cover = shapes.silhouette(wanted.shape, wanted.diameter, rng, hollow)
        mask = cover > 0.5
        overlaps = bool(rng.random() < 0.4) and not hollow
        for _ in range(_TRIES):
            place = (self.near_a_thing(len(cover)) if overlaps else None) or self.window(*cover.shape)
            if place is not None and self.free(place, mask, overlaps):
                style = self._paint(place, cover, wanted.color, hollow)
                self.owner[place][mask] = number
                self.areas[number] = int(mask.sum())
                return style
        return None

    def _paint(self, place: tuple[slice, slice], cover: Page, color: str, hollow: bool) -> str:
        rng, view = self.rng, self.page[place]
        style = "flat" if hollow else _one(rng, paint.FILLS)
        if style in ("striped", "dotted") and len(cover) < 28:
            style = "slope"
        filling = paint.fill(len(cover), color, style, rng)
        around = (cv2.dilate((cover > 0.1).astype(np.uint8), np.ones((7, 7), np.uint8)) > 0) & (cover < 0.1)
        covering = bool((self.owner[place][cover > 0.5] >= 0).any())
        tone = paint.lab(np.median(filling[cover > 0.5], axis=0))
        near = np.linalg.norm(paint.lab(view[around]) - tone, axis=1)
        faint = float(np.percentile(near, 15)) < _CONTRAST
        if rng.random() < 0.2 and not hollow:
            self._shadow(view, cover)
        if covering or faint or rng.random() < 0.25:
            self._rim(view, cover, float(tone[0]), around)
            style += " with rim"
        view += cover[..., None] * (filling - view)
        return ("hollow " if hollow else "") + style

    def _rim(self, view: Page, cover: Page, tone: float, around: NDArray[np.bool_]) -> None:
        """A dark or light line around a thing, whichever can be told better from it and from the ground."""
        ground = float(np.median(paint.lightness(view[around])))
        dark = min(abs(tone - 5), abs(ground - 5)) >= min(abs(tone - 96), abs(ground - 96))
        line = cv2.dilate(cover, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3)))
        view += line[..., None] * (np.float32(0.06 if dark else 0.97) - view)

    @staticmethod
    def _shadow(view: Page, cover: Page) -> None:
        shifted = np.zeros_like(cover)
        shifted[2:, 2:] = cv2.GaussianBlur(cover, (5, 5), 0)[:-2, :-2]
        view *= 1 - 0.35 * shifted[..., None]

    def write(self, text: str, number: int, kind: str) -> Caption | None:
        """Write in a free place; None where none was found."""
        written = lettering.letter(text, self.rng, 0.62 * self.side)
        plate = written.plate.any()
        mask = (written.plate if plate else cv2.dilate(written.ink, np.ones((7, 7), np.uint8))) > 0.3
        for _ in range(_TRIES):
            place = self.window(*written.ink.shape)
            if place is not None and self.free(place, mask, False):
                colors = lettering.paint_lettering(self.page[place], written, self.rng)
                self.owner[place][mask] = number
                box = _box(np.pad(mask, ((place[0].start, 0), (place[1].start, 0))))
                return Caption(text, written.shown, kind, box, written.font, written.height, bool(plate), colors)
        return None


def _box(mask: NDArray[np.bool_]) -> Box:
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(cols[0]), float(rows[0]), float(cols[-1] + 1), float(rows[-1] + 1)


def _texts(kind: str, rng: np.random.Generator) -> list[tuple[str, str]]:
    """(text, kind) of the captions: at most one word and one number, so that "the sign" is one thing."""
    if kind != CROWDED:
        return []
    word = bool(rng.random() < 0.85)
    number = not word or bool(rng.random() < 0.6)
    texts = [(_one(rng, SIGN_WORDS), "word")] if word else []
    return [*texts, (_one(rng, SIGN_NUMBERS), "number")] if number else texts


def generate_world(seed: int, kind: str = CROWDED, *, side: int = DEFAULT_SIDE, questions_per_family: int = 2) -> World:
    """Draw the picture of a seed and ask about it.

    Args:
        seed: any non-negative integer.
        kind: CROWDED, SINGLE or UNIFORM.
        side: of the square picture in pixels; things keep their size, so a smaller one holds fewer.
        questions_per_family: how many to try; a picture may allow fewer.

    Raises:
        ValueError: an unknown kind, or a picture below 224 pixels.

    Example:
        >>> generate_world(0).image.shape
        (336, 336, 3)
    """
    if kind not in (CROWDED, SINGLE, UNIFORM) or side < 224:
        raise ValueError(
            f"expected {CROWDED!r}, {SINGLE!r} or {UNIFORM!r} and at least 224 pixels, but got {kind!r} and {side}"
        )
    rng = np.random.default_rng([seed, (CROWDED, SINGLE, UNIFORM).index(kind), 77])
    background, page = backgrounds.ground(side, rng)
    canvas = Canvas(page, rng)
    captions: list[Caption] = []
    for text, sort in _texts(kind, rng):
        caption = canvas.write(text, CAPTIONS + len(captions), sort)
        if caption is not None:
            captions.append(caption)
    drawn: list[tuple[Wanted, str]] = []
    for wanted in _wanted(kind, rng):
        style = canvas.add(wanted, len(drawn))
        if style is not None:
            drawn.append((wanted, style))
    owner = canvas.owner
    owner[owner >= CAPTIONS] += len(drawn) - CAPTIONS
    things = tuple(_thing(canvas, number, wanted, style) for number, (wanted, style) in enumerate(drawn))
    image = np.clip(np.rint(canvas.page * 255), 0, 255).astype(np.uint8)
    asker = asking.Asker(np.random.default_rng([seed, 78]), things, tuple(captions), side, seed)
    questions = asker.ask(questions_per_family) if questions_per_family and things else ()
    return World(seed, image, owner, background, things, tuple(captions), questions)


def _thing(canvas: Canvas, number: int, wanted: Wanted, style: str) -> Thing:
    mask = canvas.owner == number
    box = _box(mask)
    visible = float(mask.sum()) / canvas.areas[number]
    center = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    return Thing(wanted.shape, wanted.color, center, wanted.diameter, box, visible, style)
