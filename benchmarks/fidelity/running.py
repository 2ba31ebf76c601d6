"""Carry out variants on encoded scenes: many questions per forward pass, through the engine's own paths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Generator

from scenes import DEFAULT_SIZE
from tokviz.engine import Prompt, Select, StageEvent, running_on, selector, shorten
from tokviz.models.loading import VisionLanguageModel
from tokviz.pruners import get
from tokviz.pruners.pruner import budget_tokens
from tokviz.pruners.sampling import random_rows
from tokviz.records import TokenGrid
from tokviz.runs.execute import planning_info
from tokviz.runs.metrics import normalised
from tokviz.runs.smaller import encode_smaller
from tokviz.types import Budget, Need, Params, Schedule, Selection, Signals, Stage, tokens_per_layer

from .outcomes import EVIDENCE_ORACLE, Outcome, Variant
from .prompts import EncodedImage, encode_image, joined, shared_prefix, with_text
from .questions import Case, SceneImage, position_correlation, scene_image, thirds

ORACLE_LABEL = "Evidence oracle"

MAX_NEW_TOKENS = 4
"""Right answers have at most two words and an end; what has not ended by now is wrong."""

_READS_THE_TEXT = {"text_features", "question_features", "llm_input", "clip_relevance"}


@dataclass(frozen=True)
class Recipe:
    """A variant, planned for one model.

    once: leading stages that come out the same for every question about a picture. guided: further stages before the
    LLM. inside: stages inside it.
    """

    variant: Variant
    schedule: Schedule
    params: Params
    once: tuple[Stage, ...]
    guided: tuple[Stage, ...]
    inside: tuple[Stage, ...]

    @property
    def seed_offset(self) -> int:
        """What is added to a scene's seed: nothing for the first draw, what no scene's seed reaches for others."""
        return self.variant.draw * 10**12

    @property
    def needs(self) -> set[Need]:
        """Signals that its stages ask for."""
        return {need for stage in self.schedule.stages for need in stage.needs}


def benchmark_grid(vlm: VisionLanguageModel) -> TokenGrid:
    """Geometry of the benchmark's pictures for this model."""
    return vlm.family.grid(vlm.model, vlm.processor, DEFAULT_SIZE, {})


def recipe(vlm: VisionLanguageModel, grid: TokenGrid, variant: Variant) -> Recipe:
    """Plan a variant. Raises BadInput when the model or the budget does not allow it, saying why."""
    budget = Budget(grid.n_tokens if variant.budget is None else variant.budget)
    if variant.method == EVIDENCE_ORACLE:
        params: Params = {}
        schedule = oracle_schedule(budget)
    else:
        pruner = get(variant.method)
        params = pruner.complete(variant.params)
        schedule = pruner.schedule(budget, planning_info(vlm, grid), params)
    before = tuple(stage for stage in schedule.stages if not isinstance(stage.site, int))
    inside = tuple(stage for stage in schedule.stages if isinstance(stage.site, int))
    n_once = 0 if variant.method == EVIDENCE_ORACLE else _asks_nothing(before)
    return Recipe(variant, schedule, params, before[:n_once], before[n_once:], inside)


def _asks_nothing(stages: Sequence[Stage]) -> int:
    """How many leading stages do not listen to the question."""
    listens = [any(need.kind in _READS_THE_TEXT for need in stage.needs) for stage in stages]
    first = listens.index(True) if True in listens else len(stages)
    # A second call of ``shorten`` starts from unmerged encoder features; stages of one site must not be torn apart.
    return 0 if any(stage.site == "encoder" for stage in stages[first:]) else first


@dataclass(frozen=True)
class EncodedScene:
    """A scene with questions, encoded once; drawn: the picture itself."""

    seed: int
    cases: tuple[Case, ...]
    image: EncodedImage
    drawn: Image.Image


@torch.inference_mode()
def encode_scenes(
    vlm: VisionLanguageModel, grid: TokenGrid, seeds: Sequence[int], needs: set[Need]
) -> list[EncodedScene]:
    """Draw and encode the scenes of ``seeds`` that can be asked about."""
    drawn: list[SceneImage] = [scene_image(seed, grid) for seed in seeds]
    return [
        EncodedScene(
            scene.seed,
            scene.cases,
            encode_image(vlm, grid, scene.image, [case.question for case in scene.cases], needs),
            scene.image,
        )
        for scene in drawn
        if scene.cases
    ]


@dataclass
class _Row:
    """One question on its way through a variant."""

    case: Case
    prompt: Prompt
    generator: Generator
    events: list[StageEvent]


@dataclass(frozen=True)
class Answered:
    """What one question came to under one variant.

    Shape: kept ``(N,)`` bool, the visual tokens alive behind the last stage, None where the image was encoded smaller
    and none of them was; per_layer ``L`` ints, visual tokens that each layer processes. final: visual tokens behind the
    last stage. Both counts hold tokens that a stage added.
    """

    case: Case
    answer: str
    kept: NDArray[np.bool_] | None
    per_layer: list[int]
    final: int


