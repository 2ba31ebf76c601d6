"""The layouts of case files, one module each."""

from __future__ import annotations

from .layout import Layout
from .lines import JsonLines

LAYOUTS: tuple[type[Layout], ...] = (JsonLines,)
"""In the order in which they are tried when nobody named one; the first that recognises a file reads it."""
