"""Which dropped part of the image, given back, restores an answer; with a random control beside it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from ..comparison import Comparison
from ..engine import ForcedAnswer, Prompt, encode
from ..errors import BadInput, Stopped, knows_its_keywords
from ..media.images import InputImage
from ..media.video import Video
from ..models.loading import VisionLanguageModel
from ..models.prompts import model_inputs
from ..names import Box, BudgetMeaning
from ..pruners.sampling import random_rows
from ..records import Run, TokenGrid
from ..rescues import Rescue, RescueBlock
from ..short import passed
from ..types import Selection, Signals, Stage
from .blocks import Blocks, copies_at_once
from .compare import compare
from .edits import Kept, ask_with, dropping_stages, edited_stages, media_of, rows_of, run_named
from .inputs import Source, check_whole, open_media
from .metrics import normalised
from .requests import MethodLike, check_model

MOST_SEEDS = 64
_CALIBRATING, _TRIES = 4, 3
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
    work = _Work(vlm, prompt, ids, comparison.grid, kept, range(seed, seed + seeds), stop, began, seconds)
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
    for name, value in (("seconds", seconds), ("least", least)):
        if name == "seconds" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise BadInput(f"{name} must be a number from 0, not {passed(value)}.")


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


def _layer(stage: Kept) -> int:
    """The first layer that sees fewer tokens; dropping before the LLM is dropping before layer 0."""
    return stage.site if isinstance(stage.site, int) else 0


def _unused(*_: Any) -> Selection:
    raise RuntimeError("What is given back is not this stage's decision.")


@dataclass
class _Measured:
    """What came of it; see ``Rescue``."""

    base: float
    side: int
    n_blocks: int
    blocks: list[RescueBlock] = field(default_factory=list)
    control: list[RescueBlock] = field(default_factory=list)
    noise: float = 0.0
    notes: list[str] = field(default_factory=list)


@dataclass
class _Work:
    """One measurement: what is scored, what was kept, and how long it may take."""

    vlm: VisionLanguageModel
    prompt: Prompt
    ids: list[int]
    grid: TokenGrid
    kept: list[Kept]
    seeds: range
    stop: threading.Event
    began: float
    seconds: float | None

    def __post_init__(self) -> None:
        self.forced = self._forced(self.ids)
        self.stages = tuple(Stage(_layer(one), None, _unused, (), one.positions, "Rescue") for one in self.kept)
        self.dropped = sorted({token for token, row in enumerate(self.grid.row) if row >= 0} - {*self.kept[-1].tokens})

    def _forced(self, ids: Sequence[int]) -> ForcedAnswer:
        return ForcedAnswer(self.vlm.model, self.vlm.family, self.prompt, ids, [_layer(self.kept[0])])

    @property
    def copies(self) -> int:
        """How many sequences go on side by side."""
        logits = len(self.ids) * int(self.vlm.text_config.vocab_size)
        return copies_at_once(self.forced.length, logits)

    def scores(self, given: Sequence[Sequence[int]], forced: ForcedAnswer | None = None) -> list[tuple[float, bool]]:
        """For each set of tokens given back, the answer's log-probability and whether decoding would give it.

        Raises Stopped.
        """
        found: list[tuple[float, bool]] = []
        for start in range(0, len(given), self.copies):
            if self.stop.is_set():
                raise Stopped
            part = given[start : start + self.copies]
            rows = [rows_of(edited_stages(self.kept, tokens), self.grid.n_tokens) for tokens in part]

            def select(stage: Stage, _signals: Signals, row: int, rows: Sequence[Sequence[Tensor]] = rows) -> Selection:
                number = next(number for number, known in enumerate(self.stages) if known is stage)
                return Selection(kept=rows[row][number].to(_signals.features.device))

            scores, greedy = (forced or self.forced).judged(self.stages, select, len(part))
            found += list(zip(scores.double().tolist(), greedy.tolist(), strict=True))
        return found

    def mismatch(self, run: Run) -> float:
        """By how much the run's own answer is scored otherwise with its kept tokens than in the run, in nats."""
        own = [token.logprob for token in run.answer_tokens if token.logprob is not None]
        if not own or len(own) < len(run.answer_tokens) or self.stop.is_set():
            return 0.0
        forced = self._forced([token.id for token in run.answer_tokens])
        return abs(self.scores([()], forced)[0][0] - math.fsum(own))

    # -- what is given back --------------------------------------------------------------------------------------------

    def blocks(self, side: int) -> list[list[int]]:
        """The dropped patches of each block that has any."""
        dropped = set(self.dropped)
        blocks = ([token for token in block if token in dropped] for block in Blocks(self.grid).of(side))
        return [block for block in blocks if block]

    def control(self, blocks: Sequence[Sequence[int]]) -> list[list[int]]:
        """Random dropped patches: for every number of them that a block has, a set per seed, ascending."""
        patches, found = torch.tensor(self.dropped), []
        for size in sorted({len(block) for block in blocks}):
            for seed in self.seeds:
                drawn = random_rows(len(patches), size, Generator().manual_seed(seed), torch.device("cpu"))
                found.append(patches[drawn].sort().values.tolist())
        return found

    def side(self, asked: int) -> tuple[int, list[str]]:
        """The smallest side of a block, from the one asked for, that is measured in time; and what to say of it."""
        largest = Blocks(self.grid).largest
        side = min(asked, largest)
        if self.seconds is None:
            return side, []
        some = [(), *self.blocks(side)][: min(_CALIBRATING, self.copies)]
        clocks = [time.perf_counter()]
        for _ in range(_TRIES):  # the best of a few: the first is slow, and others may use the machine too
            self.scores(some)
            clocks.append(time.perf_counter())
        each = min(later - sooner for sooner, later in pairwise(clocks)) / len(some)
        left = self.seconds - (time.perf_counter() - self.began)

        def needs(side: int) -> float:
            blocks = self.blocks(side)
            return each * (len(blocks) + len({len(block) for block in blocks}) * len(self.seeds) + _CALIBRATING)

        asked_for = needs(side)
        while needs(side) > left and side < largest:
            side += 1
        if side == min(asked, largest):
            return side, []
        return side, [
            f"Blocks have {side} x {side} tokens instead of {asked} x {asked}, which would have taken about "
            f"{asked_for:.0f} seconds; {self.seconds:g} are allowed."
        ]

    # -- measuring -----------------------------------------------------------------------------------------------------

    def measured(self, asked: int, tell: Callable[[float], None]) -> _Measured:
        """The random control, then block after block, as far as time goes. Raises BadInput when stopped at once."""
        try:
            side, notes = self.side(asked)
            every = torch.arange(self.grid.n_tokens).tolist()
            (base, _), (whole, _) = self.scores([(), every])
        except Stopped as error:
            raise BadInput("Stopped before anything was measured.") from error
        blocks = self.blocks(side)
        sets = [*self.control(blocks), *blocks]
        found = _Measured(base, side, len(blocks), notes=notes)
        scored, why = self._until_over(sets, tell)
        made = [
            RescueBlock(tokens=tokens, gain=score - base, restores=greedy)
            for tokens, (score, greedy) in zip(sets, scored, strict=False)
        ]
        n_control = len(sets) - len(blocks)
        found.control, found.blocks = made[:n_control], made[n_control:]
        if why:
            notes.append(f"{len(blocks) - len(found.blocks)} of {len(blocks)} blocks were not measured: {why}.")
        # The same numbers once more in other company: a batch of few, padded to its longest copy.
        few = [(), every, *(one.tokens for one in found.blocks[:2])]
        before = [base, whole, *(base + one.gain for one in found.blocks[:2])]
        again = before if self.stop.is_set() else [score for score, _ in self.scores(few)]
        differences = [abs(one - other) for one, other in zip(again, before, strict=True)]
        found.noise = max(*differences, abs(whole - float(self.forced.logprobs.sum())))
        return found

    def _until_over(self, sets: Sequence[Sequence[int]], tell: Callable[[float], None]) -> tuple[Any, str]:
        """The scores of as many sets as there is time for, and why there are not more; at least the first are made."""
        scored: list[tuple[float, bool]] = []
        for start in range(0, len(sets), self.copies):
            over = self.seconds is not None and time.perf_counter() - self.began > self.seconds
            if over and scored:
                return scored, f"the {self.seconds:g} seconds were over"
            try:
                scored += self.scores(sets[start : start + self.copies])
            except Stopped:
                return scored, "it was stopped"
            tell(len(scored) / len(sets))
        return scored, ""
