"""Where visual tokens lie in their pictures: what a caller may tell the engine, which cannot know it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Geometry:
    """Where the N original visual tokens of one row (sequence) lie; None where it is not known.

    Shape: view ``(N,)`` int, the tile or frame of each token, None when there is one. cell ``(N, 2)`` int, row and
    column as ``Signals.cell`` counts them, -1 for tokens that are no patch.
    """

    view: Tensor | None = None
    cell: Tensor | None = None

    def of(self, alive: Tensor) -> dict[str, Tensor]:
        """``view``, ``cell`` and ``candidates`` of the tokens alive, as far as known. Shape: alive ``(n,)``."""
        found = {}
        if self.view is not None:
            found["view"] = self.view[alive.to(self.view.device)].to(alive.device)
        if self.cell is not None:
            found["cell"] = cell = self.cell[alive.to(self.cell.device)].to(alive.device)
            if bool((self.cell < 0).any()):
                found["candidates"] = (cell >= 0).all(dim=1)
        return found
