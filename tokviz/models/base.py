"""What the engine must know about a model family. One file per family implements it; no method, no hook here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from ..records import TokenGrid
from ..types import PlanningInfo


@dataclass(frozen=True)
class VisionTowerBlock:
    """The parts of one pre-norm vision block: ``x + attention(attention_norm(x))``, then ``x + mlp(mlp_norm(x))``.

    ``attention`` owns ``q_proj``, ``k_proj``, ``v_proj``, ``out_proj``, ``head_dim`` and ``scale``; every token attends
    to all tokens of its picture.
    """

    attention_norm: nn.Module
    attention: nn.Module
    mlp_norm: nn.Module
    mlp: nn.Module


@dataclass(frozen=True)
class VisionTower:
    """What is needed to run a vision tower block by block, with fewer tokens from block to block.

    embed: pixels ``(P, 3, H, W)`` -> what enters block 0, ``(P, 1 + N, D_v)`` ([CLS] first, where there is one).
    blocks: those that the features pass through, 23 of CLIP's 24 in LLaVA-1.5. What leaves the last one, without [CLS],
    is the argument of the projector.
    """

    embed: Callable[[Tensor], Tensor]
    blocks: Sequence[VisionTowerBlock]


@dataclass(frozen=True)
class PatchMerging:
    """A tower that takes the patches of all pictures in one sequence and merges them into tokens behind its blocks.

    tower: called with keyword ``grid_thw (n, 3)``, frames, rows and columns of patches of each picture or video; its
    output's ``pooler_output`` are the visual tokens ``(N, D)`` in the LLM's order. Attention stays within a frame in
    the blocks that ``vision_attention`` names.
    patches_per_token: 4 where 2 x 2 patches become one token; they lie next to each other inside the tower.
    places: ``grid_thw (n, 3) -> (N,)``, for every token in the LLM's order its place in the order of the tower.
    queries_and_keys: ``(attention, args, kwargs) -> (1, H, patches, d) each``, what the kernel would get, recomputed
    from the arguments of an attention module that cannot be tapped.
    """

    tower: nn.Module
    patches_per_token: int
    places: Callable[[Tensor], Tensor]
    queries_and_keys: Callable[[Any, tuple[Any, ...], Mapping[str, Any]], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class PictureTokens:
    """How what the vision tower made of one picture becomes its visual tokens.

    n_tiles: images that the tower saw of this picture (1 without tiling; thumbnail and crops otherwise).
    Shape, in the order in which the LLM receives the tokens: tile ``(n,)`` int64, which of these images a token belongs
    to. patch ``(n,)`` int64, the patch of that image (raster order) that it is made of, -1 for tokens that are no patch
    (newline).
    """

    n_tiles: int
    tile: Tensor
    patch: Tensor


class ModelFamily(Protocol):
    """WHERE visual tokens live in one family of models. Stateless: every call gets the model.

    ``id`` is the field's name of the family ("llava"), ``reindexes`` whether pruners may renumber positions (never for
    multi-dimensional rotary positions, ``methods.md`` 0.4), ``layout_arguments`` which arguments of the model's own
    ``get_image_features`` decide how many tokens a picture becomes (() where every picture becomes the same number).
    """

    id: str
    reindexes: bool
    layout_arguments: tuple[str, ...]

    def check(self, model: Any, processor: Any, name: str) -> None:
        """Raises Unsupported, with the checkpoint's ``name``, for variants that would be pruned or drawn wrongly."""

    def planned(self, config: Mapping[str, Any]) -> PlanningInfo:
        """What a ``config.json`` says about a square picture.

        Raises KeyError, TypeError or ValueError where it leaves something to transformers' defaults, or is damaged.
        """

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

    def vision_tower(self, model: Any) -> VisionTower | None:
        """The vision tower block by block; None where its tokens cannot become fewer on the way."""

    def patch_merging(self, model: Any) -> PatchMerging | None:
        """How patches become tokens where several are merged into one; None where every patch is a token."""

    def has_cls(self, model: Any) -> bool:
        """Whether row 0 of the vision sequence is a [CLS] token."""

    def pictures(
        self, model: Any, arguments: Mapping[str, Any], n_images: int, n_patches: int
    ) -> Sequence[PictureTokens]:
        """How the pictures of one call of ``get_image_features`` become visual tokens, in the order of the prompt.

        Args: arguments: those named in ``layout_arguments``; the projector was given ``n_images`` of ``n_patches``.
        """

    def projector(self, model: Any) -> nn.Module:
        """The module whose first argument is the encoder's patch features ``(pictures, N, D_v)`` ([CLS] removed)."""

    def project(self, model: Any, features: Tensor) -> Tensor:
        """Project encoder features that a pruner changed. Shape: ``(K, D_v)`` -> ``(K, D)``."""

    def vision_flops(self, model: Any, grid: TokenGrid) -> float:
        """Multiply-adds times two of the stock tower for one picture (or video) of this geometry."""

    def grid(self, model: Any, processor: Any, picture_size: tuple[int, int], inputs: Mapping[str, Any]) -> TokenGrid:
        """Geometry of the visual tokens of one picture of ``(width, height)`` pixels, as this processor cuts it."""
