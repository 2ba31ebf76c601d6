"""Calls in a process of their own end in time, whatever they do, leave nothing behind, and give the same bits."""

import fractions
import importlib
import io
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from clip_files import coded, grey_frames
from PIL import Image

from tokviz.errors import BadInput, Stopped
from tokviz.media import images
from tokviz.media import worker as decoding_worker
from tokviz.media.images import checked_image, read_image
from tokviz.media.video import checked_probe, checked_video, probe, read_video
from tokviz.media.worker import Limits, Turns, in_worker
from tokviz.runs import inputs as media

ROOT = Path(__file__).parents[2]
SHORT = Limits(cpu_s=1)
linux = pytest.mark.skipif(sys.platform != "linux", reason="limits and copies are those of Linux")


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width, height, channels=3):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(params=["copies", "fresh"])
def runner(request, monkeypatch):
    """How processes come to be: on Linux, and elsewhere."""
    if request.param == "fresh":
        monkeypatch.setattr(decoding_worker, "_running", decoding_worker._Fresh())
    elif sys.platform != "linux":
        pytest.skip("copies are those of Linux")
    return request.param


def test_an_image_comes_back_bit_for_bit(runner, tmp_path):
    path = tmp_path / "ünï \udcff.png"
    path.write_bytes(encoded(noise(301, 77, 4)))
    here, there = read_image(path), checked_image(path)
    assert there.image.mode == "RGB" and type(there.image) is Image.Image
    assert there.image.tobytes() == here.image.tobytes()
    assert (there.record, there.notices) == (here.record, here.notices)
    assert checked_image(path.read_bytes(), path.name).record == here.record


def test_a_video_comes_back_bit_for_bit(runner, tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(coded(grey_frames(30)))
    wanted = [0, 7, 7, 29]
    here, there = read_video(path, lambda facts: wanted), checked_video(path, lambda facts: wanted)
    assert checked_probe(path) == probe(path) == there.facts
    assert [frame.tobytes() for frame in there.frames] == [frame.tobytes() for frame in here.frames]
    assert (there.record, there.notices, there.indices) == (here.record, here.notices, here.indices)


@pytest.mark.parametrize("isolated", [False, True])
def test_open_media_gives_the_same_in_both_ways(isolated, vlm, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(noise(60, 40)))
    for source in (path, str(path), path.read_bytes()):
        assert media.open_media(vlm, source, isolated=isolated).image.tobytes() == read_image(path).image.tobytes()
    with pytest.raises(BadInput, match="not a readable image"):
        media.open_media(vlm, b"nothing", isolated=isolated)
    with pytest.raises(BadInput, match="There is no image"):
        media.open_media(vlm, None, isolated=isolated)


def test_sentences_of_the_other_side_arrive(runner, tmp_path):
    with pytest.raises(BadInput, match="not a readable image"):
        checked_image(b"not an image")
    with pytest.raises(BadInput, match=r"no image file named 'a\.png'"):
        checked_image(tmp_path / "a.png")
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        in_worker(divmod, 1, 0)


@linux
def test_computing_is_ended_by_its_own_time(runner, monkeypatch):
    monkeypatch.setattr(decoding_worker, "_WALL_PER_CPU", 60)
    start = time.process_time()
    with pytest.raises(BadInput, match="more than 1 seconds of computing"):
        in_worker(math.factorial, 10**8, limits=SHORT)
    assert time.process_time() - start < 1


@linux
def test_memory_is_limited():
    assert in_worker(bytes, 10_000_000) == [bytes(10_000_000)]
    with pytest.raises(BadInput, match="more than 400 MB"):
        in_worker(bytes, 450_000_000)


def test_waiting_is_ended_by_the_clock(runner, monkeypatch):
    monkeypatch.setattr(decoding_worker, "_WALL_PER_CPU", 0.5)
    with pytest.raises(BadInput, match=r"longer than 0\.5 seconds and was ended"):
        in_worker(time.sleep, 60, kind="video", limits=SHORT)


@linux
def test_a_decoder_that_crashes_is_told(runner):
    with pytest.raises(BadInput, match="its decoder gave up"):
        in_worker(os.abort)


def test_stop_ends_the_work_at_once(runner):
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    start = time.monotonic()
    with pytest.raises(Stopped):
        in_worker(time.sleep, 60, stop=stop)
    assert time.monotonic() - start < 10


def test_every_result_is_a_class_of_that_name():
    for module, name in decoding_worker._RESULTS:
        assert isinstance(getattr(importlib.import_module(module), name), type), name


def test_nothing_else_is_unpickled():
    with pytest.raises(BadInput, match="gave up"):
        in_worker(fractions.Fraction, 1)


@linux
def test_a_bad_file_does_not_delay_another_and_no_process_is_left():
    done = threading.Event()

    def bad():
        with pytest.raises(BadInput):
            in_worker(math.factorial, 10**8, limits=Limits(cpu_s=2))
        done.set()

    thread = threading.Thread(target=bad)
    thread.start()
    checked_image(encoded(noise(64, 64)))
    assert not done.is_set()
    thread.join()
    source = decoding_worker._running._original[0].pid
    end = time.monotonic() + 20
    while Path(f"/proc/{source}/task/{source}/children").read_text():
        assert time.monotonic() < end
        time.sleep(0.02)


@linux
def test_the_source_of_copies_is_started_again_when_it_was_killed():
    in_worker(abs, -1)
    decoding_worker._running._original[0].kill()
    assert in_worker(abs, -2) == [2]


def test_turns_come_in_order():
    turns, order = Turns(1), []

    def wait(number):
        with turns.taken():
            order.append(number)

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(5)]
    with turns.taken():
        for number, thread in enumerate(threads, 1):
            thread.start()
            while len(turns._line) < number:
                time.sleep(0.001)
        stopped = threading.Event()
        stopped.set()
        with pytest.raises(Stopped), turns.taken(stopped):
            pytest.fail("had its turn")
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4] and turns._free == 1


