"""Where things lie in the wide world: near one another, over one another, cut by the edge, but never unrecognisable."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from scenes.wide.backgrounds import SIDE
from scenes.wide.colors import tints, to_lab
from scenes.wide.dice import between
from scenes.wide.lettering import SignDesign
from scenes.wide.plan import Manner, Wish, fitting_style, random_style
from scenes.wide.shapes import LEAST_SIDE, RING_HOLE, Points, outline

SIDES = {"small": (12.0, 24.0), "": (25.0, 35.0), "large": (36.0, 180.0)}
"""Longer side of the bounding box in pixels, by size; more than 90 only in scenes of one or two things.

No question is about sizes in a scene that shows a thing without a size name."""
LEAST_VISIBLE = 0.6
"""Share of a thing that nothing else may cover."""
LEAST_INSIDE = 0.72
"""Share of a thing that must lie inside the picture."""
LEAST_CONTRAST = 32.0
"""Lab distance of a thing to the ground under it, and to what it partly hides."""
CENTERS_APART = 20.0
"""More than the diagonal of a patch: each centre has a patch of its own."""
_CELLS = 24


@dataclass(frozen=True)
class Placed:
    """A thing before drawing; points in pixel corners' coordinates, `hole` only for rings, `stroke` for outlines."""

    shape: str
    color: str
    size: str
    x: float
    y: float
    side: float
    angle: float
    points: Points
    hole: Points | None
    tint: NDArray[np.uint8]
    style: str
    stroke: int


def polygon_mask(points: Points, x0: int, y0: int, width: int, height: int) -> NDArray[np.uint8]:
    """1 where the polygon lies, in the window that begins at (x0, y0)."""
    mask = np.zeros((height, width), np.uint8)
    # OpenCV's coordinates name pixel middles, ours pixel corners.
    fixed = np.round((points - (x0 + 0.5, y0 + 0.5)) * 16).astype(np.int32)
    cv2.fillPoly(mask, [fixed], (1,), cv2.LINE_8, 4)
    return mask


