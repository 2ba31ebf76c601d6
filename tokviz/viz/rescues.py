"""The figure of a rescue: what was kept, what each dropped block is worth, and the random control beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from rich.table import Table

from ..errors import need
from ..files import write_or_refuse
from ..records import TokenMap
from ..rescues import Rescue, RescueBlock
from .overlays import heat_overlay, kept_overlay, kept_stage
from .palette import THEMES, ThemeName
from .panels import version_words
from .raster import Canvas, open_canvas
from .saving import DPI, figure_format, written
from .sheet import MARGIN, SMALL, TITLE, Sheet, compose, draw_scale, font_file, pitch, scale_height
from .tables import cell, new_table

if TYPE_CHECKING:
    from pandas import DataFrame

PANEL, GAP, PLOT_HEIGHT = 2.9, 0.25, 1.5
SHOWN = 12
"""Blocks in the table of the terminal."""


def gain_map(found: Rescue) -> TokenMap:
    """What the block of each dropped token is worth, given back."""
    label = "Gain of the answer's log-probability with the block given back"
    return TokenMap("rescue", label, found.gains, "nats", "high: it brings the answer back")


def rescue_figure(found: Rescue, *, theme: ThemeName = "light", dpi: int = DPI) -> Figure:
    """Draw it for print; arguments as those of ``Rescue.figure``."""
    comparison = found.comparison
    high = PANEL * min(comparison.image.height / comparison.image.width, 1.6)
    wide = min(PANEL, high * comparison.image.width / comparison.image.height)
    canvas = open_canvas(comparison, frame=_frame(found), long_side=max(1, round(max(high, wide) * dpi)))
    width = 2 * MARGIN + 2 * PANEL + GAP
    gains = gain_map(found)
    limits = _limits(found)
    scale = TokenMap("scale", gains.label, [*limits], gains.unit, gains.direction)
    bar = scale_height(scale, PANEL) + 0.1
    body = pitch(TITLE) + high + 0.06 + bar + PLOT_HEIGHT + 0.45

    def draw(sheet: Sheet, top: float) -> None:
        titles = f"{found.rescued.label}: kept", "gain of each block"
        pictures = _kept(canvas, found), heat_overlay(canvas, gains, limits)
        for column, (title, pixels) in enumerate(zip(titles, pictures, strict=True)):
            x = MARGIN + column * (PANEL + GAP)
            sheet.text(x, top + 0.13, title, TITLE, sheet.theme.ink, bold=True)
            sheet.image(x, top + pitch(TITLE), wide, high, pixels)
        draw_scale(sheet, MARGIN + PANEL + GAP, top + pitch(TITLE) + high + 0.06, PANEL, scale)
        _draw_gains(sheet, found, top + pitch(TITLE) + high + 0.06 + bar, width - 2 * MARGIN)

    return compose(
        comparison, (width, body), THEMES[theme], dpi, draw, legend=[], notes=_notes(found), gap=0.12, foot=0.16
    )  # fmt: skip


def _kept(canvas: Canvas, found: Rescue) -> Any:
    run = found.rescued
    stage = kept_stage(run)
    return kept_overlay(canvas, run, -1 if stage is None else stage)


def _frame(found: Rescue) -> int | None:
    """Of a video the frame that shows the best block, else the first; None for an image."""
    grid, best = found.comparison.grid, max(found.blocks, key=lambda one: one.gain, default=None)
    if not grid.is_video:
        return None
    return grid.views[0 if best is None else grid.view[best.tokens[0]]].frames[0]


def _limits(found: Rescue) -> tuple[float, float]:
    """As wide as the gains and no narrower than the floor, below which nothing is told."""
    values = [one.gain for one in found.blocks]
    floor = max(found.noise, found.least, 1e-9)
    low = min([0.0, *values])
    return (low if low < -floor else 0.0), max([floor, *values])


def _notes(found: Rescue) -> list[str]:
    told = len(found.telling)
    return [
        f"{found.comparison.model.name} · {found.scored} answer: {found.answer or '(no answer)'} · log-probability "
        f"{found.logprob:.3g} nats with all tokens, {found.logprob_kept:.3g} with those kept · blocks of {found.block} "
        f"x {found.block} tokens · {told} of {len(found.blocks)} blocks gain more than every random set of their size "
        f"(about {by_chance(found):.0f} would if the place did not matter)",
        f"Grey: as many dropped tokens from anywhere, {len(found.seeds)} random sets of each size. A block tells "
        f"something if it gains more than every set of its size, numerical noise ({found.noise:.1g} nats) and "
        f"{found.least:g} nats. {version_words(found.comparison)}",
        *found.notes,
    ]


def by_chance(found: Rescue) -> float:
    """How many blocks would beat every random set of their size if it did not matter where tokens lie."""
    return len(found.blocks) / (len(found.seeds) + 1)


def _draw_gains(sheet: Sheet, found: Rescue, top: float, inner: float) -> None:
    """Blocks by gain, each over the random sets of its size."""
    theme, font = sheet.theme, FontProperties(fname=font_file(), size=SMALL)
    left, wide, high = MARGIN + 0.45, inner - 0.45, PLOT_HEIGHT - 0.2
    corner = left / sheet.width, 1 - (top + PLOT_HEIGHT) / sheet.height
    axes = sheet.figure.add_axes((*corner, wide / sheet.width, high / sheet.height))
    ordered = sorted(found.blocks, key=lambda one: -one.gain)
    for place, one in enumerate(ordered):
        chance = [other.gain for other in found.control if len(other.tokens) == len(one.tokens)]
        axes.plot([place] * len(chance), chance, color=theme.muted, marker="_", markersize=4, linestyle="none")
    for restores, color, label in ((True, theme.good, "gives the answer again"), (False, "#0072b2", "does not")):
        points = [(place, one.gain) for place, one in enumerate(ordered) if one.restores == restores]
        if points:
            axes.plot(*zip(*points, strict=True), color=color, marker="o", markersize=3, linestyle="none", label=label)
    axes.axhline(found.logprob - found.logprob_kept, color=theme.ink, linewidth=0.8, label="all tokens")
    axes.axhline(0.0, color=theme.line, linewidth=0.8)
    axes.set_facecolor(theme.paper)
    axes.tick_params(colors=theme.muted, width=0.6, length=2.5)
    axes.set_title("gain of each block, nats, and of random sets")
    axes.set_xlabel("blocks by gain", fontproperties=font, color=theme.muted, labelpad=2)
    for text in (*axes.get_xticklabels(), *axes.get_yticklabels(), axes.title):
        text.set_fontproperties(font)
        text.set_parse_math(False)
    axes.title.set_color(theme.ink)
    for name, spine in axes.spines.items():
        spine.set(color=theme.line, linewidth=0.6, visible=name in ("left", "bottom"))
    legend = axes.legend(prop=font, frameon=False, loc="best", borderpad=0.1, labelspacing=0.2)
    for text in legend.get_texts():
        text.set_color(theme.muted)


def save_rescue(found: Rescue, path: str | Path, **options: Any) -> Path:
    """Write the figure to a file, its format by suffix, and return the path. Raises BadInput when that cannot be."""
    file_format = figure_format(path)
    title = f"tokviz: rescue of {found.comparison.request.question}"
    write_or_refuse(path, written(lambda: rescue_figure(found, **options), file_format, title))
    return Path(path)


def data_frame(found: Rescue) -> DataFrame:
    """One row per block, the best first, in nats. Raises BadInput where pandas is missing."""
    need("pandas", "ui", "A table")
    import pandas

    ordered = sorted(found.blocks, key=lambda one: -one.gain)
    return pandas.DataFrame([_row(found, one) for one in ordered], columns=list(_COLUMNS))


_COLUMNS = ("view", "row", "col", "size", "gain", "floor", "telling", "restores", "tokens")


def _row(found: Rescue, one: RescueBlock) -> dict[str, Any]:
    """Where a block lies (its first token's view, row and column) and what it is worth."""
    grid, first, floor = found.comparison.grid, one.tokens[0], found.floor(len(one.tokens))
    values = grid.view[first], grid.row[first], grid.col[first], len(one.tokens), one.gain, floor, one.gain > floor
    return dict(zip(_COLUMNS, (*values, one.restores, one.tokens), strict=True))


def rescue_table(found: Rescue) -> Table:
    """The best blocks, for the terminal."""
    title = f"Gain of the {found.scored} answer's log-probability in nats, dropped blocks given back one at a time"
    table = new_table(title, ">row", ">column", ">tokens", ">gain", ">chance", "beats chance", "gives the answer")
    for one in sorted(found.blocks, key=lambda one: -one.gain)[:SHOWN]:
        row = _row(found, one)
        shown = (row["row"], row["col"], row["size"], f"{one.gain:.3g}", f"{row['floor']:.3g}")
        table.add_row(*map(cell, [*shown, *("yes" if row[name] else "no" for name in ("telling", "restores"))]))
    return table


def sentences(found: Rescue) -> list[str]:
    """What it comes to, in words."""
    best, run = found.best, found.rescued
    restoring = sum(one.restores for one in found.blocks)
    lines = [
        f"{run.label} lowers the log-probability of the {found.scored} answer from {found.logprob:.3g} to "
        f"{found.logprob_kept:.3g} nats."
    ]
    if best is None:
        lines.append("No block, given back, gains more than as many random tokens do.")
    else:
        grid, first = found.comparison.grid, best.tokens[0]
        answered = found.comparison.runs[-1].answer if len(found.comparison.runs) > 2 else None
        said = f" The answer is then {answered!r}." if answered is not None else ""
        lines.append(
            f"The best block begins at row {grid.row[first]}, column {grid.col[first]}, has {len(best.tokens)} dropped "
            f"tokens and gains {best.gain:.3g} nats; as many random ones gain at most "
            f"{found.floor(len(best.tokens)):.3g}.{said}"
        )
    lines.append(
        f"{len(found.telling)} of {len(found.blocks)} blocks gain more than all {len(found.seeds)} random sets of "
        f"their size; about {by_chance(found):.0f} would if the place did not matter. With {restoring} of them the "
        "model gives the answer."
    )
    return [*lines, *found.notes, f"Measured in {found.seconds:.1f} seconds."]
