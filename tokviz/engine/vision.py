"""Vision signals: what one run of the vision tower leaves behind for the stages, in any thread without mixing.

Two kinds of tower: one that keeps a token per patch up to the projector, and one (Qwen) that takes the patches of all
images of a prompt as one sequence, attends within frames and merges several patches into one token.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import Unsupported
from ..models.base import ImageTokens, ModelFamily, PatchMerging
from ..types import Need
from .capture import (
    Active,
    after_forward,
    attention_logits,
    attention_rows,
    before_forward,
    lifted,
    received_attention,
    watch_attention,
    watched_encoding,
)

VISION_KINDS = (
    "cls_attention",
    "cls_logits",
    "cls_full_width",
    "cls_feature",
    "encoder_keys",
    "full_keys",
    "received_attention",
)
"""Needs that are read off the vision tower, in the layer that ``Need.layer`` names."""

TowerLayer = Literal["feature", "last"]
PerLayer = Mapping[str, Mapping[str, Tensor]]
"""Kind of signal -> vision layer ("feature", "last") -> values."""


@dataclass(frozen=True)
class VisionSignals:
    """What the vision tower said about the visual tokens of one row (sequence).

    The tower sees images: images, or the tiles that images were cut into.

    Shape: features ``(N, D_v)`` before the projector (behind it where that merges patches); seen[kind][layer]:
    ``cls_attention``, ``cls_logits`` and ``cls_full_width`` ``(N,)`` float32, the [CLS] row on the patches;
    ``received_attention`` ``(N,)`` float32; ``encoder_keys`` ``(N, d_k)``, mean over heads; ``full_keys`` ``(N, H
    d_k)``; ``cls_feature`` ``(images, D_v)``; view ``(N,)`` the image (or frame) of each token, None when there is one.
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


@contextmanager
def captured(
    model: Any,
    family: ModelFamily,
    needs: Iterable[Need],
    active: Active,
    arguments: Mapping[str, Any] | None = None,
) -> Iterator[VisionCapture | MergedVisionCapture]:
    """Watch the vision tower until the context is left; ``active`` says whether the current thread's run is ours.

    arguments: Those of the model's own encoder that decide the layout, where the caller knows them.
    """
    wanted: dict[TowerLayer, set[str]] = {}
    for need in needs:
        if need.kind in VISION_KINDS:
            wanted.setdefault("last" if need.layer == "last" else "feature", set()).add(need.kind)
    merging = family.patch_merging(model)
    with ExitStack() as stack:
        if merging is None:
            yield _watched(stack, model, family, wanted, active, arguments)
        else:
            yield _watched_merging(stack, merging, family.vision_attention(model, "last"), wanted, active)


def _copies_of(counts: Sequence[int], made: int) -> int:
    """How many rows are copies of each prompt, from the visual tokens that rows hold and that the tower made.

    Raises Unsupported when they do not belong together.
    """
    copies, rest = divmod(sum(counts), max(made, 1))
    if rest or copies < 1 or len(counts) % copies:
        raise Unsupported(
            f"The vision tower made {made} visual tokens and the prompt holds {sum(counts)}; "
            "pass the images and the prompt that belong together."
        )
    return copies


# -- a token per patch -------------------------------------------------------------------------------------------------


@dataclass
class _Images:
    """The last vision run of one thread, per image. ``arguments``: what else decides which tokens they become."""

    features: Tensor
    seen: PerLayer
    arguments: Mapping[str, Any]


