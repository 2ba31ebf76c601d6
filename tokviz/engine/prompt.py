"""The way without hooks for stages before the LLM: encode a prompt once, then shorten it as often as wanted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from threading import get_ident
from typing import Any

import torch
from torch import Tensor

from ..errors import Unsupported
from ..models.base import ModelFamily
from ..names import VisionLayer
from ..types import Need, Stage
from .capture import before_forward, here
from .checks import check_axes, check_modalities, check_model, check_prompt, check_stages
from .sequence import Carried, Deepstack, Rows, State, gather, rotary_axes
from .signals import Geometry, SignalReader
from .stages import Chooser, Decisions, Select, StageEvent, StageRunner, Stopwatch
from .tower_merging import VisionMerging, merge_in_vision
from .vision import captured
from .vision_signals import VisionSignals


class StopForward(Exception):
    """Raised at the language model's door: everything before it is done, nothing behind it is wanted."""


@dataclass(frozen=True)
class Prompt:
    """A prompt as the language model would receive it: images encoded, projected and written into the embeddings.

    Shape:
        input_ids, attention_mask: ``(B, L)`` int64. inputs_embeds: ``(B, L, D)``. position_ids: ``(B, L)``, with three
        axes in front where the model has several, or None for the positions that ``generate`` counts off the mask.
        visual_mask: ``(B, L)`` bool. vision: per row, of all N original visual tokens. alive: per row ``(n,)`` original
        indices of the visual tokens that are still there, in sequence order. vision_ms: what encoding took, from the
        call to the language model's door, in ms; after ``VisionLayer`` stages what the second run of the vision tower
        took, selections excluded. pixel_values: all images as the model got them, ``(P, 3, H, W)``, ``(P, tiles,
        3, H, W)`` where images are cut into tiles, ``(patches, values)`` of Qwen; None without any. question_mask:
        ``(B, L)`` bool, the tokens that the user wrote, None when nobody said. geometry: per row, where its N original
        visual tokens lie, None when nobody said. deepstack: what is added inside the LLM, None where nothing is.
        What a shortened prompt remembers of the encoded one, None before: text_mask ``(B, L)`` bool, tokens behind the
        last visual token; added_mask ``(B, L)`` bool, tokens that a stage added; sizes, per row ``(n,)``, how many
        patches each visual token stands for; first_position ``(B, 1)``, where its positions began; carried, how many
        original visual tokens each column weighs as in attention, None for one each.

    Example (returns the new tokens only)::

        with running_on(model, family, prompt):
            model.generate(**prompt.generate_inputs(), max_new_tokens=20)
    """

    input_ids: Tensor
    inputs_embeds: Tensor
    attention_mask: Tensor
    position_ids: Tensor | None
    visual_mask: Tensor
    vision: Sequence[VisionSignals]
    alive: Sequence[Tensor]
    vision_ms: float
    pixel_values: Tensor | None = None
    question_mask: Tensor | None = None
    geometry: Sequence[Geometry | None] | None = None
    deepstack: Deepstack | None = None
    text_mask: Tensor | None = None
    added_mask: Tensor | None = None
    sizes: Sequence[Tensor | None] | None = None
    first_position: Tensor | None = None
    carried: Carried | None = None

    @property
    def n_visual(self) -> list[int]:
        """Visual tokens alive per row."""
        return [int(alive.numel()) for alive in self.alive]

    def rows(self, real: Tensor, visual: Tensor, positions: Tensor | None) -> Rows:
        """Describe this prompt, or copies of each of its rows. Shape: real, visual ``(copies * B, L)`` bool."""
        batch = real.shape[0]
        copies = batch // len(self.alive)

        def copied(mask: Tensor | None) -> Tensor | None:
            if mask is None:
                return None
            mask = mask.to(real.device)
            return mask if copies == 1 else mask.repeat_interleave(copies, dim=0)

        return Rows.of(
            real,
            visual,
            positions,
            [self.alive[row // copies] for row in range(batch)],
            question=copied(self.text_mask),
            asked=copied(self.question_mask),
            added=copied(self.added_mask),
            sizes=None if self.sizes is None else [self.sizes[row // copies] for row in range(batch)],
            first_position=copied(self.first_position),
            carried=None if self.carried is None else copied(self.carried.sizes),
        )

    @cached_property
    def own_rows(self) -> Rows:
        """Describe this prompt; without position ids by those that ``generate`` counts off the mask."""
        positions = counted_positions(self.attention_mask) if self.position_ids is None else self.position_ids
        return self.rows(self.attention_mask.bool(), self.visual_mask, positions)

    def generate_inputs(self) -> dict[str, Tensor]:
        """Keyword arguments for ``model.generate`` or ``model.forward``.

        Raises Unsupported outside ``running_on`` where the model needs more than these, silently.
        """
        if self.deepstack is not None and not self.deepstack.is_fed:
            raise Unsupported(
                "This model adds features of the images inside its LLM, which embeddings do not hold: run it inside "
                "running_on(model, family, prompt)."
            )
        if self.carried is not None and not self.carried.is_fed:
            raise Unsupported(
                "Merged tokens of this prompt weigh as many as they carry, which embeddings do not hold: run it inside "
                "running_on(model, family, prompt)."
            )
        inputs = {"inputs_embeds": self.inputs_embeds, "attention_mask": self.attention_mask}
        if self.position_ids is not None:
            inputs["position_ids"] = self.position_ids
        return inputs


def counted_positions(attention_mask: Tensor) -> Tensor:
    """Position ids as ``generate`` counts them off a mask: real tokens 0, 1, 2, ..., pads 0. Shape: ``(B, L)``."""
    return (attention_mask.long().cumsum(dim=-1) - 1).masked_fill(attention_mask == 0, 0)


@torch.no_grad()
def encode(
    model: Any,
    family: ModelFamily,
    inputs: Mapping[str, Any],
    needs: Iterable[Need] | None,
    *,
    question_mask: Tensor | None = None,
    geometry: Sequence[Geometry | None] | None = None,
) -> Prompt:
    """Run the stock model up to its language model and keep what arrives there, with the vision signals asked for.

    One encode serves all methods of a request. ``question_mask`` and ``geometry``: see ``Prompt``; without them,
    methods that listen to the user's words refuse, and signals have no ``cell``. ``needs`` None: nobody looks at the
    vision tower, whose images may have any size; no stage before the projector can run on such a prompt. Raises
    Unsupported for models and inputs that cannot be pruned.
    """
    needs = None if needs is None else tuple(needs)
    check_model(model, family)
    check_stages(model, family, (), needs or ())
    if here(model) is not None:
        raise Unsupported(
            "This thread is inside prune() already, and contexts cannot be nested. Leave it first; what "
            "encodes a prompt (prune, encode, compare) runs outside."
        )
    mine = get_ident()
    if question_mask is not None and question_mask.shape != inputs["input_ids"].shape:
        shapes = f"{tuple(question_mask.shape)} but the prompt is {tuple(inputs['input_ids'].shape)}"
        raise Unsupported(f"The question mask is {shapes}; give the mask of this very prompt.")
    caught: dict[str, Any] = {}

    def thread_is_ours() -> bool:
        return get_ident() == mine

    def catch(_args: Any, kwargs: dict[str, Any]) -> None:
        caught.update(kwargs)
        raise StopForward

    remove = before_forward(family.language_model(model), catch, thread_is_ours)
    try:
        with (
            nullcontext() if needs is None else captured(model, family, needs, thread_is_ours, inputs) as vision,
            Stopwatch(model.device) as watch,
            suppress(StopForward),
        ):
            model(**inputs)
    finally:
        remove()
    encoded = _prompt(model, family, inputs, caught, vision, watch.milliseconds)
    asked = None if question_mask is None else question_mask.to(encoded.visual_mask.device, torch.bool)
    return replace(encoded, question_mask=asked, geometry=geometry)


def _prompt(
    model: Any, family: ModelFamily, inputs: Mapping[str, Any], caught: dict[str, Any], capture: Any, vision_ms: float
) -> Prompt:
    input_ids = inputs["input_ids"]
    visual = torch.isin(input_ids, torch.tensor(family.visual_token_ids(model), device=input_ids.device))
    mask = caught.get("attention_mask")
    mask = torch.ones_like(input_ids) if mask is None else mask.long()
    check_prompt(mask.bool(), visual)
    check_modalities(input_ids, family.visual_token_ids(model))
    check_axes(family, caught.get("position_ids"), visual)
    counts = visual.sum(dim=1).tolist()
    vision = capture.consume(counts) if sum(counts) and capture is not None else None
    if vision is None and sum(counts) and capture is not None:
        raise Unsupported("The prompt holds image tokens but no image was encoded; pass pixel_values.")
    if vision is None:  # nobody looked: all that is known is what the LLM gets
        embeds = caught["inputs_embeds"]
        vision = [VisionSignals(features=row[mine]) for row, mine in zip(embeds, visual, strict=True)]
    return Prompt(
        input_ids=input_ids,
        inputs_embeds=caught["inputs_embeds"],
        attention_mask=mask,
        position_ids=caught.get("position_ids"),
        visual_mask=visual,
        vision=vision,
        alive=[torch.arange(n, device=input_ids.device) for n in counts],
        vision_ms=vision_ms,
        pixel_values=inputs.get("pixel_values"),
        deepstack=Deepstack.taken_from(caught, visual),
    )


@torch.no_grad()
def shorten(
    model: Any,
    family: ModelFamily,
    prompt: Prompt,
    stages: Sequence[Stage],
    select: Select,
    *,
    diagnose: bool = False,
) -> tuple[Prompt, list[list[StageEvent]]]:
    """Run the stages before the LLM and return the physically shorter prompt with its events.

    Stages inside vision layers run the vision tower once more, from the pixels. Rows that keep different counts are
    padded on the left. Position policy ``reindex`` leaves positions to be counted anew, ``keep`` sets the original
    ones. In-LLM stages are ignored here: give them to ``prune``. The given prompt is not changed. ``diagnose`` fills
    ``StageEvent.diagnostics``. Raises Unsupported when a stage cannot run on this model.
    """
    check_stages(model, family, stages, ())
    chooser = Chooser(select, diagnose)
    merging = merged_prompt(model, family, prompt, stages, chooser)
    rows = prompt.own_rows
    events = [[] for _ in prompt.alive] if merging is None else merging.events
    reader = SignalReader(prompt.vision, prompt.geometry)
    runner = StageRunner(chooser, Decisions(events), reader, lambda features: family.project(model, features))
    encoder: tuple[Tensor, ...] = ()
    if any(stage.site == "encoder" for stage in stages):
        encoder = tuple(vision.of(alive) for vision, alive in zip(prompt.vision, prompt.alive, strict=True))
    state, input_ids, vision_ms = State(rows, prompt.inputs_embeds, encoder), prompt.input_ids, prompt.vision_ms
    steps: list[Tensor | None] = []
    if merging is not None:
        vision_ms = merging.milliseconds
        state, index = merging.apply(runner, state)
        steps.append(index)
    for number, stage in enumerate(stages):
        if not isinstance(stage.site, int | VisionLayer):
            state, index = runner.run(number, stage, state)
            steps.append(index)
    for index in steps:
        if index is not None:
            input_ids = gather(input_ids, index)
            if len(index) > 1:  # a row alone has no pads; they are masked, so any id does
                pad = getattr(model.config.get_text_config(), "pad_token_id", None) or 0
                input_ids = input_ids.masked_fill(index < 0, pad)
    rows = state.rows
    if rows is prompt.own_rows and state.hidden is prompt.inputs_embeds:
        return prompt, events
    counted = torch.equal(rows.positions, counted_positions(rows.real))
    short = replace(
        prompt,
        input_ids=input_ids,
        inputs_embeds=state.hidden,
        attention_mask=rows.real.long(),
        position_ids=None if counted else rotary_axes(rows.positions),
        visual_mask=rows.visual,
        alive=rows.alive,
        question_mask=rows.asked,
        text_mask=rows.question,
        added_mask=rows.added,
        sizes=rows.sizes,
        first_position=rows.first_position,
        carried=None if rows.carried is None else Carried(rows.carried),
        vision_ms=vision_ms,
    )
    return short, events


def merged_prompt(
    model: Any, family: ModelFamily, prompt: Prompt, stages: Sequence[Stage], chooser: Chooser
) -> VisionMerging | None:
    """What those of ``stages`` do that lie inside the vision tower; None without any."""
    inside = [stage for stage in stages if isinstance(stage.site, VisionLayer)]
    if not inside:
        return None
    views = [vision.view for vision in prompt.vision]
    rows, pixels = prompt.own_rows, prompt.pixel_values
    return merge_in_vision(model, family, inside, chooser, pixels=pixels, rows=rows, views=views)
