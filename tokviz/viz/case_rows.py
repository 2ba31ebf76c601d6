"""A figure of several cases: a row per case, a column per run, answers below, marked right or wrong. For papers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from ..comparison import Comparison
from ..errors import BadInput
from ..files import write_or_refuse
from .palette import THEMES, Theme, ThemeName
from .panels import SILENT, Panel, footer, legend_items, make_panel, verdict_words
from .raster import Canvas, open_canvas
from .saving import DPI, figure_format, written
from .sheet import MARGIN, SMALL, TITLE, Paragraph, Sheet, drawable, pitch, text_width, wrap

MOST_CASES = 24
_ANSWER, _ASKED = 8.5, 9.0
_WORDS = 1.55
"""Inches for the question at the left."""
_GAP, _ROW_GAP, _PANEL = 0.1, 0.16, 1.25
_TALLEST = 1.4


def cases_figure(
    comparisons: Sequence[Comparison], *, theme: ThemeName = "light", dpi: int = DPI, panel: float = _PANEL
) -> Figure:
    """Draw comparisons of the same methods below each other.

    Args:
        comparisons: At most ``MOST_CASES``, about images, with the same runs in the same order.
        panel: Width of an image in inches.

    Raises BadInput for none, too many, a video, or other runs in one than in the first.
    """
    _check(comparisons)
    rows = [_Row(one, THEMES[theme], panel, dpi) for one in comparisons]
    n_columns = len(rows[0].panels)
    width = 2 * MARGIN + _WORDS + n_columns * (panel + _GAP)
    head = MARGIN + pitch(TITLE) + pitch(SMALL)
    swatches = legend_items(rows[0].canvas, [one for row in rows for one in row.panels], THEMES[theme])
    notes = [line for note in footer(comparisons[0]) for line in wrap(note, width - 2 * MARGIN, SMALL, max_lines=4)]
    body = sum(row.height for row in rows) + (len(rows) - 1) * _ROW_GAP
    height = head + body + 0.12 + pitch(SMALL) + 0.05 + len(notes) * pitch(SMALL) + MARGIN
    sheet = Sheet(width, height, THEMES[theme], dpi)
    for column, one in enumerate(rows[0].panels):
        x = MARGIN + _WORDS + column * (panel + _GAP)
        line = (wrap(one.title, panel, TITLE, bold=True, max_lines=1) or [""])[0]
        sheet.text(x, MARGIN + 0.08, line, TITLE, sheet.theme.ink, bold=True)
        sheet.text(x, MARGIN + 0.08 + pitch(SMALL), drawable(one.subtitle), SMALL, sheet.theme.muted)
    top = head
    for row in rows:
        row.draw(sheet, top)
        top += row.height + _ROW_GAP
    _foot(sheet, top - _ROW_GAP + 0.12, swatches, notes)
    return sheet.figure


def cases_figure_bytes(
    comparisons: Sequence[Comparison], file_format: str = "pdf", theme: ThemeName = "light"
) -> bytes:
    """``cases_figure`` as the bytes of a png, svg or pdf file; same comparisons, same bytes."""
    return written(lambda: cases_figure(comparisons, theme=theme), file_format, f"tokviz: {len(comparisons)} cases")


def save_cases_figure(comparisons: Sequence[Comparison], path: str | Path, theme: ThemeName = "light") -> Path:
    """Write ``cases_figure`` to a file, its format by suffix. Raises BadInput when that cannot be."""
    write_or_refuse(path, cases_figure_bytes(comparisons, figure_format(path), theme))
    return Path(path)


def _check(comparisons: Sequence[Comparison]) -> None:
    if not 0 < len(comparisons) <= MOST_CASES:
        raise BadInput(f"A figure shows 1 to {MOST_CASES} cases, not {len(comparisons)}.")
    keys = [run.key for run in comparisons[0].runs]
    for one in comparisons:
        if one.video is not None:
            raise BadInput("Videos have too many frames for a row of this figure: draw each on its own.")
        if [run.key for run in one.runs] != keys:
            raise BadInput("The cases of a figure need the same methods in the same order.")


def _foot(sheet: Sheet, top: float, swatches: Sequence[tuple[dict[str, object], str]], notes: Sequence[str]) -> None:
    x = MARGIN
    for swatch, words in swatches:
        if x + 0.18 + text_width(words, SMALL) > sheet.width - MARGIN:
            break
        sheet.box(x + 0.01, top + 0.03, 0.12, 0.08, **swatch)  # type: ignore[arg-type]
        sheet.text(x + 0.18, top + 0.1, words, SMALL, sheet.theme.muted)
        x += 0.38 + text_width(words, SMALL)
    sheet.lines(MARGIN, top + pitch(SMALL) + 0.05, notes, SMALL, sheet.theme.muted)


class _Row:
    """One case, measured: its question at the left, its panels beside it."""

    def __init__(self, comparison: Comparison, theme: Theme, panel: float, dpi: int) -> None:
        aspect = comparison.image.height / comparison.image.width
        self.image_height = panel * min(aspect, _TALLEST)
        self.image_width = min(panel, self.image_height / aspect)
        self.panel = panel
        long_side = max(1, round(max(self.image_width, self.image_height) * dpi))
        self.canvas: Canvas = open_canvas(comparison, long_side=long_side)
        self.panels: list[Panel] = [make_panel(self.canvas, run, "kept") for run in comparison.runs]
        inner = _WORDS - 0.15
        self.words = [Paragraph(wrap(comparison.request.question, inner, _ASKED, True, 6), _ASKED, theme.ink, True)]
        expected = comparison.request.expected_answer
        if expected:
            self.words.append(Paragraph(wrap(f"expected: {expected}", inner, SMALL, max_lines=3), SMALL, theme.muted))
        self.answers = [self._answer(one, theme) for one in self.panels]

    def _answer(self, one: Panel, theme: Theme) -> list[Paragraph]:
        if one.error is not None:
            return [Paragraph(wrap(f"not run: {one.error}", self.panel, SMALL, max_lines=3), SMALL, theme.muted)]
        lines = wrap(one.answer, self.panel, _ANSWER, True, 3) or [SILENT]
        return [Paragraph(lines, _ANSWER, theme.ink, True), *verdict_words(one, self.panel, theme)]

    @property
    def height(self) -> float:
        below = max(sum(words.height for words in answer) for answer in self.answers)
        return max(self.image_height + 0.04 + below, sum(words.height for words in self.words))

    def draw(self, sheet: Sheet, top: float) -> None:
        """Draw the row below ``top``."""
        sheet.paragraphs(MARGIN, top, self.words)
        for column, (one, answer) in enumerate(zip(self.panels, self.answers, strict=True)):
            x = MARGIN + _WORDS + column * (self.panel + _GAP)
            sheet.image(x, top, self.image_width, self.image_height, one.pixels)
            sheet.paragraphs(x, top + self.image_height + 0.04, answer)
