"""Videos of every common format are read frame by frame, exactly; hostile files get a sentence, soon and cheaply."""

import base64
import hashlib
import io
import itertools
import struct
import time
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from clip_files import STEP, coded, grey_frames, number_of, sound_only, with_plain_sound
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from scripts.hostile_videos import videos
from tokviz.errors import BadInput
from tokviz.media import video_decoding, video_structure
from tokviz.media.images import stored_image
from tokviz.media.video import FRAME_SIDE, MAX_SAMPLED, is_video, probe, read_video

KINDS = [
    ("mp4", "libx264", "yuv420p"), ("mp4", "mpeg4", "yuv420p"), ("mp4", "libx265", "yuv420p10le"),
    ("mov", "prores_ks", "yuv444p10le"), ("webm", "libvpx-vp9", "yuv420p"), ("webm", "libvpx", "yuv420p"),
    ("matroska", "libx264", "yuv420p"), ("matroska", "ffv1", "bgr0"), ("avi", "mjpeg", "yuvj420p"),
    ("avi", "mpeg4", "yuv420p"),
]  # fmt: skip


def numbers(video):
    return [number_of(frame) for frame in video.frames]


@pytest.fixture
def mp4():
    return thirty("mp4")


@pytest.mark.parametrize(("kind", "codec", "pix_fmt"), KINDS, ids=[f"{k} {c}" for k, c, _ in KINDS])
def test_every_format_gives_exactly_the_frames_that_were_asked_for(kind, codec, pix_fmt):
    data = coded(grey_frames(30), kind, codec, pix_fmt=pix_fmt)
    assert is_video(data)
    facts = probe(data)
    assert (facts.n_frames, facts.size) == (30, (64, 48))
    assert facts.fps == pytest.approx(25, rel=0.01) and facts.duration_s == pytest.approx(1.2, rel=0.01)
    wanted = [0, 3, 7, 8, 9, 17, 29]
    video = read_video(data, lambda facts: wanted)
    assert numbers(video) == wanted and video.indices == tuple(wanted) and video.facts == facts
    assert [frame.time_s for frame in video.record.frames] == pytest.approx([n / 25 for n in wanted], abs=1e-3)
    assert all(frame.mode == "RGB" and frame.size == (64, 48) for frame in video.frames)
    assert len(video.notices) == (1 if "10" in pix_fmt else 0)


@cache
def thirty(name):
    """A file of thirty frames; not an argument of tests by hypothesis, which would print it."""
    how = {"mp4": ("mp4", "libx264"), "webm": ("webm", "libvpx-vp9"), "avi": ("avi", "mpeg4")}[name]
    return coded(grey_frames(30), *how)


@settings(max_examples=40, deadline=None)
@given(wanted=st.lists(st.integers(0, 29), min_size=1, max_size=12).map(sorted), name=st.sampled_from(["mp4", "avi"]))
def test_any_choice_of_frames_is_exact(wanted, name):
    assert numbers(read_video(thirty(name), lambda facts: wanted)) == wanted


def test_far_apart_frames_are_reached_without_decoding_all_between(monkeypatch):
    data = coded(np.repeat(grey_frames(30), 10, axis=0), gop=10)
    decoded = []
    whole = video_decoding._decoded

    def counted(*arguments):
        for frame in whole(*arguments):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(video_decoding, "_decoded", counted)
    assert numbers(read_video(data, lambda facts: [5, 155, 295])) == [0, 15, 29]
    assert len(decoded) < 60


@pytest.mark.parametrize(("kind", "codec"), [("mp4", "libx264"), ("webm", "libvpx-vp9")])
def test_frames_of_any_rate_have_their_own_times(kind, codec):
    times = [0, 10, 20, 500, 510, 1000, 2000, 2040, 2080, 5000]
    video = read_video(coded(grey_frames(10), kind, codec, times=times), lambda facts: [0, 3, 4, 8, 9])
    assert numbers(video) == [0, 3, 4, 8, 9]
    assert [frame.time_s for frame in video.record.frames] == pytest.approx([0, 0.5, 0.51, 2.08, 5.0], abs=2e-3)
    assert video.facts.n_frames == 10 and video.facts.fps == pytest.approx(10 / video.facts.duration_s)
    late = read_video(coded(grey_frames(10), kind, codec, times=[time + 700 for time in times]), lambda facts: [0, 9])
    assert [frame.time_s for frame in late.record.frames] == pytest.approx([0, 5.0], abs=2e-3)


