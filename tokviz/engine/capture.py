"""Read-only looks at a running model, each in its own threads: hooks, taps on attention, arguments of the encoders.

Hooks and taps of every context fire in every thread; each acts only where it is ``active()``. Contexts may be entered
and left in any order and from any thread.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..errors import Unsupported

Active = Callable[[], bool]
Tap = Callable[[Tensor, Tensor, "Tensor | None", float], None]
"""``(query (B, H, L_q, d), key (B, H_kv, L_k, d), mask or None, scaling)``; positions and q/k norms already applied."""

_lock = threading.RLock()

# -- which context owns which thread -----------------------------------------------------------------------------------

_owners: WeakKeyDictionary[Any, dict[int, Any]] = WeakKeyDictionary()


def here(model: Any) -> Any:
    """Return the context that owns the current thread for ``model``, or None."""
    return _owners.get(model, {}).get(threading.get_ident())


def claim(model: Any, context: Any) -> Callable[[], None]:
    """Give the current thread to ``context``; what is returned gives it back, from any thread.

    Raises Unsupported when another context has it.
    """
    thread = threading.get_ident()
    with _lock:
        owners = _owners.setdefault(model, {})
        if thread in owners:
            raise Unsupported("This thread is already inside prune() for this model; leave that context first.")
        owners[thread] = context

    def release() -> None:
        with _lock:
            owners.pop(thread, None)

    return release


# -- hooks -------------------------------------------------------------------------------------------------------------
# torch first lists a module's hooks and then looks up, one by one, which of them want keyword arguments. A hook that
# another thread removes (or adds) in between is called without them. That can only happen to a forward of a thread that
# does not own the hook, so such a call is left alone.


def before_forward(module: nn.Module, hook: Callable[[Any, dict[str, Any]], Any], active: Active) -> Callable[[], None]:
    """Call ``hook(args, kwargs)`` before ``module`` runs where ``active()``; returns what removes it."""

    def guarded(_module: Any, args: Any, kwargs: dict[str, Any] | None = None) -> Any:
        return hook(args, kwargs) if kwargs is not None and active() else None

    return module.register_forward_pre_hook(guarded, with_kwargs=True).remove


def after_forward(module: nn.Module, hook: Callable[[dict[str, Any], Any], None], active: Active) -> Callable[[], None]:
    """Call ``hook(kwargs, output)`` after ``module`` ran where ``active()``; returns what removes it."""

    def guarded(_module: Any, _args: Any, *kwargs_and_output: Any) -> None:
        if len(kwargs_and_output) == 2 and active():
            hook(*kwargs_and_output)

    return module.register_forward_hook(guarded, with_kwargs=True).remove


# -- taps on attention -------------------------------------------------------------------------------------------------
# transformers looks its attention functions up in one process-wide table at every call. While at least one module is
# tapped, one wrapper stands in that table; it calls the taps of the module at hand and then the original function.


@dataclass
class _Wrapped:
    """An attention function that a wrapper stands in for. own: whether the table itself held it, not its class."""

    original: Any
    own: bool
    users: int = 0


_taps: WeakKeyDictionary[nn.Module, tuple[Tap, ...]] = WeakKeyDictionary()
_wrapped: dict[str, _Wrapped] = {}


def can_tap(implementation: str) -> bool:
    """Whether attention of this kind goes through the table (eager attention does not)."""
    return implementation != "eager" and implementation in ALL_ATTENTION_FUNCTIONS


def is_hub_kernel(implementation: str) -> bool:
    """Whether this is a kernel of the hub (``owner/repository``, a revision or a function may follow) that is loaded.

    transformers registers it under that name, behind its own flash attention function and with the masks of flash
    attention (a row of real columns, or none), so whatever holds for ``flash_attention_2`` holds for it.
    """
    return "/" in implementation and implementation in ALL_ATTENTION_FUNCTIONS


@contextmanager
def tapped(module: nn.Module, implementation: str, tap: Tap) -> Iterator[None]:
    """Call ``tap`` before every attention call of ``module`` in any thread, until the block is left."""
    with _lock:
        if implementation not in _wrapped:
            _wrap(implementation)
        _wrapped[implementation].users += 1
        _taps[module] = (*_taps.get(module, ()), tap)
    try:
        yield
    finally:
        with _lock:
            left = list(_taps.pop(module))
            left.remove(tap)
            if left:
                _taps[module] = tuple(left)
            _wrapped[implementation].users -= 1
            if not _wrapped[implementation].users:
                _unwrap(implementation)


def _wrap(implementation: str) -> None:
    original = ALL_ATTENTION_FUNCTIONS[implementation]
    shared = type(ALL_ATTENTION_FUNCTIONS)().get(implementation)  # a fresh table holds what all of them share

    # Some callers pass the mask by keyword, others by position: the names must be exactly transformers' own.
    @wraps(original)
    def wrapper(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> Any:
        for tap in _taps.get(module, ()):
            scaling = kwargs.get("scaling")
            tap(query, key, attention_mask, query.shape[-1] ** -0.5 if scaling is None else scaling)
        return original(module, query, key, value, attention_mask, **kwargs)

    _wrapped[implementation] = _Wrapped(original, own=shared is not original)
    ALL_ATTENTION_FUNCTIONS[implementation] = wrapper


def _unwrap(implementation: str) -> None:
    wrapped = _wrapped.pop(implementation)
    if wrapped.own:
        ALL_ATTENTION_FUNCTIONS[implementation] = wrapped.original
    else:
        del ALL_ATTENTION_FUNCTIONS[implementation]


def watch_attention(
    stack: ExitStack,
    attention: Any,
    see: Callable[[Tensor, Tensor, float], None],
    recompute: Callable[[tuple[Any, ...], dict[str, Any]], tuple[Tensor, Tensor, float]],
    active: Active,
) -> None:
    """Call ``see(query, key, scaling)`` for each attention call of a vision layer, until ``stack`` is left.

    Where the kernel cannot be tapped, ``recompute`` makes the three from the arguments of the module.
    """

    def tap(query: Tensor, key: Tensor, _mask: Tensor | None, scaling: float) -> None:
        if active():
            see(query, key, scaling)

    implementation = attention.config._attn_implementation
    if can_tap(implementation):
        stack.enter_context(tapped(attention, implementation, tap))
    else:
        stack.callback(before_forward(attention, lambda args, kwargs: see(*recompute(args, kwargs)), active))


# -- the model's own encoders: their arguments, and what stands in for them --------------------------------------------

_METHODS = ("get_image_features", "get_video_features")
_within = threading.local()


SeeArguments = Callable[[Mapping[str, Any]], Any]
"""``(arguments by name)`` -> what stands in for the encoding, None to let the model do it."""
_Watcher = tuple[SeeArguments, "Callable[[Any], None] | None", Active]
_watchers: WeakKeyDictionary[Any, tuple[_Watcher, ...]] = WeakKeyDictionary()


@contextmanager
def watched_encoding(
    base: Any, see: SeeArguments, active: Active, made: Callable[[Any], None] | None = None
) -> Iterator[None]:
    """Call ``see(arguments by name)`` before ``base`` encodes images or videos where ``active()``, until left.

    What decides how many tokens an image or video becomes (sizes, frames) reaches no module's forward when
    ``generate`` encodes. So while anybody watches, the attributes ``get_image_features`` and ``get_video_features`` of
    this very object are shadowed by wrappers, which the last one to leave deletes. made: called with what came of it.
    """
    methods = [method for method in _METHODS if hasattr(type(base), method)]
    watcher: _Watcher = (see, made, active)
    with _lock:
        if not _watchers.get(base):
            for method in methods:
                setattr(base, method, _shadow(base, method))
        _watchers[base] = (*_watchers.get(base, ()), watcher)
    try:
        yield
    finally:
        with _lock:
            _watchers[base] = tuple(other for other in _watchers[base] if other is not watcher)
            if not _watchers[base]:
                for method in methods:
                    delattr(base, method)


def _shadow(base: Any, method: str) -> Callable[..., Any]:
    original = getattr(base, method)
    signature = inspect.signature(original)

    @wraps(original)  # transformers filters the arguments of ``generate`` by this method's signature
    def watched(*args: Any, **kwargs: Any) -> Any:
        if getattr(_within, "encoding", False):  # some encode videos by their method for images: told once
            return original(*args, **kwargs)
        arguments = dict(signature.bind(*args, **kwargs).arguments)
        if method == "get_video_features" and "pixel_values" in arguments:  # its name in older transformers
            arguments["pixel_values_videos"] = arguments.pop("pixel_values")
        watchers = [(see, made) for see, made, active in _watchers.get(base, ()) if active()]
        given = [stand_in for see, _ in watchers if (stand_in := see(arguments)) is not None]
        if given:
            output = given[0]
        else:
            _within.encoding = True
            try:
                output = original(*args, **kwargs)
            finally:
                _within.encoding = False
        for _, made in watchers:
            if made is not None:
                made(output)
        return output

    return watched


# -- modules that need not run -----------------------------------------------------------------------------------------

StandIn = Callable[[tuple[Any, ...], dict[str, Any]], Any]
"""``(args, kwargs)`` of a module's forward -> what it gives, or NotImplemented to let the module run."""
_stand_ins: WeakKeyDictionary[nn.Module, tuple[StandIn, ...]] = WeakKeyDictionary()


