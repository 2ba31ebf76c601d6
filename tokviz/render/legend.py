"""The legend of a figure: a swatch and a few words for everything that can be seen in it."""

from __future__ import annotations

from typing import Any

from . import palette
from .lettering import text_width
from .page import Page
from .palette import Theme
from .panels import Panel
from .raster import Canvas

LegendItem = tuple[dict[str, Any], str]
"""Arguments of ``Page.box`` for the swatch, and its words."""


def legend_items(canvas: Canvas, panels: list[Panel], theme: Theme) -> list[LegendItem]:
    """Swatches (arguments of ``Page.box``) with their words; only what can be seen in this figure."""
    kept, crimson = palette.hex_color(palette.KEPT_OUTLINE), palette.hex_color(palette.EVIDENCE[0])
    dropped = palette.hex_color((palette.DROPPED_GREY + 18,) * 3)
    items: list[LegendItem] = []
    if any(panel.drawn == "kept" for panel in panels):
        items += [
            ({"face": "#ffffff", "edge": kept, "line": 1.2}, "kept (outlined)"),
            ({"face": dropped, "edge": dropped}, "dropped"),
        ]
    if any(panel.basis for panel in panels):
        gold = palette.hex_color(palette.BASIS_OUTLINE)
        items.append(({"face": "#ffffff", "edge": gold, "line": 1.2}, "basis token"))
    if canvas.coarse is not None and any(panel.drawn == "kept" for panel in panels):
        items.append(({"face": "#a9abae", "edge": theme.ink, "line": 1.2}, "kept only of the whole picture, coarsely"))
    if any(panel.drawn == "score" for panel in panels):
        items.append(({"face": "none", "edge": theme.ink, "line": 1.2}, "kept (on heat maps)"))
    if any(panel.drawn == "died" for panel in panels):
        items.append(({"face": "none", "edge": theme.ink, "line": 1.2}, "kept to the end (on heat maps)"))
    if any(panel.drawn == "clusters" for panel in panels):
        group = {"face": "#7aa7c4", "edge": palette.hex_color(palette.CASING[0])}
        items.append((group, "merge group; a ring marks the kept token that carries it"))
    if canvas.comparison.request.evidence:
        items.append(({"face": "none", "edge": crimson, "line": 1.2, "dashed": True}, "evidence for the answer"))
    if (canvas.raster.owner < 0).any():
        swatch = {"face": "#eeeeee", "edge": "#969696", "line": 0.6, "hatch": "//////"}
        items.append((swatch, "not seen by the model"))
    return items


def legend_lines(items: list[LegendItem], width: float, size: float) -> list[list[tuple[float, LegendItem]]]:
    """Items with their x in inches, broken into lines of ``width``."""
    lines: list[list[tuple[float, LegendItem]]] = []
    x = 0.0
    for swatch, words in items:
        needed = 0.18 + text_width(words, size) + 0.2
        if not lines or x + needed - 0.2 > width:
            lines.append([])
            x = 0.0
        lines[-1].append((x, (swatch, words)))
        x += needed
    return lines


def draw_legend(page: Page, line: list[tuple[float, LegendItem]], left: float, top: float, size: float) -> None:
    """Draw one line of ``legend_lines``; positions in inches, size in points."""
    for offset, (swatch, words) in line:
        x = left + offset
        page.box(x + 0.01, top + 0.03, 0.12, 0.08, **swatch)
        page.text(x + 0.18, top + 0.1, words, size, page.theme.muted)
