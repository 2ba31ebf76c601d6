"""One request that was checked: encode the image or video once, run every lane. The only body that runs on a GPU."""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from types import SimpleNamespace
from weakref import WeakSet

import torch
from torch import nn

from .. import __version__
from ..comparison import Comparison
from ..engine import EncodedMedia, Prompt, answer, encode, running_on
from ..errors import BadInput, Stopped
from ..media.images import InputImage
from ..media.video import Video
from ..models.loading import VisionLanguageModel
from ..models.prompts import model_inputs
from ..records import ImageMeasures, OutOfWorld, Request, Run, Timing, TokenGrid
from ..types import CLS_ATTENTION, Budget, Need
from .cautions import drawn_scenes_only, mostly_unseen, unknown_words
from .events import Event
from .execute import Settings, needs_of, planning_info, run_method, unheard
from .image_measures import image_measures
from .inputs import geometry_of, grid_of, image_of, notices_of, open_media, placed_evidence, untrained
from .metrics import evidence_shares, timing
from .out_of_world import out_of_world_notice, watched_world
from .requests import (
    ChosenMethod,
    check_context,
    check_model,
    check_numbers,
    check_question,
    check_text,
    chosen_methods,
    evidence_boxes,
    listed,
)
from .smaller import ModelInputs, Smaller, encode_smaller

_WARM: WeakSet[nn.Module] = WeakSet()
"""Models that have answered before."""


def job_for(asked: SimpleNamespace) -> Job:
    """What the arguments of ``compare`` ask for, checked. Raises BadInput."""
    check_model(asked.vlm)
    media = open_media(asked.vlm, asked.image, asked.frames)
    question = check_question(asked.question, asked.vlm)
    check_text("The expected answer", "" if asked.expected is None else asked.expected)
    chosen = chosen_methods(asked.methods, asked.params)
    grid = grid_of(asked.vlm, media)
    at = listed("evidence_frames", asked.evidence_frames)
    boxes, box_frames = placed_evidence(media, evidence_boxes(asked.evidence), at)
    check_numbers(asked.budget, asked.budget_as, asked.seed, asked.repeats, asked.max_new_tokens, grid)
    request = Request(
        question=question,
        methods=[method.requested for method in chosen],
        budget=asked.budget,
        budget_as=asked.budget_as,
        seed=asked.seed,
        max_new_tokens=asked.max_new_tokens,
        repeats=asked.repeats,
        expected_answer=asked.expected or None,
        evidence=boxes,
        evidence_frames=box_frames,
    )
    return Job(asked.vlm, media, request, grid, chosen, asked.stop or threading.Event())


