"""Visual features that some models add again inside the LLM, behind its first blocks (Qwen3-VL's deepstack).

The stock language model is handed them once, at prefill, for every visual token of the prompt. Pruned, each block must
get those of the tokens that are still there: a kept token keeps its own, whatever was merged into it; tokens that a
stage adds get none, for no patch stands behind them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .rows import Rows

_MASK, _FEATURES = "visual_pos_masks", "deepstack_visual_embeds"


class Deepstack:
    """What is added behind blocks 0, 1, ... of the LLM, of all N original visual tokens of every row.

    Shape: ``rows[row][block]`` is ``(N_row, D)``.
    """

    def __init__(self, rows: Sequence[Sequence[Tensor]]) -> None:
        self.rows = [tuple(row) for row in rows]
        self._contexts = 0
        self._lock = threading.Lock()

    @classmethod
    def taken_from(cls, kwargs: dict[str, Any], visual: Tensor) -> Deepstack | None:
        """Take it out of the arguments of the language model, which then adds nothing itself; None where there is none.

        Shape: visual ``(B, L)`` bool, which of the unpruned columns hold visual tokens.
        """
        kwargs.pop(_MASK, None)
        features: Sequence[Tensor] | None = kwargs.pop(_FEATURES, None)
        if features is None:
            return None
        counts = visual.sum(dim=1).tolist()
        return cls(list(zip(*(block.split(counts) for block in features), strict=True)))

    def added(self, block: int, hidden: Tensor, rows: Rows) -> Tensor:
        """``hidden (B, L, D)`` that left ``block`` of the LLM, with the features of the visual tokens in ``rows``.

        Rows may be copies of a prompt's (beams). Adds as the stock model does: the same bits.
        """
        if block >= len(self.rows[0]):
            return hidden
        copies, mine = len(rows.alive) // len(self.rows), []
        for row, alive in enumerate(rows.alive):
            original = self.rows[row // copies][block]
            mine.append(original[alive.to(original.device)])
        features, where = torch.cat(mine).to(hidden.device, hidden.dtype), rows.visual.to(hidden.device)
        hidden = hidden.clone()
        hidden[where] = hidden[where] + features
        return hidden

    @property
    def is_fed(self) -> bool:
        """Whether a context is open that adds these features."""
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
