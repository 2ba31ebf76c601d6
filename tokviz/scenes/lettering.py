"""Text signs: real fonts that come with matplotlib, found without importing it."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

FONT_FILES: tuple[str, ...] = (
    "DejaVuSans-Bold.ttf",
    "DejaVuSans.ttf",
    "DejaVuSansMono-Bold.ttf",
    "DejaVuSerif-Bold.ttf",
    "STIXGeneralBol.ttf",
)
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
