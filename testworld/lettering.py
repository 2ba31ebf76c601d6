"""Printed words and numbers in fonts and cases that `scenes` never uses, on plates or straight on the ground."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from testworld import paint

Page = NDArray[np.float32]
FONT_FILES = (
    "cmr10.ttf", "cmss10.ttf", "cmtt10.ttf", "cmti10.ttf", "STIXGeneral.ttf", "STIXGeneralItalic.ttf",
    "STIXGeneralBolIta.ttf", "DejaVuSerif-Italic.ttf", "DejaVuSansMono-Oblique.ttf",
)  # fmt: skip
"""Of matplotlib's own fonts, those that `scenes` draws neither in training nor in held-out scenes."""
PLOTTED = {
    "hershey-simplex": cv2.FONT_HERSHEY_SIMPLEX,
    "hershey-complex": cv2.FONT_HERSHEY_COMPLEX,
    "hershey-triplex": cv2.FONT_HERSHEY_TRIPLEX,
}
"""OpenCV's fonts of pen strokes."""
FONTS = (*FONT_FILES, *PLOTTED)
SMALLEST, LARGEST = 12.0, 60.0
"""Height of the ink in pixels; a word too wide for the picture is smaller."""
CASES = (str.lower, str.upper, str.capitalize)
CASE_SHARES = (0.45, 0.25, 0.3)
_PLATES = ("box", "rounded", "oval")
_CONTRAST, _PLAIN_CONTRAST = 50.0, 34.0
"""Least difference in CIE lightness between letters and plate, and between letters and any ground around them."""
_PLATE_RATIO = 1.5
"""A plate is at least so much wider than high: else one behind a number would be a square or a circle."""
_FINE = 3


@dataclass(frozen=True)
class Lettering:
    """A text before it is placed; masks say how much of each pixel is plate, rim or ink.

    Shape:
        ink, plate: (H, W) float32 in 0..1; `plate` is all zero without one.
    """

    ink: Page
    plate: Page
    shown: str
    font: str
    height: float


@lru_cache(maxsize=1)
def _font_folder() -> Path:
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise RuntimeError("matplotlib is needed for its fonts but is not installed")
    return Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"


@lru_cache(maxsize=64)
def _face(name: str, pixels: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(_font_folder() / name), pixels)


def _plotted(text: str, font: str, height: float) -> Page:
    """The text in pen strokes, with its ink `height` pixels high."""
    scale, stroke = 4.0, 7
    (width, above), below = cv2.getTextSize(text, PLOTTED[font], scale, stroke)
    page = np.zeros((above + below + 60, width + 60), np.uint8)
    cv2.putText(page, text, (30, above + 30), PLOTTED[font], scale, 255, stroke, cv2.LINE_AA)
    return _cropped(page, height)


def _printed(text: str, font: str, height: float) -> Page:
    face = _face(font, 160)
    x0, y0, x1, y1 = (math.floor(v) for v in face.getbbox(text))
    page = Image.new("L", (x1 - x0 + 40, y1 - y0 + 40), 0)
    ImageDraw.Draw(page).text((20 - x0, 20 - y0), text, fill=255, font=face)
    return _cropped(np.asarray(page), height)


