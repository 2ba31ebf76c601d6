"""The menu of models: the embedded ones, then what each family lists in its own file (``catalog``)."""

from __future__ import annotations

from .embedded import EMBEDDED, EMBEDDED_MODEL, EMBEDDED_VIDEO_MODEL, embedded_folder
from .entries import CatalogEntry
from .families import FAMILIES

__all__ = ["CATALOG", "EMBEDDED", "EMBEDDED_MODEL", "CatalogEntry", "embedded_folder", "find"]

CATALOG: tuple[CatalogEntry, ...] = (
    CatalogEntry(
        EMBEDDED_MODEL,
        "tokviz-tiny (embedded)",
        "llava",
        "apache-2.0",
        note="Trained by this project on drawn scenes; runs without network and GPU.",
    ),
    CatalogEntry(
        EMBEDDED_VIDEO_MODEL,
        "tokviz-tiny-video (embedded)",
        "llava_next_video",
        "apache-2.0",
        note="Trained by this project on drawn clips; runs without network and GPU.",
        takes=("video",),
    ),
    *(entry for family in FAMILIES.values() for entry in family.catalog),
)


def find(name: str) -> CatalogEntry | None:
    """The menu entry with this id, or None."""
    return next((entry for entry in CATALOG if entry.id == name), None)
