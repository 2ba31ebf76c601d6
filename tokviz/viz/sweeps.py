"""The figure of a sweep: the unpruned answer's log-probability over budgets, below it what each method answered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from rich.table import Table

from ..errors import BadInput, need
from ..files import write_or_refuse
from ..short import passed
from ..sweeps import Sweep, SweepCurve
from .palette import THEMES, Theme, ThemeName
from .panels import version_words
from .saving import DPI, figure_format, written
from .sheet import MARGIN, SMALL, Sheet, compose, drawable, font_file, pitch, text_width, wrap
from .tables import cell, new_table

if TYPE_CHECKING:
    from pandas import DataFrame

NAME_WIDTH, CELL_WIDTH, CELL_HEIGHT, CELL_GAP = 1.45, 0.62, 0.22, 0.02
CURVES_HEIGHT, AXIS_ROOM = 2.6, 0.48
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#8c564b")
_MARKERS = "os^Dv<>P"
_LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1.5, 1.5)), (0, (8, 2)), (0, (3, 1)))
"""With eight colours and markers 48 methods have a look of their own."""


def sweep_figure(
    found: Sweep, *, methods: Sequence[str] | None = None, theme: ThemeName = "light", dpi: int = DPI
) -> Figure:
    """Draw it for print; arguments as those of ``Sweep.figure``."""
    curves = chosen_curves(found, methods)
    shown = [curve for curve in curves if curve.points]
    width = 2 * MARGIN + NAME_WIDTH + max(len(found.budgets), 6) * CELL_WIDTH
    inner = width - 2 * MARGIN
    rows = (1 + len(curves)) * (CELL_HEIGHT + CELL_GAP)
    body = CURVES_HEIGHT + AXIS_ROOM + pitch(SMALL) + rows + 0.1

    def draw(sheet: Sheet, top: float) -> None:
        _draw_curves(sheet, found, shown, top, inner)
        _draw_answers(sheet, found, curves, top + CURVES_HEIGHT + AXIS_ROOM)

    legend = [
        ({"facecolor": THEMES[theme].good, "edgecolor": "none", "alpha": 0.25}, "the unpruned answer"),
        ({"facecolor": THEMES[theme].changed, "edgecolor": "none", "alpha": 0.35}, "another answer"),
    ]
    notes, size = _notes(found), (width, body)
    return compose(found.comparison, size, THEMES[theme], dpi, draw, legend=legend, notes=notes, gap=0.12, foot=0.16)


def chosen_curves(found: Sweep, methods: Sequence[str] | None) -> list[SweepCurve]:
    """The curves asked for by key, or all. Raises BadInput for one that is not there."""
    if methods is None:
        return list(found.curves)
    known = {curve.key: curve for curve in found.curves}
    unknown = [name for name in methods if name not in known]
    if unknown:
        raise BadInput(f"This sweep has no curve {passed(unknown[0])}; it has {', '.join(known)}.")
    return [known[name] for name in methods]


def _notes(found: Sweep) -> list[str]:
    model = found.comparison.model.name
    seeds = f"{len(found.seeds)} seeds" if len(found.seeds) > 1 else "1 seed"
    return [
        f"{model} · unpruned answer: {found.answer or '(no answer)'} · log-probability {found.logprob:.3g} nats · "
        f"{found.comparison.grid.n_tokens} visual tokens · budget counted as {found.budget_as}",
        f"Log-probability of the whole unpruned answer, its end included. Crosses: flip points, the largest budget "
        f"with another answer. Bands: smallest and largest of {seeds}, their mean as line. "
        f"{version_words(found.comparison)}",
        *(f"{curve.label} was not run: {curve.error}" for curve in found.curves if curve.error),
        *found.notes,
    ]


def _draw_curves(sheet: Sheet, found: Sweep, curves: Sequence[SweepCurve], top: float, inner: float) -> None:
    theme, font = sheet.theme, FontProperties(fname=font_file(), size=SMALL)
    left, wide, high = MARGIN + 0.45, inner - 0.45 - NAME_WIDTH, CURVES_HEIGHT - 0.2
    corner = left / sheet.width, 1 - (top + CURVES_HEIGHT) / sheet.height
    axes = sheet.figure.add_axes((*corner, wide / sheet.width, high / sheet.height))
    for number, curve in enumerate(curves):
        _draw_curve(axes, found, curve, number)
    axes.axhline(found.logprob, color=theme.ink, linewidth=0.8, label="all tokens")
    axes.set_xscale("log")
    axes.set_xticks(found.budgets, [str(budget) for budget in found.budgets])
    axes.set_xticks([], minor=True)
    axes.invert_xaxis()
    axes.set_facecolor(theme.paper)
    axes.tick_params(colors=theme.muted, width=0.6, length=2.5)
    axes.set_xlabel("visual tokens asked for", fontproperties=font, color=theme.muted, labelpad=2)
    axes.set_title("log-probability of the unpruned answer, nats")
    for text in (*axes.get_xticklabels(), *axes.get_yticklabels(), axes.title):
        text.set_fontproperties(font)
        text.set_parse_math(False)
    axes.title.set_color(theme.ink)
    for name, spine in axes.spines.items():
        spine.set(color=theme.line, linewidth=0.6, visible=name in ("left", "bottom"))
    beside: dict[str, Any] = {
        "loc": "upper left",
        "bbox_to_anchor": (1.01, 1.02),
        "labelspacing": 0.25,
        "handlelength": 2.2,
    }
    legend = axes.legend(prop=font, frameon=False, borderpad=0.1, **beside)
    for text in legend.get_texts():
        text.set_color(theme.muted)
        text.set_parse_math(False)


def _draw_curve(axes: Axes, found: Sweep, curve: SweepCurve, number: int) -> None:
    color, marker = _COLORS[number % len(_COLORS)], _MARKERS[(number + number // len(_COLORS)) % len(_MARKERS)]
    line = _LINES[number // len(_COLORS) % len(_LINES)]
    rows = [(budget, values) for budget in found.budgets if (values := scores_at(curve, budget))]
    if not rows:
        return
    x = [budget for budget, _ in rows]
    mean = [sum(values) / len(values) for _, values in rows]
    label = wrap(curve.label, NAME_WIDTH - 0.45, SMALL, max_lines=1)[0]
    axes.plot(x, mean, color=color, marker=marker, markersize=3, linewidth=1.1, linestyle=line, label=label)
    if any(len(values) > 1 for _, values in rows):
        low, high = ([pick(values) for _, values in rows] for pick in (min, max))
        axes.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
    flips = [(flip, point.logprob) for seed in curve.seeds if (flip := curve.flip(seed)) is not None
             for point in curve.of_seed(seed) if point.budget == flip]  # fmt: skip
    if flips:
        axes.plot(*zip(*flips, strict=True), color=color, marker="x", markersize=7, linestyle="none")


def scores_at(curve: SweepCurve, budget: int) -> list[float]:
    """The unpruned answer's log-probability at a budget, one per seed."""
    return [point.logprob for point in curve.at(budget) if point.logprob is not None]


