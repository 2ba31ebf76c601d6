"""Reading files of strangers: as ``images`` and ``video`` read them, in a process that is ended when it takes too much.

Results are the same to the bit. ``stop`` ends a call (Stopped). ``on_usage`` is told what each process took; reading a
video takes two. Limits: ``decoding_worker.Limits``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from .decoding_worker import Usage, in_worker
from .images import Picture, read_image
from .names import VideoFacts
from .video import Video, assembled, probe, sampled_frames

OnUsage = Callable[[Usage], None] | None


def checked_image(path: str | Path, stop: threading.Event | None = None, on_usage: OnUsage = None) -> Picture:
    """``images.read_image`` of a file. Raises BadInput."""
    picture: Picture = in_worker(read_image, _absolute(path), stop=stop, on_usage=on_usage)[0]
    return picture


def checked_image_bytes(data: bytes, name: str = "", stop: threading.Event | None = None) -> Picture:
    """``images.read_image`` of a file's bytes. Raises BadInput."""
    picture: Picture = in_worker(read_image, data, name, stop=stop)[0]
    return picture


def checked_probe(
    path: str | Path | bytes, stop: threading.Event | None = None, on_usage: OnUsage = None
) -> VideoFacts:
    """``video.probe`` of a file or its bytes. Raises BadInput."""
    facts: VideoFacts = in_worker(probe, _absolute(path), kind="video", stop=stop, on_usage=on_usage)[0]
    return facts


def checked_video(
    path: str | Path | bytes,
    pick: Callable[[VideoFacts], Sequence[int]],
    name: str = "",
    stop: threading.Event | None = None,
    on_usage: OnUsage = None,
) -> Video:
    """``video.read_video`` of a file or its bytes; ``pick`` is called here. Raises BadInput."""
    indices = tuple(int(number) for number in pick(checked_probe(path, stop, on_usage)))
    parts = in_worker(sampled_frames, _absolute(path), indices, kind="video", stop=stop, on_usage=on_usage)
    if not isinstance(path, bytes):
        name = name or Path(path).name
    return assembled(parts, indices, name)


def _absolute(path: str | Path | bytes) -> str | bytes:
    """A path that means the same in a process that was started in another folder."""
    if isinstance(path, bytes):
        return path
    try:
        return os.path.join(os.getcwd(), path)
    except OSError:  # this folder was deleted
        return str(path)
