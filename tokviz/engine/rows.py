"""The rows of a batch while tokens leave it: which are real, visual, question; their positions; and how to gather.

A row is one sequence of the batch. Sequences that lose different numbers of tokens stay rectangular by left padding:
an index of -1 is a pad, and ``Rows.real`` is False there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


def left_packed(stay: Tensor) -> Tensor:
    """Ascending indices of the True columns, padded on the left with -1. Shape: ``(B, L)`` bool -> ``(B, K)`` int64."""
    counts = stay.sum(dim=1)
    width = int(counts.max())
    # A stable sort of False before True leaves the staying columns last and in their order.
    order = stay.to(torch.uint8).argsort(dim=1, stable=True)[:, stay.shape[1] - width :]
    pad = torch.arange(width, device=stay.device) < (width - counts)[:, None]
    return order.masked_fill(pad, -1)


def gather(tensor: Tensor, index: Tensor) -> Tensor:
    """Rows of ``tensor`` at ``index``; a pad takes column 0, whatever is there is masked.

    Shape: ``(B|1, L, ...)`` and ``(B, K)`` -> ``(B, K, ...)``.
    """
    index = index.to(tensor.device).clamp(min=0)
    if tensor.shape[0] == 1:
        return tensor[0][index]
    return tensor[torch.arange(index.shape[0], device=tensor.device)[:, None], index]


def gather_mask(mask: Tensor, index: Tensor) -> Tensor:
    """Like ``gather`` for a bool mask; pads become False."""
    return gather(mask, index) & (index.to(mask.device) >= 0)


def gather_positions(positions: Tensor, index: Tensor) -> Tensor:
    """Position ids at ``index``. Shape: ``(B|1, L)`` or ``(axes, B|1, L)``; the last axis is gathered."""
    if positions.dim() == 2:
        return gather(positions, index)
    return torch.stack([gather(axis, index) for axis in positions])


@dataclass(frozen=True)
class Rows:
    """What is known of every column of the current sequence.

    Shape:
        real, visual, question: ``(B, L)`` bool. ``question`` marks real tokens behind the last visual token of the
        prompt as it arrived, so a stage that drops the last picture does not turn text between pictures into question.
        positions: ``(B|1, L)`` or ``(axes, B|1, L)``. alive: per row ``(n,)`` original indices of the visual tokens
        still there. next_position: ``(B, 1)``, where decoding would go on without pruning. shift: ``(B, 1)``, by how
        much positions behind the prompt must be lowered, or None when nothing was renumbered.
    """

    real: Tensor
    visual: Tensor
    question: Tensor
    positions: Tensor
    alive: tuple[Tensor, ...]
    next_position: Tensor
    shift: Tensor | None = None

    @classmethod
    def of(cls, real: Tensor, visual: Tensor, positions: Tensor | None, alive: Sequence[Tensor] | None = None) -> Rows:
        """Describe a prompt. ``positions`` None means 0..L-1, as a direct ``forward`` counts."""
        batch, length = real.shape
        if positions is None:
            positions = torch.arange(length, device=real.device)[None]
        columns = torch.arange(length, device=real.device)
        last_visual = torch.where(visual, columns, -1).amax(dim=1, keepdim=True)
        if alive is None:
            alive = [torch.arange(int(n), device=real.device) for n in visual.sum(dim=1)]
        last = positions[..., -1:]
        next_position = (last if last.dim() == 2 else last[0]).expand(batch, 1) + 1
        return cls(real, visual, real & (columns > last_visual), positions, tuple(alive), next_position)

    @property
    def padded(self) -> bool:
        """Whether any column is a pad (waits for the device; ask once per prompt)."""
        return not bool(self.real.all())

    def columns(self, row: int) -> Tensor:
        """Where the visual tokens of a row are. Shape: ``(n,)`` int64."""
        return self.visual[row].nonzero()[:, 0]

    def take(self, index: Tensor, alive: Sequence[Tensor]) -> Rows:
        """The rows after a gather; positions keep their gaps."""
        return replace(
            self,
            real=gather_mask(self.real, index),
            visual=gather_mask(self.visual, index),
            question=gather_mask(self.question, index),
            positions=gather_positions(self.positions, index),
            alive=tuple(alive),
        )

    def reindexed(self) -> Rows | None:
        """Positions renumbered without gaps from each row's first position; None when there is no gap to close."""
        if self.positions.dim() != 2:
            raise ValueError("multi-dimensional positions cannot be renumbered")
        positions = self.positions.expand(self.real.shape[0], -1)
        first = positions.gather(1, self.real.to(torch.uint8).argmax(dim=1, keepdim=True))
        compact = (first + self.real.long().cumsum(dim=1) - 1).masked_fill(~self.real, 0)
        if torch.equal(compact, positions.masked_fill(~self.real, 0)):
            return None
        return replace(self, positions=compact, shift=self.next_position - (compact[:, -1:] + 1))
