"""The first layers of the LLM on one whole prompt, computed once for all runs that drop nothing before a later layer.

Up to its first stage a run inside the LLM does what the unpruned run does, with tensors of the same shapes. What each
layer gave, what it cached, and what reached its attention stands in for it there: the same bits, without the work.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from threading import get_ident
from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicLayer

from ..models.base import ModelFamily
from .cache import cached_tokens
from .capture import after_forward, can_stand_in, can_tap, stood_in, tapped, taps_of
from .prompt import Prompt

MOST_BYTES = 2**29
"""What may be kept of one prompt; fewer layers of a long one."""

_Looked = tuple[Tensor, Tensor, "Tensor | None", float]


@dataclass
class _Layer:
    """What one layer did with the whole prompt. looked: what its attention was called with."""

    output: Any
    keys: Tensor
    values: Tensor
    looked: _Looked | None = None


@dataclass
class Prefix:
    """What is known of the first layers. prompt: of this very one."""

    prompt: Prompt
    layers: list[_Layer] = field(default_factory=list)

    @property
    def depth(self) -> int:
        """How many layers are known."""
        return len(self.layers)


@contextmanager
def noted_prefix(model: Any, family: ModelFamily, prompt: Prompt, depth: int) -> Iterator[Prefix]:
    """Note what the first ``depth`` layers do while ``model.generate`` runs on the whole prompt in this thread.

    Fewer or none are noted where that would not be the whole story: layers that cache something else than all keys,
    prompts of several rows or whose features enter further inside, modules whose forward somebody replaced.
    """
    prefix, mine = Prefix(prompt), get_ident()
    layers: list[Any] = list(family.layers(model))[: _allowed(model, prompt, depth)]
    kernel = family.language_model(model).config._attn_implementation
    length = prompt.inputs_embeds.shape[1]
    looked: dict[int, _Looked] = {}

    def is_ours() -> bool:
        return get_ident() == mine

    def see(number: int, kwargs: dict[str, Any], output: Any) -> None:
        cache: Any = kwargs.get("past_key_values")
        if prefix.depth != number or cached_tokens(cache, number) != length:
            return  # a later token, or a layer before was not noted
        stored: Any = cache.layers[number]
        keys, values = stored.keys, stored.values
        if type(stored) is DynamicLayer and (number in looked or not can_tap(kernel)):
            prefix.layers.append(_Layer(output, keys, values, looked.pop(number, None)))

    def look(number: int, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float) -> None:
        if is_ours() and prefix.depth == number and query.shape[2] == length:
            looked[number] = (query, key, mask, scaling)

    with ExitStack() as stack:
        for number, layer in enumerate(layers):
            if not can_stand_in(layer):
                break
            stack.callback(after_forward(layer, partial(see, number), is_ours))
            if can_tap(kernel):
                stack.enter_context(tapped(layer.self_attn, kernel, partial(look, number)))
        yield prefix


def _allowed(model: Any, prompt: Prompt, depth: int) -> int:
    """So many layers as their hidden states, keys and values fit, none of a prompt that is more than embeddings."""
    if len(prompt.alive) != 1 or prompt.deepstack is not None or prompt.carried is not None:
        return 0
    config, embeds = model.config.get_text_config(), prompt.inputs_embeds
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    queries = width * config.num_attention_heads
    each = embeds.shape[1] * (embeds.shape[2] + queries + 3 * heads * width) * embeds.element_size()
    return min(depth, MOST_BYTES // each)


@contextmanager
def given_prefix(model: Any, family: ModelFamily, prompt: Prompt, prefix: Prefix | None, depth: int) -> Iterator[None]:
    """Inside, the first ``depth`` layers, as far as they are known, need not run when this thread prefills ``prompt``.

    To be entered only around a run that changes nothing before layer ``depth``.
    """
    with ExitStack() as stack:
        if prefix is not None and prefix.prompt is prompt:
            mine = get_ident()
            for number, (layer, known) in enumerate(zip(family.layers(model), prefix.layers[:depth], strict=False)):
                stack.enter_context(stood_in(layer, partial(_stand_in, layer, number, known, mine)))
        yield


def _stand_in(layer: Any, number: int, known: _Layer, thread: int, _args: Any, kwargs: dict[str, Any]) -> Any:
    cache = kwargs.get("past_key_values")
    if get_ident() != thread or cache is None or cached_tokens(cache, number):
        return NotImplemented
    cache.update(known.keys, known.values, number)
    if known.looked is not None:
        for tap in taps_of(layer.self_attn):
            tap(*known.looked)
    return known.output
