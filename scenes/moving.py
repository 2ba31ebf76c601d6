"""Moving scenes: short clips with questions that need one moment, or the order of moments, all from one seed.

Ground truth for the video families (which frames and which patches hold the evidence), and what the embedded video
model is trained and measured on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scenes.drawing import background, central_square, draw_distractors, draw_object, draw_sign
from scenes.generate import DEFAULT_SIZE
from scenes.layout import (
    CANVAS,
    GAP,
    RADIUS,
    Canvas,
    PlacedObject,
    PlacedSign,
    place_sign,
    random_looks,
    sign_texts,
)
from scenes.lettering import FONT_FILES
from scenes.moving_questions import CLIP_FAMILIES, ClipQuestionMaker
from scenes.paths import PATHS, Points, random_path
from scenes.types import Box, Clip, ClipQuestion, MovingObject, MovingSign
from scenes.words import SIZES, is_unseen

MAX_FRAMES = 64
_STILL_SHARE = 0.35
_ALWAYS_SHARE = 0.4
_SIGN_SHARE = 0.25
"""Of the frames, how many show a sign: two of eight."""
_TRIES = 24
# Pictures use the streams 0 to 2 of a seed; clips have their own.
_LAYOUT_STREAM, _BACKGROUND_STREAM, _QUESTION_STREAM, _TINT_STREAM = 10, 11, 12, 13


@dataclass(frozen=True)
class _Track:
    """An object before drawing: as it stands in frame `start`, the first that shows it, and its centres from there on.

    Shape:
        centers: (frames that show it, 2), in layout units.
    """

    placed: PlacedObject
    path: str
    start: int
    centers: Points


@dataclass(frozen=True)
class _Showing:
    """A sign before drawing, and the frames that show it."""

    placed: PlacedSign
    start: int
    stop: int


class _Timetable:
    """The boxes that are taken in each frame, so that nothing ever covers anything else."""

    def __init__(self, frames: int) -> None:
        self.taken: list[list[tuple[float, ...]]] = [[] for _ in range(frames)]

    def is_free(self, start: int, boxes: Points) -> bool:
        """Whether a thing can have these boxes, one per frame from `start` on.

        Shape:
            boxes: (n, 4), in layout units.
        """
        for row, taken in zip(boxes, self.taken[start:], strict=False):
            x0, y0, x1, y1 = row
            if any(x0 - GAP < t[2] and x1 + GAP > t[0] and y0 - GAP < t[3] and y1 + GAP > t[1] for t in taken):
                return False
        return True

    def take(self, start: int, boxes: Points) -> None:
        """Book the boxes; arguments as in `is_free`."""
        for row, taken in zip(boxes, self.taken[start:], strict=False):
            taken.append(tuple(row.tolist()))


def generate_clip(
    seed: int, size: tuple[int, int] = DEFAULT_SIZE, frames: int = 8, questions_per_family: int = 2
) -> Clip:
    """Draw the clip of a seed and ask about it.

    One background, fixed to the grain; things that stand still, move on, bounce or circle, and come and go; signs that
    only a quarter of the frames show. Nothing ever covers anything else, and at least one thing moves in every frame.
    The same seed gives the same clip, arranged alike at every size. Seed ranges mean what they mean for pictures
    (`HELD_OUT_SEEDS`), and a clip shares no random numbers with the picture of its seed.

    Args:
        seed: any non-negative integer.
        size: (width, height) in pixels, each at least 96.
        frames: 2 to 64.
        questions_per_family: how many questions to try for each of CLIP_FAMILIES; a clip may allow fewer.

    Raises:
        ValueError: the size or the number of frames is out of range.

    Example:
        >>> clip = generate_clip(200_000_000)
        >>> clip.frames.shape
        (8, 336, 336, 3)
    """
    width, height = size
    if min(width, height) < 96:
        raise ValueError(f"expected a width and height of at least 96 pixels, but got {width} x {height}")
    if not 2 <= frames <= MAX_FRAMES:
        raise ValueError(f"expected 2 to {MAX_FRAMES} frames, but got {frames}")
    unseen = is_unseen(seed)
    tracks, showings = _arrange(np.random.default_rng([seed, _LAYOUT_STREAM]), frames, unseen)
    pictures, owners, boxes = _draw_frames(seed, tracks, showings, (width, height), frames)
    square = central_square(width, height)
    objects = tuple(_object(track, boxes[i], square) for i, track in enumerate(tracks))
    signs = tuple(_sign(showing.placed, boxes[len(tracks) + j]) for j, showing in enumerate(showings))
    rng = np.random.default_rng([seed, _QUESTION_STREAM])
    maker = ClipQuestionMaker(rng, objects, signs, square, unseen=unseen)
    return Clip(seed, pictures, owners, objects, signs, _ask(maker, questions_per_family), square)


def _arrange(rng: np.random.Generator, frames: int, unseen: bool) -> tuple[list[_Track], list[_Showing]]:
    """Signs first (they need the most room), then objects with their paths."""
    timetable = _Timetable(frames)
    canvas = Canvas(rng)
    showings = []
    for text, kind in sign_texts(rng, dense=False):
        placed = place_sign(rng, canvas, text, kind, unseen)
        if placed is not None:
            length = max(1, round(frames * _SIGN_SHARE))
            start = int(rng.integers(frames - length + 1))
            timetable.take(start, np.tile([placed.x0, placed.y0, placed.x1, placed.y1], (length, 1)))
            showings.append(_Showing(placed, start, start + length))
    tracks: list[_Track] = []
    meetings: dict[tuple[str, str], int] = {}
    for look in random_looks(rng, int(rng.integers(3, 10)), unseen):
        # All things of one look meet in one frame. Else two of them, one after the other, could be one that came back.
        meeting = meetings.setdefault(look, int(rng.integers(frames)))
        track = _random_track(rng, look, timetable, frames, meeting, first=not tracks)
        if track is not None:
            tracks.append(track)
    return tracks, showings


def _random_track(
    rng: np.random.Generator, look: tuple[str, str], timetable: _Timetable, frames: int, meeting: int, first: bool
) -> _Track | None:
    """A thing on a path that meets nothing, or None where there is none; the first one moves in every frame."""
    size = SIZES[int(rng.random() < 0.4)]
    radius, angle = float(rng.uniform(*RADIUS[size])), float(rng.uniform(-14, 14))
    for _ in range(_TRIES):
        start, stop = (0, frames) if first or rng.random() < _ALWAYS_SHARE else _interval(rng, frames, meeting)
        moving = PATHS[1 + int(rng.integers(3))]
        path = "still" if rng.random() < _STILL_SHARE and not first else moving
        centers = random_path(rng, path, stop - start, radius)
        boxes = np.hstack([centers - radius, centers + radius])
        if timetable.is_free(start, boxes):
            timetable.take(start, boxes)
            x, y = centers[0].tolist()
            return _Track(PlacedObject(*look, size, x, y, radius, angle), path, start, centers)
    return None


def _interval(rng: np.random.Generator, frames: int, meeting: int) -> tuple[int, int]:
    """At least two frames in a row with `meeting` among them, as (first, behind the last)."""
    start, stop = int(rng.integers(meeting + 1)), int(rng.integers(meeting + 1, frames + 1))
    if stop - start == 1:
        return (start, stop + 1) if stop < frames else (start - 1, stop)
    return start, stop


def _draw_frames(
    seed: int, tracks: list[_Track], showings: list[_Showing], size: tuple[int, int], frames: int
) -> tuple[NDArray[np.uint8], NDArray[np.int16], list[list[Box | None]]]:
    """All frames, their owner maps, and the box of each object and sign per frame.

    Shape:
        returns: (T, H, W, 3) uint8, (T, H, W) int16, and a list of T boxes per object, then per sign.
    """
    width, height = size
    rng = np.random.default_rng([seed, _BACKGROUND_STREAM])
    behind = background(rng, width, height)
    draw_distractors(rng, behind)
    square = central_square(width, height)
    pictures = np.repeat(behind[None], frames, axis=0)
    owners = np.full((frames, height, width), -1, np.int16)
    boxes: list[list[Box | None]] = [[None] * frames for _ in range(len(tracks) + len(showings))]
    for i, track in enumerate(tracks):
        for t, (x, y) in enumerate(track.centers.tolist(), track.start):
            # A fresh generator per frame: the tint of a thing stays.
            tint = np.random.default_rng([seed, _TINT_STREAM, i])
            look = track.placed
            placed = PlacedObject(look.shape, look.color, look.size, x, y, look.radius, look.angle)
            boxes[i][t] = draw_object(tint, placed, i, pictures[t], owners[t], square)
    for j, showing in enumerate(showings, len(tracks)):
        for t in range(showing.start, showing.stop):
            boxes[j][t] = draw_sign(showing.placed, j, pictures[t], owners[t], square)
    return pictures, owners, boxes


def _object(track: _Track, boxes: list[Box | None], square: Box) -> MovingObject:
    """The record of an object, with its path in pixels."""
    scale = (square[2] - square[0]) / CANVAS
    centers: list[tuple[float, float] | None] = [None] * len(boxes)
    for t, (x, y) in enumerate(track.centers.tolist(), track.start):
        centers[t] = (square[0] + x * scale, square[1] + y * scale)
    look = track.placed
    return MovingObject(
        shape=look.shape,
        color=look.color,
        size=look.size,
        radius=look.radius * scale,
        angle=look.angle,
        path=track.path,
        centers=tuple(centers),
        boxes=tuple(boxes),
    )


def _sign(placed: PlacedSign, boxes: list[Box | None]) -> MovingSign:
    font = str(placed.font) if placed.kind == "digit" else FONT_FILES[placed.font]
    return MovingSign(placed.text, placed.kind, font, tuple(boxes))


def _ask(maker: ClipQuestionMaker, per_family: int) -> tuple[ClipQuestion, ...]:
    """Up to `per_family` different questions of each family, in the order of CLIP_FAMILIES."""
    questions: list[ClipQuestion] = []
    for family in CLIP_FAMILIES:
        chosen: dict[str, ClipQuestion] = {}
        for _ in range(per_family * 3):
            question = maker.make(family) if len(chosen) < per_family else None
            if question is not None:
                chosen.setdefault(question.text, question)
        questions.extend(chosen.values())
    return tuple(questions)
