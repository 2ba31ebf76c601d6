"""Colours of exported images: Okabe and Ito's colour-blind-safe set, and grey levels far apart in brightness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Rgb = tuple[int, int, int]


def hex_color(color: Rgb) -> str:
    """A colour as matplotlib and CSS write it."""
    return "#{:02x}{:02x}{:02x}".format(*color)


KEPT_OUTLINE: Rgb = (86, 180, 233)
BASIS_OUTLINE: Rgb = (230, 159, 0)
"""Tokens from which the others are reconstructed, as on the page."""
EVIDENCE: tuple[Rgb, Rgb] = ((204, 12, 78), (255, 255, 255))
"""The two alternating colours of the dashed evidence box; one of them stands out on any image."""
CASING: tuple[Rgb, Rgb] = ((20, 20, 20), (255, 255, 255))
"""Outer and inner line of marks on coloured maps."""

DROPPED_GREY = 66
DROPPED_SHOWS = 0.30
"""A dropped pixel is ``DROPPED_SHOWS`` of its brightness over ``DROPPED_GREY``: between 46 and 123 of 255."""

COARSE_SHOWS = 0.55
"""How much of the image shows where only a patch of the whole image was kept, none of its crops."""

UNSEEN_WHITE = 238
UNSEEN_SHOWS = 0.22
UNSEEN_HATCH: Rgb = (150, 150, 150)

NEUTRAL = 190
NEUTRAL_SHOWS = 0.15
"""Patches without a value on a map: light grey, hardly showing the image."""

HEAT_MAP = "inferno"
HEAT_SHOWS = 0.18
"""How much of the image's brightness shows through a heat map; little, so that colours can be read off the bar."""
CLUSTER_SHOWS = 0.45
SIDES: dict[str, Rgb] = {"both": (0, 158, 115), "a": (0, 114, 178), "b": (230, 159, 0)}
"""Kept by two runs, by the first only, by the second only, as on the page."""
SIDES_SHOW = 0.3
DIVERGING = "PuOr_r"
"""From less than chance (violet) to more (orange), nothing in between."""

ThemeName = Literal["light", "dark"]


@dataclass(frozen=True)
class Theme:
    """Colours of a figure's paper and ink, as hex strings."""

    paper: str
    ink: str
    muted: str
    line: str
    good: str
    bad: str
    changed: str


THEMES: dict[ThemeName, Theme] = {
    "light": Theme("#ffffff", "#15181c", "#5c636b", "#c9ced4", "#00704f", "#b3261e", "#8a5200"),
    "dark": Theme("#14171b", "#f1f3f5", "#a3abb4", "#3b424a", "#35c596", "#ff8a78", "#f0b347"),
}