def window(points: Points) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1) of the part of the picture that a drawn polygon can touch, end exclusive."""
    (low_x, low_y), (high_x, high_y) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return max(int(low_x) - 2, 0), max(int(low_y) - 2, 0), min(int(high_x) + 3, SIDE), min(int(high_y) + 3, SIDE)


def _stroke(rng: np.random.Generator, shape: str, side: float) -> int:
    """Thickness of an outline in pixels."""
    thickest = 0.045 if shape == "circle" else 0.08 if shape in ("star", "cross") else 0.11
    return max(2, round(side * between(rng, 0.03, thickest)))


class Stage:
    """The picture's ground plan: who owns which pixel so far."""

    def __init__(self, rng: np.random.Generator, picture: NDArray[np.uint8], manner: Manner) -> None:
        self.rng, self.manner = rng, manner
        self.owner = np.full((SIDE, SIDE), -1, np.int16)
        self.ground = to_lab(np.asarray(cv2.resize(picture, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA)))
        self.objects: list[Placed] = []
        self.labs: list[NDArray[np.float32]] = []
        self.circles = np.empty((64, 3))
        self.full: list[int] = []
        self.visible: list[int] = []
        self.signs: list[tuple[SignDesign, float, float]] = []
        self.plates = np.empty((16, 4))

    def add_sign(self, design: SignDesign) -> bool:
        """Find a free place for a sign; signs come before all things."""
        half_w, half_h = design.half
        reach_w = max(half_w, design.ink.shape[1] / 2) + 2
        reach_h = max(half_h, design.ink.shape[0] / 2) + 2
        if max(reach_w, reach_h) * 2 >= SIDE or len(self.signs) == len(self.plates):
            return False
        xs = reach_w + (SIDE - 2 * reach_w) * self.rng.random(16)
        ys = reach_h + (SIDE - 2 * reach_h) * self.rng.random(16)
        taken = self.plates[: len(self.signs)]
        apart = (
            (xs[:, None] - reach_w >= taken[:, 2])
            | (xs[:, None] + reach_w <= taken[:, 0])
            | (ys[:, None] - reach_h >= taken[:, 3])
            | (ys[:, None] + reach_h <= taken[:, 1])
        ).all(axis=1)
        free = np.flatnonzero(apart)
        if not len(free):
            return False
        x, y = float(xs[free[0]]), float(ys[free[0]])
        self.plates[len(self.signs)] = (x - reach_w, y - reach_h, x + reach_w, y + reach_h)
        self.signs.append((design, x, y))
        return True

    def close_signs(self) -> None:
        """Nothing may touch the signs from now on."""
        for number, (design, x, y) in enumerate(self.signs):
            outer = design.corners if design.plate is None else design.plate
            fixed = np.round((outer + np.array([x - 0.5, y - 0.5])) * 16).astype(np.int32)
            cv2.fillPoly(self.owner, [fixed], (-2 - number,), cv2.LINE_8, 4)

    def _side(self, wish: Wish) -> float:
        low, high = SIDES[wish.size]
        if wish.size == "large":
            high = self.manner.largest
        side = low + (high - low) * self.rng.random() ** 1.3
        return max(side, LEAST_SIDE.get(wish.shape, 0.0))

    def add_object(self, wish: Wish) -> bool:
        """Find a place for a thing where it can be told from its ground and hides no other; False if there is none."""
        if len(self.objects) == len(self.circles):
            return False
        rng = self.rng
        side = self._side(wish)
        upright = self.manner.upright or rng.random() < 0.4
        angle = between(rng, -15, 15) if upright else between(rng, 0, 360)
        shape_points = outline(rng, wish.shape, side, angle)
        hole = shape_points * between(rng, *RING_HOLE) if wish.shape == "ring" else None
        style = fitting_style(self.manner.style or random_style(rng), wish.shape, side)
        stroke = _stroke(rng, wish.shape, side) if style == "outline" else 0
        half = shape_points.max(axis=0)  # `outline` centres its bounding box
        spots = self._spots(side, half)
        for x, y in spots[self._apart(spots, side, half)][:4]:
            place = np.array([x, y])
            number = int(rng.random() * 512)
            lab = self._contrasting(wish.color, number, place, half)
            if lab is None:
                continue
            points = shape_points + place
            if self._claim(points, None if hole is None else hole + place, stroke, lab[1]):
                self.circles[len(self.objects)] = (x, y, side)
                self.objects.append(
                    Placed(
                        wish.shape, wish.color, wish.size, float(x), float(y), side, angle, points,
                        None if hole is None else hole + place, lab[0], style, stroke,
                    )
                )  # fmt: skip
                self.labs.append(lab[1])
                return True
        return False

    def _spots(self, side: float, half: NDArray[np.float64]) -> NDArray[np.float64]:
        """Places to try, (x, y): anywhere, or close to a thing that is there where things may overlap."""
        rng, manner = self.rng, self.manner
        margin = half * 0.5 if manner.cut else half + 1
        spots = margin + (SIDE - 2 * margin) * rng.random((20, 2))
        if manner.overlapping and self.objects and rng.random() < 0.6:
            near = self.circles[int(rng.random() * len(self.objects))]
            turns, shares = 2 * np.pi * rng.random(10), 0.3 + 0.22 * rng.random(10)
            away = (shares * (near[2] + side))[:, None] * np.stack([np.cos(turns), np.sin(turns)], axis=1)
            spots[:10] = np.clip(near[:2] + away, margin, SIDE - margin)
        return spots

    def _apart(self, spots: NDArray[np.float64], side: float, half: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which spots are far enough from all things and signs for a closer look."""
        others, plates = self.circles[: len(self.objects)], self.plates[: len(self.signs)]
        away = spots[:, None] - others[:, :2]
        least = np.maximum((others[:, 2] + side) * self.manner.nearness, CENTERS_APART)
        free = ((away * away).sum(axis=2) >= least * least).all(axis=1)
        if not len(plates) or not free.any():
            return np.asarray(free)
        clear = (
            (spots[:, None, 0] - half[0] >= plates[:, 2])
            | (spots[:, None, 0] + half[0] <= plates[:, 0])
            | (spots[:, None, 1] - half[1] >= plates[:, 3])
            | (spots[:, None, 1] + half[1] <= plates[:, 1])
        ).all(axis=1)
        return np.asarray(free & clear)

    def _contrasting(
        self, color: str, number: int, place: NDArray[np.float64], half: NDArray[np.float64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]] | None:
        """A tint of the colour that stands out here, in RGB and Lab; None after three tries."""
        (x, y), (half_x, half_y), scale = place.tolist(), half.tolist(), _CELLS / SIDE
        x0, y0 = max(0, int((x - half_x) * scale)), max(0, int((y - half_y) * scale))
        under = self.ground[y0 : int((y + half_y) * scale) + 1, x0 : int((x + half_x) * scale) + 1].reshape(-1, 3)
        rgb, lab = tints(color)
        for step in (0, 171, 342):
            at = (number + step) % len(rgb)
            away = under - lab[at]
            distances = np.sqrt((away * away).sum(axis=1))
            if distances.min() >= LEAST_CONTRAST * 0.6 and distances.sum() >= LEAST_CONTRAST * len(distances):
                return rgb[at], lab[at]
        return None

    def _claim(self, points: Points, hole: Points | None, stroke: int, lab: NDArray[np.float32]) -> bool:
        """Take the pixels of a thing if what it covers stays recognisable; what is seen through it keeps its own."""
        x0, y0, x1, y1 = window(points)
        mask = polygon_mask(points, x0, y0, x1 - x0, y1 - y0)
        inside = mask.view(bool)
        region = self.owner[y0:y1, x0:x1]
        under = region[inside]
        area = len(under)
        if self.manner.cut and area < LEAST_INSIDE * cv2.contourArea(points.astype(np.float32)):
            return False
        taken = inside
        if (under != -1).any():
            if not self.manner.overlapping or not area:
                return False
            solid = mask
            if hole is not None:
                solid = mask & ~polygon_mask(hole, x0, y0, x1 - x0, y1 - y0)
            elif stroke:
                solid = mask - np.asarray(
                    cv2.erode(mask, np.ones((2 * stroke + 1, 2 * stroke + 1), np.uint8)), np.uint8
                )
            covered = region[solid.view(bool)]
            if covered.size and covered.min() < -1:
                return False
            hidden = np.bincount(covered[covered >= 0], minlength=len(self.objects))
            if not all(self._may_hide(i, int(hidden[i]), solid, x0, y0, lab) for i in np.flatnonzero(hidden).tolist()):
                return False
            taken = solid.view(bool) | (inside & (region == -1))
            for other in np.flatnonzero(hidden):
                self.visible[other] -= int(hidden[other])
            area = int(taken.sum())
        region[taken] = len(self.objects)
        self.full.append(len(under))
        self.visible.append(area)
        return True

    def _may_hide(
        self, other: int, pixels: int, solid: NDArray[np.uint8], x0: int, y0: int, lab: NDArray[np.float32]
    ) -> bool:
        """Whether a mask may cover that many pixels of a thing: not its centre, not much, and not in its own colour."""
        return (
            self.visible[other] - pixels >= LEAST_VISIBLE * self.full[other]
            and float(np.linalg.norm(self.labs[other] - lab)) >= LEAST_CONTRAST
            and not self._near_center(solid, x0, y0, self.objects[other])
        )

    @staticmethod
    def _near_center(solid: NDArray[np.uint8], x0: int, y0: int, item: Placed) -> bool:
        """Whether the mask comes within three pixels of the centre of a thing."""
        x, y = int(item.x) - x0, int(item.y) - y0
        part = solid[max(0, y - 3) : max(0, y + 4), max(0, x - 3) : max(0, x + 4)]
        return bool(part.any())
