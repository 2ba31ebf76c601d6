"""The model that comes with the project. No torch here: commands name it before they need it."""

from __future__ import annotations

from pathlib import Path

EMBEDDED_MODEL = "tokviz-tiny"
_ASSETS = Path(__file__).resolve().parents[2] / "assets"


def embedded_folder() -> Path:
    """Where the embedded checkpoint lies in the repository."""
    return _ASSETS / EMBEDDED_MODEL
