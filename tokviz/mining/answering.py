"""One case through every method, budget and seed: the image is encoded once, every row is what ``compare`` gives.

What is shared is shared only where that holds to the bit: the encoded image (also by further questions about it), the
unpruned answer (also for every budget at which a method drops nothing), the layers of the LLM before a method's first
stage, and the answers of a method that draws no random numbers over seeds. Rows are not run in batches: the products of
a batch are rounded otherwise, and a log-probability would differ in its last digits.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch

from ..cases import judge
from ..engine import Answer, EncodedMedia, Prefix, Prompt, noted_prefix
from ..errors import BadInput
from ..files import open_file
from ..media.video import Video
from ..models.loading import VisionLanguageModel
from ..records import StageRecord
from ..runs.execute import (
    EMPTY_ANSWER,
    Execution,
    Settings,
    cut_warning,
    decoded,
    execute,
    execute_smaller,
    first_site,
    planning_info,
    processed,
)
from ..runs.image_measures import mean_effective_rank, rank_of_selected
from ..runs.inputs import image_of, open_media
from ..runs.job import Job, job_for
from ..runs.metrics import evidence_tokens
from ..runs.out_of_world import out_of_world_notice
from ..runs.requests import ChosenMethod
from ..runs.smaller import fewer_than_asked, smaller_record
from ..runs.traces import stage_records
from ..types import Budget, PlanningInfo, Schedule
from .features import features_of, thumbnail
from .kept import pack_indices
from .outcomes import DOWNSAMPLE, Row, add_case_columns, difficult, evidence_outcome, flipped, outcome_of
from .plan import Plan
from .store import payload_of
from .tasks import Mined, Task, case_columns, cells, failed_row, refused_tables, row_columns


@torch.inference_mode()
def mine_case(
    vlm: VisionLanguageModel,
    plan: Plan,
    task: Task,
    stop: threading.Event | None = None,
    seen: EncodedMedia | None = None,
) -> Mined:
    """Answer one case with every method at every budget and seed. What it cannot answer is a row with ``error``.

    seen: what was encoded for the cases before, see ``encodings_of``; a case about the same image goes by it.

    Raises Stopped when it was stopped.
    """
    began = time.perf_counter()
    case, rows = case_tables(vlm, plan, task, stop or threading.Event(), seen)
    digest = case["media_sha256"]
    media = None if digest is None else (task.path, digest)
    return Mined(task.position, payload_of(case, rows), time.perf_counter() - began, len(rows), media)


def encodings_of(plan: Plan) -> EncodedMedia:
    """Room for an image and for all that downsampling makes of it."""
    smaller = sum(chosen.pruner.id == DOWNSAMPLE for chosen in plan.methods) * len(plan.budgets)
    return EncodedMedia(1 + smaller)


def case_tables(
    vlm: VisionLanguageModel, plan: Plan, task: Task, stop: threading.Event, seen: EncodedMedia | None = None
) -> tuple[dict[str, Any], list[Row]]:
    """The case's row and its rows, as in ``schema.py``. Raises Stopped."""
    try:
        if task.problem is not None:
            raise BadInput(task.problem)
        answering = _Answering.begun(vlm, plan, task, stop, seen)
    except BadInput as error:
        return refused_tables(plan, task, str(error))
    rows, kept = answering.rows()
    add_case_columns(rows, kept, answering.right)
    return answering.case_row(rows), rows


