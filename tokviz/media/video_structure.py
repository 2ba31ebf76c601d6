"""How much a video file claims to hold, counted before FFmpeg believes it and reserves memory for each piece.

A few bytes of an MP4 or MOV file can claim millions of frames, and some pieces cost FFmpeg the square of their number,
as tags, chapters and entries of an index of a Matroska, WebM or AVI file do. FFmpeg looks for the boxes of an MP4 that
do almost anywhere but in the media data, so they are searched for everywhere else, not only where they belong.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

MAX_SAMPLES = 200_000
"""Frames and pieces of sound: of ten minutes there are 36,000 and 30,000."""
MAX_INDEX_BYTES = 32_000_000
MAX_BOXES = 200_000
"""A file in fragments has a few boxes for each of them, in the extreme for each frame."""
MAX_EDITS = 5_000
_MOST_BOXES = ((b"pssh", 500), (b"data", 5_000), (b"sidx", 10_000), (b"uuid", 10_000), (b"chpl", 100))
"""Boxes that FFmpeg compares with all earlier ones, or looks up: systems of protection, texts, indexes, chapters."""
_DATA = (b"mdat", b"free", b"skip", b"wide")
# Bytes between the name of a box and the number of its samples.
_SAMPLES = ((b"stsz", 8), (b"stz2", 8), (b"trun", 4))
_BOX_HOLDERS = frozenset(
    b"moov trak mdia minf stbl dinf edts udta meta ilst moof traf mvex mfra tref sinf schi iprp ipco ---- clip matt"
    b" rmra rmda gmhd tapt imap".split()
)
MAX_ELEMENTS = 300_000
"""Elements of a Matroska file but for those in clusters of known length: blocks of streamed files are among them."""
MAX_AVI_CHUNKS = 10_000
"""Chunks of an AVI file outside of its frames and their index."""
_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_TAG, _CHAPTER, _CUE = 0x67C8, 0xB6, 0xBB
_MATROSKA_HOLDERS = frozenset((_SEGMENT, 0x1254C367, 0x7373, _TAG, 0x1043A770, 0x45B9, _CHAPTER, 0x1C53BB6B))
"""Segment, Tags, Tag, SimpleTag, Chapters, EditionEntry, ChapterAtom, Cues."""
_MOST_ELEMENTS = {_TAG: 5_000, _CHAPTER: 2_000, _CUE: 50_000}
_UNKNOWN = -1


def claims_too_much(file: BinaryIO, kind: str) -> bool:
    """Whether a file claims more than a video within the limits has, or hides its index. Rewinds the file.

    ``kind`` as FFmpeg calls the format: "mov", "matroska" or "avi".
    """
    look = {"mov": _mov_claims_too_much, "matroska": _matroska_claims_too_much, "avi": _avi_claims_too_much}[kind]
    file.seek(0)
    try:
        return look(file)
    finally:
        file.seek(0)


def _mov_claims_too_much(file: BinaryIO) -> bool:
    samples = n_bytes = n_boxes = n_edits = 0
    found = dict.fromkeys((name for name, _ in _MOST_BOXES), 0)
    for payload in _top_boxes(file):
        n_boxes += 1
        if n_boxes > MAX_BOXES:
            return True
        if payload is None:
            continue
        n_bytes += len(payload)
        if b"cmov" in payload or n_bytes > MAX_INDEX_BYTES:
            return True
        n_boxes += _boxes_in(payload, MAX_BOXES - n_boxes)
        n_edits += _claimed(payload, b"elst", 4)
        for name in found:
            found[name] += payload.count(name)
        for track in payload.split(b"trak"):
            samples += 0 if _is_plain_sound(track) else sum(_claimed(track, *where) for where in _SAMPLES)
    return (
        samples > MAX_SAMPLES
        or n_boxes > MAX_BOXES
        or n_edits > MAX_EDITS
        or any(found[name] > most for name, most in _MOST_BOXES)
    )


def _top_boxes(file: BinaryIO) -> Iterator[bytes | None]:
    """The outermost boxes from their names on, None for those with media data; as far as the file goes."""
    n_bytes = 0
    while len(head := file.read(8)) == 8 and n_bytes <= MAX_INDEX_BYTES:
        size, name = struct.unpack(">I4s", head)
        left = size - 8
        if size == 1:
            wide = file.read(8)
            left = int.from_bytes(wide, "big") - 16
        if size == 0:
            left = MAX_INDEX_BYTES + 1
        if left < 0:
            return
        if name in _DATA:
            file.seek(min(left, 2**62), 1)
            yield None
            continue
        content = file.read(min(left, MAX_INDEX_BYTES + 1))
        n_bytes += 8 + len(content)
        yield name + content


def _boxes_in(payload: bytes, at_most: int) -> int:
    """How many boxes lie in an outermost one, in those that hold others; counting ends above ``at_most``."""
    count, ranges = 0, [(0, len(payload), payload[:4])]
    while ranges:
        at, end, name = ranges.pop()
        if name not in _BOX_HOLDERS:
            continue
        # A box begins with its size but for the outermost, of which only the name is here.
        at += 4 if at == 0 else 8
        if name == b"meta" and payload[at : at + 4] == b"\0\0\0\0":
            at += 4
        while at + 8 <= end and count <= at_most:
            size, inner = struct.unpack_from(">I4s", payload, at)
            if size == 1 and at + 16 <= end:
                size = int.from_bytes(payload[at + 8 : at + 16], "big")
            if size < 8:
                break
            count += 1
            if inner in _BOX_HOLDERS:
                ranges.append((at, min(at + size, end), inner))
            at += size
    return count


def _claimed(content: bytes, name: bytes, offset: int) -> int:
    """The sum of the numbers that lie ``offset`` bytes behind each place where the name of a box stands."""
    total, at = 0, content.find(name)
    while at >= 0:
        total += int.from_bytes(content[at + 4 + offset : at + 8 + offset], "big")
        at = content.find(name, at + 4)
    return total


def _is_plain_sound(track: bytes) -> bool:
    """Uncompressed sound: one sample per 1/48,000 s, which FFmpeg takes in by the chunk."""
    times = track.split(b"stts")[1:]
    return (
        b"soun" in track
        and b"vide" not in track
        and bool(times)
        and all(time[4:8] == time[12:16] == b"\x00\x00\x00\x01" for time in times)
    )


def _matroska_claims_too_much(file: BinaryIO) -> bool:
    """Whether there are more tags, chapters, cues or elements than a video within the limits has."""
    count, counts = 0, dict.fromkeys(_MOST_ELEMENTS, 0)
    while (head := _element(file)) is not None:
        name, size = head
        count += 1
        if name in counts:
            counts[name] += 1
            if counts[name] > _MOST_ELEMENTS[name]:
                break
        if count > MAX_ELEMENTS:
            break
        # What an element holds comes right behind its head: to look into it is to go on there.
        if name in _MATROSKA_HOLDERS or (name == _CLUSTER and size == _UNKNOWN):
            continue
        if size == _UNKNOWN:
            break
        file.seek(size, 1)
    return count > MAX_ELEMENTS or any(counts[name] > most for name, most in _MOST_ELEMENTS.items())


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


def _avi_claims_too_much(file: BinaryIO) -> bool:
    """Whether there are more chunks beside the frames than a video has."""
    count = 0
    while len(head := file.read(8)) == 8 and count <= MAX_AVI_CHUNKS:
        name, size = struct.unpack("<4sI", head)
        count += 1
        # Lists are looked into, but not those of frames.
        if name in (b"RIFF", b"LIST") and file.read(4) != b"movi":
            continue
        file.seek(size + size % 2 - (4 if name in (b"RIFF", b"LIST") else 0), 1)
    return count > MAX_AVI_CHUNKS
