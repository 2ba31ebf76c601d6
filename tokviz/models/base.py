"""What the engine must know about a model family. One file per family implements it; no method, no hook here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import Unsupported
from ..names import Media, VideoFacts
from ..records import TokenGrid
from ..types import PlanningInfo, PublishedModel
from .catalog import PUBLISHED, CatalogEntry
from .geometry import stock_frames
from .shrinking import Shrunk

BOTH: tuple[Media, ...] = ("image", "video")
TowerLayer = Literal["feature", "last", "object", "shallow"]
"""A layer of the vision tower: whose output becomes the features, the last one, a middle one that follows objects, and
one a quarter of the way."""
_LARGEST = 2**40
"""No number of a configuration that counts something is larger."""


@dataclass(frozen=True)
class VisionTowerLayer:
    """The parts of one pre-norm vision layer: ``x + attention(attention_norm(x))``, then ``x + mlp(mlp_norm(x))``.

    ``attention`` owns ``q_proj``, ``k_proj``, ``v_proj``, ``out_proj``, ``head_dim`` and ``scale``; every token attends
    to all tokens of its image.
    """

    attention_norm: nn.Module
    attention: nn.Module
    mlp_norm: nn.Module
    mlp: nn.Module


@dataclass(frozen=True)
class VisionTower:
    """What is needed to run a vision tower layer by layer, with fewer tokens from layer to layer.

    embed: pixels ``(P, 3, H, W)`` -> what enters layer 0, ``(P, 1 + N, D_v)`` ([CLS] first, where there is one).
    layers: those that the features pass through, 23 of CLIP's 24 in LLaVA-1.5. What leaves the last one, without [CLS],
    is the argument of the projector.
    """

    embed: Callable[[Tensor], Tensor]
    layers: Sequence[VisionTowerLayer]


@dataclass(frozen=True)
class PatchMerging:
    """A tower that takes the patches of all images in one sequence and merges them into tokens behind its layers.

    tower: called with keyword ``grid_thw (n, 3)``, frames, rows and columns of patches of each image or video; its
    output's ``pooler_output`` are the visual tokens ``(N, D)`` in the LLM's order. Attention stays within a frame in
    the layers that ``vision_attention`` names.
    patches_per_token: 4 where 2 x 2 patches become one token; they lie next to each other inside the tower.
    tower_positions: ``grid_thw (n, 3) -> (N,)``, for every token in the LLM's order its position in the tower's order.
    queries_and_keys: ``(attention, args, kwargs) -> (1, H, patches, d) each``, what the kernel would get, recomputed
    from the arguments of an attention module that cannot be tapped.
    added_in_llm: behind how many of the LLM's first layers more of the tower's features are added (deepstack).
    """

    tower: nn.Module
    patches_per_token: int
    tower_positions: Callable[[Tensor], Tensor]
    queries_and_keys: Callable[[Any, tuple[Any, ...], Mapping[str, Any]], tuple[Tensor, Tensor]]
    added_in_llm: int = 0


@dataclass(frozen=True)
class ImageTokens:
    """How what the vision tower made of one image or video becomes its visual tokens.

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


def frames_as_tokens(videos: Tensor, patch: Tensor, sources: Tensor, n_patches: int) -> list[ImageTokens]:
    """Videos whose frames all become the same tokens, one frame after the other.

    Shape: videos ``(videos, frames, ...)``; of one frame patch ``(n,)`` and sources ``(n, k)`` as in ``ImageTokens``,
    and ``n_patches`` that the tower saw of it.
    """
    n_videos, n_frames = videos.shape[:2]
    frame, within = torch.arange(n_frames).repeat_interleave(len(patch)), sources.repeat(n_frames, 1)
    at = (within + frame[:, None] * n_patches).masked_fill(within < 0, -1)
    return [ImageTokens(n_frames, frame, patch.repeat(n_frames), at)] * n_videos


class Unplanned(Exception):
    """A ``config.json`` does not say what planning needs; loading will tell."""


