"""FlashVID's parts on examples that can be checked on paper, the schedule, and against a slow reference."""

import math

import pytest
import torch
from films import FILM, QWEN, generator

from tokviz.errors import BadInput
from tokviz.pruners import get
from tokviz.pruners.flashvid import calibrated_picks, cluster_counts, joins, most_similar_before, trees
from tokviz.types import CLS_ATTENTION, LAST_ROW, RECEIVED_ATTENTION, Budget, PlanningInfo, Signals


def params(**given):
    return get("flashvid").complete(given)


def stages(info, tokens, counted_as="published", **given):
    return get("flashvid").schedule(Budget(tokens, counted_as), info, params(**given)).stages


def kept(signals, keep, **given):
    frames = int(signals.view.max()) + 1
    info = PlanningInfo(len(signals.features), 32, "llava_next_video", n_views=frames, has_frames=True)
    first, _ = stages(info, keep, expansion=1.0, **given)
    return first.select(signals, first.keep, params(**given), generator())


def directions(*degrees):
    angles = torch.tensor([float(d) for d in degrees]).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], 1)


# ------------------------------------------------------------------------------------------------- on paper


def test_picks_are_far_from_the_picks_times_their_weight():
    # Nearest neighbours are 10, 10, 80 and 90 degrees away. Alike in weight, 180 is first, then 0 (180 away).
    unit = directions(0, 10, 90, 180)
    assert calibrated_picks(unit, torch.ones(4), 3).tolist() == [3, 0, 2]
    # 90 degrees weighs twice as much: 2 (1 - cos 80) = 1.65 against 1. Then 180, 1, against 0, 1: the lowest index.
    assert calibrated_picks(unit, torch.tensor([1.0, 1, 2, 1]), 3).tolist() == [2, 0, 3]
    assert calibrated_picks(unit, torch.ones(4), 0).tolist() == [] and calibrated_picks(
        unit, torch.ones(4), 9
    ).tolist() == [0, 1, 2, 3]


def test_a_negative_weight_counts_the_largest_distances():
    # At first the second largest: 1 - cos of 90, 80 and 90 degrees, and three times that of 170: the least of them is
    # token 1. Then the distance to it: 10, 80 and 170 degrees.
    assert calibrated_picks(directions(0, 10, 90, 180), torch.tensor([-1.0, -1, -1, -3]), 3).tolist() == [1, 0, 2]


def test_the_most_similar_token_of_the_frame_before():
    alike, which = most_similar_before([directions(0, 90, 90), directions(80, 45)])
    assert alike.tolist() == pytest.approx([-1, -1, -1, math.cos(math.radians(10)), math.cos(math.radians(45))])
    assert which.tolist() == [-1, -1, -1, 1, 0]
    alike, which = most_similar_before([directions(0)[:0], directions(80)])
    assert alike.tolist() == [-1] and which.tolist() == [-1]


def test_not_more_tokens_join_than_leave_enough():
    alike = torch.tensor([-1.0, -1, 0.9, 0.95, 0.99, 0.5])
    assert joins(alike, 0.8, 6).tolist() == [False, False, True, True, True, False]
    # Of at most two: those above the second highest, which is one.
    assert joins(alike, 0.8, 2).tolist() == [False, False, False, False, True, False]
    assert joins(alike, 0.8, 0).tolist() == [False] * 6


@pytest.mark.parametrize(("average", "root"), [("tree", 10 / 4), ("official", 10 / 3)])
def test_a_tree_is_averaged_over_all_its_tokens(average, root):
    # Frames of two: 1 | 9, then 2 and 3 below 1, then 4 below 3: 1 + 2 + 3 + 4 over four, or over 1 + 2 children.
    values = torch.tensor([[1.0], [9], [2], [3], [4], [7]])
    joined = torch.tensor([False, False, True, True, True, False])
    means, roots = trees(values, [2, 2, 2], joined, torch.tensor([-1, -1, 0, 0, 1, 1]), average)
    assert means[[0, 1, 5], 0].tolist() == pytest.approx([root, 9, 7])
    assert roots.tolist() == [0, 1, 0, 0, 0, 5]


