"""The answers of each method over budgets. The image is encoded once; every point is what ``compare`` gives there.

A point runs as a lane of ``compare`` does, so that answer, log-probabilities and kept tokens are the same bits. What is
shared is shared only where that holds: the encoded image, the unpruned run (also for every budget at which a method
that prunes before the LLM drops nothing), and, to score the unpruned answer, the cache that the pruned answer left.
"""

from __future__ import annotations

import inspect
import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, Literal

import torch

from ..comparison import Comparison
from ..engine import Answer, Prompt
from ..errors import BadInput, Stopped, knows_its_keywords
from ..models.loading import VisionLanguageModel
from ..names import DEFAULT_METHODS, UNPRUNED, Box, BudgetMeaning
from ..records import BudgetMeanings, Run
from ..short import passed, short_repr
from ..sweeps import Sweep, SweepCurve, SweepPoint
from ..types import Budget, budget_meanings
from .compare import with_keywords_of
from .events import relayed
from .execute import (
    answer_tokens,
    decoded,
    execute,
    execute_smaller,
    planning_info,
    processed,
    run_method,
)
from .inputs import Source, check_whole, grid_of, open_media
from .job import Job, job_for
from .metrics import same_answer, timing, verdict
from .requests import ChosenMethod, MethodLike, check_model, listed
from .smaller import smaller_record

DEFAULT_SHARES = (100, 70, 50, 35, 25, 18, 12, 8, 5, 3, 2)
"""Percent of the visual tokens where nobody chose: about equal steps of the logarithm."""
MOST_BUDGETS, MOST_SEEDS, MOST_POINTS = 64, 64, 5000
_PERCENT = re.compile(r"\s*(\d{1,3}(?:\.\d{1,6})?)\s*%\s*")


@dataclass(frozen=True)
class SweepEvent:
    """Progress of a sweep. ``sweep`` holds the points so far, None before the unpruned answer is there.

    kind: ``encoded`` (vision done), ``unpruned`` (its answer is there), ``point`` (a further point), ``done``.
    share: of the work that is done, 0 to 1. method, point: for ``point``, the key of the curve and what was added.
    """

    kind: Literal["encoded", "unpruned", "point", "done"]
    share: float
    sweep: Sweep | None
    method: str = ""
    point: SweepPoint | None = None

    def __repr__(self) -> str:
        return short_repr(self, kind=self.kind, share=self.share, method=self.method, point=self.point)


@knows_its_keywords
def sweep(
    vlm: VisionLanguageModel,
    image: Source,
    question: str,
    methods: Sequence[MethodLike] = DEFAULT_METHODS,
    *,
    budgets: Sequence[int | str] | None = None,
    budget_as: BudgetMeaning = "published",
    params: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    seeds: int = 5,
    seconds: float | None = None,
    max_new_tokens: int = 32,
    expected: str | None = None,
    evidence: Sequence[Box] = (),
    evidence_frames: Sequence[int] = (),
    frames: int | None = None,
    stop: threading.Event | None = None,
) -> Sweep:
    """Answer a question with each method over many budgets, and score the unpruned answer at each of them.

    Args:
        vlm: The model, from ``tokviz.load`` or ``tokviz.wrap``.
        image: An image or video, in any form that ``compare`` accepts.
        question: A single question, up to 2,000 characters.
        methods: As for ``compare``; the unpruned run comes first, and need not be named.
        budgets: Visual tokens (64), or shares of all of them as text ("25%"), in any order; None for eleven from 100 %
            to 2 %.
        budget_as: What the budgets count; see ``compare``.
        params: Parameters by method, ``{method: {name: value}}``.
        seed: The first seed; the others follow it.
        seeds: How many seeds a method runs with at a budget where it draws random numbers; others run once.
        seconds: Points that are not begun in this time are left out, which ``notes`` says. None for no limit.
        max_new_tokens: The longest answer.
        expected: The right answer, if it is known; points are then judged by it.
        evidence: Boxes in pixels around what answers the question, for methods that need to know it (``oracle``).
        evidence_frames: For a video, the sampled frame of each box, from 0.
        frames: For a video, how many frames to sample.
        stop: An event that ends the sweep early when it is set; the points so far are returned.

    Raises:
        BadInput: If an argument cannot be used, or it was stopped before the unpruned answer was there; the message is
            one sentence. A method that cannot run here gives a curve with ``error`` instead.

    Example:
        >>> found = tokviz.sweep(vlm, "scene.png", "what color is the star?", ["apet", "random"], budgets=["50%", 64])
        >>> found["apet"].flip(), found["random"].share_same(64)
    """
    for event in sweep_events(**locals()):  # written once: ``sweep_events`` takes what this function takes
        last = event.sweep
    if last is None:
        raise BadInput("Stopped before the answer was there.")
    return last


