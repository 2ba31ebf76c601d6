"""How an image file is built, looked at before a decoder believes it: small files can cost minutes and gigabytes.

Decoders do what a file says: walk over all pixels once per scan, read a tag's value as often as tags point to it, join
comments one by one. Here parts are counted, one quick pass over the file, and a file with far more of them than any
camera or program writes is refused.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from ..errors import BadInput

TOO_MANY_PARTS = (
    "The image file is built of far more parts than an image needs and is not opened; "
    "please save it again with another program."
)
MAX_SCANS = 200
"""Passes over the pixels of a JPEG; encoders write 10, the most thorough ones less than 100."""
MAX_SEGMENTS = 2_000
MAX_EXIF_SEGMENTS = 32
MAX_JUNK_BYTES = 1_000_000
"""Bytes between the segments of a JPEG, which Pillow skips one by one."""
MAX_CHUNKS = 100_000
MAX_ZIPPED_TEXTS = 500
MAX_ZIPPED_PROFILES = 16
MAX_GIF_BLOCKS = 500_000
MAX_COMMENT_BYTES = 256_000
"""Pillow joins the comments of a GIF one to another, which takes the square of their number."""
MAX_EXTENSIONS = 5_000
MAX_EXTENSION_BYTES = 4_000_000
MAX_TAGS = 10_000
MAX_NUMBERS = 500_000
"""Numbers under one tag of a TIFF: no image of 25 megapixels has more strips or tiles."""
MAX_RUN_LENGTH_BYTES = 10_000_000
"""A BMP with run lengths is decoded in Python, run by run."""
_TAG_SLACK = 65_536
"""Values of tags may share bytes; all of them together are hardly longer than the file."""
_UNITS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
"""Bytes of one value of each TIFF type."""
_RAW_TYPES = (1, 2, 7)
_SUB_DIRECTORIES = (0x8769, 0x8825, 0xA005)
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")

Size = tuple[int, int]


def check_structure(data: bytes, kind: str) -> Size | None:
    """Count the parts of an image file; kind as Pillow calls the format. Raises BadInput where they are too many.

    Returns width and height where the file says them to a decoder earlier than Pillow says them to us: they must be
    checked before it is opened.
    """
    look = _LOOKS.get(kind)
    return None if look is None else look(data)


def check_exif(block: bytes) -> None:
    """Raises BadInput for an EXIF block whose entries claim more than there is."""
    if block.startswith(b"Exif\x00\x00"):
        block = block[6:]
    _check_directories(block)


def _check(count: int, limit: int) -> None:
    if count > limit:
        raise BadInput(TOO_MANY_PARTS)


def _jpeg(data: bytes) -> None:
    """Segments up to the end of the (first) image; a marker inside of coded pixels is one for the decoder, too."""
    at, n_segments, n_scans, n_junk = 2, 0, 0, 0
    exif: list[bytes] = []
    while found := _MARKER.search(data, at):
        if not n_scans:
            n_junk += found.start() - at
        at, code = found.end(), data[found.end() - 1]
        if code == 0xD9:
            break
        n_segments += 1
        if code not in (0x01, 0xD8):
            length = max(int.from_bytes(data[at : at + 2], "big"), 2)
            content = data[at + 2 : at + length]
            at += length
            n_scans += code == 0xDA
            if code == 0xE1 and content.startswith(b"Exif\0\0"):
                exif.append(content[6:])
            elif code == 0xE2 and content.startswith(b"MPF\0"):
                _check_directories(content[4:])
        _check(n_segments, MAX_SEGMENTS)
        _check(n_scans, MAX_SCANS)
        _check(n_junk, MAX_JUNK_BYTES)
        _check(len(exif), MAX_EXIF_SEGMENTS)
    _check_directories(b"".join(exif))


def _png(data: bytes) -> None:
    at = 8
    counts = {b"": 0, b"iCCP": 0, b"text": 0}
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        at += 12 + length
        counts[b""] += 1
        if name == b"iCCP":
            counts[b"iCCP"] += 1
        elif name in (b"zTXt", b"iTXt"):
            counts[b"text"] += 1
        _check(counts[b""], MAX_CHUNKS)
        _check(counts[b"iCCP"], MAX_ZIPPED_PROFILES)
        _check(counts[b"text"], MAX_ZIPPED_TEXTS)
        if name == b"IEND":
            return


def _gif(data: bytes) -> Size | None:
    """Blocks up to the second frame, which tells whether the file is animated; size with what the first frame adds."""
    if len(data) < 13:
        return None
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + _colours(flags)
    n_blocks = n_extensions = n_bytes = n_comment_bytes = n_frames = 0
    while at < len(data):
        introducer, start = data[at], at + 1
        if introducer == 0x21:
            n_extensions += 1
            is_comment = data[start : start + 1] == b"\xfe"
            at, blocks = _past_blocks(data, start + 1, n_blocks)
            n_blocks += blocks
            n_bytes += at - start
            n_comment_bytes += (at - start) if is_comment else 0
        elif introducer == 0x2C:
            if n_frames or start + 9 > len(data):
                break
            n_frames += 1
            left, top, across, down, flags = struct.unpack_from("<HHHHB", data, start)
            width, height = max(width, left + across), max(height, top + down)
            at, blocks = _past_blocks(data, start + 9 + _colours(flags) + 1, n_blocks)
            n_blocks += blocks
        elif introducer == 0x3B:
            break
        else:  # Pillow skips what it does not know, byte by byte
            n_blocks += 1
            at = start
        _check(n_blocks, MAX_GIF_BLOCKS)
        _check(n_extensions, MAX_EXTENSIONS)
        _check(n_comment_bytes, MAX_COMMENT_BYTES)
        _check(n_bytes, MAX_EXTENSION_BYTES)
    return width, height


def _colours(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _past_blocks(data: bytes, at: int, before: int) -> tuple[int, int]:
    """The place behind a row of blocks of at most 255 bytes, and how many they were."""
    count = 0
    while at < len(data) and data[at]:
        at += data[at] + 1
        count += 1
        if before + count > MAX_GIF_BLOCKS:
            raise BadInput(TOO_MANY_PARTS)
    return at + 1, count


def _check_directories(data: bytes) -> None:
    """The first directory of a TIFF file or EXIF block and those that it points to; what lies outside is not looked at.

    Pillow reads the value of every entry when it opens a directory, however many point to the same bytes.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        return
    big = 43 in (data[2], data[3])
    try:
        (first,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
        below = _claimed(data, first, order, big)
        for offset in below:
            _claimed(data, offset, order, big)
    except struct.error:  # it ends in the middle of a directory: Pillow reads what there is, and says so
        return


def _claimed(data: bytes, at: int, order: str, big: bool) -> list[int]:
    """The directories that one points to. Raises BadInput where its entries claim more than there is."""
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
    at += 8 if big else 2
    step, layout, inline = (20, order + "HHQQ", 8) if big else (12, order + "HHII", 4)
    total, below = 0, list[int]()
    # A classic directory holds at most 65,535 entries; each is read, be it the same tag again.
    for _ in range(min(count, MAX_TAGS + 1)):
        tag, kind, number, value = struct.unpack_from(layout, data, at)
        at += step
        size = number * _UNITS.get(kind, 0)
        if size > inline:
            total += size
        if kind not in _RAW_TYPES:
            _check(number if size else 0, MAX_NUMBERS)
        if tag in _SUB_DIRECTORIES:
            below.append(value)
            if tag == _SUB_DIRECTORIES[0] and value < len(data):
                below += _interop(data, value, order, big)
        _check(total, len(data) + _TAG_SLACK)
    _check(count, MAX_TAGS)
    return below[: len(_SUB_DIRECTORIES)]


def _interop(data: bytes, at: int, order: str, big: bool) -> list[int]:
    """The directory of interoperability, which hangs below that of EXIF."""
    marker = struct.pack(order + "HH", _SUB_DIRECTORIES[2], 4)
    found = data.find(marker, at, at + MAX_TAGS * 20)
    if found < 0 or found + 12 > len(data):
        return []
    return [int(struct.unpack_from(order + ("Q" if big else "I"), data, found + (12 if big else 8))[0])]


def _bmp(data: bytes) -> None:
    runs = len(data) >= 34 and struct.unpack_from("<I", data, 14)[0] >= 40 and data[30] in (1, 2)
    if runs:
        _check(len(data), MAX_RUN_LENGTH_BYTES)


def _webp(data: bytes) -> Size | None:
    """The canvas, for which memory is reserved as soon as the file is opened."""
    name, content = data[12:16], data[20:30]
    if len(content) < 10:
        return None
    if name == b"VP8X":
        return 1 + int.from_bytes(content[4:7], "little"), 1 + int.from_bytes(content[7:10], "little")
    if name == b"VP8L":
        bits = int.from_bytes(content[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if name == b"VP8 ":
        width, height = struct.unpack_from("<HH", content, 6)
        return width & 0x3FFF, height & 0x3FFF
    return None


_LOOKS: dict[str, Callable[[bytes], Size | None]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "GIF": _gif,
    "TIFF": _check_directories,
    "BMP": _bmp,
    "WEBP": _webp,
}
