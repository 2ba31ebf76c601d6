"""What a model's configuration already says to methods that plan, before any weight is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
    try:
        config = _config(name)
        return FAMILIES[config["model_type"]].planned(config)
    except (OSError, KeyError, TypeError, ValueError, AttributeError, ArithmeticError):
        return None


def _config(name: str) -> Mapping[str, Any]:
    entry = find(name)
    if entry is not None and entry.config is not None and not Path(name).is_dir():  # a folder goes before a hub id
        return entry.config
    folder = embedded_folder(name) if name in EMBEDDED else Path(name).expanduser()
    config = _json(folder / "config.json")
    pictures = _json(folder / "processor_config.json").get("image_processor") or _json(
        folder / "preprocessor_config.json"
    )
    # Ours, beside what the file says: families whose processor decides how many tokens a picture becomes ask for it.
    return {**config, "image_processor": pictures}


def _json(file: Path) -> dict[str, Any]:
    """What a file says, {} where there is none; a model's own is missed by whoever asks it."""
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found
