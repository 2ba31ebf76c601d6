"""Words, numbers and handwritten digits of the wide world, with and without plates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from scenes.lettering import FONT_FILES, TRAINING_FONTS, font_folder, handwritten_mask, handwritten_numbers
from scenes.wide.colors import tints, to_lab
from scenes.wide.dice import between, pick
from scenes.wide.shapes import Points
from scenes.words import COLORS

Ink = NDArray[np.float32]
STROKE_FONTS: dict[str, int] = {
    "hershey-simplex": cv2.FONT_HERSHEY_SIMPLEX,
    "hershey-duplex": cv2.FONT_HERSHEY_DUPLEX,
    "hershey-complex": cv2.FONT_HERSHEY_COMPLEX,
    "hershey-triplex": cv2.FONT_HERSHEY_TRIPLEX,
}
"""OpenCV's line fonts."""
WIDE_FONTS: tuple[str, ...] = (
    *FONT_FILES[:TRAINING_FONTS],
    "DejaVuSansMono-Oblique.ttf",
    "DejaVuSansMono-BoldOblique.ttf",
    "DejaVuSerif-Italic.ttf",
    "STIXGeneral.ttf",
    "STIXGeneralItalic.ttf",
    "STIXGeneralBolIta.ttf",
    "cmr10.ttf",
    "cmss10.ttf",
    "cmtt10.ttf",
    *STROKE_FONTS,
)
"""None of the fonts that the held-out scenes show: those stay unseen."""
CASES = ("upper", "lower", "title")
_PLATES: tuple[tuple[int, int, int], ...] = (
    (250, 250, 246),
    (244, 236, 200),
    (222, 226, 232),
    (200, 200, 196),
    (34, 52, 78),
    (24, 84, 60),
    (70, 58, 52),
    (58, 60, 66),
)
"""Muted, so that no plate passes for a coloured square."""
_LEAST_CONTRAST = 38.0
"""Lab distance of ink and what lies behind it."""


@dataclass(frozen=True)
class SignDesign:
    """A sign without its place.

    `ink` is its letters' coverage, turned and padded; `plate` the corners of the plate (None: letters only) and
    `corners` those of the letters' frame, both relative to the middle.

    Shape:
        ink: (h, w) float32 in 0..1; plate, corners: (4, 2).
    """

    text: str
    kind: str
    font: str
    ink: Ink
    plate: Points | None
    corners: Points

    @property
    def half(self) -> tuple[float, float]:
        """Half the sides of its upright bounding box."""
        outer = self.corners if self.plate is None else self.plate
        return float(np.abs(outer[:, 0]).max()), float(np.abs(outer[:, 1]).max())


@lru_cache(maxsize=1024)
def _face(name: str, pixels: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(font_folder() / name), pixels)


@lru_cache(maxsize=16384)
def _typeset(text: str, font: str, pixels: int) -> NDArray[np.uint8]:
    """The ink of a text, cropped to it, in a font of a height (em) of `pixels`.

    Shape:
        returns: (h, w) uint8, 255 full ink.
    """
    if font in STROKE_FONTS:
        face, thick = STROKE_FONTS[font], max(1, round(pixels / 14))
        scale = cv2.getFontScaleFromHeight(face, max(4, round(0.72 * pixels)), thick)
        (width, height), base = cv2.getTextSize(text, face, scale, thick)
        drawn = np.zeros((height + 2 * base + 8, width + 8), np.uint8)
        cv2.putText(drawn, text, (4, height + base), face, scale, (255,), thick, cv2.LINE_AA)
    else:
        face_file = _face(font, pixels)
        x0, y0, x1, y1 = face_file.getbbox(text)
        page = Image.new("L", (math.ceil(x1 - x0) + 2, math.ceil(y1 - y0) + 2), 0)
        ImageDraw.Draw(page).text((1 - x0, 1 - y0), text, fill=255, font=face_file)
        drawn = np.asarray(page)
    rows, columns = np.flatnonzero(drawn.max(axis=1) > 40), np.flatnonzero(drawn.max(axis=0) > 40)
    return drawn[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy()


def _rectangle(width: float, height: float, angle: float) -> Points:
    turn = math.radians(angle)
    cosine, sine = math.cos(turn), math.sin(turn)
    corners = np.array([(-1.0, -1.0), (1, -1), (1, 1), (-1, 1)]) * (width / 2, height / 2)
    return corners @ np.array([[cosine, sine], [-sine, cosine]])


def _turned(ink: Ink, angle: float) -> Ink:
    """The ink in a page that just holds it, turned around its middle."""
    height, width = ink.shape
    reach = _rectangle(width, height, angle)
    full_w, full_h = (2 * math.ceil(float(np.abs(reach[:, axis]).max())) + 2 for axis in (0, 1))
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -angle, 1.0)
    matrix[:, 2] += ((full_w - width) / 2, (full_h - height) / 2)
    return np.asarray(cv2.warpAffine(ink, matrix, (full_w, full_h), flags=cv2.INTER_LINEAR), np.float32)


