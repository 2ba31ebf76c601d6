"""The figure of the field: question, image, one panel per method, its answer below, marked right or wrong.

The genre is VisPruner's case figure (dropped patches greyed, answers beside) with GlobalCom2's evidence box.
"""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from ..comparison import Comparison
from ..errors import BadInput
from ..files import write_or_refuse
from .film import film_figure
from .format import plain_text
from .palette import THEMES, Theme, ThemeName
from .panels import VIEWS, Panel, View, chosen_runs, footer, legend_items, make_panel, verdict_color
from .raster import Canvas, Level, open_canvas
from .sheet import (
    FAMILIES,
    MARGIN,
    SMALL,
    TITLE,
    VERDICT,
    Sheet,
    compose,
    draw_scale,
    drawable,
    pitch,
    scale_height,
    text_width,
    wrap,
)

FORMATS = ("png", "svg", "pdf")
DPI = 300

GAP, ROW_GAP = 0.2, 0.18
LARGE_ANSWER, ANSWER = 13.0, 8.0
MAX_COLUMNS, MAX_ANSWER_LINES, MAX_ERROR_LINES = 5, 6, 5
TALLEST_IMAGE = 1.6
"""Height of the tallest image in panel widths; taller ones become narrower."""

# matplotlib's settings are global and not thread-safe: files are written one at a time.
_SETTINGS_LOCK = threading.Lock()
# Unhinted letters are as wide at every resolution as they were measured.
_SETTINGS: dict[str, Any] = {
    "text.hinting": "none",
    "svg.hashsalt": "tokviz",
    "svg.fonttype": "none",
    "font.sans-serif": FAMILIES,
    "svg.image_inline": True,
    "pdf.fonttype": 42,
    "pdf.compression": 6,
    "savefig.bbox": None,
    "savefig.transparent": False,
    "hatch.linewidth": 0.6,
    "text.usetex": False,
    "text.antialiased": True,
    "path.effects": [],
    "path.sketch": None,
}


def comparison_figure(
    comparison: Comparison,
    *,
    view: View = "kept",
    methods: Sequence[str] | None = None,
    theme: ThemeName = "light",
    level: Level = None,
    frames: Sequence[int] | None = None,
    dpi: int = DPI,
) -> Figure:
    """Draw a comparison for print.

    Args: view ``"kept"``, ``"score"``, ``"clusters"`` or ``"dropped"``, how many stages each token survived (a method
    without a score, merges or a second stage shows what it kept, and says so); methods which runs beside the unpruned
    one (None: all); level what of the grid is drawn (None: the last, see ``GridView``; ``"both"`` levels of an image
    that is looked at whole and in crops); frames of a video, from 0 (None: at most 8, evenly, evidence among them), in
    columns, a row per method; dpi pixels per inch of the images inside (figures are 4 to 11.5 inches wide). Raises
    BadInput for anything unknown.
    """
    if view not in VIEWS:
        raise BadInput(f"The view must be one of {', '.join(VIEWS)}, not {view!r}.")
    if theme not in THEMES:
        raise BadInput(f"The theme must be one of {', '.join(THEMES)}, not {theme!r}.")
    runs = chosen_runs(comparison, None if methods is None else list(methods))
    if comparison.video is not None:
        if level is not None:
            raise BadInput("A video is drawn frame by frame: choose frames, not a level.")
        return film_figure(comparison, runs, view, THEMES[theme], frames, dpi)
    if frames is not None:
        raise BadInput("This comparison is about an image; it has no frames to choose from.")
    layout = _Layout(comparison, len(runs), dpi)
    canvas = open_canvas(comparison, level=level, long_side=layout.long_side)
    panels = [make_panel(canvas, run, view) for run in runs]
    return _draw(layout, canvas, panels, THEMES[theme], dpi)


def figure_bytes(comparison: Comparison, file_format: str = "png", **options: Any) -> bytes:
    """The figure as the bytes of a ``png``, ``svg`` or ``pdf`` file; same comparison, same bytes.

    ``options`` are those of ``comparison_figure``. Raises BadInput for another format.
    """
    if file_format not in FORMATS:
        raise BadInput(f"Figures can be written as {', '.join(FORMATS)}, not as {file_format!r}.")
    figure = comparison_figure(comparison, **options)
    title = plain_text(f"tokviz: {comparison.request.question}", 300)
    metadata_of: dict[str, dict[str, str | None]] = {
        "png": {"Title": title, "Software": "tokviz"},
        "svg": {"Title": title, "Creator": "tokviz", "Date": None},
        "pdf": {"Title": title, "Creator": "tokviz", "Producer": "matplotlib", "CreationDate": None},
    }
    metadata = metadata_of[file_format]
    buffer = io.BytesIO()
    settings: Any = _SETTINGS  # matplotlib types the keys as a literal of all its settings
    with _SETTINGS_LOCK, matplotlib.rc_context(settings):
        figure.savefig(buffer, format=file_format, dpi=figure.dpi, facecolor=figure.get_facecolor(), metadata=metadata)
    return buffer.getvalue()


def figure_format(path: str | Path) -> str:
    """The format that a file name asks for by its suffix. Raises BadInput when it is none of png, svg, pdf."""
    suffix = Path(path).suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        raise BadInput(f"The figure's file name must end in .png, .svg or .pdf, not {Path(path).suffix!r}.")
    return suffix


