"""What arrives at the language model: which tokens are visual, what vision said, what was decided before.

And the two kinds of forward pass that follow from it, each from the language model's door to its exit.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import create_causal_mask

from ..errors import Unsupported
from ..models.base import ModelFamily
from ..types import Stage
from .cache import PlainLengths, Segment
from .checks import check_axes, check_modalities, check_prompt, copied_mask
from .layer_signals import LayerHistory, Moment, Rotary
from .prompt import Prompt
from .sequence import Deepstack, Rows, State, gather
from .signals import Geometry, SignalReader
from .stages import Chooser, Decisions, StageEvent, StageRunner
from .tower_merging import VisionMerging
from .vision_signals import Capture, VisionSignals


@dataclass
class View:
    """What the layers of one segment are given instead of the full-length mask and rotary tables."""

    mask: Tensor | None
    rotary: Rotary

    def given_to(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """A layer's keyword arguments with this view's tensors.

        Rotary tables are made already; position ids would only send flash attention looking for packed sequences.
        """
        return {**kwargs, "attention_mask": self.mask, "position_embeddings": self.rotary, "position_ids": None}


@dataclass
class Prefill:
    """The forward that receives the whole prompt: stages decide, the sequence shrinks from layer to layer.

    rows, encoder: as in ``State``, after the last stage that ran. deepstack: what the tower adds inside the LLM, None
    for models that add nothing there. llm_input: what entered layer 0, None where nobody asks for it. came_from: for
    each segment where the current columns stood in it, ``(B, L)``, -1 for pads; None where they still stand there.
    cuts: layers and the columns that their cache is to keep, ``(B, K)``.
    """

    cache: Any
    full_length: int
    rows: Rows
    encoder: tuple[Tensor, ...]
    runner: StageRunner
    deepstack: Deepstack | None = None
    llm_input: tuple[Tensor, Rows] | None = None
    segments: list[Segment] = field(default_factory=list)
    came_from: list[Tensor | None] = field(default_factory=list)
    cuts: list[tuple[int, Tensor]] = field(default_factory=list)
    view: View | None = None
    history: LayerHistory = field(default_factory=LayerHistory)

    def take(self, ran: tuple[State, Tensor | None]) -> tuple[Tensor, Tensor | None]:
        """Go on with what a stage left; returns the hidden states and the gathered columns."""
        state, index = ran
        self.rows, self.encoder = state.rows, state.encoder
        return state.hidden, index

    def run(
        self, number: int, stage: Stage, hidden: Tensor, moment: Moment | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Run a stage; see ``StageRunner.run``."""
        return self.take(self.runner.run(number, stage, State(self.rows, hidden, self.encoder), moment))

    def rotary(self, kwargs: dict[str, Any]) -> Rotary:
        """The tables of the current sequence; ``kwargs`` are what the stock model hands to the layer."""
        return kwargs["position_embeddings"] if self.view is None else self.view.rotary

    def open_segment(self, first_layer: int) -> None:
        """From this layer on the sequence is ``self.rows``."""
        # A second stage before the same layer replaces the first; one before layer 0 replaces the prompt itself.
        if self.segments and self.segments[-1].first_layer == first_layer:
            self.segments.pop()
            self.came_from.pop()
        rows, rotates = self.rows, bool(self.segments) and self.rows.shift is not self.segments[0].shift
        self.segments.append(Segment(first_layer, rows.real, rows.padded, rows.shift, rotates, rows.carried))
        self.came_from.append(None)

    def moved(self, index: Tensor) -> None:
        """The sequence was gathered inside the LLM: remember where its columns stand in the layers before."""
        self.came_from = [index if before is None else gather(before, index) for before in self.came_from]

    def cut_cache(self, layer: int) -> None:
        """Let the cache of all layers before this one hold the current columns only, each as it was cached there.

        They keep the positions that they were cached with, whatever the stage does to those of the layers behind.
        """
        ends = [segment.first_layer for segment in self.segments[1:]] + [layer]
        for segment, index, end in zip(self.segments, self.came_from, ends, strict=True):
            if index is not None:
                self.cuts += [(number, index) for number in range(segment.first_layer, end)]
        self.apply_cuts(self.cache)
        real, padded = self.rows.real, self.rows.padded
        self.segments = [
            replace(segment, real=real, padded=padded, carried=_carried(segment.carried, index))
            for segment, index in zip(self.segments, self.came_from, strict=True)
        ]
        self.came_from = [None] * len(self.segments)

    def apply_cuts(self, cache: Any) -> None:
        """Carry out the cuts that wait, once the cache is known: a model that makes it itself shows it at the end."""
        if cache is None:
            return
        for number, index in self.cuts:
            layer = cache.layers[number]
            layer.keys, layer.values = _columns(layer.keys, index), _columns(layer.values, index)
        self.cuts.clear()


def _carried(carried: Tensor | None, index: Tensor | None) -> Tensor | None:
    """How many tokens each of the columns ``index (B, K)`` carries. Shape: ``(B, L)`` -> ``(B, K)``."""
    return carried if carried is None or index is None else gather(carried, index)


