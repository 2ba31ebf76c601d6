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
    """Of a checkpoint of a supported architecture.

    Args: config: as in ``config.json``, with every size written out (``text_config``, ``vision_config``).
    """
    return _of_qwen(config) if config["model_type"].startswith("qwen") else _of_llava(config)


def _of_qwen(config: Mapping[str, Any]) -> Parameters:
    """Tower with fused projections and merger; decoder whose q, k and v have biases, output matrix tied or not."""
    text, vision = config["text_config"], config["vision_config"]
    d, blocks, inner = text["hidden_size"], text["num_hidden_layers"], text["intermediate_size"]
    keys = d // text["num_attention_heads"] * text["num_key_value_heads"]
    matrices = 1 if config["tie_word_embeddings"] else 2
    gated = config["model_type"] == "qwen2_5_vl"  # gated MLP and RMS norms without bias
    v = vision["hidden_size"] if gated else vision["embed_dim"]
    m = vision["intermediate_size"] if gated else v * vision["mlp_ratio"]
    norm, merged = v if gated else 2 * v, v * vision["spatial_merge_size"] ** 2
    tower = vision["depth"] * (4 * v * v + (3 if gated else 2) * v * m)
    tower_rest = vision["depth"] * (2 * norm + 4 * v + (2 if gated else 1) * m + v) + norm
    patch = vision["in_channels"] * vision["temporal_patch_size"] * vision["patch_size"] ** 2 * v
    return Parameters(
        linear=blocks * (2 * d * d + 2 * d * keys + 3 * d * inner) + tower + merged * merged + merged * d,
        other=matrices * text["vocab_size"] * d + blocks * (3 * d + 2 * keys) + d + tower_rest + patch + merged + d,
    )


def _of_llava(config: Mapping[str, Any]) -> Parameters:
    """CLIP tower, two-layer projector, Llama-like decoder with its own output matrix."""
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
    """An estimate in GB (10^9 bytes): weights, the unpruned KV cache, and what one block computes with during prefill.

    Args: n_visual: tokens of the picture, to which those of a short question are added. bits: 16 for bfloat16, 4 for
    bitsandbytes' 4-bit linear layers.
    """
    text, counted = config["text_config"], parameters(config)
    weights = counted.linear * (2 if bits == 16 else _BYTES_4_BIT) + counted.other * 2
    d, tokens = text["hidden_size"], n_visual + _TEXT_TOKENS
    keys = d // text["num_attention_heads"] * text["num_key_value_heads"]
    cache = 2 * text["num_hidden_layers"] * keys * tokens * 2
    activations = tokens * (4 * d + 3 * text["intermediate_size"]) * 2
    return float((weights + cache + activations) / 1e9)
