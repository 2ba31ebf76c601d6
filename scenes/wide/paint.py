"""Fills the things of the wide world: solid, graded, bordered, outlined, textured, glassy."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from scenes.wide.colors import tints
from scenes.wide.dice import between, pick
from scenes.wide.layout import Placed, window
from scenes.wide.shapes import Points

Share = NDArray[np.float32]


def _fixed(points: Points, x0: int = 0, y0: int = 0) -> NDArray[np.int32]:
    return np.round((points - (x0 + 0.5, y0 + 0.5)) * 16).astype(np.int32)


def _soft_mask(placed: Placed, x0: int, y0: int, width: int, height: int, line: int) -> Share:
    """Coverage of the thing in its window, holes cut out, in 0..1."""
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [_fixed(placed.points, x0, y0)], (255,), line, 4)
    if placed.hole is not None:
        cut = np.zeros_like(mask)
        cv2.fillPoly(cut, [_fixed(placed.hole, x0, y0)], (255,), line, 4)
        mask = np.asarray(cv2.subtract(mask, cut))
    return mask.astype(np.float32) * np.float32(1 / 255)


def _mix(rng: np.random.Generator, style: str, width: int, height: int, side: float) -> Share:
    """How much of the second tint each pixel of the window takes.

    Shape:
        returns: (height, width) float32 in 0..1.
    """
    lean = between(rng, 0, 2 * math.pi)
    rows, columns = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None]
    cosine, sine = np.float32(math.cos(lean)), np.float32(math.sin(lean))
    if style == "gradient":
        if rng.random() < 0.35:
            across = np.hypot(columns - width * between(rng, 0.3, 0.7), rows - height * between(rng, 0.3, 0.7))
            return np.minimum(across / np.float32(0.6 * side), 1)
        along = (columns - width / 2) * cosine + (rows - height / 2) * sine
        return np.clip(along / np.float32(side) + np.float32(0.5), 0, 1)
    if style == "mottled":
        cells = max(2, int(side / between(rng, 3, 9)))
        return np.asarray(cv2.resize(rng.random((cells, cells), dtype=np.float32), (width, height)))
    pitch = np.float32(between(rng, 3.5, max(4.5, side / 4)))
    along, across = (columns * cosine + rows * sine) / pitch, (rows * cosine - columns * sine) / pitch
    if style == "striped":
        return (along % 2 < 1).astype(np.float32)
    return (((along % 1.6 - 0.8) ** 2 + (across % 1.6 - 0.8) ** 2) < 0.25).astype(np.float32)


def _second_tint(rng: np.random.Generator, placed: Placed) -> NDArray[np.float32]:
    """Another tint of the same name, so that no part of the thing has another colour's name."""
    return np.asarray(pick(rng, tints(placed.color)[0]), np.float32)


def _stroke(placed: Placed, picture: NDArray[np.uint8], line: int) -> None:
    """The outline alone; inside its edge, so that the thing does not grow."""
    center = np.array([placed.x, placed.y])
    middle = center + (placed.points - center) * (1 - placed.stroke / placed.side)
    cv2.polylines(picture, [_fixed(middle)], True, placed.tint.tolist(), placed.stroke, line, 4)


def paint(rng: np.random.Generator, placed: Placed, picture: NDArray[np.uint8], smooth: bool) -> None:
    """Draw a thing. Args: smooth: with softened edges."""
    style = placed.style
    tint, line = tuple(placed.tint.tolist()), cv2.LINE_AA if smooth else cv2.LINE_8
    if style == "outline":
        _stroke(placed, picture, line)
        return
    if style in ("solid", "bordered") and placed.hole is None:
        cv2.fillPoly(picture, [_fixed(placed.points)], tint, line, 4)
    else:
        _blend(rng, placed, style, picture, line)
    if style == "bordered":
        # Of the same hue, darker: another colour's border would make two answers right.
        dark = tuple(int(value * between(rng, 0.45, 0.65)) for value in tint)
        edge = dark if placed.color != "black" else (70, 70, 72)
        for points in (placed.points, placed.hole):
            if points is not None:
                cv2.polylines(picture, [_fixed(points)], True, edge, 1 + int(placed.side > 40), line, 4)


def _blend(rng: np.random.Generator, placed: Placed, style: str, picture: NDArray[np.uint8], line: int) -> None:
    x0, y0, x1, y1 = window(placed.points)
    width, height = x1 - x0, y1 - y0
    share = _soft_mask(placed, x0, y0, width, height, line)
    first = placed.tint.astype(np.float32)
    target = picture[y0:y1, x0:x1]
    if style == "glassy":
        share *= np.float32(between(rng, 0.84, 0.95))
    if style in ("solid", "bordered", "glassy"):
        filled = np.broadcast_to(first, target.shape)
    else:
        weight = _mix(rng, style, width, height, placed.side)[..., None]
        filled = first + weight * (_second_tint(rng, placed) - first)
    target[:] = np.round(target + share[..., None] * (filled - target)).astype(np.uint8)
