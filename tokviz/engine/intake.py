"""What arrives at the language model: which tokens are visual, what vision said, what was decided before."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import Unsupported
from ..models.base import ModelFamily
from .capturing import Capture
from .deepstack import Deepstack
from .forward import Prefill
from .geometry import Geometry
from .looker import Looker
from .prompt import Prompt, alive_features
from .refusals import check_axes, check_modalities, check_prompt
from .rows import Rows
from .stages import Decisions, StageEvent
from .vision import VisionSignals


@dataclass
class _Uncached:
    """The last prompt that ran without a cache, to recognise its next step.

    Shape: prompt ``(B, L)`` ids, pictures ``(n, D)`` visual embeddings; ``length`` of the last step in tokens.
    """

    prompt: Tensor
    pictures: Tensor
    length: int
    decisions: Decisions
    vision: Sequence[VisionSignals] | None


@dataclass(frozen=True)
class Told:
    """What the caller of ``pruning`` says about the prompt because nothing else does; see there."""

    visual_mask: Tensor | None = None
    question_mask: Tensor | None = None
    geometry: Sequence[Geometry | None] | None = None
    prompt: Prompt | None = None


class Intake:
    """Turns the arguments of the language model into a ``Prefill``, in any thread."""

    def __init__(self, model: Any, family: ModelFamily, told: Told) -> None:
        self.model, self.family, self.told = model, family, told
        self.visual_mask = told.visual_mask if told.prompt is None else told.prompt.visual_mask
        self.capture: Capture | None = None
        self.events: list[list[StageEvent]] = []
        self.cache: Any = None
        self._local = threading.local()

    def see(self, input_ids: Tensor | None, kwargs: dict[str, Any]) -> None:
        """Remember this thread's ids (None when embeddings were given) and whether pictures came along."""
        encoded = kwargs.get("mm_encoder_outputs") or {}
        pictures = [value for name, value in kwargs.items() if name.startswith("pixel_values")]
        self._local.ids = input_ids
        self._local.pictures_came = any(picture is not None for picture in (*pictures, *encoded.values()))
        if not self._local.pictures_came and self.capture is not None:
            self.capture.forget()  # of a forward that failed behind the tower: not what these embeddings were made of

    @property
    def _ids(self) -> Tensor | None:
        return getattr(self._local, "ids", None)

    def holds_pictures(self) -> bool:
        """Whether this forward's ids hold visual tokens that are to be filled with pictures.

        Placeholder ids alone say nothing: a model may generate them, and prompt lookup guesses them. They are looked at
        only when a picture came, so ordinary decoding never waits for the device here.
        """
        ids = self._ids
        return ids is not None and self._local.pictures_came and bool(self._visual_ids(ids).any())

    def _visual_ids(self, ids: Tensor) -> Tensor:
        return torch.isin(ids, torch.tensor(self.family.visual_token_ids(self.model), device=ids.device))

    def receive(self, kwargs: dict[str, Any]) -> Prefill | None:
        """The prompt that ``kwargs`` of the language model hold; None when it has no visual token."""
        embeds, mask = kwargs["inputs_embeds"], kwargs.get("attention_mask")
        visual = self._visual_mask(embeds)
        batch, length = visual.shape
        if not bool(visual.any()):
            self.events = [[] for _ in range(batch)]
            return None
        real = torch.ones_like(visual) if mask is None else mask.bool()
        check_prompt(real, visual)
        if self._ids is not None:
            check_modalities(self._ids, self.family.visual_token_ids(self.model))
        if self._given() is None:  # encode() checked it; of what is left of a video, all axes may rise by one
            check_axes(self.family, kwargs.get("position_ids"), visual)
        cache = kwargs.get("past_key_values")
        again = self._repeated(cache, visual, embeds)
        rows = self._rows(real, visual, kwargs.get("position_ids"), again is not None)
        if again is not None:
            again.length, again.decisions.frozen = length, True
            decisions, vision = again.decisions, self._vision(rows, again)
        else:
            decisions = Decisions(events=[[] for _ in range(batch)])
            vision = self._vision(rows, None)
            if cache is None and self._ids is not None:
                self._local.uncached = _Uncached(self._ids, embeds[visual], length, decisions, vision)
        self.events = decisions.events
        encoder = None
        if vision is not None:
            encoder = [alive_features(v, alive) for v, alive in zip(vision, rows.alive, strict=True)]
        looker = Looker(vision, encoder, self._geometry(batch))
        return Prefill(cache, length, rows, decisions, looker, self._deepstack(kwargs, visual))

    def _deepstack(self, kwargs: dict[str, Any], visual: Tensor) -> Deepstack | None:
        """What is to be added inside the LLM; out of ``kwargs``, or of the prompt whose embeddings these are."""
        came = Deepstack.taken_from(kwargs, visual)
        given = self._given()
        deepstack = given.deepstack if came is None and given is not None else came
        merging = self.family.patch_merging(self.model)
        if deepstack is None and merging is not None and merging.added_in_llm:
            raise Unsupported(
                "This model adds features of the pictures inside its LLM, and these embeddings came without: give "
                "pruning() the prompt from encode() that they belong to."
            )
        return deepstack

    def _rows(self, real: Tensor, visual: Tensor, positions: Tensor | None, decided: bool) -> Rows:
        """Describe the prompt with what the caller said; what was decided before needs no more than its columns."""
        batch = real.shape[0]
        given = self._given()
        if given is not None:
            return given.rows(real, visual, positions)
        asked = None if decided else self.told.question_mask
        if asked is not None:
            copies, rest = divmod(batch, asked.shape[0])
            if rest or asked.shape[1] != real.shape[1]:
                shapes = f"{tuple(asked.shape)} but the prompt is {tuple(real.shape)}"
                raise Unsupported(f"The question mask is {shapes}; give the mask of this very prompt.")
            asked = asked.to(real.device, torch.bool).repeat_interleave(copies, dim=0)
        return Rows.of(real, visual, positions, asked=asked)

    def _geometry(self, batch: int) -> Sequence[Geometry | None] | None:
        given = self._given()
        geometry = self.told.geometry if given is None else given.geometry
        return geometry and [geometry[row * len(geometry) // batch] for row in range(batch)]

    def project(self, features: Tensor) -> Tensor:
        """Project merged encoder features. Shape: ``(K, D_v)`` -> ``(K, D)``."""
        if self.capture is None:
            return self.family.project(self.model, features)
        with self.capture.projecting():
            return self.family.project(self.model, features)

    def _given(self) -> Prompt | None:
        return self.told.prompt if self._ids is None else None

    def _visual_mask(self, embeds: Tensor) -> Tensor:
        if self._ids is not None:
            return self._visual_ids(self._ids)
        if self.visual_mask is None:
            raise Unsupported(
                "Embeddings do not say which tokens are visual; give pruning() a visual_mask or a prompt."
            )
        copies, rest = divmod(embeds.shape[0], self.visual_mask.shape[0])
        if rest or self.visual_mask.shape[1] != embeds.shape[1]:
            shapes = f"{tuple(self.visual_mask.shape)} but the embeddings are {tuple(embeds.shape[:2])}"
            raise Unsupported(f"The visual mask is {shapes}; give the mask of this very prompt.")
        return self.visual_mask.to(embeds.device).repeat_interleave(copies, dim=0)

    def _repeated(self, cache: Any, visual: Tensor, embeds: Tensor) -> _Uncached | None:
        """Without a cache every step is a prefill of one more token; what was decided on the first stays decided."""
        last: _Uncached | None = getattr(self._local, "uncached", None)
        ids = self._ids
        if last is None or cache is not None or ids is None:
            return None
        n = last.prompt.shape[1]
        if ids.shape != (last.prompt.shape[0], last.length + 1) or not torch.equal(ids[:, :n], last.prompt):
            return None
        return last if torch.equal(embeds[visual], last.pictures) else None

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
                "These stages look at the vision tower, but it did not run inside pruning(): pass pixel_values (not "
                "features encoded before), or pass a prompt from encode() to pruning()."
            )
        return vision