@torch.inference_mode()
def answer_variant(
    vlm: VisionLanguageModel, grid: TokenGrid, plan: Recipe, scenes: Sequence[EncodedScene]
) -> list[Answered]:
    """Answer every question of ``scenes`` under one variant, as one batch.

    Everything random is drawn per question from a generator seeded with the scene's seed: what ``tokviz.compare`` does
    with ``seed=`` that seed.
    """
    if not scenes:
        return []
    begun = [_begin(vlm, grid, plan, scene) for scene in scenes]
    rows = [row for each in begun for row in each.rows]
    select = _select(plan, rows)
    prompt = joined([row.prompt for row in rows])
    prompt, guided = shorten(vlm.model, vlm.family, prompt, plan.guided, select)
    options: dict[str, Any] = {"max_new_tokens": MAX_NEW_TOKENS, "do_sample": False, "num_beams": 1}
    if not plan.guided and not plan.inside and prompt.position_ids is None:
        image_of_row = [number for number, each in enumerate(begun) for _ in each.rows]
        images = [each.image for each in begun]
        options["past_key_values"] = shared_prefix(vlm, images, image_of_row, prompt)
    with running_on(vlm.model, vlm.family, prompt, plan.inside, select) as trace:
        made = vlm.model.generate(**prompt.generate_inputs(), **options)
    answers = vlm.processor.tokenizer.batch_decode(made, skip_special_tokens=True)
    inside: Sequence[list[StageEvent]] = [[] for _ in rows] if trace is None else trace.events
    encoded = [each.encoded for each in begun for _ in each.rows]
    return [
        _answered(row.case, answer.strip(), [*row.events, *before, *late], grid, n, vlm.record.n_layers)
        for row, answer, before, late, n in zip(rows, answers, guided, inside, encoded, strict=True)
    ]


def run_variant(
    vlm: VisionLanguageModel, grid: TokenGrid, plan: Recipe, scenes: Sequence[EncodedScene]
) -> list[Outcome]:
    """The outcomes of every question of ``scenes`` under one variant, scene by scene."""
    return [outcome(answered, grid) for answered in answer_variant(vlm, grid, plan, scenes)]


@dataclass(frozen=True)
class _Begun:
    """One scene behind the stages that are the same for all its questions. encoded: visual tokens it was encoded to."""

    image: Prompt
    rows: list[_Row]
    encoded: int


def _begin(vlm: VisionLanguageModel, grid: TokenGrid, plan: Recipe, scene: EncodedScene) -> _Begun:
    generator = Generator().manual_seed(scene.seed + plan.seed_offset)
    select = selector(plan.params, [generator])
    image, encoded = scene.image.prompt, grid.n_tokens
    if plan.schedule.smaller is not None:
        smaller = encode_smaller(vlm, scene.drawn, scene.cases[0].question, grid, plan.schedule.smaller)
        image, encoded = smaller.prompt, smaller.n_tokens
    short, events = shorten(vlm.model, vlm.family, image, plan.once, select)
    state = generator.get_state()
    rows = []
    for case, text in zip(scene.cases, scene.image.texts, strict=True):
        mine = Generator()
        mine.set_state(state)
        rows.append(_Row(case, with_text(short, text), mine, events[0]))
    return _Begun(short, rows, encoded)


def _select(plan: Recipe, rows: Sequence[_Row]) -> Select:
    if plan.variant.method != EVIDENCE_ORACLE:
        return selector(plan.params, [row.generator for row in rows])

    def keep_what_answers(stage: Stage, signals: Signals, row: int) -> Selection:
        return keep_evidence(rows[row].case.cover, stage.keep or 0, rows[row].generator)

    return keep_what_answers


def _answered(
    case: Case, answer: str, events: Sequence[StageEvent], grid: TokenGrid, encoded: int, n_layers: int
) -> Answered:
    counts = [(event.stage.site, len(event.sequence)) for event in events]
    kept = None if encoded < grid.n_tokens else np.full(grid.n_tokens, not events)
    if kept is not None and events:
        kept[events[-1].kept.numpy()] = True
    return Answered(
        case, answer, kept, tokens_per_layer(encoded, n_layers, counts), counts[-1][1] if counts else encoded
    )


def outcome(answered: Answered, grid: TokenGrid) -> Outcome:
    """The numbers that are stored."""
    case, kept, evidence = answered.case, answered.kept, list(answered.case.evidence)
    return Outcome(
        seed=case.seed,
        number=case.number,
        family=case.family,
        question=case.question,
        expected=case.expected,
        answer=answered.answer,
        right=normalised(answered.answer) == normalised(case.expected),
        kept=answered.final,
        average=sum(answered.per_layer) / len(answered.per_layer),
        evidence_recall=None if kept is None or not evidence else float(kept[evidence].mean()),
        position_correlation=None if kept is None else position_correlation(kept),
        kept_thirds=None if kept is None else thirds(kept, grid.row),
    )


# -- the control that knows where the answer is: what a selection could at best keep -----------------------------------


def oracle_schedule(budget: Budget) -> Schedule:
    """One stage before the LLM, as the controls have it. Raises BadInput below 1 token."""
    return Schedule((Stage("projector", budget_tokens(budget), _unasked, title="Evidence first"),))


def _unasked(signals: Signals, keep: int | None, params: Params, generator: Generator) -> Selection:
    raise RuntimeError("The oracle selects by evidence, which signals do not hold; call keep_evidence.")


def keep_evidence(cover: NDArray[np.float64], keep: int | None, generator: Generator) -> Selection:
    """The ``keep`` tokens with most evidence pixels, ties to the lowest index; where evidence ends, others by lot.

    Shape: cover ``(N,)``, evidence pixels of each token's patch -> kept ``(min(keep, N),)``.
    """
    if keep is None:
        raise ValueError("The oracle needs a budget.")
    ranked = np.argsort(-cover, kind="stable")
    shown, blank = ranked[cover[ranked] > 0], np.sort(ranked[cover[ranked] <= 0])
    drawn = random_rows(len(blank), max(0, keep - len(shown)), generator, torch.device("cpu"))
    kept = torch.cat([torch.from_numpy(shown[:keep].copy()), torch.from_numpy(blank)[drawn]])
    return Selection(kept=kept.sort().values)
