"""The figure of a look inside a model: curves over its layers, maps of the vision tower and of the answer's words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import MaxNLocator
from rich.table import Table

from ..attention import KINDS, TAU, Inside, TowerLayer, Word
from ..errors import need
from ..files import write_or_refuse
from ..records import TokenMap
from .overlays import heat_overlay, map_limits
from .palette import THEMES, Theme, ThemeName
from .panels import version_words
from .raster import Canvas, open_canvas
from .saving import DPI, figure_format, written
from .sheet import MARGIN, SMALL, TITLE, Sheet, compose, draw_scale, font_file, pitch, scale_height, wrap
from .tables import cell, new_table

if TYPE_CHECKING:
    from pandas import DataFrame

COLUMNS, PANEL, GAP = 3, 2.3, 0.2
CURVE_HEIGHT, AXIS_ROOM, TICK_ROOM = 1.75, 0.5, 0.4
COLORS = {
    "system": "#7f7f7f", "image": "#d55e00", "question": "#0072b2", "template": "#56b4e9", "output": "#009e73",
}  # fmt: skip
NAMES = {
    "system": "text before", "image": "image", "question": "question", "template": "text behind", "output": "answer",
}  # fmt: skip
Row = Sequence[tuple[str, str, TokenMap]]
"""Maps beside each other on one scale: title, words below, and the map."""


def tower_map(found: Inside, entry: TowerLayer) -> TokenMap:
    """Attention in one layer of the vision tower, on a log scale."""
    what = "given by [CLS]" if found.tower_kind == "cls_attention" else "received"
    label = f"Attention {what} in layer {entry.layer} of the vision tower"
    return TokenMap("tower_attention", label, entry.attention, "probability", "high: looked at most", "log")


def inside_figure(found: Inside, *, theme: ThemeName = "light", dpi: int = DPI) -> Figure:
    """Draw it for print; arguments as those of ``Inside.figure``."""
    image = found.comparison.image
    high = PANEL * min(image.height / image.width, 1.6)
    wide = min(PANEL, high * image.width / image.height)
    canvas = open_canvas(found.comparison, long_side=max(1, round(max(high, wide) * dpi)))
    width = 2 * MARGIN + COLUMNS * PANEL + (COLUMNS - 1) * GAP
    inner = width - 2 * MARGIN
    rows = [row for row in (_tower_row(found), _word_row(found)) if row]
    row_height = pitch(TITLE) + high + 0.04 + pitch(SMALL) + 0.08
    scales = [_scale(row) for row in rows]
    heights = [row_height + scale_height(scale, inner) + 0.1 for scale in scales]

    def draw(sheet: Sheet, top: float) -> None:
        _draw_curves(sheet, found, top, inner)
        top += CURVE_HEIGHT + AXIS_ROOM
        for row, scale, height in zip(rows, scales, heights, strict=True):
            _draw_row(sheet, canvas, row, scale, top, (wide, high))
            draw_scale(sheet, MARGIN, top + row_height, inner, scale)
            top += height

    body = CURVE_HEIGHT + AXIS_ROOM + sum(heights)
    return compose(
        found.comparison, (width, body), THEMES[theme], dpi, draw, legend=[], notes=_notes(found), gap=0.12, foot=0.16
    )  # fmt: skip


def _tower_row(found: Inside) -> Row:
    """The first, a middle and the layer that makes the features (or the last)."""
    if not found.tower:
        return []
    last = len(found.tower) - 1 if found.feature_layer is None else found.feature_layer
    row = []
    for number in sorted({0, last // 2, last}):
        entry = found.tower[number]
        title = f"tower layer {number}" + (" (features)" if number == found.feature_layer else "")
        entropy = "–" if entry.entropy is None else f"{entry.entropy:.2f}"
        row.append((title, f"entropy {entropy} of {found.uniform_entropy:.2f} nats", tower_map(found, entry)))
    return row


def _word_row(found: Inside) -> Row:
    """The first words of the answer, mean over all layers; of a single word also a middle and the last layer."""
    row = []
    for number, word in enumerate(found.words[:COLUMNS]):
        if all(found.tokens[token].maps for token in word.tokens):
            chosen = found.map_layers
            further = sorted({chosen[len(chosen) // 2], chosen[-1]}) if chosen and len(found.words) == 1 else []
            for layer in (None, *further):
                where = "" if layer is None else f", layer {layer}"
                values = found.word_map(number, layer)
                row.append((f"when it said {word.text}{where}", _share_words(found, word, layer), values))
    return row


def _share_words(found: Inside, word: Word, layer: int | None) -> str:
    """How much of the attention with which a word was said went to the image."""
    at = KINDS.index("image")
    spent = [found.tokens[token].spent for token in word.tokens]
    shares = [one[at] for rows in spent for one in (rows if layer is None else rows[layer : layer + 1])]
    return f"{sum(shares) / len(shares):.1%} on the image" + (", mean of layers" if layer is None else "")


def _scale(row: Row) -> TokenMap:
    """One scale for all maps of a row, from the lowest to the highest value."""
    first = row[0][2]
    every = replace(first, values=[value for _, _, one in row for value in one.values])
    label = "Attention with which a word was said"
    label = label if first.name == "word_attention" else first.label.split(" in layer")[0]
    return replace(first, label=label, values=list(map_limits(every) or (0.0, 1.0)))


def _draw_row(sheet: Sheet, canvas: Canvas, row: Row, scale: TokenMap, top: float, size: tuple[float, float]) -> None:
    wide, high = size
    limits = map_limits(scale) or (0.0, 1.0)
    for column, (title, words, values) in enumerate(row):
        x = MARGIN + column * (PANEL + GAP)
        for line in wrap(title, PANEL, TITLE, bold=True, max_lines=1):
            sheet.text(x, top + 0.13, line, TITLE, sheet.theme.ink, bold=True)
        sheet.image(x, top + pitch(TITLE), wide, high, heat_overlay(canvas, values, limits))
        below = top + pitch(TITLE) + high + 0.04
        sheet.lines(x, below, wrap(words, PANEL, SMALL, max_lines=1), SMALL, sheet.theme.muted)


def _notes(found: Inside) -> list[str]:
    where = found.withdrawn_at()
    drops = "ToDRE would keep the image" if where is None else f"ToDRE would drop the image before layer {where}"
    run = found.run
    return [
        f"{found.comparison.model.name} · {run.label} · answer: {run.answer or '(no answer)'} · {drops} (threshold "
        f"{TAU:g}). Means over heads. {version_words(found.comparison)}",
        *found.notes,
    ]


def _draw_curves(sheet: Sheet, found: Inside, top: float, inner: float) -> None:
    """Text and image (ToDRE's Figure 2), the output's shares (its Figure 5), the tower's entropy (Polymorphic)."""
    width = (inner - 2 * GAP) / 3 - TICK_ROOM
    for place, draw in enumerate((_draw_between, _draw_output, _draw_entropy)):
        left = MARGIN + TICK_ROOM + place * (width + TICK_ROOM + GAP)
        corner = left / sheet.width, 1 - (top + CURVE_HEIGHT) / sheet.height
        axes = sheet.figure.add_axes((*corner, width / sheet.width, (CURVE_HEIGHT - 0.2) / sheet.height))
        draw(axes, found, sheet.theme)
        _style(axes, sheet.theme)


def _line(axes: Axes, values: Sequence[float | None], label: str, **look: Any) -> None:
    known = [math.nan if value is None else value for value in values]
    axes.plot(range(len(known)), known, label=label, **{"linewidth": 1.1, "marker": "o", "markersize": 2, **look})


def _draw_between(axes: Axes, found: Inside, theme: Theme) -> None:
    _line(axes, [entry.text_to_image for entry in found.layers], "text to image", color=COLORS["image"])
    _line(axes, [entry.image_to_text for entry in found.layers], "image to text", color=COLORS["question"])
    before = [entry.image_to_system for entry in found.layers]
    _line(axes, before, "image to before", color=COLORS["system"], linestyle=":")
    axes.axhline(TAU, color=theme.muted, linewidth=0.8, dashes=(4, 2), label=f"tau = {TAU:g}")
    axes.set_title("between text and image")
    axes.set_xlabel("LLM layer")


def _draw_output(axes: Axes, found: Inside, theme: Theme) -> None:
    if all(entry.output is None for entry in found.layers):
        first = [token.spent for token in found.tokens[:1]]
        shares: list[Sequence[float] | None] = [*first[0]] if first else []
        axes.set_title("what the only token looks at")
    else:
        shares = [entry.output for entry in found.layers]
        axes.set_title("what the answer looks at")
    for place, kind in enumerate(KINDS):
        values = [None if share is None else share[place] for share in shares]
        if any(values):
            _line(axes, values, NAMES[kind], color=COLORS[kind])
    axes.set_xlabel("LLM layer")


def _draw_entropy(axes: Axes, found: Inside, theme: Theme) -> None:
    _line(axes, [entry.entropy for entry in found.tower], "entropy", color=COLORS["question"])
    axes.axhline(found.uniform_entropy, color=theme.muted, linewidth=0.8, dashes=(4, 2), label="if even")
    if found.feature_layer is not None:
        axes.axvline(found.feature_layer, color=theme.muted, linewidth=0.8, linestyle=":", label="features")
    axes.set_title(f"entropy of {'[CLS]' if found.tower_kind == 'cls_attention' else 'received'} attention")
    axes.set_xlabel("layer of the vision tower")


def _style(axes: Axes, theme: Theme) -> None:
    """The sheet's own letters and colours, whatever the user's matplotlibrc says."""
    font = FontProperties(fname=font_file(), size=SMALL)
    axes.set_facecolor(theme.paper)
    axes.set_ylim(bottom=0)  # before ticks are chosen: they are those of the whole axis
    top = axes.get_ylim()[1]
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= top])
    axes.set_ylim(0, 1.45 * top)  # room for the legend
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.tick_params(colors=theme.muted, width=0.6, length=2.5)
    axes.xaxis.label.set(fontproperties=font, color=theme.muted)
    for text in (*axes.get_xticklabels(), *axes.get_yticklabels(), axes.title):
        text.set_fontproperties(font)
    axes.title.set_color(theme.ink)
    for name, spine in axes.spines.items():
        spine.set(color=theme.line, linewidth=0.6, visible=name in ("left", "bottom"))
    look: dict[str, Any] = {"borderpad": 0.1, "labelspacing": 0.2, "handlelength": 1.2, "columnspacing": 0.8}
    legend = axes.legend(prop=font, frameon=False, loc="upper left", ncols=2, **look)
    for text in legend.get_texts():
        text.set_color(theme.muted)


