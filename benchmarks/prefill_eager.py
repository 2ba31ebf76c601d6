"""Attention-guided methods as published: eager attention, and the maps that they read kept whole.

What official codes do: the vision tower runs with ``output_attentions=True`` (VisionZip, FasterVLM and their like),
which makes it eager and keeps the maps of all its layers until it returns; the LLM is loaded with
``attn_implementation="eager"`` (FastV's demo for transformers), and the map ``(heads, L, L)`` of the layer that a stage
reads is kept until the stage has read it. Here the stock model is switched to eager for as long as one measurement
lasts and its own ``eager_attention_forward`` is told to hand its maps over; selection is tokviz's, from rows read off
those maps. No code of the authors keeps all maps of Qwen's tower; there it is the one of the layer in question.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Generator, Tensor

from tokviz.engine import Prompt, Stopwatch
from tokviz.engine.vision_signals import tower_layer
from tokviz.types import Need, Params, Schedule, Selection, Signals, Stage

from .prefill_models import Bench

VISION_MAPS = (
    "cls_attention", "cls_logits", "received_attention", "object_attention", "deep_attention", "shallow_attention",
)  # fmt: skip
"""Signals that the official codes read off maps of the vision tower. Others (keys, features) cost them no map."""
LLM_MAPS = ("last_row", "text_rows", "head_rows")
"""Signals that the official codes read off maps of the LLM, unless they recompute them as PyramidDrop does."""

_FORWARD = "eager_attention_forward"


def vision_maps(schedule: Schedule) -> set[Need]:
    """What the published method reads off maps of the vision tower."""
    return {need for stage in schedule.stages for need in stage.needs if need.kind in VISION_MAPS}


def llm_maps(schedule: Schedule) -> set[int]:
    """The LLM layers whose maps the published method reads."""
    return {
        stage.site - 1 for stage in schedule.stages if isinstance(stage.site, int) for n in stage.needs if _is_map(n)
    }


def _is_map(need: Need) -> bool:
    return need.kind in LLM_MAPS and need.layer == "previous"


@dataclass
class Maps:
    """What eager attention left behind, per attention module; every list has one entry per call.

    Shape: weights ``(B, H, L, L)`` after softmax, in the model's dtype; logits alike before softmax, of ``logits_of``
    only; keys ``(B, H_kv, L, d)``. peak_bytes: the most that the weights took at one time.
    """

    logits_of: Collection[int] = ()
    weights: dict[int, list[Tensor]] = field(default_factory=dict)
    logits: dict[int, list[Tensor]] = field(default_factory=dict)
    keys: dict[int, list[Tensor]] = field(default_factory=dict)
    peak_bytes: int = 0

    def keep(self, module: Any, query: Tensor, key: Tensor, scaling: float, weights: Tensor) -> None:
        """Called by the model's eager attention; a decoding step (one query) leaves nothing."""
        if query.shape[2] == 1:
            return
        self.weights.setdefault(id(module), []).append(weights)
        self.keys.setdefault(id(module), []).append(key)
        if id(module) in self.logits_of:
            self.logits.setdefault(id(module), []).append(query @ key.transpose(2, 3) * scaling)
        held = sum(made.numel() * made.element_size() for calls in self.weights.values() for made in calls)
        self.peak_bytes = max(self.peak_bytes, held)

    def forget(self) -> None:
        """Let go of everything."""
        for kept in (self.weights, self.logits, self.keys):
            kept.clear()


@contextmanager
def eager(bench: Bench, vision: bool, llm: bool) -> Iterator[None]:
    """Vision tower, LLM or both on eager attention; afterwards on what they had."""
    model = bench.model
    before = dict(zip(("vision_config", "text_config"), bench.kernels, strict=True))
    wanted = {name for name, on in (("vision_config", vision), ("text_config", llm)) if on}
    model.set_attn_implementation(dict.fromkeys(wanted, "eager"))
    try:
        yield
    finally:
        model.set_attn_implementation({name: before[name] for name in wanted})
        now = dict(zip(("vision_config", "text_config"), bench.kernels, strict=True))
        if now != before:
            raise RuntimeError(f"The model is not back on its attention kernels: {now} instead of {before}.")


