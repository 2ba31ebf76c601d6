"""A sheet of paper in inches from its upper left corner: text, images, legend, colour bars; no pyplot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, get_font
from matplotlib.ft2font import LoadFlags
from matplotlib.patches import Rectangle

from ..comparison import Comparison
from ..records import TokenMap
from . import palette
from .format import plain_text
from .overlays import map_limits
from .palette import Theme
from .raster import Pixels

MARGIN = 0.2
QUESTION, TITLE, VERDICT, SMALL = 12.0, 9.5, 8.0, 7.0
"""Font sizes in points."""
MISSING = "□"
FAMILIES = ["DejaVu Sans", "Verdana", "Bitstream Vera Sans", "Liberation Sans", "Arial", "Helvetica"]
"""What the text of an SVG file is shown in: the font that it was measured with, or one that is about as wide."""
LINE_PITCH = 1.32
"""Distance of two base lines in font sizes."""
_POINTS_PER_INCH = 72
_FIXED_POINT = 65536
_MEASURED_AT = 100

LegendItem = tuple[dict[str, Any], str]
"""Arguments of ``Sheet.box`` for the swatch, and its words."""


@cache
def font_file(bold: bool = False) -> Path:
    """The font file inside matplotlib; never a font of the system, which may differ."""
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")


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
    """Break untrusted text into at most ``max_lines`` lines of ``width`` inches; a cut one ends with an ellipsis.

    Words that are longer than a line are broken. Empty text gives no lines.
    """
    lines: list[str] = []
    rest = drawable(text)
    while rest and len(lines) < max_lines:
        fitting = _fitting(rest, width, size, bold)
        blank = rest.rfind(" ", 0, fitting + 1)
        line = rest if fitting == len(rest) else rest[:blank] if blank > 0 else rest[: max(fitting, 1)]
        lines.append(line.rstrip())
        rest = rest[len(line) :].lstrip()
    if rest:
        whole = f"{lines[-1]} {rest}"
        room = width - text_width("…", size, bold)
        lines[-1] = whole[: _fitting(whole, room, size, bold)].rstrip() + "…"
    return lines


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


def pitch(size: float) -> float:
    """Distance of two base lines in inches at a font size in points."""
    return size * LINE_PITCH / _POINTS_PER_INCH


@dataclass(frozen=True)
class Paragraph:
    """Lines that were wrapped, how they are written, and the gap above them in inches."""

    lines: Sequence[str]
    size: float
    color: str
    bold: bool = False
    above: float = 0.0

    @property
    def height(self) -> float:
        """In inches, with the gap."""
        return self.above + len(self.lines) * pitch(self.size)


class Sheet:
    """Puts texts, images and boxes on a Figure; x runs right and y runs down, in inches.

    Texts are never read as mathematics or TeX, and are drawn with the shipped fonts whatever the user's matplotlibrc
    says, so that untrusted answers stay text and files are equal byte for byte.
    """

    def __init__(self, width: float, height: float, theme: Theme, dpi: int) -> None:
        # Whole pixels, so that images rendered at this resolution are not resampled.
        self.dpi = dpi
        self.width, self.height = self.whole(width), self.whole(height)
        self.theme = theme
        self.figure = Figure(figsize=(self.width, self.height), dpi=dpi, facecolor=theme.paper)
        self.figure.set_layout_engine("none")
        FigureCanvasAgg(self.figure)

    def whole(self, inches: float) -> float:
        """The nearest length that is a whole number of pixels."""
        return round(inches * self.dpi) / self.dpi

    def text(self, x: float, baseline: float, text: str, size: float, color: str, *, bold: bool = False) -> float:
        """Write one line and return its width in inches. ``text`` must come from ``wrap`` or ``drawable``."""
        # The names are those that an SVG file asks a reader's machine for.
        weight = "bold" if bold else "normal"
        font = FontProperties(fname=font_file(bold), family="sans-serif", weight=weight, size=size)
        look: dict[str, Any] = {"color": color, "va": "baseline", "ha": "left", "parse_math": False, "usetex": False}
        self.figure.text(x / self.width, 1 - baseline / self.height, text, fontproperties=font, **look)
        return text_width(text, size, bold)

    def lines(
        self, x: float, top: float, lines: Sequence[str], size: float, color: str, *, bold: bool = False
    ) -> float:
        """Write lines below ``top`` and return the y below the last one."""
        for line in lines:
            top += pitch(size)
            self.text(x, top - 0.3 * size / _POINTS_PER_INCH, line, size, color, bold=bold)
        return top

    def paragraphs(self, x: float, top: float, paragraphs: Sequence[Paragraph]) -> float:
        """Write them below ``top`` and return the y below the last one."""
        for words in paragraphs:
            top = self.lines(x, top + words.above, words.lines, words.size, words.color, bold=words.bold)
        return top

    def image(self, x: float, top: float, width: float, height: float, pixels: Pixels, *, frame: bool = True) -> None:
        """Place pixels in a rectangle, moved to whole pixels of the sheet."""
        left, upper, wide, high = (self.whole(length) for length in (x, top, width, height))
        corner = left / self.width, 1 - (upper + high) / self.height
        axes = self.figure.add_axes((*corner, wide / self.width, high / self.height))
        axes.imshow(pixels, interpolation="none", aspect="auto")
        axes.set(xticks=[], yticks=[], facecolor=self.theme.paper)
        for spine in axes.spines.values():
            spine.set(color=self.theme.line, linewidth=0.6, visible=frame)

    def box(self, x: float, top: float, width: float, height: float, *, dashed: bool = False, **look: Any) -> None:
        """Draw a small rectangle, e.g. a swatch of a legend. ``look``: facecolor, edgecolor, linewidth, hatch."""
        corner = x / self.width, 1 - (top + height) / self.height
        look = {"linewidth": 0.8, "linestyle": (0, (2.2, 1.4)) if dashed else "solid", **look}
        transform = self.figure.transFigure
        self.figure.add_artist(Rectangle(corner, width / self.width, height / self.height, transform=transform, **look))


def compose(
    comparison: Comparison,
    size: tuple[float, float],
    theme: Theme,
    dpi: int,
    draw: Callable[[Sheet, float], None],
    *,
    legend: Sequence[LegendItem],
    notes: Sequence[str],
    gap: float,
    foot: float,
    title: str | None = None,
) -> Figure:
    """Make a whole figure: the question, what ``draw(sheet, top)`` puts below it, legend and notes.

    size: width of the sheet and height of what ``draw`` needs. gap: below the question. foot: below the notes.
    All in inches. title: in place of the question; an empty one leaves it and the expected answer out.
    """
    width, body = size
    inner = width - 2 * MARGIN
    question = wrap(comparison.request.question if title is None else title, inner, QUESTION, bold=True, max_lines=3)
    expected = comparison.request.expected_answer
    known = wrap(f"expected answer: {expected}", inner, VERDICT, max_lines=2) if expected and title != "" else []
    swatches = _legend_lines(legend, inner)
    small = [line for text in notes for line in wrap(text, inner, SMALL, max_lines=4)]
    head = MARGIN + len(question) * pitch(QUESTION) + len(known) * pitch(VERDICT) + gap
    height = head + body + (len(swatches) + len(small)) * pitch(SMALL) + 0.1 + foot
    sheet = Sheet(width, height, theme, dpi)
    top = sheet.lines(MARGIN, MARGIN - 0.04, question, QUESTION, theme.ink, bold=True)
    sheet.lines(MARGIN, top, known, VERDICT, theme.muted)
    draw(sheet, head)
    top = head + body
    for line in swatches:
        for offset, (swatch, words) in line:
            sheet.box(MARGIN + offset + 0.01, top + 0.03, 0.12, 0.08, **swatch)
            sheet.text(MARGIN + offset + 0.18, top + 0.1, words, SMALL, theme.muted)
        top += pitch(SMALL)
    sheet.lines(MARGIN, top + 0.1, small, SMALL, theme.muted)
    return sheet.figure


def _legend_lines(items: Sequence[LegendItem], width: float) -> list[list[tuple[float, LegendItem]]]:
    """Items with their x in inches, broken into lines of ``width``."""
    lines: list[list[tuple[float, LegendItem]]] = []
    x = 0.0
    for swatch, words in items:
        needed = 0.18 + text_width(words, SMALL) + 0.2
        if not lines or x + needed - 0.2 > width:
            lines.append([])
            x = 0.0
        lines[-1].append((x, (swatch, words)))
        x += needed
    return lines


def scale_height(values: TokenMap | None, width: float) -> float:
    """Height in inches of a heat map's colour bar with its words; 0 when there is no map."""
    return 0.17 + len(_scale_words(values, width)) * pitch(SMALL) if values else 0.0


