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

    revision: the commit of the hub that is loaded, None for the newest. config: the sizes of its ``config.json`` written
    out, as far as planning and the estimate of memory need them; None for the embedded model, whose file is at hand.
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
)  # fmt: skip


def find(name: str) -> CatalogEntry | None:
    """The menu entry with this id, or None."""
    return next((entry for entry in CATALOG if entry.id == name), None)


def embedded_folder() -> Path:
    """Where the embedded checkpoint lies in the repository."""
    return _ASSETS / EMBEDDED_MODEL