@dataclass
class _Answering:
    """One case whose image is encoded, and whose unpruned answer is known.

    schedules: of each method at each budget, or why it cannot run.
    """

    vlm: VisionLanguageModel
    plan: Plan
    task: Task
    job: Job
    prompt: Prompt
    prefix: Prefix
    schedules: dict[tuple[str, int], Schedule | BadInput]
    said: Answer
    answer: str
    right: bool | None
    score: float | None
    evidence: list[int]

    @classmethod
    def begun(
        cls, vlm: VisionLanguageModel, plan: Plan, task: Task, stop: threading.Event, seen: EncodedMedia | None
    ) -> _Answering:
        """Encode and answer without pruning. Raises BadInput where that cannot be."""
        case = task.case
        source = task.path if task.data is None else task.data
        media = open_media(vlm, source, plan.frames if case.video is not None else None)
        asked = SimpleNamespace(
            vlm=vlm, image=media, question=case.question, frames=None, methods=[], params=None, budget=1,
            budget_as=plan.budget_as, seed=plan.seeds[0], repeats=1, max_new_tokens=plan.max_new_tokens, expected=None,
            evidence=case.evidence, evidence_frames=case.evidence_frames, stop=stop,
        )  # fmt: skip
        job = job_for(asked)
        job.chosen, job.seen = list(plan.chosen), seen
        prompt = job.encoded()[-1]
        info = planning_info(vlm, job.grid, has_evidence=job.settings().has_evidence)
        schedules = _schedules(plan, info, job.grid.n_tokens)
        depth = max((first_site(one.stages) for one in schedules.values() if isinstance(one, Schedule)), default=0)
        unpruned = plan.chosen[0]
        schedule = unpruned.pruner.schedule(Budget(1), info, unpruned.requested.params)
        with noted_prefix(vlm.model, vlm.family, prompt, depth) as prefix:
            said = execute(vlm.model, vlm.family, prompt, schedule, {}, job.settings()).answer
        words = decoded(vlm, said.token_ids)
        found = judge(case, words, job.grid.image_size)
        tokens = evidence_tokens(job.grid, job.request.evidence, job.request.evidence_frames)
        return cls(vlm, plan, task, job, prompt, prefix, schedules, said, words, found.right, found.score, tokens)

    # -- rows ----------------------------------------------------------------------------------------------------------

    def rows(self) -> tuple[list[Row], list[list[int] | None]]:
        """Every row of the case, and the tokens that each kept. Raises Stopped."""
        rows, kept = [], []
        for chosen, budget in cells(self.plan):
            for seed in self.plan.seeds:
                row, some, is_random = self._row(chosen, budget, seed)
                rows.append(row)
                kept.append(some)
                if not is_random:
                    break
        return rows, kept

    def _row(self, chosen: ChosenMethod, budget: int, seed: int) -> tuple[Row, list[int] | None, bool]:
        """One row, the tokens that it kept, and whether it drew random numbers. Raises Stopped."""
        job, vlm = self.job, self.vlm
        settings = replace(
            job.settings(),
            budget=_asked(self.plan, budget, job.grid.n_tokens),
            seed=seed,
            reference=tuple(self.said.token_ids),
            unpruned=replace(self.said, reference_logprobs=self.said.logprobs),
            prefix=self.prefix,
        )
        params = chosen.requested.params
        schedule = self.schedules[chosen.requested.key, budget]
        try:
            if isinstance(schedule, BadInput):
                raise schedule
            if schedule.smaller is None:
                done = execute(vlm.model, vlm.family, self.prompt, schedule, params, settings)
                stages = stage_records(done.events, job.grid.n_tokens, [0.0] * len(done.events))
            else:
                done = execute_smaller(vlm, job.encode_smaller, schedule.smaller, settings)
                if done.smaller is None:
                    raise RuntimeError("A smaller image was asked for and none was made.")
                stages = [smaller_record(done.smaller, job.grid, schedule.smaller)]
        except BadInput as error:
            return failed_row(self.task, self.plan, chosen, budget, str(error)), None, False
        kept = stages[-1].kept if stages else list(range(job.grid.n_tokens))
        row = row_columns(self.task, self.plan, chosen, budget, seed)
        row |= self._selected(done, stages, kept) | self._said(done.answer)
        row["warnings"] += self._warnings(done, settings, row["answer"])
        return row, kept, done.is_random

    def _selected(self, done: Execution, stages: list[StageRecord], kept: list[int]) -> Row:
        """Columns about tokens."""
        n_tokens = self.job.grid.n_tokens
        entered = n_tokens if done.smaller is None else done.smaller.n_tokens
        per_layer = processed(done.events, entered, self.vlm.record.n_layers)
        return {
            "kept": pack_indices(kept),
            "n_kept": len(kept),
            "n_final": len(done.events[-1].sequence) if done.events else entered,
            "average_tokens": sum(per_layer) / len(per_layer),
            "layers": json.dumps(per_layer),
            "effective_rank": self._rank(done, stages),
            **evidence_outcome(self.evidence, stages, n_tokens),
        }

    def _rank(self, done: Execution, stages: list[StageRecord]) -> float | None:
        """As ``Run.effective_rank``."""
        if done.smaller is not None:
            return mean_effective_rank(done.smaller.prompt.vision[0])
        left = next((stage.kept for stage in reversed(stages) if stage.kept), None)
        return rank_of_selected(left, self.prompt.vision[0], self.job.measures)

    def _said(self, said: Answer) -> Row:
        """Columns about the answer."""
        words = decoded(self.vlm, said.token_ids)
        judged = judge(self.task.case, words, self.job.grid.image_size)
        outcome = outcome_of(judged.right, self.right, words, self.answer)
        return {
            "answer": words,
            "right": judged.right,
            "score": judged.score,
            "outcome": outcome,
            "flipped": flipped(outcome),
            "margin": _margin(said),
            "logprob": math.fsum(said.logprobs),
            "reference_logprob": math.fsum(said.reference_logprobs),
        }

    def _warnings(self, done: Execution, settings: Settings, answer: str) -> list[str]:
        return [
            *([] if done.smaller is None else fewer_than_asked(done.smaller, settings.budget.tokens)),
            *([] if answer else [EMPTY_ANSWER]),
            *self._cut(done.answer),
        ]

    def _cut(self, said: Answer) -> list[str]:
        return cut_warning(self.vlm, said.token_ids, self.plan.max_new_tokens)

    # -- the case ------------------------------------------------------------------------------------------------------

    def case_row(self, rows: list[Row]) -> dict[str, Any]:
        """The case's own row."""
        job, grid, measures = self.job, self.job.grid, self.job.measures
        shown = image_of(job.media)
        single = grid.views[0] if len(grid.views) == 1 else None
        video = job.media.record if isinstance(job.media, Video) else None
        return case_columns(self.task, self.plan) | {
            "media_sha256": _media_digest(self.task),
            "media_width": shown.width if video is None else video.width,
            "media_height": shown.height if video is None else video.height,
            "n_tokens": grid.n_tokens,
            "grid_rows": None if single is None else single.rows,
            "grid_cols": None if single is None else single.cols,
            "grid": grid.model_dump_json(),
            "frames": None if not isinstance(job.media, Video) else list(job.media.indices),
            "evidence": [list(box) for box in job.request.evidence],
            "evidence_tokens": len(self.evidence) if job.request.evidence else None,
            "evidence_size": len(self.evidence) / grid.n_tokens if job.request.evidence else None,
            "answer": self.answer,
            "right": self.right,
            "score": self.score,
            "margin": _margin(self.said),
            "logprob": math.fsum(self.said.logprobs),
            "cls_entropy": None if measures is None else measures.attention_entropy,
            "effective_rank": None if measures is None else measures.effective_rank,
            "difficult": difficult(rows, self.right),
            "thumbnail": thumbnail(job.media),
            "features": list(features_of(self.prompt)),
            "warnings": [*out_of_world_notice(self.vlm, measures), *self._cut(self.said)],
        }


def _asked(plan: Plan, budget: int, n_tokens: int) -> Budget:
    """A budget beyond what an image has asks for all of it."""
    return Budget(min(budget, n_tokens), plan.budget_as)


def _schedules(plan: Plan, info: PlanningInfo, n_tokens: int) -> dict[tuple[str, int], Schedule | BadInput]:
    found: dict[tuple[str, int], Schedule | BadInput] = {}
    for chosen, budget in cells(plan):
        asked = _asked(plan, budget, n_tokens)
        try:
            found[chosen.requested.key, budget] = chosen.pruner.schedule(asked, info, chosen.requested.params)
        except BadInput as error:
            found[chosen.requested.key, budget] = error
    return found


def _media_digest(task: Task) -> str:
    """SHA-256 of the file of a case's image or video."""
    if task.data is not None:
        return hashlib.sha256(task.data).hexdigest()
    with open_file(task.path, "media") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _margin(said: Answer) -> float | None:
    """As ``Run.margin``: of the first token, in nats."""
    if not said.logprobs or not math.isfinite(said.runners_up[0]):
        return None
    return said.logprobs[0] - said.runners_up[0]
