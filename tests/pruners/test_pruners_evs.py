"""EVS on a film that can be checked on paper, against a slow reference cell by cell, and vLLM's totals."""

import math

import pytest
import torch
from films import FILM, QWEN, generator

from tokviz.errors import Unsupported
from tokviz.pruners import get
from tokviz.pruners.evs import changes, places, previous
from tokviz.pruners.serving_flags import vllm_flags, vllm_rate, vllm_total
from tokviz.types import Budget, PlanningInfo, Signals


def stage(info, tokens, **params):
    pruner = get("evs")
    (found,) = pruner.schedule(Budget(tokens), info, pruner.complete(params)).stages
    return found


def kept(signals, keep):
    return stage(FILM, keep).select(signals, keep, get("evs").complete({}), generator())


def film(frames, rows, cols, features):
    cell = torch.cartesian_prod(torch.arange(rows), torch.arange(cols)).repeat(frames, 1)
    return Signals(features, view=torch.arange(frames).repeat_interleave(rows * cols), cell=cell)


# ------------------------------------------------------------------------------------------------- on paper

# Three frames of two cells; directions in a plane, by angle. Changes: of the first cell 90 degrees (1 - 0), then 0
# (twice as long, the same direction); of the second 0, then 60 degrees (1 - 1/2).
ANGLES = torch.tensor([0.0, 20, 90, 20, 90, 80]).deg2rad()
LENGTH = torch.tensor([1.0, 1, 1, 1, 2, 1])
SMALL = film(3, 1, 2, torch.stack([ANGLES.cos(), ANGLES.sin()], dim=1) * LENGTH[:, None])


@pytest.mark.parametrize(
    ("keep", "expected"), [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (4, [0, 1, 2, 5]), (5, [0, 1, 2, 3, 5])]
)
def test_the_first_frame_then_what_changed_most_ties_to_the_lowest(keep, expected):
    found = kept(SMALL, keep)
    assert found.kept.tolist() == expected
    score = found.diagnostics.score.values
    assert score[:2].isnan().all()
    assert score[2:].tolist() == pytest.approx([1.0, 0.0, 0.0, 0.5], abs=1e-6)


def test_diagnostics_say_how_old_each_place_is_and_how_vllm_does_this():
    found = kept(SMALL, 4).diagnostics
    (age,) = found.maps
    # Place 0 is kept in frames 0 and 1, place 1 in 0 and 2.
    assert age.values.tolist() == [0, 0, 0, 1, 1, 0]
    assert found.charts[0].y == [2, 1, 1] and found.facts["kept_per_view"] == [2, 1, 1]
    assert found.facts["first_frame"] == 2 and not found.warnings
    assert found.facts["vllm"] == "--video-pruning-rate 0.3 --video-pruning-method evs"  # int(6 * 0.7) = 4
    cut = kept(SMALL, 1).diagnostics
    assert cut.facts["vllm"] == "none: vLLM keeps at least 2 of these 6 tokens"
    assert "the first 1 of its 2 tokens were kept and nothing of later frames" in cut.warnings[0]
    assert cut.maps[0].values.isnan().tolist() == [False, True] * 3


def test_what_stayed_the_same_has_changed_by_exactly_nothing():
    rows = torch.randn(64, 33, generator=generator(1))
    twice = torch.cat([rows, rows])
    assert changes(twice, torch.arange(64, 128), torch.arange(64)).tolist() == [0.0] * 64
    assert kept(film(2, 8, 8, twice), 70).kept.tolist() == list(range(70))


def test_a_zero_row_is_as_far_as_a_right_angle():
    rows = torch.tensor([[1.0, 0], [0, 0], [0, 0]])
    found = changes(rows, torch.arange(3), torch.tensor([-1, 0, 1]))
    assert found.tolist() == [math.inf, 1.0, 1.0]


def test_without_a_token_at_its_place_a_frame_earlier_a_token_is_new():
    features = torch.ones(6, 2)
    # Frame 0 has lost its second cell (to an earlier stage), and that of frame 1 is not finite.
    view, cell = torch.tensor([0, 1, 1, 2, 2, 3]), torch.tensor([[0, 0], [0, 0], [0, 1], [0, 0], [0, 1], [0, 1]])
    features[2] = torch.nan
    signals = Signals(features, view=view, cell=cell)
    assert kept(signals, 2).kept.tolist() == [0, 4]
    assert kept(signals, 5).kept.tolist() == [0, 1, 3, 4, 5]
    assert kept(signals, 5).diagnostics.facts["non_finite"] == 1


