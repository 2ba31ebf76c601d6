"""What in-LLM stages look at: a few attention rows and the hidden states that entered the block before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..types import Stage
from .attention import causal_rows, mean_attention_rows, recomputed_rows
from .forward import Entered, Prefill
from .rows import Rows
from .stages import ATTENTION_KINDS


class BlockSignals:
    """Answers attention and look-back needs of the stages before one block."""

    def __init__(self, site: int, stages: Sequence[Stage], blocks: Sequence[Any], can_tap: bool) -> None:
        self.site, self.blocks, self.can_tap = site, blocks, can_tap
        needs = [need for stage in stages for need in stage.needs]
        maps = [need for need in needs if need.kind in ATTENTION_KINDS]
        self.wants_map_of_previous = any(need.block != "this" for need in maps)
        self.wants_text_rows = any(need.kind == "text_rows" for need in maps)
        self.wants_previous_input = any(need.kind == "previous_features" for need in needs) or (
            self.wants_map_of_previous and not can_tap
        )

    def asked(self, rows: Rows, row: int) -> Tensor:
        """Columns whose attention rows are wanted; the last prompt token is always the last. Shape: ``(R,)``."""
        if self.wants_text_rows:
            return rows.question[row].nonzero()[:, 0]
        return torch.tensor([rows.real.shape[1] - 1], device=rows.real.device)

    def tap(self, prefill: Prefill, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float) -> None:
        """While the block before runs: keep the wanted rows of its attention."""
        rows, found = prefill.rows, []
        for row in range(query.shape[0]):
            at = self.asked(rows, row).to(key.device)
            if mask is not None and mask.dim() == 4:
                allowed = mask[row if mask.shape[0] > 1 else 0, 0][at]
            else:
                allowed = causal_rows(rows.real[row].to(key.device), at)
            found.append(mean_attention_rows(query[row][:, at], key[row], scaling, allowed))
        prefill.tapped[self.site] = found

    def attention(self, prefill: Prefill, now: Entered, stage: Stage, row: int, columns: Tensor) -> Tensor:
        """Attention rows that ``stage`` asked for, on the columns given. Shape: ``(R, n)`` float32."""
        need = next(need for need in stage.needs if need.kind in ATTENTION_KINDS)
        if need.block == "this":
            found = self._recomputed(self.blocks[self.site], now, row)
        else:
            columns = self._columns_before(prefill, row, columns)
            found = self._of_previous(prefill, row)
        found = found[:, columns.to(found.device)]
        return found[-1:] if need.kind == "last_row" else found

    def _of_previous(self, prefill: Prefill, row: int) -> Tensor:
        if self.can_tap:
            return prefill.tapped[self.site][row]
        return self._recomputed(self.blocks[self.site - 1], prefill.entered[self.site - 1], row)

    def _recomputed(self, block: Any, entered: Entered, row: int) -> Tensor:
        cos, sin = (half[row if half.shape[0] > 1 else 0] for half in entered.rotary)
        device = entered.hidden.device
        at, real = self.asked(entered.rows, row).to(device), entered.rows.real[row].to(device)
        return recomputed_rows(block, entered.hidden[row], (cos, sin), at, real)

    def previous(self, prefill: Prefill, row: int, columns: Tensor) -> Tensor:
        """Hidden states that entered the block before, at the columns given. Shape: ``(n, D)``."""
        hidden = prefill.entered[self.site - 1].hidden
        return hidden[row, self._columns_before(prefill, row, columns).to(hidden.device)]

    def _columns_before(self, prefill: Prefill, row: int, columns: Tensor) -> Tensor:
        if prefill.origin is None:
            return columns
        return prefill.origin[row, columns.to(prefill.origin.device)]
