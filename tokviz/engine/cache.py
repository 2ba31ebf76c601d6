"""What a pruned cache must remember, and how it goes on telling the world its unpruned length.

``generate`` and manual loops take positions and slices from ``cache.get_seq_length()``. A pruned cache is shorter, and
differently so per layer, hence that method answers with the length the sequence would have had. The state lives on the
cache object, so reusing, copying or reordering the cache carries it along.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import LongTensor, Tensor
from transformers import DynamicCache

from ..errors import Unsupported
from .capture import here

_STATE = "_tokviz_state"


@dataclass
class Segment:
    """The layers from ``first_layer`` up to the next segment, which all hold the same tokens of the prompt.

    Shape: real ``(B, K)`` bool, one column per cached prompt token. shift: ``(B, 1)``, by how much positions behind the
    prompt are lowered in these layers, or None. ``padded``: whether ``real`` has a False, known without asking the
    device. ``rotates``: whether these layers count positions differently from the first segment. carried: ``(B, K)``
    int64, how many tokens each of these keys weighs as, None for one each.
    """

    first_layer: int
    real: Tensor
    padded: bool
    shift: Tensor | None
    rotates: bool = False
    carried: Tensor | None = None

    def mask(self, cached: int, tail: Tensor | None, n_new: int) -> Tensor | None:
        """2D mask over ``cached`` kept tokens and ``n_new`` new ones, None when every column is real.

        Shape: tail ``(B, t)``: the caller's mask, of which the columns behind the prompt are read; ``n_new`` is the
        number of new tokens -> ``(B, cached + n_new)``.
        """
        if tail is None and not self.padded:
            return None
        # Assisted decoding crops what it had guessed wrongly, which may reach into the prefilled tokens.
        prompt = self.real[:, : min(self.real.shape[1], cached)]
        n_tail = cached + n_new - prompt.shape[1]
        if tail is None:
            tail = prompt.new_ones(prompt.shape[0], n_tail)
        return torch.cat([prompt, tail[:, tail.shape[1] - n_tail :].to(prompt.device, torch.bool)], dim=1)


@dataclass
class CacheState:
    """What was pruned from the sequence in this cache.

    ``full_length`` is the unpruned length of the prompt in columns; ``segments`` come in layer order, the first begins
    at layer 0; ``sites`` are the in-LLM sites of the context that pruned it, ``rectifies`` whether it weighs merged
    tokens. ``model``: a cache must not keep it alive.
    """

    model: weakref.ref[Any]
    sites: tuple[int, ...]
    rectifies: bool
    full_length: int
    segments: list[Segment]

    def goes_on_in(self, context: Any) -> bool:
        """Whether ``context`` has the hooks that this cache needs."""
        return context is not None and (context.sites, context.rectifies) == (self.sites, self.rectifies)

    @property
    def removed(self) -> int:
        """Columns that layer 0 holds less than the unpruned prompt."""
        return self.full_length - self.segments[0].real.shape[1]


def state_of(cache: Any) -> CacheState | None:
    """The state of a pruned cache, None for any other."""
    return getattr(cache, _STATE, None)


def cached_tokens(cache: Any, layer: int = 0) -> int:
    """Tokens that the cache really holds for a layer (``get_seq_length`` of a pruned cache is virtual)."""
    return cache.layers[layer].get_seq_length() if cache is not None and layer < len(cache.layers) else 0


def attach(cache: Any, state: CacheState) -> None:
    """Make ``cache`` remember ``state`` and answer with virtual lengths.

    A stock cache, which ``generate`` made, changes its class for that: methods bound to the instance would be a cycle
    that keeps the keys in memory until the garbage collector comes by, and the peak memory of the next run would count
    them.
    """
    if not isinstance(cache, PrunedCache):
        cache.__class__ = PrunedCache
    setattr(cache, _STATE, state)


class PrunedCache(DynamicCache):
    """A DynamicCache that can hold a pruned prompt; until it does, and again after ``reset``, it is like any other."""

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The length the sequence would have without pruning, the same for every layer."""
        state = state_of(self)
        real = cached_tokens(self, layer_idx if state is None else 0)
        return real if state is None or not real else real + state.removed

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Masks are made of what the layer really holds."""
        return cached_tokens(self, layer_idx)

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """As stock; refused outside ``prune``, where the model would silently use wrong masks and positions."""
        state = state_of(self)
        model = None if state is None else state.model()
        if state is not None and (model is None or not state.goes_on_in(here(model))):
            raise Unsupported("This cache was pruned; use it inside prune() with the same stages.")
        return super().get_mask_sizes(query_length, layer_idx)

    def reorder_cache(self, beam_idx: LongTensor) -> None:
        """Beams may hold differently pruned copies of a prompt: the state moves with the keys."""
        super().reorder_cache(beam_idx)
        self._select_rows(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows of the batch, state included."""
        super().batch_select_indices(indices)
        self._select_rows(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row of the batch, state included."""
        super().batch_repeat_interleave(repeats)
        state = state_of(self)
        if state is not None:
            self._select_rows(torch.arange(state.segments[0].real.shape[0]).repeat_interleave(repeats))

    def reset(self) -> None:
        """Empty the cache; nothing is pruned in it any more."""
        super().reset()
        self.__dict__.pop(_STATE, None)

    def _select_rows(self, index: Tensor) -> None:
        state = state_of(self)
        if state is None:
            return
        # New segments, never changed ones: a copy of the cache may share them.
        state.segments = [
            replace(
                segment,
                real=segment.real[index.to(segment.real.device)],
                shift=None if segment.shift is None else segment.shift[index.to(segment.shift.device)],
                carried=None if segment.carried is None else segment.carried[index.to(segment.carried.device)],
            )
            for segment in state.segments
        ]


def kv_cache_bytes(cache: Any) -> int:
    """Bytes that the keys and values in this cache really take, pads included."""
    return sum(
        tensor.numel() * tensor.element_size()
        for layer in cache.layers
        for tensor in (getattr(layer, "keys", None), getattr(layer, "values", None))
        if tensor is not None
    )


class PlainLengths:
    """Stands for the cache of one segment while transformers makes its mask: so many tokens cached, nothing special."""

    is_compileable = False

    def __init__(self, cached: int) -> None:
        self.cached = cached

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens cached before this forward."""
        return self.cached

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Index of the first new token."""
        return self.cached

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Key columns and where they begin."""
        return self.cached + query_length, 0
