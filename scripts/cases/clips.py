"""Find questions about clips on which pruning separates the methods: the answer shows for a moment only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from scenes import Clip, ClipQuestion, generate_clip
from scenes.clip_file import clip_bytes
from tokviz.comparison import Comparison
from tokviz.media.video import Video
from tokviz.models.loading import VisionLanguageModel
from tokviz.names import Box
from tokviz.runs.inputs import open_media
from tokviz.runs.metrics import evidence_tokens

from .search import FoundCase, compare_while_open, outcomes_of, sure_of

N_FRAMES, FPS = 16, 4
"""Clips of four seconds; models look at a part of the frames."""
MOMENT = 3
"""A question is about a moment when so many of the frames that the model looks at show the answer."""


def clip_of(seed: int, size: tuple[int, int]) -> Clip:
    """The clip of a seed, as examples have it; ``size`` is width and height in px."""
    return generate_clip(seed, size=size, frames=N_FRAMES)


def file_of(clip: Clip) -> bytes:
    """The clip as the video file that is shown and that the model gets."""
    return clip_bytes(clip.frames, FPS)


def opened(vlm: VisionLanguageModel, clip: Clip) -> Video:
    """The file of a clip, read as the model reads it."""
    video = open_media(vlm, file_of(clip))
    if not isinstance(video, Video):
        raise TypeError(f"the file of clip {clip.seed} was not read as a video")
    return video


def looked_at(question: ClipQuestion, video: Video) -> tuple[list[Box], list[int]]:
    """The evidence that is in the sampled frames: boxes, and the sampled frame (from 0) of each."""
    pairs = [(box, place) for place, number in enumerate(video.indices) for box in question.evidence[number]]
    return [box for box, _ in pairs], [place for _, place in pairs]


def find_clip_flips(
    vlm: VisionLanguageModel,
    seeds: Sequence[int],
    methods: Sequence[str],
    budget: int,
    *,
    first: Sequence[str] = (),
    size: tuple[int, int],
) -> Iterator[FoundCase]:
    """Yield of each clip, per family, the first question about a moment that separates the methods.

    Arguments as of ``find_flips``. Clips are left out of which the sampled frames miss a thing: then a question could
    have another answer for who sees only them.
    """
    for seed in seeds:
        clip = clip_of(seed, size)
        video = opened(vlm, clip)
        shown = [thing.boxes for thing in clip.objects] + [thing.boxes for thing in clip.signs]
        if not all(any(boxes[number] is not None for number in video.indices) for boxes in shown):
            continue
        told: set[str] = set()
        for question in clip.questions:
            if question.family in told or not 0 < len(set(looked_at(question, video)[1])) <= MOMENT:
                continue
            found = examine_clip(vlm, clip, video, question, methods, budget, first=first)
            if found is not None:
                told.add(question.family)
                yield found


def examine_clip(
    vlm: VisionLanguageModel,
    clip: Clip,
    video: Video,
    question: ClipQuestion,
    methods: Sequence[str],
    budget: int,
    *,
    first: Sequence[str] = (),
) -> FoundCase | None:
    """The case that one question makes, or None."""
    boxes, places = looked_at(question, video)
    comparison = compare_while_open(
        vlm,
        video,
        question.text,
        methods,
        first=first,
        budget=budget,
        expected=question.answer,
        evidence=boxes,
        evidence_frames=places,
        max_new_tokens=8,
    )
    if comparison is None:
        return None
    case = _case_of(comparison, clip, question)
    return case if case.n_evidence and case.lost and case.kept else None


def _case_of(comparison: Comparison, clip: Clip, question: ClipQuestion) -> FoundCase:
    asked = comparison.request
    evidence = evidence_tokens(comparison.grid, asked.evidence, asked.evidence_frames)
    height, width = clip.frames.shape[1:3]
    return FoundCase(
        seed=clip.seed,
        size=(width, height),
        question=question.text,
        expected=question.answer,
        question_family=question.family,
        n_tokens=comparison.grid.n_tokens,
        n_evidence=len(evidence),
        kinds=(),
        hard=moment_in_words(comparison, len(evidence)),
        sure=sure_of(comparison.runs[0]),
        outcomes=outcomes_of(comparison, evidence),
    )


def moment_in_words(comparison: Comparison, n_evidence: int) -> str:
    """How little of the video shows the answer, as a sentence."""
    if comparison.video is None:
        raise ValueError("expected a comparison about a video")
    n_frames, shown = len(comparison.video.frames), len(set(comparison.request.evidence_frames))
    frames = f"one of the {n_frames} frames" if shown == 1 else f"{shown} of the {n_frames} frames"
    return (
        f"What shows the answer is there in {frames} that the model looks at, in {n_evidence} of "
        f"{comparison.grid.n_tokens:,} patches."
    )
