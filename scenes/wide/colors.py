"""Many tints of every colour name, none of which another name would claim."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from scenes.words import COLORS

RGB = tuple[int, int, int]
OTHER_COLORS: tuple[str, ...] = ("white", "gray", "brown", "cyan")
"""Colours that things may have and that no question names."""
ANCHORS: dict[str, tuple[RGB, ...]] = {
    "red": (COLORS["red"], (165, 16, 24), (238, 66, 58)),
    "orange": (COLORS["orange"], (236, 116, 12), (255, 164, 62)),
    "yellow": (COLORS["yellow"], (226, 200, 30), (255, 238, 112)),
    "green": (COLORS["green"], (16, 104, 44), (96, 204, 84)),
    "blue": (COLORS["blue"], (20, 40, 136), (86, 150, 244)),
    "purple": (COLORS["purple"], (88, 28, 128), (154, 92, 204)),
    "pink": (COLORS["pink"], (255, 182, 206), (238, 104, 164)),
    "black": (COLORS["black"], (4, 4, 6), (46, 46, 50)),
    "white": ((255, 255, 255), (232, 232, 230)),
    "gray": ((128, 128, 130), (92, 92, 96), (172, 172, 172)),
    "brown": ((122, 72, 34), (152, 98, 54), (88, 50, 26)),
    "cyan": ((64, 204, 212), (0, 150, 154)),
    "magenta": ((200, 28, 148),),
    "olive": ((128, 124, 30),),
    "tan": ((214, 176, 136),),
    "salmon": ((250, 128, 114), (232, 110, 116)),
}
"""What people call by each name, light and dark; the last four only keep others away."""
MARGIN = 5.0
"""A tint is nearer to an anchor of its name than to any other name's by this much (Lab, Euclidean)."""
_RANGES: dict[str, tuple[float, float, float, float, float, float]] = {
    # hue in degrees (low, high), saturation, lightness: HLS boxes from which the Lab test takes its part
    "red": (-12, 12, 0.6, 1.0, 0.28, 0.62),
    "orange": (18, 40, 0.75, 1.0, 0.42, 0.66),
    "yellow": (45, 62, 0.7, 1.0, 0.42, 0.76),
    "green": (85, 165, 0.35, 1.0, 0.16, 0.62),
    "blue": (203, 245, 0.5, 1.0, 0.22, 0.74),
    "purple": (265, 300, 0.35, 0.9, 0.2, 0.68),
    "pink": (316, 349, 0.6, 1.0, 0.6, 0.86),
    "black": (0, 360, 0.0, 0.25, 0.0, 0.17),
    "white": (0, 360, 0.0, 0.5, 0.93, 1.0),
    "gray": (0, 360, 0.0, 0.08, 0.36, 0.68),
    "brown": (16, 34, 0.35, 0.75, 0.17, 0.42),
    "cyan": (172, 192, 0.5, 1.0, 0.28, 0.6),
}
TINTS = 512


def to_lab(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """CIE Lab (D65), L in 0..100.

    Shape:
        rgb: (..., 3) uint8; returns (..., 3) float32.
    """
    flat = np.ascontiguousarray(rgb, dtype=np.float32).reshape(-1, 1, 3) / 255
    return np.asarray(cv2.cvtColor(flat, cv2.COLOR_RGB2Lab), np.float32).reshape(rgb.shape)


def name_distances(lab: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Distance of colours to the nearest anchor of each name.

    Shape:
        lab: (N, 3); returns {name: (N,) float32}.
    """
    result = {}
    for name, anchors in ANCHORS.items():
        points = to_lab(np.array(anchors, np.uint8))
        result[name] = np.linalg.norm(lab[:, None] - points[None], axis=2).min(axis=1)
    return result


@lru_cache(maxsize=32)
def tints(name: str) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The tints of a colour name, and the same in Lab; the same ones in every process.

    Shape:
        returns: (TINTS, 3) uint8 RGB, (TINTS, 3) float32 Lab.
    """
    low_h, high_h, low_s, high_s, low_l, high_l = _RANGES[name]
    rng = np.random.default_rng([71, list(_RANGES).index(name)])
    draws = rng.random((24 * TINTS, 3))
    hls = np.empty((len(draws), 1, 3), np.float32)
    hls[:, 0, 0] = (low_h + (high_h - low_h) * draws[:, 0]) % 360
    hls[:, 0, 1] = low_l + (high_l - low_l) * draws[:, 1]
    hls[:, 0, 2] = low_s + (high_s - low_s) * draws[:, 2]
    rgb = np.round(cv2.cvtColor(hls, cv2.COLOR_HLS2RGB)[:, 0] * 255).astype(np.uint8)
    lab = to_lab(rgb)
    distances = name_distances(lab)
    own = distances.pop(name)
    clear = np.flatnonzero(own + MARGIN <= np.stack(list(distances.values())).min(axis=0))
    if len(clear) < TINTS:
        raise RuntimeError(f"only {len(clear)} tints of {name!r} are clearly {name}; its range is too narrow")
    return rgb[clear[:TINTS]], lab[clear[:TINTS]]
