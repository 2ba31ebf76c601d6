"""Two selections of visual tokens beside each other, and one beside what chance would keep: what the views show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .errors import BadInput, need
from .records import Many, Record, TokenGrid, TokenMap

if TYPE_CHECKING:
    from pandas import DataFrame


class Overlap(Record):
    """Which visual tokens two runs have in common. Lists of original indices, ascending.

    Attributes:
        a: Key of the first run.
        b: Key of the second run.
        both: Kept by both.
        only_a: Kept by the first run only.
        only_b: Kept by the second run only.
        neither: Kept by none of them.
    """

    a: str
    b: str
    both: Many[int]
    only_a: Many[int]
    only_b: Many[int]
    neither: Many[int]

    @property
    def iou(self) -> float | None:
        """Tokens that both keep, as a share of those that at least one keeps; None where neither keeps any."""
        union = len(self.both) + len(self.only_a) + len(self.only_b)
        return len(self.both) / union if union else None

    @property
    def expected_both(self) -> float:
        """How many tokens two random selections of these sizes have in common on average."""
        n_tokens = len(self.both) + len(self.only_a) + len(self.only_b) + len(self.neither)
        in_a, in_b = len(self.both) + len(self.only_a), len(self.both) + len(self.only_b)
        return in_a * in_b / n_tokens if n_tokens else 0.0

    def to_pandas(self) -> DataFrame:
        """Return one row per visual token: its index, and whether A and B keep it.

        Raises:
            BadInput: If pandas is not installed.
        """
        need("pandas", "ui", "A table")
        import pandas

        in_a, in_b = {*self.both, *self.only_a}, {*self.both, *self.only_b}
        tokens = sorted([*in_a | in_b, *self.neither])
        rows = [(token, token in in_a, token in in_b) for token in tokens]
        return pandas.DataFrame(rows, columns=["token", self.a, self.b])


class AgainstRandom(Record):
    """One run's selection beside random selections of as many tokens.

    Attributes:
        run: Key of the run.
        radius: How many patches around each patch count as its neighbourhood, in each direction.
        difference: For each patch, how many kept tokens its neighbourhood holds minus how many a random selection keeps
            there on average, in standard deviations of the latter. None for tokens that are no patch.
        clumping: Mean square of ``difference``: 1 on average for random selections, more where kept tokens lie
            together, less where they are spread more evenly than chance would. None if nothing or all was kept.
        evidence: Number of tokens that show the evidence; ``evidence_kept`` of them are kept, by chance it would be
            ``evidence_expected`` on average.
        evidence_odds: Probability that a random selection keeps at least as many of them. None without evidence.
    """

    run: str
    radius: int
    difference: TokenMap
    clumping: float | None
    evidence: int
    evidence_kept: int
    evidence_expected: float
    evidence_odds: float | None


def overlap(a: str, b: str, kept_a: Sequence[int], kept_b: Sequence[int], n_tokens: int) -> Overlap:
    """Sort ``n_tokens`` tokens by which of two selections (original indices) keep them. a, b: names of the two."""
    in_a, in_b = set(kept_a), set(kept_b)
    neither = [token for token in range(n_tokens) if token not in in_a and token not in in_b]
    return Overlap(
        a=a, b=b, both=sorted(in_a & in_b), only_a=sorted(in_a - in_b), only_b=sorted(in_b - in_a), neither=neither
    )


def random_difference(grid: TokenGrid, kept: Sequence[int], radius: int = 2) -> tuple[list[float | None], float | None]:
    """How many more tokens than by chance are kept around each patch, in standard deviations; and their mean square.

    Around a patch: the square of up to ``(2 * radius + 1) ** 2`` patches, cut at the edges of its level (of its frame,
    for a video). A random selection keeps there a hypergeometric number: of all N tokens as many are drawn as were
    kept. None for tokens that are no patch, and where there is nothing to choose.
    """
    n_tokens = grid.n_tokens
    share = len(set(kept)) / n_tokens
    row, col, view = (np.array(numbers, dtype=np.int64) for numbers in (grid.row, grid.col, grid.view))
    level, top, left = (np.array([getattr(v, name) for v in grid.views]) for name in ("level", "top", "left"))
    is_kept = np.zeros(n_tokens, dtype=bool)
    is_kept[list(kept)] = True
    values = np.full(n_tokens, np.nan)
    for number in np.unique(level[view[row >= 0]]):
        tokens = np.flatnonzero((row >= 0) & (level[view] == number))
        places = row[tokens] + top[view[tokens]], col[tokens] + left[view[tokens]]
        near = _around(places, np.ones(len(tokens), dtype=bool), radius)
        found = _around(places, is_kept[tokens], radius)
        variance = near * share * (1 - share) * (n_tokens - near) / max(n_tokens - 1, 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            values[tokens] = np.where(variance > 0, (found - near * share) / np.sqrt(variance), np.nan)
    known = values[~np.isnan(values)]
    clumping = float((known**2).mean()) if len(known) else None
    return [None if np.isnan(value) else float(value) for value in values], clumping


def _around(
    places: tuple[NDArray[np.int64], NDArray[np.int64]], counted: NDArray[np.bool_], radius: int
) -> NDArray[np.int64]:
    """How many of the ``counted`` patches lie in the square around each patch. Shape: ``(n,)`` each -> ``(n,)``."""
    row, col = places
    rows, cols = int(row.max()) + 1, int(col.max()) + 1
    board = np.zeros((rows + 1, cols + 1), dtype=np.int64)
    np.add.at(board, (row[counted] + 1, col[counted] + 1), 1)
    sums = board.cumsum(axis=0).cumsum(axis=1)
    r0, r1 = np.maximum(row - radius, 0), np.minimum(row + radius + 1, rows)
    c0, c1 = np.maximum(col - radius, 0), np.minimum(col + radius + 1, cols)
    inside: NDArray[np.int64] = sums[r1, c1] - sums[r0, c1] - sums[r1, c0] + sums[r0, c0]
    return inside


def chance_of_at_least(n_tokens: int, taken: int, special: int, least: int) -> float:
    """Probability that ``taken`` of ``n_tokens`` tokens, drawn randomly, hold ``least`` or more ``special`` ones."""

    def ways(of: int, some: int) -> float:
        return math.lgamma(of + 1) - math.lgamma(some + 1) - math.lgamma(of - some + 1)

    hits = range(max(least, taken + special - n_tokens, 0), min(taken, special) + 1)
    total = ways(n_tokens, taken)
    likely = (math.exp(ways(special, h) + ways(n_tokens - special, taken - h) - total) for h in hits)
    return min(math.fsum(likely), 1.0)


def against_random(
    run: str, grid: TokenGrid, kept: Sequence[int], evidence: Sequence[int] = (), *, radius: int = 2
) -> AgainstRandom:
    """Compare a selection with random ones of its size. evidence: tokens whose share is compared, too.

    Raises:
        BadInput: If radius is not between 1 and 64.
    """
    if not 1 <= radius <= 64:
        raise BadInput(f"The radius is counted in patches, from 1 to 64; {radius} is not.")
    values, clumping = random_difference(grid, kept, radius)
    n_tokens, found = grid.n_tokens, len(set(evidence) & set(kept))
    return AgainstRandom(
        run=run,
        radius=radius,
        difference=TokenMap(
            "against_random",
            "Kept around it, beside a random selection",
            values,
            "standard deviations",
            "high is kept more than by chance",
        ),
        clumping=clumping,
        evidence=len(evidence),
        evidence_kept=found,
        evidence_expected=len(evidence) * len(set(kept)) / n_tokens,
        evidence_odds=chance_of_at_least(n_tokens, len(set(kept)), len(evidence), found) if evidence else None,
    )
