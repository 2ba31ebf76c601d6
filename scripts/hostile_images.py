"""Images that a hostile client may send: small files that cost much, files that lie, good files cut short.

Everything is made from fixed numbers, so that two machines make the same files.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

SIDE = 4990
"""Just inside the limit of 25 megapixels."""
Maker = Callable[[], bytes]


def images() -> Iterator[tuple[str, Maker]]:
    """``(file name, function that makes its bytes)``; some take a second to make."""
    yield "repeated_scans.jpg", lambda: repeated_scans(161_000)
    yield "repeated_scans_small.jpg", lambda: repeated_scans(3_000_000, side=400)
    yield "scans_within_the_limit.jpg", lambda: repeated_scans(0, at_most=180)
    yield "many_segments.jpg", lambda: many_segments(1_500_000)
    yield "overlapping_exif.jpg", overlapping_exif
    yield "progressive_444.jpg", lambda: encoded(noise(SIDE, SIDE), "JPEG", quality=30, subsampling=0, progressive=True)
    yield "cmyk.jpg", lambda: encoded(Image.new("CMYK", (SIDE, SIDE), (9, 80, 3, 20)), "JPEG", progressive=True)
    yield "many_pages.tif", lambda: many_pages(7_000_000)
    yield "overlapping_tags.tif", lambda: overlapping_tags(6_000_000)
    yield "many_strips.tif", lambda: many_strips(3_000_000)
    yield "long_colour_map.tif", lambda: long_array(320, 5_000_000)
    yield "lzw_bomb.tif", lambda: encoded(Image.new("RGB", (SIDE, SIDE)), "TIFF", compression="tiff_lzw")
    yield "float.tif", lambda: encoded(Image.new("F", (SIDE, SIDE), 0.5), "TIFF", compression="tiff_adobe_deflate")
    yield "int32.tif", lambda: encoded(Image.new("I", (SIDE, SIDE), 70_000), "TIFF", compression="tiff_adobe_deflate")
    yield "comments.gif", lambda: comments(6_000_000)
    yield "comments_between_frames.gif", lambda: comments(6_000_000, behind_a_frame=True)
    yield "tiny_blocks.gif", lambda: tiny_blocks(8_000_000)
    yield "many_frames.gif", lambda: many_frames(3_000_000)
    yield "huge_first_frame.gif", lambda: huge_frame()
    yield "sixteen_bit.png", lambda: encoded(Image.new("I;16", (SIDE, SIDE), 300), "PNG")
    yield "transparent.png", lambda: encoded(Image.new("RGBA", (SIDE, SIDE), (255, 0, 0, 90)), "PNG")
    yield "grey_alpha.png", lambda: encoded(Image.new("LA", (SIDE, SIDE), (255, 90)), "PNG")
    yield "palette_alpha.png", palette_alpha
    yield "bomb.png", lambda: png_bomb(60_000, 60_000)
    yield "bomb_100_megapixels.png", lambda: png_bomb(10_000, 10_000)
    yield "empty_chunks.png", lambda: many_chunks(8_000_000, b"teSt", b"")
    yield "empty_data_chunks.png", lambda: many_chunks(8_000_000, b"IDAT", b"", before=False)
    yield "zipped_texts.png", lambda: many_chunks(3_000_000, b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000), 9))
    yield "zipped_profiles.png", lambda: many_chunks(3_000_000, b"iCCP", b"a\0\0" + broken_zip())
    yield "overlapping_exif.png", lambda: many_chunks(70_000, b"eXIf", overlapping_ifd(60_000), at_most=1)
    yield "run_lengths.bmp", lambda: run_lengths(12_000_000, b"\x01\x07")
    yield "ends_of_line.bmp", lambda: run_lengths(12_000_000, b"\x00\x00")
    yield "large.webp", lambda: encoded(noise(SIDE, SIDE), "WEBP", quality=20, method=0)
    yield (
        "large_lossless_alpha.webp",
        lambda: encoded(Image.new("RGBA", (SIDE, SIDE), (255, 0, 0, 90)), "WEBP", lossless=True, method=0),
    )
    yield "many_frames.webp", lambda: many_webp_frames(4_000_000)
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"):
        for percent in (10, 50, 90, 99):
            yield f"cut_{percent}.{kind.lower()}", lambda kind=kind, percent=percent: cut(kind, percent)  # type: ignore[misc]


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int, height: int, channels: int = 3) -> Image.Image:
    """Pixels that no coder makes small."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8))


