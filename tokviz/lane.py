"""One lane: one method on one encoded prompt, from its schedule to its Run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from .engine import Answer, Prompt, StageEvent, answer, running_on, shorten
from .errors import BadInput, Stopped
from .measures import decode_flops, merging_flops, prefill_flops, timing
from .models.base import ModelFamily
from .models.loading import VisionLanguageModel
from .names import VisionBlock
from .pruners.pruner import Pruner
from .records import AnswerToken, Cost, Run, Timing, TokenGrid
from .traces import stage_records
from .types import Budget, PlanningInfo, Schedule, Selection, Signals, Stage, budget_meanings, tokens_per_block

EMPTY_ANSWER = "The model gave an empty answer."
CUT_ANSWER = "The answer was cut after {} new tokens; more can be allowed."


@dataclass(frozen=True)
class LaneSettings:
    """What all lanes of a request share."""

    budget: Budget
    seed: int
    repeats: int
    max_new_tokens: int
    stop: threading.Event


@dataclass
class Shot:
    """One execution of a lane: its events in original indices, and the answer with its clocks.

    vision_ms: what the lane's own run of the vision tower took, None when it used the one that all lanes share.
    """

    events: list[StageEvent]
    answer: Answer
    vision_ms: float | None


def run_lane(
    vlm: VisionLanguageModel,
    prompt: Prompt,
    grid: TokenGrid,
    pruner: Pruner,
    params: Mapping[str, Any],
    settings: LaneSettings,
    on_text: Callable[[str], None],
) -> Run:
    """Carry out one method and record it. A method that cannot run on this request gives a Run with ``error``.

    Raises Stopped when the user stopped it.
    """
    base: dict[str, Any] = {"method": pruner.id, "label": pruner.label, "family": pruner.family, "params": dict(params)}
    n_blocks = vlm.record.n_blocks
    info = planning_info(vlm, grid)
    missing = pruner.missing(info)
    if missing is not None:
        return Run(**base, error=missing)
    try:
        schedule = pruner.schedule(settings.budget, info, params)
        work = vlm.model, vlm.family, prompt, schedule, params, settings
        shots = [shoot(*work, on_tokens=lambda token_ids: on_text(_decode(vlm, token_ids)))]
        if settings.repeats > 1:  # the first shot was the warm-up
            shots = [shoot(*work) for _ in range(settings.repeats)]
    except BadInput as error:
        return Run(**base, error=str(error))
    shot = shots[-1]
    selection_ms = [[s.events[i].milliseconds for s in shots] for i in range(len(shot.events))]
    records = stage_records(shot.events, grid.n_tokens, [median(samples) for samples in selection_ms])
    per_block = processed(shot.events, grid.n_tokens, n_blocks)
    said = _decode(vlm, shot.answer.token_ids)
    final = len(shot.events[-1].sequence) if shot.events else grid.n_tokens
    return Run(
        **base,
        planned=schedule.meanings(grid.n_tokens, n_blocks),
        actual=budget_meanings(per_block, final),
        tokens_per_block=per_block,
        stages=records,
        answer=said,
        answer_tokens=[
            AnswerToken(id=token, text=vlm.processor.tokenizer.decode([token]), logprob=logprob)
            for token, logprob in zip(shot.answer.token_ids, shot.answer.logprobs, strict=True)
        ],
        timings=shot_timings(shots),
        cost=_cost(vlm, prompt, grid, per_block, shot),
        warnings=[
            *(warning for event in shot.events if event.diagnostics for warning in event.diagnostics.warnings),
            *([] if said else [EMPTY_ANSWER]),
            *([CUT_ANSWER.format(settings.max_new_tokens)] if _is_cut(vlm, shot.answer.token_ids, settings) else []),
        ],
    )


def planning_info(vlm: VisionLanguageModel, grid: TokenGrid) -> PlanningInfo:
    """What methods may know about this model and a picture of this geometry before anything runs."""
    tower = vlm.family.vision_tower(vlm.model)
    n_views = len(grid.views)
    return PlanningInfo(
        n_visual=grid.n_tokens,
        n_blocks=vlm.record.n_blocks,
        family=vlm.family.id,
        has_cls=vlm.family.has_cls(vlm.model),
        n_views=n_views,
        has_tiles=grid.is_tiled,
        has_frames=grid.is_video,
        merges_patches=not vlm.family.has_encoder_site(vlm.model),
        projects_cls=vlm.family.projects_cls,
        renumbers=vlm.family.reindexes,
        vision_blocks=None if tower is None else len(tower.blocks),
    )


def processed(events: Sequence[StageEvent], n_visual: int, n_blocks: int) -> list[int]:
    """Visual tokens that each LLM block really processed, given what happened in the stages. Shape: ``L`` ints.

    With the tokens that stages added: they stay, and every later block computes with them.
    """
    return tokens_per_block(n_visual, n_blocks, [(event.stage.site, len(event.sequence)) for event in events])


def _unheard(token_ids: list[int]) -> None:
    """Repetitions for the clock stream to nobody."""


def shoot(
    model: Any,
    family: ModelFamily,
    prompt: Prompt,
    schedule: Schedule,
    params: Mapping[str, Any],
    settings: LaneSettings,
    on_tokens: Callable[[list[int]], None] = _unheard,
) -> Shot:
    """Carry out a schedule once on an encoded prompt and answer; ``on_tokens`` receives the ids so far.

    Raises Stopped when the user stopped it, BadInput and Unsupported as the engine does.
    """
    generator = torch.Generator().manual_seed(settings.seed)

    def choose(stage: Stage, signals: Signals, row: int) -> Selection:
        return stage.select(signals, stage.keep, params, generator)

    before_llm = tuple(stage for stage in schedule.stages if not isinstance(stage.site, int))
    inside_llm = tuple(stage for stage in schedule.stages if isinstance(stage.site, int))
    short, rows = shorten(model, family, prompt, before_llm, choose)
    with running_on(model, family, short, inside_llm, choose) as trace:
        generated = answer(
            model, short, max_new_tokens=settings.max_new_tokens, on_tokens=on_tokens, stop=settings.stop
        )
    if generated.stopped:
        raise Stopped
    merges_in_vision = any(isinstance(stage.site, VisionBlock) for stage in before_llm)
    events = [*rows[0], *(trace.rows[0] if trace is not None else [])]
    return Shot(events, generated, short.vision_ms if merges_in_vision else None)


def _is_cut(vlm: VisionLanguageModel, token_ids: list[int], settings: LaneSettings) -> bool:
    """Whether the model would have gone on."""
    if len(token_ids) < settings.max_new_tokens:
        return False
    ends = vlm.model.generation_config.eos_token_id
    return token_ids[-1] not in (ends if isinstance(ends, list) else [ends])


def _decode(vlm: VisionLanguageModel, token_ids: list[int]) -> str:
    return vlm.processor.tokenizer.decode(token_ids, skip_special_tokens=True).strip()


def shot_timings(shots: Sequence[Shot]) -> dict[str, Timing]:
    """Medians in ms over the shots: prefill, decode per token (over tokens and shots), selection, and vision where the
    lane ran the tower itself.

    They add up: selection is the work of all stages, and prefill and vision are without it, wherever a stage ran.
    """
    timings = {
        "prefill": timing([shot.answer.prefill_ms - _inside_ms(shot) for shot in shots]),
        "selection": timing([sum(event.milliseconds for event in shot.events) for shot in shots]),
    }
    vision = [shot.vision_ms for shot in shots if shot.vision_ms is not None]
    if vision:
        timings["vision"] = timing(vision)
    decode = [ms for shot in shots for ms in shot.answer.decode_ms]
    if decode:
        timings["decode_per_token"] = timing(decode, len(shots))
    return timings


def _inside_ms(shot: Shot) -> float:
    """Selection that ran while the LLM was prefilling, in ms."""
    return sum(event.milliseconds for event in shot.events if isinstance(event.stage.site, int))


def _cost(vlm: VisionLanguageModel, prompt: Prompt, grid: TokenGrid, per_block: list[int], shot: Shot) -> Cost:
    text = vlm.text_config
    n_text = prompt.input_ids.shape[1] - int(prompt.visual_mask.sum())
    lengths = [n_text + n_visual for n_visual in per_block]
    return Cost(
        prefill_flops=prefill_flops(lengths, text.hidden_size, text.intermediate_size),
        decode_flops=decode_flops(lengths, text.hidden_size, text.intermediate_size, len(shot.answer.token_ids)),
        vision_flops=_vision_flops(vlm, grid, shot.events),
        kv_cache_bytes=shot.answer.kv_bytes,
        peak_memory_bytes=shot.answer.peak_bytes,
    )


def _vision_flops(vlm: VisionLanguageModel, grid: TokenGrid, events: list[StageEvent]) -> float:
    """Of one picture: the whole tower as the stock model runs it, or the blocks that a merging lane ran."""
    tower = vlm.family.vision_tower(vlm.model)
    left = {e.stage.site: len(e.kept) for e in events if isinstance(e.stage.site, VisionBlock)}
    if not left or tower is None:
        return vlm.family.vision_flops(vlm.model, grid)
    vision, cls = vlm.model.config.vision_config, int(vlm.family.has_cls(vlm.model))
    counts = [(vision.image_size // vision.patch_size) ** 2]
    for block in range(len(tower.blocks)):
        counts.append(left.get(VisionBlock(block), counts[-1]))
    counts = [count + cls for count in counts]
    return merging_flops(counts[:-1], counts[1:], vision.hidden_size, vision.intermediate_size)