def test_places_are_cells_or_numbers_in_the_frame_in_whatever_order_rows_come():
    view, cell = torch.tensor([1, 0, 1, 0]), torch.tensor([[2, 1], [2, 1], [0, 3], [0, 3]])
    frame, place = places(Signals(torch.ones(4, 1), view=view, cell=cell), torch.arange(4))
    assert frame.tolist() == [1, 0, 1, 0]
    assert place[0] == place[1] and place[2] == place[3] and place[0] != place[2]
    assert previous(frame, place).tolist() == [1, -1, 3, -1]
    _, number = places(Signals(torch.ones(4, 1), view=view), torch.arange(4))
    assert number.tolist() == [0, 0, 1, 1]


def test_rows_that_are_no_patch_take_no_part():
    cls = torch.tensor([[9.0, 9]])
    features = torch.cat([cls, SMALL.features[:2], cls, SMALL.features[2:4], cls, SMALL.features[4:]])
    nowhere = torch.tensor([[-1, -1]])
    cell = torch.cat([torch.cat([nowhere, SMALL.cell[:2]])] * 3)
    signals = Signals(
        features, view=torch.arange(3).repeat_interleave(3), cell=cell, candidates=torch.arange(9) % 3 > 0
    )
    assert kept(signals, 4).kept.tolist() == [1, 2, 4, 8]


# ------------------------------------------------------------------------------------------------- totals


def test_the_stage():
    for info, positions in ((FILM, "keep"), (QWEN, "keep")):
        found = stage(info, 288)
        assert (found.site, found.keep, found.needs, found.positions) == ("projector", 288, (), positions)


def test_counted_as_vllm_does_the_first_frame_is_never_cut():
    assert stage(FILM, 100).keep == 100
    assert stage(FILM, 100, count="vllm").keep == 144
    assert stage(FILM, 288, count="vllm").keep in (287, 288)
    assert stage(FILM, 5000, count="vllm").keep == 1152
    for tokens in range(1, 600):
        rate = 1 - tokens / 600
        assert stage(QWEN, tokens, count="vllm").keep == max(150, int(600 * (1 - rate)))


def test_the_rate_that_is_printed_leaves_just_as_many():
    for n, least in ((6, 2), (1152, 144), (2056, 257), (100_000, 1)):
        for keep in [*range(least, min(n, 700)), n - 1, n]:
            rate = vllm_rate(n, keep, least)
            assert rate is not None and 0 <= rate < 1 and vllm_total(n, rate, least) == keep
        assert vllm_rate(n, least - 1, least) is None
    assert vllm_flags("evs", 1000, 250, 100) == "--video-pruning-rate 0.75 --video-pruning-method evs"


def test_images_are_refused():
    pruner = get("evs")
    for info, why in (
        (PlanningInfo(576, 32), "this model takes images only"),
        (PlanningInfo(576, 32, takes_video=True), "this is an image"),
        (PlanningInfo(144, 32, n_views=1, has_frames=True), "there is only one here"),
    ):
        assert pruner.missing(info) == f"EVS compares the frames of a video, and {why}."
        with pytest.raises(Unsupported, match=why):
            pruner.schedule(Budget(64), info, pruner.complete({}))


# ------------------------------------------------------------------------------------------------- brute force


def slow(x, frames, cells, keep):
    """One token at a time, in float64, and how close the decision was."""
    x = x.double()
    change = {}
    for t in range(1, frames):
        for c in range(cells):
            a, b = x[t * cells + c], x[(t - 1) * cells + c]
            lengths = float(a.norm()) * float(b.norm())
            cosine = float(a @ b) / lengths if lengths else 0.0
            change[t * cells + c] = 0.0 if lengths and torch.equal(a, b) else 1 - cosine
    ranked = [*range(cells), *sorted(change, key=lambda i: (-change[i], i))]
    edge = [change.get(i, math.inf) for i in ranked]
    return sorted(ranked[:keep]), edge[keep - 1] - edge[keep] if edge[keep - 1] < math.inf else math.inf


@pytest.mark.parametrize("kind", ["gaussian", "still", "zero rows", "duplicates"])
def test_against_brute_force(kind):
    compared = 0
    for seed in range(60):
        g = generator(seed)
        frames, rows, cols, width = 2 + seed % 5, 1 + seed % 3, 1 + seed % 4, 2 + seed % 9
        n = frames * rows * cols
        x = torch.randn(n, width, generator=g)
        if kind == "still":
            still = torch.rand(n, generator=g) < 0.6
            for i in range(rows * cols, n):
                x[i] = x[i - rows * cols] if still[i] else x[i]
        if kind == "zero rows":
            x[torch.rand(n, generator=g) < 0.3] = 0.0
        if kind == "duplicates":
            x = x[torch.randint(max(1, n // 3), (n,), generator=g)]
        keep = 1 + seed % (n - 1)
        expected, margin = slow(x, frames, rows * cols, keep)
        if 0 < margin < 1e-5 or (margin == 0 and kind == "duplicates"):
            continue  # rounding decides
        compared += 1
        assert kept(film(frames, rows, cols, x), keep).kept.tolist() == expected, (seed, margin)
    assert compared > 30
