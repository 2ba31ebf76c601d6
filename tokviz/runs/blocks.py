"""The patches of a grid in square blocks, and how many copies of a sequence go on side by side."""

from __future__ import annotations

from ..records import TokenGrid

_AT_ONCE, _MOST_COPIES, _MOST_LOGITS = 2**22, 64, 2**26
"""Limits of what runs side by side: squared tokens of a sequence times copies, copies, and logits of all of them."""


class Blocks:
    """The patches of a grid in square blocks of any side: of one view (image, tile or frame) each, from its corner."""

    def __init__(self, grid: TokenGrid) -> None:
        self._grid = grid

    @property
    def largest(self) -> int:
        """The side from which on every view is one block."""
        return max(max(view.rows, view.cols) for view in self._grid.views)

    def of(self, side: int) -> list[list[int]]:
        """The tokens of each block, in the order of their first tokens."""
        found: dict[tuple[int, int, int], list[int]] = {}
        grid = self._grid
        for token, (view, row, col) in enumerate(zip(grid.view, grid.row, grid.col, strict=True)):
            if row >= 0:
                found.setdefault((view, row // side, col // side), []).append(token)
        return list(found.values())


def copies_at_once(length: int, logits: int = 1) -> int:
    """How many copies of a sequence run side by side. length: in tokens. logits: of one copy, all places together."""
    return max(1, min(_MOST_COPIES, _AT_ONCE // length**2, _MOST_LOGITS // max(logits, 1)))
