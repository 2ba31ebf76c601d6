"""Images that are looked at whole and in crops: AnyRes, LLaVA-NeXT's and LLaVA-OneVision's cutting (no transformers).

A padded copy of the image, the canvas, is cut into crops. Their patches are stitched to one grid again, the rows or
columns that show padding only are left out, and what is too large is shrunk by bilinear interpolation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..names import Box
from ..records import GridView, TokenGrid
from .geometry import clipped, token_grid

_TOLERATED = 1.1
"""A stitched grid may have the area of so many squared times its most crops before it is shrunk."""


@dataclass(frozen=True)
class Line:
    """A row (or column) of tokens: patches of row ``first`` and, to a ``share``, of row ``second`` (0 <= share < 1)."""

    first: int
    second: int
    share: float

    @property
    def strongest(self) -> int:
        """The row that most of it is made of, the first of equals."""
        return self.second if self.share > 0.5 else self.first


def interpolated(places: range, n: int) -> list[Line]:
    """How ``n`` lines are made of the lines ``places`` by bilinear interpolation (pixel centres, no antialiasing)."""
    lines = []
    for number in range(n):
        at = max((number + 0.5) * len(places) / n - 0.5, 0.0)
        first = min(int(at), len(places) - 1)
        second = min(first + 1, len(places) - 1)
        lines.append(Line(places[first], places[second], at - first if second > first else 0.0))
    return lines


def best_resolution(image_size: tuple[int, int], pinpoints: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The ``(height, width)`` that shows most pixels of the image, and of those the one with the least padding.

    transformers' ``select_best_resolution``, which must not be imported where models are only planned for.
    """
    width, height = image_size

    def rank(pinpoint: tuple[int, int]) -> tuple[int, int]:
        scale = min(pinpoint[1] / width, pinpoint[0] / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        return effective, effective - pinpoint[0] * pinpoint[1]

    return max(pinpoints, key=rank)


@dataclass(frozen=True)
class Canvas:
    """The padded copy of an image that the crops are cut from.

    size: ``(width, height)`` of the image. scale_x, scale_y: pixels of the image per pixel of the canvas. left,
    top: padding in px of the canvas. high, wide: crops. n: patches along a crop's side of ``side`` px. rows, cols: the
    tokens' rows and columns, of the patches of the stitched grid that unpadding leaves; tall, broad: patches per row
    and column (1.0 where nothing is shrunk).
    """

    size: tuple[int, int]
    scale_x: float
    scale_y: float
    left: int
    top: int
    high: int
    wide: int
    n: int
    side: int
    patch: int
    rows: list[Line]
    cols: list[Line]
    tall: float
    broad: float

    def box(self, row: int, col: int) -> Box:
        """What a token shows, in px of the image: as large as a step of the grid, around where it looks most."""
        x, y = self._middle(self.cols[col]), self._middle(self.rows[row])
        half_x, half_y = self.broad * self.patch / 2, self.tall * self.patch / 2
        return clipped(
            self.size,
            ((x - half_x - self.left) * self.scale_x, (y - half_y - self.top) * self.scale_y),
            ((x + half_x - self.left) * self.scale_x, (y + half_y - self.top) * self.scale_y),
        )

    def seen(self, rows: range, cols: range) -> Box:
        """What the tokens of these rows and columns show together, ``(0, 0, 0, 0)`` where there are none."""
        if not rows or not cols:
            return (0.0, 0.0, 0.0, 0.0)
        return (*self.box(rows[0], cols[0])[:2], *self.box(rows[-1], cols[-1])[2:])

    def _middle(self, line: Line) -> float:
        """Of what a row or column of tokens sees, in px of the canvas; patches leave a gap at the edge of a crop."""
        first, second = (
            place // self.n * self.side + place % self.n * self.patch + self.patch / 2
            for place in (line.first, line.second)
        )
        return first + line.share * (second - first)

    def crop(self, row: int, col: int) -> int:
        """The crop (counted row by row) that a token shows most of."""
        return self.rows[row].strongest // self.n * self.wide + self.cols[col].strongest // self.n

    def visible(self, crop: int) -> tuple[range, range]:
        """Rows and columns of tokens that show most of a crop."""
        row, col = divmod(crop, self.wide)
        return self._within(self.rows, row), self._within(self.cols, col)

    def _within(self, lines: Sequence[Line], crop: int) -> range:
        before = sum(line.strongest // self.n < crop for line in lines)
        return range(before, before + sum(line.strongest // self.n == crop for line in lines))


def canvas_of(
    image_size: tuple[int, int],
    pinpoints: Sequence[tuple[int, int]],
    side: int,
    patch: int,
    most_crops: int | None = None,
) -> Canvas:
    """The canvas of an image of ``(width, height)`` px; see ``tile_grid``."""
    width, height = image_size
    target_height, target_width = best_resolution(image_size, pinpoints)
    by_width, by_height = target_width / width, target_height / height
    if by_width < by_height:
        new_width, new_height = target_width, min(math.ceil(height * by_width), target_height)
    else:
        new_width, new_height = min(math.ceil(width * by_height), target_width), target_height
    high, wide, n = target_height // side, target_width // side, side // patch
    rows, cols = range(high * n), range(wide * n)
    # The model unpads by the proportions of the image, in cells, whatever the processor padded in pixels.
    if width / height > len(cols) / len(rows):
        rows = _unpadded(len(rows), int(round(height * (len(cols) / width), 7)))
    else:
        cols = _unpadded(len(cols), int(round(width * (len(rows) / height), 7)))
    n_rows, n_cols = _shrunk(len(rows), len(cols), n, most_crops)
    return Canvas(
        size=image_size,
        scale_x=width / new_width,
        scale_y=height / new_height,
        left=(target_width - new_width) // 2,
        top=(target_height - new_height) // 2,
        high=high,
        wide=wide,
        n=n,
        side=side,
        patch=patch,
        rows=interpolated(rows, n_rows),
        cols=interpolated(cols, n_cols),
        tall=len(rows) / max(n_rows, 1),
        broad=len(cols) / max(n_cols, 1),
    )


def square_canvas(image_size: tuple[int, int], side: int, patch: int, n_lines: int | None = None) -> Canvas:
    """An image of ``(width, height)`` px squeezed into one square of ``side`` px, shrunk to so many rows and columns.

    None: as many as there are patches.
    """
    n = side // patch
    lines = interpolated(range(n), n_lines or n)
    step = n / len(lines)
    return Canvas(
        size=image_size,
        scale_x=image_size[0] / side,
        scale_y=image_size[1] / side,
        left=0,
        top=0,
        high=1,
        wide=1,
        n=n,
        side=side,
        patch=patch,
        rows=lines,
        cols=lines,
        tall=step,
        broad=step,
    )


def _unpadded(cells: int, wanted: int) -> range:
    padding = (cells - wanted) // 2
    return range(padding, cells - padding)


def _shrunk(rows: int, cols: int, n: int, most_crops: int | None) -> tuple[int, int]:
    """Rows and columns that are left of a stitched grid with more than ``most_crops`` of ``n x n`` patches."""
    ratio = 0.0 if most_crops is None else math.sqrt(rows * cols / (most_crops * n**2))
    return (int(rows // ratio), int(cols // ratio)) if ratio > _TOLERATED else (rows, cols)


def tile_grid(
    image_size: tuple[int, int],
    pinpoints: Sequence[tuple[int, int]],
    side: int,
    patch: int,
    most_crops: int | None = None,
) -> TokenGrid:
    """Geometry of an image of ``(width, height)`` px: level 0 is the thumbnail, level 1 the crops.

    Args: pinpoints: ``(height, width)`` of the copies that crops may be cut from; side, patch: px of tile and patch;
    most_crops: of how many crops' area the stitched grid may be before it is shrunk, None for any.
    """
    whole = square_canvas(image_size, side, patch)
    canvas = canvas_of(image_size, pinpoints, side, patch, most_crops)
    n = canvas.n
    thumbnail = GridView(name="whole image", rows=n, cols=n, seen=whole.seen(range(n), range(n)))
    views = [thumbnail, *(_crop_view(canvas, crop) for crop in range(canvas.high * canvas.wide))]
    tokens: list[tuple[int, int, int, Box | None]] = [
        (0, row, col, whole.box(row, col)) for row in range(n) for col in range(n)
    ]
    for row in range(len(canvas.rows)):
        crop = 0
        for col in range(len(canvas.cols)):
            crop = 1 + canvas.crop(row, col)
            tokens.append((crop, row - views[crop].top, col - views[crop].left, canvas.box(row, col)))
        tokens.append((crop, -1, -1, None))
    return token_grid(image_size, views, tokens)


def square_grid(canvas: Canvas) -> TokenGrid:
    """Geometry of a canvas without crops: one view that all its tokens lie in."""
    rows, cols = range(len(canvas.rows)), range(len(canvas.cols))
    views = [GridView(name="image", rows=len(rows), cols=len(cols), seen=canvas.seen(rows, cols))]
    return token_grid(canvas.size, views, ((0, row, col, canvas.box(row, col)) for row in rows for col in cols))


def _crop_view(canvas: Canvas, crop: int) -> GridView:
    rows, cols = canvas.visible(crop)
    return GridView(
        name=f"crop in row {crop // canvas.wide + 1}, column {crop % canvas.wide + 1}",
        rows=len(rows) if cols else 0,
        cols=len(cols) if rows else 0,
        seen=canvas.seen(rows, cols),
        level=1,
        top=rows.start,
        left=cols.start,
    )
