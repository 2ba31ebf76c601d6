"""The signals that concern the LLM's layers: attention of the layer before or at hand, keys, values, rotary tables."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..types import Need, Stage
from .capture import attention_rows, lifted
from .sequence import Rows, rotary_axes

MEAN_ROW_KINDS = ("last_row", "text_rows")
"""Fill ``Signals.attention_rows``; a stage can have one of them."""

ATTENTION_KINDS = (*MEAN_ROW_KINDS, "head_rows")
"""Rows of one LLM layer's attention."""

LLM_LAYER_KINDS = (*ATTENTION_KINDS, "key_norms")
"""Made of the queries and keys of the LLM layer that ``Need.layer`` names."""

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines, each ``(B|1, L, d)``."""

Seen = dict[str, Tensor]
"""What was looked at in the attention of one layer, for one sequence; all float32, absent where nobody asked.

Shape: rows ``(R, L)``, attention of the asked tokens, mean over heads; heads ``(H, R, L)``; key_norms ``(L,)``, L1.
"""


@dataclass(frozen=True)
class Entered:
    """What entered a layer: hidden ``(B, L, D)``, its rotary tables and rows."""

    hidden: Tensor
    rotary: Rotary
    rows: Rows


@dataclass
class LayerHistory:
    """What stages behind may ask of the layers that ran in this forward, by layer or site.

    ``origin (B, L)`` leads from the current columns back to those that the layer before had, None while they are the
    same.
    """

    entered: dict[int, Entered] = field(default_factory=dict)
    tapped: dict[int, list[Seen]] = field(default_factory=dict)
    origin: Tensor | None = None

    def columns_before(self, row: int, columns: Tensor) -> Tensor:
        """Where tokens of a row stood in the layer before."""
        return columns if self.origin is None else self.origin[row, columns.to(self.origin.device)]


@dataclass(frozen=True)
class Moment:
    """The state in which a stage inside the LLM finds the sequence.

    now: what enters its layer. llm_input: hidden and rows that entered layer 0, None where nobody asked.
    """

    layers: LayerSignals
    history: LayerHistory
    now: Entered
    llm_input: tuple[Tensor, Rows] | None
    language_model: Any

    def tables(self, row: int) -> Rotary:
        """Float32 cosines and sines at one row's positions. Shape: ``(L, d)`` each."""
        axes, device = rotary_axes(self.now.rows.positions), self.now.hidden.device
        mine = axes[..., row if axes.shape[-2] > 1 else 0, :].unsqueeze(-2).to(device)
        cos, sin = self.language_model.rotary_emb(torch.empty(0, dtype=torch.float32, device=device), mine)
        return cos[0], sin[0]

    def rotary_means(self, row: int, columns: Tensor) -> Tensor:
        """``Signals.rotary_means`` of the visual columns ``(n,)``. Shape: ``(n, 2)`` float32.

        Axes are turned one by one, as if all of them stood at that place, so that each meets every frequency. The last
        two (height and width) are added first: cells that mirror each other have the very same mean.
        """
        axes, device = rotary_axes(self.now.rows.positions), self.now.hidden.device
        mine = axes[..., row if axes.shape[-2] > 1 else 0, :][..., columns.to(axes.device)].to(device)
        total = torch.zeros(len(columns), 2, dtype=torch.float64, device=device)
        for axis in mine.reshape(-1, len(columns)).flip(0):
            at = axis[None] if mine.dim() == 1 else axis.expand(len(mine), 1, -1)
            tables = self.language_model.rotary_emb(torch.empty(0, dtype=torch.float32, device=device), at)
            total = total + torch.stack([table[0].double().mean(dim=1) for table in tables], dim=1)
        return (total / mine.reshape(-1, len(columns)).shape[0]).float()


