"""DyCoke on a film that can be checked on paper, and against a slow reference."""

import pytest
import torch
from films import FILM, QWEN, generator

from tokviz.pruners import get
from tokviz.pruners.dycoke import compared_with, counts_of
from tokviz.types import Budget, PlanningInfo, Signals


def params(**given):
    return get("dycoke").complete(given)


def stage(info, tokens, **given):
    (found,) = get("dycoke").schedule(Budget(tokens), info, params(**given)).stages
    return found


def kept(signals, keep, **given):
    frames = int(signals.view.max()) + 1
    info = PlanningInfo(len(signals.features), 32, "llava_next_video", n_views=frames, has_frames=True)
    found = stage(info, keep, **given)
    return found.select(signals, found.keep, params(**given), generator())


# ------------------------------------------------------------------------------------------------- on paper


@pytest.mark.parametrize(
    ("frames", "paper", "official"),
    [
        (1, [-1], [-1]),
        (3, [-1, 0, 0], [-1, 0, -1]),
        (4, [-1, 0, 0, 2], [-1, 0, -1, 2]),
        (6, [-1, 0, 0, 2, -1, 4], [-1, 0, 0, 2, -1, 4]),
        (8, [-1, 0, 0, 2, -1, 4, 4, 6], [-1, 0, 0, 2, -1, 4, -1, 6]),
    ],
)
def test_windows_of_four(frames, paper, official):
    assert compared_with(frames, "paper") == paper and compared_with(frames, "official") == official


# Four frames of three cells, by direction in degrees. Frame 1 turned cells 0, 1, 2 by 0, 90, 45 since frame 0; frame 2
# by 60, 0, 90 since frame 0 (not since frame 1); frame 3 by 0, 30, 10 since frame 2.
DEGREES = [0, 30, 60, 0, 120, 105, 60, 30, 150, 60, 60, 160]
ANGLES = torch.tensor([float(d) for d in DEGREES]).deg2rad()
FOUR = Signals(torch.stack([ANGLES.cos(), ANGLES.sin()], 1), view=torch.arange(4).repeat_interleave(3))


def test_the_first_frame_stays_and_what_changed_most_of_the_others():
    found = kept(FOUR, 6)
    assert found.kept.tolist() == [0, 1, 2, 4, 8, 10]
    shown = found.diagnostics
    change = 1 - torch.tensor([0.0, 90, 45, 60, 0, 90, 0, 30, 10]).deg2rad().cos()
    assert shown.score.values[3:].tolist() == pytest.approx(change.tolist(), abs=1e-6)
    assert shown.score.values[:3].isnan().all()
    (compared,) = shown.maps
    assert compared.values[3:].tolist() == [1, 1, 1, 1, 1, 1, 3, 3, 3] and compared.values[:3].isnan().all()
    assert shown.facts == {"whole_frames": 1, "kept_per_view": [3, 1, 1, 1], "least": 3, "non_finite": 0}
    assert shown.charts[0].y == [3, 1, 1, 1] and found.sequence is None and shown.warnings == ()


def test_officially_the_third_frame_of_the_last_window_stays_and_change_comes_first():
    found = kept(FOUR, 10, code="official")
    assert found.diagnostics.facts["kept_per_view"] == [3, 2, 3, 2] and found.sequence is not None
    assert found.kept[found.sequence].tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 10, 11]
    assert kept(FOUR, 10).diagnostics.facts["kept_per_view"] == [3, 3, 2, 2]


def test_rounding_down_in_every_frame():
    assert len(kept(FOUR, 8, count="official").kept) == 3 + 3 * 1  # (8 - 3) / 9 of three is 1.67
    assert len(kept(FOUR, 2, count="official").kept) == 3  # never less than the whole frame
    assert kept(FOUR, 12, count="official").kept.tolist() == list(range(12))


def test_a_budget_below_the_whole_frames_says_so():
    view = torch.arange(5).repeat_interleave(3)
    found = kept(Signals(torch.cat([FOUR.features, FOUR.features[:3]]), view=view), 3)
    assert found.kept.tolist() == [0, 2, 13]  # of three evenly spaced two, and one of the fifth frame
    assert "first of every four frames whole, 6 tokens here" in found.diagnostics.warnings[0]


def test_a_token_without_an_earlier_one_has_changed_most():
    features = FOUR.features.clone()
    features[0] = torch.nan
    found = kept(Signals(features, view=FOUR.view, cell=torch.tensor([[0, 0], [0, 1], [1, 0]]).repeat(4, 1)), 5)
    assert found.kept.tolist() == [1, 2, 3, 6, 10]
    assert found.diagnostics.facts["non_finite"] == 1


@pytest.mark.parametrize(
    ("sizes", "whole", "keep", "ratio", "counts"),
    [
        ([4, 4, 4], [True, False, False], 7, None, [4, 2, 1]),
        ([4, 4, 2], [True, False, False], 10, None, [4, 4, 2]),
        ([4, 4, 4], [True, False, True], 5, None, [3, 0, 2]),
        ([4, 4, 4], [True, False, True], 8, None, [4, 0, 4]),
        ([5, 5, 5], [True, False, False], 99, 0.3, [5, 1, 1]),
    ],
)
def test_counts(sizes, whole, keep, ratio, counts):
    assert counts_of(sizes, whole, keep, ratio) == counts


def test_the_stage():
    for info in (FILM, QWEN):
        found = stage(info, 288)
        assert (found.site, found.keep, found.needs) == ("projector", 288, ())
    assert stage(FILM, 288, count="official").keep is None
    assert get("dycoke").missing(PlanningInfo(576, 32)).startswith("DyCoke compares the frames of a video")


# ------------------------------------------------------------------------------------------------- brute force


def slow(x, frames, counts):
    """Frame by frame in float64; how close a decision was. Frames: tokens in each."""
    x, cells, found, gap = x.double(), len(x) // frames, [], 1.0
    for number in range(frames):
        rows = [number * cells + cell for cell in range(cells)]
        if number % 4 == 0:
            found += rows
            continue
        back = {1: 1, 2: 2, 3: 1}[number % 4] * cells
        change = {r: 1 - float(x[r] @ x[r - back] / (x[r].norm() * x[r - back].norm())) for r in rows}
        rows.sort(key=lambda row: (-change[row], row))
        if 0 < counts[number] < cells:
            gap = min(gap, change[rows[counts[number] - 1]] - change[rows[counts[number]]])
        found += rows[: counts[number]]
    return sorted(found), gap


def test_against_brute_force():
    compared = 0
    for seed in range(80):
        g = generator(seed)
        frames, cells, width = 2 + seed % 9, 3 + seed % 6, 3 + seed % 5
        base = torch.randn(cells, width, generator=g)
        x = torch.cat([base + torch.rand(cells, 1, generator=g) * torch.randn(cells, width, generator=g)
                       for _ in range(frames)])  # fmt: skip
        least = -(-frames // 4) * cells
        keep = least + seed * 7 % (len(x) - least) if len(x) > least else least
        found = kept(Signals(x, view=torch.arange(frames).repeat_interleave(cells)), keep)
        counts = found.diagnostics.facts["kept_per_view"]
        others = [count for number, count in enumerate(counts) if number % 4]
        assert sum(counts) == len(found.kept) == keep and max(others) - min(others) <= 1
        expected, gap = slow(x, frames, counts)
        if gap > 1e-6:
            compared += 1
            assert found.kept.tolist() == expected, seed
    assert compared > 60
