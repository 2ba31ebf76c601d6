"""The models that come with the project. No torch here: commands name it before they need it."""

from __future__ import annotations

from pathlib import Path

EMBEDDED_MODEL = "tokviz-tiny"
EMBEDDED_VIDEO_MODEL = "tokviz-tiny-video"
EMBEDDED = (EMBEDDED_MODEL, EMBEDDED_VIDEO_MODEL)
_ASSETS = Path(__file__).resolve().parents[2] / "assets"


def embedded_folder(name: str = EMBEDDED_MODEL) -> Path:
    """Where an embedded checkpoint lies in the repository."""
    return _ASSETS / name
