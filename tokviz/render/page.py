"""A sheet of paper measured in inches from its upper left corner, on a matplotlib Figure without pyplot."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .lettering import font_properties, text_width
from .palette import Theme
from .raster import Pixels

LINE_PITCH = 1.32
"""Distance of two base lines in font sizes."""
_POINTS_PER_INCH = 72


def pitch(size: float) -> float:
    """Distance of two base lines in inches at a font size in points."""
    return size * LINE_PITCH / _POINTS_PER_INCH


class Page:
    """Puts texts, pictures and boxes on a Figure; x runs right and y runs down, in inches.

    Texts are never read as mathematics or TeX, and are drawn with the shipped fonts whatever the user's matplotlibrc
    says, so that untrusted answers stay text and files are equal byte for byte.
    """

    def __init__(self, width: float, height: float, theme: Theme, dpi: int) -> None:
        # Whole pixels, so that pictures rendered at this resolution are not resampled.
        self.dpi = dpi
        self.width, self.height = self.whole(width), self.whole(height)
        self.theme = theme
        self.figure = Figure(figsize=(self.width, self.height), dpi=dpi, facecolor=theme.paper)
        self.figure.set_layout_engine("none")

    def whole(self, inches: float) -> float:
        """The nearest length that is a whole number of pixels."""
        return round(inches * self.dpi) / self.dpi

    def text(self, x: float, baseline: float, text: str, size: float, color: str, *, bold: bool = False) -> float:
        """Write one line and return its width in inches. ``text`` must come from ``lettering.wrap`` or ``drawable``."""
        self.figure.text(
            x / self.width, 1 - baseline / self.height, text,
            fontproperties=font_properties(size, bold), color=color, va="baseline", ha="left",
            parse_math=False, usetex=False,
        )  # fmt: skip
        return text_width(text, size, bold)

    def lines(
        self, x: float, top: float, lines: Sequence[str], size: float, color: str, *, bold: bool = False
    ) -> float:
        """Write lines below ``top`` and return the y below the last one."""
        for line in lines:
            top += pitch(size)
            self.text(x, top - 0.3 * size / _POINTS_PER_INCH, line, size, color, bold=bold)
        return top

    def picture(self, x: float, top: float, width: float, height: float, pixels: Pixels, *, frame: bool = True) -> None:
        """Place pixels in a rectangle, moved to whole pixels of the page."""
        left, upper, wide, high = (self.whole(length) for length in (x, top, width, height))
        axes = self.figure.add_axes(
            (left / self.width, 1 - (upper + high) / self.height, wide / self.width, high / self.height)
        )
        axes.imshow(pixels, interpolation="none", aspect="auto")
        axes.set(xticks=[], yticks=[], facecolor=self.theme.paper)
        for spine in axes.spines.values():
            spine.set(color=self.theme.line, linewidth=0.6, visible=frame)

    def box(
        self, x: float, top: float, width: float, height: float, face: str, edge: str, *,
        line: float = 0.8, dashed: bool = False, hatch: str | None = None,
    ) -> None:  # fmt: skip
        """Draw a small rectangle, e.g. a swatch of a legend."""
        self.figure.add_artist(
            Rectangle(
                (x / self.width, 1 - (top + height) / self.height), width / self.width, height / self.height,
                transform=self.figure.transFigure, facecolor=face, edgecolor=edge, linewidth=line,
                linestyle=(0, (2.2, 1.4)) if dashed else "solid", hatch=hatch,
            )
        )  # fmt: skip
