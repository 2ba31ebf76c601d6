"""A few rows of an attention map, computed from queries and keys; never the whole map."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor


def mean_attention_rows(query: Tensor, key: Tensor, scaling: float, mask: Tensor) -> Tensor:
    """Softmax over all keys for a few queries, mean over heads (``methods.md`` 17).

    Shape: query ``(H, R, d)``, key ``(H_kv, L, d)`` (grouped heads are not repeated), mask ``(R, L)``: bool, True where
    a query may look, or float, added to the logits. Returns ``(R, L)`` float32.
    """
    heads, n_rows, width = query.shape
    # float64 stays float64, everything narrower is lifted: half precision ties would decide which tokens live.
    accurate = torch.promote_types(query.dtype, torch.float32)
    grouped = query.to(accurate).reshape(key.shape[0], -1, width)
    logits = (grouped @ key.to(accurate).transpose(1, 2)).reshape(heads, n_rows, key.shape[1]) * scaling
    logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
    return logits.softmax(dim=-1).mean(dim=0).float()


def causal_rows(real: Tensor, at: Tensor) -> Tensor:
    """Which columns the tokens ``at`` may look at. Shape: real ``(L,)`` bool, at ``(R,)`` -> ``(R, L)`` bool."""
    columns = torch.arange(real.shape[0], device=real.device)
    return (columns <= at[:, None]) & real


def recomputed_rows(block: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor], at: Tensor, real: Tensor) -> Tensor:
    """Attention rows of one LLM block for one sequence, from the hidden states that enter the block.

    For blocks that have not run yet, and for eager models whose attention cannot be tapped. Projections are called as
    modules, so quantised and offloaded weights work.

    Shape: hidden ``(L, D)``, rotary (cos, sin) each ``(L, d)``, at ``(R,)``, real ``(L,)`` bool -> ``(R, L)`` float32.
    """
    attention = block.self_attn
    normed = block.input_layernorm(hidden[None])
    cos, sin = (half[None] for half in rotary)
    rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb
    query = _heads(attention, "q", normed[:, at])
    key = _heads(attention, "k", normed)
    query = rotate(query, query, cos[:, at], sin[:, at])[0]
    key = rotate(key, key, cos, sin)[1]
    return mean_attention_rows(query[0], key[0], attention.scaling, causal_rows(real, at))


def _heads(attention: Any, which: str, hidden: Tensor) -> Tensor:
    """Project and split into heads. Shape: ``(1, L, D)`` -> ``(1, H, L, d)``."""
    split = getattr(attention, f"{which}_proj")(hidden).unflatten(-1, (-1, attention.head_dim))
    norm = getattr(attention, f"{which}_norm", None)
    return (split if norm is None else norm(split)).transpose(1, 2)