@dataclass
class Job:
    """A request that was checked: what it takes to encode its image and run its lanes.

    seen: images that were encoded before on this model, in this thread.
    """

    vlm: VisionLanguageModel
    media: InputImage | Video
    request: Request
    grid: TokenGrid
    chosen: list[ChosenMethod]
    stop: threading.Event
    text_tokens: list[str] = field(default_factory=list)
    measures: ImageMeasures | None = None
    world: list[OutOfWorld] = field(default_factory=list)
    seen: EncodedMedia | None = None
    inputs: ModelInputs | None = None

    def comparison(self, runs: list[Run], timings: dict[str, Timing]) -> Comparison:
        """The record of the runs so far."""
        return Comparison(
            request=self.request,
            model=self.vlm.record,
            image=image_of(self.media),
            video=self.media.record if isinstance(self.media, Video) else None,
            grid=self.grid,
            text_tokens=self.text_tokens,
            runs=list(runs),
            versions=versions(),
            measures=self.measures,
            timings=timings,
            warnings=[
                *notices_of(self.media),
                *untrained(self.vlm, self.media),
                *drawn_scenes_only(self.vlm, self.media),
                *out_of_world_notice(self.vlm, self.measures),
                *unknown_words(self.vlm, self.request.question),
                *mostly_unseen(self.grid),
            ],
        )

    @torch.inference_mode()
    def run(self, emit: Callable[[Event], None]) -> None:
        """Run every lane in order. Everything that touches the model happens in the calling thread."""
        prompts, settings = self.encoded(), self.settings()
        prompt = prompts[-1]
        timings = {"vision": timing([p.vision_ms for p in prompts])}
        runs: list[Run] = []
        partial = self.comparison(runs, timings)
        emit(Event("encoded", -1, "", partial))
        try:
            for lane, chosen in enumerate(self.chosen):
                emit(Event("lane", lane, "", partial))
                on_text = _text_events(emit, lane, partial)
                encode_anew = self.encode_smaller
                run = run_method(
                    self.vlm, prompt, self.grid, chosen, settings, on_text, encode_anew, measures=self.measures
                )
                runs.append(run)
                partial = self.comparison(runs, timings)
                emit(Event("run", lane, run.answer, partial))
        except Stopped:
            pass
        emit(Event("done", len(runs) - 1, "", partial))

    def settings(self) -> Settings:
        """What all lanes share."""
        asked = self.request
        shared = asked.seed, asked.repeats, asked.max_new_tokens, self.stop
        return Settings(Budget(asked.budget, asked.budget_as), *shared, has_evidence=bool(asked.evidence))

    def encoded(self) -> list[Prompt]:
        """The prompt with its image encoded, once per repeat; what is known of the image is noted on the way.

        Raises BadInput where the model cannot take it, and when it was stopped before.
        """
        needs = self._needs()
        if self.vlm.model not in _WARM:  # else the first run, the unpruned one, would look slower than it is
            warm_up = self._encode(needs)
            with running_on(self.vlm.model, self.vlm.family, warm_up):
                answer(self.vlm.model, warm_up, max_new_tokens=2, on_tokens=unheard, stop=self.stop)
            if not self.stop.is_set():
                _WARM.add(self.vlm.model)
        prompts = [self._encode(needs) for _ in range(self.request.repeats)]
        n_visual = int(prompts[-1].visual_mask.sum())
        if n_visual != self.grid.n_tokens:
            raise RuntimeError(f"The model makes {n_visual} visual tokens, its geometry says {self.grid.n_tokens}.")
        self.text_tokens = text_behind_the_image(self.vlm, prompts[-1])
        self.measures = self._measured(prompts[-1])
        return prompts

    def _measured(self, prompt: Prompt) -> ImageMeasures:
        """What is known of the image, which no question changes."""

        def measure() -> ImageMeasures:
            return image_measures(self.vlm, prompt, self.world)

        return measure() if self.seen is None else self.seen.noted("measures", measure)

    def _needs(self) -> set[Need]:
        """The signals of every method that can run here; the others refuse in their own lane, not the whole request.

        And the one row of attention that says how spread out the image is.
        """
        info = planning_info(self.vlm, self.grid, has_evidence=bool(self.request.evidence))
        measured = {CLS_ATTENTION} if info.has_cls else set()
        return measured | {need for chosen in self.chosen for need in needs_of(chosen.pruner, info)}

    def encode_smaller(self, tokens: int) -> Smaller:
        """Encode the image anew in at most so many tokens. Raises Stopped."""
        if self.stop.is_set():
            raise Stopped
        shown = self.media if isinstance(self.media, Video) else self.media.image
        return encode_smaller(
            self.vlm, shown, self.request.question, self.grid, tokens, inputs=self.inputs, seen=self.seen
        )

    def _encode(self, needs: set[Need]) -> Prompt:
        if self.stop.is_set():
            raise BadInput("Stopped before the image was encoded.")
        shown = self.media if isinstance(self.media, Video) else self.media.image
        self.inputs = inputs, question_mask = model_inputs(self.vlm, shown, self.request.question)
        length, asked = inputs["input_ids"].shape[1], self.request
        check_context(self.vlm, length, asked.max_new_tokens, asked.question, self.grid)
        shown_evidence = evidence_shares(self.grid, asked.evidence, asked.evidence_frames)
        with watched_world(self.vlm) as self.world:
            return encode(
                self.vlm.model,
                self.vlm.family,
                inputs,
                needs,
                question_mask=question_mask,
                geometry=[geometry_of(self.grid, shown_evidence)],
                media=self.seen,
            )


def _text_events(emit: Callable[[Event], None], lane: int, comparison: Comparison) -> Callable[[str], None]:
    return lambda text: emit(Event("text", lane, text, comparison))


def text_behind_the_image(vlm: VisionLanguageModel, prompt: Prompt) -> list[str]:
    """The prompt's tokens behind the last visual token, one by one as text."""
    first = int(prompt.visual_mask[0].nonzero().max()) + 1
    return [vlm.processor.tokenizer.decode([token]) for token in prompt.input_ids[0, first:].tolist()]


_version = cache(version)
"""Reads a file of the package's: 15 ms, and every event of a run carries a record."""


def versions() -> dict[str, str]:
    """Versions that a session records."""
    return {
        "tokviz": __version__,
        "torch": torch.__version__,
        "transformers": _version("transformers"),
        "python": platform.python_version(),
    }