@with_keywords_of(sweep)
def sweep_events(*args: Any, **kwargs: Any) -> Iterator[SweepEvent]:
    """Like ``sweep``, but yield a SweepEvent whenever something is new. Input is checked before the first event.

    Budgets come coarse first: the largest and the smallest, then those between. If ``stop`` is set, the generator ends
    early, after a last ``done`` event; leaving it ends the work, too.
    """
    given = inspect.signature(sweep).bind(*args, **kwargs)
    given.apply_defaults()
    work = _checked(SimpleNamespace(**given.arguments))
    return relayed(work.run, work.job.stop)


def _checked(asked: SimpleNamespace) -> _Work:
    """What the arguments ask for. Raises BadInput."""
    check_model(asked.vlm, "sweep")
    check_whole("The number of seeds", asked.seeds, 1, MOST_SEEDS)
    if asked.seconds is not None and (
        isinstance(asked.seconds, bool)
        or not isinstance(asked.seconds, int | float)
        or not 0 < asked.seconds < math.inf
    ):
        raise BadInput(f"seconds must be a positive number, or None for no limit, not {passed(asked.seconds)}.")
    media = open_media(asked.vlm, asked.image, asked.frames)
    budgets = checked_budgets(asked.budgets, grid_of(asked.vlm, media).n_tokens)
    job = job_for(
        SimpleNamespace(**{**vars(asked), "image": media, "frames": None, "budget": budgets[0], "repeats": 1})
    )
    check_whole("The last seed", asked.seed + asked.seeds - 1, 0, 2**63 - 1)
    methods = [chosen for chosen in job.chosen if chosen.pruner.id != UNPRUNED]
    most = len(methods) * len(budgets) * asked.seeds
    if most > MOST_POINTS:
        raise BadInput(
            f"{len(methods)} methods at {len(budgets)} budgets with {asked.seeds} seeds are up to {most:,} runs; a "
            f"sweep has at most {MOST_POINTS:,}. Ask for fewer of one of them."
        )
    return _Work(job, methods, budgets, range(asked.seed, asked.seed + asked.seeds), asked.seconds)


def checked_budgets(asked: Sequence[int | str] | None, n_tokens: int) -> list[int]:
    """Budgets in tokens, descending, each once. Raises BadInput."""
    values = [f"{share}%" for share in DEFAULT_SHARES] if asked is None else listed("budgets", asked)
    if not values:
        raise BadInput('There are no budgets: give visual tokens (64) or shares of all of them ("25%").')
    found = set()
    for value in values:
        share = _PERCENT.fullmatch(value) if isinstance(value, str) else None
        if share is not None and 0 < float(share[1]) <= 100:
            found.add(max(1, round(n_tokens * float(share[1]) / 100)))
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= n_tokens:
            raise BadInput(
                f"A budget is a whole number of visual tokens from 1 to {n_tokens}, or a share of them such as "
                f'"25%", not {passed(value)}.'
            )
        found.add(value)
    if len(found) > MOST_BUDGETS:
        raise BadInput(f"There are {len(found)} budgets; a sweep has at most {MOST_BUDGETS}.")
    return sorted(found, reverse=True)


def coarse_first(count: int) -> list[int]:
    """The numbers below ``count``: the ends, then the middle between each two that are there already."""
    found, gaps = [*range(min(count, 1)), *([count - 1] if count > 1 else [])], [(0, count - 1)]
    while gaps:
        low, high = gaps.pop(0)
        if high - low > 1:
            middle = (low + high) // 2
            found.append(middle)
            gaps += [(low, middle), (middle, high)]
    return found


