"""The sequences of a batch while tokens leave it: what is known of every column, where tokens go, how to gather.

A row is one sequence of the batch. Sequences that lose different numbers of tokens stay rectangular by left padding:
an index of -1 is a pad, and ``Rows.real`` is False there.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..types import Selection


def left_packed(stay: Tensor) -> Tensor:
    """Ascending indices of the True columns, padded on the left with -1. Shape: ``(B, L)`` bool -> ``(B, K)`` int64."""
    if len(stay) == 1:
        return stay[0].nonzero()[:, 0][None]
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


def rotary_axes(positions: Tensor) -> Tensor:
    """The positions that tokens are rotated by.

    ``generate`` of Qwen puts plain text positions in front of the three axes. They serve nothing but to recognise
    packed sequences, which is what positions with gaps look like.
    Shape: ``(B|1, L)`` as it is; ``(3 or 4, B|1, L)`` -> ``(3, B|1, L)``.
    """
    return positions[1:] if positions.dim() == 3 and positions.shape[0] == 4 else positions


_MASKS = ("real", "visual", "question", "added", "asked")


@dataclass(frozen=True)
class Rows:
    """What is known of every column of the current sequence.

    Shape:
        real, visual, question, added, asked: ``(B, L)`` bool. ``question`` marks real tokens behind the last visual
        token of the prompt as it arrived, so a stage that drops the last image does not turn text between images into
        question. ``added`` marks tokens that a stage put in the place of dropped visual ones; they are not visual;
        None while there are none. asked: what the user wrote, or None when nobody said. positions: ``(B|1, L)`` or
        ``(axes, B|1, L)``. alive: per row ``(n,)`` original indices of the visual tokens still there, in the order of
        their columns. sizes: per row ``(n,)``, how many patches each stands for, or None for one each: what methods are
        told. carried: ``(B, L)`` int64, how many original visual tokens each column carries in attention, 1 for what is
        no merged token, None while there is none; only stages that rectify count.
        first_position, next_position: ``(B, 1)``, where the unpruned sequence begins and where decoding would go on.
        shift: ``(B, 1)``, by how much positions behind the prompt must be lowered, or None when nothing was renumbered.
    """

    real: Tensor
    visual: Tensor
    question: Tensor
    added: Tensor | None
    asked: Tensor | None
    positions: Tensor
    alive: tuple[Tensor, ...]
    sizes: tuple[Tensor | None, ...]
    first_position: Tensor
    next_position: Tensor
    shift: Tensor | None = None
    carried: Tensor | None = None

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
        carried: Tensor | None = None,
    ) -> Rows:
        """Describe a prompt. ``positions`` None means 0..L-1, as a direct ``forward`` counts.

        A prompt that was shortened before says what cannot be read off it any more: ``question``, ``added``, ``sizes``,
        ``first_position`` and ``carried``.
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
            added=added,
            asked=asked,
            positions=positions,
            alive=tuple(alive),
            sizes=tuple(sizes) if sizes is not None else (None,) * batch,
            first_position=first_position,
            next_position=one_axis[:, -1:] + 1,
            carried=carried,
        )

    @cached_property
    def padded(self) -> bool:
        """Whether any column is a pad (waits for the device)."""
        return not bool(self.real.all())

    @cached_property
    def _columns(self) -> tuple[Tensor, ...]:
        return tuple(visual.nonzero()[:, 0] for visual in self.visual)

    def columns(self, row: int) -> Tensor:
        """Where the visual tokens of a row are. Shape: ``(n,)`` int64."""
        return self._columns[row]

    def sequence(self, row: int) -> Tensor:
        """Original indices of a row's visual tokens as the LLM gets them, -1 for added ones. Shape: ``(n + E,)``."""
        if self.added is None:
            return self.alive[row]
        original = torch.full_like(self.visual[row], -1, dtype=torch.int64)
        original[self.columns(row)] = self.alive[row].to(original.device)
        return original[self.visual[row] | self.added[row]]

    def images(self, row: int) -> Tensor:
        """For every column, how many tokens that are neither visual nor added lie up to it. Shape: ``(L,)`` int64.

        Equal for all visual columns when they are contiguous; different where text separates images.
        """
        filled = self.visual[row] if self.added is None else self.visual[row] | self.added[row]
        return (~filled).cumsum(dim=0)

    def take(self, index: Tensor) -> Rows:
        """The columns after a gather; positions keep their gaps. ``alive`` and ``sizes`` stay as they are."""
        masks: dict[str, Any] = {name: mask for name in _MASKS if (mask := getattr(self, name)) is not None}
        stay = (index >= 0).to(self.real.device)[..., None]
        taken = (gather(torch.stack(list(masks.values()), dim=2), index) & stay).unbind(2)
        masks.update(zip(masks, taken, strict=True))
        axes = [self.positions] if self.positions.dim() == 2 else list(self.positions)
        moved = [gather(axis, index) for axis in axes]
        carried = None if self.carried is None else gather(self.carried, index).where(stay[..., 0], 1)
        positions = moved[0] if self.positions.dim() == 2 else torch.stack(moved)
        return replace(self, **masks, positions=positions, carried=carried)

    def reindexed(self) -> Rows | None:
        """Positions renumbered without gaps from where the unpruned row began; None when there is no gap to close."""
        if self.positions.dim() != 2:
            raise ValueError("multi-dimensional positions cannot be renumbered")
        positions = self.positions.expand(self.real.shape[0], -1)
        compact = (self.first_position + self.real.long().cumsum(dim=1) - 1).masked_fill(~self.real, 0)
        if torch.equal(compact, positions.masked_fill(~self.real, 0)):
            return None
        return replace(self, positions=compact, shift=self.next_position - (compact[:, -1:] + 1))