@pytest.mark.parametrize(
    ("sizes", "keep", "exact", "counts"),
    [
        ([4, 4], 9, True, [4, 4]),
        ([6, 3, 1], 5, True, [3, 2, 0]),
        ([6, 3, 1], 5, False, [3, 2, 1]),
        ([0, 4], 3, True, [0, 3]),
        ([5, 5], 0, True, [0, 0]),
    ],
)
def test_cluster_counts(sizes, keep, exact, counts):
    assert cluster_counts(sizes, keep, exact) == counts


# Two frames of four, by direction: in the second everything but its third token turned by 5 degrees only.
FEATURES = directions(0, 41, 90, 200, 5, 46, 150, 205) * 2
SMALL = Signals(
    FEATURES, cls_attention=torch.tensor([0.1, 0.1, 0.1, 0.7] * 2), view=torch.arange(2).repeat_interleave(4)
)
GIVEN = {"relevance": "attention", "segments": 1, "cut": 0.0, "alpha": 0.4}


def test_a_film_on_paper():
    found = kept(SMALL, 6, **GIVEN)
    # Each frame has three, of which ceil(1.2) = 2 are selected. 200 degrees has most attention; 0 is 160 away from it,
    # 41 is 159 and 90 less: 0. In frame 1 likewise 205 and 5.
    # Left are 41 and 90, 46 and 150. 46 joins 41, 5 degrees away. 150 is 60 from 90: cos 0.5 is below 0.8.
    # Of three roots two stay: 2 of 3 of frame 0's two make 1.33, of frame 1's one 0.67: one each. In frame 0 one
    # neighbour, the row itself, makes all equally dense, and the first root is the centre.
    assert found.kept.tolist() == [0, 1, 3, 4, 6, 7]
    assert found.assignment.tolist() == [0, 1, 1, 3, 4, 1, 6, 7]
    mean = (FEATURES[1] + FEATURES[5]) / 2
    assert torch.allclose(found.features[1], (mean + FEATURES[2]) / 2, atol=1e-6)
    assert torch.equal(found.features[[0, 2, 3, 4, 5]], FEATURES[[0, 3, 4, 6, 7]])
    role, segment, alike, sizes = (token_map.values.tolist() for token_map in found.diagnostics.maps)
    assert role == [3, 2, 1, 3, 3, 0, 2, 3] and segment == [0] * 8 and sizes == [1, 3, 0, 1, 1, 0, 1, 1]
    assert alike[5:7] == pytest.approx([math.cos(math.radians(5)), 0.5], abs=1e-6)
    assert found.diagnostics.facts == {"segments": [2], "selected": 4, "roots": 3, "clusters": 2, "non_finite": 0}


def test_every_frame_is_a_segment_of_its_own_where_it_is_cut():
    found = kept(SMALL, 6, **{**GIVEN, "segments": 2})
    assert found.diagnostics.facts["segments"] == [1, 1] and found.diagnostics.facts["roots"] == 4
    assert found.diagnostics.charts[0].marked == [0]


def test_the_stages():
    for info, need, layer in ((FILM, CLS_ATTENTION, 23), (QWEN, RECEIVED_ATTENTION, 20)):
        first, second = stages(info, 200)
        assert (first.site, first.keep, first.needs) == ("projector", 250, (need,))
        assert (second.site, second.keep, second.needs, second.positions) == (layer, 75, (LAST_ROW,), "keep")
    assert [stage.keep for stage in stages(FILM, 200, count="official")] == [None, None]
    assert [stage.keep for stage in stages(FILM, 200, "final")] == [667, 200]
    first, second = stages(FILM, 200, "average")
    assert (23 * first.keep + 9 * second.keep) / 32 == pytest.approx(200, abs=0.2)
    deep = PlanningInfo(8 * 144, 36, "qwen3_vl", n_views=8, has_frames=True)
    assert stages(deep, 200)[1].site == 28
    with pytest.raises(BadInput, match="this model has only one"):
        stages(PlanningInfo(8 * 144, 1, "llava_next_video", n_views=8, has_frames=True), 200)
    assert get("flashvid").missing(PlanningInfo(576, 32)).startswith("FlashVID compares the frames of a video")


def test_rounding_up_in_every_frame():
    view = torch.arange(4).repeat_interleave(9)
    signals = Signals(torch.randn(36, 8, generator=generator()), cls_attention=torch.rand(36), view=view)
    info = PlanningInfo(36, 28, "llava_next_video", n_views=4, has_frames=True)
    first, second = stages(info, 9, count="official", segments=1, cut=0.0)
    found = first.select(signals, None, params(count="official", segments=1, cut=0.0), generator())
    # ceil(12 / 4) = 3 a frame, ceil(2.1) = 3 of them selected.
    assert len(found.kept) == 12 and found.diagnostics.facts["selected"] == 12
    inside = Signals(torch.zeros(10, 2), attention_rows=torch.arange(10.0)[None] / 100)
    assert second.select(inside, None, params(), generator()).kept.tolist() == [6, 7, 8, 9]  # ceil(10 * 4/12)


