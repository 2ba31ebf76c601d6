"""What a model's configuration already says to methods that plan, before any weight is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..types import PlanningInfo
from .catalog import find
from .embedded import EMBEDDED_MODEL, embedded_folder
from .families import FAMILIES


def planning_before_loading(name: str) -> PlanningInfo | None:
    """What is known of a model of the menu or of a checkpoint folder from its configuration, for a square picture.

    None when it can be known only by loading: a hub id that is not on the menu, another architecture, a configuration
    that leaves the counts to transformers' defaults, a damaged file (loading will say what is wrong with it).
    """
    try:
        config = _config(name)
        return FAMILIES[config["model_type"]].planned(config)
    except (OSError, KeyError, TypeError, ValueError, ArithmeticError):
        return None


def _config(name: str) -> Mapping[str, Any]:
    entry = find(name)
    if entry is not None and entry.config is not None and not Path(name).is_dir():  # a folder goes before a hub id
        return entry.config
    folder = embedded_folder() if name == EMBEDDED_MODEL else Path(name).expanduser()
    config: Mapping[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config
