"""The figure of the field: question, image, one panel per method, its answer below, marked right or wrong.

The genre is VisPruner's case figure (dropped patches greyed, answers beside) with GlobalCom2's evidence box. Of a video
a row per method and a column per chosen frame, and under every frame how many of its patches were kept.
"""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ..comparison import Comparison
from ..errors import BadInput
from ..files import write_or_refuse
from ..records import Run
from ..runs.metrics import kept_per_frame
from .format import BAR_TOPS, plain_text
from .palette import THEMES, Theme, ThemeName
from .panels import VIEWS, Choice, Panel, View, chosen_runs, footer, legend_items, make_panel
from .raster import Canvas, Level, open_canvas
from .sheet import (
    FAMILIES,
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

FORMATS = ("png", "svg", "pdf")
DPI = 300

GAP, ROW_GAP = 0.2, 0.18
LARGE_ANSWER, ANSWER = 13.0, 8.0
MOST_COLUMNS = 12
MAX_COLUMNS, MAX_ANSWER_LINES, MAX_ERROR_LINES = 5, 6, 5
TALLEST_IMAGE = 1.6
"""Height of the tallest image in panel widths; taller ones become narrower."""
NOT_RUN, SILENT = "✗ not run", "(no answer)"

MOST_FRAMES = 8
"""Frames of a figure of a video that nobody chose frames for."""
FILM_GAP, SIDE, BAR = 0.07, 1.75, 0.06
FILM_ANSWER = 9.5
FILM_WIDTH = 9.3
"""Inches that the frames of a row may take together."""

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
        film = _Film(comparison, runs, view, chosen_frames(comparison, frames), THEMES[theme], dpi, choice)
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


def written(make: Callable[[], Figure], file_format: str, title: str) -> bytes:
    """A figure as the bytes of a file of one of ``FORMATS``; the title is untrusted text."""
    figure, title = make(), plain_text(title, 300)
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


def chosen_frames(comparison: Comparison, frames: Sequence[int] | None = None, most: int = MOST_FRAMES) -> list[int]:
    """The sampled frames (from 0) of a figure, ascending: those asked for, or at most ``most``, evenly over the video.

    Frames that share their tokens stand for each other; of them the one with evidence is taken. Where evenly chosen
    frames leave out one with evidence, it takes the place of its neighbour. Raises BadInput when an asked one is not
    there.
    """
    n_frames = len(comparison.video.frames) if comparison.video else 0
    if frames is not None:
        wrong = [frame for frame in frames if not 0 <= frame < n_frames]
        if wrong or not frames:
            raise BadInput(f"The frames of a figure are numbers from 0 to {n_frames - 1}, not {list(frames)}.")
        return sorted(set(frames))
    evidence = sorted(set(comparison.request.evidence_frames))
    views = sorted((view.frames for view in comparison.grid.views), key=min)
    shown = [min((frame for frame in evidence if frame in view), default=min(view)) for view in views]
    even = sorted({round(place) for place in np.linspace(0, len(views) - 1, min(most, len(views))).tolist()})
    wanted = [at for at, view in enumerate(views) if any(frame in view for frame in evidence)][:most]
    for at in wanted:
        if at not in even:
            even.remove(min((other for other in even if other not in wanted), key=lambda other: abs(other - at)))
            even.append(at)
    return sorted(shown[at] for at in even)


class _Film:
    """Everything measured in inches first, then drawn from top to bottom."""

    def __init__(
        self,
        comparison: Comparison,
        runs: Sequence[Run],
        view: View,
        frames: Sequence[int],
        theme: Theme,
        dpi: int,
        choice: Choice,
    ) -> None:
        self.comparison, self.frames, self.theme, self.dpi = comparison, frames, theme, dpi
        self.times = [frame.time_s for frame in comparison.video.frames] if comparison.video else []
        width, height = comparison.grid.image_size
        widest = min(1.8, 1.5 * width / height)
        self.cell = min(widest, (FILM_WIDTH - FILM_GAP * (len(frames) - 1)) / len(frames))
        self.still = self.cell * height / width
        self.width = max(2 * MARGIN + SIDE + len(frames) * (self.cell + FILM_GAP), 5.0)
        long_side = max(1, round(max(self.cell, self.still) * dpi))
        self.canvases = [open_canvas(comparison, frame=frame, long_side=long_side) for frame in frames]
        self.rows = [_Row(self.canvases, run, view, theme, choice) for run in runs]
        shares = [count.share for row in self.rows if row.pruned for count in row.counts]
        self.top = next(top for top in BAR_TOPS if max(shares, default=1.0) <= top)

    def draw(self, title: str | None) -> Figure:
        """Make the whole figure."""
        heights = [max(row.height, self.still + BAR + 0.06 + pitch(SMALL)) + 0.14 for row in self.rows]
        times = pitch(SMALL) + 0.05

        def draw(sheet: Sheet, top: float) -> None:
            self._draw_times(sheet, top)
            top += times
            for row, row_height in zip(self.rows, heights, strict=True):
                row.draw_words(sheet, top)
                for column, frame in enumerate(self.frames):
                    x = self._left(column)
                    sheet.image(x, top, self.cell, self.still, row.panels[column].pixels)
                    self._draw_count(sheet, x, top + self.still, row, frame)
                top += row_height

        panels = [panel for row in self.rows for panel in row.panels]
        legend = legend_items(self.canvases[0], panels, self.theme)
        notes = [self._bar_words(), *footer(self.comparison)]
        size = self.width, times + sum(heights)
        return compose(
            self.comparison,
            size,
            self.theme,
            self.dpi,
            draw,
            legend=legend,
            notes=notes,
            gap=0.1,
            foot=MARGIN,
            title=title,
        )

    def _left(self, column: int) -> float:
        return MARGIN + SIDE + column * (self.cell + FILM_GAP)

    def _draw_times(self, sheet: Sheet, top: float) -> None:
        """Over every column the number of its frame, counted from 1, and its time; frames with evidence in bold."""
        evidence = set(self.comparison.request.evidence_frames)
        for column, frame in enumerate(self.frames):
            seconds, bold = self.times[frame], frame in evidence
            words = f"frame {frame + 1} · {seconds:.2f} s"
            if text_width(words, SMALL, bold) > self.cell:
                words = f"{frame + 1} · {seconds:.1f} s"
            color = sheet.theme.ink if bold else sheet.theme.muted
            sheet.text(self._left(column), top + 0.1, words, SMALL, color, bold=bold)

    def _draw_count(self, sheet: Sheet, x: float, top: float, row: _Row, frame: int) -> None:
        """A bar as long as the share of the frame's patches that was kept, and the numbers."""
        if row.panels[0].error is not None:
            return
        count = next(count for count in row.counts if frame in count.frames)
        theme, share = sheet.theme, min(count.share / self.top, 1.0)
        if row.pruned:
            sheet.box(x, top + 0.04, self.cell, BAR, facecolor=theme.line, edgecolor="none", linewidth=0.0)
        if row.pruned and share > 0:
            sheet.box(x, top + 0.04, self.cell * share, BAR, facecolor="#0072b2", edgecolor="none", linewidth=0.0)
        words = f"{count.kept} of {count.patches}" if row.pruned else f"all {count.patches}"
        sheet.text(x, top + 0.04 + BAR + 0.1, words, SMALL, theme.muted)

    def _bar_words(self) -> str:
        shared = any(len(view.frames) > 1 for view in self.comparison.grid.views)
        drawn = f"{len(self.frames)} of {len(self.times)} frames shown"
        together = "; frames that became one grid share their patches" if shared else ""
        return f"Bars: patches kept of a frame, full length {self.top:.0%}{together}. {drawn}."


class _Row:
    """One method: its words at the left, measured, and its panel of every frame."""

    def __init__(self, canvases: Sequence[Canvas], run: Run, view: View, theme: Theme, choice: Choice) -> None:
        self.panels = [make_panel(canvas, run, view, choice) for canvas in canvases]
        panel, width = self.panels[0], SIDE - 0.12
        kept = run.stages[panel.stage].kept if panel.stage is not None and run.stages else None
        self.pruned = kept is not None
        self.counts = kept_per_frame(canvases[0].comparison.grid, kept)
        self.words = [
            Paragraph(wrap(panel.title, width, TITLE, bold=True, max_lines=1), TITLE, theme.ink, True, above=-0.03),
            Paragraph([drawable(panel.subtitle)], SMALL, theme.muted),
        ]
        if panel.error is not None:
            notes = [panel.error]
            self.words.append(Paragraph([NOT_RUN], VERDICT, theme.bad, bold=True, above=0.03))
        else:
            notes = [*([panel.note] if panel.note else []), *panel.facts, *self._others()]
            answer = wrap(panel.answer, width, FILM_ANSWER, bold=True, max_lines=3) or [SILENT]
            said = Paragraph(answer, FILM_ANSWER, theme.ink, bold=True, above=0.03)
            self.words += [said, *verdict_words(panel, width, theme)]
        facts = [line for note in notes for line in wrap(note, width, SMALL, max_lines=4)]
        self.words.append(Paragraph(facts, SMALL, theme.muted, above=0.03))
        self.scale = scale_height(panel.scale, width)

    def _others(self) -> list[str]:
        """Tokens that are no patch, of all frames together."""
        others = sum(count.others for count in self.counts)
        kept = sum(count.others_kept for count in self.counts)
        return [f"non-patch tokens: {kept} of {others} kept"] if others else []

    @property
    def height(self) -> float:
        return sum(words.height for words in self.words) + 0.03 + self.scale + (0.06 if self.scale else 0.0)

    def draw_words(self, sheet: Sheet, top: float) -> None:
        top = sheet.paragraphs(MARGIN, top, self.words)
        if self.panels[0].scale:
            draw_scale(sheet, MARGIN, top + 0.06, SIDE - 0.12, self.panels[0].scale, *self.panels[0].look)


def verdict_words(panel: Panel, width: float, theme: Theme) -> list[Paragraph]:
    """The verdict of a panel in its colour; nothing where there is none."""
    if panel.judged is None:
        return []
    color = {"good": theme.good, "bad": theme.bad, "different": theme.changed, "same": theme.muted}[panel.judged.tone]
    return [Paragraph(wrap(str(panel.judged), width, VERDICT, bold=True, max_lines=2), VERDICT, color, bold=True)]
