"""What the engine must know about a model family. One file per family implements it; no method, no hook here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from ..errors import Unsupported
from ..names import Media, VideoFacts
from ..records import TokenGrid
from ..types import PlanningInfo
from .entries import CatalogEntry


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
    added_in_llm: behind how many of the LLM's first blocks more of the tower's features are added (deepstack).
    """

    tower: nn.Module
    patches_per_token: int
    places: Callable[[Tensor], Tensor]
    queries_and_keys: Callable[[Any, tuple[Any, ...], Mapping[str, Any]], tuple[Tensor, Tensor]]
    added_in_llm: int = 0


@dataclass(frozen=True)
class PictureTokens:
    """How what the vision tower made of one picture or video becomes its visual tokens.

    n_tiles: images that the tower saw of it (1 without tiling; thumbnail and crops; the frames of a video).
    Shape, in the order in which the LLM receives the tokens: tile ``(n,)`` int64, which of these images a token belongs
    to. patch ``(n,)`` int64, the row of that image, of those that enter the projector, that it is made of (a patch in
    raster order, mostly), -1 for tokens that are no patch (newline, video [CLS]).
    sources ``(n, k)`` int64: where a token is not one patch of the tower, the patches ([CLS] not counted) whose signals
    it takes, as ``tile * patches + patch``, -1 for none; weights ``(n, k)``: how much of each, None for their mean.
    """

    n_tiles: int
    tile: Tensor
    patch: Tensor
    sources: Tensor | None = None
    weights: Tensor | None = None


class PicturesOnly:
    """The part of a family that takes pictures and no video."""

    takes: tuple[Media, ...] = ("picture",)

    def sampled(self, processor: Any, facts: VideoFacts, wanted: int | None) -> list[int]:
        """Raises Unsupported."""
        raise Unsupported(_NO_VIDEO)

    def video_grid(self, model: Any, processor: Any, frame_size: tuple[int, int], n_frames: int) -> TokenGrid:
        """Raises Unsupported."""
        raise Unsupported(_NO_VIDEO)


_NO_VIDEO = "This model answers questions about pictures, not about videos; choose a model that takes videos."


class ModelFamily(Protocol):
    """WHERE visual tokens live in one family of models. Stateless: every call gets the model.

    ``id`` is the field's name of the family ("llava"), ``takes`` what questions can be about, ``reindexes`` whether
    pruners may renumber positions (never for multi-dimensional rotary positions, ``methods.md`` 0.4),
    ``layout_arguments`` which arguments of the model's own ``get_image_features`` and ``get_video_features`` decide how
    many tokens a picture or video becomes (() where every picture becomes the same number). ``catalog``: the published
    checkpoints that the menu of models offers. ``projects_cls``: whether the [CLS] token's feature, if any, is as wide
    as what enters the projector, so that it can become a token.
    """

    reindexes: bool
    projects_cls: bool

    @property
    def id(self) -> str:
        """See above."""

    @property
    def catalog(self) -> tuple[CatalogEntry, ...]:
        """See above."""

    @property
    def takes(self) -> tuple[Media, ...]:
        """See above."""

    @property
    def layout_arguments(self) -> tuple[str, ...]:
        """See above."""

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

    def vision_attention(self, model: Any, block: Literal["feature", "last"], media: Media = "picture") -> nn.Module:
        """The attention module of the vision block whose output becomes the features, or of the last block.

        Where pictures and videos have towers of their own, ``media`` says which; else both have the same module.
        """

    def vision_block(self, model: Any, block: Literal["feature", "last"], media: Media = "picture") -> nn.Module:
        """The vision block whose output becomes the features, or the last one; returns ``(P, rows, D_v)``."""

    def vision_tower(self, model: Any) -> VisionTower | None:
        """The vision tower block by block; None where its tokens cannot become fewer on the way."""

    def patch_merging(self, model: Any) -> PatchMerging | None:
        """How patches become tokens where several are merged into one; None where every patch is a token."""

    def has_encoder_site(self, model: Any) -> bool:
        """Whether every visual token is one row of what enters the projector, so that stages can lie before it."""

    def has_cls(self, model: Any) -> bool:
        """Whether row 0 of the vision sequence is a [CLS] token."""

    def pictures(
        self, model: Any, arguments: Mapping[str, Any], n_images: int, n_patches: int
    ) -> Sequence[PictureTokens]:
        """How the pictures (or videos) of one call of the model's encoder become visual tokens, in the prompt's order.

        Args: arguments: those named in ``layout_arguments``, as far as the call had them (so they say whether it was
        about videos); the projector was given ``n_images`` of ``n_patches`` rows.
        """

    def projector(self, model: Any) -> nn.Module:
        """The module whose first argument is the encoder's patch features ``(pictures, N, D_v)`` ([CLS] removed)."""

    def project(self, model: Any, features: Tensor) -> Tensor:
        """Project encoder features that a pruner changed. Shape: ``(K, D_v)`` -> ``(K, D)``."""

    def vision_flops(self, model: Any, grid: TokenGrid) -> float:
        """Multiply-adds times two of the stock tower for one picture (or video) of this geometry."""

    def grid(self, model: Any, processor: Any, picture_size: tuple[int, int], inputs: Mapping[str, Any]) -> TokenGrid:
        """Geometry of the visual tokens of one picture of ``(width, height)`` pixels, as this processor cuts it."""

    def sampled(self, processor: Any, facts: VideoFacts, wanted: int | None) -> list[int]:
        """The numbers (from 0, ascending) of the frames that this family looks at; ``wanted``: how many, None its own.

        Raises Unsupported for families that take no video.
        """

    def video_grid(self, model: Any, processor: Any, frame_size: tuple[int, int], n_frames: int) -> TokenGrid:
        """Geometry of ``n_frames`` sampled frames of ``(width, height)`` px; see ``GridView.frames``.

        Raises Unsupported for families that take no video.
        """
