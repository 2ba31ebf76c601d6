"""What is measured on finished runs: cost formulas, agreement of kept sets, evidence recall, verdicts on answers."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from .names import Box
from .records import Run, Timing, TokenGrid

VerdictKind = Literal["right", "wrong", "flipped", "recovered", "same", "changed"]


@dataclass(frozen=True)
class Verdict:
    """How an answer compares; ``label`` is the same in words."""

    kind: VerdictKind
    label: str


def normalised(answer: str) -> str:
    """An answer without case, outer and repeated spaces, and final punctuation."""
    return " ".join(answer.casefold().split()).strip(string.punctuation + " ")


def verdict(answer: str, baseline_answer: str, expected: str | None) -> Verdict:
    """Compare an answer with the unpruned model's and, when it is known, with the right one.

    With an expected answer: ``right``; ``flipped`` (unpruned right, this wrong); ``recovered`` (unpruned wrong, this
    right); ``wrong`` (both wrong). Without: ``same`` or ``changed``.
    """
    same = normalised(answer) == normalised(baseline_answer)
    if expected is None:
        return Verdict("same", "same as no pruning") if same else Verdict("changed", "changed by pruning")
    is_right = normalised(answer) == normalised(expected)
    baseline_right = normalised(baseline_answer) == normalised(expected)
    if is_right:
        return Verdict("right", "right") if baseline_right else Verdict("recovered", "right, unlike no pruning")
    return Verdict("flipped", "flipped by pruning") if baseline_right else Verdict("wrong", "wrong")


def prefill_flops(tokens_per_block: Sequence[int], d: int, m: int) -> float:
    """FLOPs of one forward pass: sum over blocks of 4nd² + 2n²d + 2ndm.

    Source: ToDRE (``papers/todre.md`` section 3.1, Eq. 1), generalised from T equal blocks to a count per block. As in
    the paper one multiply-add counts once, and a gated FFN's third matrix and grouped keys are not considered; use it
    to compare runs of one model, not as a count of instructions.

    Args: tokens_per_block ``(T,)`` sequence lengths n; d hidden size; m FFN width.
    """
    return float(sum(4 * n * d * d + 2 * n * n * d + 2 * n * d * m for n in tokens_per_block))


def merging_flops(entering: Sequence[int], leaving: Sequence[int], d: int, m: int) -> float:
    """FLOPs of blocks that merge between attention and MLP: sum of 4nd² + 2n²d + 2n'dm, from n to n' tokens.

    ``prefill_flops`` with the two halves of a block at their own lengths; what the matching itself costs is left out.

    Args: entering, leaving ``(T,)`` tokens per block; d hidden size; m MLP width.
    """
    pairs = zip(entering, leaving, strict=True)
    return float(sum(4 * n * d * d + 2 * n * n * d + 2 * rest * d * m for n, rest in pairs))


def decode_flops(tokens_per_block: Sequence[int], d: int, m: int, new_tokens: int) -> float:
    """FLOPs of decoding: sum over blocks and steps t = 1…new_tokens of 4d² + 2d(n + t − 1) + 2dm.

    Source: ToDRE Eq. 2, with the KV-cache length n of each block its own.
    """
    return float(
        sum(4 * d * d + 2 * d * (n + step) + 2 * d * m for n in tokens_per_block for step in range(new_tokens))
    )


def timing(samples: Sequence[float], shots: int | None = None) -> Timing:
    """Median of ``samples`` in ms. ``shots`` executions stand behind them (default: one each); one is a single shot."""
    shots = len(samples) if shots is None else shots
    return Timing(median_ms=median(samples), samples=shots, single_shot=shots == 1)


def overlap(kept_a: Sequence[int], kept_b: Sequence[int]) -> float:
    """Intersection over union of two kept sets; 1.0 when both are empty."""
    a, b = set(kept_a), set(kept_b)
    return len(a & b) / len(a | b) if a | b else 1.0


def seen_by_llm(run: Run, n_visual: int) -> list[int]:
    """Visual tokens that entered the LLM, ascending: what the stages before it left of ``n_visual``."""
    before = [stage for stage in run.stages if not isinstance(stage.site, int)]
    return before[-1].kept if before else list(range(n_visual))


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

    kept: original indices; None when nothing was pruned. Empty for a picture.
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
    if grid.is_video and len(frames) != len(evidence):
        raise ValueError(f"expected the frame of each of {len(evidence)} boxes, but got {len(frames)} frames")
    in_view = [
        [box for k, box in enumerate(evidence) if not grid.is_video or frames[k] in view.frames] for view in grid.views
    ]
    return [
        index
        for index, box in enumerate(grid.box)
        if box and any(_share(box, e) >= 0.1 for e in in_view[grid.view[index]])
    ]


def evidence_recall(
    grid: TokenGrid, evidence: Sequence[Box], kept: Sequence[int], frames: Sequence[int] = ()
) -> float | None:
    """Share of the evidence tokens that were kept; None when no token shows the evidence. Arguments as above."""
    tokens = evidence_tokens(grid, evidence, frames)
    return len(set(tokens) & set(kept)) / len(tokens) if tokens else None


def _share(box: Box, other: Box) -> float:
    area = (box[2] - box[0]) * (box[3] - box[1])
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    return max(width, 0) * max(height, 0) / area if area > 0 else 0.0