# ------------------------------------------------------------------------------------------------- brute force


def slow(x, attention, frames, each, others, threshold):
    """One segment: selected, trees and clusters, token by token in float64, and how close the closest decision was."""
    x, cells, gap = x.double(), len(x) // frames, 1.0
    unit = x / x.norm(dim=1, keepdim=True)
    centre, selected = x.mean(0), []
    for t in range(frames):
        rows, mine = list(range(t * cells, (t + 1) * cells)), []
        weight = {r: float(attention[r]) * float(x[r] @ centre) for r in rows}
        while len(mine) < each:

            def worth(r, mine=mine, rows=rows, weight=weight):
                near = [weight[r] * (1 - float(unit[r] @ unit[i])) for i in (mine or [i for i in rows if i != r])]
                return min(near)

            ranked = sorted((r for r in rows if r not in mine), key=lambda r: (-worth(r), r))
            if len(ranked) > 1:
                gap = min(gap, worth(ranked[0]) - worth(ranked[1]))
            mine.append(ranked[0])
        selected += mine
    rest = [r for r in range(len(x)) if r not in selected]
    parent, alike = {}, {}
    for r in rest:
        before = [b for b in rest if b // cells == r // cells - 1]
        if before:
            parent[r] = max(before, key=lambda b: float(unit[r] @ unit[b]))
            alike[r] = float(unit[r] @ unit[parent[r]])
    gap = min([gap, *(abs(value - threshold) for value in alike.values())])
    joined = {r for r in alike if alike[r] > threshold}
    if len(joined) > len(rest) - others:
        return None, 0.0

    def root(r):
        return root(parent[r]) if r in joined else r

    roots = [r for r in rest if r not in joined]
    means = {r: torch.stack([x[m] for m in rest if root(m) == r]).mean(0) for r in roots}
    return (selected, roots, means, {m: root(m) for m in rest}), gap


def test_against_brute_force():
    compared = joined = 0
    for seed in range(60):
        g = generator(seed)
        frames, cells, width = 2 + seed % 4, 4 + seed % 5, 3 + seed % 4
        base = torch.randn(cells, width, generator=g) + 1.0
        x = torch.cat([base + 0.5 * torch.rand(cells, 1, generator=g) * torch.randn(cells, width, generator=g)
                       for _ in range(frames)])  # fmt: skip
        attention = torch.rand(len(x), generator=g) + 0.1
        weight = attention * (x @ x.mean(0))
        if float(weight.min()) <= 0:
            continue  # the slow reference knows positive weights only
        signals = Signals(x, cls_attention=attention, view=torch.arange(frames).repeat_interleave(cells))
        keep = frames * max(2, cells // 2)
        found = kept(signals, keep, segments=1, cut=0.0, threshold=0.9)
        each = math.ceil(keep // frames * 0.7)
        assert len(found.kept) == keep
        expected, gap = slow(x, attention, frames, each, keep - each * frames, 0.9)
        if expected is None or gap < 1e-6:
            continue
        compared += 1
        selected, roots, means, root = expected
        assert found.diagnostics.facts["roots"] == len(roots), seed
        assert set(selected) <= set(found.kept.tolist())
        role = found.diagnostics.maps[0].values
        assert sorted(selected) == (role == 3).nonzero().squeeze(1).tolist()
        assert sorted(roots) == sorted(
            (role == 1).nonzero().squeeze(1).tolist() + (role == 2).nonzero().squeeze(1).tolist()
        )
        for place, token in enumerate(found.kept.tolist()):
            if token in selected:
                assert torch.equal(found.features[place], x[token])
                continue
            members = [r for r in roots if found.assignment[r] == token]
            joined += len(root) - len(roots)
            assert torch.allclose(
                found.features[place].double(), torch.stack([means[r] for r in members]).mean(0), atol=1e-5
            )
            assert all(found.assignment[m] == token for m, r in root.items() if r in members)
    assert compared > 25 and joined > 50
