"""A few rows of an attention map, computed from queries and keys; never the whole map."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor


def lifted(tensor: Tensor) -> Tensor:
    """At least float32 (float64 stays): half precision ties would decide which tokens live."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def attention_logits(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """Scaled dot products of a few queries with all keys, head by head, before mask and softmax.

    Shape: query ``(H, R, d)``, key ``(H_kv, L, d)`` (grouped heads are not repeated) -> ``(H, R, L)``.
    """
    heads, n_rows, width = query.shape
    grouped = lifted(query).reshape(key.shape[0], -1, width)
    return (grouped @ lifted(key).transpose(1, 2)).reshape(heads, n_rows, key.shape[1]) * scaling


def attention_rows(query: Tensor, key: Tensor, scaling: float, mask: Tensor) -> Tensor:
    """Softmax over all keys for a few queries, head by head (``methods.md`` 17).

    Shape: as ``attention_logits``; mask ``(R, L)``: bool, True where a query may look, or float, added to the logits.
    Returns ``(H, R, L)``.
    """
    logits = attention_logits(query, key, scaling)
    logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
    return logits.softmax(dim=-1)


_LOGITS_AT_ONCE = 2**25


def received_attention(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """What each token receives from all of them where everyone sees everyone: mean over queries and heads.

    In slices of queries, so that no whole map is ever there (``methods.md`` 17).
    Shape: query ``(H, n, d)``, key ``(H_kv, n, d)`` -> ``(n,)`` float32, adding up to 1.
    """
    heads, n, _ = query.shape
    total = torch.zeros(n, dtype=torch.promote_types(query.dtype, torch.float32), device=query.device)
    for part in query.split(max(1, _LOGITS_AT_ONCE // (heads * n)), dim=1):
        total += attention_logits(part, key, scaling).softmax(dim=-1).sum(dim=(0, 1))
    return (total / (heads * n)).float()


def causal_rows(real: Tensor, at: Tensor) -> Tensor:
    """Which columns the tokens ``at`` may look at. Shape: real ``(L,)`` bool, at ``(R,)`` -> ``(R, L)`` bool."""
    columns = torch.arange(real.shape[0], device=real.device)
    return (columns <= at[:, None]) & real


def recomputed_heads(block: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor], at: Tensor) -> tuple[Tensor, Tensor]:
    """Queries of a few tokens and all keys of one LLM block for one sequence, from the states that enter the block.

    For blocks that have not run yet, and for eager models whose attention cannot be tapped. Projections are called as
    modules, so quantised and offloaded weights work.

    Shape: hidden ``(L, D)``, rotary (cos, sin) each ``(L, d)``, at ``(R,)`` -> ``(H, R, d)``, ``(H_kv, L, d)``.
    """
    attention = block.self_attn
    normed = block.input_layernorm(hidden[None])
    cos, sin = (half[None] for half in rotary)
    rotate = rotation_of(attention)
    query = _heads(attention, "q", normed[:, at])
    key = _heads(attention, "k", normed)
    query = rotate(query, query, cos[:, at], sin[:, at])[0]
    key = rotate(key, key, cos, sin)[1]
    return query[0], key[0]


def rotary_similarity(attention: Any, rotary: tuple[Tensor, Tensor], text: Tensor, visual: Tensor) -> Tensor:
    """Dot products of the all-ones vector rotated to text positions with the one rotated to visual positions.

    Scaled by d^-1/2 like attention logits (SparseVLM+ 4.2, official branch main).
    Shape: rotary (cos, sin) each ``(L, d)``; text ``(M,)`` and visual ``(N,)`` columns -> ``(M, N)`` float32.
    """
    cos, sin = (half[None].float() for half in rotary)
    ones = torch.ones_like(cos)[:, None]
    rotated = rotation_of(attention)(ones, ones, cos, sin)[0][0, 0]
    return rotated[text] @ rotated[visual].T * rotated.shape[1] ** -0.5


def rotation_of(attention: Any) -> Any:
    """The function with which this model's own code rotates queries and keys."""
    return sys.modules[type(attention).__module__].apply_rotary_pos_emb


def _heads(attention: Any, which: str, hidden: Tensor) -> Tensor:
    """Project and split into heads. Shape: ``(1, L, D)`` -> ``(1, H, L, d)``."""
    split = getattr(attention, f"{which}_proj")(hidden).unflatten(-1, (-1, attention.head_dim))
    norm = getattr(attention, f"{which}_norm", None)
    return (split if norm is None else norm(split)).transpose(1, 2)