class LayerSignals:
    """Answers the needs of the stages before one layer that concern the LLM's layers."""

    def __init__(self, site: int, stages: Sequence[Stage], layers: Sequence[Any], can_tap: bool) -> None:
        self.site, self.layers, self.can_tap = site, layers, can_tap
        needs = [need for stage in stages for need in stage.needs]
        self.of_previous = {n.kind for n in needs if n.kind in LLM_LAYER_KINDS and n.layer != "this"}
        self.wants_text_rows = any(need.kind in ("text_rows", "head_rows") for need in needs)
        self.wants_previous_input = any(need.kind in ("previous_features", "values") for need in needs) or (
            bool(self.of_previous) and not can_tap
        )

    def asked(self, rows: Rows, row: int) -> Tensor:
        """Columns whose attention rows are wanted; the last prompt token is always the last. Shape: ``(R,)``."""
        if self.wants_text_rows:
            return rows.question[row].nonzero()[:, 0]
        return torch.tensor([rows.real.shape[1] - 1], device=rows.real.device)

    def tap(self, rows: Rows, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float) -> list[Seen]:
        """What is wanted of the attention of the layer before, while it runs; per row."""
        found = []
        for row in range(query.shape[0]):
            at = self.asked(rows, row).to(key.device)
            if mask is not None and mask.dim() == 4:
                allowed = mask[row if mask.shape[0] > 1 else 0, 0][at]
            else:
                allowed = _visible(rows, row, at)
            found.append(_see(query[row][:, at], key[row], scaling, allowed, self.of_previous))
        return found

    def find(self, moment: Moment, stage: Stage, row: int, columns: Tensor) -> dict[str, Tensor]:
        """Every signal of ``stage`` that concerns the LLM's layers, on the visual columns ``(n,)`` it acts on."""
        found: dict[str, Tensor] = {}
        history, text = moment.history, moment.now.rows.question[row].nonzero()[:, 0]
        for layer in ("previous", "this"):
            needs = [n for n in stage.needs if n.kind in LLM_LAYER_KINDS and (n.layer or "previous") == layer]
            if needs:
                seen = self._seen(moment, row, layer, {need.kind for need in needs})
                before = layer == "previous"
                at = (history.columns_before(row, c) if before else c for c in (columns, text))
                found.update(_fields(seen, needs, *at))
        kinds = {need.kind for need in stage.needs}
        if "rotary_similarity" in kinds:
            tables = moment.tables(row)
            device = tables[0].device
            found["rotary_similarity"] = _rotary_similarity(
                self.layers[self.site].self_attn, tables, text.to(device), columns.to(device)
            )
        if "previous_features" in kinds:
            hidden = history.entered[self.site - 1].hidden
            found["previous_features"] = hidden[row, history.columns_before(row, columns).to(hidden.device)]
        if "rotary_means" in kinds:
            found["rotary_means"] = moment.rotary_means(row, columns)
        if "values" in kinds:
            entered = history.entered[self.site - 1]
            at = (history.columns_before(row, c) for c in (columns, text))
            found.update(_values(self.layers[self.site - 1], entered, row, *at))
        return found

    def _seen(self, moment: Moment, row: int, layer: str, kinds: Collection[str]) -> Seen:
        if layer == "this":
            return self._recomputed(self.layers[self.site], moment.now, row, kinds)
        if self.can_tap:
            return moment.history.tapped[self.site][row]
        return self._recomputed(self.layers[self.site - 1], moment.history.entered[self.site - 1], row, kinds)

    def _recomputed(self, layer: Any, entered: Entered, row: int, kinds: Collection[str]) -> Seen:
        cos, sin = (half[row if half.shape[0] > 1 else 0] for half in entered.rotary)
        at = self.asked(entered.rows, row).to(entered.hidden.device)
        query, key = _recomputed_heads(layer, entered.hidden[row], (cos, sin), at)
        return _see(query, key, layer.self_attn.scaling, _visible(entered.rows, row, at), kinds)


def _see(query: Tensor, key: Tensor, scaling: float, allowed: Tensor, kinds: Collection[str]) -> Seen:
    """Shape: query ``(H, R, d)``, key ``(H_kv, L, d)``, allowed ``(R, L)``."""
    seen: Seen = {}
    if any(kind in ATTENTION_KINDS for kind in kinds):
        accurate = attention_rows(query, key, scaling, allowed)
        seen["rows"] = accurate.mean(dim=0).float()
        if "head_rows" in kinds:
            seen["heads"] = accurate.float()
    if "key_norms" in kinds:
        seen["key_norms"] = lifted(key).abs().sum(dim=(0, 2)).float()
    return seen


def _fields(seen: Seen, needs: Sequence[Need], columns: Tensor, text: Tensor) -> dict[str, Tensor]:
    """What the needs ask for of ``seen``, on visual ``columns (n,)`` and ``text (M,)`` columns of that layer."""
    found: dict[str, Tensor] = {}
    for need in needs:
        if need.kind == "key_norms":
            norms = seen["key_norms"]
            found["key_norms"] = norms[columns.to(norms.device)]
            found["text_key_norms"] = norms[text.to(norms.device)]
        elif need.kind == "head_rows":
            found["head_rows"] = seen["heads"][:, :, columns.to(seen["heads"].device)]
        else:
            rows = seen["rows"][:, columns.to(seen["rows"].device)]
            found["attention_rows"] = rows[-1:] if need.kind == "last_row" else rows
    return found


