"""Vision signals: what one run of the vision tower leaves behind for the stages, in any thread without mixing.

Two kinds of tower: one that keeps a token per patch up to the projector, and one (Qwen) that takes the patches of all
images of a prompt as one sequence, attends within frames and merges several patches into one token.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from ..errors import Unsupported
from ..models.base import ImageTokens, ModelFamily, PatchMerging, TowerLayer
from ..types import Need
from .capture import (
    CLS_LOOKS,
    PATCH_LOOKS,
    RECEIVED_LOOKS,
    Active,
    Look,
    after_forward,
    before_forward,
    lifted,
    watch_attention,
    watched_encoding,
)

PerLayer = Mapping[str, Mapping[str, Tensor]]
"""Kind of signal -> vision layer ("feature", "last", "object", "shallow") -> values."""


_LOOKS = {**CLS_LOOKS, **PATCH_LOOKS}  # a shallow look at a tower with [CLS] is one at its row

VISION_KINDS = (*_LOOKS, "cls_feature", "encoder_features", "pixels")
"""Needs that are read off the vision tower, in the layer that ``Need.layer`` names, or as they leave it."""


def tower_layer(need: Need) -> TowerLayer:
    """In which vision layer a need of ``VISION_KINDS`` is read off."""
    return need.layer if need.layer in ("last", "object", "shallow") else "feature"


@dataclass(frozen=True)
class VisionSignals:
    """What the vision tower said about the visual tokens of one row (sequence).

    The tower sees images: images, or the tiles that images were cut into.

    Shape: features ``(N, D_v)`` before the projector (behind it where that merges patches); seen[kind][layer]:
    ``cls_attention``, ``cls_logits`` and ``cls_full_width`` ``(N,)`` float32, the [CLS] row on the patches;
    ``received_attention``, ``object_attention``, ``deep_attention`` and ``shallow_attention`` ``(N,)`` float32;
    ``encoder_keys`` ``(N, d_k)``, mean over heads; ``full_keys`` ``(N, H d_k)``; ``cls_feature`` ``(images, D_v)``;
    view ``(N,)`` the image (or frame) of each token, None when there is one.
    patch: ``(N,)`` bool, False for tokens that are no patch (newline): the tower did not see them, so their features
    and keys are 0 and their [CLS] rows NaN; None when every token is one. n_images: of this row.
    """

    features: Tensor
    seen: PerLayer = field(default_factory=dict)
    view: Tensor | None = None
    patch: Tensor | None = None
    n_images: int = 1

    def of(self, alive: Tensor) -> Tensor:
        """Features of the tokens ``alive (n,)``. Shape: ``(n, D_v)``."""
        return self.features[alive.to(self.features.device)]


class Run(Protocol):
    """One finished run of a vision tower."""

    def n_tokens(self) -> int:
        """How many visual tokens it made."""

    def split(self, counts: Sequence[int]) -> list[VisionSignals]:
        """The signals of rows with so many visual tokens each."""


class Capture:
    """Holds each thread's last vision run until the prompt arrives at the language model."""

    def __init__(self) -> None:
        self._local = threading.local()

    def forget(self) -> None:
        """Drop what this thread's last vision run left behind."""
        self._local.__dict__.clear()

    def consume(self, counts: Sequence[int]) -> list[VisionSignals] | None:
        """Split the last vision run of this thread by rows that hold ``counts`` visual tokens, and forget it.

        Rows may be copies (beams, several returned sequences): then each prompt's signals serve all its copies.
        Returns None when no vision run was seen. Raises Unsupported when the counts do not fit.
        """
        run: Run | None = self._local.__dict__.pop("run", None)
        if run is None:
            return None
        made = run.n_tokens()
        copies, rest = divmod(sum(counts), max(made, 1))
        if rest or copies < 1 or len(counts) % copies:
            raise Unsupported(
                f"The vision tower made {made} visual tokens and the prompt holds {sum(counts)}; "
                "pass the images and the prompt that belong together."
            )
        rows = run.split(counts[::copies])
        return [rows[row // copies] for row in range(len(counts))]


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


def _as_seen(pixels: Tensor, std: Sequence[float]) -> Tensor:
    """What processors divided by is multiplied again: levels of 0 to 255 are 1/255 apart.

    Shape: ``(..., P)``, channel after channel -> the same, at least float32.
    """
    channels = lifted(pixels).unflatten(-1, (len(std), -1))
    return (channels * torch.tensor(std, dtype=channels.dtype, device=channels.device)[:, None]).flatten(-2)


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
            if looks := kinds & _LOOKS.keys():
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
        return _LOOKS["cls_attention" if kind == "shallow_attention" and self._first else kind]

    def _cls_hook(self, layer: TowerLayer) -> Callable[[Any, Any], None]:
        def see(_kwargs: Any, output: Any) -> None:
            hidden = output if isinstance(output, Tensor) else output[0]
            self._keep("cls_feature", layer, hidden[:, 0])

        return see

    def _pixel_hook(self, embedding: nn.Conv2d, layer: TowerLayer) -> Callable[[Any, Any], None]:
        def see(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            images = args[0] if args else kwargs["input"]
            cut = torch.nn.functional.unfold(lifted(images), embedding.kernel_size, stride=embedding.stride)
            self._keep("pixels", layer, _as_seen(cut.transpose(1, 2), self._family.pixel_std))

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


# -- a token for several patches ---------------------------------------------------------------------------------------


@dataclass
class _SequenceRun:
    """A run of one sequence. Shape: features ``(N, D)``, seen[kind] ``(N, ...)``, frame ``(N,)``."""

    features: Tensor
    seen: Mapping[str, Tensor]
    frame: Tensor

    def n_tokens(self) -> int:
        return len(self.features)

    def split(self, counts: Sequence[int]) -> list[VisionSignals]:
        rows, start = [], 0
        for count in counts:
            part = slice(start, start + count)
            frame = self.frame[part] - self.frame[part][:1]
            # Each kind was seen in one layer, whatever a need calls it.
            layers: tuple[str, ...] = get_args(TowerLayer)
            seen = {kind: dict.fromkeys(layers, values[part]) for kind, values in self.seen.items()}
            rows.append(VisionSignals(self.features[part], seen, frame if bool((frame > 0).any()) else None))
            start += count
        return rows


class MergedVisionCapture(Capture):
    """Of a tower that merges patches: what is seen of them becomes one number (or vector) per token, in LLM order."""

    def __init__(
        self, merging: PatchMerging, kinds: Iterable[str], pixel_std: tuple[float, float, float] | None = None
    ) -> None:
        """pixel_std: see ``ModelFamily``; None where nobody wants pixels."""
        super().__init__()
        self._merging, self._kinds, self._pixel_std = merging, frozenset(kinds), pixel_std
        if unknown := sorted(self._kinds - PATCH_LOOKS.keys()):
            raise Unsupported(f"A vision tower that merges patches has no {unknown[0]}.")

    def watch(self, stack: ExitStack, active: Active) -> None:
        """Put hooks on the tower until ``stack`` is left."""
        stack.callback(before_forward(self._merging.tower, self.see_images, active))
        stack.callback(after_forward(self._merging.tower, self.see_tokens, active))

    def watch_attention(self, stack: ExitStack, attention: Any, kinds: Iterable[str], active: Active) -> None:
        """Read ``kinds`` off the attention of one vision layer until ``stack`` is left."""
        kinds = frozenset(kinds)

        def recompute(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, float]:
            return *self._merging.queries_and_keys(attention, args, kwargs), attention.scaling

        def see(query: Tensor, key: Tensor, scaling: float) -> None:
            self.see_attention(query, key, scaling, kinds)

        watch_attention(stack, attention, see, recompute, active)

    def see_images(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Pre-hook of the tower: a new run begins."""
        self._local.lengths = _frame_lengths(kwargs["grid_thw"])
        self._local.pieces = {kind: [] for kind in self._kinds}
        if self._pixel_std is not None:  # as the processor laid them out: in the LLM's order
            patches = args[0] if args else kwargs["hidden_states"]
            shown = _as_seen(patches, self._pixel_std)
            self._local.pixels = shown.reshape(len(shown) // self._merging.patches_per_token, -1)

    def see_attention(self, query: Tensor, key: Tensor, scaling: float, kinds: Iterable[str] | None = None) -> None:
        """Keep what is wanted of one attention call: a frame, or all frames side by side (flash attention).

        kinds: of what this layer shows; None for all. Shape: query and key ``(1, H, patches, d)``.
        """
        lengths: list[int] = self._local.lengths
        one_frame = len(lengths) == 1 or query.shape[2] != sum(lengths)
        for q, k in [(query, key)] if one_frame else zip(query.split(lengths, 2), key.split(lengths, 2), strict=True):
            for kind in self._kinds if kinds is None else kinds:
                self._local.pieces[kind].append(PATCH_LOOKS[kind](q, k, scaling)[0])

    def see_tokens(self, kwargs: dict[str, Any], output: Any) -> None:
        """Hook behind the tower: from patches in its order to tokens in the LLM's."""
        size = self._merging.patches_per_token
        positions = self._merging.tower_positions(kwargs["grid_thw"])
        seen = {}
        for kind, pieces in self._local.pieces.items():
            of_groups = lifted(torch.cat(pieces)).unflatten(0, (-1, size)).mean(dim=1)
            seen[kind] = of_groups[positions.to(of_groups.device)]
        if self._pixel_std is not None:
            seen["pixels"] = self._local.__dict__.pop("pixels")
        lengths = torch.tensor(self._local.lengths) // size
        frame = torch.arange(len(lengths)).repeat_interleave(lengths).to(output.pooler_output.device)
        self._local.run = _SequenceRun(output.pooler_output, seen, frame)


def _frame_lengths(grid_thw: Tensor) -> list[int]:
    """Patches of each frame, one image or video after the other. Shape: ``(n, 3)`` -> a list per frame."""
    return [rows * columns for frames, rows, columns in grid_thw.tolist() for _ in range(frames)]
