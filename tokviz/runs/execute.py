"""One method on one encoded prompt, from its schedule to its Run."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from statistics import median
from typing import Any

import torch
from torch import Generator

from ..answers import CUT_ANSWER
from ..engine import Answer, Prefix, Prompt, StageEvent, answer, given_prefix, running_on, selector, shorten
from ..errors import BadInput, Stopped
from ..models.base import ModelFamily, decode_flops, merging_flops, prefill_flops
from ..models.loading import VisionLanguageModel
from ..names import VisionLayer
from ..pruners import Pruner
from ..pruners.serving_flags import Served
from ..records import AnswerToken, Cost, ImageMeasures, Run, ServingFlag, StageRecord, Timing, TokenGrid
from ..types import Budget, Need, PlanningInfo, Schedule, Stage, budget_meanings, tokens_per_layer
from .image_measures import mean_effective_rank, rank_of_kept
from .metrics import timing
from .requests import ChosenMethod
from .smaller import Encode, Smaller, fewer_than_asked, smaller_record
from .traces import stage_records

EMPTY_ANSWER = "The model gave an empty answer."
NOTHING_WEIGHED = "No token carries another here, so that rectify changed nothing."


@dataclass(frozen=True)
class Settings:
    """What all methods of a request share.

    has_evidence: whether it says where the evidence lies. reference: ids of an answer whose log-probability is wanted
    beside each one. unpruned: what the whole prompt is known to answer, so that it need not run again. prefix: what the
    first layers of the LLM are known to make of it.
    """

    budget: Budget
    seed: int
    repeats: int
    max_new_tokens: int
    stop: threading.Event
    has_evidence: bool = False
    reference: tuple[int, ...] = ()
    unpruned: Answer | None = None
    prefix: Prefix | None = None


@dataclass
class Execution:
    """A schedule carried out once: its events in original indices, and the answer with its clocks.

    vision_ms: what its own run of the vision tower took, None when it used the one that all methods share. smaller: the
    image that it was about, where that was another encoding. is_random: whether a stage drew random numbers.
    """

    events: list[StageEvent]
    answer: Answer
    vision_ms: float | None
    smaller: Smaller | None = None
    is_random: bool = False


def run_method(
    vlm: VisionLanguageModel,
    prompt: Prompt,
    grid: TokenGrid,
    chosen: ChosenMethod,
    settings: Settings,
    on_text: Callable[[str], None],
    encode_anew: Encode,
    measures: ImageMeasures | None = None,
) -> Run:
    """Carry out one method and record it. A method that cannot run on this request gives a Run with ``error``.

    measures: of the whole image, so that what is known of it is not measured again.

    Raises Stopped when the user stopped it.
    """
    pruner, params = chosen.pruner, chosen.requested.params
    base: dict[str, Any] = {**chosen.requested.model_dump(), "label": chosen.label, "family": pruner.family}
    n_layers = vlm.record.n_layers
    info = planning_info(vlm, grid, has_evidence=settings.has_evidence)
    missing = pruner.missing(info)
    if missing is not None:
        return Run(**base, error=missing)
    try:
        schedule = pruner.schedule(settings.budget, info, params)
        if schedule.smaller is None:
            carry_out = partial(execute, vlm.model, vlm.family, prompt, schedule, params, settings)
        else:
            carry_out = partial(execute_smaller, vlm, encode_anew, schedule.smaller, settings)
        first = carry_out(on_tokens=lambda token_ids: on_text(decoded(vlm, token_ids)), diagnose=True)
        executions = [first]
        if settings.repeats > 1:  # the first one was the warm-up
            executions = [carry_out() for _ in range(settings.repeats)]
    except BadInput as error:
        return Run(**base, error=str(error))
    execution = executions[-1]
    selection_ms = [[s.events[i].milliseconds for s in executions] for i in range(len(execution.events))]
    records = stage_records(first.events, grid.n_tokens, [median(samples) for samples in selection_ms])
    smaller, entered, whole = execution.smaller, grid.n_tokens, prompt
    if smaller is not None and schedule.smaller is not None:
        prompt, entered = smaller.prompt, smaller.n_tokens
        records = [smaller_record(smaller, grid, schedule.smaller)]
    per_layer = processed(execution.events, entered, n_layers)
    said = execution.answer
    words = decoded(vlm, said.token_ids)
    final = len(execution.events[-1].sequence) if execution.events else entered
    serving: list[ServingFlag] = []
    if pruner.deployed is not None and final < grid.n_tokens:
        serving = list(pruner.deployed(_served(grid, whole, final, smaller, info), params))
    run = Run(
        **base,
        planned=schedule.meanings(grid.n_tokens, n_layers),
        actual=budget_meanings(per_layer, final),
        tokens_per_layer=per_layer,
        stages=records,
        answer=words,
        answer_tokens=answer_tokens(vlm, said),
        timings=execution_timings(executions),
        cost=_cost(vlm, prompt, grid, per_layer, execution),
        warnings=[
            *(warning for event in first.events if event.diagnostics for warning in event.diagnostics.warnings),
            *([] if smaller is None else fewer_than_asked(smaller, settings.budget.tokens)),
            *_unweighed(records),
            *([] if words else [EMPTY_ANSWER]),
            *cut_warning(vlm, said.token_ids, settings.max_new_tokens),
        ],
        serving=serving,
    )
    rank = mean_effective_rank(smaller.prompt.vision[0]) if smaller else rank_of_kept(run, prompt.vision[0], measures)
    return run.model_copy(update={"effective_rank": rank})


def answer_tokens(vlm: VisionLanguageModel, said: Answer) -> list[AnswerToken]:
    """The record of each token that was generated."""
    return [
        AnswerToken(
            id=token,
            text=vlm.processor.tokenizer.decode([token]),
            logprob=logprob,
            runner_up=runner_up if math.isfinite(runner_up) else None,
        )
        for token, logprob, runner_up in zip(said.token_ids, said.logprobs, said.runners_up, strict=True)
    ]


def _served(grid: TokenGrid, prompt: Prompt, kept: int, smaller: Smaller | None, info: PlanningInfo) -> Served:
    """What a run pruned, of the whole ``prompt``. kept: tokens at its end."""
    frames = Counter(view for view, row in zip(grid.view, grid.row, strict=True) if row >= 0)
    visual = prompt.visual_mask[0].tolist()
    return Served(
        frames=tuple(frames[view] for view in sorted(frames)),
        spans=tuple(len(list(run)) for is_visual, run in groupby(visual) if is_visual),
        kept=kept,
        family=info.family,
        pixels=None if smaller is None else math.prod(smaller.shrunk.pixels),
    )


def planning_info(vlm: VisionLanguageModel, grid: TokenGrid, *, has_evidence: bool = True) -> PlanningInfo:
    """What methods may know about this model and an image of this geometry before anything runs."""
    return planning_of(
        vlm,
        grid.n_tokens,
        n_views=len(grid.views),
        has_tiles=grid.is_tiled,
        has_frames=grid.is_video,
        has_evidence=has_evidence,
    )


def planning_of(
    vlm: VisionLanguageModel,
    n_visual: int,
    *,
    n_views: int = 1,
    has_tiles: bool = False,
    has_frames: bool = False,
    has_evidence: bool = True,
) -> PlanningInfo:
    """``planning_info`` where only the number of visual tokens, and what they are made of, is known."""
    tower = vlm.family.vision_tower(vlm.model)
    info = vlm.family.planning(
        n_visual=n_visual,
        n_layers=vlm.record.n_layers,
        has_cls=vlm.family.has_cls(vlm.model),
        n_views=n_views,
        has_tiles=has_tiles,
        has_frames=has_frames,
        n_vision_layers=None if tower is None else len(tower.layers),
    )
    return replace(info, has_evidence=has_evidence)


def needs_of(pruner: Pruner, info: PlanningInfo) -> set[Need]:
    """The signals that a method may ask this model for; none of a method that cannot run on it."""
    return set() if pruner.missing(info) else {need for need in pruner.needs if _given(need, info)}


def _given(need: Need, info: PlanningInfo) -> bool:
    """Whether this model has the signal; attention received stands in for [CLS] where there is none."""
    if need.kind.startswith("cls_"):
        return info.has_cls
    if need.kind == "received_attention":
        return not info.has_cls
    return info.has_text_tower or need.kind != "clip_relevance"


def processed(events: Sequence[StageEvent], n_visual: int, n_layers: int) -> list[int]:
    """Visual tokens that each LLM layer really processed, given what happened in the stages. Shape: ``L`` ints.

    With the tokens that stages added: they stay, and every later layer computes with them.
    """
    return tokens_per_layer(n_visual, n_layers, [(event.stage.site, len(event.sequence)) for event in events])


def unheard(token_ids: list[int]) -> None:
    """Take the tokens of an answer that nobody reads: of a warm-up, or of a repetition for the clock."""


def execute(
    model: Any,
    family: ModelFamily,
    prompt: Prompt,
    schedule: Schedule,
    params: Mapping[str, Any],
    settings: Settings,
    on_tokens: Callable[[list[int]], None] = unheard,
    *,
    diagnose: bool = False,
) -> Execution:
    """Carry out a schedule once on an encoded prompt and answer; ``on_tokens`` receives the ids so far.

    ``diagnose`` fills the diagnostics of its events, outside every clock.

    Raises Stopped when the user stopped it, BadInput and Unsupported as the engine does.
    """
    generator = Generator().manual_seed(settings.seed)
    untouched = generator.get_state()
    select = selector(params, [generator])
    before_llm = tuple(stage for stage in schedule.stages if not isinstance(stage.site, int))
    inside_llm = tuple(stage for stage in schedule.stages if isinstance(stage.site, int))
    short, rows = shorten(model, family, prompt, before_llm, select, diagnose=diagnose)
    if short is prompt and not inside_llm and settings.unpruned is not None:
        return Execution(rows[0], settings.unpruned, None, is_random=not torch.equal(generator.get_state(), untouched))
    with (
        running_on(model, family, short, inside_llm, select, diagnose=diagnose) as trace,
        given_prefix(model, family, short, settings.prefix, first_site(inside_llm)),
    ):
        generated = _answer(model, short, settings, on_tokens)
    merges_in_vision = any(isinstance(stage.site, VisionLayer) for stage in before_llm)
    events = [*rows[0], *(trace.events[0] if trace is not None else [])]
    drew = not torch.equal(generator.get_state(), untouched)
    return Execution(events, generated, short.vision_ms if merges_in_vision else None, is_random=drew)


def first_site(stages: Sequence[Stage]) -> int:
    """The LLM layer before which a schedule first changes the prompt: 0 for one that does before the LLM, or never."""
    return min((stage.site if isinstance(stage.site, int) else 0 for stage in stages), default=0)


def _answer(model: Any, prompt: Prompt, settings: Settings, on_tokens: Callable[[list[int]], None]) -> Answer:
    generated = answer(
        model,
        prompt,
        max_new_tokens=settings.max_new_tokens,
        on_tokens=on_tokens,
        stop=settings.stop,
        reference=settings.reference,
    )
    if generated.stopped:
        raise Stopped
    return generated


def execute_smaller(
    vlm: VisionLanguageModel,
    encode_anew: Encode,
    tokens: int,
    settings: Settings,
    on_tokens: Callable[[list[int]], None] = unheard,
    *,
    diagnose: bool = False,
) -> Execution:
    """Encode the image anew in at most so many tokens and answer, without any stage; ``diagnose``: there is nothing to.

    Raises Stopped when the user stopped it, BadInput where the image cannot become so small.
    """
    smaller = encode_anew(tokens)
    with running_on(vlm.model, vlm.family, smaller.prompt):
        generated = _answer(vlm.model, smaller.prompt, settings, on_tokens)
    return Execution([], generated, smaller.prompt.vision_ms, smaller)


def _unweighed(records: Sequence[StageRecord]) -> list[str]:
    """A warning where merged tokens were to weigh as many as they carry and there is none, or nothing."""
    rectified = [record for record in records if record.rectify]
    carriers = [enumerate(record.assignment or ()) for record in rectified]
    if not rectified or any(0 <= carrier != token for pairs in carriers for token, carrier in pairs):
        return []
    return [NOTHING_WEIGHED]


def cut_warning(vlm: VisionLanguageModel, token_ids: list[int], max_new_tokens: int) -> list[str]:
    """A warning when the model would have gone on, or nothing."""
    ends = vlm.model.generation_config.eos_token_id
    if len(token_ids) < max_new_tokens or token_ids[-1] in (ends if isinstance(ends, list) else [ends]):
        return []
    return [CUT_ANSWER.format(max_new_tokens)]


def decoded(vlm: VisionLanguageModel, token_ids: list[int]) -> str:
    """An answer as text, without the tokens that end it."""
    return vlm.processor.tokenizer.decode(token_ids, skip_special_tokens=True).strip()


def execution_timings(executions: Sequence[Execution]) -> dict[str, Timing]:
    """Medians in ms: prefill, decode per token (over tokens and executions), selection, and vision where the method
    ran the tower itself.

    They add up: selection is the work of all stages, and prefill and vision are without it, wherever a stage ran.
    """
    timings = {
        "prefill": timing([execution.answer.prefill_ms - _inside_ms(execution) for execution in executions]),
        "selection": timing([sum(event.milliseconds for event in execution.events) for execution in executions]),
    }
    vision = [execution.vision_ms for execution in executions if execution.vision_ms is not None]
    if vision:
        timings["vision"] = timing(vision)
    decode = [ms for execution in executions for ms in execution.answer.decode_ms]
    if decode:
        timings["decode_per_token"] = timing(decode, len(executions))
    return timings


def _inside_ms(execution: Execution) -> float:
    """Selection, and what was asked about it, while the LLM was prefilling, in ms."""
    return sum(e.milliseconds + e.diagnostics_ms for e in execution.events if isinstance(e.stage.site, int))


def _cost(
    vlm: VisionLanguageModel, prompt: Prompt, grid: TokenGrid, per_layer: list[int], execution: Execution
) -> Cost:
    text = vlm.text_config
    n_text = prompt.input_ids.shape[1] - int(prompt.visual_mask.sum())
    lengths = [n_text + n_visual for n_visual in per_layer]
    return Cost(
        prefill_flops=prefill_flops(lengths, text.hidden_size, text.intermediate_size),
        decode_flops=decode_flops(lengths, text.hidden_size, text.intermediate_size, len(execution.answer.token_ids)),
        vision_flops=(
            _vision_flops(vlm, grid, execution.events) if execution.smaller is None else execution.smaller.vision_flops
        ),
        kv_cache_bytes=execution.answer.kv_bytes,
        peak_memory_bytes=execution.answer.peak_bytes,
    )


def _vision_flops(vlm: VisionLanguageModel, grid: TokenGrid, events: list[StageEvent]) -> float:
    """Of one image: the whole tower as the stock model runs it, or the layers that a merging method ran."""
    tower = vlm.family.vision_tower(vlm.model)
    left = {e.stage.site: len(e.kept) for e in events if isinstance(e.stage.site, VisionLayer)}
    if not left or tower is None:
        return vlm.family.vision_flops(vlm.model, grid)
    vision, cls = vlm.model.config.vision_config, int(vlm.family.has_cls(vlm.model))
    counts = [(vision.image_size // vision.patch_size) ** 2]
    for layer in range(len(tower.layers)):
        counts.append(left.get(VisionLayer(layer), counts[-1]))
    counts = [count + cls for count in counts]
    return merging_flops(counts[:-1], counts[1:], vision.hidden_size, vision.intermediate_size)