def save_inside(found: Inside, path: str | Path, **options: Any) -> Path:
    """Write the figure to a file, its format by suffix, and return the path. Raises BadInput when that cannot be."""
    file_format = figure_format(path)
    title = f"tokviz: inside the model for {found.comparison.request.question}"
    write_or_refuse(path, written(lambda: inside_figure(found, **options), file_format, title))
    return Path(path)


def data_frame(found: Inside) -> DataFrame:
    """One row per LLM layer. Raises BadInput where pandas is missing."""
    need("pandas", "ui", "A table")
    import pandas

    rows = []
    for entry in found.layers:
        output = [math.nan] * len(KINDS) if entry.output is None else entry.output
        rows.append(
            {
                "layer": entry.layer,
                "visual_tokens": entry.visual,
                "text_to_image": entry.text_to_image,
                "image_to_text": entry.image_to_text,
                "image_to_system": entry.image_to_system,
                **{f"output_to_{kind}": share for kind, share in zip(KINDS, output, strict=True)},
            }
        )
    return pandas.DataFrame(rows).set_index("layer")


def _share(share: float | None) -> str:
    return "–" if share is None else f"{share:.3f}"


def inside_table(found: Inside) -> Table:
    """The same for the terminal."""
    headings = (">layer", ">tokens", ">text→image", ">image→text", ">image→before")
    table = new_table("Shares of attention, mean over heads", *headings, *(f">→{kind}" for kind in KINDS))
    for entry in found.layers:
        output: Sequence[float | None] = [None] * len(KINDS) if entry.output is None else entry.output
        between = (entry.text_to_image, entry.image_to_text, entry.image_to_system)
        table.add_row(*map(cell, [entry.layer, entry.visual, *map(_share, between), *map(_share, output)]))
    return table


def sentences(found: Inside) -> list[str]:
    """What it comes to, in words."""
    where, below = found.withdrawn_at(), found.below()
    lines = [
        f"Both of ToDRE's ratios are below {TAU:g} in layers {', '.join(map(str, below))}."
        if below
        else f"In no layer are both of ToDRE's ratios below {TAU:g}.",
        "It would keep the image to the end." if where is None else f"It would drop the image before layer {where}.",
    ]
    entropies = [(entry.entropy, entry.layer) for entry in found.tower if entry.entropy is not None]
    if entropies:
        low, layer = min(entropies)
        lines.append(
            f"The vision tower's attention is most concentrated in layer {layer}: entropy {low:.2f} of at most "
            f"{found.uniform_entropy:.2f} nats."
        )
    return [*lines, *found.notes]
