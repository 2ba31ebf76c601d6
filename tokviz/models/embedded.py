"""The models that come with the project. No torch here: commands name it before they need it."""

from __future__ import annotations

from pathlib import Path

from ..resources import resource

EMBEDDED_MODEL = "tokviz-tiny"
EMBEDDED_VIDEO_MODEL = "tokviz-tiny-video"
EMBEDDED = (EMBEDDED_MODEL, EMBEDDED_VIDEO_MODEL)


def embedded_folder(name: str = EMBEDDED_MODEL) -> Path:
    """Locate an embedded checkpoint."""
    return resource(f"assets/{name}")
