"""Measure and wrap text with the DejaVu fonts that matplotlib ships, so that figures look the same everywhere."""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path

import matplotlib
from matplotlib.font_manager import FontProperties, get_font
from matplotlib.ft2font import LoadFlags

from .plain_text import plain_text

MISSING = "□"
FAMILIES = ["DejaVu Sans", "Verdana", "Bitstream Vera Sans", "Liberation Sans", "Arial", "Helvetica"]
"""What the text of an SVG file is shown in: the font that it was measured with, or one that is about as wide."""
_POINTS_PER_INCH = 72
_FIXED_POINT = 65536
_MEASURED_AT = 100


@cache
def font_file(bold: bool = False) -> Path:
    """The font file inside matplotlib; never a font of the system, which may differ."""
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")


def font_properties(size: float, bold: bool = False) -> FontProperties:
    """The shipped font at a size in points, with the names that an SVG file asks a reader's machine for."""
    weight = "bold" if bold else "normal"
    return FontProperties(fname=font_file(bold), family="sans-serif", weight=weight, size=size)


def drawable(text: str, limit: int = 1200) -> str:
    """Untrusted text as one line of characters that the shipped font has; others become an empty box."""
    glyphs = _glyphs()
    return "".join(character if ord(character) in glyphs else MISSING for character in plain_text(text, limit))


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(get_font(font_file()).get_charmap()) & frozenset(get_font(font_file(True)).get_charmap())


def text_width(line: str, size: float, bold: bool = False) -> float:
    """Width in inches of a line at ``size`` points: the sum of its letters' advances (kerning only narrows it)."""
    return sum(_advance(character, bold) for character in line) * size / _POINTS_PER_INCH


@lru_cache(maxsize=16384)
def _advance(character: str, bold: bool) -> float:
    """Width of a character in font sizes. Unhinted, because hinted widths depend on the output resolution."""
    font = get_font(font_file(bold))
    font.set_size(_MEASURED_AT, _POINTS_PER_INCH)
    glyph = font.load_char(ord(character), flags=LoadFlags.NO_HINTING)
    return float(glyph.linearHoriAdvance) / _FIXED_POINT / _MEASURED_AT


def wrap(text: str, width: float, size: float, bold: bool = False, max_lines: int = 3) -> list[str]:
    """Untrusted text in at most ``max_lines`` lines of ``width`` inches; the last ends with an ellipsis when cut.

    Words that are longer than a line are broken. Empty text gives no lines.
    """
    lines: list[str] = []
    rest = drawable(text)
    while rest and len(lines) < max_lines:
        line = _first_line(rest, width, size, bold)
        lines.append(line.rstrip())
        rest = rest[len(line) :].lstrip()
    if rest:
        lines[-1] = _shortened(f"{lines[-1]} {rest}", width, size, bold)
    return lines


def _first_line(text: str, width: float, size: float, bold: bool) -> str:
    """The longest beginning that fits, cut after a blank when there is one; at least one character."""
    fitting = _fitting(text, width, size, bold)
    if fitting == len(text):
        return text
    blank = text.rfind(" ", 0, fitting + 1)
    return text[:blank] if blank > 0 else text[: max(fitting, 1)]


def _shortened(text: str, width: float, size: float, bold: bool) -> str:
    return text[: _fitting(text, width - text_width("…", size, bold), size, bold)].rstrip() + "…"


def _fitting(text: str, width: float, size: float, bold: bool) -> int:
    """Number of leading characters that fit into ``width`` inches (width grows with the text: gallop, then bisect)."""
    low, high = 0, min(len(text), 32)
    while high < len(text) and text_width(text[:high], size, bold) <= width:
        low, high = high, min(len(text), 2 * high)
    while low < high:
        middle = (low + high + 1) // 2
        if text_width(text[:middle], size, bold) <= width:
            low = middle
        else:
            high = middle - 1
    return low