def _draw_answers(sheet: Sheet, found: Sweep, curves: Sequence[SweepCurve], top: float) -> None:
    """A row per method, a cell per budget: the answer, coloured by how many seeds give the unpruned one."""
    theme, left = sheet.theme, MARGIN + NAME_WIDTH
    for column, budget in enumerate(found.budgets):
        sheet.text(left + column * CELL_WIDTH + 0.03, top + 0.12, str(budget), SMALL, theme.muted, bold=True)
    for row, curve in enumerate(curves):
        y = top + (row + 1) * (CELL_HEIGHT + CELL_GAP)
        name = wrap(curve.label, NAME_WIDTH - 0.08, SMALL, max_lines=1)
        sheet.lines(MARGIN, y + 0.03, name, SMALL, theme.ink)
        for column, budget in enumerate(found.budgets):
            _draw_cell(sheet, left + column * CELL_WIDTH, y, curve, budget)


def _draw_cell(sheet: Sheet, x: float, y: float, curve: SweepCurve, budget: int) -> None:
    theme, share = sheet.theme, curve.share_same(budget)
    if share is None:
        sheet.text(x + 0.03, y + 0.14, "–", SMALL, theme.muted)
        return
    color = _tint(theme, share)
    sheet.box(x, y, CELL_WIDTH - 0.03, CELL_HEIGHT, linewidth=0.0, edgecolor="none", **color)
    words = cell_words(curve, budget)
    room = CELL_WIDTH - 0.09
    lines = wrap(words, room, SMALL, max_lines=1) if text_width(drawable(words), SMALL) > room else [drawable(words)]
    sheet.text(x + 0.03, y + 0.14, (lines or [""])[0], SMALL, theme.ink)