@pytest.mark.parametrize(("rotation", "corner"), [(0, (0, 0)), (90, (0, -1)), (180, (-1, -1)), (-90, (-1, 0))])
def test_rotation_is_applied(rotation, corner):
    video = read_video(coded(grey_frames(9), "mov", rotation=rotation), lambda facts: [0, 8])
    size = (64, 48) if rotation in (0, 180) else (48, 64)
    assert numbers(video) == [0, 8]
    assert video.facts.size == video.frames[0].size == (video.record.width, video.record.height) == size
    pixels = np.asarray(video.frames[0])[..., 0]
    bright = {(x, y): pixels[3 if y == 0 else -4, 3 if x == 0 else -4] > 200 for x in (0, -1) for y in (0, -1)}
    assert [place for place, is_bright in bright.items() if is_bright] == [corner]


def test_odd_sizes_and_one_frame():
    video = read_video(coded(grey_frames(1, 65, 47), pix_fmt="yuv444p"), lambda facts: [0])
    assert video.frames[0].size == (65, 47) and video.facts.n_frames == 1 and video.facts.duration_s > 0


def test_transparent_parts_are_white():
    pixels = np.zeros((3, 48, 64, 4), np.uint8)
    pixels[:, :, 32:] = (10, 20, 30, 255)
    video = read_video(coded(pixels, "mov", "qtrle", pix_fmt="argb"), lambda facts: [1])
    assert video.frames[0].getpixel((5, 5)) == (255, 255, 255) and video.frames[0].getpixel((60, 5)) == (10, 20, 30)
    assert any("on white" in notice for notice in video.notices)


def test_sound_beside_the_video_does_not_matter():
    assert numbers(read_video(coded(grey_frames(12), sound=True), lambda facts: [0, 11])) == [0, 11]


def test_large_frames_are_scaled_and_say_so():
    video = read_video(coded(grey_frames(2, 1920, 1080), options={"preset": "ultrafast"}), lambda facts: [0, 1])
    assert video.facts.size == (1920, 1080) and {f.size for f in video.frames} == {(FRAME_SIDE, 720)}
    assert "scaled from 1920 × 1080 to 1280 × 720" in video.notices[0]
    stored = video.record.frames[1].image
    assert (stored.width, stored.height) == (1280, 720)
    assert max(Image.open(io.BytesIO(base64.b64decode(stored.base64))).size) == 640
    assert number_of(stored_image(stored)) == 1 and len(stored.base64) < 100_000


def test_the_record_tells_the_file_and_its_frames(mp4, tmp_path):
    path = tmp_path / "clip \udcff.mp4"
    path.write_bytes(mp4)
    record = read_video(path, lambda facts: [2, 20]).record
    assert record.sha256 == hashlib.sha256(mp4).hexdigest() and record.name == "clip ?.mp4"
    assert [frame.index for frame in record.frames] == [2, 20]
    assert record.n_frames == 30 and record.frames[0].image.sha256 != record.frames[1].image.sha256
    assert record == read_video(mp4, lambda facts: [2, 20], name="clip ?.mp4").record


def test_the_same_frame_may_be_looked_at_twice(mp4):
    assert numbers(read_video(mp4, lambda facts: [4, 4, 9])) == [4, 4, 9]


@pytest.mark.parametrize("wanted", [[], list(range(30)) * 3, [3, 2], [-1], [30]])
def test_impossible_choices_are_refused(mp4, wanted):
    with pytest.raises(BadInput, match=r"1 to 64 frames|numbered 0 to 29"):
        read_video(mp4, lambda facts: wanted)
    assert MAX_SAMPLED == 64


def lying(data, marker, offset, layout, *values):
    """The file with numbers of its header exchanged."""
    at = data.index(marker) + len(marker) + offset
    new = struct.pack(layout, *values)
    return data[:at] + new + data[at + len(new) :]


