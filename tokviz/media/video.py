"""Safe reading of videos: limits before decoding, rotation, the frames that a model looks at. Uploads are hostile."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import BadInput
from ..files import is_file, open_file
from ..names import VideoFacts
from ..records import FrameRecord, VideoRecord
from ..short import short_repr
from . import video_decoding as decoding
from .images import check_sides, image_record, valid_text
from .video_decoding import Clock, Timeline
from .worker import OnUsage, absolute, in_worker

MAX_SAMPLED = 64
"""Frames that a model may look at."""
FRAME_SIDE = 1280
"""Longest side of a sampled frame in px; models see less of it. Boxes refer to the frame as it is then."""
_STORED_SIDE = 640
_ENDINGS = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi")
_HDR_TRANSFERS = (16, 18)
"""PQ and HLG, as the transfer characteristics of ITU-T H.273 number them."""


@dataclass(frozen=True)
class Video:
    """The sampled frames of a video: RGB of one size in display orientation, and their record for the session.

    indices: the number of each frame in the file, from 0, ascending. ``facts.size`` is the file's; frames may be
    smaller (``FRAME_SIDE``). notices: what was changed on the way, as sentences.
    """

    frames: tuple[Image.Image, ...]
    indices: tuple[int, ...]
    facts: VideoFacts
    record: VideoRecord
    notices: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return short_repr(self, name=self.record.name, frames=self.frames, indices=self.indices, notices=self.notices)


@dataclass(frozen=True)
class SampledFrame:
    """One frame that a model looks at, and its record for the session."""

    image: Image.Image
    record: FrameRecord


@dataclass(frozen=True)
class Reading:
    """What is told of a video when all its frames are there. sha256: of the file."""

    facts: VideoFacts
    sha256: str
    notices: tuple[str, ...]


def is_video(source: Any) -> bool:
    """Whether a path or bytes hold a video or sound file, judged by the content. An animated GIF is an image."""
    if isinstance(source, str | Path) and not is_file(source):
        return False
    return isinstance(source, str | Path | bytes) and decoding.format_of(source) is not None


def named_as_video(source: str | Path | bytes) -> bool:
    """Whether a file that is no video by its content claims to be one: then the refusal speaks of videos."""
    return not isinstance(source, bytes) and Path(source).suffix.lower() in _ENDINGS


def probe(source: str | Path | bytes) -> VideoFacts:
    """Size, length and number of frames of a video file; the frames are counted and one is decoded.

    Raises BadInput with one sentence when the file is no video, cannot be read, or passes a limit: 100 MB, 10 minutes,
    36,000 frames, 9.4 megapixels per frame, sides of at least 8 px and at most 30 : 1. They are checked on the header
    before anything is decoded.
    """
    clock = Clock()
    return _look(source, clock)[1]


def read_video(source: str | Path | bytes, pick: Callable[[VideoFacts], Sequence[int]], name: str = "") -> Video:
    """Decode the frames that ``pick`` chooses: numbers from 0, ascending, at most 64.

    Rotation is applied, transparency laid on white, more than 8 bits scaled to 8, a side of more than 1,280 px scaled
    down; ``notices`` say so. Raises BadInput as ``probe``, and when a chosen frame cannot be decoded or reading takes
    longer than a minute.
    """
    clock = Clock()
    looked = _look(source, clock)
    indices = tuple(int(number) for number in pick(looked[1]))
    return _assembled(list(_sampled(source, looked, indices, clock)), indices, name or _file_name(source))


def sampled_frames(source: str | Path | bytes, indices: Sequence[int]) -> Iterator[SampledFrame | Reading]:
    """The frames of ``indices``, each once, one at a time so that few are in memory, and at last what is told of all.

    Raises BadInput as ``read_video``.
    """
    clock = Clock()
    yield from _sampled(source, _look(source, clock), indices, clock)


def checked_probe(
    source: str | Path | bytes, stop: threading.Event | None = None, on_usage: OnUsage = None
) -> VideoFacts:
    """``probe`` of a stranger's file, in a process that is ended when it takes too much; see ``checked_image``."""
    facts: VideoFacts = in_worker(probe, absolute(source), kind="video", stop=stop, on_usage=on_usage)[0]
    return facts


def checked_video(
    source: str | Path | bytes,
    pick: Callable[[VideoFacts], Sequence[int]],
    name: str = "",
    stop: threading.Event | None = None,
    on_usage: OnUsage = None,
) -> Video:
    """``read_video`` of a stranger's file in two such processes; ``pick`` is called here in between."""
    indices = tuple(int(number) for number in pick(checked_probe(source, stop, on_usage)))
    parts = in_worker(sampled_frames, absolute(source), indices, kind="video", stop=stop, on_usage=on_usage)
    return _assembled(parts, indices, name or _file_name(source))


