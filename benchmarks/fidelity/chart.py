"""The chart: mean retention over the budget, one panel per type of method, the controls in every panel."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tokviz.errors import BadInput
from tokviz.viz.palette import THEMES

from .measured import ORACLE
from .pages import budgets_of

FORMATS = ("png", "svg")
DPI = 150
COLUMNS = 3
PANEL = (4.3, 3.1)
"""Width and height of a panel in inches."""
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#9a6f00", "#3a3a3a")
"""Okabe and Ito's set without the colours too light for lines on white."""
MARKERS = ("o", "s", "^", "D", "v", "P")
_CONTROL_STYLES = {
    "random": (0, (1, 1.5)),
    "uniform": (0, (4, 2)),
    "pool": (0, (2, 1)),
    "downsample": "-",
    ORACLE: (0, (6, 1.5, 1, 1.5)),
}
_SETTINGS: dict[str, Any] = {"svg.hashsalt": "tokviz", "svg.fonttype": "path", "savefig.bbox": None}

Row = Mapping[str, Any]
End = tuple[float, int, str, str]
"""Height and place of a line's last point, its label and colour."""


def chart_bytes(document: Mapping[str, Any], file_format: str) -> bytes:
    """The chart as a ``png`` or ``svg`` file; same document, same bytes. Raises BadInput for another format."""
    if file_format not in FORMATS:
        raise BadInput(f"The chart can be written as {', '.join(FORMATS)}, not as {file_format!r}.")
    metadata: dict[str, str | None] = {"Software": "tokviz"} if file_format == "png" else {"Date": None}
    buffer = io.BytesIO()
    settings: Any = _SETTINGS  # matplotlib types the keys as a literal of all its settings
    with matplotlib.rc_context(settings):
        retention_chart(document).savefig(buffer, format=file_format, dpi=DPI, metadata=metadata)
    return buffer.getvalue()


def retention_chart(document: Mapping[str, Any]) -> Figure:
    """Small multiples: methods of one type per panel, with intervals; labels stand at the lines' ends."""
    budgets = budgets_of(document)
    panels = _panels(document)
    columns = min(COLUMNS, len(panels))
    n_rows = -(-len(panels) // columns)
    theme = THEMES["light"]
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * n_rows + 0.5), facecolor=theme.paper, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(n_rows, columns, squeeze=False, sharey=True)
    controls = {row: own for row, own in _lines(document).items() if own[0]["control"]}
    ends = []
    for place, axis in enumerate(axes.flat):
        if place >= len(panels):
            axis.set_axis_off()
            continue
        name, lines = panels[place]
        ends.append(_panel(axis, name, lines, list(controls.values()), budgets))
        _bands(axis, list(controls.values()), budgets)
    for axis, own in zip(axes.flat, ends, strict=False):  # now that the shared scale is known
        _label_ends(axis, own, len(budgets) - 1)
    for axis in axes[:, 0]:
        axis.set_ylabel("mean retention, %", fontsize=8, color=theme.muted)
    title = f"Right answers kept, in percent of all {document['about']['n_visual']} tokens; 95% intervals over images"
    figure.suptitle(title, fontsize=11, color=theme.ink, x=0.01, ha="left")
    return figure


def _lines(document: Mapping[str, Any]) -> dict[str, list[Row]]:
    """Key of a method -> its rows by falling budget, where retention is defined."""
    found: dict[str, list[Row]] = {}
    for row in document["rows"]:
        if row["retention"]["value"] is not None:
            found.setdefault(row["key"], []).append(row)
    return {name: sorted(own, key=lambda row: -row["budget"]) for name, own in found.items()}


def _panels(document: Mapping[str, Any]) -> list[tuple[str, list[list[Row]]]]:
    """(type, lines of its methods); a type with more methods than colours continues in a further panel."""
    by_type: dict[str, list[list[Row]]] = {}
    for own in _lines(document).values():
        if not own[0]["control"]:
            by_type.setdefault(own[0]["type"].replace("-", " ") or "methods", []).append(own)
    panels = []
    for name, lines in by_type.items():
        for start in range(0, len(lines), len(COLORS)):
            panels.append((name if start == 0 else f"{name}, continued", lines[start : start + len(COLORS)]))
    return panels or [("controls", [])]