SERVER = """
import threading, time
from tokviz.media import worker as decoding_worker
threading.Thread(target=lambda: decoding_worker.in_worker(time.sleep, 60), daemon=True).start()
decoding_worker.in_worker(abs, 1)
while decoding_worker._running._original is None: time.sleep(0.01)
print(decoding_worker._running._original[0].pid, flush=True)
"""


@linux
@pytest.mark.parametrize("ending", ["leaves", "killed"])
def test_nothing_outlives_the_server(ending):
    code = SERVER + ("time.sleep(60)" if ending == "killed" else "")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT) as server:
        source = int(server.stdout.readline())
        if ending == "killed":
            server.send_signal(signal.SIGKILL)
    end = time.monotonic() + 20
    while Path(f"/proc/{source}").exists() and "Z" not in Path(f"/proc/{source}/stat").read_text():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_operator_sets_the_limits(monkeypatch):
    assert Limits.from_environment() == Limits(5, 400) and Limits(5).wall_s == 15
    monkeypatch.setenv("TOKVIZ_DECODE_SECONDS", "20")
    monkeypatch.setenv("TOKVIZ_DECODE_MB", "900")
    assert Limits.from_environment() == Limits(20, 900)
    monkeypatch.setenv("TOKVIZ_DECODE_MB", "much")
    with pytest.raises(BadInput, match="TOKVIZ_DECODE_MB must be a number of megabytes, 100 or more"):
        images.checked_image(b"")


@linux
@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("CMYK", "JPEG", {"progressive": True}), ("RGBA", "WEBP", {"lossless": True, "method": 0}),
        ("F", "TIFF", {"compression": "tiff_adobe_deflate"}),
        *(pytest.param(*one, marks=pytest.mark.generator) for one in [
            ("I;16", "PNG", {}), ("RGBA", "PNG", {}), ("LA", "PNG", {}),
            ("RGB", "JPEG", {"progressive": True, "subsampling": 0}),
        ]),
    ],
)  # fmt: skip
def test_the_largest_images_fit_into_the_limits(mode, kind, options):
    used = []
    data = encoded(Image.new(mode, (4990, 4990)), kind, **options)
    (image,) = in_worker(read_image, data, on_usage=used.append)
    assert image.image.size == (4990, 4990) and 50 < used[0].peak_mb < 400