def draw_scale(
    sheet: Sheet,
    x: float,
    top: float,
    width: float,
    values: TokenMap,
    limits: tuple[float, float] | None = None,
    colours: str = palette.HEAT_MAP,
) -> None:
    """Draw the colour bar with its two ends in numbers and what it measures; positions and width in inches.

    limits: as of ``heat_overlay``; where they are given, what lies beyond them has the colour of the ends.
    """
    low_is_end = limits is None
    limits = map_limits(values) if limits is None else limits
    if limits is None:
        return
    muted = sheet.theme.muted
    ramp = matplotlib.colormaps[colours](np.linspace(0, 1, 256))[None, :, :3]
    low, high = (f"{limit:.3g}" for limit in limits)
    if low_is_end and any(value is not None and value < limits[0] for value in values.values):
        low = f"≤ {low}"
    low_width, high_width = text_width(low, SMALL), text_width(high, SMALL)
    sheet.text(x, top + 0.09, low, SMALL, muted)
    sheet.text(x + width - high_width, top + 0.09, high, SMALL, muted)
    bar = width - low_width - high_width - 0.12
    sheet.image(x + low_width + 0.06, top + 0.015, bar, 0.075, (ramp * 255).astype(np.uint8), frame=False)
    sheet.lines(x, top + 0.1, _scale_words(values, width), SMALL, muted)


def _scale_words(values: TokenMap, width: float) -> list[str]:
    unit = f" ({values.unit})" if values.unit else ""
    log = ", log scale" if values.scale == "log" else ""
    return wrap(f"{values.label}{unit}{log}: {values.direction}", width, SMALL, max_lines=3)
