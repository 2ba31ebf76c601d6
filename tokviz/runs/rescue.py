"""Which dropped part of the image, given back, restores an answer; with a random control beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch

from ..comparison import Comparison
from ..engine import Prompt, encode
from ..errors import BadInput, knows_its_keywords
from ..media.images import InputImage
from ..media.video import Video
from ..models.loading import VisionLanguageModel
from ..models.prompts import model_inputs
from ..names import Box, BudgetMeaning
from ..records import Run
from ..rescues import Rescue
from ..short import passed
from .compare import compare
from .edits import ask_with, dropping_stages, media_of, run_named
from .giving_back import GivingBack
from .inputs import Source, check_from_zero, check_whole, open_media
from .metrics import normalised
from .requests import MethodLike, check_model

MOST_SEEDS = 64
_DIFFERS = 1e-3
"""Nats beyond the noise from which on kept tokens alone are said to score otherwise than the method's own run."""


@knows_its_keywords
def rescue(
    vlm: VisionLanguageModel,
    image: Source | None = None,
    question: str | None = None,
    method: MethodLike | None = None,
    budget: int = 64,
    *,
    comparison: Comparison | None = None,
    block: int = 2,
    answer: Literal["unpruned", "expected"] = "unpruned",
    seeds: int = 10,
    seed: int = 0,
    seconds: float | None = 60.0,
    least: float = 0.01,
    budget_as: BudgetMeaning = "published",
    params: Mapping[str, Mapping[str, Any]] | None = None,
    max_new_tokens: int = 32,
    expected: str | None = None,
    evidence: Sequence[Box] = (),
    evidence_frames: Sequence[int] = (),
    frames: int | None = None,
    stop: threading.Event | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Rescue:
    """Find the dropped part of an image that makes an answer likely again once it is given back.

    Each block of dropped patches is given back alone, beside what the method kept: its tokens survive every stage of
    the method. Beside the blocks stand as many dropped patches from anywhere, drawn at random.

    Args:
        vlm: The model, from ``tokviz.load`` or ``tokviz.wrap``.
        image: An image or video, in any form that ``compare`` accepts. None for that of ``comparison``, if the session
            holds it exactly.
        question: A single question; None for that of ``comparison``.
        method: What pruned: a method as for ``compare``; with ``comparison``, the key of one of its runs.
        budget: Visual tokens that the method keeps.
        comparison: The comparison whose run is to be rescued; its settings hold, and ``budget``, ``budget_as``,
            ``params``, ``max_new_tokens``, ``expected`` and ``evidence`` are not used.
        block: Side in tokens of the square blocks that are given back together; 1 for single tokens.
        answer: Whose log-probability is to rise: the unpruned answer or the expected one.
        seeds: How many random sets are drawn of each size.
        seed: The first seed of these and of the method; the others follow it.
        seconds: How long measuring may take. Blocks are made larger where they would take longer, and the result says
            so. None for no limit, with the same result every time.
        least: Gains of fewer nats count as none (0.01 is one percent of the answer's probability).
        budget_as: What the budget counts; see ``compare``.
        params: Parameters by method, ``{method: {name: value}}``.
        max_new_tokens: The longest answer.
        expected: The right answer, if it is known.
        evidence: Boxes in pixels around what answers the question, for the figure and for ``oracle``.
        evidence_frames: For a video, the sampled frame of each box, from 0.
        frames: For a video, how many frames to sample.
        stop: An event that ends it early when it is set; the blocks measured so far are returned.
        on_progress: Called with the share of the work that is done, 0 to 1.

    Raises:
        BadInput: If an argument cannot be used, the method cannot run, or it drops nothing; the message is one
            sentence.

    Example:
        >>> found = tokviz.rescue(vlm, "scene.png", "what color is the star?", "fastv", budget=32, block=2)
        >>> found.best.tokens, found.best.gain, found.comparison[-1].answer
    """
    check_model(vlm, "rescue")
    _check(block, seeds, seed, seconds, least, answer)
    stop = stop or threading.Event()
    if comparison is None:
        media, comparison, run = _compared(
            vlm, image, question, method, frames, budget=budget, budget_as=budget_as, params=params, seed=seed,
            max_new_tokens=max_new_tokens, expected=expected, evidence=evidence, evidence_frames=evidence_frames,
            stop=stop,
        )  # fmt: skip
    else:
        if not isinstance(method, str):
            raise BadInput(f"method is the key of the run to rescue, not {passed(method)}.")
        run = run_named(comparison, method)
        media = media_of(vlm, image, question, comparison, frames)
        comparison = comparison.model_copy(update=_two_runs(comparison, run))
    ids, text = _scored(vlm, comparison, answer)
    kept = dropping_stages(run, comparison.grid.n_tokens)
    if not kept or len(kept[-1].tokens) == comparison.grid.n_tokens:
        raise BadInput(f"{run.label} drops nothing here, so that nothing can be given back; ask for a smaller budget.")
    began = time.perf_counter()
    prompt = _encoded(vlm, media, comparison.request.question)
    work = GivingBack(vlm, prompt, ids, comparison.grid, kept, range(seed, seed + seeds), stop, began, seconds)
    measured = work.measured(block, on_progress or (lambda _share: None))
    mismatch = work.mismatch(run)
    if mismatch > _DIFFERS:
        measured.notes.append(
            f"Gains are over the kept tokens of {run.label} as they are; the method does more than drop tokens, and "
            f"its own answer is scored {mismatch:.2g} nats otherwise in that way."
        )
    found = Rescue(
        comparison=comparison,
        run=run.key,
        scored=answer,
        answer=text,
        logprob=float(work.forced.logprobs.sum()),
        logprob_kept=measured.base,
        mismatch=mismatch,
        block=measured.side,
        block_asked=block,
        n_blocks=measured.n_blocks,
        blocks=measured.blocks,
        control=measured.control,
        noise=measured.noise,
        least=least,
        seeds=list(work.seeds),
        seconds=time.perf_counter() - began,
        seconds_allowed=seconds,
        notes=measured.notes,
    )
    return _with_best(vlm, media, run, found, stop)


def _check(block: object, seeds: object, seed: object, seconds: object, least: object, answer: object) -> None:
    check_whole("The block", block, 1, 1024)
    check_whole("The number of seeds", seeds, 1, MOST_SEEDS)
    check_whole("The seed", seed, 0, 2**63 - 1 - MOST_SEEDS)
    if answer not in ("unpruned", "expected"):
        raise BadInput(f"answer must be unpruned or expected, not {passed(answer)}.")
    if seconds is not None:
        check_from_zero("seconds", seconds)
    check_from_zero("least", least)


def _compared(
    vlm: VisionLanguageModel,
    image: Source | None,
    question: str | None,
    method: MethodLike | None,
    frames: int | None,
    **options: Any,
) -> tuple[InputImage | Video, Comparison, Run]:
    """The comparison of the unpruned run with the method. Raises BadInput, also where the method cannot run."""
    if image is None or question is None or method is None:
        raise BadInput("Give an image, a question and a method, or a comparison and the key of one of its runs.")
    media = open_media(vlm, image, frames)
    comparison = compare(vlm, media, question, [method], **options)
    if len(comparison.runs) < 2:
        if options["stop"].is_set():
            raise BadInput("Stopped before the answers were there.")
        raise BadInput("The unpruned run drops nothing; name a method that prunes.")
    return media, comparison, comparison.runs[1]


def _two_runs(comparison: Comparison, run: Run) -> dict[str, Any]:
    """A comparison of the unpruned run and this one alone."""
    if run is comparison.runs[0]:
        raise BadInput("The unpruned run drops nothing; name a run that prunes.")
    asked = [one for one in comparison.request.methods if one.key in (comparison.runs[0].key, run.key)]
    request = comparison.request.model_copy(update={"methods": asked})
    return {"request": request, "runs": [comparison.runs[0], run]}


def _scored(vlm: VisionLanguageModel, comparison: Comparison, answer: str) -> tuple[list[int], str]:
    """The ids of the answer that is to rise, with what ends it, and its text. Raises BadInput where there is none."""
    unpruned, expected = comparison.runs[0], comparison.request.expected_answer
    ids = [token.id for token in unpruned.answer_tokens]
    if answer == "unpruned":
        return ids, unpruned.answer
    if expected is None:
        raise BadInput("There is no expected answer to score: give expected=..., or score the unpruned one.")
    if normalised(expected) == normalised(unpruned.answer):  # in the words, and the tokens, that the model uses
        return ids, unpruned.answer
    ids = list(vlm.processor.tokenizer(expected, add_special_tokens=False)["input_ids"])
    ends = vlm.model.generation_config.eos_token_id
    end = ends[0] if isinstance(ends, list) else ends
    return [*ids, *([] if end is None else [end])], expected


@torch.inference_mode()
def _encoded(vlm: VisionLanguageModel, media: InputImage | Video, question: str) -> Prompt:
    inputs, words = model_inputs(vlm, media if isinstance(media, Video) else media.image, question)
    return encode(vlm.model, vlm.family, inputs, (), question_mask=words)


def _with_best(
    vlm: VisionLanguageModel, media: InputImage | Video, run: Run, found: Rescue, stop: threading.Event
) -> Rescue:
    """Run the best block as a lane of its own, where there is one."""
    best = found.best
    if best is None or stop.is_set():
        return found
    try:
        kept = {*(run.kept or ()), *best.tokens}
        more = ask_with(vlm, media, None, kept, of=run, into=found.comparison, stop=stop)
    except BadInput:
        if not stop.is_set():
            raise
        return found
    return found.model_copy(update={"comparison": more})
