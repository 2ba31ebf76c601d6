"""Marks on pixels: greyed patches, hatching, outlines, dashed boxes, rings. Every function returns a new array."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from . import palette
from .raster import PatchRaster, Pixels

Mask = NDArray[np.bool_]


def brightness(pixels: Pixels) -> NDArray[np.float64]:
    """Luma of Rec. 601. Shape: ``(H, W, 3)`` -> ``(H, W)``, 0 to 255."""
    return np.asarray(pixels @ np.array([0.299, 0.587, 0.114]))


def to_bytes(values: NDArray[np.float64]) -> Pixels:
    """Rounded and limited to 0..255."""
    return np.clip(np.floor(values + 0.5), 0, 255).astype(np.uint8)


def grey_out(pixels: Pixels, where: Mask, grey: int, shows: float) -> Pixels:
    """Replace by a uniform ``grey`` through which the share ``shows`` of the picture's brightness is left."""
    greyed = to_bytes(shows * brightness(pixels) + (1 - shows) * grey)[..., None]
    return np.where(where[..., None], greyed, pixels)


def hatch(pixels: Pixels, where: Mask, color: palette.Rgb, period: int, width: int) -> Pixels:
    """Diagonal lines, ``width`` of every ``period`` px, so that an area differs in more than its colour."""
    rows, columns = np.indices(where.shape)
    lines = where & ((rows + columns) % period < width)
    return np.where(lines[..., None], np.array(color, dtype=np.uint8), pixels)


def inner_border(area: Mask, width: int) -> Mask:
    """The pixels of ``area`` less than ``width`` px (diagonals count 1) away from its outside or the picture's edge."""
    kernel = np.ones((2 * width + 1, 2 * width + 1), dtype=np.uint8)
    core = cv2.erode(area.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return area & (core == 0)


def outline(pixels: Pixels, area: Mask, color: palette.Rgb, width: int) -> Pixels:
    """Draw the inner border of an area."""
    return np.where(inner_border(area, width)[..., None], np.array(color, dtype=np.uint8), pixels)


def cased_outline(pixels: Pixels, area: Mask, width: int) -> Pixels:
    """Draw the inner border of an area as a dark line with a white one inside, visible on every colour of a map."""
    dark, light = palette.CASING
    return outline(outline(pixels, area, light, 2 * width), area, dark, width)


def dashed_boxes(pixels: Pixels, boxes: Iterable[tuple[int, int, int, int]], width: int) -> Pixels:
    """Boxes in two alternating colours, each drawn just outside its corners so that it hides nothing it points at.

    Costs what the lines cover: a forged session may hold a thousand boxes, each as large as the picture.
    """
    height, picture_width = pixels.shape[:2]
    drawn = pixels.copy()
    colors = np.array(palette.EVIDENCE, dtype=np.uint8)
    for x0, y0, x1, y1 in dict.fromkeys(boxes):
        # A box that fills the picture moves inwards: its line would lie outside of the pixels.
        left, top = max(x0 - width, 0), max(y0 - width, 0)
        right, bottom = min(x1 + width, picture_width), min(y1 + width, height)
        across, down = (np.arange(max(n, 0)) // (3 * width) % 2 for n in (right - left, bottom - top))
        for side in (slice(left, min(left + width, right)), slice(max(right - width, left), right)):
            drawn[top:bottom, side] = colors[down][:, None]
        for side in (slice(top, min(top + width, bottom)), slice(max(bottom - width, top), bottom)):
            drawn[side, left:right] = colors[across][None]
    return drawn


def rings(pixels: Pixels, raster: PatchRaster, tokens: NDArray[np.int64], width: int) -> Pixels:
    """A white ring with a dark edge in the middle of each token's patch; a dot where the patch is too small."""
    dark, light = (np.array(color, dtype=np.uint8) for color in palette.CASING)
    drawn = pixels.copy()
    for x0, y0, x1, y1 in raster.corners[tokens]:
        if x1 <= x0 or y1 <= y0:
            continue
        rows, columns = np.mgrid[y0:y1, x0:x1]
        distance = np.hypot(rows - (y0 + y1 - 1) / 2, columns - (x0 + x1 - 1) / 2)
        radius = 0.36 * min(x1 - x0, y1 - y0)
        patch = drawn[y0:y1, x0:x1]
        patch[np.abs(distance - radius) <= 1.3 * width] = dark
        patch[np.abs(distance - radius) <= 0.65 * width] = light
    return drawn