def _cropped(page: NDArray[np.uint8], height: float) -> Page:
    rows, cols = np.flatnonzero(page.max(axis=1) > 40), np.flatnonzero(page.max(axis=0) > 40)
    ink = page[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    tall = max(1, round(height * _FINE))
    wide = max(1, round(ink.shape[1] * tall / ink.shape[0]))
    return np.asarray(cv2.resize(ink, (wide, tall), interpolation=cv2.INTER_AREA), dtype=np.float32) / np.float32(255)


def _plate(shape: tuple[int, int], size: tuple[int, int], kind: str) -> Page:
    page = Image.new("L", (shape[1], shape[0]), 0)
    pen = ImageDraw.Draw(page)
    high, wide = size
    x, y = (shape[1] - wide) // 2, (shape[0] - high) // 2
    corners = (x, y, x + wide, y + high)
    if kind == "oval":
        pen.ellipse(corners, fill=255)
    else:
        pen.rounded_rectangle(corners, radius=0 if kind == "box" else 0.3 * high, fill=255)
    return np.asarray(page, dtype=np.float32) / np.float32(255)


def _turned(page: Page, degrees: float) -> Page:
    height, width = page.shape
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    return np.asarray(cv2.warpAffine(page, matrix, (width, height), flags=cv2.INTER_LINEAR), dtype=np.float32)


def letter(text: str, rng: np.random.Generator, widest: float) -> Lettering:
    """The text in a random font, case, size and angle, at most `widest` pixels wide."""
    shown = CASES[int(rng.choice(3, p=CASE_SHARES))](text)
    font = FONTS[int(rng.integers(len(FONTS)))]
    height = SMALLEST * (LARGEST / SMALLEST) ** float(rng.random())
    draw = _plotted if font in PLOTTED else _printed
    ink = draw(shown, font, height)
    if ink.shape[1] > widest * _FINE:
        height *= widest * _FINE / ink.shape[1]
        ink = draw(shown, font, height)
    bare = rng.random() < 0.5 and text != "0"  # which would be a ring
    kind = None if bare else _PLATES[int(rng.integers(3))]
    pad = (0.35 + 0.3 * float(rng.random())) * height * _FINE
    if kind == "oval":  # it must not cut the corners of the word
        high, wide = 1.5 * ink.shape[0] + pad, 1.42 * ink.shape[1] + pad
    else:
        high, wide = ink.shape[0] + 2 * pad, ink.shape[1] + 2 * pad
    size = (round(high), round(max(wide, _PLATE_RATIO * high)))
    degrees = float(rng.uniform(-12, 12)) if rng.random() < 0.5 else 0.0
    sine, cosine = abs(math.sin(math.radians(degrees))), math.cos(math.radians(degrees))
    inner = size if kind else ink.shape
    shape = (_up(inner[1] * sine + inner[0] * cosine), _up(inner[0] * sine + inner[1] * cosine))
    page = np.zeros(shape, np.float32)
    y, x = (shape[0] - ink.shape[0]) // 2, (shape[1] - ink.shape[1]) // 2
    page[y : y + ink.shape[0], x : x + ink.shape[1]] = ink
    plate = _plate(shape, size, kind) if kind else np.zeros(shape, np.float32)
    return Lettering(_down(_turned(page, degrees)), _down(_turned(plate, degrees)), shown, font, height)


def _up(length: float) -> int:
    """The next whole number of pixels, in fine ones, with a pixel to spare on both sides."""
    return (math.ceil(length / _FINE) + 2) * _FINE


def _down(page: Page) -> Page:
    height, width = page.shape
    return np.asarray(page.reshape(height // _FINE, _FINE, width // _FINE, _FINE).mean(axis=(1, 3)), dtype=np.float32)


def paint_lettering(page: Page, lettering: Lettering, rng: np.random.Generator) -> tuple[str, ...]:
    """Draw on a part of the picture, in colours that can be told from each other and from the ground: their names.

    Shape:
        page: (H, W, 3) float32 of the size of the lettering, changed in place.
    """
    names: tuple[str, ...] = ()
    if lettering.plate.any():
        name, plate = _any_color(rng)
        names = (name,)
        _cover(page, lettering.plate, plate)
        grounds = np.full(2, paint.lightness(np.array(plate, np.float32)))
        least = _CONTRAST
    else:
        grounds = np.percentile(paint.lightness(page), (4, 96))
        least = _PLAIN_CONTRAST
    for _ in range(12):
        name, color = _any_color(rng)
        if np.abs(paint.lightness(np.array(color, np.float32)) - grounds).min() >= least:
            _cover(page, lettering.ink, color)
            return (*names, name)
    dark = bool(grounds.mean() > 55)
    ink, rim = ((0.05,) * 3, (0.97,) * 3) if dark else ((0.97,) * 3, (0.05,) * 3)
    if np.abs(paint.lightness(np.array(ink, np.float32)) - grounds).min() < least:  # ground both light and dark
        halo = cv2.GaussianBlur(cv2.dilate(lettering.ink, np.ones((5, 5), np.uint8)), (3, 3), 0)
        _cover(page, np.asarray(halo, dtype=np.float32), rim)
    _cover(page, lettering.ink, ink)
    return (*names, "black", "white")


def _any_color(rng: np.random.Generator) -> tuple[str, paint.Color]:
    names = (*paint.NAMED, "white", "white", "black", "gray", "brown", "turquoise")
    name = names[int(rng.integers(len(names)))]
    return name, paint.mix(name, rng)


def _cover(page: Page, mask: Page, color: paint.Color) -> None:
    page += mask[..., None] * (np.array(color, np.float32) - page)
