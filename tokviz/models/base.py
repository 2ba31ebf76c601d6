"""What the engine must know about a model family. One file per family implements it; no method, no hook here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from ..records import TokenGrid


class ModelFamily(Protocol):
    """WHERE visual tokens live in one family of models. Stateless: every call gets the model.

    ``id`` is the field's name of the family ("llava"), ``reindexes`` whether pruners may renumber positions (never for
    multi-dimensional rotary positions, ``methods.md`` 0.4).
    """

    id: str
    reindexes: bool

    def language_model(self, model: Any) -> Any:
        """The decoder that is called with ``inputs_embeds`` (keyword) and owns ``layers`` and ``rotary_emb``."""

    def blocks(self, model: Any) -> Sequence[nn.Module]:
        """The LLM blocks in order; each has ``self_attn`` with ``q_proj``, ``k_proj``, ``scaling``, ``head_dim``."""

    def visual_token_ids(self, model: Any) -> tuple[int, ...]:
        """Placeholder token ids (image, video) whose positions hold visual tokens."""

    def vision_attention(self, model: Any, block: Literal["feature", "last"]) -> nn.Module:
        """The attention module of the vision block whose output becomes the features, or of the last block."""

    def vision_block(self, model: Any, block: Literal["feature", "last"]) -> nn.Module:
        """The vision block whose output becomes the features, or the last one; returns ``(P, rows, D_v)``."""

    def has_cls(self, model: Any) -> bool:
        """Whether row 0 of the vision sequence is a [CLS] token."""

    def projector(self, model: Any) -> nn.Module:
        """The module whose first argument is the encoder's patch features ``(pictures, N, D_v)`` ([CLS] removed)."""

    def project(self, model: Any, features: Tensor) -> Tensor:
        """Project encoder features that a pruner changed. Shape: ``(K, D_v)`` -> ``(K, D)``."""

    def grid(self, model: Any, processor: Any, picture_size: tuple[int, int], inputs: Mapping[str, Any]) -> TokenGrid:
        """Geometry of the visual tokens of one picture of ``(width, height)`` pixels, as this processor cuts it."""
