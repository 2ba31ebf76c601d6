"""The figure of the field: question, image, one panel per method, its answer below, marked right or wrong.

The genre is VisPruner's case figure (dropped patches greyed, answers beside) with GlobalCom2's evidence box. ``film``
draws videos.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..comparison import Comparison
from ..errors import BadInput
from ..files import write_or_refuse
from .film import Film, chosen_frames
from .palette import THEMES, Theme, ThemeName
from .panels import (
    NOT_RUN,
    SILENT,
    VIEWS,
    Choice,
    Panel,
    View,
    chosen_runs,
    footer,
    legend_items,
    make_panel,
    verdict_words,
)
from .raster import Canvas, Level, open_canvas
from .saving import DPI, FORMATS, figure_format, written
from .sheet import (
    MARGIN,
    SMALL,
    TITLE,
    VERDICT,
    Paragraph,
    Sheet,
    compose,
    draw_scale,
    drawable,
    pitch,
    scale_height,
    text_width,
    wrap,
)

GAP, ROW_GAP = 0.2, 0.18
LARGE_ANSWER, ANSWER = 13.0, 8.0
MOST_COLUMNS = 12
MAX_COLUMNS, MAX_ANSWER_LINES, MAX_ERROR_LINES = 5, 6, 5
TALLEST_IMAGE = 1.6
"""Height of the tallest image in panel widths; taller ones become narrower."""


def comparison_figure(
    comparison: Comparison,
    *,
    view: View = "kept",
    methods: Sequence[str] | None = None,
    theme: ThemeName = "light",
    level: Level = None,
    frames: Sequence[int] | None = None,
    stages: Mapping[str, int] | None = None,
    maps: Mapping[str, str] | None = None,
    against: str | None = None,
    radius: int = 2,
    columns: int | None = None,
    title: str | None = None,
    dpi: int = DPI,
) -> Figure:
    """Draw a comparison for print, 4 to 11.5 inches wide; arguments as those of ``Comparison.figure``.

    A method without a score, merges or a second stage shows what it kept, and says so. Raises BadInput for anything
    unknown.
    """
    if view not in VIEWS:
        raise BadInput(f"The view must be one of {', '.join(VIEWS)}, not {view!r}.")
    if theme not in THEMES:
        raise BadInput(f"The theme must be one of {', '.join(THEMES)}, not {theme!r}.")
    runs = chosen_runs(comparison, None if methods is None else list(methods))
    choice = _choice(comparison, stages, maps, against, radius)
    if columns is not None and not (type(columns) is int and 1 <= columns <= MOST_COLUMNS):
        raise BadInput(f"A figure has 1 to {MOST_COLUMNS} columns, not {columns!r}.")
    if comparison.video is not None:
        if level is not None:
            raise BadInput("A video is drawn frame by frame: choose frames, not a level.")
        film = Film(comparison, runs, view, chosen_frames(comparison, frames), THEMES[theme], dpi, choice)
        return film.draw(title)
    if frames is not None:
        raise BadInput("This comparison is about an image; it has no frames to choose from.")
    layout = _Layout(comparison, len(runs), dpi, columns)
    canvas = open_canvas(comparison, level=level, long_side=layout.long_side)
    panels = [make_panel(canvas, run, view, choice) for run in runs]
    return _draw(layout, canvas, panels, THEMES[theme], dpi, title)


def _choice(
    comparison: Comparison,
    stages: Mapping[str, int] | None,
    maps: Mapping[str, str] | None,
    against: str | None,
    radius: int,
) -> Choice:
    """What is drawn of which run. Raises BadInput for runs that are not there."""
    for name in (*(stages or {}), *(maps or {})):
        chosen_runs(comparison, [name])
    if not all(type(stage) is int for stage in (stages or {}).values()):
        raise BadInput("stages holds the number of a stage, from 0, for each run.")
    keys = {name: comparison[name].key for name in (*(stages or {}), *(maps or {}))}
    return Choice(
        stages={keys[name]: stage for name, stage in (stages or {}).items()},
        maps={keys[name]: chosen for name, chosen in (maps or {}).items()},
        against=against,
        radius=radius,
    )


def figure_bytes(comparison: Comparison, file_format: str = "png", **options: Any) -> bytes:
    """The figure as the bytes of a ``png``, ``svg`` or ``pdf`` file; same comparison, same bytes.

    ``options`` are those of ``comparison_figure``. Raises BadInput for another format.
    """
    if file_format not in FORMATS:
        raise BadInput(f"Figures can be written as {', '.join(FORMATS)}, not as {file_format!r}.")
    title = f"tokviz: {comparison.request.question}"
    return written(lambda: comparison_figure(comparison, **options), file_format, title)


def figure_files(comparison: Comparison, **options: Any) -> dict[str, bytes]:
    """The figure in each of ``FORMATS``, drawn once; otherwise as ``figure_bytes``."""
    figure = comparison_figure(comparison, **options)
    title = f"tokviz: {comparison.request.question}"
    return {file_format: written(lambda: figure, file_format, title) for file_format in FORMATS}


def save_figure(comparison: Comparison, path: str | Path, **options: Any) -> Path:
    """Write the figure to a file, its format by suffix, and return the path. Raises BadInput when that cannot be."""
    write_or_refuse(path, figure_bytes(comparison, figure_format(path), **options))
    return Path(path)


class _Layout:
    """Sizes in inches that follow from the image's proportions and the number of panels."""

    def __init__(self, comparison: Comparison, n_panels: int, dpi: int, columns: int | None = None) -> None:
        rows = math.ceil(n_panels / MAX_COLUMNS)
        self.columns = math.ceil(n_panels / rows) if columns is None else min(columns, n_panels)
        self.panel = {1: 3.6, 2: 2.6, 3: 2.3}.get(self.columns, 2.05)
        aspect = comparison.image.height / comparison.image.width
        self.panel *= 0.86 if aspect > 1.4 else 1.0
        self.width = 2 * MARGIN + self.columns * self.panel + (self.columns - 1) * GAP
        self.image_height = self.panel * min(aspect, TALLEST_IMAGE)
        self.image_width = min(self.panel, self.image_height / aspect)
        self.long_side = max(1, round(max(self.image_width, self.image_height) * dpi))
        """Of the rendered image, in px."""