def cut(kind: str, percent: int) -> bytes:
    """A good file, cut short."""
    data = encoded(noise(200, 150), kind)
    return data[: len(data) * percent // 100]


def repeated_scans(n_bytes: int, side: int = SIDE, at_most: int = 0) -> bytes:
    """A progressive JPEG whose last scan comes again and again; each is a walk over all coefficients."""
    data = encoded(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    start, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    scan = data[start:end]
    return data[:end] + scan * (at_most or (n_bytes - len(data)) // len(scan)) + data[end:]


def many_segments(count: int) -> bytes:
    """A JPEG with so many empty comments."""
    data = encoded(noise(64, 64), "JPEG")
    return data[:2] + b"\xff\xfe\x00\x02" * count + data[2:]


def overlapping_ifd(n_bytes: int) -> bytes:
    """An EXIF block of which every entry claims most of the block as its value."""
    count = n_bytes // 3 // 12
    head = b"MM\x00\x2a" + struct.pack(">IH", 8, count)
    entries = b"".join(struct.pack(">HHII", 1000 + n, 7, n_bytes - 200, 100) for n in range(count))
    return (head + entries + bytes(4)).ljust(n_bytes, b"\0")


def overlapping_exif() -> bytes:
    """A JPEG with such an EXIF block."""
    block = b"Exif\0\0" + overlapping_ifd(60_000)
    data = encoded(noise(64, 64), "JPEG")
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:]


def _ifd(entries: list[tuple[int, int, int, int]], following: int) -> bytes:
    packed = b"".join(
        struct.pack("<HHI", tag, kind, count) + struct.pack("<I", value) for tag, kind, count, value in sorted(entries)
    )
    return struct.pack("<H", len(entries)) + packed + struct.pack("<I", following)


def _plain_tags(strip: int) -> list[tuple[int, int, int, int]]:
    """Tags of a grey image of 16 × 16 px whose pixels lie at ``strip``."""
    return [
        (256, 3, 1, 16), (257, 3, 1, 16), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, strip),
        (277, 3, 1, 1), (278, 3, 1, 16), (279, 4, 1, 256),
    ]  # fmt: skip


def many_pages(n_bytes: int) -> bytes:
    """A TIFF of many pages that share their pixels."""
    head = b"II\x2a\x00" + struct.pack("<I", 264)
    size = len(_ifd(_plain_tags(8), 0))
    count = (n_bytes - 264) // size
    pages = [_ifd(_plain_tags(8), 264 + (n + 1) * size if n + 1 < count else 0) for n in range(count)]
    return head + bytes(256) + b"".join(pages)


def overlapping_tags(n_bytes: int) -> bytes:
    """A TIFF whose tags all claim the whole file as their value."""
    tags = _plain_tags(8) + [(10_000 + n, 7, n_bytes - 300, 264) for n in range(4_000)]
    return (b"II\x2a\x00" + struct.pack("<I", 264) + bytes(256) + _ifd(tags, 0)).ljust(n_bytes, b"\0")


def many_strips(count: int) -> bytes:
    """A TIFF that claims so many strips, of its sixteen rows."""
    tags = [tag for tag in _plain_tags(8) if tag[0] not in (273, 279)]
    at = 264 + len(_ifd(_plain_tags(8), 0))
    tags += [(273, 4, count, at), (279, 4, count, at)]
    return b"II\x2a\x00" + struct.pack("<I", 264) + bytes(256) + _ifd(tags, 0) + struct.pack("<I", 8) * count


def long_array(tag: int, count: int) -> bytes:
    """A TIFF with so many numbers under one tag."""
    tags = [one if one[0] != 262 else (262, 3, 1, 3) for one in _plain_tags(8)]
    at = 264 + len(_ifd([*tags, (tag, 3, 1, 0)], 0))
    ifd = _ifd([*tags, (tag, 3, count, at)], 0)
    return b"II\x2a\x00" + struct.pack("<I", 264) + bytes(256) + ifd + bytes(2 * count)


def comments(n_bytes: int, behind_a_frame: bool = False) -> bytes:
    """A GIF with many short comments, before its only frame or between its two."""
    data = encoded(Image.new("P", (16, 16)), "GIF")
    frame = data.rindex(b",", 0, -10)
    block = b"!\xfe\x01a\x00" * (n_bytes // 5)
    if behind_a_frame:
        return data[:-1] + block + data[frame:]
    return data[:frame] + block + data[frame:]


def tiny_blocks(n_bytes: int) -> bytes:
    """A GIF whose pixels come in blocks of one byte."""
    data = encoded(Image.new("P", (16, 16)), "GIF")
    return data[:-2] + b"\x01\x00" * (n_bytes // 2) + data[-2:]


def many_frames(n_bytes: int) -> bytes:
    """A GIF of many tiny frames."""
    data = encoded(Image.new("P", (16, 16)), "GIF")
    frame = data[data.rindex(b",", 0, -10) : -1]
    return data[:-1] + frame * (n_bytes // len(frame)) + b";"


def huge_frame() -> bytes:
    """A GIF of 16 × 16 px whose first frame claims 60,000 × 60,000."""
    data = encoded(Image.new("P", (16, 16)), "GIF")
    at = data.rindex(b",", 0, -10)
    return data[: at + 5] + struct.pack("<HH", 60_000, 60_000) + data[at + 9 :]


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def many_chunks(n_bytes: int, name: bytes, content: bytes, before: bool = True, at_most: int = 10**9) -> bytes:
    """A PNG with the same chunk again and again, before or behind its pixels."""
    data = encoded(noise(64, 64), "PNG")
    one = chunk(name, content)
    at = 33 if before else len(data) - 12
    return data[:at] + one * min(n_bytes // len(one), at_most) + data[at:]


def broken_zip() -> bytes:
    """Bytes that unpack to almost a megabyte before they turn out to be damaged."""
    return zlib.compress(bytes(900_000), 9)[:-6] + b"\xff" * 6


def png_bomb(width: int, height: int) -> bytes:
    """A black and white PNG of many pixels in few bytes."""
    data = encoded(Image.new("1", (8, 8)), "PNG")
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return data[:8] + header + data[33:]


def palette_alpha() -> bytes:
    """A PNG of 25 megapixels with a palette, of which one entry is transparent."""
    image = Image.new("P", (SIDE, SIDE))
    image.putpalette([0, 0, 0, 255, 0, 0])
    return encoded(image, "PNG", transparency=0)


def run_lengths(n_bytes: int, run: bytes) -> bytes:
    """A BMP whose pixels are packed as runs that say nothing new."""
    side = 4000
    head = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, n_bytes, 2835, 2835, 256, 0)
    palette = bytes(range(256)) * 4
    offset = 14 + len(head) + len(palette)
    body = run * (n_bytes // len(run))
    return b"BM" + struct.pack("<IHHI", offset + len(body), 0, 0, offset) + head + palette + body


def many_webp_frames(n_bytes: int) -> bytes:
    """An animated WebP of many tiny frames."""
    two = encoded(Image.new("RGB", (16, 16), "red"), "WEBP", save_all=True,
                  append_images=[Image.new("RGB", (16, 16), "blue")])  # fmt: skip
    at = two.rindex(b"ANMF")
    frame = two[at:]
    body = two[8:at] + frame * (n_bytes // len(frame))
    return b"RIFF" + struct.pack("<I", len(body)) + body