def _file_name(source: str | Path | bytes) -> str:
    return "" if isinstance(source, bytes) else Path(source).name


def _assembled(parts: Sequence[SampledFrame | Reading], indices: tuple[int, ...], name: str) -> Video:
    """The video of all parts that ``sampled_frames`` gave."""
    *some, reading = parts
    if not isinstance(reading, Reading):
        raise TypeError(f"expected a Reading behind the frames, got {reading!r}")
    frames = {part.record.index: part for part in some if isinstance(part, SampledFrame)}
    facts = reading.facts
    record = VideoRecord(
        name=valid_text(name),
        sha256=reading.sha256,
        width=facts.size[0],
        height=facts.size[1],
        duration_s=facts.duration_s,
        fps=facts.fps,
        n_frames=facts.n_frames,
        frames=[frames[number].record for number in indices],
    )
    return Video(tuple(frames[number].image for number in indices), indices, facts, record, reading.notices)


def _sampled(
    source: str | Path | bytes, looked: tuple[Timeline, VideoFacts, Any], indices: Sequence[int], clock: Clock
) -> Iterator[SampledFrame | Reading]:
    line, facts, first = looked
    _check_indices(indices, facts)
    damaged, size = first.is_corrupt, facts.size
    for number, frame in decoding.frames(source, line, indices, clock):
        image = _image(frame, facts)
        size = image.size
        damaged |= frame.is_corrupt
        record = image_record(image, side=_STORED_SIDE, lossless_up_to=0, quality=90)
        yield SampledFrame(image, FrameRecord(index=number, time_s=line.seconds(number), image=record))
    yield Reading(facts, _digest(source), _notices(line, facts, first, size, damaged))


def _look(source: str | Path | bytes, clock: Clock) -> tuple[Timeline, VideoFacts, Any]:
    """The timeline, the facts and the first frame: rotation and true size are known only when one is decoded."""
    line = decoding.timeline(source, clock)
    _, first = next(decoding.frames(source, line, [0], clock))
    size = (first.width, first.height) if _quarter_turns(first) % 2 == 0 else (first.height, first.width)
    check_sides("video", *size)
    return line, VideoFacts(line.n_frames, line.n_frames / line.duration_s, line.duration_s, size), first


def _check_indices(indices: Sequence[int], facts: VideoFacts) -> None:
    if not 1 <= len(indices) <= MAX_SAMPLED:
        raise BadInput(f"A model looks at 1 to {MAX_SAMPLED} frames of a video, not at {len(indices)}.")
    if list(indices) != sorted(indices) or indices[0] < 0 or indices[-1] >= facts.n_frames:
        raise BadInput(f"Frames are numbered 0 to {facts.n_frames - 1}, in ascending order, not {list(indices)}.")


def _quarter_turns(frame: Any) -> int:
    """How often a frame must be turned counterclockwise by 90 degrees to be shown."""
    return round(frame.rotation / 90) % 4


_TURNS = (None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)


def _image(frame: Any, facts: VideoFacts) -> Image.Image:
    """A decoded frame as it is shown, RGB, of the size that all frames of the video have."""
    if _has_alpha(frame):
        rgba = Image.fromarray(frame.to_ndarray(format="rgba"), "RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    else:
        image = Image.fromarray(frame.to_ndarray(format="rgb24"))
    turn = _TURNS[_quarter_turns(frame)]
    if turn is not None:
        image = image.transpose(turn)
    size = _frame_size(facts.size)
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def _frame_size(size: tuple[int, int]) -> tuple[int, int]:
    width, height = size
    scale = min(1.0, FRAME_SIDE / max(size))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _has_alpha(frame: Any) -> bool:
    return any(component.is_alpha for component in frame.format.components)


def _notices(line: Timeline, facts: VideoFacts, first: Any, size: tuple[int, int], damaged: bool) -> tuple[str, ...]:
    notices = []
    if damaged:
        notices.append("The video is damaged: parts of its frames were filled in by the decoder.")
    if line.promised > line.n_frames:
        notices.append(f"The video is incomplete: {line.n_frames:,} of its {line.promised:,} frames are in the file.")
    if _has_alpha(first):
        notices.append("Transparent parts of the video are shown on white.")
    if int(first.color_trc) in _HDR_TRANSFERS:
        notices.append("The video has HDR colours, which look paler here than in a player.")
    elif max(component.bits for component in first.format.components) > 8:
        notices.append("The video has more than 8 bits per channel; it was scaled to 8.")
    if size != facts.size:
        notices.append(
            f"The frames were scaled from {facts.size[0]} × {facts.size[1]} to {size[0]} × {size[1]} pixels."
        )
    return tuple(notices)


def _digest(source: str | Path | bytes) -> str:
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with open_file(source, "video") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
