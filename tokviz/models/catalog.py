"""The menu of models: what the page offers, and where each comes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

EMBEDDED_MODEL = "tokviz-tiny"
_ASSETS = Path(__file__).resolve().parents[2] / "assets"


@dataclass(frozen=True)
class CatalogEntry:
    """One model of the menu. memory_gb is an estimate for bf16 weights plus a prompt, in GB (0 = negligible)."""

    id: str
    label: str
    family: str
    memory_gb: float
    licence: str
    revision: str | None = None
    note: str = ""


CATALOG: tuple[CatalogEntry, ...] = (
    CatalogEntry(
        EMBEDDED_MODEL,
        "tokviz-tiny (embedded)",
        "llava",
        0.0,
        "apache-2.0",
        note="Trained by this project on drawn scenes; runs without network and GPU.",
    ),
    CatalogEntry("llava-hf/llava-1.5-7b-hf", "LLaVA-1.5 7B", "llava", 16.0, "llama2"),
    CatalogEntry("llava-hf/llava-1.5-13b-hf", "LLaVA-1.5 13B", "llava", 29.0, "llama2"),
)


def find(name: str) -> CatalogEntry | None:
    """The menu entry with this id, or None."""
    return next((entry for entry in CATALOG if entry.id == name), None)


def embedded_folder() -> Path:
    """Where the embedded checkpoint lies in the repository."""
    return _ASSETS / EMBEDDED_MODEL
