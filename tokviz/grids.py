"""Coarser grids of at most so many cells: what pooling averages to, and what a smaller image becomes. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

Grid = tuple[int, int]
"""Rows and columns."""


@lru_cache(maxsize=256)
def nearest_grid(rows: int, columns: int, tokens: int) -> Grid:
    """The grid of at most ``tokens`` cells that is nearest to ``rows x columns``, and no finer than it.

    A grid is worse by its unused tokens, ``tokens / cells``, or by how much it changes the proportions, whichever is
    the larger ratio; of equals the one with more cells, then the one with more columns.
    Example: 192 tokens of 24 x 24 are 13 x 14, 128 are 11 x 11, 64 are 8 x 8. ``tokens >= 1``.
    """

    def badness(grid: Grid) -> tuple[float, int, int]:
        high, wide = grid
        # Quotients of whole numbers are rounded correctly, so that equal ratios are equal floats.
        narrower, wider = (high * columns) / (wide * rows), (wide * rows) / (high * columns)
        return max(tokens / (high * wide), narrower, wider), -high * wide, high

    if tokens >= rows * columns:
        return rows, columns
    fitting = ((high, wide) for high in range(1, rows + 1) for wide in range(1, min(columns, tokens // high) + 1))
    return min(fitting, key=badness)


@dataclass(frozen=True)
class Tiling:
    """An image looked at whole and in ``high x wide`` crops, (0, 0) for none, each ``side x side`` tokens: so many."""

    high: int
    wide: int
    side: int
    n_tokens: int

    @property
    def words(self) -> str:
        """For people: ``"whole image and 2 x 1 crops, 11 x 11 each"``."""
        crops = f" and {self.high} x {self.wide} crops" if self.high else " without crops"
        return f"whole image{crops}, {self.side} x {self.side} {'each' if self.high else 'tokens'}"


def nearest_tiling(tilings: Iterable[Tiling], side: int, tokens: int) -> Tiling | None:
    """That of at most ``tokens`` tokens which is nearest to what it may be; None where none is so small.

    A tiling is worse by its unused tokens, ``tokens / n_tokens``, or by how much coarser its images are than the
    ``side x side`` tokens that the tower was trained on, whichever is the larger ratio; of equals the one with more
    tokens, then the one with fewer crops.
    """
    fitting = [one for one in tilings if 0 < one.n_tokens <= tokens]
    return min(
        fitting,
        key=lambda one: (max(tokens / one.n_tokens, side / one.side), -one.n_tokens, one.high * one.wide),
        default=None,
    )