def _columns(states: Tensor, index: Tensor) -> Tensor:
    """Keys or values of the columns ``index (B, K)``. Shape: ``(B, H, L, d)`` -> ``(B, H, K, d)``."""
    return gather(states.transpose(1, 2), index.to(states.device)).transpose(1, 2)


@dataclass
class Decode:
    """A forward of new tokens on a pruned cache.

    Shape: positions ``(B|1, q)``, as they would be without pruning. tail: the caller's 2D mask or None.
    """

    cache: Any
    segments: list[Segment]
    positions: Tensor
    tail: Tensor | None
    views: dict[int, View] = field(default_factory=dict)

    def segment(self, layer: int) -> Segment:
        """The segment a layer belongs to."""
        return next(segment for segment in reversed(self.segments) if segment.first_layer <= layer)


def causal_mask(
    config: Any, hidden: Tensor, mask: Tensor | None, cached: int, carried: Tensor | None = None
) -> Tensor | None:
    """The mask that transformers itself makes for so many cached tokens, in the form this kernel wants.

    Where keys weigh as many tokens as they carry, what both SDPA and eager attention add to their logits: ln(carried),
    and the lowest number where a query may not look. Shape: hidden ``(B, q, D)``; mask ``(B, cached + q)`` or None when
    every column is real; carried ``(B, k)`` of the first ``k <= cached + q`` columns, 1 for the others -> additive
    ``(B, 1, q, cached + q)``.
    """
    if carried is not None:
        length, device = cached + hidden.shape[1], hidden.device
        columns = torch.arange(length, device=device)
        seen = (columns <= columns[cached:, None])[None]
        if mask is not None:
            seen = seen & mask.to(device, torch.bool)[:, None]
        sizes = torch.nn.functional.pad(carried, (0, length - carried.shape[1]), value=1).to(device)
        bias = sizes.to(torch.promote_types(hidden.dtype, torch.float32)).log().to(hidden.dtype)
        return bias[:, None].where(seen, torch.finfo(hidden.dtype).min)[:, None]
    lengths: Any = PlainLengths(cached)
    made: Any = create_causal_mask(config=config, inputs_embeds=hidden, attention_mask=mask, past_key_values=lengths)
    return made


@dataclass(frozen=True)
class _Uncached:
    """The last prompt that ran without a cache, to recognise its next step.

    Shape: prompt ``(B, L)`` ids, images ``(n, D)`` visual embeddings; ``length`` of the last step in tokens.
    """

    prompt: Tensor
    images: Tensor
    length: int
    decisions: Decisions
    vision: Sequence[VisionSignals] | None


@dataclass(frozen=True)
class PromptHints:
    """What the caller of ``prune`` says about the prompt because nothing else does; see there.

    merging: what stages inside the vision tower made of ``prompt``, None without any.
    """

    visual_mask: Tensor | None = None
    question_mask: Tensor | None = None
    geometry: Sequence[Geometry | None] | None = None
    prompt: Prompt | None = None
    merging: VisionMerging | None = None


