"""The menu of models: published checkpoints (``catalog.json``), their sizes in memory, the embedded ones. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..files import resource
from ..names import Media

EMBEDDED_MODEL = "tokviz-tiny"
EMBEDDED_VIDEO_MODEL = "tokviz-tiny-video"
EMBEDDED = (EMBEDDED_MODEL, EMBEDDED_VIDEO_MODEL)

_TEXT_TOKENS = 512
"""Question, template and answer that an estimate allows for."""
_BYTES = {16: 2.0, 8: 1.0, 4: 0.5 + 4 / 64}
"""Of a weight of a linear layer. bitsandbytes: 8 bits; or 4 bits, and one float32 per block of 64 weights."""


def embedded_folder(name: str = EMBEDDED_MODEL) -> Path:
    """Locate an embedded checkpoint."""
    return resource(f"assets/{name}")


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
    """An estimate in GB (10^9 bytes): weights, the unpruned KV cache, and what one layer computes with during prefill.

    Args: text_config: of the decoder, as in ``config.json``. n_visual: tokens of the image, to which those of a short
    question are added. bits: 16 for bfloat16, 8 or 4 for bitsandbytes' linear layers.
    """
    d, tokens = text_config["hidden_size"], n_visual + _TEXT_TOKENS
    head = text_config.get("head_dim") or d // text_config["num_attention_heads"]
    keys = head * text_config["num_key_value_heads"]
    cache = 2 * text_config["num_hidden_layers"] * keys * tokens * 2
    activations = tokens * (4 * d + 3 * text_config["intermediate_size"]) * 2
    return float(weights_gb(parameters, bits) + (cache + activations) / 1e9)


def size_words(count: int) -> str:
    """A number of parameters for people: ``3.5 M``, ``7.1 B``."""
    return f"{count / 1e9:.1f} B" if count >= 1e9 else f"{count / 1e6:.{0 if count >= 1e8 else 1}f} M"


@dataclass(frozen=True)
class CatalogEntry:
    """One model of the menu.

    config: what planning and the estimate of memory need of its ``config.json``, every size written out (and
    ``visual_tokens`` of a square image, where no configuration says them); None for the embedded models, whose files
    are at hand. parameters: the numbers in its checkpoint (a test builds the model from ``config`` without weights and
    counts). visual_tokens: of the image that becomes most of them. revision: the commit of the hub that is loaded,
    None for the newest. takes: what it was trained to answer questions about.
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
    takes: tuple[Media, ...] = ("image",)

    @property
    def memory_gb(self) -> float:
        """Estimated GB in bfloat16, see ``memory_gb`` (0 = negligible)."""
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


def _published() -> tuple[CatalogEntry, ...]:
    written: list[dict[str, Any]] = json.loads(Path(__file__).with_name("catalog.json").read_text(encoding="utf-8"))
    for entry in written:
        entry["takes"] = tuple(entry["takes"])
        entry["parameters"] = Parameters(**entry["parameters"]) if "parameters" in entry else None
    return tuple(CatalogEntry(**entry) for entry in written)


PUBLISHED = _published()
"""The embedded models and the published checkpoints of the families of this package, as ``catalog.json`` lists them."""

if TYPE_CHECKING:
    CATALOG: tuple[CatalogEntry, ...]


def __getattr__(name: str) -> Any:
    """``CATALOG``, put together when it is first asked for: families of other packages may stand in it."""
    if name == "CATALOG":
        return _catalog()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _catalog() -> tuple[CatalogEntry, ...]:
    from .families import FAMILIES  # families name their own entries

    known = {entry.id for entry in PUBLISHED}
    others = (entry for family in FAMILIES.values() for entry in family.catalog if entry.id not in known)
    return (*PUBLISHED, *others)


def find(name: str) -> CatalogEntry | None:
    """The menu entry with this id, or None."""
    return next((entry for entry in _catalog() if entry.id == name), None)
