"""Dropped tokens given back to a run, set after set, side by side: what each does to the score of an answer."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor

from ..engine import ForcedAnswer, Prompt
from ..errors import BadInput, Stopped
from ..models.loading import VisionLanguageModel
from ..pruners.sampling import random_rows
from ..records import Run, TokenGrid
from ..rescues import RescueBlock
from ..types import Selection, Signals, Stage
from .blocks import Blocks, copies_at_once
from .edits import Kept, edited_stages, rows_of

_CALIBRATING, _TRIES = 4, 3


def _layer(stage: Kept) -> int:
    """The first layer that sees fewer tokens; dropping before the LLM is dropping before layer 0."""
    return stage.site if isinstance(stage.site, int) else 0


def _unused(*_: Any) -> Selection:
    raise RuntimeError("What is given back is not this stage's decision.")


@dataclass
class Measured:
    """What came of it; see ``Rescue``."""

    base: float
    side: int
    n_blocks: int
    blocks: list[RescueBlock] = field(default_factory=list)
    control: list[RescueBlock] = field(default_factory=list)
    noise: float = 0.0
    notes: list[str] = field(default_factory=list)


@dataclass
class GivingBack:
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

    def measured(self, asked: int, tell: Callable[[float], None]) -> Measured:
        """The random control, then block after block, as far as time goes. Raises BadInput when stopped at once."""
        try:
            side, notes = self.side(asked)
            every = torch.arange(self.grid.n_tokens).tolist()
            (base, _), (whole, _) = self.scores([(), every])
        except Stopped as error:
            raise BadInput("Stopped before anything was measured.") from error
        blocks = self.blocks(side)
        sets = [*self.control(blocks), *blocks]
        found = Measured(base, side, len(blocks), notes=notes)
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
