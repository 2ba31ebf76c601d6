"""A figure as the bytes of a file: PNG, SVG or PDF, the same bytes for the same figure, whatever a user set up."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from ..errors import BadInput
from .format import plain_text
from .sheet import FAMILIES

FORMATS = ("png", "svg", "pdf")
DPI = 300

# matplotlib's settings are global and not thread-safe: files are written one at a time.
_SETTINGS_LOCK = threading.Lock()
# Unhinted letters are as wide at every resolution as they were measured.
_SETTINGS: dict[str, Any] = {
    "text.hinting": "none",
    "svg.hashsalt": "tokviz",
    "svg.fonttype": "none",
    "font.sans-serif": FAMILIES,
    "svg.image_inline": True,
    "pdf.fonttype": 42,
    "pdf.compression": 6,
    "savefig.bbox": None,
    "savefig.transparent": False,
    "hatch.linewidth": 0.6,
    "text.usetex": False,
    "text.antialiased": True,
    "path.effects": [],
    "path.sketch": None,
}


def written(make: Callable[[], Figure], file_format: str, title: str) -> bytes:
    """A figure as the bytes of a file of one of ``FORMATS``; the title is untrusted text."""
    figure, title = make(), plain_text(title, 300)
    metadata_of: dict[str, dict[str, str | None]] = {
        "png": {"Title": title, "Software": "tokviz"},
        "svg": {"Title": title, "Creator": "tokviz", "Date": None},
        "pdf": {"Title": title, "Creator": "tokviz", "Producer": "matplotlib", "CreationDate": None},
    }
    metadata = metadata_of[file_format]
    buffer = io.BytesIO()
    settings: Any = _SETTINGS  # matplotlib types the keys as a literal of all its settings
    with _SETTINGS_LOCK, matplotlib.rc_context(settings):
        figure.savefig(buffer, format=file_format, dpi=figure.dpi, facecolor=figure.get_facecolor(), metadata=metadata)
    return buffer.getvalue()


def figure_format(path: str | Path) -> str:
    """The format that a file name asks for by its suffix. Raises BadInput when it is none of png, svg, pdf."""
    suffix = Path(path).suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        raise BadInput(f"The figure's file name must end in .png, .svg or .pdf, not {Path(path).suffix!r}.")
    return suffix
