"""What a model's configuration already says to methods that plan, before any weight is loaded."""

from __future__ import annotations

import json
from pathlib import Path

from ..types import PlanningInfo
from .catalog import EMBEDDED_MODEL, embedded_folder
from .families import FAMILIES


def planning_before_loading(name: str) -> PlanningInfo | None:
    """What is known of the embedded model or of a checkpoint folder from its ``config.json``, for a square picture.

    None when it can be known only by loading: a hub id, another architecture, a configuration that leaves the counts to
    transformers' defaults, a damaged file (loading will say what is wrong with it).
    """
    folder = embedded_folder() if name == EMBEDDED_MODEL else Path(name).expanduser()
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    try:
        return FAMILIES[config["model_type"]].planned(config)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
