"""All pairs of rows: products, cosines, distances, stored as a matrix or computed row by row.

Float32 results, exactly symmetric, equal for duplicates; see ``ops`` for what holds for all building blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from .ops import SCRATCH_BYTES, row_blocks, unit_rows, whole_groups

# Up to this many rows the matrix of all cosines is stored: 256 MiB, which leaves room for the features' unit rows.
LARGEST_COSINE_MATRIX = 8192
# A greedy loop that looks at fewer rows than this share of the matrix is faster without it: reading all features once
# per row costs less than the matrix product (the prices meet near 1/23 with two threads, near 1/12 with one).
COMPUTED_SHARE = 1 / 20
# Up to this share rows are computed ahead on a CPU, where asking which row is next costs nothing.
AHEAD_SHARE = 1 / 6
# Numbers that are held in another precision at once for a product, and bytes of a block (as float32) that is squared.
CONVERTED_AT_ONCE = 1 << 23
WIDENED_BYTES = 256 << 10

Finish = Callable[[Tensor, Tensor], Tensor]
"""What becomes of rows of cosines ``(r, n)``, whose numbers are ``(r,)``; may overwrite them."""


class PairRows(Protocol):
    """Rows of a matrix of pairs for a greedy loop."""

    def __call__(self, pick: Tensor, worth: Tensor | None = None) -> Tensor:
        """Return the row of ``pick (1,)``. ``worth (n,)``: the higher, the sooner a row is likely to be asked for."""


def symmetric_product(
    rows: Tensor,
    finish: Callable[[Tensor, slice, slice], Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
    count: int | None = None,
) -> Tensor:
    """``rows @ rows.T`` in float32, exactly symmetric, for half the work: what is below the diagonal is mirrored.

    Equal rows get the very same products (see ``whole_groups``), so that ties between them are ties.
    finish: ``(products, slice of rows, slice of columns) -> block of the result``, what is to be made of a block of
    products, which it may overwrite. dtype: that of the products. count: n, where rows that do not count follow.
    Shape: ``(n, D)`` -> ``(n, n)``.
    """
    n = len(rows) if count is None else count
    step = max(96, min(1024, -(-n // 160) * 16))
    wide = max(1, CONVERTED_AT_ONCE // (step * max(1, rows.shape[1]))) * step
    if n <= wide:
        rows = whole_groups(rows, dtype)
    result = torch.empty(n, n, device=rows.device)
    for start in range(0, n, step):
        own = slice(start, min(start + step, n))
        left = whole_groups(rows[start : start + step], dtype)
        for first in range(start, n, wide):
            other = slice(first, min(first + wide, n))
            products = left @ whole_groups(rows[first : first + wide], dtype).T
            products = products[: own.stop - start, : other.stop - first]
            result[own, other] = products if finish is None else finish(products, own, other)
        result[own.stop :, own] = result[own, own.stop :].T
        # The two halves of a block on the diagonal need not be rounded alike.
        corner = result[own, own]
        corner.copy_(corner.triu() + corner.triu(1).T)
    return result


def euclidean_distances(features: Tensor) -> Tensor:
    """All pairwise distances ``||x - y||``, exactly symmetric and 0 for duplicates.

    By products in float64, which lose nothing that float32 features had: a hundred times faster than differences and,
    over thousands of columns, closer to the exact value. Distances below 1e-7 of the two rows' lengths are rounding
    and count as 0. Shape: ``(n, D)`` finite -> ``(n, n)`` float32.
    """
    n = len(features)
    if features.numel() <= CONVERTED_AT_ONCE:
        features = whole_groups(features, torch.float64)  # once for lengths and products
    squares = squared_lengths(features)

    def distances(products: Tensor, own: slice, other: slice) -> Tensor:
        return _apart(squares[own].unsqueeze(1) + squares[other], products)

    return symmetric_product(features, distances, torch.float64, n)


def _apart(squares: Tensor, products: Tensor) -> Tensor:
    """Distances from the sums of two squared lengths and from products, both of which are overwritten."""
    torch.sub(squares, products, alpha=2.0, out=products)
    return products.masked_fill_(products <= squares.mul_(1e-14), 0.0).sqrt_()


def squared_lengths(features: Tensor) -> Tensor:
    """Squared lengths of all rows, in float64. Shape: ``(n, D)`` -> ``(n,)``."""
    return torch.cat([features[rows].double().square().sum(1) for rows in row_blocks(features, WIDENED_BYTES)])


def distances_to(features: Tensor, points: Tensor) -> Tensor:
    """Distance of every row to every point, computed as in ``euclidean_distances``.

    Shape: features ``(n, D)``, points ``(m, D)``, finite -> ``(n, m)`` float32.
    """
    found, squares = torch.empty(len(features), len(points), device=features.device), squared_lengths(points)
    points = points.double()
    for rows in row_blocks(features):
        part = features[rows].double()
        products = part @ points.T
        found[rows] = _apart(part.square_().sum(1).unsqueeze(1) + squares, products)
    return found


def cosine_similarity(features: Tensor, rows: Tensor | None = None) -> Tensor:
    """All pairwise cosines of all or some rows, exactly symmetric. Shape: see ``unit_rows`` -> ``(n, n)`` float32."""
    return symmetric_product(unit_rows(features, rows))


def cosine_rows(unit: Tensor, count: int | None = None, finish: Finish | None = None) -> PairRows:
    """The rows of the cosine matrix for a greedy loop that asks for ``count`` of them (None: for many).

    Stored, computed ahead or computed one by one, whichever is cheapest and fits in memory; the last differs from the
    others by rounding.
    Shape: unit ``(n, D)``, rows of length 1 or 0 (see ``unit_rows``).
    """
    n = len(unit)
    if n <= LARGEST_COSINE_MATRIX and (count is None or count >= COMPUTED_SHARE * n):
        if count is not None and count <= AHEAD_SHARE * n and unit.device.type == "cpu":
            return RowsAhead(unit, finish)
        return StoredRows(symmetric_product(unit), finish)
    padded = whole_groups(unit)

    def computed(pick: Tensor, worth: Tensor | None = None) -> Tensor:
        row = (padded @ padded.index_select(0, pick).squeeze(0))[:n]
        return row if finish is None else finish(row.unsqueeze(0), pick).squeeze(0)

    return computed


class StoredRows:
    """The rows of a matrix that is there, which ``finish`` may overwrite. Shape: ``(n, n)``."""

    def __init__(self, matrix: Tensor, finish: Finish | None = None) -> None:
        self.matrix = matrix if finish is None else finish(matrix, torch.arange(len(matrix), device=matrix.device))

    def __call__(self, pick: Tensor, worth: Tensor | None = None) -> Tensor:
        """Return the row of ``pick (1,)``. Shape: -> ``(n,)``."""
        return self.matrix.index_select(0, pick).squeeze(0)


class RowsAhead:
    """Rows of a cosine matrix, computed in one product for the one that is asked for and those likely to be next.

    What greedy loops look at is a fraction of the matrix. Where most of the guesses are wrong, the matrix is cheaper.
    """

    def __init__(self, unit: Tensor, finish: Finish | None) -> None:
        self.unit, self.padded, self.finish = unit, whole_groups(unit), finish
        self.at_once = 16 if len(unit) < 2048 else 32
        self.found: dict[int, Tensor] = {}
        self.seen = torch.zeros(len(unit), device=unit.device)
        self.stored: PairRows | None = None

    def __call__(self, pick: Tensor, worth: Tensor | None = None) -> Tensor:
        """Return the row of ``pick (1,)``. Shape: worth ``(n,)``, the pick's own is ignored -> ``(n,)``."""
        if self.stored is not None:
            return self.stored(pick, worth)
        number = int(pick)
        if number not in self.found:
            if len(self.found) > len(self.unit) // 2:
                self.stored, self.found = StoredRows(symmetric_product(self.unit), self.finish), {}
                return self.stored(pick, worth)
            self._compute(pick, self.seen if worth is None else worth)
        return self.found[number]

    def _compute(self, pick: Tensor, worth: Tensor) -> None:
        self.seen.index_fill_(0, pick, -torch.inf)
        others = (worth + self.seen).topk(min(self.at_once, len(worth)) - 1).indices
        self.seen.index_fill_(0, others, -torch.inf)
        rows = torch.cat([pick, others])
        products = (whole_groups(self.unit[rows]) @ self.padded.T)[: len(rows), : len(self.unit)]
        done = products if self.finish is None else self.finish(products, rows)
        self.found.update(zip(rows.tolist(), done, strict=True))


def nearest_cosines(unit: Tensor, finish: Finish | None = None) -> tuple[Tensor, PairRows]:
    """The largest cosine of every row to another one, and the rows of the cosine matrix for a loop over them.

    The matrix is stored up to ``LARGEST_COSINE_MATRIX`` rows, with -inf on its diagonal, which a loop that masks what
    it has picked never sees; beyond, it is computed in blocks and its rows again when asked for.
    Shape: unit ``(n, D)`` -> ``(n,)``, -inf for a single row.
    """
    n = len(unit)
    if n <= LARGEST_COSINE_MATRIX:
        matrix = symmetric_product(unit).fill_diagonal_(-torch.inf)
        return matrix.amax(1), StoredRows(matrix, finish)
    largest = torch.empty(n, device=unit.device)
    for rows in row_blocks(unit, SCRATCH_BYTES // 8 * unit.shape[1] // n):
        part = unit[rows] @ unit.T
        part[:, rows].fill_diagonal_(-torch.inf)
        largest[rows] = part.amax(1)
    return largest, cosine_rows(unit, 0, finish)
