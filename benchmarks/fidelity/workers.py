"""Run what a benchmark lacks: chunk by chunk, every variant of a chunk before the next, in one or several processes."""

from __future__ import annotations

import multiprocessing
import queue
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from tokviz.errors import BadInput
from tokviz.models.loading import VisionLanguageModel, load
from tokviz.records import TokenGrid
from tokviz.types import Schedule

from .cache import OutcomeCache
from .outcomes import Outcome, Variant
from .running import EncodedScene, Recipe, benchmark_grid, encode_scenes, recipe, run_variant

_TEXT_COST = 60
"""What a question costs beside its visual tokens, in tokens; only for the estimate of the remaining time."""

_GRACE_S = 10.0
"""How long workers may take to leave after an interruption, in seconds."""


@dataclass(frozen=True)
class Step:
    """One variant is done on one chunk. work: its share of all there is to do, relative to other steps."""

    chunk: range
    variant: Variant
    work: float


def work_of(plan: Recipe, n_visual: int, n_layers: int) -> float:
    """A guess at what one question costs, in visual and text tokens per layer."""
    return _TEXT_COST + sum(plan.schedule.counts_per_layer(n_visual, n_layers)) / n_layers


def run_chunk(
    vlm: VisionLanguageModel, grid: TokenGrid, recipes: Sequence[Recipe], chunk: range, cache: OutcomeCache
) -> Iterator[Step]:
    """Answer what the cache lacks of one chunk, variant by variant; each is stored before its step is yielded.

    Variants of one method whose budgets lead to the same schedule are run once.
    """
    missing = [(plan, have) for plan in recipes if (have := cache.scenes(chunk, plan.variant)) < len(chunk)]
    if not missing:
        return
    first = min(have for _, have in missing)
    needs = {need for plan, _ in missing for need in plan.needs}
    scenes = encode_scenes(vlm, grid, chunk[first:], needs)
    same: dict[tuple[str, str, int, Schedule, int], list[Outcome]] = {}
    for plan, have in missing:
        started = time.perf_counter()
        key = (plan.variant.method, plan.variant.row, plan.variant.draw, plan.schedule, have)
        if key not in same:
            same[key] = run_variant(vlm, grid, plan, _from(scenes, chunk[have:]))
        cache.add(chunk, plan.variant, same[key], time.perf_counter() - started)
        yield Step(chunk, plan.variant, work_of(plan, grid.n_tokens, vlm.record.n_layers))


def _from(scenes: Sequence[EncodedScene], seeds: range) -> list[EncodedScene]:
    return [scene for scene in scenes if scene.seed in seeds]


@dataclass(frozen=True)
class Job:
    """What is to be answered. model: the name or folder that ``vlm`` was loaded from."""

    model: str
    vlm: VisionLanguageModel
    grid: TokenGrid
    recipes: Sequence[Recipe]
    chunks: Sequence[range]
    cache: OutcomeCache

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Those of the recipes."""
        return tuple(recipe.variant for recipe in self.recipes)

    def missing(self) -> dict[range, float]:
        """Chunks of which the cache lacks something, and the work that is left of each."""
        n_visual, n_layers = self.grid.n_tokens, self.vlm.record.n_layers
        work = {plan.variant: work_of(plan, n_visual, n_layers) for plan in self.recipes}
        left = {
            chunk: sum(work[variant] for variant in work if self.cache.scenes(chunk, variant) < len(chunk))
            for chunk in self.chunks
        }
        return {chunk: amount for chunk, amount in left.items() if amount}


def run_here(job: Job, chunks: Iterable[range], on_step: Callable[[Step], None], enough: Callable[[], bool]) -> None:
    """Run in this process. No chunk is begun once ``enough()``."""
    for chunk in chunks:
        if enough():
            return
        for step in run_chunk(job.vlm, job.grid, job.recipes, chunk, job.cache):
            on_step(step)


def run_in_workers(
    job: Job, chunks: Iterable[range], workers: int, on_step: Callable[[Step], None], enough: Callable[[], bool]
) -> None:
    """Run in ``workers`` processes of one thread each. No chunk is begun once ``enough()``.

    However it is left, no worker is left running. Raises BadInput and RuntimeError as the workers met them.
    """
    context = multiprocessing.get_context("spawn")
    tasks: Any = context.Queue()
    events: Any = context.Queue()
    last_call, halt = context.Event(), context.Event()
    for task in [*chunks, *[None] * workers]:
        tasks.put(task)
    with _interrupts_ignored():  # children inherit that: the parent tells them when to leave
        given = {"model": job.model, "variants": job.variants, "cache": job.cache}
        given |= {"tasks": tasks, "events": events, "last_call": last_call, "halt": halt}
        team = [context.Process(target=_work, kwargs=given, daemon=True) for _ in range(workers)]
        for worker in team:
            worker.start()
    try:
        leaving = 0
        while leaving < workers:
            if enough():
                last_call.set()
            try:
                event = events.get(timeout=1.0)
            except queue.Empty:
                if any(worker.exitcode not in (None, 0) for worker in team):
                    raise RuntimeError("A worker process was killed; the outcomes until then are stored.") from None
                continue
            if event is None:
                leaving += 1
            elif isinstance(event, Exception):
                raise event
            else:
                on_step(event)
    finally:
        last_call.set()
        halt.set()
        deadline = time.monotonic() + _GRACE_S
        for worker in team:
            worker.join(max(0.0, deadline - time.monotonic()))
            if worker.is_alive():
                worker.terminate()
                worker.join()
        tasks.cancel_join_thread()


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _work(
    *, model: str, variants: Sequence[Variant], cache: OutcomeCache, tasks: Any, events: Any, last_call: Any, halt: Any
) -> None:
    """One worker process: chunks from ``tasks`` until None; steps, errors and a last None to ``events``.

    Leaves before the next chunk after ``last_call``, before the next variant after ``halt`` or without a parent.
    """
    try:
        torch.set_num_threads(1)
        vlm = load(model)
        grid = benchmark_grid(vlm)
        recipes = [recipe(vlm, grid, variant) for variant in variants]
        while not last_call.is_set() and (chunk := _next(tasks)) is not None:
            for step in run_chunk(vlm, grid, recipes, chunk, cache):
                events.put(step)
                if halt.is_set() or _orphaned():
                    return
    except BadInput as error:
        events.put(BadInput(str(error)))
    except Exception:
        events.put(RuntimeError(f"A worker process failed:\n{traceback.format_exc()}"))
    finally:
        events.put(None)


def _next(tasks: Any) -> range | None:
    """The next chunk; None when there is none left, or nobody who would hand it out."""
    while not _orphaned():
        try:
            chunk: range | None = tasks.get(timeout=5.0)
            return chunk
        except queue.Empty:
            continue
    return None


def _orphaned() -> bool:
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()
