"""Clips as token sequences: one clip, many questions; where named things are, when; what every visual token follows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from scenes import CLIP_FAMILIES, CLIP_WORDS, Clip, MovingObject, MovingSign
from scenes.moving_questions import ClipQuestionMaker
from training.architecture import IMAGE_SIZE, vocabulary
from training.prompts import Block, named_things

FRAMES = 8
CELLS = 12
"""Rows and columns of the visual tokens of a frame: the tower's 24 x 24 patches, averaged two by two."""
FRAME_TOKENS = CELLS * CELLS
VIDEO_TOKENS = FRAMES * FRAME_TOKENS
VIDEO_TOKEN = "<video>"
CLIP_SHARES = {
    "existence": 0.08, "attribute": 0.1, "counting": 0.18, "reading": 0.1, "motion": 0.4, "order": 0.14,
}  # fmt: skip
"""What is asked how often; motion comes last."""
TRACE = 7
"""Numbers of a trace: first and last frame (from 0), x and y there as shares of the picture, whether it moves."""
TRACK = 6
"""Numbers of a track: first frame, x and y there, the way so far in x and y, whether it has moved so far."""
_LEAST_COVER, _KEY_COVER = 0.06, 0.25
_MOVED = 0.01
_PICKS = 60


def video_vocabulary() -> dict[str, int]:
    """The words of pictures with their ids, and behind them the words of clips and the video token."""
    words = vocabulary()
    return {**words, **{word: len(words) + i for i, word in enumerate((*CLIP_WORDS, VIDEO_TOKEN))}}


WORDS = video_vocabulary()


@dataclass(frozen=True)
class ClipBlock(Block):
    """A question about a clip; `traces` says for words that name one thing where and when that thing is there."""

    traces: dict[int, tuple[float, ...]] = field(default_factory=dict)


def encode(text: str) -> list[int]:
    """Token ids of lower-case words; question marks do not count."""
    return [WORDS[word] for word in text.replace("?", "").split()]


def trace(thing: MovingObject | MovingSign) -> tuple[float, ...]:
    """When and where a thing is first and last seen, and whether it moves: TRACE numbers."""
    first, stop = thing.shown
    places = []
    for frame in (first, stop - 1):
        box = thing.boxes[frame]
        assert box is not None  # `shown` says so
        places += [(box[0] + box[2]) / 2 / IMAGE_SIZE, (box[1] + box[3]) / 2 / IMAGE_SIZE]
    moves = isinstance(thing, MovingObject) and thing.path != "still"
    return (float(first), float(stop - 1), *places, float(moves))


def named_traces(text: str, clip: Clip) -> dict[int, tuple[float, ...]]:
    """The traces of the things that words of a question name: {place of the word: trace}."""
    return {place: trace(thing) for place, thing in named_things(text, clip.objects, clip.signs).items()}


def clip_block(text: str, answer: str, family: str, clip: Clip) -> ClipBlock:
    """A question as the chat template would write it, from behind the video on."""
    question = [*encode(text), WORDS["assistant"]]
    return ClipBlock(question, encode(answer), family, traces=named_traces(text, clip))


def random_clip_blocks(
    clip: Clip, rng: np.random.Generator, room: int, shares: dict[str, float] = CLIP_SHARES
) -> list[Block]:
    """Random questions about a clip until `room` tokens are full."""
    maker = ClipQuestionMaker(rng, clip.objects, clip.signs, clip.square)
    weights = np.array([shares[family] for family in CLIP_FAMILIES])
    blocks: list[Block] = []
    seen = set()
    for pick in rng.choice(len(CLIP_FAMILIES), _PICKS, p=weights / weights.sum()):
        question = maker.make(CLIP_FAMILIES[pick])
        if question is None or question.text in seen:
            continue
        seen.add(question.text)
        block = clip_block(question.text, question.answer, question.family, clip)
        size = len(block.question) + len(block.answer)
        if size > room:
            break
        blocks.append(block)
        room -= size
    return blocks


def pack_traces(batch: list[list[Block]], length: int) -> NDArray[np.float32]:
    """The traces of a packed batch, word by word as `training.prompts.pack` lays the blocks.

    Shape:
        returns: (B, length, TRACE); NaN where a word names no single thing.
    """
    traces = np.full((len(batch), length, TRACE), np.nan, np.float32)
    for row, blocks in enumerate(batch):
        at = 0
        for block in blocks:
            if isinstance(block, ClipBlock):
                for place, values in block.traces.items():
                    traces[row, at + place] = values
            at += len(block.question) + len(block.answer)
    return traces


def reverse(clip: Clip) -> Clip:
    """The clip played backwards: another clip, whose frames the tower has already seen; its questions are dropped."""
    return replace(
        clip,
        frames=clip.frames[::-1],
        owners=clip.owners[::-1],
        objects=tuple(replace(o, centers=o.centers[::-1], boxes=o.boxes[::-1]) for o in clip.objects),
        signs=tuple(replace(s, boxes=s.boxes[::-1]) for s in clip.signs),
        questions=(),
    )


def cell_owners(clip: Clip) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """Which thing each visual token shows, and how long random dropping spares the token.

    The owner is the thing that covers most of the cell, or the object whose centre lies there; -1 is background.
    Priorities are 2 with a centre, 1 covered to a quarter by one thing, else 0.

    Shape:
        returns: (VIDEO_TOKENS,) int64, (VIDEO_TOKENS,) int8; frame by frame, row by row.
    """
    frames, side, _ = clip.owners.shape
    pixels, things = side // CELLS, len(clip.objects) + len(clip.signs)
    cells = clip.owners.reshape(frames, CELLS, pixels, CELLS, pixels).swapaxes(2, 3)
    cells = cells.reshape(frames * FRAME_TOKENS, -1).astype(np.int64)
    flat = (np.arange(len(cells))[:, None] * (things + 1) + cells + 1).ravel()
    counts = np.bincount(flat, minlength=len(cells) * (things + 1)).reshape(len(cells), things + 1)[:, 1:]
    best, cover = counts.argmax(1), counts.max(1) / pixels**2
    owners = np.where(cover >= _LEAST_COVER, best, -1)
    priorities = (cover >= _KEY_COVER).astype(np.int8)
    for number, item in enumerate(clip.objects):
        for frame, center in enumerate(item.centers):
            if center is not None:
                column, row = (min(CELLS - 1, int(value / pixels)) for value in center)
                cell = frame * FRAME_TOKENS + row * CELLS + column
                owners[cell], priorities[cell] = number, 2
    return owners, priorities


def cell_tracks(clip: Clip, owners: NDArray[np.int64]) -> NDArray[np.float32]:
    """What a visual token can know of the history of the object it shows.

    Shape:
        owners: (VIDEO_TOKENS,) int64; returns (VIDEO_TOKENS, TRACK), NaN where the token shows no object or one whose
        colour and shape another one has too.
    """
    tracks = np.full((len(owners), TRACK), np.nan, np.float32)
    names = [item.name for item in clip.objects]
    for number, item in enumerate(clip.objects):
        if names.count(item.name) > 1:
            continue
        first = item.shown[0]
        start = np.array(item.centers[first]) / IMAGE_SIZE
        for frame, center in enumerate(item.centers):
            if center is None:
                continue
            way = np.array(center) / IMAGE_SIZE - start
            moved = float(np.abs(way).max() > _MOVED)
            span = slice(frame * FRAME_TOKENS, (frame + 1) * FRAME_TOKENS)
            tracks[span][owners[span] == number] = (first, *start, *way, moved)
    return tracks
