"""Where in the picture the kept tokens lie, as numbers of one question. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def position_correlation(kept: NDArray[np.bool_]) -> float | None:
    """Pearson's r (point-biserial) between being kept and the position in raster order; None when all or none are.

    Shape: kept ``(N,)``.
    """
    if kept.all() or not kept.any():
        return None
    return round(float(np.corrcoef(kept.astype(np.float64), np.arange(len(kept)))[0, 1]), 6)


def thirds(kept: NDArray[np.bool_], row: Sequence[int]) -> list[int]:
    """Kept patches in the top, middle and bottom third of the rows.

    Shape: kept ``(N,)``; row ``(N,)``, the grid row of every token, -1 for those that are no patch.
    """
    rows = np.asarray(row)
    third = rows * 3 // (rows.max() + 1)
    return [int((kept & (rows >= 0) & (third == part)).sum()) for part in range(3)]


def largest_correlation(kept: int, n: int) -> float:
    """The correlation of the mask of the ``kept`` last of ``n`` positions with the position; 64 of 576: 0.544.

    NaN when everything or nothing is kept.
    """
    return math.sqrt(3 * kept * (n - kept) / (n * n - 1)) if 0 < kept < n else math.nan
