"""Silhouettes: what covers which pixel, drawn large with Pillow and averaged down."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

NAMED = ("circle", "square", "triangle", "star", "cross", "ring")
UNNAMED = ("heart", "crescent", "arrow", "drop", "bolt")
"""Things that the model has no word for."""
HOLLOW = ("square", "triangle", "star", "cross")
"""Shapes that stay what they are when only their outline is drawn (a hollow circle would be a ring)."""
SMALLEST = {"circle": 12.0, "square": 12.0, "triangle": 14.0, "star": 17.0, "cross": 15.0, "ring": 16.0}
SMALLEST_UNNAMED = 24.0
"""Diameters in pixels below which a shape cannot be told from another one."""
_FINE = 4
Points = NDArray[np.float64]


def _polar(radii: Points, first: float = -math.pi / 2) -> Points:
    angles = first + np.arange(len(radii)) * (2 * math.pi / len(radii))
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _heart(_: np.random.Generator) -> Points:
    t = np.linspace(0, 2 * math.pi, 60, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y], axis=1) / 17


def _drop(_: np.random.Generator) -> Points:
    t = np.linspace(0, 2 * math.pi, 60, endpoint=False)
    return np.stack([0.75 * np.sin(t) * np.sin(t / 2) ** 1.5, -np.cos(t)], axis=1)


def _crescent(_: np.random.Generator) -> Points:
    outer = np.linspace(math.radians(50), math.radians(310), 40)
    tip = (math.cos(outer[0]), math.sin(outer[0]))
    centre = 0.55
    start = math.atan2(tip[1], tip[0] - centre)
    inner = np.linspace(2 * math.pi - start, start, 40)[1:-1]
    radius = math.hypot(tip[0] - centre, tip[1])
    arc = np.stack([np.cos(outer), np.sin(outer)], axis=1)
    bite = np.stack([centre + radius * np.cos(inner), radius * np.sin(inner)], axis=1)
    return np.concatenate([arc, bite])


def _corners(shape: str, rng: np.random.Generator) -> Points:
    """Corner points within the unit circle, before turning."""
    if shape == "square":
        return np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * math.sqrt(0.5)
    if shape == "triangle":
        apex, height = rng.uniform(-0.5, 0.5), rng.uniform(1.45, 1.8)
        return np.array([(apex, -height / 2), (0.85, height / 2), (-0.85, height / 2)])
    if shape == "star":
        points = 6 if rng.random() < 0.2 else 5
        return _polar(np.tile([1.0, rng.uniform(0.38, 0.52)], points))
    if shape == "cross":
        arm = rng.uniform(0.2, 0.34)
        quarter = [(arm, -1.0), (arm, -arm), (1.0, -arm)]
        turns = [np.array([[c, -s], [s, c]]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
        return np.concatenate([np.array(quarter) @ turn.T for turn in turns])
    if shape == "arrow":
        return np.array([(-1, -0.2), (0.1, -0.2), (0.1, -0.6), (1, 0), (0.1, 0.6), (0.1, 0.2), (-1, 0.2)])
    if shape == "bolt":
        return np.array([(0.25, -1), (-0.55, 0.15), (-0.05, 0.15), (-0.3, 1), (0.55, -0.25), (0.05, -0.25)])
    return {"heart": _heart, "drop": _drop, "crescent": _crescent}[shape](rng)


def _turn(shape: str, rng: np.random.Generator) -> float:
    """By how much a shape may be turned and keep its name: a square on its corner is a diamond, a turned plus an x."""
    limit = {"square": 28, "cross": 28, "heart": 40, "drop": 60}.get(shape, 180)
    return math.radians(float(rng.uniform(-limit, limit)))


def _polygon(points: Points, side: int, radius: float, rounded: float) -> NDArray[np.uint8]:
    page = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(page)
    line = [(float(x), float(y)) for x, y in points * (radius - rounded) + side / 2]
    pen.polygon(line, fill=255)
    if rounded >= 1:
        pen.line([*line, line[0], line[1]], fill=255, width=round(2 * rounded), joint="curve")
    return np.asarray(page)


def silhouette(shape: str, diameter: float, rng: np.random.Generator, hollow: bool = False) -> NDArray[np.float32]:
    """How much of each pixel the shape covers, in a square page around its middle.

    Args:
        shape: one of NAMED or UNNAMED.
        diameter: of the circle that it lies in, in pixels.
        hollow: only an outline (see HOLLOW).

    Shape:
        returns: (S, S) float32 in 0..1 with odd S.
    """
    pixels = 2 * math.ceil(diameter / 2 + 1) + 1
    side, radius = pixels * _FINE, diameter / 2 * _FINE
    if shape in ("circle", "ring"):
        ys, xs = (np.mgrid[:side, :side] + 0.5 - side / 2) / radius
        turn, squash = rng.uniform(0, math.pi), rng.uniform(0.9, 1.0)
        along, across = xs * math.cos(turn) + ys * math.sin(turn), ys * math.cos(turn) - xs * math.sin(turn)
        away = np.hypot(along, across / squash)
        hole = rng.uniform(0.42, 0.66) if shape == "ring" else 0.0
        page = ((away <= 1) & (away >= hole)).astype(np.float32)
    else:
        corners, turn = _corners(shape, rng), _turn(shape, rng)
        turned = corners @ np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
        soft = shape in ("square", "triangle", "star") and rng.random() < 0.35
        page = _polygon(turned, side, radius, 0.16 * radius if soft else 0.0).astype(np.float32) / np.float32(255)
        if hollow:
            stroke = max(2.6 * _FINE, 0.17 * radius)
            page = np.clip(page - _inner(page, stroke), 0, 1)
    return np.asarray(page.reshape(pixels, _FINE, pixels, _FINE).mean(axis=(1, 3)), dtype=np.float32)


def _inner(page: NDArray[np.float32], stroke: float) -> NDArray[np.float32]:
    """What lies deeper than `stroke` inside."""
    depth = cv2.distanceTransform((page > 0.5).astype(np.uint8), cv2.DIST_L2, 5)
    return (depth > stroke).astype(np.float32)
