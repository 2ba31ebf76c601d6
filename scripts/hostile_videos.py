"""Videos that a hostile client may send: floods of boxes, elements and chunks, files that lie, good files cut short."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from functools import cache

import av
import numpy as np

Maker = Callable[[], bytes]


def videos() -> Iterator[tuple[str, Maker]]:
    """``(file name, function that makes its bytes)``."""
    yield "free_boxes.mp4", lambda: clip("mp4") + box(b"free") * 4_000_000
    yield "unknown_boxes.mp4", lambda: clip("mp4") + box(b"abcd") * 3_500_000
    yield "boxes_in_moov.mp4", lambda: inside(b"moov", box(b"abcd") * 3_500_000)
    yield "deep_boxes.mp4", lambda: inside(b"moov", nested(b"minf", 100_000))
    yield "deep_boxes_at_the_end.mp4", lambda: clip("mp4") + nested(b"moov", 20_000)
    yield "metadata.mp4", lambda: inside(b"moov", box(b"udta", texts(400_000)))
    yield "protection_systems.mp4", lambda: inside(b"moov", protection(200_000))
    yield "tracks.mp4", lambda: inside(b"moov", box(b"trak") * 500_000)
    yield "track_floods.mp4", lambda: inside(b"moov", box(b"trak", box(b"tkhd", bytes(84))) * 200_000)
    yield "fragments.mp4", lambda: clip("mp4") + fragment() * 100_000
    yield "segment_indexes.mp4", lambda: clip("mp4") + segment_index() * 200_000
    yield "chapters.mp4", lambda: inside(b"moov", box(b"udta", chapters(60_000)))
    yield "edits.mp4", lambda: inside(b"trak", box(b"edts", edits(1_000_000)))
    yield "long_times.mp4", lambda: lying_times()
    yield "ten_million_samples.mp4", lambda: many_samples()
    yield "descriptions.mp4", lambda: inside(b"stbl", box(b"stsd", struct.pack(">II", 0, 300_000) + entry() * 300_000))
    yield "tags.mkv", lambda: flood_matroska(tags(300_000))
    yield "empty_elements.mkv", lambda: flood_matroska(b"\xec\x80" * 10_000_000)
    yield "cues_backwards.mkv", lambda: flood_matroska(cues(400_000))
    yield "chapters.mkv", lambda: flood_matroska(matroska_chapters(150_000))
    yield "attachments.mkv", lambda: flood_matroska(attachments(200_000))
    yield "tracks.mkv", lambda: flood_matroska(matroska_tracks(200_000))
    yield "seek_heads.mkv", lambda: flood_matroska(seek_heads(300_000))
    yield "clusters.mkv", lambda: clip("matroska") + element(b"\x1f\x43\xb6\x75", element(b"\xe7", b"\0")) * 2_000_000
    yield (
        "blocks.mkv",
        lambda: clip("matroska") + element(b"\x1f\x43\xb6\x75", element(b"\xa3", b"\x99\0\0\0") * 3_000_000),
    )
    yield "information.avi", lambda: inside_avi(information(500_000))
    yield "index.avi", lambda: clip("avi") + chunk(b"idx1", avi_index(3_000_000))
    yield "chunks.avi", lambda: more_movie(chunk(b"99wb", b"") * 4_000_000)
    yield "frames.avi", lambda: more_movie(chunk(b"00dc", b"") * 4_000_000)
    yield "lists.avi", lambda: inside_avi(chunk(b"LIST", b"abcd") * 1_000_000)
    yield "huge_frames.avi", lambda: huge_avi()
    yield "long_decoding.avi", lambda: same_frame_again(900)
    for kind in ("mp4", "webm", "avi"):
        for percent in (10, 50, 90, 99):
            yield f"cut_{percent}.{kind}", lambda kind=kind, percent=percent: cut(kind, percent)  # type: ignore[misc]


@cache
def clip(kind: str, count: int = 12) -> bytes:
    """A short good video of changing greys."""
    codec = {"mp4": "libx264", "webm": "libvpx-vp9", "matroska": "libx264", "avi": "mjpeg"}[kind]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number in range(count):
            pixels = np.full((48, 64, 3), 10 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def cut(kind: str, percent: int) -> bytes:
    """A good file, cut short."""
    data = clip(kind)
    return data[: len(data) * percent // 100]


# --- MP4 -------------------------------------------------------------------------------------------------------------


def box(name: bytes, content: bytes = b"") -> bytes:
    """A box."""
    return struct.pack(">I", len(content) + 8) + name + content


def nested(name: bytes, depth: int) -> bytes:
    """Boxes in boxes."""
    return b"".join(struct.pack(">I", 8 * (depth - level)) + name for level in range(depth))


def inside(name: bytes, content: bytes) -> bytes:
    """The good clip with more in its last box of that name; those around it grow, too."""
    data = clip("mp4")
    at = data.rindex(name) - 4
    end = at + struct.unpack_from(">I", data, at)[0]
    grown = bytearray(data[:end] + content + data[end:])
    for outer in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        start = data.rfind(outer) - 4
        if start <= at and start + struct.unpack_from(">I", data, start)[0] >= end:
            struct.pack_into(">I", grown, start, struct.unpack_from(">I", data, start)[0] + len(content))
    return bytes(grown)


def texts(count: int) -> bytes:
    """Entries of metadata, each of another name."""
    key = struct.Struct(">I")
    names = box(b"keys", bytes(4) + key.pack(count) + b"".join(box(b"mdta", b"%06x" % n) for n in range(count)))
    values = b"".join(box(key.pack(n + 1), box(b"data", b"\0\0\0\x01\0\0\0\0" + b"x")) for n in range(count))
    handler = box(b"hdlr", bytes(8) + b"mdta" + bytes(13))
    return box(b"meta", bytes(4) + handler + names + box(b"ilst", values))


def protection(count: int) -> bytes:
    """Entries of protection systems, each another one."""
    return b"".join(box(b"pssh", bytes(4) + n.to_bytes(16, "big") + bytes(4)) for n in range(count))


def fragment() -> bytes:
    """A fragment with nothing in it."""
    header = box(b"tfhd", struct.pack(">II", 0, 1))
    return box(b"moof", box(b"mfhd", bytes(8)) + box(b"traf", header + box(b"trun", bytes(8))))


def segment_index() -> bytes:
    """An index of one segment."""
    return box(b"sidx", bytes(4) + struct.pack(">IIIIHH", 1, 25, 0, 0, 0, 1) + struct.pack(">III", 8, 1, 0))


def chapters(count: int) -> bytes:
    """Chapters whose times go backwards."""
    body = b"".join(struct.pack(">QB", 10**9 - n, 1) + b"x" for n in range(count))
    return box(b"chpl", b"\x01" + bytes(7) + bytes([255]) + body)


def edits(count: int) -> bytes:
    """A list of edits."""
    return box(b"elst", bytes(4) + struct.pack(">I", count) + struct.pack(">IiI", 1, 0, 65536) * count)


def entry() -> bytes:
    """A description of H.264 samples."""
    return box(b"avc1", bytes(78))


def lying_times() -> bytes:
    """A clip one of whose frames lasts for days."""
    data = clip("mp4")
    at = data.index(b"stts") + 8
    return data[:at] + struct.pack(">III", 1, 12, 2**31 - 1)[:12] + data[at + 12 :]


def many_samples() -> bytes:
    """A clip that claims ten million frames of equal size."""
    data = bytearray(clip("mp4"))
    struct.pack_into(">II", data, data.index(b"stsz") + 8, 1, 10**7)
    struct.pack_into(">III", data, data.index(b"stts") + 8, 1, 10**7, 1)
    return bytes(data)


# --- Matroska --------------------------------------------------------------------------------------------------------


def element(name: bytes, content: bytes) -> bytes:
    """An element, its size in eight bytes."""
    return name + b"\x01" + len(content).to_bytes(7, "big") + content


def flood_matroska(content: bytes) -> bytes:
    """The good clip's segment with something more before its first cluster."""
    data = clip("matroska")
    segment = data.index(b"\x18\x53\x80\x67")
    head = data[:segment]
    body = data[segment + 12 :]
    cluster = body.index(b"\x1f\x43\xb6\x75")
    return head + element(b"\x18\x53\x80\x67", body[:cluster] + content + body[cluster:])


