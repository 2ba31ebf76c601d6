"""Stored comparisons: their files, what the page shows of them, and what their figures can be asked for."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from ..errors import BadInput
from ..records import Comparison, TokenGrid
from ..session_limits import MAX_BYTES
from . import numbers
from .offers import offers
from .scratch import kept_file

SESSION_FILE = "tokviz-session.json"
BOTH_LAYERS = "both"


def figure_choices(comparison: Comparison | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the export's fields for layers (of a tiled picture) and frames (of a video), else hidden."""
    grid = None if comparison is None else comparison.grid
    choices = [("both, on the picture", BOTH_LAYERS), *layer_names(grid)] if grid is not None and grid.is_tiled else []
    layer = {"choices": choices, "value": choices[0][1] if choices else None, "visible": bool(choices)}
    return layer, {"value": "", "visible": grid is not None and grid.is_video}


@functools.lru_cache(maxsize=256)
def choices_of(session: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """``figure_choices`` of a session file, whose name follows from its content."""
    return figure_choices(read_session(session) if session else None)


def layer_names(grid: TokenGrid) -> list[tuple[str, str]]:
    """``(name, number)`` of each layer of a tiled picture, as the patch view calls them."""
    layers = sorted({view.layer for view in grid.views})
    names = [[view.name for view in grid.views if view.layer == layer] for layer in layers]
    return [
        (views[0] if len(views) == 1 else f"{len(views)} crops", str(layer))
        for layer, views in zip(layers, names, strict=True)
    ]


def figure_options(comparison: Comparison, layer: str | None, frames: str) -> dict[str, Any]:
    """What the export's fields ask for, as arguments of ``render.figure``. Raises BadInput for what is no number."""
    if comparison.grid.is_tiled and layer:
        return {"layer": layer if layer == BOTH_LAYERS else int(layer)}
    if not comparison.grid.is_video or not frames.strip():
        return {}
    numbers = frames.replace(",", " ").split()
    if not all(number.isdecimal() and len(number) < 6 for number in numbers):
        raise BadInput("Write the numbers of the frames with commas between them, such as 1, 4, 9.")
    n_frames = len(comparison.video.frames) if comparison.video else 0
    wrong = [number for number in numbers if not 1 <= int(number) <= n_frames]
    if wrong:
        raise BadInput(f"This video has frames 1 to {n_frames}; there is no frame {wrong[0]}.")
    return {"frames": [int(number) - 1 for number in numbers]}


def fitting_model(chosen: str, comparison: Comparison) -> str | None:
    """The model of a stored comparison where the chosen one takes no such picture or video; None: it may stay."""
    media = "picture" if comparison.video is None else "video"
    takes = {one.shown: one.takes for one in offers()}
    if media in takes.get(chosen, (media,)):
        return None
    return comparison.model.name if media in takes.get(comparison.model.name, ()) else None


def table_value(comparison: Comparison) -> dict[str, Any]:
    """The value of the table behind the pictures."""
    return {"headers": numbers.TABLE_HEADERS, "data": numbers.table(comparison)}


def session_file(comparison: Comparison) -> str:
    """The session for download, in a folder that is named by its content. Raises BadInput when the disk is full."""
    data = comparison.to_json().encode()
    name = f"{hashlib.sha256(data).hexdigest()}/{SESSION_FILE}"
    return str(kept_file(name, lambda path: path.write_bytes(data)))


def read_session(path: str | Path) -> Comparison:
    """A stored session that can be shown. Raises BadInput."""
    try:
        if Path(path).stat().st_size > MAX_BYTES:
            raise BadInput(f"A session has at most {MAX_BYTES // 1_000_000} MB; this file is larger.")
        comparison = Comparison.from_json(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise BadInput("What was shown here is no longer on the server: ask again, or open the file.") from error
    if not comparison.runs:
        raise BadInput("The session holds no runs: there is nothing to show.")
    return comparison


def as_plain(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON data (null for what is not finite)."""
    return json.loads(comparison.to_json())