def hostile():
    mp4 = coded(grey_frames(30))
    large = np.full((3072, 4096, 3), 128, np.uint8)
    jpeg = coded([large], "avi", "mjpeg", pix_fmt="yuvj420p")
    many = lying(lying(mp4, b"stsz", 4, ">II", 1, 10**7), b"stts", 4, ">III", 1, 10**7, 1)
    yield "empty", b"", "is empty"
    yield "text", b"one day I will be a video\n" * 40, "not a readable video"
    yield "playlist", b"#EXTM3U\n#EXTINF:5,\nfile:///etc/passwd\n", "not a readable video"
    yield "list of files", b"ffconcat version 1.0\nfile '/etc/passwd'\n", "not a readable video"
    yield "transport stream", coded(grey_frames(8), "mpegts", "libx264"), "not a readable video"
    yield "image", b"\x00\x00\x00\x1cftypavif" + b"\x00" * 600, "not a readable video"
    yield "song in MP4", sound_only(), "sound but no video"
    yield "song in WAV", sound_only("wav", "pcm_s16le"), "sound but no video"
    yield "song in WebM", sound_only("webm", "libopus"), "sound but no video"
    yield "zeros", b"\x00\x00\x00\x18ftypisom" + b"\x00" * 5000, "damaged"
    yield "no index", mp4[: len(mp4) // 2], "damaged"
    yield "head of a WebM", coded(grey_frames(5), "webm", "libvpx-vp9")[:200], "damaged"
    yield "large frames", coded([large], options={"preset": "ultrafast"}), "4096 × 3072 pixels"
    yield "large frames, in AVI", jpeg, "9.4 megapixels"
    yield "large frames that the header denies", lying(jpeg, b"strf", 8, "<II", 64, 48), "9.4 megapixels"
    yield "small", coded(grey_frames(3, 4, 4), "avi", "ffv1", pix_fmt="bgr0"), "at least 8"
    yield "narrow", coded(grey_frames(3, 16, 640), "avi", "mjpeg", pix_fmt="yuvj420p"), "30 times"
    yield "ten million frames claimed", many, "far more"
    yield "hidden index", mp4.replace(b"udta", b"cmov"), "far more"
    yield "long", coded(grey_frames(2), times=[0, 700_000]), "11.7 minutes long"
    yield "long, without a word of it", coded(grey_frames(3), "matroska", times=[0, 40, 700_000]), "minutes long"
    yield "frames lost", _blanked(mp4), "damaged"


def _blanked(mp4):
    """The media data overwritten: nothing can be decoded."""
    at = mp4.index(b"mdat") + 4
    size = struct.unpack(">I", mp4[at - 8 : at - 4])[0] - 8
    return mp4[:at] + b"\x00" * size + mp4[at + size :]


@pytest.mark.parametrize(
    ("name", "data", "sentence"), hostile(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_hostile_files_get_a_sentence_soon(name, data, sentence):
    start = time.monotonic()
    with pytest.raises(BadInput, match=sentence) as caught:
        read_video(data, lambda facts: [0])
    assert time.monotonic() - start < 5
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    with pytest.raises(BadInput):
        probe(data)


def test_too_many_frames_too_large_files_and_missing_ones(mp4, tmp_path, monkeypatch):
    with pytest.raises(BadInput, match=r"no video file named 'nowhere\.mp4'"):
        probe(tmp_path / "nowhere.mp4")
    assert not is_video(tmp_path / "nowhere.mp4")
    monkeypatch.setattr(video_decoding, "MAX_FILE_FRAMES", 20)
    with pytest.raises(BadInput, match="the limit is 20"):
        probe(mp4)
    path = tmp_path / "large.mp4"
    with path.open("wb") as file:
        file.write(mp4)
        file.truncate(video_decoding.MAX_FILE_BYTES + 1)
    with pytest.raises(BadInput, match="larger than 100 MB"):
        probe(path)


def test_reading_ends_when_its_time_is_up(mp4, monkeypatch):
    ticks = itertools.count(step=2)
    # Of this module alone: other threads of the session ask what time it is, too.
    monkeypatch.setattr(video_decoding, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    assert probe(coded(grey_frames(3))).n_frames == 3
    with pytest.raises(BadInput, match="longer than 60 seconds"):
        read_video(mp4, lambda facts: [0, 29])


@pytest.mark.parametrize(("kind", "codec"), [("webm", "libvpx-vp9"), ("avi", "mjpeg"), ("matroska", "ffv1")])
def test_a_file_that_was_cut_off_is_read_as_far_as_it_goes(kind, codec):
    whole = coded(grey_frames(30), kind, codec, pix_fmt={"mjpeg": "yuvj420p", "ffv1": "bgr0"}.get(codec, "yuv420p"))
    video = read_video(whole[: len(whole) * 6 // 10], lambda facts: [0, facts.n_frames // 2, facts.n_frames - 2])
    assert 8 <= video.facts.n_frames < 30
    assert numbers(video) == [*video.indices]
    if kind == "avi":
        assert "incomplete" in video.notices[0]


def test_frames_that_the_decoder_filled_in_are_told():
    data = bytearray(coded(np.random.default_rng(0).integers(0, 255, (8, 96, 96, 3), np.uint8), gop=8))
    start = data.index(b"mdat")
    assert not any("damaged" in words for words in read_video(bytes(data), lambda facts: [0, 7]).notices)
    middle = start + (len(data) - start) // 20
    data[middle : middle + 400] = bytes(byte ^ 0x5A for byte in data[middle : middle + 400])
    notices = read_video(bytes(data), lambda facts: [0, 7]).notices
    assert notices == ("The video is damaged: parts of its frames were filled in by the decoder.",)


def test_uncompressed_sound_is_not_taken_for_frames(monkeypatch):
    monkeypatch.setattr(video_structure, "MAX_SAMPLES", 60)
    assert probe(with_plain_sound(grey_frames(30))).n_frames == 30


@pytest.mark.parametrize(("handlers", "counted"), [(b"soun", False), (b"vide", True), (b"sounvide", True)])
def test_only_a_track_without_moving_images_is_plain_sound(handlers, counted):
    """A million samples of one tick each are sound by the chunk, and far too many frames."""
    one, million = (1).to_bytes(4, "big"), (1_000_000).to_bytes(4, "big")
    track = handlers + b"stts" + bytes(4) + one + million + one + b"stsz" + bytes(8) + million
    content = (8 + len(track)).to_bytes(4, "big") + b"trak" + track
    file = (8 + len(content)).to_bytes(4, "big") + b"moov" + content
    assert video_structure.claims_too_much(io.BytesIO(file), "mov") is counted


def test_an_animation_stays_an_image():
    frames = [Image.fromarray(frame) for frame in grey_frames(3)]
    for kind in ("GIF", "WEBP"):
        buffer = io.BytesIO()
        frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
        assert not is_video(buffer.getvalue())
    assert not is_video(None) and not is_video(frames[0])


@settings(max_examples=150, deadline=None)
@given(data=st.data(), name=st.sampled_from(["mp4", "webm", "avi"]))
def test_no_damage_gets_through_as_another_error(data, name):
    broken = bytearray(thirty(name))
    for _ in range(data.draw(st.integers(1, 8))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(broken)))
    try:
        video = read_video(bytes(broken[:cut]), lambda facts: [0, facts.n_frames - 1])
    except BadInput as error:
        assert "\n" not in str(error)
    else:
        assert len(video.frames) == 2


def test_the_greys_of_these_tests_tell_frames_apart():
    assert STEP * 29 + 20 < 230
    assert [number_of(Image.fromarray(frame)) for frame in grey_frames(30)] == list(range(30))


FLOODS = dict(videos())


@pytest.mark.parametrize(
    "name",
    [
        "free_boxes.mp4", "unknown_boxes.mp4", "boxes_in_moov.mp4", "metadata.mp4", "protection_systems.mp4",
        "edits.mp4", "tags.mkv", "cues_backwards.mkv", "chapters.mkv", "empty_elements.mkv", "information.avi",
        "lists.avi",
    ],
)  # fmt: skip
def test_floods_of_parts_are_refused_before_ffmpeg_takes_them_in(name, monkeypatch):
    data = FLOODS[name]()
    monkeypatch.setattr(video_decoding.av, "open", lambda *_, **__: pytest.fail("opened"))
    start = time.process_time()
    with pytest.raises(BadInput, match="far more"):
        probe(data)
    assert time.process_time() - start < 5


def test_reading_without_a_frame_ends_when_the_time_is_up(monkeypatch):
    """Sound that nobody asked for is passed over in C, where only the file's own reads can be stopped."""
    data = FLOODS["chunks.avi"]()
    clock = video_decoding.Clock(0.0)
    with pytest.raises(BadInput, match="longer than 0 seconds"), video_decoding.opened(data, clock):
        pytest.fail("opened")


def test_a_file_in_fragments_of_one_frame_each_is_no_flood():
    options = {"movflags": "frag_every_frame+empty_moov"}
    buffer = io.BytesIO()
    with video_decoding.av.open(buffer, "w", format="mp4", options=options) as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for pixels in np.repeat(grey_frames(30), 20, axis=0):
            container.mux(stream.encode(video_decoding.av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    data = buffer.getvalue()
    assert data.count(b"moof") >= 600 and probe(data).n_frames == 600