def tags(count: int) -> bytes:
    """Tags, each of another name."""
    one = b"".join(
        element(b"\x67\xc8", element(b"\x45\xa3", b"N%06x" % n) + element(b"\x44\x87", b"x")) for n in range(count)
    )
    return element(b"\x12\x54\xc3\x67", element(b"\x73\x73", one))


def cues(count: int) -> bytes:
    """An index whose times go backwards."""
    return element(
        b"\x1c\x53\xbb\x6b",
        b"".join(
            element(
                b"\xbb",
                element(b"\xb3", (count - n).to_bytes(4, "big"))
                + element(b"\xb7", element(b"\xf7", b"\x01") + element(b"\xf1", n.to_bytes(4, "big"))),
            )
            for n in range(count)
        ),
    )


def matroska_chapters(count: int) -> bytes:
    """Chapters with numbers of their own whose times go backwards."""
    atoms = b"".join(
        element(
            b"\xb6", element(b"\x73\xc4", (count - n).to_bytes(4, "big")) + element(b"\x91", (n + 1).to_bytes(4, "big"))
        )
        for n in range(count)
    )
    return element(b"\x10\x43\xa7\x70", element(b"\x45\xb9", atoms))


def attachments(count: int) -> bytes:
    """Attached files."""
    one = element(
        b"\x61\xa7",
        element(b"\x46\x6e", b"a") + element(b"\x46\x60", b"text/plain") + element(b"\x46\x5c", b"x")
        + element(b"\x46\xae", b"\x07"),
    )  # fmt: skip
    return element(b"\x19\x41\xa4\x69", one * count)