def design_sign(rng: np.random.Generator, text: str, kind: str) -> SignDesign:
    """A random look of a sign: font, case, height, turn, plate or none."""
    if kind == "digit":
        numbers = handwritten_numbers(int(text), False)
        number, side = int(pick(rng, numbers)), int(between(rng, 22, 60))
        ink, font = handwritten_mask(number, side, side), str(number)
    else:
        font = pick(rng, WIDE_FONTS)
        case = pick(rng, CASES)
        written = text.upper() if case == "upper" else text.title() if case == "title" else text
        lowest = 13.0 if case == "lower" else 11.0
        pixels = round(math.exp(between(rng, math.log(lowest), math.log(48.0))))
        ink = _typeset(written, font, pixels).astype(np.float32) / np.float32(255)
    height, width = ink.shape
    angle = between(rng, -16, 16) if rng.random() < 0.35 else 0.0
    plate = None
    if rng.random() < 0.6:
        padding = between(rng, 3, 10)
        plate = _rectangle(width + 2 * padding, height + 2 * padding, angle)
    turned = _turned(ink, angle) if angle else ink
    return SignDesign(text, kind, font, turned, plate, _rectangle(width + 2, height + 2, angle))


def _ink_color(rng: np.random.Generator, behind: NDArray[np.float32]) -> NDArray[np.float32]:
    """A colour that can be read on everything behind it; black or white where nothing else can."""
    for _ in range(3):
        kind = rng.random()
        if kind < 0.35:
            rgb = np.full(3, int(between(rng, 0, 45)), np.uint8)
        elif kind < 0.65:
            rgb = np.full(3, int(between(rng, 225, 256)), np.uint8)
        else:
            rgb = pick(rng, tints(pick(rng, tuple(COLORS)))[0])
        lab = to_lab(rgb[None])[0]
        light = abs(float(lab[0]) - float(behind[:, 0].mean()))
        if light >= _LEAST_CONTRAST * 0.8 and np.linalg.norm(behind - lab, axis=1).min() >= _LEAST_CONTRAST:
            return rgb.astype(np.float32)
    return np.full(3, 250 if behind[:, 0].mean() < 55 else 8, np.float32)


def paint_sign(rng: np.random.Generator, design: SignDesign, x: float, y: float, picture: NDArray[np.uint8]) -> None:
    """Draw a sign around (x, y); it must lie inside the picture."""
    height, width = design.ink.shape
    x0, y0 = round(x - width / 2), round(y - height / 2)
    target = picture[y0 : y0 + height, x0 : x0 + width]
    if design.plate is not None:
        plate = np.array(pick(rng, _PLATES)) + (rng.random(3) * 12 - 8)
        color = tuple(np.clip(plate, 0, 255).round().tolist())
        fixed = np.round((design.plate + np.array([x - 0.5, y - 0.5])) * 16).astype(np.int32)
        cv2.fillPoly(picture, [fixed], color, cv2.LINE_AA, 4)
        if rng.random() < 0.2:
            edge = 20 if sum(color) > 360 else 235
            cv2.polylines(picture, [fixed], True, (edge, edge, edge), 1, cv2.LINE_AA, 4)
        behind = to_lab(np.array([color], np.uint8))
    else:
        behind = to_lab(np.asarray(cv2.resize(target, (6, 3), interpolation=cv2.INTER_AREA))).reshape(-1, 3)
        if behind[:, 0].std() > 14:  # too uneven for any ink: a soft veil, as captions have
            veil = np.float32(245 if behind[:, 0].mean() > 50 else 15)
            target[:] = np.round(target * np.float32(0.3) + veil * np.float32(0.7)).astype(np.uint8)
            behind = to_lab(np.asarray(cv2.resize(target, (6, 3), interpolation=cv2.INTER_AREA))).reshape(-1, 3)
    share = design.ink[..., None]
    target[:] = np.round(target * (1 - share) + _ink_color(rng, behind) * share).astype(np.uint8)
