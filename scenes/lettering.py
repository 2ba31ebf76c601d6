"""Text signs: real fonts that come with matplotlib, found without importing it, and digits that people wrote.

The handwritten digits are the test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, UCI
Machine Learning Repository, CC BY 4.0, https://doi.org/10.24432/C50P49), as scikit-learn distributes it: 1,797 images
of 8 x 8 in 17 levels, packed by `scripts/pack_handwritten_digits.py`.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

FONT_FILES: tuple[str, ...] = (
    "DejaVuSans-Bold.ttf",
    "DejaVuSans.ttf",
    "DejaVuSansMono-Bold.ttf",
    "DejaVuSerif-Bold.ttf",
    "STIXGeneralBol.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSans-Oblique.ttf",
    "DejaVuSans-BoldOblique.ttf",
    "DejaVuSerif-BoldItalic.ttf",
    "cmb10.ttf",
)
HANDWRITING_FILE = Path(__file__).with_name("handwritten_digits.npz")
TRAINING_FONTS = 8
"""The first eight; training never sees the others."""
_HELD_OUT_EVERY = 5
"""Of the handwritten digits, every fifth image is held out; the same 13 people wrote both parts."""
PLATE_STYLES: tuple[tuple[tuple[int, int, int], tuple[int, int, int]], ...] = (
    ((250, 250, 246), (20, 20, 22)),
    ((34, 52, 78), (246, 246, 240)),
    ((244, 236, 200), (70, 32, 20)),
    ((24, 84, 60), (240, 248, 240)),
)
"""(plate colour, letter colour) of each style."""
_PADDING = 2.5


@lru_cache(maxsize=1)
def font_folder() -> Path:
    """The folder of matplotlib's own ttf files."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("matplotlib is needed for its fonts but is not installed")
    return Path(spec.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf"


@lru_cache(maxsize=1)
def handwritten() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images and labels of the handwritten digits.

    Shape:
        returns: (1797, 8, 8) uint8 in 0..16, and (1797,) uint8 in 0..9.
    """
    with np.load(HANDWRITING_FILE) as stored:
        return stored["images"], stored["labels"]


@lru_cache(maxsize=64)
def handwritten_numbers(digit: int, held_out: bool) -> NDArray[np.int64]:
    """The image numbers of a digit: those of training, or those that training never sees."""
    labels = handwritten()[1]
    numbers = np.arange(len(labels))
    return numbers[(labels == digit) & ((numbers % _HELD_OUT_EVERY == 0) == held_out)]


@lru_cache(maxsize=8192)
def handwritten_mask(number: int, width: int, height: int) -> NDArray[np.float32]:
    """How much ink each pixel of a `width` x `height` plate holds, with one handwritten digit in its middle.

    Shape:
        returns: (height, width) float32 in 0..1.
    """
    ink = handwritten()[0][number].astype(np.float32) / 16
    side = max(8, round(min(width, height) * 0.86))
    drawn = np.clip(cv2.resize(ink, (side, side), interpolation=cv2.INTER_CUBIC) * 1.25, 0, 1)
    page = np.zeros((height, width), np.float32)
    y, x = (height - side) // 2, (width - side) // 2
    page[max(0, y) : y + side, max(0, x) : x + side] = drawn[max(0, -y) : height - y, max(0, -x) : width - x]
    return page


@lru_cache(maxsize=512)
def _font(index: int, pixels: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(font_folder() / FONT_FILES[index]), pixels)


@lru_cache(maxsize=4096)
def _text_extent(text: str, font: int) -> tuple[float, float]:
    """Width and height of the ink for a font of height 1."""
    x0, y0, x1, y1 = _font(font, 64).getbbox(text.upper())
    return (x1 - x0) / 64, (y1 - y0) / 64


def plate_size(text: str, font: int, font_height: float) -> tuple[float, float]:
    """Width and height in layout units of the plate around `text` in a font of `font_height` units."""
    width, height = _text_extent(text, font)
    return width * font_height + 2 * _PADDING, height * font_height + 2 * _PADDING


@lru_cache(maxsize=8192)
def text_mask(text: str, font: int, pixels: int, width: int, height: int) -> NDArray[np.float32]:
    """How much ink each pixel of a `width` x `height` plate holds, with the font `pixels` high.

    Shape:
        returns: (height, width) float32 in 0..1.
    """
    face = _font(font, pixels)
    x0, y0, x1, y1 = face.getbbox(text.upper())
    page = Image.new("L", (width, height), 0)
    ImageDraw.Draw(page).text(
        (width / 2 - (x0 + x1) / 2, height / 2 - (y0 + y1) / 2), text.upper(), fill=255, font=face
    )
    return np.asarray(page, dtype=np.float32) / np.float32(255)
