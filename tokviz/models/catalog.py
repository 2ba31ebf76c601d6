"""The menu of models: what the page offers, and where each comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .memory import memory_gb

EMBEDDED_MODEL = "tokviz-tiny"
_ASSETS = Path(__file__).resolve().parents[2] / "assets"


@dataclass(frozen=True)
class CatalogEntry:
    """One model of the menu.

    revision: the commit of the hub that is loaded, None for the newest. config: what planning and the estimate of
    memory need of its ``config.json``, every size written out; None for the embedded model, whose file is at hand.
    visual_tokens: of the picture that becomes most of them.
    """

    id: str
    label: str
    family: str
    licence: str
    config: Mapping[str, Any] | None = None
    visual_tokens: int = 0
    revision: str | None = None
    note: str = ""

    @property
    def memory_gb(self) -> float:
        """Estimated GB in bfloat16, see ``memory.memory_gb`` (0 = negligible)."""
        return 0.0 if self.config is None else round(memory_gb(self.config, self.visual_tokens, 16), 1)

    @property
    def memory_gb_4bit(self) -> float:
        """Estimated GB with 4-bit linear layers (0 = negligible)."""
        return 0.0 if self.config is None else round(memory_gb(self.config, self.visual_tokens, 4), 1)


def _text(kind: str, hidden: int, intermediate: int, blocks: int, heads: int, kv_heads: int) -> dict[str, Any]:
    return {
        "model_type": kind, "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": blocks,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": 32064,
    }  # fmt: skip


_VICUNA_7B = _text("llama", 4096, 11008, 32, 32, 32)
_VICUNA_13B = _text("llama", 5120, 13824, 40, 40, 40)
_MISTRAL_7B = _text("mistral", 4096, 14336, 32, 32, 8)
_CLIP_L_336 = {
    "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
}  # fmt: skip


def _llava(text: Mapping[str, Any]) -> dict[str, Any]:
    return {"model_type": "llava", "vision_feature_layer": -2, "text_config": text, "vision_config": _CLIP_L_336}


def _llava_next(text: Mapping[str, Any]) -> dict[str, Any]:
    pinpoints = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    return {**_llava(text), "model_type": "llava_next", "image_grid_pinpoints": pinpoints}


def _qwen(kind: str, text: tuple[int, int, int, int, int], tied: bool) -> dict[str, Any]:
    """text: hidden size, MLP width, blocks, heads, key and value heads. All sizes of a kind have the same tower."""
    hidden, intermediate, blocks, heads, kv_heads = text
    vision = {
        "depth": 32, "num_heads": 16, "in_channels": 3, "patch_size": 14, "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }  # fmt: skip
    if kind == "qwen2_vl":
        vision |= {"embed_dim": 1280, "mlp_ratio": 4, "hidden_size": hidden}
    else:
        vision |= {"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": hidden}
    return {
        "model_type": kind, "tie_word_embeddings": tied, "vision_config": vision,
        "text_config": {
            **_text(f"{kind}_text", hidden, intermediate, blocks, heads, kv_heads),
            "vocab_size": 151936 if tied else 152064,
        },
        # Not of config.json: a picture of 1000 x 1000 px becomes 36 x 36 cells of 28 px.
        "visual_tokens": 36 * 36,
    }  # fmt: skip


_QWEN_MOST_TOKENS = 12845056 // 28**2
"""``longest_edge`` of the published processors, in pixels, over the pixels of a cell."""

CATALOG: tuple[CatalogEntry, ...] = (
    CatalogEntry(
        EMBEDDED_MODEL,
        "tokviz-tiny (embedded)",
        "llava",
        "apache-2.0",
        note="Trained by this project on drawn scenes; runs without network and GPU.",
    ),
    CatalogEntry("llava-hf/llava-1.5-7b-hf", "LLaVA-1.5 7B", "llava", "llama2", _llava(_VICUNA_7B), 576),
    CatalogEntry("llava-hf/llava-1.5-13b-hf", "LLaVA-1.5 13B", "llava", "llama2", _llava(_VICUNA_13B), 576),
    CatalogEntry(
        "llava-hf/llava-v1.6-vicuna-7b-hf", "LLaVA-NeXT 7B (Vicuna)", "llava_next", "llama2",
        _llava_next(_VICUNA_7B), 2928,
    ),
    CatalogEntry(
        "llava-hf/llava-v1.6-vicuna-13b-hf", "LLaVA-NeXT 13B (Vicuna)", "llava_next", "llama2",
        _llava_next(_VICUNA_13B), 2928,
    ),
    CatalogEntry(
        "llava-hf/llava-v1.6-mistral-7b-hf", "LLaVA-NeXT 7B (Mistral)", "llava_next", "apache-2.0",
        _llava_next(_MISTRAL_7B), 2928,
    ),
    CatalogEntry(
        "Qwen/Qwen2-VL-2B-Instruct", "Qwen2-VL 2B", "qwen2_vl", "apache-2.0",
        _qwen("qwen2_vl", (1536, 8960, 28, 12, 2), True), _QWEN_MOST_TOKENS,
        "895c3a49bc3fa70a340399125c650a463535e71c",
    ),
    CatalogEntry(
        "Qwen/Qwen2-VL-7B-Instruct", "Qwen2-VL 7B", "qwen2_vl", "apache-2.0",
        _qwen("qwen2_vl", (3584, 18944, 28, 28, 4), False), _QWEN_MOST_TOKENS,
        "eed13092ef92e448dd6875b2a00151bd3f7db0ac",
    ),
    CatalogEntry(
        "Qwen/Qwen2.5-VL-3B-Instruct", "Qwen2.5-VL 3B", "qwen2_5_vl", "qwen-research",
        _qwen("qwen2_5_vl", (2048, 11008, 36, 16, 2), True), _QWEN_MOST_TOKENS,
        "66285546d2b821cf421d4f5eb2576359d3770cd3", note="For research only.",
    ),
    CatalogEntry(
        "Qwen/Qwen2.5-VL-7B-Instruct", "Qwen2.5-VL 7B", "qwen2_5_vl", "apache-2.0",
        _qwen("qwen2_5_vl", (3584, 18944, 28, 28, 4), False), _QWEN_MOST_TOKENS,
        "cc594898137f460bfe9f0759e9844b3ce807cfb5",
    ),
)  # fmt: skip


def find(name: str) -> CatalogEntry | None:
    """The menu entry with this id, or None."""
    return next((entry for entry in CATALOG if entry.id == name), None)


def embedded_folder() -> Path:
    """Where the embedded checkpoint lies in the repository."""
    return _ASSETS / EMBEDDED_MODEL
