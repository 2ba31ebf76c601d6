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


def rotary_axes(positions: Tensor) -> Tensor:
    """The positions that tokens are rotated by.

    ``generate`` of Qwen puts plain text positions in front of the three axes. They serve nothing but to recognise
    packed sequences, which is what positions with gaps look like.
    Shape: ``(B|1, L)`` as it is; ``(3 or 4, B|1, L)`` -> ``(3, B|1, L)``.
    """
    return positions[1:] if positions.dim() == 3 and positions.shape[0] == 4 else positions


@dataclass(frozen=True)
class Rows:
    """What is known of every column of the current sequence.

    Shape:
        real, visual, question, added: ``(B, L)`` bool. ``question`` marks real tokens behind the last visual token of
        the prompt as it arrived, so a stage that drops the last picture does not turn text between pictures into
        question. ``added`` marks tokens that a stage put in the place of dropped visual ones; they are not visual.
        asked: ``(B, L)`` bool, what the user wrote, or None when nobody said. positions: ``(B|1, L)`` or
        ``(axes, B|1, L)``. alive: per row ``(n,)`` original indices of the visual tokens still there, in the order of
        their columns. sizes: per row ``(n,)``, how many patches each stands for, or None for one each.
        first_position, next_position: ``(B, 1)``, where the unpruned sequence begins and where decoding would go on.
        shift: ``(B, 1)``, by how much positions behind the prompt must be lowered, or None when nothing was renumbered.
    """

    real: Tensor
    visual: Tensor
    question: Tensor
    added: Tensor
    asked: Tensor | None
    positions: Tensor
    alive: tuple[Tensor, ...]
    sizes: tuple[Tensor | None, ...]
    first_position: Tensor
    next_position: Tensor
    shift: Tensor | None = None

    @classmethod
    def of(
        cls,
        real: Tensor,
        visual: Tensor,
        positions: Tensor | None,
        alive: Sequence[Tensor] | None = None,
        *,
        question: Tensor | None = None,
        asked: Tensor | None = None,
        added: Tensor | None = None,
        sizes: Sequence[Tensor | None] | None = None,
        first_position: Tensor | None = None,
    ) -> Rows:
        """Describe a prompt. ``positions`` None means 0..L-1, as a direct ``forward`` counts.

        A prompt that was shortened before says what cannot be read off it any more: ``question``, ``added``, ``sizes``
        and ``first_position``.
        """
        batch, length = real.shape
        if positions is None:
            positions = torch.arange(length, device=real.device)[None]
        if question is None:
            columns = torch.arange(length, device=real.device)
            question = real & (columns > torch.where(visual, columns, -1).amax(dim=1, keepdim=True))
        if alive is None:
            alive = [torch.arange(int(n), device=real.device) for n in visual.sum(dim=1)]
        one_axis = (positions if positions.dim() == 2 else positions[0]).expand(batch, -1)
        if first_position is None:
            first_position = one_axis.gather(1, real.to(torch.uint8).argmax(dim=1, keepdim=True))
        return cls(
            real=real,
            visual=visual,
            question=question,
            added=torch.zeros_like(visual) if added is None else added,
            asked=asked,
            positions=positions,
            alive=tuple(alive),
            sizes=tuple(sizes) if sizes is not None else (None,) * batch,
            first_position=first_position,
            next_position=one_axis[:, -1:] + 1,
        )

    @property
    def padded(self) -> bool:
        """Whether any column is a pad (waits for the device; ask once per prompt)."""
        return not bool(self.real.all())

    def columns(self, row: int) -> Tensor:
        """Where the visual tokens of a row are. Shape: ``(n,)`` int64."""
        return self.visual[row].nonzero()[:, 0]

    def sequence(self, row: int) -> Tensor:
        """Original indices of a row's visual tokens as the LLM gets them, -1 for added ones. Shape: ``(n + E,)``."""
        original = torch.full_like(self.visual[row], -1, dtype=torch.int64)
        original[self.columns(row)] = self.alive[row].to(original.device)
        return original[self.visual[row] | self.added[row]]

    def pictures(self, row: int) -> Tensor:
        """For every column, how many tokens that are neither visual nor added lie up to it. Shape: ``(L,)`` int64.

        Equal for all visual columns when they are contiguous; different where text separates pictures.
        """
        return (~(self.visual[row] | self.added[row])).cumsum(dim=0)

    def take(self, index: Tensor) -> Rows:
        """The columns after a gather; positions keep their gaps. ``alive`` and ``sizes`` stay as they are."""
        return replace(
            self,
            real=gather_mask(self.real, index),
            visual=gather_mask(self.visual, index),
            question=gather_mask(self.question, index),
            added=gather_mask(self.added, index),
            asked=None if self.asked is None else gather_mask(self.asked, index),
            positions=gather_positions(self.positions, index),
        )

    def reindexed(self) -> Rows | None:
        """Positions renumbered without gaps from where the unpruned row began; None when there is no gap to close."""
        if self.positions.dim() != 2:
            raise ValueError("multi-dimensional positions cannot be renumbered")
        positions = self.positions.expand(self.real.shape[0], -1)
        compact = (self.first_position + self.real.long().cumsum(dim=1) - 1).masked_fill(~self.real, 0)
        if torch.equal(compact, positions.masked_fill(~self.real, 0)):
            return None
        return replace(self, positions=compact, shift=self.next_position - (compact[:, -1:] + 1))