class VisionCapture:
    """Holds the vision signals of each thread's last vision run until the prompt arrives at the language model."""

    def __init__(self, model: Any, family: ModelFamily, arguments: Mapping[str, Any] | None = None) -> None:
        self._model, self._family, self._arguments = model, family, arguments or {}
        self._has_cls = family.has_cls(model)
        self._local = threading.local()

    def _layout(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {name: arguments[name] for name in self._family.layout_arguments if arguments.get(name) is not None}

    def see_encoding(self, arguments: Mapping[str, Any]) -> None:
        """Before images are encoded: remember what decides their layout."""
        self._local.arguments = arguments

    def see_projector(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Pre-hook of the projector: the features of all images of the prompt, in one call."""
        features = args[0] if args else next(iter(kwargs.values()))
        arguments = self._layout(self._local.__dict__.pop("arguments", self._arguments))
        self._local.images = _Images(features, self._local.__dict__.pop("pending", {}), arguments)

    def see_attention(self, layer: TowerLayer, kinds: set[str], query: Tensor, key: Tensor, scaling: float) -> None:
        """Keep what is wanted of one vision layer's [CLS] query and keys. Shape: ``(P, H, >= 1 or 1 + N, d)``."""
        for kind in kinds & _CLS_ROWS.keys():
            row_of = _CLS_ROWS[kind]
            rows = [row_of(q[:, :1], k, scaling) for q, k in zip(query, key, strict=True)]
            self._keep(kind, layer, torch.stack(rows)[:, 1:])
        if "received_attention" in kinds:
            received = [received_attention(q, k, scaling) for q, k in zip(query, key, strict=True)]
            self._keep("received_attention", layer, torch.stack(received))
        first = 1 if self._has_cls else 0
        if "encoder_keys" in kinds:
            self._keep("encoder_keys", layer, key.mean(dim=1)[:, first:])
        if "full_keys" in kinds:
            self._keep("full_keys", layer, key.transpose(1, 2).flatten(2)[:, first:])

    def see_output(self, layer: TowerLayer, output: Any) -> None:
        """Keep the [CLS] row of what a vision layer returns. Shape: ``(P, 1 + N, D_v)``, alone or first of several."""
        hidden = output if isinstance(output, Tensor) else output[0]
        self._keep("cls_feature", layer, hidden[:, 0])

    def _keep(self, kind: str, layer: TowerLayer, values: Tensor) -> None:
        self._local.__dict__.setdefault("pending", {}).setdefault(kind, {})[layer] = values

    def forget(self) -> None:
        """Drop what this thread's last vision run left behind."""
        self._local.__dict__.clear()

    def consume(self, counts: list[int]) -> list[VisionSignals] | None:
        """Split the last vision run of this thread by rows that hold ``counts`` visual tokens, and forget it.

        Rows may be copies (beams, several returned sequences): then each prompt's signals serve all its copies.
        Returns None when no vision run was seen. Raises Unsupported when the counts do not fit.
        """
        images: _Images | None = self._local.__dict__.pop("images", None)
        if images is None:
            return None
        n_images, per_image = images.features.shape[:2]
        input_images = list(self._family.images(self._model, images.arguments, n_images, per_image))
        if input_images and input_images[0].sources is None:
            _check_sizes(images.seen, per_image)
        copies = _copies_of(counts, sum(len(image.patch) for image in input_images))
        rows, first = [], 0
        for count in counts[::copies]:
            mine = _first_images(input_images, count)
            rows.append(_row(images, mine, first))
            first += sum(image.n_tiles for image in mine)
            input_images = input_images[len(mine) :]
        return [rows[row // copies] for row in range(len(counts))]


def _watched(
    stack: ExitStack,
    model: Any,
    family: ModelFamily,
    wanted: Mapping[TowerLayer, set[str]],
    active: Active,
    arguments: Mapping[str, Any] | None,
) -> VisionCapture:
    capture = VisionCapture(model, family, arguments)
    if family.layout_arguments and arguments is None:
        stack.enter_context(watched_encoding(model.base_model, capture.see_encoding, active))
    stack.callback(before_forward(family.projector(model), capture.see_projector, active))
    for layer, kinds in wanted.items():
        # Once each: images and videos mostly pass through the same tower.
        if kinds - {"cls_feature"}:
            for attention in dict.fromkeys(family.vision_attention(model, layer, media) for media in family.takes):
                _watch(stack, capture, attention, layer, kinds, active)
        if "cls_feature" in kinds:
            for whole in dict.fromkeys(family.vision_layer(model, layer, media) for media in family.takes):
                stack.callback(after_forward(whole, _output_hook(capture, layer), active))
    return capture


def _watch(
    stack: ExitStack, capture: VisionCapture, attention: Any, layer: TowerLayer, kinds: set[str], active: Active
) -> None:
    def heads(which: Literal["q", "k"], hidden: Tensor) -> Tensor:
        """Queries or keys as the kernel would get them. Shape: ``(P, n, D_v)`` -> ``(P, H, n, d)``."""
        made = getattr(attention, f"{which}_proj")(hidden)
        norm = getattr(attention, f"{which}_norm", None)  # over all heads together, as InternVL has it
        return (made if norm is None else norm(made)).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)

    def recompute(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, float]:
        hidden = args[0] if args else kwargs["hidden_states"]
        asking = hidden if "received_attention" in kinds else hidden[:, :1]
        return heads("q", asking), heads("k", hidden), attention.scale

    def see(query: Tensor, key: Tensor, scaling: float) -> None:
        capture.see_attention(layer, kinds, query, key, scaling)

    watch_attention(stack, attention, see, recompute, active)


def _output_hook(capture: VisionCapture, layer: TowerLayer) -> Callable[[Any, Any], None]:
    return lambda _kwargs, output: capture.see_output(layer, output)


def _check_sizes(seen: PerLayer, per_image: int) -> None:
    for kind, layers in seen.items():
        for name, values in layers.items():
            if kind != "cls_feature" and values.shape[1] != per_image:
                raise Unsupported(
                    f"The {name} vision layer sees {values.shape[1]} patches per image but {per_image} "
                    "features enter the projector; only vision_feature_select_strategy='default' is supported."
                )


def _first_images(images: list[ImageTokens], count: int) -> list[ImageTokens]:
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


def _cls_probabilities(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    every = torch.ones(1, key.shape[1], dtype=torch.bool, device=key.device)
    return attention_rows(query, key, scaling, every).mean(dim=0)[0].float()


def _cls_logits(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    return attention_logits(query, key, scaling).mean(dim=0)[0].float()


def _cls_full_width(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    # scaling is d^-1/2 for heads of width d (times what is folded into the query); all H heads together have width H d.
    heads = query.shape[0]
    wide_query, wide_key = (tensor.transpose(0, 1).flatten(1)[None] for tensor in (query, key))
    return _cls_probabilities(wide_query, wide_key, scaling * heads**-0.5)


# ``(query (H, 1, d), key (H, 1 + N, d), scaling) -> (1 + N,)``
_CLS_ROWS = {"cls_attention": _cls_probabilities, "cls_logits": _cls_logits, "cls_full_width": _cls_full_width}


def _row(images: _Images, input_images: list[ImageTokens], first: int) -> VisionSignals:
    """The signals of a row whose images begin with the tower's image number ``first``."""
    n_images, per_image = sum(image.n_tiles for image in input_images), images.features.shape[1]
    views, patches, before = [], [], 0
    for image in input_images:
        views.append(image.tile + before)
        patches.append(image.patch)
        before += image.n_tiles
    nobody = torch.empty(0, dtype=torch.int64)
    view, patch = torch.cat([nobody, *views]), torch.cat([nobody, *patches])
    is_patch = patch >= 0
    source = ((first + view) * per_image + patch).masked_fill(~is_patch, -1)

    def of_row(kind: str, values: Tensor) -> Tensor:
        if kind == "cls_feature":
            return values[first : first + n_images]
        missing = torch.nan if kind in _CLS_ROWS else 0.0
        if input_images and input_images[0].sources is not None:
            mine = _mixed(values[first : first + n_images], input_images)
            return mine.masked_fill(~is_patch.to(mine.device).reshape(-1, *[1] * (mine.dim() - 1)), missing)
        return _taken(values.flatten(0, 1), source, missing)

    device = images.features.device
    return VisionSignals(
        features=_taken(images.features.flatten(0, 1), source, 0.0),
        seen={
            kind: {layer: of_row(kind, values) for layer, values in layers.items()}
            for kind, layers in images.seen.items()
        },
        view=view.to(device) if n_images > 1 else None,
        patch=None if bool(is_patch.all()) else is_patch.to(device),
        n_images=len(input_images),
    )


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


def _taken(values: Tensor, source: Tensor, missing: float) -> Tensor:
    """Rows of ``values`` at ``source``, ``missing`` where that is -1."""
    absent = source < 0
    taken = values[source.clamp(min=0).to(values.device)]
    if not bool(absent.any()):
        return taken
    return taken.masked_fill(absent.to(values.device).reshape(-1, *[1] * (values.dim() - 1)), missing)


# -- a token for several patches ---------------------------------------------------------------------------------------


@dataclass
class _Run:
    """One finished run of the tower. Shape: features ``(N, D)``, seen[kind] ``(N, ...)``, frame ``(N,)``."""

    features: Tensor
    seen: Mapping[str, Tensor]
    frame: Tensor


class MergedVisionCapture:
    """Like ``VisionCapture``; what is seen of patches becomes one number (or vector) per token, in the LLM's order.

    ``kinds`` are the kinds of signals wanted; both layers that a need can name are the same one here.
    """

    def __init__(self, merging: PatchMerging, kinds: Iterable[str]) -> None:
        self._merging, self._kinds = merging, frozenset(kinds)
        self._local = threading.local()

    def see_images(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Pre-hook of the tower: a new run begins."""
        self._local.grid = kwargs["grid_thw"]
        self._local.pieces = {kind: [] for kind in self._kinds}

    def see_attention(self, query: Tensor, key: Tensor, scaling: float) -> None:
        """Keep what is wanted of one attention call: a frame, or all frames side by side (flash attention).

        Shape: query and key ``(1, H, patches, d)``.
        """
        pieces: dict[str, list[Tensor]] = self._local.pieces
        lengths = _frame_lengths(self._local.grid)
        one_frame = len(lengths) == 1 or query.shape[2] != sum(lengths)
        for q, k in [(query, key)] if one_frame else zip(query.split(lengths, 2), key.split(lengths, 2), strict=True):
            if "received_attention" in pieces:
                pieces["received_attention"].append(received_attention(q[0], k[0], scaling))
            if "encoder_keys" in pieces:
                pieces["encoder_keys"].append(k[0].mean(dim=0))
            if "full_keys" in pieces:
                pieces["full_keys"].append(k[0].transpose(0, 1).flatten(1))

    def see_tokens(self, kwargs: dict[str, Any], output: Any) -> None:
        """Hook behind the tower: from patches in its order to tokens in the LLM's."""
        grid, size = kwargs["grid_thw"], self._merging.patches_per_token
        positions = self._merging.tower_positions(grid)
        seen = {}
        for kind, pieces in self._local.pieces.items():
            of_groups = lifted(torch.cat(pieces)).unflatten(0, (-1, size)).mean(dim=1)
            seen[kind] = of_groups[positions.to(of_groups.device)]
        lengths = torch.tensor(_frame_lengths(grid)) // size
        frame = torch.arange(len(lengths)).repeat_interleave(lengths).to(output.pooler_output.device)
        self._local.run = _Run(output.pooler_output, seen, frame)

    def forget(self) -> None:
        """Drop what this thread's last run of the tower left behind."""
        self._local.__dict__.clear()

    def consume(self, counts: list[int]) -> list[VisionSignals] | None:
        """Split the last run of this thread by rows, and forget it; see ``VisionCapture.consume``."""
        run: _Run | None = self._local.__dict__.pop("run", None)
        if run is None:
            return None
        copies = _copies_of(counts, len(run.features))
        rows, start = [], 0
        for count in counts[::copies]:
            part = slice(start, start + count)
            frame = run.frame[part] - run.frame[part][:1]
            seen = {kind: {"feature": values[part], "last": values[part]} for kind, values in run.seen.items()}
            rows.append(VisionSignals(run.features[part], seen, frame if bool((frame > 0).any()) else None))
            start += count
        return [rows[row // copies] for row in range(len(counts))]


def _frame_lengths(grid_thw: Tensor) -> list[int]:
    """Patches of each frame, one image or video after the other. Shape: ``(n, 3)`` -> a list per frame."""
    return [rows * columns for frames, rows, columns in grid_thw.tolist() for _ in range(frames)]


def _watched_merging(
    stack: ExitStack, merging: PatchMerging, attention: Any, wanted: Mapping[TowerLayer, set[str]], active: Active
) -> MergedVisionCapture:
    kinds = set().union(*wanted.values())
    if unknown := sorted(kinds - {"received_attention", "encoder_keys", "full_keys"}):
        raise Unsupported(f"A vision tower that merges patches has no {unknown[0]}.")
    capture = MergedVisionCapture(merging, kinds)
    stack.callback(before_forward(merging.tower, capture.see_images, active))
    stack.callback(after_forward(merging.tower, capture.see_tokens, active))

    def recompute(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, float]:
        return *merging.queries_and_keys(attention, args, kwargs), attention.scaling

    if kinds:
        watch_attention(stack, attention, capture.see_attention, recompute, active)
    return capture
