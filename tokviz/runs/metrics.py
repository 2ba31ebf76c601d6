"""What is measured on finished runs: verdicts on answers, kept tokens per frame, what became of the evidence."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..comparison import Comparison
from ..names import Box
from ..records import Run, StageRecord, Timing, TokenGrid, TokenMap
from ..vqa import alike

VerdictKind = Literal["right", "wrong", "flipped", "recovered", "same", "changed"]
Tone = Literal["good", "bad", "same", "different"]


@dataclass(frozen=True)
class Verdict:
    """How an answer compares, in the words of page, figures, tables and terminal.

    tone: ``good`` and ``bad`` compare with the right answer, ``same`` and ``different`` with the unpruned one.
    sign: the same in one character, for readers who cannot tell colours apart.
    """

    kind: VerdictKind
    tone: Tone
    sign: str
    text: str

    def __str__(self) -> str:
        return f"{self.sign} {self.text}"


_VERDICTS = {
    verdict.kind: verdict
    for verdict in (
        Verdict("right", "good", "✓", "right"),
        Verdict("recovered", "good", "✓", "right, unlike no pruning"),
        Verdict("wrong", "bad", "✗", "wrong"),
        Verdict("flipped", "bad", "✗", "flipped by pruning"),
        Verdict("same", "same", "=", "same as no pruning"),
        Verdict("changed", "different", "≠", "changed by pruning"),
    )
}


def normalised(answer: str) -> str:
    """An answer without case, outer and repeated spaces, and final punctuation."""
    return " ".join(answer.casefold().split()).strip(string.punctuation + " ")


def same_answer(one: str, other: str) -> bool:
    """Whether two answers say the same: as they are but for case, spaces and final punctuation, or as VQA compares.

    VQA's evaluation has "two" for "2", "a dog" for "dog", "isnt" for "isn't". Unlike it, "none" is not the digit 0: a
    question may ask for a digit, and an answer of "none" then says that there is none.
    """
    if normalised(one) == normalised(other):
        return True
    compared = alike(one, none_is_zero=False)
    return compared != "" and compared == alike(other, none_is_zero=False)


def verdict(answer: str, baseline_answer: str, expected: str | None) -> Verdict:
    """Compare an answer with the unpruned model's and, when it is known, with the right one.

    With an expected answer: ``right``; ``flipped`` (unpruned right, this wrong); ``recovered`` (unpruned wrong, this
    right); ``wrong`` (both wrong). Without: ``same`` or ``changed``. Compared by ``same_answer``.
    """
    if expected is None:
        return _VERDICTS["same" if same_answer(answer, baseline_answer) else "changed"]
    baseline_is_right = same_answer(baseline_answer, expected)
    if same_answer(answer, expected):
        return _VERDICTS["right" if baseline_is_right else "recovered"]
    return _VERDICTS["flipped" if baseline_is_right else "wrong"]


def judge(comparison: Comparison, run: Run) -> Verdict | None:
    """Judge a run's answer. None for a run that failed, and where there is nothing to compare it with."""
    if run.error is not None:
        return None
    unpruned, expected = comparison.runs[0], comparison.request.expected_answer
    alone = run is unpruned or unpruned.error is not None
    if alone and expected is None:
        return None
    return verdict(run.answer, run.answer if alone else unpruned.answer, expected)


def timing(samples: Sequence[float], executions: int | None = None) -> Timing:
    """Median of ``samples`` in ms, of so many executions (default: one each); one is a single shot."""
    executions = len(samples) if executions is None else executions
    return Timing(median_ms=median(samples), samples=executions, single_shot=executions == 1)


@dataclass(frozen=True)
class FrameCount:
    """What of one view of a video was kept: ``frames`` that it shows (from 0), patches, tokens that are no patch."""

    frames: tuple[int, ...]
    kept: int
    patches: int
    others_kept: int
    others: int

    @property
    def share(self) -> float:
        """Kept share of the patches, 0 to 1."""
        return self.kept / self.patches if self.patches else 0.0


def kept_per_frame(grid: TokenGrid, kept: Sequence[int] | None) -> list[FrameCount]:
    """Tokens kept of every frame of a video (of frames that became one grid together), in the order of the frames.

    kept: original indices; None when nothing was pruned. Empty for an image.
    """
    there = set(range(grid.n_tokens) if kept is None else kept)
    counts = [[0, 0, 0, 0] for _ in grid.views]
    for token, (view, row) in enumerate(zip(grid.view, grid.row, strict=True)):
        if view < 0:
            continue
        first = 0 if row >= 0 else 2
        counts[view][first] += token in there
        counts[view][first + 1] += 1
    views = [FrameCount(view.frames, *count) for view, count in zip(grid.views, counts, strict=True) if view.frames]
    return sorted(views, key=lambda count: min(count.frames))