def _tint(theme: Theme, share: float) -> dict[str, Any]:
    if share == 1:
        return {"facecolor": theme.good, "alpha": 0.25}
    return {"facecolor": theme.changed, "alpha": 0.35 if share == 0 else 0.18}


def cell_words(curve: SweepCurve, budget: int) -> str:
    """What was answered at a budget; of several seeds how many gave the unpruned answer."""
    points = curve.at(budget)
    if len(points) == 1:
        return points[0].answer or "(empty)"
    return f"{sum(point.same for point in points)}/{len(points)} same" if points else "–"


def save_sweep(found: Sweep, path: str | Path, **options: Any) -> Path:
    """Write the figure to a file, its format by suffix, and return the path. Raises BadInput when that cannot be."""
    file_format = figure_format(path)
    title = f"tokviz: sweep of {found.comparison.request.question}"
    write_or_refuse(path, written(lambda: sweep_figure(found, **options), file_format, title))
    return Path(path)


def data_frame(found: Sweep) -> DataFrame:
    """One row per point. Raises BadInput where pandas is missing."""
    need("pandas", "ui", "A table")
    import pandas

    return pandas.DataFrame([
        {
            "method": curve.key, "budget": point.budget, "seed": point.seed, "answer": point.answer,
            "same": point.same if point.error is None else None, "verdict": point.verdict, "logprob": point.logprob,
            "change": None if point.logprob is None else point.logprob - found.logprob,
            "tokens_left": None if point.actual is None else point.actual.final,
            "tokens_per_layer": None if point.actual is None else point.actual.average_in,
            "flip": point.error is None and curve.flip(point.seed) == point.budget, "kept": point.kept,
            "error": point.error or curve.error,
        }
        for curve in found.curves for point in curve.points
    ])  # fmt: skip


def sweep_table(found: Sweep) -> Table:
    """For the terminal: a row per method, a column per budget, each with the answer and what it lost."""
    title = "Answers, and below them the change of the unpruned answer's log-probability in nats (mean over seeds)"
    table = new_table(title, "method", "flips at", *(f">{budget}" for budget in found.budgets))
    for curve in found.curves:
        cells = []
        for budget in found.budgets:
            scores = scores_at(curve, budget)
            change = f"\n{sum(scores) / len(scores) - found.logprob:+.2g}" if scores else ""
            cells.append(f"{cell_words(curve, budget)}{change}" if scores else "–")
        table.add_row(cell(curve.label, "bold"), cell(flip_words(curve)), *(_two_lines(text) for text in cells))
    return table


def _two_lines(text: str) -> Any:
    words, _, change = text.partition("\n")
    made = cell(words)
    return made.append(f"\n{change}") if change else made


def flip_words(curve: SweepCurve) -> str:
    """The flip point; of several seeds the range."""
    flips = [curve.flip(seed) for seed in curve.seeds]
    there = [flip for flip in flips if flip is not None]
    if not there:
        return "–"
    ends = f"{min(there)}" if min(there) == max(there) else f"{min(there)} to {max(there)}"
    return ends if len(there) == len(flips) else f"{ends} ({len(there)} of {len(flips)})"


def sentences(found: Sweep) -> list[str]:
    """What it comes to, in words."""
    lines = []
    for curve in found.curves:
        if curve.error is not None:
            lines.append(f"{curve.label} was not run: {curve.error}")
            continue
        for change in curve.changes():
            seed = f" (seed {curve.seeds[0]})" if len(curve.seeds) > 1 else ""
            lines.append(
                f"{curve.label}{seed}: between {change.upper} and {change.lower} tokens the answer turns from "
                f"{change.before!r} to {change.after!r}."
            )
    return [*lines, *found.notes, f"Measured in {found.seconds:.1f} seconds."]