@dataclass(frozen=True)
class State:
    """A batch between two stages.

    Shape: hidden ``(B, L, D)``; encoder: per row ``(n,)`` features before the projector of the tokens alive, () where
    nobody holds them. Only stages before the projector keep it up to date.
    """

    rows: Rows
    hidden: Tensor
    encoder: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Placement:
    """Where the tokens of one row stand after a stage.

    Shape: tokens ``(K + E,)`` columns of the sequence before, in the new order; slots ``(K + E,)`` the same columns,
    ascending; taken ``(E,)`` the dropped tokens' columns that added tokens take; order ``(K,)`` positions in ``kept``
    in the new order. moved: whether any token changes its column.
    """

    tokens: Tensor
    slots: Tensor
    taken: Tensor
    order: Tensor
    moved: bool

    @classmethod
    def of(cls, selection: Selection, rows: Rows, row: int) -> Placement:
        """Give every kept and added token of a row its column.

        Added tokens take the columns (and with policy ``keep`` the positions) of the last dropped tokens. Without a
        sequence they stand behind the kept tokens of the image whose columns they take. Where text separates images
        (tiles, frames), a sequence holds within each stretch of visual tokens: none of them jumps over the text.
        """
        columns = rows.columns(row)
        kept = selection.kept.to(columns.device)
        n_kept, n_extra = len(kept), 0 if selection.extra is None else len(selection.extra)
        order = torch.arange(n_kept, device=columns.device)
        if n_extra == 0 and selection.sequence is None:
            stay = columns[kept]
            return cls(stay, stay, columns[:0], order, moved=False)
        dropped = torch.ones(len(columns), dtype=torch.bool, device=columns.device)
        dropped[kept] = False
        free = columns[dropped]
        taken = free[len(free) - n_extra :]
        tokens = torch.cat([columns[kept], taken])
        image = rows.images(row)
        if selection.sequence is not None:
            sequence = selection.sequence.to(columns.device)
            sequence = sequence[image[tokens[sequence]].argsort(stable=True)]
            tokens, order = tokens[sequence], sequence[sequence < n_kept]
        else:
            tokens = tokens[image[tokens].argsort(stable=True)]
        slots = tokens.sort().values
        return cls(tokens, slots, taken, order, moved=not torch.equal(tokens, slots))


class Fed:
    """What a prompt needs beside its embeddings and only a context can give the LLM; it knows of open ones."""

    def __init__(self) -> None:
        self._contexts = 0
        self._lock = threading.Lock()

    @property
    def is_fed(self) -> bool:
        """Whether a context is open that gives it."""
        return self._contexts > 0

    @contextmanager
    def fed(self) -> Iterator[None]:
        """For the time of such a context."""
        with self._lock:
            self._contexts += 1
        try:
            yield
        finally:
            with self._lock:
                self._contexts -= 1


class Carried(Fed):
    """How many original visual tokens each column of a shortened prompt carries. Shape: sizes ``(B, L)`` int64."""

    def __init__(self, sizes: Tensor) -> None:
        super().__init__()
        self.sizes = sizes


_VISUAL, _FEATURES = "visual_pos_masks", "deepstack_visual_embeds"


class Deepstack(Fed):
    """What some models (Qwen3-VL) add behind layers 0, 1, ... of the LLM, of all N original visual tokens of every row.

    The stock language model is handed it once, at prefill. Pruned, each layer must get that of the tokens that are
    still there: a kept token keeps its own, whatever was merged into it; tokens that a stage adds get none, for no
    patch stands behind them.

    Shape: ``rows[row][layer]`` is ``(N_row, D)``.
    """

    def __init__(self, rows: Sequence[Sequence[Tensor]]) -> None:
        super().__init__()
        self.rows = [tuple(row) for row in rows]

    @classmethod
    def taken_from(cls, kwargs: dict[str, Any], visual: Tensor) -> Deepstack | None:
        """Take it out of the arguments of the language model, which then adds nothing itself; None where there is none.

        Shape: visual ``(B, L)`` bool, which of the unpruned columns hold visual tokens.
        """
        kwargs.pop(_VISUAL, None)
        features: Sequence[Tensor] | None = kwargs.pop(_FEATURES, None)
        if features is None:
            return None
        counts = visual.sum(dim=1).tolist()
        return cls(list(zip(*(layer.split(counts) for layer in features), strict=True)))

    def added(self, layer: int, hidden: Tensor, rows: Rows) -> Tensor:
        """``hidden (B, L, D)`` that left ``layer`` of the LLM, with the features of the visual tokens in ``rows``.

        Rows may be copies of a prompt's (beams). Adds as the stock model does: the same bits.
        """
        if layer >= len(self.rows[0]):
            return hidden
        copies, mine = len(rows.alive) // len(self.rows), []
        for row, alive in enumerate(rows.alive):
            original = self.rows[row // copies][layer]
            mine.append(original[alive.to(original.device)])
        features, where = torch.cat(mine).to(hidden.device, hidden.dtype), rows.visual.to(hidden.device)
        hidden = hidden.clone()
        hidden[where] = hidden[where] + features
        return hidden
