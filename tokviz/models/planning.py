"""What a model's configuration already says to methods that plan, before any weight is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..types import PlanningInfo
from .catalog import EMBEDDED_MODEL, embedded_folder


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
    return _from_llava_config(config) if isinstance(config, dict) and config.get("model_type") == "llava" else None


def _from_llava_config(config: Mapping[str, Any]) -> PlanningInfo | None:
    try:
        text, vision = config["text_config"], config["vision_config"]
        layer, n_vision = int(config["vision_feature_layer"]), int(vision["num_hidden_layers"])
        side = int(vision["image_size"]) // int(vision["patch_size"])
        return PlanningInfo(
            n_visual=side * side,
            n_blocks=int(text["num_hidden_layers"]),
            family="llava",
            has_cls=vision["model_type"] == "clip_vision_model",
            # hidden_states entry h leaves block h - 1 (entry 0 are the embeddings), so h blocks were passed.
            vision_blocks=layer if layer >= 0 else n_vision + 1 + layer,
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
