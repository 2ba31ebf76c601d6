"""Published block numbers on models of another depth, and drop ratios that meet an average."""

from __future__ import annotations

from collections.abc import Callable, Sequence

REFERENCE_BLOCKS = 32
"""Depth of LLaVA-1.5-7B, for which nearly all block numbers were published."""


def carried_blocks(published: Sequence[int], n_blocks: int, depth: int = REFERENCE_BLOCKS) -> list[int]:
    """Block numbers published for ``depth`` blocks, at the same relative depth of a model of ``n_blocks``.

    ``floor(block * n_blocks / depth)``, at least 1; one that would repeat the block before moves to the next, and what
    falls off the end of a very shallow model is left out. Example: (3, 7, 16) on 8 blocks is [1, 2, 4].
    """
    blocks: list[int] = []
    for block in published:
        blocks.append(max(block * n_blocks // depth, blocks[-1] + 1 if blocks else 1))
    return [block for block in blocks if block < n_blocks]


def bracket(increasing: Callable[[float], float], target: float) -> tuple[float, float]:
    """Neighbouring ratios ``low <= high`` in 0..1 with ``increasing(low) <= target < increasing(high)``.

    Both are 0 when even ratio 0 is above the target, and both are 1 when ratio 1 is not above it.
    """
    if increasing(0.0) > target:
        return 0.0, 0.0
    if increasing(1.0) <= target:
        return 1.0, 1.0
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if increasing(middle) <= target:
            low = middle
        else:
            high = middle
    return low, high
