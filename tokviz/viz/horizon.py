"""The figure of an information horizon: a map per layer on one scale, and below two curves over the layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from rich.table import Table

from ..errors import need
from ..files import write_or_refuse
from ..horizon import HorizonLayer, InformationHorizon
from ..records import TokenMap
from .overlays import heat_overlay
from .palette import THEMES, Theme, ThemeName
from .panels import version_words
from .raster import open_canvas
from .saving import DPI, figure_format, written
from .sheet import MARGIN, SMALL, TITLE, Sheet, compose, draw_scale, font_file, pitch, scale_height, wrap
from .tables import cell, new_table

if TYPE_CHECKING:
    from pandas import DataFrame

COLUMNS, PANEL, GAP = 3, 2.3, 0.2
CURVE_HEIGHT, AXIS_ROOM = 1.75, 0.52
_CHANGE = {
    "removal": ("Fall of the answer's log-probability without the block", "high: the answer needs it"),
    "alone": ("Rise of the answer's log-probability with the block alone", "high: it gives the answer"),
}


def change_map(found: InformationHorizon, entry: HorizonLayer) -> TokenMap:
    """What the block of each token changes before one layer; changes within the floor are not told from none."""
    label, direction = _CHANGE[found.measure]
    return TokenMap("information", label, entry.change, "nats", direction)


def horizon_figure(found: InformationHorizon, *, theme: ThemeName = "light", dpi: int = DPI) -> Figure:
    """Draw it for print; arguments as those of ``InformationHorizon.figure``."""
    comparison = found.comparison
    image = comparison.image
    high = PANEL * min(image.height / image.width, 1.6)
    wide = min(PANEL, high * image.width / image.height)
    canvas = open_canvas(comparison, long_side=max(1, round(max(high, wide) * dpi)))
    columns = min(COLUMNS, max(len(found.layers), 2))
    rows = [found.layers[start : start + columns] for start in range(0, len(found.layers), columns)]
    width = 2 * MARGIN + columns * PANEL + (columns - 1) * GAP
    inner = width - 2 * MARGIN
    limits = _limits(found)
    row_height = pitch(TITLE) + high + 0.04 + 2 * pitch(SMALL) + 0.12
    scale = TokenMap("scale", *_scale_words(found, limits))
    bar = scale_height(scale, inner) + 0.1

    def draw(sheet: Sheet, top: float) -> None:
        for row in rows:
            for column, entry in enumerate(row):
                x = MARGIN + column * (PANEL + GAP)
                sheet.text(x, top + 0.13, f"before layer {entry.layer}", TITLE, sheet.theme.ink, bold=True)
                pixels = heat_overlay(canvas, change_map(found, entry), limits)
                sheet.image(x, top + pitch(TITLE), wide, high, pixels)
                below = top + pitch(TITLE) + high + 0.04
                words = [line for text in _words(found, entry) for line in wrap(text, PANEL, SMALL, max_lines=1)]
                sheet.lines(x, below, words, SMALL, sheet.theme.muted)
            top += row_height
        draw_scale(sheet, MARGIN, top, inner, scale)
        _draw_curves(sheet, found, top + bar, inner)

    body = len(rows) * row_height + bar + CURVE_HEIGHT + AXIS_ROOM
    return compose(
        comparison, (width, body), THEMES[theme], dpi, draw, legend=[], notes=_notes(found), gap=0.12, foot=0.16
    )  # fmt: skip


def _limits(found: InformationHorizon) -> tuple[float, float]:
    """One scale for all layers, as wide as the changes and no narrower than the floor, below which nothing is told."""
    values = [change for entry in found.layers for change in entry.blocks]
    floor = max([1e-9, *map(found.floor, found.layers)])
    low = min([0.0, *values])
    return (low if low < -floor else 0.0), max([floor, *values])


def _scale_words(found: InformationHorizon, limits: tuple[float, float]) -> tuple[str, list[float], str, str]:
    label, direction = _CHANGE[found.measure]
    return label, [*limits], "nats", direction


def _words(found: InformationHorizon, entry: HorizonLayer) -> list[str]:
    above = entry.share_above(found.floor(entry))
    return [
        f"largest {entry.largest:.2g}, mean {entry.mean:.2g} nats",
        f"{above:.0%} of {found.n_blocks} blocks above the floor",
    ]


def _notes(found: InformationHorizon) -> list[str]:
    """What was measured, and what was coarser than asked for."""
    comparison, where = found.comparison, found.horizon
    model = comparison.model.name
    ends = "beyond the last layer measured" if where is None else f"before layer {where}"
    noise = max((entry.noise for entry in found.layers), default=0.0)
    last = found.layers[-1].layer if found.layers else "–"
    return [
        f"{model} · answer: {found.answer or '(no answer)'} · log-probability {found.logprob:.3g} nats · blocks of "
        f"{found.block} x {found.block} tokens · information horizon {ends} (measured up to {last})",
        f"Floor: numerical noise (at most {noise:.1g} nats) or {found.least:g} nats, whichever is more. Band: "
        f"{found.budget} random tokens left from the layer on, {len(found.seeds)} seeds. {version_words(comparison)}",
        *found.notes,
    ]


def _draw_curves(sheet: Sheet, found: InformationHorizon, top: float, inner: float) -> None:
    """Left: changes by blocks and by random sets with the floor. Right: random tokens, all, and none of them."""
    width = (inner - GAP) / 2 - 0.45
    for place, draw in enumerate((_draw_changes, _draw_random)):
        left = MARGIN + 0.45 + place * (width + 0.45 + GAP)
        corner = left / sheet.width, 1 - (top + CURVE_HEIGHT) / sheet.height
        axes = sheet.figure.add_axes((*corner, width / sheet.width, (CURVE_HEIGHT - 0.2) / sheet.height))
        draw(axes, found, sheet.theme)
        _style(axes, found, sheet.theme)


def _draw_changes(axes: Axes, found: InformationHorizon, theme: Theme) -> None:
    layers = [entry.layer for entry in found.layers]
    largest = [entry.largest for entry in found.layers]
    anywhere = [max(map(abs, entry.anywhere), default=math.nan) for entry in found.layers]
    axes.plot(layers, largest, color="#0072b2", marker="o", markersize=3, linewidth=1.2, label="largest block")
    axes.plot(layers, [entry.mean for entry in found.layers], color="#0072b2", linewidth=1, linestyle=":", label="mean")
    axes.plot(layers, anywhere, color="#d55e00", linewidth=1, label="as many anywhere")
    floors = list(map(found.floor, found.layers))
    axes.plot(layers, floors, color=theme.muted, linewidth=0.8, dashes=(4, 2), label="floor")
    axes.set_yscale("symlog", linthresh=max(found.least, 1e-6))
    axes.set_title("change in nats")


def _draw_random(axes: Axes, found: InformationHorizon, theme: Theme) -> None:
    entries = [entry for entry in found.layers if entry.random]
    layers = [entry.layer for entry in entries]
    low, high = ([pick(entry.random) for entry in entries] for pick in (min, max))
    mean = [sum(entry.random) / len(entry.random) for entry in entries]
    axes.fill_between(layers, low, high, color="#d55e00", alpha=0.22, linewidth=0)
    axes.plot(layers, mean, color="#d55e00", marker="o", markersize=3, linewidth=1.2, label=f"{found.budget} at random")
    axes.plot(
        [entry.layer for entry in found.layers], [entry.withdrawn for entry in found.layers], color=theme.muted,
        linewidth=1, linestyle=":", label="none",
    )  # fmt: skip
    axes.axhline(found.logprob, color=theme.ink, linewidth=0.8, label="all tokens")
    axes.set_title("log-probability of the answer")


def _style(axes: Axes, found: InformationHorizon, theme: Theme) -> None:
    """The sheet's own letters and colours, whatever the user's matplotlibrc says."""
    font = FontProperties(fname=font_file(), size=SMALL)
    axes.set_facecolor(theme.paper)
    axes.tick_params(colors=theme.muted, width=0.6, length=2.5)
    axes.set_xticks([entry.layer for entry in found.layers])
    axes.set_xlabel("from LLM layer", fontproperties=font, color=theme.muted, labelpad=2)
    for text in (*axes.get_xticklabels(), *axes.get_yticklabels(), axes.title):
        text.set_fontproperties(font)
    axes.title.set_color(theme.ink)
    for name, spine in axes.spines.items():
        spine.set(color=theme.line, linewidth=0.6, visible=name in ("left", "bottom"))
    legend = axes.legend(prop=font, frameon=False, loc="best", borderpad=0.1, labelspacing=0.2, handlelength=1.4)
    for text in legend.get_texts():
        text.set_color(theme.muted)


def save_horizon(found: InformationHorizon, path: str | Path, **options: Any) -> Path:
    """Write the figure to a file, its format by suffix, and return the path. Raises BadInput when that cannot be."""
    file_format = figure_format(path)
    title = f"tokviz: information horizon of {found.comparison.request.question}"
    write_or_refuse(path, written(lambda: horizon_figure(found, **options), file_format, title))
    return Path(path)


def data_frame(found: InformationHorizon) -> DataFrame:
    """One row per layer, in nats. Raises BadInput where pandas is missing."""
    need("pandas", "ui", "A table")
    import pandas

    return pandas.DataFrame([{"layer": entry.layer, **_numbers(found, entry)} for entry in found.layers]).set_index(
        "layer"
    )


def _numbers(found: InformationHorizon, entry: HorizonLayer) -> dict[str, float | None]:
    def of(pick: Callable[[Sequence[float]], float], values: Sequence[float]) -> float | None:
        return pick(values) if values else None

    sizes = [abs(change) for change in entry.anywhere]
    return {
        "largest": entry.largest,
        "mean": entry.mean,
        "share_above": entry.share_above(found.floor(entry)),
        "anywhere_largest": of(max, sizes),
        "noise": entry.noise,
        "floor": found.floor(entry),
        "random_mean": of(lambda values: sum(values) / len(values), entry.random),
        "random_worst": of(min, entry.random),
        "random_best": of(max, entry.random),
        "withdrawn": entry.withdrawn,
    }


def horizon_table(found: InformationHorizon) -> Table:
    """The same for the terminal."""
    kind = "without the block" if found.measure == "removal" else "with the block alone"
    title = f"Change of the answer's log-probability {kind}, in nats; blocks of {found.block} x {found.block} tokens"
    columns = (">layer", ">largest", ">mean", ">above floor", ">anywhere", ">noise", ">random (worst)", ">none left")
    table = new_table(title, *columns)
    for entry in found.layers:
        shown = _numbers(found, entry)
        random = f"{_number(shown['random_mean'])} ({_number(shown['random_worst'])})"
        table.add_row(
            *map(cell, [
                entry.layer, _number(entry.largest), _number(entry.mean), f"{shown['share_above']:.0%}",
                _number(shown["anywhere_largest"]), f"{entry.noise:.1g}", random, _number(entry.withdrawn),
            ])
        )  # fmt: skip
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def sentences(found: InformationHorizon) -> list[str]:
    """What it comes to, in words."""
    where, random = found.horizon, found.random_from
    floor = f"{max(map(found.floor, found.layers), default=found.least):.2g} nats"
    lines = [
        f"No block changes the answer by more than {floor} from layer {where} on."
        if where is not None
        else f"Some block still changes the answer by more than {floor} in the last layer that was measured.",
        f"{found.budget} random tokens are enough from layer {random} on, whichever of {len(found.seeds)} seeds draws "
        "them."
        if random is not None
        else f"{found.budget} random tokens are not enough in any layer that was measured, for at least one seed.",
    ]
    return [*lines, *found.notes, f"Measured in {found.seconds:.1f} seconds."]
