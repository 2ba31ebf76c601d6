"""A rendered clip as a file: what is in it is what was drawn, and browsers play it."""

import io

import av
import numpy as np
import pytest

from scenes import EXAMPLE_SEEDS, generate_clip
from scenes.clip_file import clip_bytes
from tokviz.media.video import probe, read_video


@pytest.fixture(scope="module")
def clip():
    return generate_clip(EXAMPLE_SEEDS[5], size=(320, 240), frames=6)


def test_the_file_shows_what_was_drawn(clip):
    data = clip_bytes(clip.frames, 4)
    video = read_video(data, lambda facts: range(facts.n_frames))
    assert (video.facts.n_frames, video.facts.fps, video.facts.size) == (6, 4.0, (320, 240))
    for drawn, shown in zip(clip.frames, video.frames, strict=True):
        difference = np.abs(np.asarray(shown).astype(int) - drawn)
        assert difference.mean() < 4, "colours are halved in resolution, nothing else"
        assert np.abs(np.asarray(shown).astype(int).mean((0, 1)) - drawn.mean((0, 1))).max() < 2


def test_browsers_play_it_and_it_is_always_the_same(clip):
    data = clip_bytes(clip.frames, 4)
    assert clip_bytes(clip.frames, 4) == data and len(data) < 300_000
    with av.open(io.BytesIO(data)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
    assert probe(data).duration_s == 1.5


def test_odd_sizes_are_refused(clip):
    with pytest.raises(ValueError, match="319 x 240"):
        clip_bytes(clip.frames[:, :, 1:], 4)
