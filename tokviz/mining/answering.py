"""One case through every method, budget and seed: the image is encoded once, every row is what ``compare`` gives.

What is shared is shared only where that holds to the bit: the encoded image (also by further questions about it), the
unpruned answer (also for every budget at which a method drops nothing), the layers of the LLM before a method's first
stage, and the answers of a method that draws no random numbers over seeds. Rows are not run in batches: the products of
a batch are rounded otherwise, and a log-probability would differ in its last digits.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import threading
import time
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..cases import Case, judge
from ..engine import Answer, EncodedMedia, Prefix, Prompt, noted_prefix
from ..errors import BadInput
from ..files import open_file
from ..media.images import InputImage
from ..media.video import Video
from ..models.loading import VisionLanguageModel
from ..records import StageRecord
from ..runs.compare import Job, job_for
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
from ..runs.metrics import evidence_tokens
from ..runs.out_of_world import out_of_world_notice
from ..runs.requests import ChosenMethod
from ..runs.smaller import fewer_than_asked, smaller_record
from ..runs.traces import stage_records
from ..types import Budget, PlanningInfo, Schedule
from .kept import pack_indices
from .outcomes import DOWNSAMPLE, Row, add_case_columns, difficult, evidence_outcome, flipped, outcome_of
from .plan import Plan
from .schema import schema_of
from .store import payload_of

THUMBNAIL = 160
"""Longer side of the image in the grid of cards, in pixels."""
FEATURES = 128
"""Numbers that describe an image, and as many its question; see ``features_of``."""


@dataclass(frozen=True)
class Task:
    """A case to be mined.

    position: among those asked for. ordinal: in the case file. path: of its image or video; or ``problem``, a sentence.
    data: what is in that file, for a process that may not see it.
    """

    position: int
    ordinal: int
    case: Case
    path: str = ""
    problem: str | None = None
    data: bytes | None = None


@dataclass(frozen=True)
class Mined:
    """A case that was mined.

    payload: see ``store.payload_of``. seconds: what it took. rows: how many it has. media: its image or video and the
    SHA-256 of that file, None where there is none that could be read.
    """

    position: int
    payload: bytes
    seconds: float
    rows: int
    media: tuple[str, str] | None = None


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
        return _refused(plan, task, str(error))
    rows, kept = answering.rows()
    add_case_columns(rows, kept, answering.right)
    return answering.case_row(rows), rows


def refused(plan: Plan, task: Task, why: str) -> Mined:
    """A case that could not be mined: every row says why."""
    case, rows = _refused(plan, task, why)
    return Mined(task.position, payload_of(case, rows), 0.0, len(rows))


def _refused(plan: Plan, task: Task, why: str) -> tuple[dict[str, Any], list[Row]]:
    rows = [_failed(task, plan, chosen, budget, why) for chosen, budget in _cells(plan)]
    return _case_columns(task, plan) | {"error": why}, rows


def _cells(plan: Plan) -> list[tuple[ChosenMethod, int]]:
    return [(chosen, budget) for chosen in plan.methods for budget in plan.budgets]


def _case_columns(task: Task, plan: Plan) -> dict[str, Any]:
    """What the case file says of it."""
    case = task.case
    return {
        **dict.fromkeys(schema_of("cases").names),
        "case_id": case.id,
        "ordinal": task.ordinal,
        "question": case.question,
        "answers": list(case.answers),
        "metric": case.metric,
        "family": case.family,
        "split": case.split,
        "image": case.image,
        "video": case.video,
        "evidence": [list(box) for box in case.evidence],
        "evidence_frames": list(case.evidence_frames),
        "others": json.dumps(dict(case.others), ensure_ascii=False) if case.others else None,
        "model": plan.model_id,
        "warnings": [],
    }


def _row_columns(task: Task, plan: Plan, chosen: ChosenMethod, budget: int, seed: int) -> Row:
    """What was asked for."""
    return {
        **dict.fromkeys(schema_of("rows").names),
        "case_id": task.case.id,
        "ordinal": task.ordinal,
        "method": chosen.requested.key,
        "method_id": chosen.pruner.id,
        "params": json.dumps(chosen.requested.params, sort_keys=True),
        "kind": chosen.pruner.family,
        "budget": budget,
        "budget_as": plan.budget_as,
        "seed": seed,
        "warnings": [],
    }


def _failed(task: Task, plan: Plan, chosen: ChosenMethod, budget: int, why: str) -> Row:
    row = _row_columns(task, plan, chosen, budget, plan.seeds[0])
    return row | {"outcome": "error", "error": why}


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
        for chosen, budget in _cells(self.plan):
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
            return _failed(self.task, self.plan, chosen, budget, str(error)), None, False
        kept = stages[-1].kept if stages else list(range(job.grid.n_tokens))
        row = _row_columns(self.task, self.plan, chosen, budget, seed)
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
        return _case_columns(self.task, self.plan) | {
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
    for chosen, budget in _cells(plan):
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


def thumbnail(media: InputImage | Video) -> bytes:
    """The image, or the first frame, as a small JPEG without any metadata."""
    image = media.frames[0] if isinstance(media, Video) else media.image
    small = image.convert("RGB").copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC)
    sink = io.BytesIO()
    small.save(sink, "JPEG", quality=80)
    return sink.getvalue()


def features_of(prompt: Prompt) -> NDArray[np.float16]:
    """What the model sees and reads, in 256 numbers: the mean of the visual tokens as they enter the LLM, and the mean
    of the text's embeddings behind them.

    Each is projected randomly (the same way for every case and model of that width) to 128 numbers, where it is wider,
    and has length 1. Shape: ``(256,)``.
    """
    visual = prompt.visual_mask[0]
    behind = torch.zeros_like(visual)
    behind[int(visual.nonzero().max()) + 1 :] = True
    parts = []
    for mask in (visual, behind):
        mean = prompt.inputs_embeds[0, mask.to(prompt.inputs_embeds.device)].float().mean(dim=0).cpu().double().numpy()
        mean = np.nan_to_num(mean)
        if len(mean) > FEATURES:
            mean = mean @ _projection(len(mean))
        length = float(np.linalg.norm(mean))
        parts.append(np.pad(mean / (length or 1.0), (0, max(0, FEATURES - len(mean)))))
    return np.concatenate(parts).astype(np.float16)


_PROJECTIONS: dict[int, NDArray[np.float64]] = {}


def _projection(width: int) -> NDArray[np.float64]:
    """Shape: ``(width, FEATURES)``, independent normal numbers."""
    if width not in _PROJECTIONS:
        _PROJECTIONS[width] = np.random.Generator(np.random.PCG64(0)).standard_normal((width, FEATURES))
    return _PROJECTIONS[width]
