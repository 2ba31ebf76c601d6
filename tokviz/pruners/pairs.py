"""All pairs of rows: products, cosines, distances, stored as a matrix or computed row by row.

Float32 results, exactly symmetric, equal for duplicates; see ``ops.py`` for what holds for all building blocks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .ops import SCRATCH_BYTES, row_blocks, unit_rows, whole_groups

# Up to this many rows the matrix of all cosines is stored: 256 MiB, which leaves room for the features' unit rows.
LARGEST_COSINE_MATRIX = 8192
# A greedy loop that looks at fewer rows than this share of the matrix is faster without it: reading all features once
# per row costs less than the matrix product (the prices meet near 1/23 with two threads, near 1/12 with one).
COMPUTED_SHARE = 1 / 20

CosineRows = Callable[[Tensor], Tensor]
"""From a row number ``(1,)`` to that row of a cosine matrix ``(n,)``."""


def symmetric_product(
    rows: Tensor, finish: Callable[[Tensor, slice, slice], Tensor] | None = None, widen: bool = False
) -> Tensor:
    """``rows @ rows.T`` in float32, exactly symmetric, for half the work: blocks below the diagonal are mirrored.

    Equal rows get the very same products (see ``whole_groups``), so that ties between them are ties.
    finish: ``(products, slice of rows, slice of columns) -> block of the result``, what is to be made of a block of
    products. widen: the products are computed in float64.
    Shape: ``(n, D)`` -> ``(n, n)``.
    """
    n = len(rows)
    step = min(1024, max(256, -(-n // 64) * 16))
    blocks = [slice(start, min(start + step, n)) for start in range(0, n, step)]
    result = torch.empty(n, n, device=rows.device)

    def block(part: slice) -> Tensor:
        return whole_groups(rows[part].double() if widen else rows[part])

    for number, own in enumerate(blocks):
        left = block(own)
        for other in blocks[number:]:
            products = (left @ block(other).T)[: own.stop - own.start, : other.stop - other.start]
            result[own, other] = products if finish is None else finish(products, own, other)
            if other is not own:
                result[other, own] = result[own, other].T
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
    squares = torch.cat([features[rows].double().square().sum(1) for rows in row_blocks(features)] or [features[:, 0]])

    def distances(products: Tensor, own: slice, other: slice) -> Tensor:
        both = squares[own].unsqueeze(1) + squares[other]
        apart = both - 2.0 * products
        return apart.masked_fill_(apart <= 1e-14 * both, 0.0).sqrt_()

    return symmetric_product(features, distances, widen=True)


def distances_to(features: Tensor, points: Tensor) -> Tensor:
    """Distance of every row to every point, computed as in ``euclidean_distances``.

    Shape: features ``(n, D)``, points ``(m, D)``, finite -> ``(n, m)`` float32.
    """
    points = points.double()
    found, squares = torch.empty(len(features), len(points), device=features.device), points.square().sum(1)
    for rows in row_blocks(features):
        part = features[rows].double()
        both = part.square().sum(1, keepdim=True) + squares
        apart = both - 2.0 * (part @ points.T)
        found[rows] = apart.masked_fill_(apart <= 1e-14 * both, 0.0).sqrt_()
    return found


def cosine_similarity(features: Tensor, rows: Tensor | None = None) -> Tensor:
    """All pairwise cosines of all or some rows, exactly symmetric. Shape: see ``unit_rows`` -> ``(n, n)`` float32."""
    return symmetric_product(unit_rows(features, rows))


def cosine_rows(unit: Tensor, count: int | None = None) -> CosineRows:
    """The rows of the cosine matrix for a greedy loop that asks for ``count`` of them (None: for many).

    Stored or computed when asked for, whichever is cheaper and fits in memory; the two differ by rounding.
    Shape: unit ``(n, D)``, rows of length 1 or 0 (see ``unit_rows``).
    """
    n = len(unit)
    if n <= LARGEST_COSINE_MATRIX and (count is None or count >= COMPUTED_SHARE * n):
        return stored_rows(symmetric_product(unit))
    padded = whole_groups(unit)
    return lambda row: (padded @ padded.index_select(0, row).squeeze(0))[:n]


def stored_rows(matrix: Tensor) -> CosineRows:
    """The rows of a matrix that is there. Shape: ``(n, n)``."""
    return lambda row: matrix.index_select(0, row).squeeze(0)


def nearest_cosines(unit: Tensor) -> tuple[Tensor, CosineRows]:
    """The largest cosine of every row to another one, and the rows of the cosine matrix for a loop over them.

    The matrix is stored up to ``LARGEST_COSINE_MATRIX`` rows, with -inf on its diagonal, which a loop that masks what
    it has picked never sees; beyond, it is computed in blocks and its rows again when asked for.
    Shape: unit ``(n, D)`` -> ``(n,)``, -inf for a single row.
    """
    n = len(unit)
    if n <= LARGEST_COSINE_MATRIX:
        matrix = symmetric_product(unit).fill_diagonal_(-torch.inf)
        return matrix.max(1).values, stored_rows(matrix)
    largest = torch.empty(n, device=unit.device)
    for rows in row_blocks(unit, SCRATCH_BYTES // 8 * unit.shape[1] // n):
        part = unit[rows] @ unit.T
        part[:, rows].fill_diagonal_(-torch.inf)
        largest[rows] = part.max(1).values
    return largest, cosine_rows(unit, 0)