def can_stand_in(module: nn.Module) -> bool:
    """Whether nobody else (accelerate, for one) has put something in the place of this module's forward."""
    return bool(_stand_ins.get(module)) or "forward" not in vars(module)


@contextmanager
def stood_in(module: nn.Module, stand_in: StandIn) -> Iterator[None]:
    """Ask ``stand_in`` in the place of ``module.forward`` in any thread, until left; hooks are called as ever."""
    with _lock:
        if not _stand_ins.get(module):
            vars(module)["forward"] = _asking_stand_ins(module)
        _stand_ins[module] = (*_stand_ins.get(module, ()), stand_in)
    try:
        yield
    finally:
        with _lock:
            _stand_ins[module] = tuple(other for other in _stand_ins[module] if other is not stand_in)
            if not _stand_ins[module]:
                del vars(module)["forward"]


def _asking_stand_ins(module: nn.Module) -> Callable[..., Any]:
    original = module.forward

    @wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        for stand_in in _stand_ins.get(module, ()):
            made = stand_in(args, kwargs)
            if made is not NotImplemented:
                return made
        return original(*args, **kwargs)

    return forward


def taps_of(module: nn.Module) -> tuple[Tap, ...]:
    """Who looks at the attention of a module just now, for what stands in for it."""
    return _taps.get(module, ())


