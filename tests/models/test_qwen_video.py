"""Qwen's models on videos: frames as their processors sample them, grids of two frames where they really lie."""

from types import SimpleNamespace

import pytest
import torch
from transformers import Qwen2VLVideoProcessor, Qwen3VLVideoProcessor
from transformers.video_utils import VideoMetadata

from tokviz.errors import BadInput, Unsupported
from tokviz.models.base import VideoFacts
from tokviz.models.families import FAMILIES

SIZES = [(112, 112), (300, 200), (120, 333), (640, 150), (90, 61)]
"""Width and height at five aspect ratios, shrunk and enlarged by the processor."""
KINDS = {
    "qwen2_vl": (Qwen2VLVideoProcessor, 14),
    "qwen2_5_vl": (Qwen2VLVideoProcessor, 14),
    "qwen3_vl": (Qwen3VLVideoProcessor, 16),
}


def video_processor(kind, cells=(4, 100), **more):
    """The real processor with small settings: between so many cells a frame (Qwen3-VL: in all frames together).

    Colours come out as they are.
    """
    made, patch = KINDS[kind]
    size = {"shortest_edge": cells[0] * (2 * patch) ** 2, "longest_edge": cells[1] * (2 * patch) ** 2}
    return made(patch_size=patch, size=size, image_mean=[0, 0, 0], image_std=[1, 1, 1], **more)


def holding(videos):
    return SimpleNamespace(video_processor=videos)


def facts(n_frames, fps=25.0, size=(64, 48)):
    return VideoFacts(n_frames, fps, n_frames / fps, size)


def gradient_clip(width, height, n_frames):
    """Red grows with x, green with y, blue with time; unrounded. Shape: ``(T, 3, H, W)``."""
    x = ((torch.arange(width) + 0.5) / width).expand(n_frames, height, -1)
    y = ((torch.arange(height) + 0.5) / height)[:, None].expand(n_frames, -1, width)
    time = (torch.arange(n_frames) / n_frames)[:, None, None].expand(-1, height, width)
    return torch.stack([x, y, time], dim=1)