class PromptReader:
    """Turns the arguments of the language model into a ``Prefill``, in any thread.

    events, alive, cache: of the last forward of any thread; ``alive`` after the last stage.
    """

    def __init__(self, model: Any, family: ModelFamily, hints: PromptHints, chooser: Chooser) -> None:
        self.model, self.family, self.hints, self.chooser = model, family, hints, chooser
        self.visual_mask = hints.visual_mask if hints.prompt is None else hints.prompt.visual_mask
        self.capture: Capture | None = None
        self.events: list[list[StageEvent]] = []
        self.alive: Sequence[Tensor] = ()
        self.cache: Any = None
        self._local = threading.local()

    def see(self, input_ids: Tensor | None, kwargs: dict[str, Any]) -> None:
        """Remember this thread's ids (None when embeddings were given) and whether images came along."""
        encoded = kwargs.get("mm_encoder_outputs") or {}
        images = [value for name, value in kwargs.items() if name.startswith("pixel_values")]
        self._local.ids = input_ids
        self._local.images_came = any(image is not None for image in (*images, *encoded.values()))
        if not self._local.images_came and self.capture is not None:
            self.capture.forget()  # of a forward that failed behind the tower: not what these embeddings were made of

    @property
    def _ids(self) -> Tensor | None:
        return getattr(self._local, "ids", None)

    def holds_images(self) -> bool:
        """Whether this forward's ids hold visual tokens that are to be filled with images.

        Placeholder ids alone say nothing: a model may generate them, and prompt lookup guesses them. They are looked at
        only when an image came, so ordinary decoding never waits for the device here.
        """
        ids = self._ids
        return ids is not None and self._local.images_came and bool(self._visual_ids(ids).any())

    def _visual_ids(self, ids: Tensor) -> Tensor:
        return torch.isin(ids, torch.tensor(self.family.visual_token_ids(self.model), device=ids.device))

    def receive(self, kwargs: dict[str, Any]) -> Prefill | None:
        """The prompt that ``kwargs`` of the language model hold; None when it has no visual token."""
        embeds, mask = kwargs["inputs_embeds"], kwargs.get("attention_mask")
        visual = self._visual_mask(embeds)
        batch, length = visual.shape
        if not bool(visual.any()):
            self.events, self.alive = [[] for _ in range(batch)], [visual.new_empty(0, dtype=torch.int64)] * batch
            return None
        real = torch.ones_like(visual) if mask is None else mask.bool()
        check_prompt(real, visual)
        if self._ids is not None:
            check_modalities(self._ids, self.family.visual_token_ids(self.model))
        if self._given() is None:  # encode() checked it; of what is left of a video, all axes may rise by one
            check_axes(self.family, kwargs.get("position_ids"), visual)
        cache = kwargs.get("past_key_values")
        given, merging = self._given(), self.hints.merging
        if self.hints.prompt is not None and given is None:
            raise Unsupported("prune() was given other inputs than these; call generate with its pruned.inputs.")
        again = self._repeated(cache, visual, embeds)
        rows = self._rows(real, visual, kwargs.get("position_ids"), again is not None)
        copies = 1 if given is None else batch // len(given.alive)
        if again is not None:
            vision, decisions = self._vision(rows, again), again.decisions
            self._local.uncached = replace(again, length=length)
        else:
            events = [[] if merging is None else list(merging.events[row // copies]) for row in range(batch)]
            vision, decisions = self._vision(rows, None), Decisions(events)
            if cache is None and self._ids is not None:
                self._local.uncached = _Uncached(self._ids, embeds[visual], length, decisions, vision)
        self.events = decisions.events
        encoder = () if vision is None else tuple(v.of(alive) for v, alive in zip(vision, rows.alive, strict=True))
        reader = SignalReader(vision, self._geometry(batch))
        runner = StageRunner(self.chooser, decisions, reader, self.project, copies, frozen=again is not None)
        return Prefill(cache, length, rows, encoder, runner, self._deepstack(kwargs, visual))

    def _deepstack(self, kwargs: dict[str, Any], visual: Tensor) -> Deepstack | None:
        """What is to be added inside the LLM; out of ``kwargs``, or of the prompt whose embeddings these are."""
        came = Deepstack.taken_from(kwargs, visual)
        given = self._given()
        deepstack = given.deepstack if came is None and given is not None else came
        merging = self.family.patch_merging(self.model)
        if deepstack is None and merging is not None and merging.added_in_llm:
            raise Unsupported(
                "This model adds features of the images inside its LLM, and these embeddings came without: give "
                "prune() the prompt from encode() that they belong to."
            )
        return deepstack

    def _rows(self, real: Tensor, visual: Tensor, positions: Tensor | None, decided: bool) -> Rows:
        """Describe the prompt with what the caller said; what was decided before needs no more than its columns."""
        given = self._given()
        if given is not None:
            return given.rows(real, visual, positions)
        asked = None if decided else self.hints.question_mask
        if asked is not None:
            asked = copied_mask(asked, real, "question", "prompt is")
        return Rows.of(real, visual, positions, asked=asked)

    def _geometry(self, batch: int) -> Sequence[Geometry | None] | None:
        given = self._given()
        geometry = self.hints.geometry if given is None else given.geometry
        return geometry and [geometry[row * len(geometry) // batch] for row in range(batch)]

    def project(self, features: Tensor) -> Tensor:
        """Project merged encoder features. Shape: ``(K, D_v)`` -> ``(K, D)``."""
        embeddings = self.family.project(self.model, features)
        if self.capture is not None:
            self.capture.forget()  # the projector ran, but saw no new image
        return embeddings

    def _given(self) -> Prompt | None:
        return self.hints.prompt if self._ids is None else None

    def _visual_mask(self, embeds: Tensor) -> Tensor:
        if self._ids is not None:
            return self._visual_ids(self._ids)
        if self.visual_mask is None:
            raise Unsupported("Embeddings do not say which tokens are visual; give prune() a visual_mask or a prompt.")
        return copied_mask(self.visual_mask, embeds, "visual", "embeddings are")

    def _repeated(self, cache: Any, visual: Tensor, embeds: Tensor) -> _Uncached | None:
        """Without a cache every step is a prefill of one more token; what was decided on the first stays decided."""
        last: _Uncached | None = getattr(self._local, "uncached", None)
        ids = self._ids
        if last is None or cache is not None or ids is None:
            return None
        n = last.prompt.shape[1]
        if ids.shape != (last.prompt.shape[0], last.length + 1) or not torch.equal(ids[:, :n], last.prompt):
            return None
        return last if torch.equal(embeds[visual], last.images) else None

    def _vision(self, rows: Rows, again: _Uncached | None) -> Sequence[VisionSignals] | None:
        batch = rows.real.shape[0]
        given = self._given()
        if given is not None:
            return [given.vision[row * len(given.vision) // batch] for row in range(batch)]
        if self.capture is None:
            return None
        seen = self.capture.consume([int(alive.numel()) for alive in rows.alive])
        vision = again.vision if seen is None and again is not None else seen
        if vision is None:
            raise Unsupported(
                "These stages look at the vision tower, but it did not run inside prune(): pass pixel_values (not "
                "features encoded before), or pass a prompt from encode() to prune()."
            )
        return vision
