"""ToMe behind the tower: rounds worked on paper, a slow reference in plain Python, views, and when it is taken."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokviz.names import VisionLayer
from tokviz.pruners.tome import PRUNER
from tokviz.pruners.tome_after_encoder import select_after_encoder
from tokviz.types import ENCODER_KEYS, Budget, PlanningInfo, Signals


def run(keep, features, keys, **more):
    return select_after_encoder(Signals(torch.as_tensor(features), keys=torch.as_tensor(keys), **more), keep, {}, None)


def test_two_rounds_on_paper():
    """Giving half 0, 2, 4; taking half 1, 3, 5. Round 1: 0 -> 1 (1.0), 2 -> 3 (1.0), 4 -> 5 (0.99): three are left.

    They go on as [] + [1, 3, 5]; of these the first and third give: {0, 1} -> {2, 3} (0) against {4, 5} -> {2, 3}.
    """
    keys = [[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0], [-0.6, 0.8], [-1.0, 1.0]]
    values = [[0.0], [4.0], [10.0], [20.0], [30.0], [40.0]]
    found = run(3, values, keys)
    assert found.kept.tolist() == [0, 2, 4] and found.assignment.tolist() == [0, 0, 2, 2, 4, 4]
    assert found.features.flatten().tolist() == [2.0, 15.0, 35.0] and found.sizes.tolist() == [2, 2, 2]
    two = run(2, values, keys)
    # Means of keys: (1.5, 0), (0, 2), (-0.8, 0.9): the last is nearer to the second.
    assert two.kept.tolist() == [0, 2] and two.assignment.tolist() == [0, 0, 2, 2, 2, 2]
    assert two.features.flatten().tolist() == [2.0, 25.0] and two.sizes.tolist() == [2, 4]
    assert two.sequence is None and two.extra is None
    turn = next(token_map.values for token_map in two.diagnostics.maps if token_map.name == "turn")
    # In round 2 token 5 gives the group that it stands for.
    assert turn[[0, 2, 4, 5]].tolist() == [1.0, 1.0, 1.0, 2.0] and turn[[1, 3]].isnan().all()
    assert two.diagnostics.facts["rounds"] == 2 and two.diagnostics.facts["merged"] == 4


def slowly(features, keys, share):
    """Groups of original rows, by the official steps without [CLS]: each group a list, in the order it goes on."""
    groups = [[row] for row in range(len(features))]

    def mean(rows, of):
        return [sum(of[row][axis] for row in rows) / len(rows) for axis in range(len(of[0]))]

    def cosine(a, b):
        lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
        return sum(x * y for x, y in zip(a, b, strict=True)) / max(lengths, 1e-12)

    while len(groups) > share:
        r = min(len(groups) // 2, len(groups) - share)
        giving, taking = groups[0::2], groups[1::2]
        metric = {id(group): mean(group, keys) for group in groups}
        best = []
        for number, group in enumerate(giving):
            similarities = [cosine(metric[id(group)], metric[id(other)]) for other in taking]
            partner = max(range(len(taking)), key=lambda i: (similarities[i], -i))
            best.append((-similarities[partner], number, partner))
        best.sort()
        grown = [list(group) for group in taking]
        for _, number, partner in best[:r]:
            grown[partner] += giving[number]
        groups = [giving[number] for _, number, _ in best[r:]] + grown
    return sorted((sorted(group), mean(group, features)) for group in groups)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 21), st.integers(1, 20), st.integers(0, 10**6))
def test_it_equals_the_slow_reference(n, share, seed):
    share = min(share, n - 1)
    generator = torch.Generator().manual_seed(seed)
    features, keys = (torch.randn(n, width, generator=generator, dtype=torch.float64).float() for width in (4, 3))
    found = run(share, features, keys)
    expected = slowly(features.tolist(), keys.tolist(), share)
    assert found.kept.tolist() == [group[0] for group, _ in expected]
    for leader, size, mean, (group, value) in zip(
        found.kept.tolist(), found.sizes.tolist(), found.features.tolist(), expected, strict=True
    ):
        assert (found.assignment == leader).nonzero().flatten().tolist() == group and size == len(group)
        assert mean == pytest.approx(value, abs=1e-5)


def test_frames_are_merged_one_by_one_and_what_is_no_patch_is_dropped():
    view = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    candidates = torch.tensor([False, True, True, True, False, True, True, True])
    keys = torch.eye(8)[[0, 1, 1, 2, 0, 1, 1, 2]]
    found = run(4, torch.arange(8.0)[:, None], keys, view=view, candidates=candidates)
    assert found.assignment.tolist() == [-1, 1, 1, 3, -1, 5, 5, 7] and found.kept.tolist() == [1, 3, 5, 7]
    assert found.features.flatten().tolist() == [1.5, 3, 5.5, 7] and found.diagnostics.facts["kept_per_view"] == [2, 2]
    # Fewer tokens than frames: the first frames have one each.
    assert (
        run(1, torch.ones(8, 1), keys, view=view, candidates=candidates).assignment.tolist() == [-1, 1, 1, 1] + [-1] * 4
    )


def test_rows_that_are_not_finite_stay_only_to_fill_the_count():
    keys = torch.eye(5)
    keys[2, 0] = torch.nan
    features = torch.arange(5.0)[:, None]
    features[4] = torch.inf
    three = run(3, features, keys)
    assert (
        three.kept.tolist() == [0, 1, 3] and three.diagnostics.facts["non_finite"] == 2 and three.diagnostics.warnings
    )
    assert run(4, features, keys).kept.tolist() == [0, 1, 2, 3]
    assert run(2, features * torch.nan, keys).kept.tolist() == [1, 3], "nothing to compare: evenly spaced"


@pytest.mark.parametrize(
    ("info", "site"),
    [
        (PlanningInfo(2880, 32, "llava_next", n_views=5, has_tiles=True), "encoder"),
        (
            PlanningInfo(
                1296, 28, "qwen2_5_vl", has_cls=False, merges_patches=True, renumbers=False, published_as="qwen"
            ),
            "projector",
        ),
        (PlanningInfo(2056, 32, "video_llava", n_views=8, has_frames=True, published_as="video_llava"), "encoder"),
        (PlanningInfo(1088, 30, "idefics3", published_as=None, has_cls=False, n_views=17, has_tiles=True), "encoder"),
    ],
)
def test_towers_that_cannot_be_opened_are_merged_behind(info, site):
    assert PRUNER.missing(info) is None
    (stage,) = PRUNER.schedule(Budget(100), info, PRUNER.complete(None)).stages
    assert (stage.site, stage.keep, stage.needs) == (site, 100, (ENCODER_KEYS,))
    assert stage.positions == ("reindex" if info.renumbers else "keep")
    inside = PRUNER.schedule(Budget(64), PlanningInfo(576, 32, n_vision_layers=23), PRUNER.complete(None)).stages
    assert all(isinstance(stage.site, VisionLayer) and not stage.needs for stage in inside)
