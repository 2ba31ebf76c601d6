"""How an image or video is given to a model in fewer tokens: what a family decides before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isqrt
from typing import Any

from ..errors import BadInput
from ..grids import Tiling, nearest_grid, nearest_tiling
from ..records import GridView, TokenGrid
from .geometry import token_grid


@dataclass(frozen=True)
class Shrunk:
    """An image or video in fewer tokens.

    grid: geometry of these tokens, in px of the original. pixels: ``(width, height)`` of what the tower sees as one
    image. how: in words, "" where the grid says it all. resizes: the image (or every frame) itself is made so large
    before the processor gets it; else what the processor made is shrunk behind it. options: more for the processor.
    tiling: of an image that is cut into crops.
    """

    grid: TokenGrid
    pixels: tuple[int, int]
    how: str = ""
    resizes: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    tiling: Tiling | None = None


def share_of_frame(grid: TokenGrid, tokens: int, beside: int = 0) -> int:
    """Tokens that every view (frame, or frames together) of a video may have, ``beside`` those that each needs anyway.

    Raises BadInput where there is not one for each.
    """
    n_views = len(grid.views)
    share = tokens // n_views - beside
    if share < 1:
        raise BadInput(
            f"Downsampling keeps all frames, and these take at least {n_views * (1 + beside)} tokens. Ask for more, or "
            "use fewer frames."
        )
    return share


def each_frame(grid: TokenGrid, rows: int, cols: int) -> str:
    """In words what became of every view of a video."""
    return f"{rows} x {cols} in each of {len(grid.views)} {'frames' if one_each(grid) else 'pairs of frames'}"


def one_each(grid: TokenGrid) -> bool:
    """Whether every view of a video is one frame."""
    return all(len(view.frames) == 1 for view in grid.views)


def coarser(grid: TokenGrid, rows: int, cols: int, *, before: int = 0, behind: int = 0) -> TokenGrid:
    """The same views in ``rows x cols`` cells each, behind ``before`` tokens that are no patch; ``behind`` at the end.

    ``grid`` without overlapping views: one image, or the frames of a video.
    """
    tokens: list[tuple[int, int, int, Any]] = []
    for number, view in enumerate(grid.views):
        x0, y0, x1, y1 = view.seen
        wide, high = (x1 - x0) / cols, (y1 - y0) / rows
        tokens += [(number, -1, -1, None)] * before
        tokens += [
            (number, row, col, (x0 + col * wide, y0 + row * high, x0 + (col + 1) * wide, y0 + (row + 1) * high))
            for row in range(rows)
            for col in range(cols)
        ]
    tokens += [(len(grid.views) - 1, -1, -1, None)] * behind
    views = [GridView(**{**dict(view), "rows": rows, "cols": cols}) for view in grid.views]
    return token_grid(grid.image_size, views, tokens)


def shrunk_square(grid: TokenGrid, tokens: int, patch: int, beside: int = 0) -> Shrunk:
    """A square, or every square of a video, in the nearest grid of patches; ``beside``: see ``share_of_frame``."""
    view = grid.views[0]
    rows, cols = nearest_grid(view.rows, view.cols, share_of_frame(grid, tokens, beside) if grid.is_video else tokens)
    how = each_frame(grid, rows, cols) if grid.is_video else ""
    return Shrunk(coarser(grid, rows, cols, before=beside), (cols * patch, rows * patch), how)


def shrunk_frames(grid: TokenGrid, tokens: int, cell: int, behind: int = 0) -> Shrunk:
    """Every frame of a video as a square of ``n x n`` tokens of ``cell`` px, where the model takes squares only.

    behind: how many tokens that are no patch follow the last frame.
    """
    side = min(isqrt(share_of_frame(grid, tokens - behind)), grid.views[0].rows)
    return Shrunk(coarser(grid, side, side, behind=behind), (side * cell, side * cell), each_frame(grid, side, side))


def chosen_tiling(tilings: Iterable[Tiling], side: int, tokens: int) -> Tiling:
    """The nearest of these tilings. Raises BadInput where all have more than ``tokens``."""
    tilings = list(tilings)
    found = nearest_tiling(tilings, side, tokens)
    if found is None:
        least = min(one.n_tokens for one in tilings if one.n_tokens)
        raise BadInput(f"Downsampling leaves at least {least} tokens of this image here; ask for more.")
    return found