# -- a few rows of an attention map, never the whole -------------------------------------------------------------------

_LOGITS_AT_ONCE = 2**25


def lifted(tensor: Tensor) -> Tensor:
    """At least float32 (float64 stays): half precision ties would decide which tokens live."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def attention_logits(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """Scaled dot products of a few queries with all keys, head by head, before mask and softmax.

    Shape: query ``(H, R, d)``, key ``(H_kv, L, d)`` (grouped heads are not repeated) -> ``(H, R, L)``.
    """
    heads, n_rows, width = query.shape
    grouped = lifted(query).reshape(key.shape[0], -1, width)
    return (grouped @ lifted(key).transpose(1, 2)).reshape(heads, n_rows, key.shape[1]) * scaling


def attention_rows(query: Tensor, key: Tensor, scaling: float, mask: Tensor) -> Tensor:
    """Softmax over all keys for a few queries, head by head (``methods.md`` 17).

    Shape: as ``attention_logits``; mask ``(R, L)``: bool, True where a query may look, or float, added to the logits.
    Returns ``(H, R, L)``.
    """
    logits = attention_logits(query, key, scaling)
    logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
    return logits.softmax(dim=-1)


def received_attention(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """``received_exactly`` as methods get it, in float32."""
    return received_exactly(query, key, scaling).float()


def received_exactly(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """What each token receives from all of them where everyone sees everyone: mean over queries and heads.

    In slices of queries, so that no whole map is ever there (``methods.md`` 17).
    Shape: query ``(H, n, d)``, key ``(H_kv, n, d)`` -> ``(n,)``, at least float32, adding up to 1.
    """
    heads, n, _ = query.shape
    total = torch.zeros(n, dtype=torch.promote_types(query.dtype, torch.float32), device=query.device)
    for part in query.split(max(1, _LOGITS_AT_ONCE // (heads * n)), dim=1):
        total += attention_logits(part, key, scaling).softmax(dim=-1).sum(dim=(0, 1))
    return total / (heads * n)


def _cls_probabilities(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    every = torch.ones(1, key.shape[1], dtype=torch.bool, device=key.device)
    return attention_rows(query[:, :1], key, scaling, every).mean(dim=0)[0].float()


def _cls_logits(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    return attention_logits(query[:, :1], key, scaling).mean(dim=0)[0].float()


def _cls_full_width(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    # scaling is d^-1/2 for heads of width d (times what is folded into the query); all H heads together have width H d.
    wide_query, wide_key = (tensor.transpose(0, 1).flatten(1)[None] for tensor in (query[:, :1], key))
    return _cls_probabilities(wide_query, wide_key, scaling * query.shape[0] ** -0.5)


Look = Callable[[Tensor, Tensor, float], Tensor]
"""``(query (P, H, >= 1 or n, d), key (P, H, n, d), scaling) -> (P, n, ...)``, of P images, [CLS] included."""


def _image_by_image(look: Look) -> Look:
    return lambda query, key, scaling: torch.stack([look(q, k, scaling) for q, k in zip(query, key, strict=True)])


CLS_LOOKS: dict[str, Look] = {
    "cls_attention": _image_by_image(_cls_probabilities),
    "cls_logits": _image_by_image(_cls_logits),
    "cls_full_width": _image_by_image(_cls_full_width),
}
RECEIVED_LOOKS: dict[str, Look] = dict.fromkeys(
    ("received_attention", "object_attention", "deep_attention", "shallow_attention"),
    _image_by_image(received_attention),
)
PATCH_LOOKS: dict[str, Look] = {
    **RECEIVED_LOOKS,
    "encoder_keys": lambda _query, key, _scaling: key.mean(dim=1),
    "full_keys": lambda _query, key, _scaling: key.transpose(1, 2).flatten(2),
}