def _draw(
    layout: _Layout, canvas: Canvas, panels: list[Panel], theme: Theme, dpi: int, title: str | None = None
) -> Figure:
    """Measure everything, make the sheet, draw row by row."""
    large = all(text_width(drawable(panel.answer), LARGE_ANSWER, bold=True) <= layout.panel for panel in panels)
    bar_height = max(scale_height(panel.scale, layout.panel) for panel in panels)
    blocks = [_Block(panel, layout, large, bar_height, theme) for panel in panels]
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
    return compose(
        canvas.comparison, size, theme, dpi, draw, legend=legend, notes=notes, gap=0.12, foot=MARGIN * 0.8, title=title
    )


class _Block:
    """One panel with its texts wrapped, so that rows can be as high as their highest panel."""

    def __init__(self, panel: Panel, layout: _Layout, large: bool, bar_height: float, theme: Theme) -> None:
        self.panel, self.layout = panel, layout
        self.below_image = 0.06 + bar_height
        width, size = layout.panel, LARGE_ANSWER if large else ANSWER
        self.title = wrap(panel.title, width, TITLE, bold=True, max_lines=1)
        if panel.error is not None:
            reason = wrap(panel.error, width, SMALL, max_lines=MAX_ERROR_LINES)
            self.words = [Paragraph([NOT_RUN], VERDICT, theme.bad, bold=True), Paragraph(reason, SMALL, theme.muted)]
        else:
            answer = wrap(panel.answer, width, size, bold=large, max_lines=MAX_ANSWER_LINES)
            said = Paragraph(answer, size, theme.ink, bold=large) if answer else Paragraph([SILENT], size, theme.muted)
            self.words = [said, *verdict_words(panel, width, theme)]
        notes = [panel.note] if panel.note else []
        facts = [line for fact in notes + panel.facts for line in wrap(fact, width, SMALL, max_lines=2)]
        self.words.append(Paragraph(facts, SMALL, theme.muted, above=0.03))

    @property
    def height(self) -> float:
        texts = sum(words.height for words in self.words)
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
            draw_scale(sheet, x, top + 0.06, layout.panel, panel.scale, *panel.look)
        sheet.paragraphs(x, top + self.below_image, self.words)
