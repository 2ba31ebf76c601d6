"""Colours by name as ranges of hue, and what a thing is filled with."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np
from numpy.typing import NDArray

Color = tuple[float, float, float]
"""Red, green and blue in 0..1."""
Range = tuple[float, float]
NAMED: dict[str, tuple[Range, Range, Range]] = {
    "red": ((-8, 7), (0.8, 1.0), (0.68, 0.95)),
    "orange": ((23, 33), (0.85, 1.0), (0.9, 1.0)),
    "yellow": ((50, 59), (0.75, 1.0), (0.9, 1.0)),
    "green": ((98, 148), (0.55, 1.0), (0.38, 0.8)),
    "blue": ((210, 238), (0.65, 1.0), (0.5, 0.95)),
    "purple": ((270, 288), (0.55, 0.9), (0.42, 0.72)),
    "pink": ((324, 345), (0.36, 0.55), (0.95, 1.0)),
    "black": ((0, 360), (0.0, 0.25), (0.03, 0.13)),
}
"""(hue in degrees, saturation, value) that anyone would call by this name."""
UNNAMED: dict[str, tuple[Range, Range, Range]] = {
    "white": ((0, 360), (0.0, 0.03), (0.96, 1.0)),
    "gray": ((0, 360), (0.0, 0.05), (0.5, 0.62)),
    "brown": ((22, 29), (0.6, 0.72), (0.34, 0.44)),
    "turquoise": ((174, 182), (0.75, 0.95), (0.68, 0.82)),
}
"""Colours that the model has no word for."""
FILLS = ("flat", "slope", "glow", "striped", "dotted")


def mix(color: str, rng: np.random.Generator) -> Color:
    """A random shade that the name fits."""
    hue, saturation, value = ({**NAMED, **UNNAMED})[color]
    return colorsys.hsv_to_rgb(
        float(rng.uniform(*hue)) % 360 / 360, float(rng.uniform(*saturation)), float(rng.uniform(*value))
    )


def shade(color: Color, name: str, rng: np.random.Generator) -> Color:
    """A second tone of the same colour, that the name still fits."""
    h, s, v = colorsys.rgb_to_hsv(*color)
    if name == "black":
        return colorsys.hsv_to_rgb(h, s, v + 0.12)
    if name in ("pink", "white", "gray"):
        return colorsys.hsv_to_rgb(h, s, v * float(rng.uniform(0.86, 0.93)))
    if name in ("orange", "yellow"):  # darker ones would be brown and olive
        return colorsys.hsv_to_rgb(h, s * float(rng.uniform(0.62, 0.8)), v)
    return colorsys.hsv_to_rgb(h, s, v * float(rng.uniform(0.72, 0.86)))


def fill(side: int, name: str, style: str, rng: np.random.Generator) -> NDArray[np.float32]:
    """A square page of paint.

    Shape:
        returns: (side, side, 3) float32 in 0..1.
    """
    one = mix(name, rng)
    other = shade(one, name, rng)
    ys, xs = (np.mgrid[:side, :side] - (side - 1) / 2) / max(1, side / 2)
    turn = rng.uniform(0, np.pi)
    along = xs * np.cos(turn) + ys * np.sin(turn)
    across = ys * np.cos(turn) - xs * np.sin(turn)
    waves = max(2.0, side / 9) * np.pi / 2
    share = {
        "flat": np.zeros_like(xs),
        "slope": np.clip(along / 1.6 + 0.5, 0, 1),
        "glow": np.clip(np.hypot(xs + 0.25, ys + 0.25), 0, 1),
        "striped": (np.sin(along * waves) > 0).astype(float),
        "dotted": ((np.sin(along * waves) > 0.3) & (np.sin(across * waves) > 0.3)).astype(float),
    }[style]
    page = np.array(one) + share[..., None] * (np.array(other) - np.array(one))
    return page.astype(np.float32)


def lightness(page: NDArray[np.float32]) -> NDArray[np.float32]:
    """CIE lightness, 0..100.

    Shape:
        page: (..., 3) float32 in 0..1; returns (...).
    """
    return lab(page)[..., 0]


def lab(page: NDArray[np.float32]) -> NDArray[np.float32]:
    """CIE Lab of a page of paint.

    Shape:
        page: (..., 3) float32 in 0..1; returns the same shape.
    """
    flat = np.ascontiguousarray(page.reshape(1, -1, 3), dtype=np.float32)
    return np.asarray(cv2.cvtColor(flat, cv2.COLOR_RGB2Lab), dtype=np.float32).reshape(page.shape)
