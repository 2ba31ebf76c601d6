"""One request: encode the image or video once, run every lane, yield events. The only body that runs on a GPU.

The package exports its two functions as ``tokviz.compare`` and ``tokviz.compare_events``.
"""

from __future__ import annotations

import inspect
import platform
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any, Literal, ParamSpec, TypeVar
from weakref import WeakSet

import torch
from torch import nn

from .. import __version__
from ..comparison import Comparison
from ..engine import EncodedMedia, Prompt, answer, encode, running_on
from ..errors import BadInput, Stopped, knows_its_keywords
from ..media.images import InputImage
from ..media.video import Video
from ..models.loading import VisionLanguageModel
from ..models.prompts import model_inputs
from ..names import DEFAULT_METHODS, Box, BudgetMeaning
from ..records import ImageMeasures, OutOfWorld, Request, Run, Timing, TokenGrid
from ..short import short_repr
from ..types import CLS_ATTENTION, Budget, Need
from .examples import stored_digests
from .execute import Settings, needs_of, planning_info, run_method, unheard
from .image_measures import image_measures
from .inputs import Source, geometry_of, grid_of, image_of, notices_of, open_media, placed_evidence, untrained
from .metrics import evidence_shares, timing
from .out_of_world import out_of_world_notice, watched_world
from .requests import (
    ChosenMethod,
    MethodLike,
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

_P = ParamSpec("_P")
_R = TypeVar("_R")
_E = TypeVar("_E")
_WARM: WeakSet[nn.Module] = WeakSet()
"""Models that have answered before."""


@dataclass(frozen=True)
class Event:
    """Progress of a comparison. ``comparison`` holds the runs finished so far.

    kind: ``encoded`` (vision done), ``lane`` (lane number ``lane`` starts), ``text`` (its answer so far is ``text``),
    ``run`` (it is finished), ``done``.
    """

    kind: Literal["encoded", "lane", "text", "run", "done"]
    lane: int
    text: str
    comparison: Comparison

    def __repr__(self) -> str:
        return short_repr(self, kind=self.kind, lane=self.lane, text=self.text, comparison=self.comparison)


@knows_its_keywords
def compare(
    vlm: VisionLanguageModel,
    image: Source,
    question: str,
    methods: Sequence[MethodLike] = DEFAULT_METHODS,
    budget: int = 64,
    *,
    budget_as: BudgetMeaning = "published",
    params: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    repeats: int = 1,
    max_new_tokens: int = 32,
    expected: str | None = None,
    evidence: Sequence[Box] = (),
    evidence_frames: Sequence[int] = (),
    frames: int | None = None,
    stop: threading.Event | None = None,
) -> Comparison:
    """Answer a question about an image or video without pruning, and with each method at the same budget.

    Args:
        vlm: What ``tokviz.load`` or ``tokviz.wrap`` returned.
        image: The path or the bytes of an image or video file (told apart by their content), a PIL image, or an
            ``InputImage`` or ``Video`` that was read before.
        question: One question, up to 2,000 characters.
        methods: Ids, stacks of two (``"divprune+fastv"``), pruner objects (``tokviz.pruner``), or pairs of any of
            these with parameters: ``["apet", ("apet", {"mode": "official"}), my_norm]``. The unpruned run always comes
            first, and need not be named.
        budget: Visual tokens, 1 to N (of all frames of a video together).
        budget_as: What the budget counts: as the method's paper does ("published"), the tokens after the last
            stage ("final"), or their average over the layers of the LLM ("average").
        params: Parameters by method, ``{method: {name: value}}``.
        seed: Seed of everything random.
        repeats: How often each run is timed; if more than once, times are medians after a warm-up.
        max_new_tokens: The maximum length of an answer, in tokens.
        expected: The right answer, if it is known; answers are then judged by it.
        evidence: Boxes ``(x0, y0, x1, y1)`` in pixels of the image or video, around what answers the question: for the
            measures of evidence, and for methods that need to know it (``oracle``).
        evidence_frames: For a video, the sampled frame of each box, from 0.
        frames: For a video, how many frames the model looks at, 1 to 64; None for the family's own choice.
        stop: An event that ends the comparison early when it is set.

    Raises:
        BadInput: If an argument cannot be used; the message is one sentence. A method that cannot run on this model
            gives a Run with ``error`` instead.

    Example:
        >>> tokviz.compare(vlm, "scene.png", "what color is the star?", ["apet", "random"], budget=64).answers
    """
    for event in compare_events(**locals()):  # written once: ``compare_events`` takes what this function takes
        last = event.comparison
    return last


def with_keywords_of(one: Callable[_P, object]) -> Callable[[Callable[..., _R]], Callable[_P, _R]]:
    """Decorate a function that hands all its arguments on: the keywords of both are written once."""

    def decorated(other: Callable[..., _R]) -> Callable[_P, _R]:
        returned = other.__annotations__["return"]
        other.__signature__ = inspect.signature(one).replace(return_annotation=returned)  # type: ignore[attr-defined]
        other.__annotations__ = {**one.__annotations__, "return": returned}
        return knows_its_keywords(other)

    return decorated


@with_keywords_of(compare)
def compare_events(*args: Any, **kwargs: Any) -> Iterator[Event]:
    """Like ``compare``, but yield an Event whenever something is new. Input is checked before the first event.

    If ``stop`` is set, the generator ends early, after a last ``done`` event with what there is. If it was set before
    the image was encoded, there is nothing to show, and BadInput says so.
    """
    given = inspect.signature(compare).bind(*args, **kwargs)
    given.apply_defaults()
    job = job_for(SimpleNamespace(**given.arguments))
    return relayed(job.run, job.stop)


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


def relayed(run: Callable[[Callable[[_E], None]], None], stop: threading.Event) -> Iterator[_E]:
    """Run a job in a worker thread and hand its events on, so that text streams while ``generate`` is running.

    A consumer that leaves early stops it.
    """
    events: queue.Queue[_E | BaseException | None] = queue.Queue()

    def work() -> None:
        try:
            run(events.put)
            events.put(None)
        except BaseException as error:
            events.put(error)

    worker = threading.Thread(target=work, name="tokviz-compare", daemon=True)
    worker.start()
    try:
        while (event := events.get()) is not None:
            if isinstance(event, BaseException):
                raise event
            yield event
    finally:
        # The consumer may leave early (a closed browser tab): the model must be free when this generator is gone.
        if worker.is_alive():
            stop.set()
            worker.join()


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


def unknown_words(vlm: VisionLanguageModel, question: str) -> list[str]:
    """A warning that names the words of the question that the model's vocabulary lacks, or nothing."""
    tokenizer = vlm.processor.tokenizer
    if tokenizer.unk_token_id is None:
        return []
    encoding = tokenizer(question, add_special_tokens=False, return_offsets_mapping=True)
    unknown = [
        question[start:end]
        for token, (start, end) in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True)
        if token == tokenizer.unk_token_id
    ]
    if not unknown:
        return []
    words = ", ".join(dict.fromkeys(unknown))
    return [f"{vlm.record.name} does not know: {words}. Its vocabulary is small; see the model card."]


def drawn_scenes_only(vlm: VisionLanguageModel, media: InputImage | Video) -> list[str]:
    """What an embedded model knows, beside every answer about anything but the examples, which are all drawn scenes.

    Of an image that the model can tell from those by itself ``out_of_world_notice`` speaks instead.
    """
    if not vlm.record.embedded or vlm.world is not None or media.record.sha256 in stored_digests():
        return []
    what = "clips" if isinstance(media, Video) else "scenes"
    return [
        f"{vlm.record.name} was trained on drawn {what} only, such as those of the examples: about a photograph or "
        "anything else it answers just as surely, and its answers mean nothing."
    ]


def mostly_unseen(grid: TokenGrid) -> list[str]:
    """A warning when the model sees less than half of the image or of each frame, or nothing."""
    width, height = grid.image_size
    x0, y0, x1, y1 = grid.views[0].seen
    if (x1 - x0) * (y1 - y0) >= 0.5 * width * height:
        return []
    return [f"The model sees only the middle {x1 - x0:.0f} × {y1 - y0:.0f} of these {width} × {height} pixels."]
