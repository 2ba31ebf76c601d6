"""The colour bar of a heat map with its two ends in numbers and what it measures."""

from __future__ import annotations

import matplotlib
import numpy as np

from ..records import TokenMap
from . import palette
from .lettering import text_width, wrap
from .overlay import map_limits
from .page import Page, pitch


def scale_height(values: TokenMap | None, width: float, size: float) -> float:
    """Height in inches of the bar with its words at a font size in points; 0 when there is no map."""
    return 0.17 + len(_words(values, width, size)) * pitch(size) if values else 0.0


def draw_scale(page: Page, x: float, top: float, width: float, values: TokenMap, size: float) -> None:
    """Draw the bar; positions and width in inches."""
    limits = map_limits(values)
    if limits is None:
        return
    muted = page.theme.muted
    ramp = matplotlib.colormaps[palette.HEAT_MAP](np.linspace(0, 1, 256))[None, :, :3]
    low, high = (f"{limit:.3g}" for limit in limits)
    if any(value is not None and value < limits[0] for value in values.values):
        low = f"≤ {low}"
    low_width, high_width = text_width(low, size), text_width(high, size)
    page.text(x, top + 0.09, low, size, muted)
    page.text(x + width - high_width, top + 0.09, high, size, muted)
    bar = width - low_width - high_width - 0.12
    page.picture(x + low_width + 0.06, top + 0.015, bar, 0.075, (ramp * 255).astype(np.uint8), frame=False)
    page.lines(x, top + 0.1, _words(values, width, size), size, muted)


def _words(values: TokenMap, width: float, size: float) -> list[str]:
    unit = f" ({values.unit})" if values.unit else ""
    log = ", log scale" if values.scale == "log" else ""
    return wrap(f"{values.label}{unit}{log}: {values.direction}", width, size, max_lines=3)
