"""The figure of a video: a row per method, a column per chosen frame, under every frame how many patches were kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ..comparison import Comparison
from ..errors import BadInput
from ..records import Run, VideoRecord
from ..runs.metrics import FrameCount, kept_per_frame
from .format import BAR_TOPS
from .palette import Theme
from .panels import Panel, View, footer, legend_items, make_panel, verdict_color
from .raster import open_canvas
from .sheet import (
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

MOST_FRAMES = 8
"""Frames of a figure that nobody chose frames for."""
GAP, SIDE, BAR = 0.07, 1.75, 0.06
ANSWER = 9.5
_ROOM = 9.3
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


def film_figure(
    comparison: Comparison, runs: Sequence[Run], view: View, theme: Theme, frames: Sequence[int] | None, dpi: int
) -> Figure:
    """Draw a comparison about a video for print; arguments as those of ``figure.comparison_figure``, checked there."""
    if comparison.video is None:
        raise BadInput("This comparison is about an image; it has no frames to draw.")
    return _Film(comparison, comparison.video, runs, view, chosen_frames(comparison, frames), dpi).draw(theme)


class _Film:
    """Everything measured in inches first, then drawn from top to bottom."""

    def __init__(
        self,
        comparison: Comparison,
        video: VideoRecord,
        runs: Sequence[Run],
        view: View,
        frames: Sequence[int],
        dpi: int,
    ) -> None:
        self.comparison, self.video, self.frames, self.dpi = comparison, video, frames, dpi
        width, height = comparison.grid.image_size
        widest = min(1.8, 1.5 * width / height)
        self.cell = min(widest, (_ROOM - GAP * (len(frames) - 1)) / len(frames))
        self.still = self.cell * height / width
        self.width = max(2 * MARGIN + SIDE + len(frames) * (self.cell + GAP), 5.0)
        long_side = max(1, round(max(self.cell, self.still) * dpi))
        self.canvases = [open_canvas(comparison, frame=frame, long_side=long_side) for frame in frames]
        self.rows = [_Row(comparison, run, [make_panel(canvas, run, view) for canvas in self.canvases]) for run in runs]
        shares = [count.share for row in self.rows if row.pruned for count in row.counts]
        self.top = next(top for top in BAR_TOPS if max(shares, default=1.0) <= top)

    def draw(self, theme: Theme) -> Figure:
        """Make the whole figure."""
        heights = [max(row.height, self.still + BAR + 0.06 + pitch(SMALL)) + 0.14 for row in self.rows]
        times = pitch(SMALL) + 0.05

        def draw(sheet: Sheet, top: float) -> None:
            self._draw_times(sheet, top)
            top += times
            for row, row_height in zip(self.rows, heights, strict=True):
                row.draw_words(sheet, top)
                for column, frame in enumerate(self.frames):
                    x = MARGIN + SIDE + column * (self.cell + GAP)
                    sheet.image(x, top, self.cell, self.still, row.panels[column].pixels)
                    self._draw_count(sheet, x, top + self.still, row, frame)
                top += row_height

        panels = [panel for row in self.rows for panel in row.panels]
        legend = legend_items(self.canvases[0], panels, theme)
        notes = [self._bar_words(), *footer(self.comparison)]
        size = self.width, times + sum(heights)
        return compose(self.comparison, size, theme, self.dpi, draw, legend=legend, notes=notes, gap=0.1, foot=MARGIN)

    def _draw_times(self, sheet: Sheet, top: float) -> None:
        """Over every column the number of its frame, counted from 1, and its time; frames with evidence in bold."""
        evidence = set(self.comparison.request.evidence_frames)
        for column, frame in enumerate(self.frames):
            seconds = self.video.frames[frame].time_s
            bold = frame in evidence
            words = f"frame {frame + 1} · {seconds:.2f} s"
            fits = text_width(words, SMALL, bold) <= self.cell
            x = MARGIN + SIDE + column * (self.cell + GAP)
            color = sheet.theme.ink if bold else sheet.theme.muted
            sheet.text(x, top + 0.1, words if fits else f"{frame + 1} · {seconds:.1f} s", SMALL, color, bold=bold)

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
        drawn = f"{len(self.frames)} of {len(self.video.frames)} frames shown"
        together = "; frames that became one grid share their patches" if shared else ""
        return f"Bars: patches kept of a frame, full length {self.top:.0%}{together}. {drawn}."


class _Row:
    """One method: its words at the left, measured, and its panel of every frame."""

    def __init__(self, comparison: Comparison, run: Run, panels: list[Panel]) -> None:
        self.panels, panel = panels, panels[0]
        self.panel = panel
        kept = run.stages[panel.stage].kept if panel.stage is not None else None
        self.pruned = kept is not None
        self.counts: list[FrameCount] = kept_per_frame(comparison.grid, kept)
        width = SIDE - 0.12
        self.title = wrap(panel.title, width, TITLE, bold=True, max_lines=1)
        words = panel.answer if panel.error is None else ""
        self.answer = wrap(words, width, ANSWER, bold=True, max_lines=3) or ([] if panel.error else ["(no answer)"])
        self.verdict = wrap(panel.verdict, width, VERDICT, bold=True, max_lines=2)
        notes = [panel.error] if panel.error else [*([panel.note] if panel.note else []), *panel.facts, *self._others()]
        self.facts = [line for note in notes for line in wrap(note, width, SMALL, max_lines=4)]
        self.scale = scale_height(panel.scale, width)

    def _others(self) -> list[str]:
        """Tokens that are no patch, of all frames together."""
        others = sum(count.others for count in self.counts)
        kept = sum(count.others_kept for count in self.counts)
        return [f"no patches: {kept} of {others} kept"] if others else []

    @property
    def height(self) -> float:
        words = pitch(TITLE) + pitch(SMALL) + len(self.answer) * pitch(ANSWER) + len(self.verdict) * pitch(VERDICT)
        return words + 0.06 + len(self.facts) * pitch(SMALL) + self.scale + (0.06 if self.scale else 0.0)

    def draw_words(self, sheet: Sheet, top: float) -> None:
        theme, panel = sheet.theme, self.panel
        top = sheet.lines(MARGIN, top - 0.03, self.title, TITLE, theme.ink, bold=True)
        top = sheet.lines(MARGIN, top, [drawable(panel.subtitle)], SMALL, theme.muted)
        top = sheet.lines(MARGIN, top + 0.03, self.answer, ANSWER, theme.ink, bold=True)
        if panel.judged:
            top = sheet.lines(MARGIN, top, self.verdict, VERDICT, verdict_color(panel.judged, theme), bold=True)
        elif panel.error is not None:
            top = sheet.lines(MARGIN, top, ["✗ not run"], VERDICT, theme.bad, bold=True)
        top = sheet.lines(MARGIN, top + 0.03, self.facts, SMALL, theme.muted)
        if panel.scale:
            draw_scale(sheet, MARGIN, top + 0.06, SIDE - 0.12, panel.scale)
