"""How much memory a checkpoint takes, computed from its sizes: no torch, nothing loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

_TEXT_TOKENS = 512
"""Question, template and answer that an estimate allows for."""

_BYTES = {16: 2.0, 8: 1.0, 4: 0.5 + 4 / 64}
"""Of a weight of a linear layer. bitsandbytes: 8 bits; or 4 bits, and one float32 per block of 64 weights."""


@dataclass(frozen=True)
class Parameters:
    """Numbers in a checkpoint: weights of linear layers, which 4-bit loading shrinks, and all others.

    The output matrix counts among the others, and once with the embeddings where they are tied: it is never shrunk.
    """

    linear: int
    other: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.linear + self.other


def weights_gb(parameters: Parameters, bits: Literal[16, 8, 4]) -> float:
    """GB (10^9 bytes) of the weights: bfloat16, or bitsandbytes' 8-bit or 4-bit linear layers."""
    return (parameters.linear * _BYTES[bits] + parameters.other * 2) / 1e9


def memory_gb(parameters: Parameters, text_config: Mapping[str, Any], n_visual: int, bits: Literal[16, 8, 4]) -> float:
    """An estimate in GB (10^9 bytes): weights, the unpruned KV cache, and what one block computes with during prefill.

    Args: text_config: of the decoder, as in ``config.json``. n_visual: tokens of the picture, to which those of a short
    question are added. bits: 16 for bfloat16, 8 or 4 for bitsandbytes' linear layers.
    """
    d, tokens = text_config["hidden_size"], n_visual + _TEXT_TOKENS
    head = text_config.get("head_dim") or d // text_config["num_attention_heads"]
    keys = head * text_config["num_key_value_heads"]
    cache = 2 * text_config["num_hidden_layers"] * keys * tokens * 2
    activations = tokens * (4 * d + 3 * text_config["intermediate_size"]) * 2
    return float(weights_gb(parameters, bits) + (cache + activations) / 1e9)