def _panel(
    axis: Axes, name: str, lines: Sequence[Sequence[Row]], controls: Sequence[Sequence[Row]], budgets: Sequence[int]
) -> list[End]:
    """Draw one panel; returns where its lines end."""
    theme = THEMES["light"]
    places = {budget: place for place, budget in enumerate(budgets)}
    ends: list[End] = []
    for own in controls:
        x, y = [float(places[row["budget"]]) for row in own], [row["retention"]["value"] for row in own]
        style = _CONTROL_STYLES.get(own[0]["method"], "-")
        axis.plot(x, y, linestyle=style, color=theme.muted, linewidth=1.1, zorder=1)
        ends.append((y[-1], places[own[-1]["budget"]], own[0]["label"], theme.muted))
    for i, own in enumerate(lines):
        estimates = [row["retention"] for row in own]
        x = [places[row["budget"]] + 0.035 * (i - (len(lines) - 1) / 2) for row in own]
        y = [each["value"] for each in estimates]
        below, above = zip(*(_errors(each) for each in estimates), strict=True)
        axis.errorbar(
            x,
            y,
            yerr=[below, above],
            color=COLORS[i],
            marker=MARKERS[i],
            markersize=4,
            linewidth=1.5,
            elinewidth=0.8,
            capsize=1.5,
            zorder=2,
        )
        ends.append((y[-1], places[own[-1]["budget"]], own[0]["label"], COLORS[i]))
    axis.axhline(100, color=theme.line, linewidth=0.8, zorder=0)
    axis.set_title(name, fontsize=9, color=theme.ink, loc="left")
    axis.set_xticks(range(len(budgets)), [str(budget) for budget in budgets], fontsize=8)
    axis.set_xlabel("visual tokens", fontsize=8, color=theme.muted)
    axis.set_xlim(-0.2, len(budgets) - 1 + 1.25)
    axis.tick_params(labelsize=8, colors=theme.muted)
    axis.grid(axis="y", color=theme.line, linewidth=0.4)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    return ends


def _bands(axis: Axes, controls: Sequence[Sequence[Row]], budgets: Sequence[int]) -> None:
    """Lowest to highest seed of what is drawn by lot."""
    for own in controls:
        drawn = [row for row in own if row["draws"]]
        x = [float(budgets.index(row["budget"])) for row in drawn]
        low, high = [min(row["draws"]) for row in drawn], [max(row["draws"]) for row in drawn]
        axis.fill_between(x, low, high, color=THEMES["light"].muted, alpha=0.18, linewidth=0, zorder=0)


def _errors(estimate: Mapping[str, Any]) -> tuple[float, float]:
    """Lengths of the error bar below and above; NaN, which draws none, where the interval is undefined."""
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if low is None or high is None:
        return math.nan, math.nan
    return max(0.0, value - low), max(0.0, high - value)  # a skewed interval can leave out the value itself


def _label_ends(axis: Axes, ends: Sequence[End], last: int) -> None:
    """Names at the right of the panel, pushed apart so that none covers another; a thin line leads to each end."""
    low, high = axis.get_ylim()
    step = (high - low) * 0.062
    order = sorted(ends, key=lambda end: end[0])
    heights: list[float] = []
    for value, *_ in order:
        heights.append(max(value, heights[-1] + step) if heights else value)
    shift = max(0.0, heights[-1] - high) if heights else 0.0
    for i in range(len(heights) - 1, -1, -1):  # what was pushed over the top comes down again
        limit = high if i == len(heights) - 1 else heights[i + 1] - step
        heights[i] = min(heights[i], limit) if shift else heights[i]
    for (value, place, label, color), height in zip(order, heights, strict=True):
        axis.annotate(
            label,
            xy=(place + 0.05, value),
            xytext=(last + 0.18, height),
            fontsize=7,
            color=color,
            va="center",
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.4, "shrinkA": 0, "shrinkB": 0},
        )
