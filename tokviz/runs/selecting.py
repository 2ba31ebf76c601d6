"""Which tokens methods keep, without an answer: the work behind ``tokviz.select_only``."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Generator

from ..engine import Prompt, StageEvent, answer, running_on, selector, shorten
from ..errors import BadInput, Stopped, knows_its_keywords
from ..models.loading import VisionLanguageModel
from ..names import DEFAULT_METHODS, UNPRUNED, Box, BudgetMeaning
from ..selections import Selected, Selections
from ..types import Budget, Schedule
from .execute import planning_info, processed, unheard
from .inputs import Source, notices_of
from .job import Job, job_for
from .requests import ChosenMethod, MethodLike
from .smaller import fewer_than_asked, smaller_record
from .traces import stage_records


@knows_its_keywords
@torch.inference_mode()
def select_only(
    vlm: VisionLanguageModel,
    image: Source,
    question: str,
    methods: Sequence[MethodLike] = DEFAULT_METHODS,
    budget: int = 64,
    *,
    budget_as: BudgetMeaning = "published",
    params: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    evidence: Sequence[Box] = (),
    evidence_frames: Sequence[int] = (),
    frames: int | None = None,
    stop: threading.Event | None = None,
) -> Selections:
    """Select the visual tokens that each method keeps, and answer nothing.

    The image is encoded once. The LLM runs for methods that prune inside it, once each and without decoding; for all
    others it does not run at all. The tokens are those that ``compare`` keeps with the same arguments.

    Args:
        vlm: The model, from ``tokviz.load`` or ``tokviz.wrap``.
        image: An image or video, in any form that ``compare`` accepts.
        question: A single question: some methods go by it.
        methods: As for ``compare``. The unpruned model keeps everything and is left out.
        budget: Visual tokens, 1 to N.
        budget_as: What the budget counts; see ``compare``.
        params: Parameters by method, ``{method: {name: value}}``.
        seed: Seed of everything random.
        evidence: Boxes in pixels around what answers the question, for methods that need to know it (``oracle``).
        evidence_frames: For a video, the sampled frame of each box, from 0.
        frames: For a video, how many frames to sample.
        stop: An event that ends the work when it is set; methods that were not begun are left out.

    Raises:
        BadInput: If an argument cannot be used; the message is one sentence. A method that cannot run on this model
            has ``error`` instead.

    Example:
        >>> found = tokviz.select_only(vlm, "scene.png", "what color is the star?", ["apet", "divprune"], budget=64)
        >>> found["apet"].kept, found.overlap("apet", "divprune").iou
    """
    job = job_for(SimpleNamespace(**locals(), repeats=1, max_new_tokens=1, expected=None))
    prompt = job.encoded()[-1]
    found, notes = [], notices_of(job.media)
    for chosen in job.chosen:
        if chosen.pruner.id == UNPRUNED:
            continue
        try:
            selected, warnings = _selected(job, prompt, chosen)
        except Stopped:
            notes.append(f"{chosen.label} and what follows it were not selected: it was stopped.")
            break
        found.append(selected)
        notes += [f"{chosen.label}: {warning}" for warning in warnings]
    asked = [one for one in job.request.methods if one.method != UNPRUNED]
    request = job.request.model_copy(update={"methods": asked})
    return Selections(request=request, model=vlm.record, grid=job.grid, methods=found, notes=notes)


def _selected(job: Job, prompt: Prompt, chosen: ChosenMethod) -> tuple[Selected, list[str]]:
    """What a method keeps, and its warnings. Raises Stopped."""
    if job.stop.is_set():
        raise Stopped
    vlm, grid, params = job.vlm, job.grid, chosen.requested.params
    named = Selected(**chosen.requested.model_dump(), label=chosen.label, family=chosen.pruner.family)
    info = planning_info(vlm, grid, has_evidence=bool(job.request.evidence))
    missing = chosen.pruner.missing(info)
    if missing is not None:
        return named.model_copy(update={"error": missing}), []
    try:
        budget = Budget(job.request.budget, job.request.budget_as)
        schedule = chosen.pruner.schedule(budget, info, params)
        if schedule.smaller is not None:
            smaller = job.encode_smaller(schedule.smaller)
            records, entered = [smaller_record(smaller, grid, schedule.smaller)], smaller.n_tokens
            events: list[StageEvent] = []
            warnings = fewer_than_asked(smaller, budget.tokens)
        else:
            events, entered = _carried_out(job, prompt, schedule, params), grid.n_tokens
            records = stage_records(events, grid.n_tokens, [event.milliseconds for event in events])
            warnings = [warning for event in events if event.diagnostics for warning in event.diagnostics.warnings]
    except BadInput as error:
        return named.model_copy(update={"error": str(error)}), []
    per_layer = processed(events, entered, vlm.record.n_layers)
    return named.model_copy(update={"stages": records, "tokens_per_layer": per_layer}), warnings


def _carried_out(job: Job, prompt: Prompt, schedule: Schedule, params: Mapping[str, Any]) -> list[StageEvent]:
    """The stages of a schedule, as in a run; the LLM runs only where one of them lies inside it. Raises Stopped."""
    vlm, select = job.vlm, selector(params, [Generator().manual_seed(job.request.seed)])
    before_llm = tuple(stage for stage in schedule.stages if not isinstance(stage.site, int))
    inside_llm = tuple(stage for stage in schedule.stages if isinstance(stage.site, int))
    short, rows = shorten(vlm.model, vlm.family, prompt, before_llm, select, diagnose=True)
    if not inside_llm:
        return [*rows[0]]
    with running_on(vlm.model, vlm.family, short, inside_llm, select, diagnose=True) as trace:
        said = answer(vlm.model, short, max_new_tokens=1, on_tokens=unheard, stop=job.stop)
    if said.stopped:
        raise Stopped
    return [*rows[0], *(trace.events[0] if trace is not None else [])]
