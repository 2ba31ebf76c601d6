"""What PyAV says about a video file and the frames it holds. Files are hostile: limits come first, then the decoder.

A file is opened by its content, as one of a few formats, and through a Python file: a playlist or a list of files to
join (which FFmpeg would follow to other files and hosts) is never recognised.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import BadInput, is_installed, need
from ..files import open_file
from .images import check_sides
from .video_structure import claims_too_much

_DAMAGE: tuple[type[Exception], ...] = (OSError, ValueError, ArithmeticError, MemoryError)
if is_installed("av"):  # the extra "video": without it everything else works, and ``opened`` says what to install
    import av
    from av.error import FFmpegError
    from av.stream import Disposition

    _DAMAGE = (FFmpegError, *_DAMAGE)

MAX_FILE_BYTES = 100_000_000
MAX_DURATION_S = 600.0
MAX_FRAME_PIXELS = 4096 * 2304
MAX_FILE_FRAMES = 36_000
"""Ten minutes at 60 frames per second."""
MAX_READING_S = 60.0
"""Wall-clock time that reading one video may take."""
FORMATS = "MP4, MOV, WebM, MKV or AVI"
NO_VIDEO = f"This file holds {{}}; use {FORMATS} with moving images."
DAMAGED = "The video file is damaged or incomplete and cannot be read."

_HEAD_BYTES = 400
_ISO_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_IMAGE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_MAGIC = (
    (b"\x1a\x45\xdf\xa3", "matroska"),
    (b"FLV\x01", "other"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "other"),
    (b"\x00\x00\x01\xba", "other"),
    (b"OggS", "other"),
    (b"ID3", "sound"),
    (b"\xff\xfb", "sound"),
    (b"\xff\xf3", "sound"),
    (b"fLaC", "sound"),
)
_TS_PACKET = 188
_EXACT_SEEKS = ("mov", "matroska")
"""Formats with an index of key frames that is whole; the other one (AVI) is decoded from its start."""
_STREAMS = 64


def format_of(source: str | Path | bytes) -> str | None:
    """What kind of file the first bytes say it is: "mov", "matroska" and "avi" are read, as FFmpeg calls them.

    "sound" and "other" (formats of videos that may grow further streams on the way, which PyAV does not expect) are
    only recognised; None: no video and no sound.
    """
    if isinstance(source, bytes):
        head = source[:_HEAD_BYTES]
    else:
        with open_file(source, "video") as file:
            head = file.read(_HEAD_BYTES)
    if head[4:8] in _ISO_BOXES:
        return None if head[4:8] == b"ftyp" and head[8:12] in _IMAGE_BRANDS else "mov"
    if head[:4] == b"RIFF":
        return {b"AVI ": "avi", b"WAVE": "sound"}.get(head[8:12])
    # "G" is also the sync byte of transport streams.
    if not head.startswith(b"GIF8") and head[0 : 2 * _TS_PACKET + 1 : _TS_PACKET] == b"GGG":
        return "other"
    return next((name for magic, name in _MAGIC if head.startswith(magic)), None)


class Clock:
    """Wall-clock time that is left for one file."""

    def __init__(self, seconds: float = MAX_READING_S) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def check(self) -> None:
        """Raises BadInput when the time is up."""
        if time.monotonic() > self._end:
            raise BadInput(
                f"Reading the video took longer than {self.seconds:g} seconds; please use a shorter or smaller one."
            )


@dataclass(frozen=True)
class Timeline:
    """The frames of a file in the order in which they are shown, found by walking over its packets.

    times: when each is shown, in units of ``time_base`` seconds, ascending; None where the file does not say it of
    every frame. keys: the times of key frames. promised: how many frames the header claims (0: nothing).
    """

    n_frames: int
    times: tuple[int, ...] | None
    keys: tuple[int, ...]
    time_base: float
    duration_s: float
    promised: int

    def seconds(self, number: int) -> float:
        """When a frame is shown, in seconds after the first."""
        if self.times is None:
            return number * self.duration_s / self.n_frames
        return (self.times[number] - self.times[0]) * self.time_base


@contextmanager
def opened(source: str | Path | bytes, clock: Clock, counted: bool = False) -> Iterator[tuple[Any, Any]]:
    """``(container, video stream)`` of a file within the limits of its header. Raises BadInput with one sentence.

    ``counted``: that the file does not claim too much was seen before.
    """
    check_file(source)
    kind = format_of(source)
    if kind == "sound":
        raise BadInput(NO_VIDEO.format("sound but no video"))
    if kind is None or kind == "other":
        raise BadInput(f"This file is not a readable video: use {FORMATS}.")
    need("av", "video", "Reading a video")
    options = {"max_pixels": str(MAX_FRAME_PIXELS), "max_streams": str(_STREAMS), "protocol_whitelist": ""}
    with io.BytesIO(source) if isinstance(source, bytes) else open_file(source, "video") as file:
        if not counted and claims_too_much(file, kind):
            raise BadInput("The video file claims to hold far more than a video of ten minutes does; it is not opened.")
        try:
            container = av.open(_Timed(file, clock), format=kind, options=options, metadata_errors="replace")
        except BadInput:
            raise
        except _DAMAGE as error:
            raise BadInput(DAMAGED) from error
        with container:
            stream = _video_stream(container)
            _check_header(container, stream)
            yield container, stream


class _Timed:
    """A file that is not read any more when the time is up: FFmpeg passes over parts without ever coming back to us."""

    def __init__(self, file: BinaryIO, clock: Clock) -> None:
        self._file, self._clock = file, clock
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        """The next bytes. Raises BadInput when the time is up."""
        self._clock.check()
        return self._file.read(size)

    def seekable(self) -> bool:
        """Always."""
        return True


def check_file(source: str | Path | bytes) -> None:
    """Raises BadInput for a file that is missing, empty or too large."""
    if isinstance(source, bytes):
        size = len(source)
    else:
        with open_file(source, "video") as file:
            size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise BadInput("The video file is empty.")
    if size > MAX_FILE_BYTES:
        raise BadInput(
            f"The video file is larger than {MAX_FILE_BYTES // 1_000_000} MB; please use a shorter or smaller one."
        )


def _video_stream(container: Any) -> Any:
    # The cover of a song is a "video" of one image.
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        what = "sound but no video" if container.streams.audio else "no video"
        raise BadInput(NO_VIDEO.format(what))
    stream = streams[0]
    if stream.codec_context is None:
        raise BadInput("The video is encoded in a way that cannot be decoded here; please save it as H.264 in MP4.")
    return stream


def _check_header(container: Any, stream: Any) -> None:
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_FRAME_PIXELS:
        raise BadInput(
            f"The video has {width} × {height} pixels; the limit is {MAX_FRAME_PIXELS / 1e6:.1f} megapixels per frame. "
            "Please scale it down."
        )
    if not width or not height:
        raise BadInput(
            f"The video file is damaged, or its frames have more than {MAX_FRAME_PIXELS / 1e6:.1f} megapixels; "
            "please use a smaller one."
        )
    check_sides("video", width, height)
    seconds = max(
        (container.duration or 0) / av.time_base,
        float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0,
    )
    _check_length(seconds, stream.frames)


def _check_length(seconds: float, n_frames: int) -> None:
    if seconds > MAX_DURATION_S:
        raise BadInput(
            f"The video is {seconds / 60:,.1f} minutes long; the limit is {MAX_DURATION_S / 60:g} minutes. "
            "Please cut out the part that you ask about."
        )
    if n_frames > MAX_FILE_FRAMES:
        raise BadInput(
            f"The video has {n_frames:,} frames or more; the limit is {MAX_FILE_FRAMES:,}. "
            "Please cut out the part that you ask about."
        )


def timeline(source: str | Path | bytes, clock: Clock) -> Timeline:
    """Count the frames of a file, and find out when each is shown, without decoding one. Raises BadInput."""
    with opened(source, clock) as (container, stream):
        times: list[int | None] = []
        keys, last = list[int](), (0, 0)
        for packet in _packets(container, stream, clock):
            if not _is_shown(packet):
                continue
            times.append(packet.pts)
            _check_length(0.0, len(times))
            if packet.pts is not None:
                last = max(last, (packet.pts, max(packet.duration or 0, 0)))
                if packet.is_keyframe:
                    keys.append(packet.pts)
        if not times:
            raise BadInput(DAMAGED)
        time_base = float(stream.time_base)
        rate = float(stream.average_rate or stream.guessed_rate or 0) or 25.0
        shown = sorted(t for t in times if t is not None)
        if len(set(shown)) < len(times):
            found = Timeline(len(times), None, (), time_base, len(times) / rate, stream.frames)
        else:
            span = shown[-1] - shown[0]
            # A file need not say how long its last frame is shown: as long as the others, then.
            tail = last[1] or (span / (len(shown) - 1) if span else 1 / rate / time_base)
            found = Timeline(
                len(times), tuple(shown), tuple(sorted(keys)), time_base, (span + tail) * time_base, stream.frames
            )
    _check_length(found.duration_s, found.n_frames)
    return found


def _packets(container: Any, stream: Any, clock: Clock) -> Iterator[Any]:
    """The packets of a stream as far as the file can be read; the last one is empty and flushes the decoder."""
    packets = container.demux(stream)
    while True:
        clock.check()
        try:
            packet = next(packets, None)
        except BadInput:
            raise
        except _DAMAGE:  # cut off in the middle of something
            return
        if packet is None:
            return
        yield packet


def _is_shown(packet: Any) -> bool:
    """Whether a packet becomes a frame that a player shows."""
    if not packet.size or packet.is_discard or packet.is_corrupt:  # corrupt: the file ends in the middle of it
        return False
    # VP8 has images that are only there to be copied from; the others wrap theirs together with one that is shown.
    return packet.stream.codec_context.name not in ("vp8", "libvpx") or bool(memoryview(packet)[0] >> 4 & 1)


def frames(
    source: str | Path | bytes, line: Timeline, wanted: Sequence[int], clock: Clock
) -> Iterator[tuple[int, Any]]:
    """``(number, decoded frame)`` of each wanted frame, ascending; one at a time, so that few are in memory.

    Raises BadInput when one of them cannot be decoded.
    """
    left = sorted(set(wanted))
    if line.times is not None and format_of(source) in _EXACT_SEEKS:
        for number, frame in _by_seeking(source, line, left, clock):
            left = left[1:]
            yield number, frame
    for number, frame in _in_sequence(source, line, left, clock):
        left = left[1:]
        yield number, frame
    if left:
        raise BadInput(f"The video file is damaged: frame {left[0] + 1} of {line.n_frames} cannot be decoded.")


def _by_seeking(
    source: str | Path | bytes, line: Timeline, wanted: Sequence[int], clock: Clock
) -> Iterator[tuple[int, Any]]:
    """From key frame to key frame; ends before the first frame that is not found where it should be."""
    times = line.times or ()
    with opened(source, clock, counted=True) as (container, stream):
        _set_up(stream)
        decoded: Iterator[Any] = iter(())
        position: int | None = None
        for number in wanted:
            target = times[number]
            key = max((k for k in line.keys if k <= target), default=None)
            if key is None:
                return
            if position is None or key > position:
                try:
                    container.seek(key, stream=stream)
                except _DAMAGE:
                    return
                decoded = _decoded(container, stream, clock)
            for frame in decoded:
                position = frame.pts
                if position is None or position >= target:
                    break
            if position != target:
                return
            yield number, frame


def _in_sequence(
    source: str | Path | bytes, line: Timeline, wanted: Sequence[int], clock: Clock
) -> Iterator[tuple[int, Any]]:
    """Everything from the start; frames are told by their times, or counted where the file has none."""
    left = list(wanted)
    if not left:
        return
    with opened(source, clock, counted=True) as (container, stream):
        _set_up(stream)
        for count, frame in enumerate(_decoded(container, stream, clock)):
            if line.times is None:
                found = count == left[0]
            else:
                while left and frame.pts is not None and frame.pts > line.times[left[0]]:
                    return
                found = frame.pts == line.times[left[0]]
            if found:
                yield left.pop(0), frame
            if not left:
                return


def _set_up(stream: Any) -> None:
    stream.codec_context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
    stream.codec_context.thread_type = "AUTO"
    stream.codec_context.thread_count = min(4, os.cpu_count() or 1)


def _decoded(container: Any, stream: Any, clock: Clock) -> Iterator[Any]:
    for packet in _packets(container, stream, clock):
        try:
            decoded = packet.decode()
        except _DAMAGE:  # a player leaves out what it cannot decode, too; whether it is missed is seen later
            continue
        yield from decoded