def evidence_tokens(grid: TokenGrid, evidence: Sequence[Box], frames: Sequence[int] = ()) -> list[int]:
    """Visual tokens whose patch shares at least a tenth of its area with an evidence box, ascending.

    frames: of a video, the sampled frame that each box lies in; a token shows a box only if its view shows that frame.
    """
    is_video = grid.is_video
    if is_video and len(frames) != len(evidence):
        raise ValueError(f"expected the frame of each of {len(evidence)} boxes, but got {len(frames)} frames")
    if not evidence:
        return []
    tokens = np.array([token for token, box in enumerate(grid.box) if box], dtype=np.int64)
    patches = np.array([box for box in grid.box if box], dtype=np.float64).reshape(-1, 4)
    if not is_video:
        return [int(token) for token in tokens[_shows_any(patches, evidence)]]
    boxes_of = _by_frame(evidence, frames)
    views = np.array(grid.view, dtype=np.int64)[tokens]
    shows = np.zeros(len(tokens), dtype=bool)
    for number, view in enumerate(grid.views):
        boxes = [box for frame in view.frames for box in boxes_of.get(frame, ())]
        if boxes:
            here = np.flatnonzero(views == number)
            shows[here] = _shows_any(patches[here], boxes)
    return [int(token) for token in tokens[shows]]


def _by_frame(evidence: Sequence[Box], frames: Sequence[int]) -> dict[int, list[Box]]:
    """The boxes of each frame that has any."""
    boxes_of: dict[int, list[Box]] = {}
    for box, frame in zip(evidence, frames, strict=True):
        boxes_of.setdefault(frame, []).append(box)
    return boxes_of


def _shows_any(patches: NDArray[np.float64], boxes: Sequence[Box]) -> NDArray[np.bool_]:
    """Which patches share at least a tenth of their area with one of the boxes. Shape: ``(n, 4)`` -> ``(n,)``."""
    shows = np.zeros(len(patches), dtype=bool)
    x0, y0, x1, y1 = patches.T
    with np.errstate(all="ignore"):  # boxes as large as floats can be: what overflows is no tenth of anything
        area = (x1 - x0) * (y1 - y0)
        for box in dict.fromkeys(map(tuple, boxes)):
            width = np.maximum(np.minimum(x1, box[2]) - np.maximum(x0, box[0]), 0)
            height = np.maximum(np.minimum(y1, box[3]) - np.maximum(y0, box[1]), 0)
            shows |= (area > 0) & (width * height / area >= 0.1)
    return shows


def evidence_shares(grid: TokenGrid, evidence: Sequence[Box], frames: Sequence[int] = ()) -> list[float] | None:
    """How much of each token's patch the boxes cover together, 0 to 1; None without boxes. Arguments as above.

    0 for tokens that are no patch, and for patches of padding.
    """
    if not evidence:
        return None
    if grid.is_video and len(frames) != len(evidence):
        raise ValueError(f"expected the frame of each of {len(evidence)} boxes, but got {len(frames)} frames")
    shares, numbers = np.zeros(grid.n_tokens), np.array(grid.view)
    patches = np.array([box or (0.0, 0.0, 0.0, 0.0) for box in grid.box], dtype=np.float64).reshape(-1, 4)
    groups: list[tuple[NDArray[np.int_], list[Box]]] = [(np.arange(grid.n_tokens), list(evidence))]
    if grid.is_video:
        boxes_of = _by_frame(evidence, frames)
        placed = ([box for frame in view.frames for box in boxes_of.get(frame, ())] for view in grid.views)
        groups = [(np.flatnonzero(numbers == number), boxes) for number, boxes in enumerate(placed) if boxes]
    for tokens, boxes in groups:
        shares[tokens] = _covered(patches[tokens], np.array(boxes, dtype=np.float64), grid.image_size)
    return [float(share) for share in shares]


