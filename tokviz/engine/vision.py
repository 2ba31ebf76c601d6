"""The vision tower is watched: what it says of the visual tokens, kept for the stages.

Two kinds of tower: one that keeps a token per patch up to the projector, and one (Qwen) that takes the patches of all
images of a prompt as one sequence, attends within frames and merges several patches into one token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import Unsupported
from ..models.base import ImageTokens, ModelFamily, TowerLayer
from ..types import Need
from .capture import (
    CLS_LOOKS,
    RECEIVED_LOOKS,
    Active,
    Look,
    after_forward,
    before_forward,
    lifted,
    watch_attention,
    watched_encoding,
)
from .merged_vision import MergedVisionCapture
from .vision_signals import LOOKS, VISION_KINDS, Capture, PerLayer, VisionSignals, as_seen, tower_layer


@contextmanager
def captured(
    model: Any,
    family: ModelFamily,
    needs: Iterable[Need],
    active: Active,
    arguments: Mapping[str, Any] | None = None,
) -> Iterator[Capture]:
    """Watch the vision tower until the context is left; ``active`` says whether the current thread's run is ours.

    arguments: Those of the model's own encoder that decide the layout, where the caller knows them.
    """
    wanted: dict[TowerLayer, set[str]] = {}
    for need in needs:
        if need.kind in VISION_KINDS and need.kind != "encoder_features":  # what leaves the tower is always kept
            wanted.setdefault(tower_layer(need), set()).add(need.kind)
    merging = family.patch_merging(model)
    with ExitStack() as stack:
        if merging is None:
            capture = VisionCapture(model, family, arguments)
            capture.watch(stack, wanted, active)
            yield capture
        else:
            shown = any("pixels" in kinds for kinds in wanted.values())
            wanted = {layer: kinds - {"pixels"} for layer, kinds in wanted.items()}
            std = family.pixel_std if shown else None
            merged = MergedVisionCapture(merging, set().union(*wanted.values()), std)
            merged.watch(stack, active)
            # Both other layers that a need can name are the same one here.
            apart: tuple[TowerLayer, ...] = ("object", "shallow")
            watched: dict[TowerLayer, set[str]] = {layer: wanted.pop(layer, set()) for layer in apart}
            watched["last"] = set().union(*wanted.values())
            for layer, kinds in watched.items():
                if kinds:
                    merged.watch_attention(stack, family.vision_attention(model, layer), kinds, active)
            yield merged


# -- a token per patch -------------------------------------------------------------------------------------------------


@dataclass
class _ImagesRun:
    """A run of images of ``P`` patches each. Shape: features ``(images, P, D_v)``.

    arguments: what else decides which tokens the images become.
    """

    model: Any
    family: ModelFamily
    features: Tensor
    seen: PerLayer
    arguments: Mapping[str, Any]

    @cached_property
    def images(self) -> Sequence[ImageTokens]:
        """How the images of the prompt become its tokens."""
        n_images, per_image = self.features.shape[:2]
        images = self.family.images(self.model, self.arguments, n_images, per_image)
        if images and images[0].sources is None:
            _check_sizes(self.seen, per_image)
        return images

    def n_tokens(self) -> int:
        return sum(len(image.patch) for image in self.images)

    def split(self, counts: Sequence[int]) -> list[VisionSignals]:
        rows, first, images = [], 0, list(self.images)
        for count in counts:
            mine = _first_images(images, count)
            rows.append(self._row(mine, first))
            first += sum(image.n_tiles for image in mine)
            images = images[len(mine) :]
        return rows

    def _row(self, images: Sequence[ImageTokens], first: int) -> VisionSignals:
        """The signals of a row whose images begin with the tower's image number ``first``."""
        per_image, device = self.features.shape[1], self.features.device
        tiles = [image.n_tiles for image in images]
        nobody = torch.empty(0, dtype=torch.int64)
        view = torch.cat([nobody, *(image.tile + sum(tiles[:i]) for i, image in enumerate(images))])
        patch = torch.cat([nobody, *(image.patch for image in images)])
        absent, part = patch < 0, slice(first, first + sum(tiles))
        source = ((first + view) * per_image + patch).clamp(min=0)

        def of_row(kind: str, values: Tensor) -> Tensor:
            if kind == "cls_feature":
                return values[part]
            if kind == "pixels":
                return _blanked(_side_by_side(values[part], images), absent, 0.0)
            if images and images[0].sources is not None:
                mine = _mixed(values[part], images)
            else:
                mine = values.flatten(0, 1)[source.to(values.device)]
            return _blanked(mine, absent, torch.nan if kind in CLS_LOOKS else 0.0)

        return VisionSignals(
            features=_blanked(self.features.flatten(0, 1)[source.to(device)], absent, 0.0),
            seen={
                kind: {layer: of_row(kind, values) for layer, values in layers.items()}
                for kind, layers in self.seen.items()
            },
            view=view.to(device) if sum(tiles) > 1 else None,
            patch=(~absent).to(device) if bool(absent.any()) else None,
            n_images=len(images),
        )


