"""The figure of a video: a row per method, a column per chosen frame, and under every frame how many of its patches
were kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ..comparison import Comparison
from ..errors import BadInput
from ..records import Run
from ..runs.metrics import kept_per_frame
from .format import BAR_TOPS
from .palette import Theme
from .panels import NOT_RUN, SILENT, Choice, View, footer, legend_items, make_panel, verdict_words
from .raster import Canvas, open_canvas
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

MOST_FRAMES = 8
"""Frames of a figure of a video that nobody chose frames for."""
FILM_GAP, SIDE, BAR = 0.07, 1.75, 0.06
FILM_ANSWER = 9.5
FILM_WIDTH = 9.3
"""Inches that the frames of a row may take together."""


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


class Film:
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
