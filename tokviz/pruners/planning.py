"""How much: what a single stage must leave for an average, and shares of several views."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import BadInput
from ..types import PlanningInfo, Signals


def survivors_for_average(label: str, tokens: int, info: PlanningInfo, block: int) -> int:
    """How many tokens a single stage before ``block`` must leave for the blocks to process ``tokens`` on average.

    R = (L B - N K) / (L - K), rounded to the nearest integer. Raises BadInput when even one survivor is too many.
    """
    n, blocks = info.n_visual, info.n_blocks
    if tokens >= n:
        return tokens
    left = blocks * tokens - n * block
    survivors = (2 * left + blocks - block) // (2 * (blocks - block))
    if survivors < 1:
        least = -(-(2 * n * block + blocks - block) // (2 * blocks))
        raise BadInput(
            f"{label} cannot reach an average of {tokens} tokens: its first {block} of {blocks} blocks process "
            f"all {n}. Ask for at least {least}, or count the budget as final."
        )
    return survivors


def least_budget(accepted: Callable[[int], bool], tokens: int, n: int) -> int:
    """The smallest budget above ``tokens`` that is accepted; N, which drops nothing, where there is none below it.

    Refusals name it: tried one by one, because counts are rounded and what is accepted does not always rise.
    """
    return next((more for more in range(tokens + 1, n) if accepted(more)), n)


def equal_shares(sizes: Sequence[int], keep: int) -> list[int]:
    """``keep`` tokens spread equally over views of ``sizes`` tokens: what a small view cannot take goes to the others.

    A remainder goes to the first views with room, one each. The shares add up to ``min(keep, sum(sizes))``.
    """
    shares = [0] * len(sizes)
    left = min(keep, sum(sizes))
    while left:
        with_room = [view for view, size in enumerate(sizes) if shares[view] < size]
        smallest_room = min(sizes[view] - shares[view] for view in with_room)
        each = min(left // len(with_room), smallest_room)
        for view in with_room if each else with_room[:left]:
            shares[view] += each or 1
            left -= each or 1
    return shares


def rows_by_view(signals: Signals, rows: Tensor) -> list[Tensor]:
    """``rows`` split into views (pictures, tiles or frames), first view first; views without rows are left out.

    Shape: rows ``(n,)`` ascending -> a list of ``(n_v,)`` ascending.
    """
    if signals.view is None:
        return [rows] if len(rows) else []
    view = signals.view[rows]
    return [rows[view == number] for number in torch.unique(view)]
