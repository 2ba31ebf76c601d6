"""How much the unpruned answer depends on each part of the image, before one LLM layer after another.

Source: "When Token Pruning is Worse than Random" (arXiv 2512.07580), which calls the layer beyond which it no longer
does the information horizon.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor

from ..engine import ForcedAnswer, Prompt, encode, selector
from ..errors import BadInput, Stopped, knows_its_keywords
from ..horizon import HorizonLayer, InformationHorizon, Measure
from ..media.video import Video
from ..models.loading import VisionLanguageModel
from ..models.prompts import model_inputs
from ..names import Box
from ..pruners import get
from ..pruners.sampling import random_rows
from ..records import TokenGrid
from ..short import passed
from ..types import Budget, Selection, Signals, Stage
from .blocks import Blocks, copies_at_once
from .compare import compare
from .execute import planning_info
from .inputs import Source, check_from_zero, check_whole, open_media

DEFAULT_LAYERS = 6
"""Layers that are measured where nobody chose, evenly over the model, the first and the last among them."""
ANYWHERE = 8
"""Sets of random tokens that are left out for comparison with the blocks."""
MOST_SEEDS = 64
_CALIBRATING, _TRIES = 4, 3


@knows_its_keywords
def information_horizon(
    vlm: VisionLanguageModel,
    image: Source,
    question: str,
    *,
    layers: Sequence[int] | None = None,
    block: int = 2,
    measure: Measure = "removal",
    budget: int | None = None,
    seeds: int = 5,
    seed: int = 0,
    seconds: float | None = 60.0,
    least: float = 0.01,
    max_new_tokens: int = 32,
    expected: str | None = None,
    evidence: Sequence[Box] = (),
    evidence_frames: Sequence[int] = (),
    frames: int | None = None,
    stop: threading.Event | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> InformationHorizon:
    """Measure from which LLM layer on which part of the image still matters to the unpruned answer.

    The answer is found once and then scored again, token by token as it was given, while a block of visual tokens is
    left out from a layer on. Everything before the layer is shared. Positions of other tokens stay as they are.

    Args:
        vlm: The model, from ``tokviz.load`` or ``tokviz.wrap``.
        image: An image or video, in any form that ``compare`` accepts.
        question: A single question, up to 2,000 characters.
        layers: LLM layers (0-based) before which tokens are left out; None for six, evenly from the first to the last.
        block: Side in tokens of the square blocks that are left out together; 1 for single tokens.
        measure: ``removal``: by how much the answer's log-probability falls without the block, as the paper describes
            it. ``alone``: by how much it rises when the block is all that is left of the image, as its code has it.
        budget: Tokens that the random control leaves from each layer on; None for 64, or all where there are fewer.
        seeds: How many times the random control is drawn.
        seed: The first seed; the others follow it.
        seconds: How long measuring may take. Blocks are made larger where they would take longer, and the result says
            so; what has been reached then is kept. None for no limit, with the same result every time.
        least: Changes of fewer nats count as none (0.01 is one percent of the answer's probability).
        max_new_tokens: The longest answer.
        expected: The right answer, for the figure.
        evidence: Boxes in pixels around what answers the question, for the figure.
        evidence_frames: For a video, the sampled frame of each box, from 0.
        frames: For a video, how many frames to sample.
        stop: An event that ends the measurement when it is set; the layers finished so far are returned.
        on_progress: Called with the share of the work that is done, 0 to 1.

    Raises:
        BadInput: If an argument cannot be used; the message is one sentence.

    Example:
        >>> found = tokviz.information_horizon(vlm, "scene.png", "what color is the star?", layers=[0, 2, 4])
        >>> found.horizon, found.layers[0].largest
    """
    stop = stop or threading.Event()
    _check(block, measure, seeds, seconds, least)
    media = open_media(vlm, image, frames)
    comparison = compare(
        vlm, media, question, [], 1, seed=seed, max_new_tokens=max_new_tokens, expected=expected, evidence=evidence,
        evidence_frames=evidence_frames, stop=stop,
    )  # fmt: skip
    grid, n_layers = comparison.grid, vlm.record.n_layers
    budget = min(64, grid.n_tokens) if budget is None else budget
    check_whole("The budget", budget, 1, grid.n_tokens, f" (there are {grid.n_tokens} visual tokens)")
    numbers = _layers(layers, n_layers)
    if not comparison.runs:
        raise BadInput("Stopped before the answer was there.")
    ids = [token.id for token in comparison.runs[0].answer_tokens]
    prompt = _encoded(vlm, media if isinstance(media, Video) else media.image, comparison.request.question)
    started = time.perf_counter()
    forced = ForcedAnswer(vlm.model, vlm.family, prompt, ids, numbers)
    blocks = Blocks(grid)
    work = _Work(vlm, forced, grid, measure, budget, range(seed, seed + seeds), stop, started, seconds)
    side, notes = work.side(blocks, block, numbers, n_layers)
    found, left_out = work.measured(blocks.of(side), side, numbers, on_progress or (lambda _share: None))
    if left_out:
        why = "it was stopped" if stop.is_set() else f"the {seconds:g} seconds were over"
        notes.append(f"Layers {', '.join(map(str, left_out))} were not measured: {why}.")
    return InformationHorizon(
        comparison=comparison,
        logprob=float(forced.logprobs.sum()),
        measure=measure,
        block=side,
        block_asked=block,
        n_blocks=len(blocks.of(side)),
        least=least,
        budget=budget,
        seeds=list(work.seeds),
        layers=found,
        seconds=time.perf_counter() - started,
        seconds_allowed=seconds,
        notes=notes,
    )


def _check(block: object, measure: object, seeds: object, seconds: object, least: object) -> None:
    check_whole("The block", block, 1, 1024)
    check_whole("The number of seeds", seeds, 1, MOST_SEEDS)
    if measure not in ("removal", "alone"):
        raise BadInput(f"measure must be removal or alone, not {passed(measure)}.")
    if seconds is not None:
        check_from_zero("seconds", seconds)
    check_from_zero("least", least)


def _layers(asked: Sequence[int] | None, n_layers: int) -> list[int]:
    if asked is None:
        count = min(DEFAULT_LAYERS, n_layers)
        return sorted({round(at * (n_layers - 1) / max(count - 1, 1)) for at in range(count)})
    numbers = list(asked) if isinstance(asked, Sequence) and not isinstance(asked, str) else []
    if not numbers:
        raise BadInput(f"layers must be a list of numbers of layers, not {passed(asked)}.")
    for number in numbers:
        check_whole("A layer", number, 0, n_layers - 1, f" (this model has {n_layers})")
    return sorted({*numbers})


@torch.inference_mode()
def _encoded(vlm: VisionLanguageModel, shown: Any, question: str) -> Prompt:
    inputs, words = model_inputs(vlm, shown, question)
    return encode(vlm.model, vlm.family, inputs, (), question_mask=words)


def _unused(*_: Any) -> Selection:
    raise RuntimeError("What is left out is not this stage's decision.")


@dataclass
class _Work:
    """One measurement: what is scored, and how long it may take."""

    vlm: VisionLanguageModel
    forced: ForcedAnswer
    grid: TokenGrid
    measure: Measure
    budget: int
    seeds: range
    stop: threading.Event
    started: float
    seconds: float | None

    @property
    def copies(self) -> int:
        """How many sequences go on side by side."""
        return copies_at_once(self.forced.length)

    def left(self, tokens: Sequence[int]) -> Tensor:
        """What is left where these tokens are the block. Shape: ``(K,)`` int64, ascending."""
        inside = torch.zeros(self.grid.n_tokens, dtype=torch.bool)
        inside[list(tokens)] = True
        return (~inside if self.measure == "removal" else inside).nonzero()[:, 0]

    def scores(self, layer: int, kept: Sequence[Tensor]) -> list[float]:
        """Log-probabilities of the answer when only these tokens are left from ``layer`` on, in few large batches."""
        stage = Stage(layer, None, _unused, positions="keep", title="Information horizon")
        found: list[float] = []
        for start in range(0, len(kept), self.copies):
            if self.stop.is_set():
                raise Stopped
            part = kept[start : start + self.copies]

            def select(_stage: Stage, _signals: Signals, row: int, part: Sequence[Tensor] = part) -> Selection:
                return Selection(kept=part[row])

            found += self.forced.scores(stage, select, len(part)).double().tolist()
        return found

    def random(self, layer: int) -> list[float]:
        """The answer's log-probability after ``random_at`` before this layer, for every seed."""
        info = planning_info(self.vlm, self.grid)
        planned = get("random_at").schedule(Budget(self.budget, "final"), info, {"layer": max(layer, 1)})
        stage = replace(planned.stages[0], site=layer)  # 0 asks that method for half of the layers
        return [float(self.forced.scores(stage, selector({}, seed), 1)) for seed in self.seeds]

    # -- how coarse ----------------------------------------------------------------------------------------------------

    def side(self, blocks: Blocks, asked: int, layers: Sequence[int], n_layers: int) -> tuple[int, list[str]]:
        """The smallest side of a block, from the one asked for, that is measured in time; and what to say of it."""
        if self.seconds is None:
            return min(asked, blocks.largest), []
        some = [self.left(tokens) for tokens in blocks.of(asked)[: min(_CALIBRATING, self.copies)]]
        clocks = [time.perf_counter()]
        for _ in range(_TRIES):  # the best of a few: the first is slow, and others may use the machine too
            self.scores(layers[0], some)
            clocks.append(time.perf_counter())
        each = min(later - sooner for sooner, later in pairwise(clocks)) / len(some) / (n_layers - layers[0])
        depth = sum(n_layers - layer for layer in layers)
        left = self.seconds - (time.perf_counter() - self.started)
        fixed = ANYWHERE + len(self.seeds) + 2 + _CALIBRATING

        def needs(side: int) -> float:
            return each * depth * (len(blocks.of(side)) + fixed)

        side = min(asked, blocks.largest)
        while needs(side) > left and side < blocks.largest:
            side += 1
        if side == min(asked, blocks.largest):
            return side, []
        return side, [
            f"Blocks have {side} x {side} tokens instead of {asked} x {asked}, which would have taken about "
            f"{needs(asked):.0f} seconds; {self.seconds:g} are allowed. Fewer layers leave time for smaller blocks."
        ]

    # -- measuring -----------------------------------------------------------------------------------------------------

    def measured(
        self, blocks: Sequence[Sequence[int]], side: int, layers: Sequence[int], tell: Callable[[float], None]
    ) -> tuple[list[HorizonLayer], list[int]]:
        """Every layer, the ones in the middle last; and those that there was no time for."""
        found: dict[int, HorizonLayer] = {}
        ends = sorted(layers, key=lambda layer: (layer not in (layers[0], layers[-1]), layer))
        for number, layer in enumerate(ends):
            over = self.seconds is not None and time.perf_counter() - self.started > max(self.seconds, 0)
            if self.stop.is_set() or (over and found):
                break
            try:
                found[layer] = self._layer(layer, blocks, side)
            except Stopped:
                break
            tell((number + 1) / len(ends))
        return [found[layer] for layer in sorted(found)], [layer for layer in layers if layer not in found]

    def _layer(self, layer: int, blocks: Sequence[Sequence[int]], side: int) -> HorizonLayer:
        every, nothing = torch.arange(self.grid.n_tokens), torch.arange(0)
        whole, withdrawn = self.scores(layer, [every])[0], self.scores(layer, [nothing])[0]
        reference = whole if self.measure == "removal" else withdrawn
        sign = -1.0 if self.measure == "removal" else 1.0

        def changes(sets: Sequence[Sequence[int]]) -> list[float]:
            return [sign * (score - reference) for score in self.scores(layer, [self.left(tokens) for tokens in sets])]

        per_block = changes(blocks)
        change: list[float | None] = [None] * self.grid.n_tokens
        for tokens, value in zip(blocks, per_block, strict=True):
            for token in tokens:
                change[token] = value
        # The same numbers once more in other company: a batch of few, padded to its longest copy.
        few = [self.left(tokens) for tokens in blocks[: min(2, self.copies)]]
        again = self.scores(layer, [every, nothing, *few])
        before = [whole, withdrawn, *(reference + sign * value for value in per_block[: len(few)])]
        differences = [abs(one - other) for one, other in zip(again, before, strict=True)]
        return HorizonLayer(
            layer=layer,
            change=change,
            blocks=per_block,
            anywhere=changes(self._anywhere(min(side * side, max(map(len, blocks))))),
            noise=max(*differences, abs(whole - float(self.forced.logprobs.sum()))),
            random=self.random(layer),
            withdrawn=withdrawn,
        )

    def _anywhere(self, count: int) -> list[list[int]]:
        """Random sets of patches, the same before every layer."""
        patches = torch.tensor([token for token, row in enumerate(self.grid.row) if row >= 0])
        generator = Generator().manual_seed(self.seeds[0])
        device = torch.device("cpu")
        return [
            patches[random_rows(len(patches), count, generator, device)].sort().values.tolist() for _ in range(ANYWHERE)
        ]
