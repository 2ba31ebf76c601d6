"""Where the tokens of Qwen's models lie, and how many there are, as far as no model is needed for it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..errors import BadInput
from ..names import Box
from ..records import GridView, TokenGrid
from .base import Unplanned, stated
from .geometry import token_grid

_PLANNED_SIDE = 1000


def planned_tokens(config: Mapping[str, Any]) -> int:
    """Tokens of an image of 1000 x 1000 px under the limits of a folder's processor, as ``resized`` makes them.

    transformers' own rule is not asked: planning must not wait for it to be imported.
    """
    processor = config.get("image_processor")
    if not isinstance(processor, Mapping) or not isinstance(size := processor.get("size") or {}, Mapping):
        raise Unplanned("image_processor")
    least = stated(size, "shortest_edge") if size.get("shortest_edge") else stated(processor, "min_pixels")
    most = stated(size, "longest_edge") if size.get("longest_edge") else stated(processor, "max_pixels")
    cell = stated(processor, "patch_size") * stated(processor, "merge_size")
    side = round(_PLANNED_SIDE / cell)
    if (side * cell) ** 2 > most:
        side = max(1, int(most**0.5 // cell))
    elif (side * cell) ** 2 < least:
        side = math.ceil(least**0.5 / cell)
    return int(side**2)


@contextmanager
def refused_in_a_sentence(what: str, size: tuple[int, int]) -> Iterator[None]:
    """Say what the processor's resizing rule has against an image or video as BadInput."""
    try:
        yield
    except ValueError as error:
        raise BadInput(
            f"This model cannot take {'an' if what == 'image' else 'a'} {what} of {size[0]} x {size[1]} px: {error}."
        ) from error


def merged_patch_grid(
    image_size: tuple[int, int], rows: int, columns: int, frames: Sequence[tuple[int, ...]] = ((),)
) -> TokenGrid:
    """Geometry of "resize the whole image to ``rows x columns`` cells" (``engine.md`` section 7).

    Args: image_size ``(width, height)`` px; rows and columns in tokens; frames: of a video, which of its frames
    (counted from 0) each grid is made of.
    """
    width, height = image_size
    views = [
        GridView(name=_name(shown), rows=rows, cols=columns, seen=(0.0, 0.0, width, height), level=i, frames=shown)
        for i, shown in enumerate(frames)
    ]

    def box(row: int, column: int) -> Box:
        return (
            column * width / columns,
            row * height / rows,
            (column + 1) * width / columns,
            (row + 1) * height / rows,
        )

    return token_grid(
        image_size,
        views,
        (
            (grid, row, column, box(row, column))
            for grid in range(len(frames))
            for row in range(rows)
            for column in range(columns)
        ),
    )


def _name(frames: tuple[int, ...]) -> str:
    numbers = " and ".join(str(frame + 1) for frame in frames)
    return "image" if not frames else f"frame {numbers}" if len(frames) == 1 else f"frames {numbers}"