@dataclass
class _Work:
    """One sweep: what is asked for, and what there is of it."""

    job: Job
    methods: list[ChosenMethod]
    budgets: list[int]
    seeds: range
    seconds: float | None
    unpruned: Run | None = None
    comparison: Comparison | None = None
    curves: list[SweepCurve] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)

    @torch.inference_mode()
    def run(self, emit: Callable[[SweepEvent], None]) -> None:
        """Run every point. Everything that touches the model happens in the calling thread."""
        job = self.job
        prompt = job.encoded()[-1]
        emit(SweepEvent("encoded", 0.0, None))
        try:
            run = run_method(
                job.vlm, prompt, job.grid, job.chosen[0], job.settings(), lambda _text: None, job.encode_smaller,
                measures=job.measures,
            )  # fmt: skip
        except Stopped:
            emit(SweepEvent("done", 0.0, None))
            return
        self.unpruned = run
        self.comparison = job.comparison([run], {"vision": timing([prompt.vision_ms])})
        info = planning_info(job.vlm, job.grid, has_evidence=bool(job.request.evidence))
        self.curves = [
            SweepCurve(
                requested=chosen.requested, label=chosen.label, family=chosen.pruner.family,
                error=chosen.pruner.missing(info),
            )
            for chosen in self.methods
        ]  # fmt: skip
        emit(SweepEvent("unpruned", 0.0, self.sweep()))
        self._points(prompt, emit)

    def _points(self, prompt: Prompt, emit: Callable[[SweepEvent], None]) -> None:
        able = [number for number, curve in enumerate(self.curves) if curve.error is None]
        cells = [(self.budgets[at], number) for at in coarse_first(len(self.budgets)) for number in able]
        finished = 0
        try:
            for budget, number in cells:
                for seed in self.seeds:
                    if self.job.stop.is_set():
                        raise Stopped
                    if self.seconds is not None and time.perf_counter() - self.began > self.seconds:
                        raise TimeoutError
                    point, is_random = self._point(prompt, self.methods[number], budget, seed)
                    self._add(number, point, is_random)
                    last = not is_random or seed == self.seeds[-1]
                    done = finished + (1.0 if last else (seed - self.seeds[0] + 1) / len(self.seeds))
                    key = self.curves[number].key
                    emit(SweepEvent("point", done / len(cells), self.sweep(), key, point))
                    if last:
                        break
                finished += 1
        except (Stopped, TimeoutError) as error:
            why = "it was stopped" if isinstance(error, Stopped) else f"the {self.seconds:g} seconds were over"
            left = len(cells) - finished
            self.notes.append(f"{left} of {len(cells)} pairs of method and budget were not finished: {why}.")
        emit(SweepEvent("done", finished / len(cells) if cells else 1.0, self.sweep()))

    def _add(self, number: int, point: SweepPoint, is_random: bool) -> None:
        curve = self.curves[number]
        points = sorted([*curve.points, point], key=lambda one: (-one.budget, one.seed))
        self.curves[number] = curve.model_copy(update={"points": points, "is_random": curve.is_random or is_random})

    def sweep(self) -> Sweep:
        """The record of what there is. Not checked again with every point: all of it was made here."""
        if self.unpruned is None or self.comparison is None:
            raise RuntimeError("There is no sweep without an unpruned answer.")
        return Sweep.model_construct(
            comparison=self.comparison,
            logprob=_total([token.logprob for token in self.unpruned.answer_tokens]),
            budgets=self.budgets,
            budget_as=self.job.request.budget_as,
            seeds=list(self.seeds),
            curves=list(self.curves),
            seconds=time.perf_counter() - self.began,
            seconds_allowed=self.seconds,
            notes=list(self.notes),
        )

    def _point(self, prompt: Prompt, chosen: ChosenMethod, budget: int, seed: int) -> tuple[SweepPoint, bool]:
        """One point, and whether it drew random numbers. Raises Stopped."""
        job, unpruned = self.job, self.unpruned
        asked = Budget(budget, job.request.budget_as)
        settings = replace(job.settings(), budget=asked, seed=seed, **_known(unpruned))
        info = planning_info(job.vlm, job.grid, has_evidence=settings.has_evidence)
        vlm, params = job.vlm, chosen.requested.params
        kept: list[int] | None = None
        entered = job.grid.n_tokens
        try:
            schedule = chosen.pruner.schedule(asked, info, params)
            if schedule.smaller is None:
                done = execute(vlm.model, vlm.family, prompt, schedule, params, settings)
                kept = done.events[-1].kept.tolist() if done.events else None
            else:
                done = execute_smaller(vlm, job.encode_smaller, schedule.smaller, settings)
                if done.smaller is not None:
                    entered = done.smaller.n_tokens
                    kept = smaller_record(done.smaller, job.grid, schedule.smaller).kept
        except BadInput as error:
            return SweepPoint(budget=budget, seed=seed, error=str(error)), False
        final = len(done.events[-1].sequence) if done.events else entered
        return SweepPoint(
            budget=budget,
            seed=seed,
            kept=kept,
            actual=self._meanings(done, entered, final),
            **self._said(done.answer),
        ), done.is_random

    def _meanings(self, done: Any, entered: int, final: int) -> BudgetMeanings:
        return budget_meanings(processed(done.events, entered, self.job.vlm.record.n_layers), final)

    def _said(self, said: Answer) -> dict[str, Any]:
        """The answer, compared with the unpruned one."""
        job, baseline = self.job, "" if self.unpruned is None else self.unpruned.answer
        words = decoded(job.vlm, said.token_ids)
        return {
            "answer": words,
            "answer_tokens": answer_tokens(job.vlm, said),
            "same": same_answer(words, baseline),
            "logprob": _total(said.reference_logprobs),
            "verdict": verdict(words, baseline, job.request.expected_answer).kind,
        }


def _known(unpruned: Run | None) -> dict[str, Any]:
    """What runs need to know of the unpruned one: its tokens, and its answer where nothing is dropped."""
    tokens = [] if unpruned is None else unpruned.answer_tokens
    ids = [token.id for token in tokens]
    logprobs = [math.nan if token.logprob is None else token.logprob for token in tokens]
    others = [-math.inf if token.runner_up is None else token.runner_up for token in tokens]
    return {"reference": tuple(ids), "unpruned": Answer(ids, logprobs, others, 0.0, [], 0, None, False, logprobs)}


def _total(logprobs: Sequence[float | None]) -> float:
    """The log-probability of a whole answer, from those of its tokens."""
    return math.fsum(math.nan if value is None else value for value in logprobs)