def object_layer(depth: int, published: int = 9, of: int = 24) -> int:
    """Number, from 1, of the vision layer whose attention follows objects, in a tower of ``depth`` layers.

    In proportion to what HiPrune published, number 9 of CLIP's 24 and 16 of the 32 of Qwen2.5-VL, rounded down.
    """
    return max(1, depth * published // of)


def shallow_layer(depth: int) -> int:
    """Number, from 1, of the vision layer a quarter of the way: VScan's 6th of CLIP's 24, 8th of 32 of Qwen2.5-VL."""
    return max(1, depth // 4)


def stated(config: Mapping[str, Any], *path: str | int, least: int = 1) -> int:
    """The whole number that a ``config.json`` holds under this path, from ``least``. Raises Unplanned for none."""
    value = _stated(config, path)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _LARGEST:
        raise Unplanned(path)
    return value


def stated_text(config: Mapping[str, Any], *path: str | int) -> str:
    """The text that a ``config.json`` holds under this path. Raises Unplanned for none."""
    value = _stated(config, path)
    if not isinstance(value, str):
        raise Unplanned(path)
    return value


def stated_sides(config: Mapping[str, Any]) -> tuple[int, int]:
    """Sides in px of a tower's images and of their patches. Raises Unplanned where an image holds no patch."""
    side, patch = stated(config, "vision_config", "image_size"), stated(config, "vision_config", "patch_size")
    if patch > side:
        raise Unplanned("patch_size")
    return side, patch


def _stated(value: Any, path: Sequence[str | int]) -> Any:
    for name in path:
        if isinstance(name, str):
            value = value.get(name) if isinstance(value, Mapping) else None
        else:
            value = value[name] if isinstance(value, list) and name < len(value) else None
    return value


class ModelFamily(ABC):
    """WHERE visual tokens live in one family of models. Stateless: every call gets the model.

    Defaults are those of most families: every patch is a token, one linear or MLP projector, decoder of one axis.
    """

    id: str
    """The ``model_type`` of its ``config.json``, the field's name of the family."""
    takes: tuple[Media, ...] = ("image",)
    """What questions can be about."""
    reindexes: bool = True
    """Whether pruners may renumber positions: never for multi-dimensional rotary positions (``methods.md`` 0.4)."""
    projects_cls: bool = True
    """Whether the [CLS] feature, if any, is as wide as what enters the projector, so that it can become a token."""
    merges_patches: bool = False
    """Whether patches are merged or mixed into tokens behind the projector's input: no stage can lie before it."""
    published_as: PublishedModel | None = None
    """Of the models that papers publish their code for, the one whose settings hold here."""
    layout_arguments: tuple[str, ...] = ()
    """Arguments of the model's ``get_image_features`` and ``get_video_features`` that decide how many tokens an image
    or video becomes; () where every image becomes the same number."""
    placeholders: tuple[str, ...] = ("image_token_id",)
    """Names in the configuration of the token ids whose positions hold visual tokens."""
    attention_name = "self_attn"
    """Of the attention module inside a vision layer."""
    pixel_std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    """By what the published processors divide red, green and blue of 0 to 1: CLIP's, unless a family says otherwise."""

    @property
    def catalog(self) -> tuple[CatalogEntry, ...]:
        """The published checkpoints that the menu of models offers. Families of other packages list their own."""
        return tuple(entry for entry in PUBLISHED if entry.family == self.id and entry.config is not None)

    shrinks: tuple[Media, ...] = ()
    """What can be given to the model in fewer tokens, see ``shrunk``."""

    # -- from a configuration ------------------------------------------------------------------------------------------

    @abstractmethod
    def planned(self, config: Mapping[str, Any]) -> PlanningInfo:
        """What a ``config.json`` says about a square image.

        Raises Unplanned or Unsupported where it leaves something to transformers' defaults, or is damaged.
        """

    def planning(self, *, n_visual: int, n_layers: int, has_cls: bool, **known: Any) -> PlanningInfo:
        """What methods may know about a model of this family; ``known``: further fields of PlanningInfo."""
        known.setdefault("shrinks", ("video" if known.get("has_frames") else "image") in self.shrinks)
        return PlanningInfo(
            n_visual=n_visual,
            n_layers=n_layers,
            has_cls=has_cls,
            family=self.id,
            published_as=self.published_as,
            merges_patches=self.merges_patches,
            projects_cls=self.projects_cls,
            renumbers=self.reindexes,
            takes_video="video" in self.takes,
            **known,
        )

    # -- of a model and its processor ----------------------------------------------------------------------------------

    @abstractmethod
    def check(self, model: Any, processor: Any, name: str) -> None:
        """Raises Unsupported, with the checkpoint's ``name``, for variants that would be pruned or drawn wrongly."""

    @abstractmethod
    def grid(self, model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Any]) -> TokenGrid:
        """Geometry of the visual tokens of one image of ``(width, height)`` pixels, as this processor cuts it."""

    def sampled(self, processor: Any, facts: VideoFacts, wanted: int | None) -> list[int]:
        """The numbers (from 0, ascending) of the frames that this family looks at; ``wanted``: how many, None its own.

        Raises Unsupported for families that take no video.
        """
        if "video" not in self.takes:
            raise Unsupported(_NO_VIDEO)
        return stock_frames(processor, facts, wanted)

    def video_grid(self, model: Any, processor: Any, frame_size: tuple[int, int], n_frames: int) -> TokenGrid:
        """Geometry of ``n_frames`` sampled frames of ``(width, height)`` px; see ``GridView.frames``.

        Raises Unsupported for families that take no video.
        """
        raise Unsupported(_NO_VIDEO)

    # -- in fewer tokens -----------------------------------------------------------------------------------------------

    def shrunk(self, model: Any, processor: Any, grid: TokenGrid, tokens: int) -> Shrunk:
        """How the image or video of this ``grid`` becomes at most ``tokens`` visual tokens, of what is in ``shrinks``.

        The nearest number, with all frames of a video. Raises BadInput where it cannot become so few.
        """
        raise Unsupported("tokviz cannot give this model an image or video in fewer tokens.")

    def interpolating(self, model: Any) -> tuple[nn.Module, ...]:
        """The towers that must be told to interpolate their position embeddings for images of another size."""
        return ()

    def shrunk_features(self, model: Any, inputs: Mapping[str, Any], shrunk: Shrunk) -> Tensor | None:
        """What enters the LLM, where the stock model cannot pack smaller images itself; None where it does.

        Args: inputs: what the processor made, pixels of the size of ``shrunk.pixels`` by now. Shape: -> ``(N, D)``.
        """
        return None

    # -- the LLM -------------------------------------------------------------------------------------------------------

    def language_model(self, model: Any) -> Any:
        """The decoder that is called with ``inputs_embeds`` (keyword) and owns ``layers`` and ``rotary_emb``."""
        return model.base_model.language_model

    def layers(self, model: Any) -> Sequence[nn.Module]:
        """The LLM layers in order; each has ``self_attn`` with ``q_proj``, ``k_proj``, ``scaling``, ``head_dim``."""
        layers: Sequence[nn.Module] = self.language_model(model).layers
        return layers

    def visual_token_ids(self, model: Any) -> tuple[int, ...]:
        """Placeholder token ids (image, video) whose positions hold visual tokens."""
        return tuple(getattr(model.config, name) for name in self.placeholders)

    # -- the vision tower ----------------------------------------------------------------------------------------------

    @abstractmethod
    def vision_layer(self, model: Any, layer: TowerLayer, media: Media = "image") -> nn.Module:
        """The vision layer whose output becomes the features, the last, object or shallow one; see ``TowerLayer``.

        It returns ``(P, rows, D_v)``.
        Where images and videos have towers of their own, ``media`` says which; else both have the same layer.
        """

    def vision_layers(self, model: Any, media: Media = "image") -> Sequence[nn.Module]:
        """All layers of the tower that sees this medium, in order: the list that holds the last of ``vision_layer``."""
        last = self.vision_layer(model, "last", media)
        lists = (module for module in model.modules() if isinstance(module, nn.ModuleList))
        return next((list(found) for found in lists if any(layer is last for layer in found)), [last])

    def vision_attention(self, model: Any, layer: TowerLayer, media: Media = "image") -> nn.Module:
        """The attention module of ``vision_layer``."""
        attention: nn.Module = getattr(self.vision_layer(model, layer, media), self.attention_name)
        return attention

    def patch_embeddings(self, model: Any) -> list[nn.Conv2d]:
        """The convolutions (of images, of videos) that make an embedding of each patch of pixels, none overlapping."""
        sides = (self.sides(model)[1],) * 2
        found = (module for module in model.modules() if isinstance(module, nn.Conv2d))
        return [module for module in found if module.in_channels == 3 and module.kernel_size == module.stride == sides]

    def vision_tower(self, model: Any) -> VisionTower | None:
        """The vision tower layer by layer; None where its tokens cannot become fewer on the way."""
        return None

    def patch_merging(self, model: Any) -> PatchMerging | None:
        """How patches become tokens where several are merged behind the tower; None elsewhere."""
        return None

    def has_encoder_site(self, model: Any) -> bool:
        """Whether every visual token is one row of what enters the projector, so that stages can lie before it."""
        return not self.merges_patches

    def has_cls(self, model: Any) -> bool:
        """Whether row 0 of the vision sequence is a [CLS] token."""
        return False

    def images(self, model: Any, arguments: Mapping[str, Any], n_images: int, n_patches: int) -> Sequence[ImageTokens]:
        """How the images (or videos) of one call of the model's encoder become visual tokens, in the prompt's order.

        Args: arguments: those named in ``layout_arguments``, as far as the call had them (so they say whether it was
        about videos); the projector was given ``n_images`` of ``n_patches`` rows. By default every row is a token.
        """
        patch = torch.arange(n_patches)
        return [ImageTokens(1, torch.zeros_like(patch), patch)] * n_images

    def projector(self, model: Any) -> nn.Module:
        """The module whose first argument is the encoder's patch features ``(images, N, D_v)`` ([CLS] removed)."""
        projector: nn.Module = model.base_model.multi_modal_projector
        return projector

    def project(self, model: Any, features: Tensor) -> Tensor:
        """Project encoder features that a pruner changed. Shape: ``(K, D_v)`` -> ``(K, D)``."""
        projected: Tensor = self.projector(model)(features)
        return projected

    def sides(self, model: Any) -> tuple[int, int]:
        """Sides in px of the square images that the tower sees, and of their patches."""
        vision = model.config.vision_config
        return vision.image_size, vision.patch_size

    def vision_flops(self, model: Any, grid: TokenGrid) -> float:
        """Multiply-adds times two of the stock tower for one image (or video): all layers on every view."""
        vision, (side, patch) = model.config.vision_config, self.sides(model)
        length = (side // patch) ** 2 + int(self.has_cls(model))
        lengths = [length] * vision.num_hidden_layers * len(grid.views)
        return prefill_flops(lengths, vision.hidden_size, vision.intermediate_size)


_NO_VIDEO = "This model answers questions about images, not about videos; choose a model that takes videos."


# -- FLOPs by formula, to compare runs of one model -------------------------------------------------------------------


def prefill_flops(tokens_per_layer: Sequence[int], d: int, m: int) -> float:
    """FLOPs of one forward pass: sum over layers of 4nd² + 2n²d + 2ndm.

    Source: ToDRE (``papers/todre.md`` section 3.1, Eq. 1), generalised from T equal layers to a count per layer. As in
    the paper one multiply-add counts once, and a gated FFN's third matrix and grouped keys are not considered; use it
    to compare runs of one model, not as a count of instructions.

    Args: tokens_per_layer ``(T,)`` sequence lengths n; d hidden size; m FFN width.
    """
    return float(sum(4 * n * d * d + 2 * n * n * d + 2 * n * d * m for n in tokens_per_layer))


def merging_flops(entering: Sequence[int], leaving: Sequence[int], d: int, m: int) -> float:
    """FLOPs of layers that merge between attention and MLP: sum of 4nd² + 2n²d + 2n'dm, from n to n' tokens.

    ``prefill_flops`` with the two halves of a layer at their own lengths; what the matching itself costs is left out.

    Args: entering, leaving ``(T,)`` tokens per layer; d hidden size; m MLP width.
    """
    pairs = zip(entering, leaving, strict=True)
    return float(sum(4 * n * d * d + 2 * n * n * d + 2 * rest * d * m for n, rest in pairs))


def decode_flops(tokens_per_layer: Sequence[int], d: int, m: int, new_tokens: int) -> float:
    """FLOPs of decoding: sum over layers and steps t = 1…new_tokens of 4d² + 2d(n + t − 1) + 2dm.

    Source: ToDRE Eq. 2, with the KV-cache length n of each layer its own.
    """
    return float(
        sum(4 * d * d + 2 * d * (n + step) + 2 * d * m for n in tokens_per_layer for step in range(new_tokens))
    )
