"""Pruning inside a stock model: hooks that shorten the sequence while ``model.generate`` runs unchanged.

Pre-hooks, each acting only in threads that own the context: on the model and its base (read the arguments), on the
language model (stages before the LLM; masks and positions of every later step), and on the layers from the first
in-LLM stage on (in-LLM stages; every later layer gets the mask and rotary tables of its own, shorter sequence). Where
the tower's features are added inside the LLM, too (``Deepstack``), the layers' hooks do it in the model's place.
Per-sequence state lives on the cache, per-forward state in ``threading.local``. The model holds the hooks and, where it
encodes images itself, what ``watched_encoding`` says.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..errors import Stopped, Unsupported
from ..models.base import ModelFamily
from ..names import VisionLayer
from ..types import Stage
from .cache import CacheState, attach, cached_tokens, state_of
from .capture import after_forward, before_forward, can_tap, here, tapped
from .checks import check_cache, check_call
from .layer_signals import Entered, LayerSignals, Moment
from .prefill import Decode, Prefill, PromptHints, PromptReader, View, causal_mask
from .sequence import Rows, State, gather, rotary_axes
from .stages import Chooser
from .vision import captured
from .vision_signals import VISION_KINDS


class HookPruner:
    """Carries out ``stages`` on every prompt that runs in the threads of its context."""

    def __init__(
        self, model: Any, family: ModelFamily, stages: Sequence[Stage], chooser: Chooser, hints: PromptHints
    ) -> None:
        self.model, self.family, self.stages = model, family, tuple(stages)
        self.language_model = family.language_model(model)
        self.layers: Sequence[Any] = family.layers(model)
        self.reader = PromptReader(model, family, hints, chooser)
        self.early = [
            (n, stage) for n, stage in enumerate(self.stages) if not isinstance(stage.site, int | VisionLayer)
        ]
        self.late: dict[int, list[tuple[int, Stage]]] = {}
        for number, stage in enumerate(self.stages):
            if isinstance(stage.site, int):
                self.late.setdefault(stage.site, []).append((number, stage))
        self.sites = tuple(self.late)
        tappable = can_tap(self.language_model.config._attn_implementation)
        self.signals = {
            site: LayerSignals(site, [stage for _, stage in late], self.layers, tappable)
            for site, late in self.late.items()
        }
        self._wants_llm_input = any(
            n.kind == "llm_input" for late in self.late.values() for _, s in late for n in s.needs
        )
        carries = hints.prompt is not None and hints.prompt.carried is not None
        self.weighs_early = carries or any(s.rectify for s in self.stages if not isinstance(s.site, int))
        self.rectifies = self.weighs_early or any(stage.rectify for stage in self.stages)
        self.aborted = False
        self.used = False
        self._local = threading.local()

    # -- putting the hooks in place ------------------------------------------------------------------------------------

    def install(self, stack: ExitStack) -> None:
        """Register every hook and tap; ``stack`` removes them."""
        base = self.model.base_model
        if base is not self.model:
            self._hook(stack, self.model, self._before_model)
        self._hook(stack, base, self._before_base)
        self._hook(stack, self.language_model, self._before_lm)
        stack.callback(after_forward(self.language_model, self._after_lm, self._is_here))
        for number in self._hooked_layers():
            self._hook(stack, self.layers[number], partial(self._before_layer, number))
        prompt = self.reader.hints.prompt
        for beside in () if prompt is None else (prompt.deepstack, prompt.carried):
            if beside is not None:
                stack.enter_context(beside.fed())
        needs = [need for stage in self.stages for need in stage.needs]
        looks = any(need.kind in VISION_KINDS for need in needs)
        if prompt is None and (looks or any(stage.site == "encoder" for stage in self.stages)):
            self.reader.capture = stack.enter_context(captured(self.model, self.family, needs, self._is_here))
        for site, signals in self.signals.items():
            if signals.can_tap and signals.of_previous:
                kernel = self.language_model.config._attn_implementation
                stack.enter_context(tapped(self.layers[site - 1].self_attn, kernel, self._tap(signals)))

    def _hook(self, stack: ExitStack, module: Any, hook: Any) -> None:
        stack.callback(before_forward(module, hook, self._is_here))

    def _tap(self, signals: LayerSignals) -> Any:
        def tap(query: Tensor, key: Tensor, mask: Tensor | None, scaling: float) -> None:
            forward = self._forward
            if self._is_here() and isinstance(forward, Prefill) and not forward.runner.frozen:
                forward.history.tapped[signals.site] = signals.tap(forward.rows, query, key, mask, scaling)

        return tap

    def _hooked_layers(self) -> list[int]:
        """All from the first stage in the LLM on, and those behind a layer where the tower's features are added.

        All of them where tokens that were merged before the LLM are to weigh as many.
        """
        if self.weighs_early:
            return list(range(len(self.layers)))
        first = [site - 1 if signals.wants_previous_input else site for site, signals in self.signals.items()]
        merging = self.family.patch_merging(self.model)
        behind = range(1, 1 + (0 if merging is None else merging.added_in_llm))
        return sorted({*behind, *range(min(first, default=len(self.layers)), len(self.layers))})

    def _is_here(self) -> bool:
        return here(self.model) is self

    @property
    def _forward(self) -> Prefill | Decode | None:
        return getattr(self._local, "forward", None)

    @property
    def current_rows(self) -> Rows | None:
        """The sequence of this thread's prefill after the stages that ran so far, None outside a prefill."""
        forward = self._forward
        return forward.rows if isinstance(forward, Prefill) else None

    # -- the model's and the language model's door ---------------------------------------------------------------------

    def _before_model(self, _args: Any, kwargs: dict[str, Any]) -> None:
        self.used = True
        check_call(kwargs, self.stages)

    def _before_base(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.used = True
        check_cache(kwargs.get("past_key_values"))
        self.reader.see(args[0] if args else kwargs.get("input_ids"), kwargs)

    def _before_lm(self, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        self._local.forward = None
        if self.aborted:
            raise Stopped("The pruning context was left while this was still running.")
        cache, mask = kwargs.get("past_key_values"), kwargs.get("attention_mask")
        check_cache(cache)
        if mask is not None and (not isinstance(mask, Tensor) or mask.dim() != 2):
            raise Unsupported("Pass a 2D attention mask (or none); masks with more dimensions cannot be shortened.")
        kwargs = dict(kwargs)
        self._local.forward = self._prefill(kwargs) if cached_tokens(cache) == 0 else self._decode(kwargs)
        return args, kwargs

    def _prefill(self, kwargs: dict[str, Any]) -> Prefill | None:
        forward = self.reader.receive(kwargs)
        if forward is None:
            return None
        before, embeds = forward.rows, kwargs["inputs_embeds"]
        merging = self.reader.hints.merging
        if merging is not None:
            state = State(forward.rows, embeds, forward.encoder)
            embeds, _ = forward.take(merging.apply(forward.runner, state))
        for number, stage in self.early:
            embeds, _ = forward.run(number, stage, embeds)
        kwargs["inputs_embeds"] = embeds
        forward.llm_input = (embeds, forward.rows) if self._wants_llm_input else None
        forward.open_segment(0)
        if forward.rows is not before:
            kwargs["position_ids"] = rotary_axes(forward.rows.positions)
            # Gaps in positions look like several packed sequences to transformers unless a mask or a cache is there.
            explicit = forward.segments[0].padded or forward.cache is None
            kwargs["attention_mask"] = forward.rows.real.long() if explicit else None
        return forward

    def _decode(self, kwargs: dict[str, Any]) -> Decode | None:
        cache, embeds, mask = kwargs["past_key_values"], kwargs["inputs_embeds"], kwargs.get("attention_mask")
        n_new = embeds.shape[1]
        if self.reader.holds_images():
            raise Unsupported(
                "Images must come with the first tokens of a sequence (chunked prefill is not supported)."
            )
        state = state_of(cache)
        if state is None:
            return None
        if not state.goes_on_in(self):
            raise Unsupported("This cache was pruned by other stages; use it with the stages it was made with.")
        length = cache.get_seq_length()
        if mask is not None and mask.shape[1] != length + n_new:
            raise Unsupported(f"The attention mask has {mask.shape[1]} columns; this sequence has {length + n_new}.")
        positions = kwargs.get("position_ids")
        if positions is None:
            positions = torch.arange(length, length + n_new, device=embeds.device)[None]
        first = state.segments[0]
        kwargs["attention_mask"] = first.mask(cached_tokens(cache), mask, n_new)
        if first.shift is not None:
            kwargs["position_ids"] = positions - first.shift.to(positions.device)
        return Decode(cache, state.segments, positions, mask)

    def _after_lm(self, kwargs: dict[str, Any], output: Any) -> None:
        forward, self._local.forward = self._forward, None
        cache = kwargs.get("past_key_values")
        cache = cache if cache is not None else getattr(output, "past_key_values", None)
        self.reader.cache = cache
        if not isinstance(forward, Prefill):
            return
        self.reader.alive = forward.rows.alive
        if cache is None:
            return
        forward.apply_cuts(cache)
        first = forward.segments[0]
        same_length = len(forward.segments) == 1 and first.real.shape[1] == forward.full_length
        if not same_length or first.shift is not None or first.carried is not None:
            model = weakref.ref(self.model)
            attach(cache, CacheState(model, self.sites, self.rectifies, forward.full_length, forward.segments))

    # -- a layer's door ------------------------------------------------------------------------------------------------

    def _before_layer(self, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        forward = self._forward
        if isinstance(forward, Decode):
            return self._decode_layer(forward, number, args, kwargs)
        if not isinstance(forward, Prefill):
            return None
        hidden = args[0]
        if forward.deepstack is not None and number > 0:
            hidden = forward.deepstack.added(number - 1, hidden, forward.rows)
        if forward.view is None and forward.rows.carried is not None:
            forward.view = View(self._mask(forward, hidden), kwargs["position_embeddings"])
        forward.history.origin = None
        for stage_number, stage in self.late.get(number, ()):
            hidden = self._prune_layer(forward, number, stage_number, stage, hidden, kwargs)
        following = self.signals.get(number + 1)
        if following is not None and following.wants_previous_input and not forward.runner.frozen:
            forward.history.entered[number] = Entered(hidden, forward.rotary(kwargs), forward.rows)
        return (hidden, *args[1:]), kwargs if forward.view is None else forward.view.given_to(kwargs)

    def _prune_layer(
        self, forward: Prefill, layer: int, number: int, stage: Stage, hidden: Tensor, kwargs: dict[str, Any]
    ) -> Tensor:
        before, rotary, history = forward.rows, forward.rotary(kwargs), forward.history
        now = Entered(hidden, rotary, before)
        moment = Moment(self.signals[layer], history, now, forward.llm_input, self.language_model)
        hidden, index = forward.run(number, stage, hidden, moment)
        if forward.rows is before:
            return hidden
        if index is not None:
            history.origin = index if history.origin is None else gather(history.origin, index)
        if forward.rows.shift is not before.shift:
            rotary = self.language_model.rotary_emb(hidden, forward.rows.positions.to(hidden.device))
        elif index is not None:
            rotary = gather(rotary[0], index), gather(rotary[1], index)
        if index is not None:
            forward.moved(index)
            if stage.cuts_cache:
                forward.cut_cache(layer)
        forward.open_segment(layer)
        forward.view = View(self._mask(forward, hidden), rotary)
        return hidden

    def _mask(self, forward: Prefill, hidden: Tensor) -> Tensor | None:
        rows = forward.rows
        return causal_mask(self.language_model.config, hidden, rows.real if rows.padded else None, 0, rows.carried)

    def _decode_layer(self, forward: Decode, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        segment = forward.segment(number)
        if segment.first_layer == 0 and segment.carried is None:
            return None
        view = forward.views.get(segment.first_layer)
        if view is None:
            hidden, cached = args[0], cached_tokens(forward.cache, segment.first_layer)
            mask = segment.mask(cached, forward.tail, hidden.shape[1])
            rotary = kwargs["position_embeddings"]
            if segment.rotates:
                positions = forward.positions.to(hidden.device)
                if segment.shift is not None:
                    positions = positions - segment.shift.to(hidden.device)
                rotary = self.language_model.rotary_emb(hidden, positions)
            carried = None if segment.carried is None else segment.carried[:, :cached]
            view = View(causal_mask(self.language_model.config, hidden, mask, cached, carried), rotary)
            forward.views[segment.first_layer] = view
        return args, view.given_to(kwargs)