def _blanked(values: Tensor, absent: Tensor, missing: float) -> Tensor:
    """``values`` of every token with ``missing`` where none is there."""
    if not bool(absent.any()):
        return values
    return values.masked_fill(absent.to(values.device).reshape(-1, *[1] * (values.dim() - 1)), missing)


def _check_sizes(seen: PerLayer, per_image: int) -> None:
    for kind, layers in seen.items():
        for name, values in layers.items():
            if kind != "cls_feature" and values.shape[1] != per_image:
                raise Unsupported(
                    f"The {name} vision layer sees {values.shape[1]} patches per image but {per_image} "
                    "features enter the projector; only vision_feature_select_strategy='default' is supported."
                )


def _first_images(images: Sequence[ImageTokens], count: int) -> list[ImageTokens]:
    """The images at the front that together make ``count`` tokens."""
    mine: list[ImageTokens] = []
    for image in images:
        if count <= 0:
            break
        mine.append(image)
        count -= len(image.patch)
    if count:
        raise Unsupported("A row of the batch holds a part of an image's tokens; keep every image in one row.")
    return mine


def _mixed(values: Tensor, images: Sequence[ImageTokens]) -> Tensor:
    """What tokens see that stand for several patches of the tower each: the weighted mean, 0 for those of none.

    Shape: values ``(images, patches, ...)``, of which each image takes its next ones -> ``(n, ...)``.
    """
    rows, first = [], 0
    for image in images:
        if image.sources is None:
            raise TypeError("either all images of a prompt name the sources of their tokens or none does")
        patches = lifted(values[first : first + image.n_tiles].flatten(0, 1))
        sources = image.sources.to(patches.device)
        given = sources >= 0
        if image.weights is None:
            weights = given / given.sum(dim=1, keepdim=True).clamp(min=1)
        else:
            weights = image.weights.to(patches.device) * given
        weights = weights.to(patches.dtype).reshape(*weights.shape, *[1] * (patches.dim() - 1))
        rows.append((patches[sources.clamp(min=0)] * weights).sum(dim=1))
        first += image.n_tiles
    return torch.cat(rows)


def _side_by_side(values: Tensor, images: Sequence[ImageTokens]) -> Tensor:
    """What all the patches show that a token stands for, one after the other, 0 for those that are none.

    Shape: values ``(images, patches, P)``, of which each image takes its next ones -> ``(n, k P)``.
    """
    rows, first = [values.new_empty(0, values.shape[2])] if not images else [], 0
    for image in images:
        patches = values[first : first + image.n_tiles].flatten(0, 1)
        own = (image.tile * values.shape[1] + image.patch).masked_fill(image.patch < 0, -1)[:, None]
        sources = (own if image.sources is None else image.sources).to(values.device)
        rows.append(patches[sources.clamp(min=0)].masked_fill((sources < 0)[..., None], 0.0).flatten(1))
        first += image.n_tiles
    return torch.cat(rows)