def save_figure(comparison: Comparison, path: str | Path, **options: Any) -> Path:
    """Write the figure to a file, its format by suffix, and return the path. Raises BadInput when that cannot be."""
    write_or_refuse(path, figure_bytes(comparison, figure_format(path), **options))
    return Path(path)


class _Layout:
    """Sizes in inches that follow from the image's proportions and the number of panels."""

    def __init__(self, comparison: Comparison, n_panels: int, dpi: int) -> None:
        rows = math.ceil(n_panels / MAX_COLUMNS)
        self.columns = math.ceil(n_panels / rows)
        self.panel = {1: 3.6, 2: 2.6, 3: 2.3}.get(self.columns, 2.05)
        aspect = comparison.image.height / comparison.image.width
        self.panel *= 0.86 if aspect > 1.4 else 1.0
        self.width = 2 * MARGIN + self.columns * self.panel + (self.columns - 1) * GAP
        self.image_height = self.panel * min(aspect, TALLEST_IMAGE)
        self.image_width = min(self.panel, self.image_height / aspect)
        self.long_side = max(1, round(max(self.image_width, self.image_height) * dpi))
        """Of the rendered image, in px."""


def _draw(layout: _Layout, canvas: Canvas, panels: list[Panel], theme: Theme, dpi: int) -> Figure:
    """Measure everything, make the sheet, draw row by row."""
    large = all(text_width(drawable(panel.answer), LARGE_ANSWER, bold=True) <= layout.panel for panel in panels)
    bar_height = max(scale_height(panel.scale, layout.panel) for panel in panels)
    blocks = [_Block(panel, layout, large, bar_height) for panel in panels]
    rows = [blocks[start : start + layout.columns] for start in range(0, len(blocks), layout.columns)]
    heights = [max(block.height for block in row) for row in rows]

    def draw(sheet: Sheet, top: float) -> None:
        for row, row_height in zip(rows, heights, strict=True):
            for column, block in enumerate(row):
                block.draw(sheet, MARGIN + column * (layout.panel + GAP), top)
            top += row_height + ROW_GAP

    body = sum(heights) + (len(rows) - 1) * ROW_GAP + 0.14
    legend, notes = legend_items(canvas, panels, theme), footer(canvas.comparison)
    size = layout.width, body
    return compose(canvas.comparison, size, theme, dpi, draw, legend=legend, notes=notes, gap=0.12, foot=MARGIN * 0.8)


class _Block:
    """One panel with its texts wrapped, so that rows can be as high as their highest panel."""

    def __init__(self, panel: Panel, layout: _Layout, large: bool, bar_height: float) -> None:
        self.panel, self.layout = panel, layout
        self.below_image = 0.06 + bar_height
        width = layout.panel
        self.title = wrap(panel.title, width, TITLE, bold=True, max_lines=1)
        self.answer_size = LARGE_ANSWER if large else ANSWER
        answer = panel.answer if panel.error is None else ""
        self.answer = wrap(answer, width, self.answer_size, bold=large, max_lines=MAX_ANSWER_LINES)
        self.silent = panel.error is None and not self.answer
        error = panel.error or ""
        self.error = wrap(error, width, SMALL, max_lines=MAX_ERROR_LINES)
        self.verdict = wrap(panel.verdict, width, VERDICT, bold=True, max_lines=2)
        notes = [panel.note] if panel.note else []
        self.facts = [line for fact in notes + panel.facts for line in wrap(fact, width, SMALL, max_lines=2)]

    @property
    def height(self) -> float:
        answer = (len(self.answer) + self.silent) * pitch(self.answer_size) + len(self.verdict) * pitch(VERDICT)
        error = pitch(VERDICT) + len(self.error) * pitch(SMALL) if self.error else 0.0
        texts = answer + error + 0.03 + len(self.facts) * pitch(SMALL)
        return pitch(TITLE) + 0.04 + self.layout.image_height + self.below_image + texts

    def draw(self, sheet: Sheet, x: float, top: float) -> None:
        """Draw the panel below ``top``."""
        theme, layout, panel = sheet.theme, self.layout, self.panel
        for line in self.title:
            width = sheet.text(x, top + 0.13, line, TITLE, theme.ink, bold=True)
            subtitle = drawable(panel.subtitle)
            if width + 0.07 + text_width(subtitle, SMALL) <= layout.panel:
                sheet.text(x + width + 0.07, top + 0.13, subtitle, SMALL, theme.muted)
        top += pitch(TITLE) + 0.04
        sheet.image(x, top, layout.image_width, layout.image_height, panel.pixels)
        top += layout.image_height
        if panel.scale:
            draw_scale(sheet, x, top + 0.06, layout.panel, panel.scale)
        top += self.below_image
        if self.error:
            top = sheet.lines(x, top, ["✗ not run"], VERDICT, theme.bad, bold=True)
            top = sheet.lines(x, top, self.error, SMALL, theme.muted)
        large = self.answer_size == LARGE_ANSWER
        top = sheet.lines(x, top, self.answer, self.answer_size, theme.ink, bold=large)
        if self.silent:
            top = sheet.lines(x, top, ["(no answer)"], self.answer_size, theme.muted)
        if panel.judged:
            top = sheet.lines(x, top, self.verdict, VERDICT, verdict_color(panel.judged, theme), bold=True)
        sheet.lines(x, top + 0.03, self.facts, SMALL, theme.muted)