def _covered(patches: NDArray[np.float64], boxes: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """The share of each patch that lies in at least one box. Shape: ``(n, 4)``, ``(b, 4)`` -> ``(n,)``.

    The edges of all boxes cut the image into rectangles, each of which lies in a box as a whole or not at all.
    """
    width, height = size
    boxes = np.clip(boxes, 0.0, [width, height, width, height])
    across, down = np.unique(boxes[:, [0, 2]]), np.unique(boxes[:, [1, 3]])
    inside = np.zeros((len(down) - 1, len(across) - 1), dtype=np.float64)
    for x0, y0, x1, y1 in boxes:
        columns, rows = np.searchsorted(across, [x0, x1]), np.searchsorted(down, [y0, y1])
        inside[rows[0] : rows[1], columns[0] : columns[1]] = 1.0

    def overlaps(low: NDArray[np.float64], high: NDArray[np.float64], cuts: NDArray[np.float64]) -> Any:
        shared = np.minimum(high[:, None], cuts[1:]) - np.maximum(low[:, None], cuts[:-1])
        return np.maximum(shared, 0.0)

    x0, y0, x1, y1 = patches.T
    area = (x1 - x0) * (y1 - y0)
    covered = (overlaps(y0, y1, down) @ inside * overlaps(x0, x1, across)).sum(1)
    shares: NDArray[np.float64] = np.divide(covered, area, out=np.zeros_like(area), where=area > 0)
    return np.clip(shares, 0.0, 1.0)


def evidence_recall(
    grid: TokenGrid, evidence: Sequence[Box], kept: Sequence[int], frames: Sequence[int] = ()
) -> float | None:
    """Share of the evidence tokens that were kept; None when no token shows the evidence. Arguments as above."""
    tokens = evidence_tokens(grid, evidence, frames)
    return len(set(tokens) & set(kept)) / len(tokens) if tokens else None


@dataclass(frozen=True)
class Fates:
    """What became of some tokens, each in one list, in the order given: ``kept`` themselves, ``absorbed`` (merged into
    a token that is alive), or ``lost``."""

    kept: tuple[int, ...]
    absorbed: tuple[int, ...]
    lost: tuple[int, ...]


def carriers(stages: Sequence[StageRecord], n_visual: int) -> list[int]:
    """For every visual token the one that carries it after these stages, itself where it is kept; -1 where it is lost.

    Followed through all merges: what was merged into a token that is dropped later is lost with it. That a dropped
    token has a share in a summary token of everything that was dropped (``StageRecord.n_extra``) carries it nowhere.
    """
    carrier = list(range(n_visual))
    for stage in stages:
        after = [-1] * n_visual if stage.assignment is None else list(stage.assignment)
        alive = set(stage.kept)
        for token in stage.kept:
            after[token] = token
        after = [token if token in alive else -1 for token in after]
        carrier = [-1 if token < 0 else after[token] for token in carrier]
    return carrier


def fates(tokens: Sequence[int], stages: Sequence[StageRecord], n_visual: int) -> Fates:
    """Which of ``tokens`` these stages of a run kept, merged into kept ones, or lost. See ``carriers``."""
    carrier = carriers(stages, n_visual)
    return Fates(
        kept=tuple(token for token in tokens if carrier[token] == token),
        absorbed=tuple(token for token in tokens if carrier[token] not in (token, -1)),
        lost=tuple(token for token in tokens if carrier[token] == -1),
    )


def absorbed_into(tokens: Sequence[int], stages: Sequence[StageRecord], n_visual: int) -> dict[int, int]:
    """For each of ``tokens`` that was merged into another one, the kept token that carries it now. See ``carriers``."""
    carrier = carriers(stages, n_visual)
    return {token: carrier[token] for token in tokens if carrier[token] not in (token, -1)}


@dataclass(frozen=True)
class Reach:
    """How far some tokens lie from what was kept, in patches: the mean and the largest distance.

    apart: how many of them lie where nothing was kept at all (another frame, or another level of a tiled image); they
    have no distance and are in neither number.
    """

    mean: float | None
    largest: float | None
    apart: int


_FEW_PAIRS, _MOST_PAIRS = 2**20, 2**26
"""Pairs of tokens up to which each is measured where the grid would do, and where it would not."""


def nearest_kept(grid: TokenGrid, kept: Sequence[int]) -> list[float | None]:
    """How far the nearest kept patch is from each token, in patches: 0 for kept ones, 1 for a direct neighbour.

    Between the centres of patches, in a straight line (a diagonal neighbour is at 1.41). Patches of one level of one
    image only: crops lie side by side, but the whole image in front of them is a level of its own, as is each frame of
    a video. None for tokens that are no patch, where nothing of a token's level was kept, and where a level has so many
    tokens, without being a full grid, that measuring would take seconds.
    """
    row, col, view = (np.array(numbers, dtype=np.int64) for numbers in (grid.row, grid.col, grid.view))
    level, top, left = (np.array([getattr(v, name) for v in grid.views]) for name in ("level", "top", "left"))
    patch, there = row >= 0, np.zeros(grid.n_tokens, dtype=bool)
    there[list(kept)] = True
    place = np.stack([row + top[view], col + left[view]], axis=1)
    nearest = np.full(grid.n_tokens, np.nan)
    for number in np.unique(level[view[patch]]):
        here = patch & (level[view] == number)
        tokens, others = np.flatnonzero(here), place[here & there]
        pairs = len(tokens) * len(others)
        if not pairs:
            continue
        low = place[tokens].min(axis=0)
        rows, cols = (place[tokens].max(axis=0) - low + 1).tolist()
        if pairs > _FEW_PAIRS and rows * cols <= 4 * len(tokens) and rows <= 4 * cols:
            at = place[tokens] - low
            nearest[tokens] = _over_grid(others - low, rows, cols)[at[:, 0], at[:, 1]]
        elif pairs <= _MOST_PAIRS:
            for part in np.array_split(tokens, -(-pairs // _FEW_PAIRS)):
                apart = ((place[part][:, None] - others[None]).astype(np.float64) ** 2).sum(-1)
                nearest[part] = np.sqrt(apart.min(axis=1))
    return [None if np.isnan(distance) else float(distance) for distance in nearest]


def _over_grid(marked: NDArray[np.int64], rows: int, cols: int) -> NDArray[np.float64]:
    """Distance of every cell of a grid to the nearest marked one: within its row first, then over the rows.

    Shape: marked ``(K, 2)`` rows and columns -> ``(rows, cols)``.
    """
    there = np.zeros((rows, cols), dtype=bool)
    there[marked[:, 0], marked[:, 1]] = True
    place = np.arange(cols, dtype=np.float64)
    before = np.maximum.accumulate(np.where(there, place, -np.inf), axis=1)
    behind = np.minimum.accumulate(np.where(there, place, np.inf)[:, ::-1], axis=1)[:, ::-1]
    within = np.minimum(place - before, behind - place) ** 2
    number = np.arange(rows, dtype=np.float64)[:, None]
    return np.sqrt(np.stack([(within + (number - i) ** 2).min(axis=0) for i in range(rows)]))


NEAREST = "Distance to the nearest kept token"
"""What ``distance_map`` is called."""


def distance_map(grid: TokenGrid, kept: Sequence[int]) -> TokenMap:
    """``nearest_kept`` as a map."""
    words = "high lies far from everything kept"
    return TokenMap("nearest_kept", NEAREST, nearest_kept(grid, kept), "patches", words)


def reach(grid: TokenGrid, kept: Sequence[int], tokens: Sequence[int] | None = None) -> Reach | None:
    """``nearest_kept`` of those patches among ``tokens`` (None: all) that were not kept; None where all were."""
    there, distances = set(kept), nearest_kept(grid, kept)
    asked = range(grid.n_tokens) if tokens is None else tokens
    dropped = [token for token in asked if token not in there and grid.row[token] >= 0]
    if not dropped:
        return None
    known = [distance for token in dropped if (distance := distances[token]) is not None]
    if not known:
        return Reach(None, None, len(dropped))
    return Reach(sum(known) / len(known), max(known), len(dropped) - len(known))


def stages_before_llm(run: Run) -> list[StageRecord]:
    """The stages whose result enters the LLM."""
    return [stage for stage in run.stages if not isinstance(stage.site, int)]


def stages_that_select(run: Run) -> list[StageRecord]:
    """All stages up to the last that left tokens: a withdrawal of everything at the end is no selection."""
    last = max((at for at, stage in enumerate(run.stages) if stage.kept), default=-1)
    return run.stages[: last + 1]


def selected(run: Run) -> list[int] | None:
    """Tokens left by the last stage that left any (``stages_that_select``), ascending; None where none dropped any."""
    stages = stages_that_select(run)
    return stages[-1].kept if stages else None


def withdrawal(run: Run) -> StageRecord | None:
    """The stage behind which no visual token is left, or None."""
    return next((stage for stage in run.stages if stage.n_in and not stage.kept), None)