def _visible(rows: Rows, row: int, at: Tensor) -> Tensor:
    """Which columns the tokens ``at`` of a row may look at, or what attention adds to their logits.

    Shape: at ``(R,)`` -> ``(R, L)`` bool, or float32 where merged tokens weigh as many as they carry.
    """
    real = rows.real[row].to(at.device)
    seen = (torch.arange(len(real), device=at.device) <= at[:, None]) & real
    if rows.carried is None:
        return seen
    return rows.carried[row].to(at.device, torch.float32).log().where(seen, -torch.inf)


def _recomputed_heads(layer: Any, hidden: Tensor, rotary: Rotary, at: Tensor) -> tuple[Tensor, Tensor]:
    """Queries of a few tokens and all keys of one LLM layer for one sequence, from the states that enter the layer.

    For layers that have not run yet, and for eager models whose attention cannot be tapped. Projections are called as
    modules, so quantised and offloaded weights work.

    Shape: hidden ``(L, D)``, rotary each ``(L, d)``, at ``(R,)`` -> ``(H, R, d)``, ``(H_kv, L, d)``.
    """
    attention = layer.self_attn
    normed = layer.input_layernorm(hidden[None])
    cos, sin = (half[None] for half in rotary)
    rotate = _rotation_of(attention)
    query = _heads(attention, "q", normed[:, at])
    key = _heads(attention, "k", normed)
    query = rotate(query, query, cos[:, at], sin[:, at])[0]
    key = rotate(key, key, cos, sin)[1]
    return query[0], key[0]


def rotated_queries(attention: Any, hidden: Tensor, rotary: Rotary) -> Tensor:
    """Queries of an LLM's attention module from what it was given. Shape: ``(1, L, D)`` -> ``(1, H, L, d)``."""
    query = _heads(attention, "q", hidden)
    rotated: Tensor = _rotation_of(attention)(query, query, *rotary)[0]
    return rotated


def _values(layer: Any, entered: Entered, row: int, visual: Tensor, text: Tensor) -> dict[str, Tensor]:
    """Value vectors of the prompt's tokens in a layer, from the states that entered it. Shape: ``(n, H, d)`` each.

    Shape: visual ``(N,)`` and text ``(M,)`` columns of that layer.
    """
    rows = entered.rows
    other = (rows.real[row] & ~rows.visual[row] & ~rows.question[row]).nonzero()[:, 0]
    found = {}
    for name, columns in (("values", visual), ("text_values", text), ("other_values", other)):
        hidden = entered.hidden[row, columns.to(entered.hidden.device)]
        found[name] = lifted(_heads(layer.self_attn, "v", layer.input_layernorm(hidden[None]))[0].transpose(0, 1))
    return found


def _rotary_similarity(attention: Any, rotary: Rotary, text: Tensor, visual: Tensor) -> Tensor:
    """Dot products of the all-ones vector rotated to text positions with the one rotated to visual positions.

    Scaled by d^-1/2 like attention logits (SparseVLM+ 4.2, official branch main).
    Shape: rotary each ``(L, d)``; text ``(M,)`` and visual ``(N,)`` columns -> ``(M, N)`` float32.
    """
    cos, sin = (half[None].float() for half in rotary)
    ones = torch.ones_like(cos)[:, None]
    rotated = _rotation_of(attention)(ones, ones, cos, sin)[0][0, 0]
    return rotated[text] @ rotated[visual].T * rotated.shape[1] ** -0.5


def _rotation_of(attention: Any) -> Any:
    """The function with which this model's own code rotates queries and keys."""
    return sys.modules[type(attention).__module__].apply_rotary_pos_emb


def _heads(attention: Any, which: str, hidden: Tensor) -> Tensor:
    """Project and split into heads. Shape: ``(1, L, D)`` -> ``(1, H, L, d)``."""
    split = getattr(attention, f"{which}_proj")(hidden).unflatten(-1, (-1, attention.head_dim))
    norm = getattr(attention, f"{which}_norm", None)
    return (split if norm is None else norm(split)).transpose(1, 2)