def patches(videos, clip):
    """What the processor hands to the tower. Shape: ``(tokens, 4 patches, 3 colours, 2 frames, P, P)``, grid."""
    made = videos(
        videos=[clip], do_rescale=False, do_sample_frames=False, return_metadata=False, return_tensors="pt",
    )  # fmt: skip
    side = videos.patch_size
    grid = made["video_grid_thw"][0].tolist()
    return made["pixel_values_videos"].reshape(-1, 4, 3, 2, side, side), grid


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("n_frames", [6, 5])
def test_each_token_sees_the_middle_of_its_box_in_its_frames(kind, size, n_frames):
    width, height = size
    videos = video_processor(kind, (24, 600) if kind == "qwen3_vl" else (4, 100))
    shown, (pairs, rows, columns) = patches(videos, gradient_clip(width, height, n_frames))
    grid = FAMILIES[kind].video_grid(None, holding(videos), size, n_frames)
    assert [(view.rows, view.cols) for view in grid.views] == [(rows // 2, columns // 2)] * pairs
    assert grid.n_tokens == len(shown) and grid.is_video and not grid.is_tiled
    x, y = (shown[:, :, channel].mean((1, 2, 3, 4)) for channel in (0, 1))
    times = shown[:, :, 2].mean((1, 3, 4)) * n_frames
    for token, (x0, y0, x1, y1) in enumerate(grid.box):
        assert abs((x0 + x1) / 2 - float(x[token]) * width) < 0.06 * (x1 - x0)
        assert abs((y0 + y1) / 2 - float(y[token]) * height) < 0.06 * (y1 - y0)
        frames = grid.views[grid.view[token]].frames
        # Of an odd number the last frame stands in for the one that is missing.
        assert times[token].tolist() == pytest.approx([frames[0], frames[-1]], abs=1e-3)
    assert [view.frames for view in grid.views][-1] == ((4, 5) if n_frames == 6 else (4,))
    assert all(view.seen == (0, 0, width, height) for view in grid.views)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("capped", [True, False])
@pytest.mark.parametrize("n_frames", [2, 9, 40])
def test_grids_follow_the_limits_of_the_processor(kind, capped, n_frames):
    """A share of all tokens per frame, where the processor is told to hold to it; checked on the real one."""
    videos = video_processor(kind, (1, 60), cap_pixels_per_frame=capped, max_video_tokens=200)
    if kind == "qwen3_vl":
        videos = video_processor(kind, (2, 300), cap_pixels_per_frame=capped, max_video_tokens=20)
    for size in [(640, 360), (50, 300), (31, 29)]:
        _, (pairs, rows, columns) = patches(videos, torch.zeros(n_frames, 3, size[1], size[0]))
        grid = FAMILIES[kind].video_grid(None, holding(videos), size, n_frames)
        assert [(view.rows, view.cols) for view in grid.views] == [(rows // 2, columns // 2)] * pairs


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl"])
def test_many_frames_get_smaller_grids_when_tokens_are_shared_out(kind):
    videos = video_processor(kind, (1, 60), cap_pixels_per_frame=True, max_video_tokens=200)
    few, many = (FAMILIES[kind].video_grid(None, holding(videos), (640, 360), n).views[0] for n in (2, 40))
    assert few.rows * few.cols > 5 * many.rows * many.cols


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_cut_is_refused(kind):
    with pytest.raises(BadInput, match="a video of 9000 x 20 px"):
        FAMILIES[kind].video_grid(None, holding(video_processor(kind)), (9000, 20), 4)
    with pytest.raises(Unsupported, match="do_resize"):
        FAMILIES[kind].video_grid(None, holding(video_processor(kind, do_resize=False)), (56, 56), 4)


# -- sampling ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_two_frames_a_second_within_limits(kind):
    family, processor = FAMILIES[kind], holding(video_processor(kind))
    assert len(family.sampled(processor, facts(250), None)) == 20  # 10 s
    assert len(family.sampled(processor, facts(30), None)) == 4  # 1.2 s: no fewer than min_frames
    assert len(family.sampled(processor, facts(20_000, fps=10.0), None)) == 768  # no more than max_frames
    assert len(family.sampled(holding(video_processor(kind, max_frames=6)), facts(250), None)) == 6
    assert len(family.sampled(holding(video_processor(kind, fps=1)), facts(250), None)) == 10
    chosen = family.sampled(processor, facts(250), None)
    assert chosen[0] == 0 and chosen == sorted(set(chosen)) and 230 < chosen[-1] < 250


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_those_of_the_processor_itself(kind):
    videos = video_processor(kind)
    metadata = VideoMetadata(total_num_frames=250, fps=25.0, duration=10.0)
    assert FAMILIES[kind].sampled(holding(videos), facts(250), None) == videos.sample_frames(metadata, fps=2).tolist()
    assert FAMILIES[kind].sampled(holding(videos), facts(250), 8) == (
        videos.sample_frames(metadata, num_frames=8).tolist()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_wanted_number_becomes_whole_pairs_of_frames_that_exist(kind):
    family, processor = FAMILIES[kind], holding(video_processor(kind))
    for n_frames in (2, 3, 7, 119, 250):
        for wanted in (1, 2, 3, 5, 8, 114, 1000):
            chosen = family.sampled(processor, facts(n_frames), wanted)
            assert chosen == sorted(set(chosen)) and chosen[0] >= 0 and chosen[-1] < n_frames, (n_frames, wanted)
            assert len(chosen) % 2 == 0 and abs(len(chosen) - min(max(wanted, 2), n_frames)) <= 1, (n_frames, wanted)


def test_all_frames_of_a_video_share_the_tokens():
    """Of Qwen3-VL, always; a cap on each frame comes on top."""
    for capped, few_cells in ((False, 150), (True, 20)):
        videos = video_processor("qwen3_vl", (2, 300), cap_pixels_per_frame=capped, max_video_tokens=20)
        few, many = (FAMILIES["qwen3_vl"].video_grid(None, holding(videos), (640, 360), n).views[0] for n in (2, 40))
        assert 0.6 * few_cells < few.rows * few.cols <= few_cells
        assert many.rows * many.cols <= 300 / 40


def test_qwen3_needs_a_pair_of_frames():
    with pytest.raises(BadInput, match="a video of 1 frame has none"):
        FAMILIES["qwen3_vl"].sampled(holding(video_processor("qwen3_vl")), facts(1), None)


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl"])
def test_a_video_of_one_frame_is_looked_at_twice(kind):
    assert FAMILIES[kind].sampled(holding(video_processor(kind)), facts(1), None) == [0]
    grid = FAMILIES[kind].video_grid(None, holding(video_processor(kind)), (64, 48), 1)
    assert [view.frames for view in grid.views] == [(0,)]
