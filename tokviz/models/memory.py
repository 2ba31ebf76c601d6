"""How much memory a checkpoint takes, computed from its configuration: no torch, nothing loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

_TEXT_TOKENS = 512
"""Question, template and answer that an estimate allows for."""

# bitsandbytes: four bits per weight of a linear layer, and one float32 per block of 64 of them.
_BYTES_4_BIT = 0.5 + 4 / 64


@dataclass(frozen=True)
class Parameters:
    """Numbers in a checkpoint: weights of linear layers, which 4-bit loading shrinks, and all others."""

    linear: int
    other: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.linear + self.other


def parameters(config: Mapping[str, Any]) -> Parameters:
    """Of a LLaVA-like model: CLIP tower, two-layer projector, Llama-like decoder with its own output matrix.

    Args: config: as in ``config.json``, with every size written out (``text_config``, ``vision_config``).
    """
    text, vision = config["text_config"], config["vision_config"]
    d, v, blocks = text["hidden_size"], vision["hidden_size"], text["num_hidden_layers"]
    keys = d // text["num_attention_heads"] * text["num_key_value_heads"]
    decoder = blocks * (2 * d * d + 2 * d * keys + 3 * d * text["intermediate_size"])
    m, n_vision = vision["intermediate_size"], vision["num_hidden_layers"]
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    embeddings = v + 3 * vision["patch_size"] ** 2 * v + (patches + 1) * v
    tower = n_vision * (4 * v * v + 2 * v * m)
    tower_rest = embeddings + 4 * v + n_vision * (4 * v + m + v + 4 * v)
    newline = d if config["model_type"] == "llava_next" else 0
    return Parameters(
        linear=decoder + tower + v * d + d * d,
        other=2 * text["vocab_size"] * d + (2 * blocks + 1) * d + tower_rest + 2 * d + newline,
    )


def memory_gb(config: Mapping[str, Any], n_visual: int, bits: Literal[16, 4]) -> float:
    """An estimate in GB (10^9 bytes): weights, the unpruned KV cache of ``n_visual`` tokens and text, and what one block
    computes with during prefill. bits: 16 for bfloat16, 4 for bitsandbytes' 4-bit linear layers."""
    text, counted = config["text_config"], parameters(config)
    weights = counted.linear * (2 if bits == 16 else _BYTES_4_BIT) + counted.other * 2
    d, tokens = text["hidden_size"], n_visual + _TEXT_TOKENS
    keys = d // text["num_attention_heads"] * text["num_key_value_heads"]
    cache = 2 * text["num_hidden_layers"] * keys * tokens * 2
    activations = tokens * (4 * d + 3 * text["intermediate_size"]) * 2
    return float((weights + cache + activations) / 1e9)