@contextmanager
def maps_kept(modules: Collection[Any], maps: Maps) -> Iterator[None]:
    """While the layer runs, eager attention of ``modules`` hands its maps to ``maps``."""
    watched = {id(module) for module in modules}
    with ExitStack() as stack:
        for code in {sys.modules[type(module).__module__] for module in modules}:
            original: Any = getattr(code, _FORWARD)

            def handing_over(
                module: Any,
                query: Tensor,
                key: Tensor,
                value: Tensor,
                attention_mask: Tensor | None,
                scaling: float,
                original: Any = original,
                **kwargs: Any,
            ) -> Any:
                output, weights = original(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
                if id(module) in watched:
                    maps.keep(module, query, key, scaling, weights)
                return output, weights

            setattr(code, _FORWARD, handing_over)
            stack.callback(setattr, code, _FORWARD, original)
        stack.callback(maps.forget)
        yield


def eager_prompt(bench: Bench, schedule: Schedule, needs: set[Need]) -> tuple[Prompt, int]:
    """``Bench.encoded`` with an eager tower whose maps are kept, and the signals read off them.

    Returns the prompt, whose ``vision_ms`` includes the reading, and the bytes of the maps.
    """
    model, family = bench.model, bench.family
    wanted = {need for need in needs if need.kind in (*VISION_MAPS, "encoder_keys")}
    asked: Any = {need: family.vision_attention(model, tower_layer(need)) for need in wanted}
    modules = list(asked.values())
    if family.patch_merging(model) is None:  # output_attentions keeps those of all layers
        modules = [module for module in model.modules() if type(module) is type(modules[0])]
    maps = Maps(logits_of={id(asked[need]) for need in wanted if need.kind == "cls_logits"})
    with eager(bench, vision=True, llm=False), maps_kept(modules, maps):
        prompt = bench.encoded(needs - wanted)
        with Stopwatch(bench.device) as watch:
            seen: dict[str, dict[str, Tensor]] = {kind: dict(layers) for kind, layers in prompt.vision[0].seen.items()}
            for need, module in asked.items():
                of_cls = need.kind == "shallow_attention" and family.has_cls(model)
                kind = "cls_attention" if of_cls else need.kind
                values = _of_tokens(bench, need, _read(kind, maps, id(module)))
                seen.setdefault(need.kind, {})[tower_layer(need)] = values
        peak = maps.peak_bytes
    vision = [replace(prompt.vision[0], seen=seen)]
    return replace(prompt, vision=vision, vision_ms=prompt.vision_ms + watch.milliseconds), peak


def _read(kind: str, maps: Maps, module: int) -> Tensor:
    """What a kind of signal is in the maps of one layer, per row of what the tower saw. Shape: ``(P, rows, ...)``."""
    if kind == "encoder_keys":
        return torch.cat(maps.keys[module], dim=2).mean(dim=1)
    if kind == "cls_logits":
        return maps.logits[module][-1][:, :, 0].float().mean(dim=1)
    if kind == "cls_attention":
        return maps.weights[module][-1][:, :, 0].float().mean(dim=1)
    return torch.cat([frame.float().mean(dim=(1, 2)) for frame in maps.weights[module]], dim=1)


def _of_tokens(bench: Bench, need: Need, values: Tensor) -> Tensor:
    """From the tower's rows to visual tokens. Shape: ``(P, rows, ...)`` -> ``(N, ...)``."""
    model, family = bench.model, bench.family
    merging = family.patch_merging(model)
    if merging is not None:
        groups = values[0].float().unflatten(0, (-1, merging.patches_per_token)).mean(dim=1)
        return groups[merging.tower_positions(bench.inputs["image_grid_thw"]).to(groups.device)]
    patches = values[:, int(family.has_cls(model)) :]
    arguments = {name: bench.inputs[name] for name in family.layout_arguments if name in bench.inputs}
    (image,) = family.images(model, arguments, len(patches), patches.shape[1])
    tile, patch = image.tile.to(patches.device), image.patch.to(patches.device)
    found = patches[tile, patch.clamp(min=0)]
    missing = torch.nan if need.kind.startswith("cls_") else 0.0
    return found.masked_fill((patch < 0).reshape(-1, *[1] * (found.dim() - 1)), missing)


def read_off_maps(bench: Bench, schedule: Schedule, maps: Maps) -> Schedule:
    """The same schedule, whose stages take the LLM's attention from ``maps`` instead of asking the engine for it."""
    layers = bench.family.layers(bench.model)
    visual = bench.inputs["input_ids"][0] == bench.model.config.image_token_id
    first, behind = int(visual.int().argmax()), int((~visual).sum()) - int(visual.int().argmax())

    def reading(stage: Stage) -> Stage:
        needs = [need for need in stage.needs if _is_map(need)]
        if not needs or not isinstance(stage.site, int):
            return stage
        module: Any = layers[stage.site - 1]
        kind, attention = needs[0].kind, id(module.self_attn)

        def select(signals: Signals, keep: int | None, params: Params, generator: Generator) -> Selection:
            weights = maps.weights.pop(attention)[-1][0]
            maps.keys.pop(attention)
            rows = weights[:, -1:] if kind == "last_row" else weights[:, -behind:]
            rows = rows[:, :, first : first + len(signals.features)].float()
            field_name, shown = ("head_rows", rows) if kind == "head_rows" else ("attention_rows", rows.mean(dim=0))
            return stage.select(replace(signals, **{field_name: shown}), keep, params, generator)

        return replace(stage, needs=tuple(need for need in stage.needs if not _is_map(need)), select=select)

    return Schedule(tuple(reading(stage) for stage in schedule.stages))