class VisionCapture(Capture):
    """Of a tower that keeps a token per patch up to the projector."""

    def __init__(self, model: Any, family: ModelFamily, arguments: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._model, self._family, self._arguments = model, family, arguments
        self._first = int(family.has_cls(model))

    def watch(self, stack: ExitStack, wanted: Mapping[TowerLayer, set[str]], active: Active) -> None:
        """Put hooks and taps in place until ``stack`` is left."""
        family, model = self._family, self._model
        if family.layout_arguments and self._arguments is None:
            stack.enter_context(watched_encoding(model.base_model, self.see_encoding, active))
        stack.callback(before_forward(family.projector(model), self.see_projector, active))
        for layer, kinds in wanted.items():
            # Once each: images and videos mostly pass through the same tower.
            if looks := kinds & LOOKS.keys():
                for attention in dict.fromkeys(family.vision_attention(model, layer, media) for media in family.takes):
                    self._watch(stack, attention, layer, looks, active)
            if "cls_feature" in kinds:
                for whole in dict.fromkeys(family.vision_layer(model, layer, media) for media in family.takes):
                    stack.callback(after_forward(whole, self._cls_hook(layer), active))
            if "pixels" in kinds:
                for embedding in family.patch_embeddings(model):
                    stack.callback(before_forward(embedding, self._pixel_hook(embedding, layer), active))

    def _watch(self, stack: ExitStack, attention: Any, layer: str, kinds: set[str], active: Active) -> None:
        def heads(which: Literal["q", "k"], hidden: Tensor) -> Tensor:
            """Queries or keys as the kernel would get them. Shape: ``(P, n, D_v)`` -> ``(P, H, n, d)``."""
            made = getattr(attention, f"{which}_proj")(hidden)
            norm = getattr(attention, f"{which}_norm", None)  # over all heads together, as InternVL has it
            return (made if norm is None else norm(made)).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)

        def recompute(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, float]:
            hidden = args[0] if args else kwargs["hidden_states"]
            asking = hidden if kinds & RECEIVED_LOOKS.keys() else hidden[:, :1]
            return heads("q", asking), heads("k", hidden), attention.scale

        def see(query: Tensor, key: Tensor, scaling: float) -> None:
            for kind in kinds:
                self._keep(kind, layer, self._look(kind)(query, key, scaling)[:, self._first :])

        watch_attention(stack, attention, see, recompute, active)

    def _look(self, kind: str) -> Look:
        return LOOKS["cls_attention" if kind == "shallow_attention" and self._first else kind]

    def _cls_hook(self, layer: TowerLayer) -> Callable[[Any, Any], None]:
        def see(_kwargs: Any, output: Any) -> None:
            hidden = output if isinstance(output, Tensor) else output[0]
            self._keep("cls_feature", layer, hidden[:, 0])

        return see

    def _pixel_hook(self, embedding: nn.Conv2d, layer: TowerLayer) -> Callable[[Any, Any], None]:
        def see(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            images = args[0] if args else kwargs["input"]
            cut = torch.nn.functional.unfold(lifted(images), embedding.kernel_size, stride=embedding.stride)
            self._keep("pixels", layer, as_seen(cut.transpose(1, 2), self._family.pixel_std))

        return see

    def _keep(self, kind: str, layer: str, values: Tensor) -> None:
        self._local.__dict__.setdefault("pending", {}).setdefault(kind, {})[layer] = values

    def see_encoding(self, arguments: Mapping[str, Any]) -> None:
        """Before images are encoded: remember what decides their layout."""
        self._local.arguments = arguments

    def see_projector(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Pre-hook of the projector: the features of all images of the prompt, in one call."""
        features = args[0] if args else next(iter(kwargs.values()))
        given = self._local.__dict__.pop("arguments", self._arguments or {})
        layout = {name: given[name] for name in self._family.layout_arguments if given.get(name) is not None}
        seen = self._local.__dict__.pop("pending", {})
        self._local.run = _ImagesRun(self._model, self._family, features, seen, layout)
