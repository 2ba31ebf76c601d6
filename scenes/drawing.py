"""Turns a layout into a picture and an owner map, at any size."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from scenes.layout import CANVAS, Layout, PlacedObject, PlacedSign
from scenes.lettering import PLATE_STYLES, handwritten_mask, text_mask
from scenes.types import Box
from scenes.words import COLORS

Picture = NDArray[np.uint8]
_SHIFT = 4
_RING_HOLE = 0.52
BACKGROUNDS = ("plain", "gradient", "clouds", "stripes", "checks", "grain")


def central_square(width: int, height: int) -> Box:
    """The largest square around the middle, in pixels."""
    side = min(width, height)
    x0, y0 = (width - side) / 2, (height - side) / 2
    return (x0, y0, x0 + side, y0 + side)


def outline(shape: str, x: float, y: float, radius: float, angle: float) -> NDArray[np.float64]:
    """Corner points of a shape (a fine polygon for round ones).

    Shape:
        returns: (P, 2) float64, (x, y) in the unit of the arguments.
    """
    turn = math.radians(angle)
    if shape in ("circle", "ring"):
        angles, radii = np.arange(40) * (math.pi / 20), np.full(40, 0.94)
    elif shape == "square":
        angles, radii = math.pi / 4 + np.arange(4) * math.pi / 2, np.full(4, 1.1)
        turn *= 0.5  # a square that turns further fills more than its circle, and starts to look like a diamond
    elif shape == "triangle":
        angles, radii = -math.pi / 2 + np.arange(3) * 2 * math.pi / 3, np.full(3, 1.08)
        y += 0.18 * radius
    elif shape == "star":
        angles = -math.pi / 2 + np.arange(10) * math.pi / 5
        radii = np.where(np.arange(10) % 2 == 0, 1.06, 0.45)
    elif shape == "cross":
        arm, tip = 0.32, 0.98
        corner = np.array([(arm, tip), (arm, arm), (tip, arm)])
        turns = [np.array([[c, -s], [s, c]]) for c, s in ((1, 0), (0, -1), (-1, 0), (0, 1))]
        points = np.concatenate([corner @ t.T for t in turns])
        angles, radii = np.arctan2(points[:, 1], points[:, 0]), np.hypot(points[:, 0], points[:, 1])
    else:
        raise ValueError(f"expected one of the known shapes, but got {shape!r}")
    angles = angles + turn
    return np.stack([x + radius * radii * np.cos(angles), y + radius * radii * np.sin(angles)], axis=1)


def background(rng: np.random.Generator, width: int, height: int) -> Picture:
    """A muted background; half of them plain or nearly so, half busy.

    Shape:
        returns: (height, width, 3) uint8.
    """
    kind = BACKGROUNDS[rng.choice(6, p=(0.3, 0.15, 0.2, 0.12, 0.11, 0.12))]
    grey = rng.uniform(120, 235)
    base = np.clip(grey + rng.normal(0, 9, 3), 90, 245)
    other = np.clip(base + rng.choice([-1, 1]) * rng.uniform(12, 38) + rng.normal(0, 5, 3), 80, 250)
    unit = min(width, height) / CANVAS
    weight: cv2.typing.MatLike
    if kind == "plain":
        weight = np.zeros((height, width), np.float32)
    elif kind == "gradient":
        corners = rng.random((2, 2)).astype(np.float32)
        weight = cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR)
    elif kind == "clouds":
        cells = int(rng.integers(5, 20))
        weight = cv2.resize(
            rng.random((cells, cells), dtype=np.float32), (width, height), interpolation=cv2.INTER_CUBIC
        )
    elif kind in ("stripes", "checks"):
        pitch, lean = rng.uniform(6, 26) * unit, rng.uniform(0, math.pi)
        ys, xs = np.mgrid[:height, :width].astype(np.float32)
        along = np.floor((xs * math.cos(lean) + ys * math.sin(lean)) / pitch)
        if kind == "checks":
            along = along + np.floor((ys * math.cos(lean) - xs * math.sin(lean)) / pitch)
        weight = (along % 2).astype(np.float32)
    else:
        cells_h, cells_w = max(1, round(height / unit / 2)), max(1, round(width / unit / 2))
        weight = cv2.resize(rng.random((cells_h, cells_w), dtype=np.float32), (width, height))
    low, high = base.astype(np.float32), other.astype(np.float32)
    picture = np.empty((height, width, 3), np.uint8)
    for channel in range(3):
        mixed = low[channel] + weight * (high[channel] - low[channel])
        picture[..., channel] = np.clip(mixed, 0, 255, out=mixed)
    return picture


def _changes(rng: np.random.Generator) -> list[float]:
    common, *own = rng.normal(0, 7, 4).tolist()
    return [common + change for change in own]


def _tint(rng: np.random.Generator, color: str) -> tuple[int, int, int]:
    """The colour with a small random deviation, so that no single RGB value gives it away."""
    red, green, blue = (
        int(min(255.0, max(0.0, value + change))) for value, change in zip(COLORS[color], _changes(rng), strict=True)
    )
    return red, green, blue


def draw_distractors(rng: np.random.Generator, picture: Picture) -> None:
    """Thin lines, dots and splashes in loud colours: they catch attention and no question is about them."""
    height, width = picture.shape[:2]
    unit = min(width, height) / CANVAS
    names = list(COLORS)
    for _ in range(int(rng.integers(0, 4)) if rng.random() < 0.6 else 0):
        ends = rng.uniform(0, 1, 4) * (width, height, width, height)
        color = _tint(rng, names[rng.integers(len(names))])
        thick = max(1, round(unit * rng.uniform(0.5, 1.5)))
        start, end = (int(ends[0]), int(ends[1])), (int(ends[2]), int(ends[3]))
        cv2.line(picture, start, end, color, thick, cv2.LINE_AA)
    for _ in range(int(rng.integers(1, 12)) if rng.random() < 0.5 else 0):
        spot = (int(rng.uniform(0, width)), int(rng.uniform(0, height)))
        color = _tint(rng, names[rng.integers(len(names))])
        cv2.circle(picture, spot, max(1, round(unit * rng.uniform(0.6, 1.5))), color, -1, cv2.LINE_AA)
    for _ in range(int(rng.integers(1, 4)) if rng.random() < 0.45 else 0):
        _splash(rng, picture, unit)


def _splash(rng: np.random.Generator, picture: Picture, unit: float) -> None:
    """A burst of thin rays in several loud colours: the most salient thing of many pictures, and never asked about."""
    height, width = picture.shape[:2]
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    names = list(COLORS)
    for _ in range(int(rng.integers(9, 20))):
        angle, near, far = rng.uniform(0, 2 * math.pi), rng.uniform(1, 4) * unit, rng.uniform(6, 17) * unit
        along = np.array([math.cos(angle), math.sin(angle)])
        start, end = (np.array([x, y]) + along * reach for reach in (near, far))
        color = _tint(rng, names[rng.integers(len(names))])
        ends = [(int(point[0]), int(point[1])) for point in (start, end)]
        cv2.line(picture, ends[0], ends[1], color, max(1, round(unit * rng.uniform(0.5, 1.3))), cv2.LINE_AA)


def _fill(
    picture: Picture | NDArray[np.int16], points: NDArray[np.float64], value: float | tuple[int, int, int], line: int
) -> None:
    fixed = np.round(points * (1 << _SHIFT)).astype(np.int32)
    scalar = value if isinstance(value, tuple) else (value,)
    cv2.fillPoly(picture, [fixed], scalar, line, _SHIFT)


def draw_object(
    rng: np.random.Generator, placed: PlacedObject, number: int, picture: Picture, owner: NDArray[np.int16], square: Box
) -> Box:
    """Draw one object into picture and owner map; returns its exact bounding box in pixels."""
    scale = (square[2] - square[0]) / CANVAS
    x, y, radius = square[0] + placed.x * scale, square[1] + placed.y * scale, placed.radius * scale
    # OpenCV's coordinates name pixel middles, ours pixel corners.
    points = outline(placed.shape, x - 0.5, y - 0.5, radius, placed.angle)
    hole = outline("circle", x - 0.5, y - 0.5, radius * _RING_HOLE, 0.0) if placed.shape == "ring" else None
    color = _tint(rng, placed.color)
    if hole is None:
        _fill(picture, points, color, cv2.LINE_AA)
    else:
        x0, y0 = np.maximum(np.floor(points.min(0)).astype(int) - 1, 0)
        x1, y1 = np.ceil(points.max(0)).astype(int) + 2
        under = picture[y0:y1, x0:x1].copy()
        _fill(picture, points, color, cv2.LINE_AA)
        mask = np.zeros(under.shape[:2], np.uint8)
        _fill(mask, hole - (x0, y0), 255, cv2.LINE_AA)
        weight = mask[..., None].astype(np.float32) / 255
        picture[y0:y1, x0:x1] = np.round(picture[y0:y1, x0:x1] * (1 - weight) + under * weight).astype(np.uint8)
    _fill(owner, points, number, cv2.LINE_8)
    low, high = points.min(0) + 0.5, points.max(0) + 0.5
    height, width = owner.shape
    return (max(0.0, float(low[0])), max(0.0, float(low[1])), min(width, float(high[0])), min(height, float(high[1])))


def draw_sign(placed: PlacedSign, number: int, picture: Picture, owner: NDArray[np.int16], square: Box) -> Box:
    """Draw one sign into picture and owner map; returns its plate's box in pixels."""
    scale = (square[2] - square[0]) / CANVAS
    x0, y0 = round(square[0] + placed.x0 * scale), round(square[1] + placed.y0 * scale)
    width, height = round((placed.x1 - placed.x0) * scale), round((placed.y1 - placed.y0) * scale)
    plate, ink = (np.array(color, np.float32) for color in PLATE_STYLES[placed.style])
    if placed.kind == "digit":
        mask = handwritten_mask(placed.font, width, height)[..., None]
    else:
        mask = text_mask(placed.text, placed.font, max(4, round(placed.font_height * scale)), width, height)[..., None]
    target = picture[y0 : y0 + height, x0 : x0 + width]
    target[:] = (plate * (1 - mask) + ink * mask)[: target.shape[0], : target.shape[1]].astype(np.uint8)
    owner[y0 : y0 + height, x0 : x0 + width] = number
    full_h, full_w = owner.shape
    return (float(x0), float(y0), float(min(x0 + width, full_w)), float(min(y0 + height, full_h)))


def draw(
    rng: np.random.Generator, layout: Layout, width: int, height: int
) -> tuple[Picture, NDArray[np.int16], list[Box], list[Box]]:
    """Draw a layout.

    Returns:
        picture, owner map, object boxes, sign boxes.

    Shape:
        picture: (height, width, 3) uint8; owner: (height, width) int16, -1 for background.
    """
    picture = background(rng, width, height)
    draw_distractors(rng, picture)
    owner = np.full((height, width), -1, np.int16)
    square = central_square(width, height)
    objects = [draw_object(rng, placed, i, picture, owner, square) for i, placed in enumerate(layout.objects)]
    first = len(layout.objects)
    signs = [draw_sign(placed, first + i, picture, owner, square) for i, placed in enumerate(layout.signs)]
    return picture, owner, objects, signs
