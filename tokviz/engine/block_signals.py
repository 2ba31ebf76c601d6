"""What in-LLM stages look at: rows, keys and hidden states of the block before (or of the next one, recomputed)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..types import Need, Stage
from .attention import attention_rows, causal_rows, lifted, recomputed_heads, rotary_similarity
from .forward import Entered, Prefill, Seen
from .needs import ATTENTION_KINDS, LLM_BLOCK_KINDS
from .rows import Rows


@dataclass(frozen=True)
class Moment:
    """The state in which a stage finds the sequence: what enters its block, and float32 rotary tables ``(L, d)``."""

    prefill: Prefill
    now: Entered
    tables: Any


class BlockSignals:
    """Answers the needs of the stages before one block that concern the LLM's blocks."""

    def __init__(self, site: int, stages: Sequence[Stage], blocks: Sequence[Any], can_tap: bool) -> None:
        self.site, self.blocks, self.can_tap = site, blocks, can_tap
        needs = [need for stage in stages for need in stage.needs]
        self.of_previous = {n.kind for n in needs if n.kind in LLM_BLOCK_KINDS and n.block != "this"}
        self.wants_text_rows = any(need.kind in ("text_rows", "head_rows") for need in needs)
        self.wants_previous_input = any(need.kind == "previous_features" for need in needs) or (
            bool(self.of_previous) and not can_tap
        )

    def asked(self, rows: Rows, row: int) -> Tensor:
        """Columns whose attention rows are wanted; the last prompt token is always the last. Shape: ``(R,)``."""
        if self.wants_text_rows:
            return rows.question[row].nonzero()[:, 0]
        return torch.tensor([rows.real.shape[1] - 1], device=rows.real.device)

    def tap(self, prefill: Prefill, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float) -> None:
        """While the block before runs: keep what is wanted of its attention."""
        rows, found = prefill.rows, []
        for row in range(query.shape[0]):
            at = self.asked(rows, row).to(key.device)
            if mask is not None and mask.dim() == 4:
                allowed = mask[row if mask.shape[0] > 1 else 0, 0][at]
            else:
                allowed = causal_rows(rows.real[row].to(key.device), at)
            found.append(_see(query[row][:, at], key[row], scaling, allowed, self.of_previous))
        prefill.tapped[self.site] = found

    def find(self, moment: Moment, stage: Stage, row: int, columns: Tensor) -> dict[str, Tensor]:
        """Every signal of ``stage`` that concerns the LLM's blocks, on the visual columns ``(n,)`` it acts on."""
        found: dict[str, Tensor] = {}
        rows = moment.now.rows
        text = rows.question[row].nonzero()[:, 0]
        for block in ("previous", "this"):
            needs = [n for n in stage.needs if n.kind in LLM_BLOCK_KINDS and (n.block or "previous") == block]
            if needs:
                seen = self._seen(moment, row, block, {need.kind for need in needs})
                before = block == "previous"
                at = (self._columns_before(moment.prefill, row, c) if before else c for c in (columns, text))
                found.update(_fields(seen, needs, *at))
        kinds = {need.kind for need in stage.needs}
        if "rotary_similarity" in kinds:
            tables = moment.tables(row)
            device = tables[0].device
            found["rotary_similarity"] = rotary_similarity(
                self.blocks[self.site].self_attn, tables, text.to(device), columns.to(device)
            )
        if "previous_features" in kinds:
            hidden = moment.prefill.entered[self.site - 1].hidden
            at_columns = self._columns_before(moment.prefill, row, columns)
            found["previous_features"] = hidden[row, at_columns.to(hidden.device)]
        return found

    def _seen(self, moment: Moment, row: int, block: str, kinds: Collection[str]) -> Seen:
        if block == "this":
            return self._recomputed(self.blocks[self.site], moment.now, row, kinds)
        if self.can_tap:
            return moment.prefill.tapped[self.site][row]
        entered = moment.prefill.entered[self.site - 1]
        return self._recomputed(self.blocks[self.site - 1], entered, row, kinds)

    def _recomputed(self, block: Any, entered: Entered, row: int, kinds: Collection[str]) -> Seen:
        cos, sin = (half[row if half.shape[0] > 1 else 0] for half in entered.rotary)
        device = entered.hidden.device
        at, real = self.asked(entered.rows, row).to(device), entered.rows.real[row].to(device)
        query, key = recomputed_heads(block, entered.hidden[row], (cos, sin), at)
        return _see(query, key, block.self_attn.scaling, causal_rows(real, at), kinds)

    def _columns_before(self, prefill: Prefill, row: int, columns: Tensor) -> Tensor:
        if prefill.origin is None:
            return columns
        return prefill.origin[row, columns.to(prefill.origin.device)]


def _see(query: Tensor, key: Tensor, scaling: float, allowed: Tensor, kinds: Collection[str]) -> Seen:
    """Shape: query ``(H, R, d)``, key ``(H_kv, L, d)``, allowed ``(R, L)``; float32 results, see ``Seen``."""
    rows = heads = norms = None
    if any(kind in ATTENTION_KINDS for kind in kinds):
        accurate = attention_rows(query, key, scaling, allowed)
        rows = accurate.mean(dim=0).float()
        heads = accurate.float() if "head_rows" in kinds else None
    if "key_norms" in kinds:
        norms = lifted(key).abs().sum(dim=(0, 2)).float()
    return Seen(rows, heads, norms)


def _fields(seen: Seen, needs: Sequence[Need], columns: Tensor, text: Tensor) -> dict[str, Tensor]:
    """What the needs ask for of ``seen``, on visual ``columns (n,)`` and ``text (M,)`` columns of that block."""
    found: dict[str, Tensor] = {}
    for need in needs:
        if need.kind == "key_norms":
            assert seen.key_norms is not None
            found["key_norms"] = seen.key_norms[columns.to(seen.key_norms.device)]
            found["text_key_norms"] = seen.key_norms[text.to(seen.key_norms.device)]
        elif need.kind == "head_rows":
            assert seen.heads is not None
            found["head_rows"] = seen.heads[:, :, columns.to(seen.heads.device)]
        else:
            assert seen.rows is not None
            rows = seen.rows[:, columns.to(seen.rows.device)]
            found["attention_rows"] = rows[-1:] if need.kind == "last_row" else rows
    return found
