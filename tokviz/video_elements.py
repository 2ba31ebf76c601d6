"""How many parts a Matroska, WebM or AVI file has beside its frames, counted before FFmpeg takes them all in.

Tags, chapters and entries of an index cost FFmpeg the square of their number; files of a few megabytes took minutes.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

MAX_ELEMENTS = 300_000
"""Elements of a Matroska file but for those in clusters of known length: blocks of streamed files are among them."""
MAX_AVI_CHUNKS = 10_000
"""Chunks of an AVI file outside of its frames and their index."""
_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_TAG, _CHAPTER, _CUE = 0x67C8, 0xB6, 0xBB
_HOLDERS = frozenset((_SEGMENT, 0x1254C367, 0x7373, _TAG, 0x1043A770, 0x45B9, _CHAPTER, 0x1C53BB6B))
"""Segment, Tags, Tag, SimpleTag, Chapters, EditionEntry, ChapterAtom, Cues."""
_MOST = {_TAG: 5_000, _CHAPTER: 2_000, _CUE: 50_000}
_UNKNOWN = -1


def matroska_claims_too_much(file: BinaryIO) -> bool:
    """Whether there are more tags, chapters, cues or elements than a video within the limits has. Rewinds the file."""
    count, counts = 0, dict.fromkeys(_MOST, 0)
    file.seek(0)
    while (head := _element(file)) is not None:
        name, size = head
        count += 1
        if name in counts:
            counts[name] += 1
            if counts[name] > _MOST[name]:
                break
        if count > MAX_ELEMENTS:
            break
        # What an element holds comes right behind its head: to look into it is to go on there.
        if name in _HOLDERS or (name == _CLUSTER and size == _UNKNOWN):
            continue
        if size == _UNKNOWN:
            break
        file.seek(size, 1)
    file.seek(0)
    return count > MAX_ELEMENTS or any(counts[name] > most for name, most in _MOST.items())


def _element(file: BinaryIO) -> tuple[int, int] | None:
    """Name and length of the element that begins here; None at the end of the file, and where there is none."""
    name, size = _number(file, 4, marked=True), _number(file, 8, marked=False)
    return None if name is None or size is None else (name, size)


def _number(file: BinaryIO, longest: int, marked: bool) -> int | None:
    """A number that says its own length in bytes by the place of its first bit; ``marked``: with that bit."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    rest = file.read(length - 1)
    if length > longest or len(rest) < length - 1:
        return None
    number = int.from_bytes(first + rest, "big")
    if marked:
        return number
    number &= (1 << 7 * length) - 1
    return _UNKNOWN if number == (1 << 7 * length) - 1 else number


def avi_claims_too_much(file: BinaryIO) -> bool:
    """Whether there are more chunks beside the frames than a video has. Rewinds the file."""
    count = 0
    file.seek(0)
    while len(head := file.read(8)) == 8 and count <= MAX_AVI_CHUNKS:
        name, size = struct.unpack("<4sI", head)
        count += 1
        # Lists are looked into, but not those of frames.
        if name in (b"RIFF", b"LIST") and file.read(4) != b"movi":
            continue
        file.seek(size + size % 2 - (4 if name in (b"RIFF", b"LIST") else 0), 1)
    file.seek(0)
    return count > MAX_AVI_CHUNKS
