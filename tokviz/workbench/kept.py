"""Kept sets of mined rows as lists, and as what a card draws: shares of the image, whatever its views are."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput
from ..records import TokenGrid

_DAMAGED = "A kept set of this run cannot be read: run the same tokviz mine command again, which makes what is broken."


def unpacked(data: bytes | None, n_tokens: int) -> list[int] | None:
    """The kept tokens of a row, ascending; None where none are stored. Raises BadInput for damaged ones."""
    if data is None:
        return None
    kind, rest = data[:1], data[1:]
    if kind == b"B":
        bits = np.unpackbits(np.frombuffer(rest, np.uint8), bitorder="little")
        kept = np.flatnonzero(bits).tolist()
    elif kind == b"D":
        kept = np.cumsum(_varints(rest)).tolist()
    else:
        raise BadInput(_DAMAGED)
    if kept and (kept[-1] >= n_tokens or kept[0] < 0):
        raise BadInput(_DAMAGED)
    return kept


def _varints(data: bytes) -> list[int]:
    """LEB128: seven bits a byte, the lowest first; the eighth says that more come."""
    numbers, number, shift = [], 0, 0
    for byte in data:
        number |= (byte & 0x7F) << shift
        if byte & 0x80:
            shift += 7
            continue
        numbers.append(number)
        number = shift = 0
    return numbers


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
    """What a card draws of a kept set; None for what cannot be drawn on one image, such as a video."""
    if rows and cols:
        mask = np.zeros(rows * cols, bool)
        inside = np.asarray(kept, np.int64)
        mask[inside[inside < rows * cols]] = True
        return Drawn(rows, cols, base64.b64encode(np.packbits(mask, bitorder="little").tobytes()).decode())
    if not grid:
        return None
    geometry = grid_of(grid)
    if geometry.is_video:
        return None
    return Drawn(0, 0, boxes=tuple(_boxes(geometry, np.asarray(kept, np.int64)).ravel().tolist()))


def _boxes(grid: TokenGrid, kept: NDArray[np.int64]) -> NDArray[np.int64]:
    """Boxes ``(k, 4)`` of the kept patches of the finest level, in thousandths of the image."""
    width, height = grid.image_size
    finest = max(view.level for view in grid.views)
    chosen = [
        box
        for token in kept.tolist()
        if (box := grid.box[token]) is not None and grid.views[grid.view[token]].level == finest
    ]
    scale = np.array([width, height, width, height], dtype=np.float64)
    return np.rint(1000 * np.asarray(chosen, np.float64).reshape(-1, 4) / scale).astype(np.int64)
