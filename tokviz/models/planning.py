"""What a model's configuration already says to methods that plan, before any weight is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..types import PlanningInfo
from .catalog import find
from .embedded import EMBEDDED, embedded_folder
from .families import FAMILIES


def planning_before_loading(name: str) -> PlanningInfo | None:
    """What is known of a model of the menu or of a checkpoint folder from its configuration, for a square picture.

    None when it can be known only by loading: a hub id that is not on the menu, another architecture, a configuration
    that leaves the counts to transformers' defaults, a damaged file (loading will say what is wrong with it).
    """
    folder = _folder(name)
    entry = find(name)
    if folder is None:  # a folder goes before a hub id
        config = None if entry is None else entry.config
        return None if config is None else FAMILIES[config["model_type"]].planned(config)
    written = _json(folder / "config.json")
    kind = written.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        return None
    # Ours, beside what the file says: families whose processor decides how many tokens a picture becomes ask for it.
    pictures = _json(folder / "processor_config.json").get("image_processor") or _json(
        folder / "preprocessor_config.json"
    )
    config = {**written, "image_processor": pictures if isinstance(pictures, dict) else {}}
    try:
        return FAMILIES[kind].planned(config)
    except (KeyError, TypeError, ValueError, ArithmeticError):  # what ``planned`` raises of a file that says too little
        return None


def _folder(name: str) -> Path | None:
    try:
        folder = embedded_folder(name) if name in EMBEDDED else Path(name).expanduser()
        return folder if folder.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # a name too long to look up, somebody else's home
        return None


def _json(file: Path) -> dict[str, Any]:
    """What a file says, {} where it says nothing that can be used; a model's own is missed by whoever asks it."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
