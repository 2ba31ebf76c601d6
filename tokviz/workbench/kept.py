"""Kept sets of mined rows as lists, and as what a card draws: shares of the image, whatever its views are."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput
from ..mining.kept import unpack_indices
from ..records import TokenGrid


def unpacked(data: bytes | None, n_tokens: int) -> list[int] | None:
    """The kept tokens of a row, ascending; None where none are stored. Raises BadInput for damaged ones."""
    if data is None:
        return None
    kept: list[int] = unpack_indices(data).tolist()
    if kept and kept[-1] >= n_tokens:
        raise BadInput("A kept set of this run is damaged: repeat the tokviz mine command, which mines it again.")
    return kept


@functools.lru_cache(maxsize=64)
def grid_of(text: str) -> TokenGrid:
    """The grid of a case from its JSON. Raises BadInput."""
    try:
        return TokenGrid.model_validate(json.loads(text))
    except ValueError as error:
        raise BadInput("The grid of a case of this run cannot be read.") from error


@dataclass(frozen=True)
class Drawn:
    """A kept set for a card: bits over a plain grid, or boxes where the image is seen in several views.

    bits: base64 of a bitmap, lowest bit first. boxes: x0, y0, x1, y1 of each kept patch in thousandths of the image.
    """

    rows: int
    cols: int
    bits: str = ""
    boxes: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As data for the browser."""
        if self.rows:
            return {"rows": self.rows, "cols": self.cols, "bits": self.bits}
        return {"boxes": self.boxes}


def drawn(kept: Sequence[int], rows: int | None, cols: int | None, grid: str | None) -> Drawn | None:
    """What a card draws of a kept set; None where the geometry is not stored."""
    if rows and cols:
        mask = np.zeros(rows * cols, bool)
        inside = np.asarray(kept, np.int64)
        mask[inside[inside < rows * cols]] = True
        return Drawn(rows, cols, base64.b64encode(np.packbits(mask, bitorder="little").tobytes()).decode())
    if not grid:
        return None
    return Drawn(0, 0, boxes=tuple(_boxes(grid_of(grid), np.asarray(kept, np.int64)).ravel().tolist()))


def _boxes(grid: TokenGrid, kept: NDArray[np.int64]) -> NDArray[np.int64]:
    """Boxes ``(k, 4)`` of the kept patches in thousandths: of the finest level, or of a video's first frame, which is
    the thumbnail.
    """
    width, height = grid.image_size
    finest = max(view.level for view in grid.views)
    shown = [0 in view.frames if grid.is_video else view.level == finest for view in grid.views]
    chosen = [box for token in kept.tolist() if (box := grid.box[token]) is not None and shown[grid.view[token]]]
    scale = np.array([width, height, width, height], dtype=np.float64)
    return np.rint(1000 * np.asarray(chosen, np.float64).reshape(-1, 4) / scale).astype(np.int64)


def kept_boxes(mask: Mapping[str, Any]) -> list[tuple[int, int, int, int]]:
    """The kept patches of ``Drawn.to_json`` as boxes in thousandths; neighbours in a row of a plain grid are one."""
    if "boxes" in mask:
        flat = mask["boxes"]
        return [tuple(flat[at : at + 4]) for at in range(0, len(flat), 4)]
    rows, cols = mask["rows"], mask["cols"]
    bits = np.unpackbits(np.frombuffer(base64.b64decode(mask["bits"]), np.uint8), bitorder="little")
    found = []
    for row, kept in enumerate(bits[: rows * cols].reshape(rows, cols)):
        edges = np.flatnonzero(np.diff(kept.astype(np.int8), prepend=0, append=0))
        for start, stop in edges.reshape(-1, 2).tolist():
            box = start / cols, row / rows, stop / cols, (row + 1) / rows
            found.append((round(1000 * box[0]), round(1000 * box[1]), round(1000 * box[2]), round(1000 * box[3])))
    return found
