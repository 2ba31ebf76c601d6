"""Attention in every layer of the vision tower, in one run of it: a row per layer, no map of patches by patches."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from threading import get_ident
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..models.base import ModelFamily, PatchMerging
from .capture import Active, Look, attention_rows, before_forward, received_exactly, watch_attention
from .merged_vision import MergedVisionCapture
from .prompt import StopForward
from .vision import VisionCapture
from .vision_signals import VisionSignals

TowerKind = Literal["cls_attention", "received_attention"]


@dataclass(frozen=True)
class TowerAttention:
    """What the layers of the tower say of the N visual tokens of one prompt.

    kind: the row of [CLS], or where there is none what each patch receives from all of its image, mean over queries;
    both mean over heads. layers ``(n_layers, N)`` float32 or float64 as the model is, NaN for tokens that are no patch.
    windowed: the layers that attend within windows only. feature: the layer whose output becomes the features, None
    where several do. signals: of the prompt, to tell views apart.
    """

    kind: TowerKind
    layers: Tensor
    windowed: frozenset[int]
    feature: int | None
    signals: VisionSignals


@torch.no_grad()
def tower_attention(model: Any, family: ModelFamily, inputs: Mapping[str, Any]) -> TowerAttention:
    """Run the stock model on the inputs of one prompt up to its language model and watch all layers of the tower.

    Attention received is summed up in slices of queries. Raises Unsupported as ``encode`` does.
    """
    kind: TowerKind = "cls_attention" if family.has_cls(model) else "received_attention"
    merging, mine = family.patch_merging(model), get_ident()
    n_visual = int(torch.isin(inputs["input_ids"], torch.tensor(family.visual_token_ids(model)).to(model.device)).sum())

    def is_mine() -> bool:
        return get_ident() == mine

    def leave(_args: Any, _kwargs: Any) -> None:
        raise StopForward

    with ExitStack() as stack:
        stack.callback(before_forward(family.language_model(model), leave, is_mine))
        capture: _Layers | _MergedLayers
        if merging is None:
            capture = _Layers(model, family, inputs)
            capture.watch(stack, {}, is_mine)
            capture.watch_layers(stack, kind, is_mine)
        else:
            capture = _MergedLayers(merging, family.vision_layers(model), family.attention_name)
            capture.watch(stack, is_mine)
        with suppress(StopForward):
            model(**inputs)
    found = capture.consume([n_visual])
    if found is None:
        raise ValueError("the prompt holds no image that was encoded")
    seen = found[0].seen[kind]
    layers = torch.stack([seen[name] for name in sorted(seen, key=int)]).cpu()
    if found[0].patch is not None:
        layers = layers.masked_fill(~found[0].patch.cpu(), torch.nan)
    windowed = frozenset(capture.windowed)
    return TowerAttention(kind, layers, windowed, _feature_layer(model, family), found[0])


def _feature_layer(model: Any, family: ModelFamily) -> int | None:
    if family.patch_merging(model) is not None:  # the features leave the last layer, windowed or not
        return len(family.vision_layers(model)) - 1
    if isinstance(getattr(model.config, "vision_feature_layer", None), list | tuple):
        return None
    found = family.vision_layer(model, "feature")
    return next((n for n, layer in enumerate(family.vision_layers(model)) if layer is found), None)


def _cls_row(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """Shape: query ``(P, H, >= 1, d)``, key ``(P, H, n, d)`` -> ``(P, n)``."""
    every = torch.ones(1, key.shape[2], dtype=torch.bool, device=key.device)
    pairs = zip(query, key, strict=True)
    return torch.stack([attention_rows(q[:, :1], k, scaling, every).mean(dim=0)[0] for q, k in pairs])


def _received(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """Shape: query and key ``(P, H, n, d)`` -> ``(P, n)``."""
    return torch.stack([received_exactly(q, k, scaling) for q, k in zip(query, key, strict=True)])


class _Layers(VisionCapture):
    """Of a tower that keeps a token per patch up to the projector."""

    windowed: Collection[int] = ()

    def watch_layers(self, stack: ExitStack, kind: TowerKind, active: Active) -> None:
        """Keep the row of every layer. Images and videos may have towers of their own, of which one runs."""
        numbers: dict[nn.Module, int] = {}
        for media in self._family.takes:
            for number, layer in enumerate(self._family.vision_layers(self._model, media)):
                numbers[getattr(layer, self._family.attention_name)] = number
        for attention, number in numbers.items():
            self._watch(stack, attention, str(number), {kind}, active)

    def _look(self, kind: str) -> Look:
        return _cls_row if kind == "cls_attention" else _received


class _MergedLayers(MergedVisionCapture):
    """Of a tower that merges patches: attention received within frames, the mean of each token's patches.

    Within windows it is what the frame's whole map would hold, in which other windows are 0: every frame adds up to 1.
    """

    def __init__(self, merging: PatchMerging, layers: Sequence[nn.Module], name: str) -> None:
        super().__init__(merging, ())
        self._attentions = [getattr(layer, name) for layer in layers]
        self.windowed: set[int] = set()

    def watch(self, stack: ExitStack, active: Active) -> None:
        """Put hooks and taps in place until ``stack`` is left."""
        super().watch(stack, active)

        def recompute(attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, float]:
            return *self._merging.queries_and_keys(attention, args, kwargs), attention.scaling

        for number, attention in enumerate(self._attentions):
            stack.callback(before_forward(attention, self._enter, active))
            watch_attention(stack, attention, partial(self._see, number), partial(recompute, attention), active)

    def _enter(self, _args: Any, kwargs: dict[str, Any]) -> None:
        self._local.parts = kwargs["cu_seqlens"].diff().tolist()

    def _see(self, number: int, query: Tensor, key: Tensor, scaling: float) -> None:
        """One part (frame or window) in turn, or all of them side by side. Shape: ``(1, H, patches, d)``."""
        parts: list[int] = self._local.parts
        if len(parts) > len(self._local.lengths):
            self.windowed.add(number)
        together = query.shape[2] == sum(parts)
        pairs = zip(query.split(parts, 2), key.split(parts, 2), strict=True) if together else [(query, key)]
        sums = self._local.__dict__.setdefault("sums", {}).setdefault(number, [])
        sums.extend(received_exactly(q[0], k[0], scaling) * q.shape[2] for q, k in pairs)

    def see_tokens(self, kwargs: dict[str, Any], output: Any) -> None:
        """From sums over the queries of each part to means over those of each frame, token by token."""
        super().see_tokens(kwargs, output)
        size, lengths = self._merging.patches_per_token, torch.tensor(self._local.lengths)
        of_frame = lengths.repeat_interleave(lengths)
        positions = self._merging.tower_positions(kwargs["grid_thw"]).cpu()
        self._local.of_layers = {
            str(number): (torch.cat(sums).cpu() / of_frame).unflatten(0, (-1, size)).mean(dim=1)[positions]
            for number, sums in self._local.__dict__.pop("sums").items()
        }

    def consume(self, counts: Sequence[int]) -> list[VisionSignals] | None:
        """Of one prompt, with the layers' rows."""
        found = super().consume(counts)
        if found is None:
            return None
        return [replace(found[0], seen={"received_attention": self._local.of_layers})]
