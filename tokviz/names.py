"""The few names that both the running half (``types.py``) and the stored half (``records.py``) are spelled with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

MethodFamily = Literal[
    "approximation-error",
    "attention-ranked",
    "diversity",
    "merging",
    "text-guided",
    "progressive",
    "control",
    "custom",
]
BudgetMeaning = Literal["published", "final", "average"]
PositionPolicy = Literal["keep", "reindex"]
Media = Literal["image", "video"]
ChartKind = Literal["line", "scatter", "bars"]
Params = Mapping[str, Any]
UNPRUNED = "full"
"""Id of the run without pruning, which the others are compared with."""
AS_MINED = "as mined"
"""Fact of a stage of which a mined run stored nothing but the tokens that were kept."""
DEFAULT_METHODS = ("apet", "fastervlm", "divprune")
"""What page and command line compare where nobody chose."""
Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the original image (after EXIF rotation)."""


@dataclass(frozen=True)
class VideoFacts:
    """What is known of a video file before its frames are chosen. Size ``(width, height)`` in px after rotation.

    n_frames: counted, not what the header claims. fps: frames per second on average, ``n_frames / duration_s``.
    """

    n_frames: int
    fps: float
    duration_s: float
    size: tuple[int, int]


@dataclass(frozen=True)
class VisionLayer:
    """A place inside the vision tower: between attention and MLP of layer ``vision_layer`` (0-based)."""

    vision_layer: int


Site = Literal["encoder", "projector"] | int | VisionLayer
"""``encoder``: vision features before the projector. ``projector``: embeddings that enter the LLM. An int ``i``: before
LLM layer ``i`` (0-based), the first layer that sees fewer tokens."""


def site_label(site: Site) -> str:
    """The site in words, e.g. ``"before layer 4"``."""
    if isinstance(site, VisionLayer):
        return f"inside vision layer {site.vision_layer}"
    if isinstance(site, int):
        return f"before layer {site}"
    return {"encoder": "encoder output, before the projector", "projector": "after the projector"}[site]


EDITED = "edited"
"""Method id of a run whose kept tokens were chosen by hand; begins those of edited runs, see ``edited_id``."""


def edited_id(key: str) -> str:
    """The method id of a run that was edited, from the key of what was edited."""
    name = re.sub(r"[^a-z0-9]+", "-", key.lower().removeprefix(EDITED)).strip("-")
    return f"{EDITED}-{name}" if name else EDITED
