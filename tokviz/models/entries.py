"""What an entry of the menu of models says, and sizes that published checkpoints share. Families list their entries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..names import Media
from .memory import Parameters, memory_gb


@dataclass(frozen=True)
class CatalogEntry:
    """One model of the menu.

    config: what planning and the estimate of memory need of its ``config.json``, every size written out; None for the
    embedded model, whose file is at hand. parameters: the numbers in its checkpoint (a test builds the model from
    ``config`` without weights and counts). visual_tokens: of the picture that becomes most of them. revision: the
    commit of the hub that is loaded, None for the newest. takes: what it was trained to answer questions about.
    """

    id: str
    label: str
    family: str
    licence: str
    config: Mapping[str, Any] | None = None
    parameters: Parameters | None = None
    visual_tokens: int = 0
    revision: str | None = None
    note: str = ""
    takes: tuple[Media, ...] = ("picture",)

    @property
    def memory_gb(self) -> float:
        """Estimated GB in bfloat16, see ``memory.memory_gb`` (0 = negligible)."""
        return self.estimated_gb(16)

    @property
    def memory_gb_4bit(self) -> float:
        """Estimated GB with 4-bit linear layers (0 = negligible)."""
        return self.estimated_gb(4)

    def estimated_gb(self, bits: Literal[16, 8, 4]) -> float:
        """Estimated GB with linear layers of so many bits (0 = negligible)."""
        if self.config is None or self.parameters is None:
            return 0.0
        return round(memory_gb(self.parameters, self.config["text_config"], self.visual_tokens, bits), 1)

    @property
    def size(self) -> str:
        """Numbers in the checkpoint, for people: ``7.1 B``."""
        return "" if self.parameters is None else size_words(self.parameters.total)


def size_words(count: int) -> str:
    """A number of parameters for people: ``3.5 M``, ``7.1 B``."""
    return f"{count / 1e9:.1f} B" if count >= 1e9 else f"{count / 1e6:.{0 if count >= 1e8 else 1}f} M"


def decoder(kind: str, hidden: int, intermediate: int, blocks: int, heads: int, kv_heads: int,
            vocabulary: int = 32064) -> dict[str, Any]:  # fmt: skip
    """``text_config`` of a Llama-like decoder."""
    return {
        "model_type": kind, "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": blocks,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocabulary,
    }  # fmt: skip


VICUNA_7B = decoder("llama", 4096, 11008, 32, 32, 32)
VICUNA_13B = decoder("llama", 5120, 13824, 40, 40, 40)
MISTRAL_7B = decoder("mistral", 4096, 14336, 32, 32, 8)
CLIP_L_336 = {
    "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
}  # fmt: skip
"""The tower of LLaVA-1.5 and LLaVA-NeXT."""
