"""How many samples an MP4 or MOV file claims to hold, counted before FFmpeg believes it and reserves memory for each.

A few bytes can claim millions of frames. FFmpeg looks for the boxes that do almost anywhere but in the media data, so
they are searched for everywhere else, not only where they belong.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

MAX_SAMPLES = 200_000
"""Frames and pieces of sound: of ten minutes there are 36,000 and 30,000."""
MAX_INDEX_BYTES = 32_000_000
_DATA = (b"mdat", b"free", b"skip", b"wide")
# Bytes between the name of a box and the number of its samples.
_COUNTS = ((b"stsz", 8), (b"stz2", 8), (b"trun", 4))


def claims_too_much(file: BinaryIO) -> bool:
    """Whether the file claims more samples than a video within the limits has, or hides its index. Rewinds the file."""
    samples = n_bytes = 0
    for payload in _top_boxes(file):
        n_bytes += len(payload)
        if b"cmov" in payload or n_bytes > MAX_INDEX_BYTES:
            return True
        for track in payload.split(b"trak"):
            samples += 0 if _is_plain_sound(track) else _claimed(track)
    file.seek(0)
    return samples > MAX_SAMPLES


def _top_boxes(file: BinaryIO) -> list[bytes]:
    """The outermost boxes from their names on, but for those with media data; as far as the file goes."""
    boxes: list[bytes] = []
    n_bytes = 0
    file.seek(0)
    while len(head := file.read(8)) == 8 and n_bytes <= MAX_INDEX_BYTES:
        size, name = struct.unpack(">I4s", head)
        left = size - 8
        if size == 1:
            wide = file.read(8)
            left = int.from_bytes(wide, "big") - 16
        if size == 0:
            left = MAX_INDEX_BYTES + 1
        if left < 0:
            break
        if name in _DATA:
            file.seek(min(left, 2**62), 1)
            continue
        content = file.read(min(left, MAX_INDEX_BYTES + 1))
        n_bytes += 8 + len(content)
        boxes.append(name + content)
    return boxes


def _claimed(content: bytes) -> int:
    total = 0
    for name, offset in _COUNTS:
        at = content.find(name)
        while at >= 0:
            number = content[at + 4 + offset : at + 8 + offset]
            total += int.from_bytes(number, "big")
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