def matroska_tracks(count: int) -> bytes:
    """Tracks of sound."""
    one = element(b"\xae", element(b"\xd7", b"\x05") + element(b"\x83", b"\x02") + element(b"\x86", b"A_PCM/INT/LIT"))
    return element(b"\x16\x54\xae\x6b", one * count)


def seek_heads(count: int) -> bytes:
    """Pointers to elsewhere."""
    one = element(b"\x4d\xbb", element(b"\x53\xab", b"\x11\x4d\x9b\x74") + element(b"\x53\xac", b"\x00"))
    return element(b"\x11\x4d\x9b\x74", one * count)


# --- AVI -------------------------------------------------------------------------------------------------------------


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk, padded to an even length."""
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def inside_avi(content: bytes) -> bytes:
    """The good clip with more before its frames."""
    data = clip("avi")
    at = data.index(b"movi") - 8
    grown = data[:at] + content + data[at:]
    return grown[:4] + struct.pack("<I", len(grown) - 8) + grown[8:]


def more_movie(content: bytes) -> bytes:
    """The good clip with more behind its frames, and no index."""
    data = clip("avi")
    at = data.index(b"movi") - 4
    end = at + 4 + struct.unpack_from("<I", data, at)[0]
    grown = data[:at] + struct.pack("<I", end - at - 4 + len(content)) + data[at + 4 : end] + content
    return grown[:4] + struct.pack("<I", len(grown) - 8) + grown[8:]


def information(count: int) -> bytes:
    """Entries of metadata, each of another name."""
    letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef"
    names = (bytes(letters[n >> shift & 31] for shift in (15, 10, 5, 0)) for n in range(count))
    return chunk(b"LIST", b"INFO" + b"".join(chunk(name, b"x\0") for name in names))


def avi_index(count: int) -> bytes:
    """An index of frames that all lie at the same place."""
    return struct.pack("<4sIII", b"00dc", 16, 4, 100) * count


def huge_avi() -> bytes:
    """A clip whose header says 64 × 48 px and whose frames have many more."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 4096, 3072, "yuvj420p"
        frame = av.VideoFrame.from_ndarray(np.full((3072, 4096, 3), 128, np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    data = bytearray(buffer.getvalue())
    struct.pack_into("<II", data, data.index(b"strf") + 12, 64, 48)
    return bytes(data)


def same_frame_again(count: int) -> bytes:
    """A good clip of large frames, of which the last one is found only by decoding all."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (2304 // 256, 4096 // 256, 3), np.uint8)
    with av.open(buffer, "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 4096, 2304, "yuvj420p"
        frame = av.VideoFrame.from_ndarray(pixels.repeat(256, 0).repeat(256, 1), format="rgb24")
        (packet,) = [*stream.encode(frame), *stream.encode()]
        content = bytes(packet)
        for number in range(min(count, 95_000_000 // len(content))):
            one = av.Packet(content)
            one.stream, one.pts, one.dts, one.is_keyframe = stream, number, number, True
            one.time_base = stream.codec_context.time_base
            container.mux(one)
    return buffer.getvalue()
