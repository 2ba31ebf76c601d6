"""Hand-worked measures."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokviz.models.base import decode_flops, prefill_flops
from tokviz.models.llava import centre_crop_grid
from tokviz.records import GridView, Run, StageRecord, TokenGrid
from tokviz.runs.metrics import (
    Fates,
    carriers,
    evidence_recall,
    evidence_shares,
    evidence_tokens,
    fates,
    stages_that_select,
    timing,
    verdict,
    withdrawal,
)
from tokviz.types import budget_meanings, tokens_per_layer


def test_prefill_flops_by_hand():
    # d = 2, m = 3; layer of n = 5: 4*5*4 + 2*25*2 + 2*5*2*3 = 80 + 100 + 60; layer of n = 1: 16 + 4 + 12
    assert prefill_flops([5, 1], d=2, m=3) == 240 + 32


def test_decode_flops_equals_the_closed_form_of_the_paper():
    # ToDRE Eq. 2 with T equal layers: T (4Ld² + 2Ldm + dL(2n + L − 1))
    T, n, L, d, m = 3, 7, 5, 4, 6
    assert decode_flops([n] * T, d, m, L) == T * (4 * L * d**2 + 2 * L * d * m + d * L * (2 * n + L - 1))


def test_the_published_ratio_of_encoding_prefilling_and_decoding():
    # ToDRE 3.1: LLaVA-NeXT-7B, n = 3000, L = 20: prefilling : decoding ≈ 63.6 : 0.4
    prefill, decode = prefill_flops([3000] * 32, 4096, 11008), decode_flops([3000] * 32, 4096, 11008, 20)
    assert decode / prefill == pytest.approx(0.4 / 63.6, rel=0.1)


@pytest.mark.parametrize(
    ("answer", "baseline", "expected", "kind"),
    [
        ("Red.", "red", "RED", "right"),
        ("blue", "red", "red", "flipped"),
        ("red", "blue", "red", "recovered"),
        ("blue", "green", "red", "wrong"),
        ("two  stars", "Two stars", None, "same"),
        ("one", "two", None, "changed"),
        ("There are two dogs", "there are 2 dogs!", None, "same"),
        ("the dog", "a cat", "dog", "recovered"),
        ("2", "two", "2", "right"),
        ("none", "0", "0", "flipped"),  # a digit is not there, or it is the digit 0
        ("the", "a", None, "changed"),  # nothing is left of either
    ],
)
def test_verdicts(answer, baseline, expected, kind):
    assert verdict(answer, baseline, expected).kind == kind


def test_evidence_recall_counts_patches_that_show_it():
    grid = centre_crop_grid((40, 40), 40, 40, 10)
    evidence = [(10.0, 10.0, 20.0, 30.0)]
    assert evidence_tokens(grid, evidence) == [5, 9]
    assert evidence_recall(grid, evidence, [5, 0]) == 0.5
    assert evidence_recall(grid, [(0.0, 0.0, 0.1, 0.1)], [0]) is None
    assert evidence_tokens(grid, [(0.0, 0.0, 1.0, 10.0)]) == [0]  # a tenth is enough


def test_evidence_shares_count_what_several_boxes_cover_once():
    grid = centre_crop_grid((40, 40), 40, 40, 10)
    assert evidence_shares(grid, []) is None
    # Half of patch 0; all of patch 5, a corner of it twice; a quarter of 6; what lies outside of the image is nothing.
    found = evidence_shares(grid, [(0.0, 0.0, 5.0, 10.0), (10.0, 10.0, 20.0, 20.0), (15.0, 15.0, 25.0, 20.0),
                                   (50.0, 0.0, 1e308, 40.0)])  # fmt: skip
    assert found == [0.5, 0, 0, 0, 0, 1, 0.25, *[0] * 9]
    assert evidence_shares(grid, [(50.0, 50.0, 60.0, 60.0)]) == [0] * 16
    with pytest.raises(ValueError, match="frame of each"):
        evidence_shares(film(grid), [(0.0, 0.0, 5.0, 5.0)])


def film(grid):
    """Two frames, each as the image."""
    frames = [grid.views[0].model_copy(update={"level": frame, "frames": (frame,)}) for frame in range(2)]
    twice = {name: getattr(grid, name) * 2 for name in ("row", "col", "box")}
    return grid.model_copy(update={"views": frames, "view": [0] * 16 + [1] * 16, **twice})


@pytest.mark.parametrize("seed", range(30))
def test_evidence_shares_are_the_marked_pixels_of_each_patch(seed):
    rng = np.random.default_rng(seed)
    grid, n_boxes = centre_crop_grid((40, 40), 40, 40, 10), int(rng.integers(1, 6))
    corners = np.sort(rng.integers(0, 41, (n_boxes, 2, 2)), axis=1) + [[[0, 0]], [[1, 1]]][seed % 2]
    boxes = [(x0, y0, x1 + 1, y1 + 1) for (x0, y0), (x1, y1) in corners.astype(float).tolist()]
    pixels = np.zeros((2, 50, 50))
    at = rng.integers(0, 2, n_boxes).tolist()
    for (x0, y0, x1, y1), frame in zip(boxes, at, strict=True):
        pixels[frame, int(y0) : int(y1), int(x0) : int(x1)] = 1
    of_frames = pixels[:, :40, :40].reshape(2, 4, 10, 4, 10).mean((2, 4)).reshape(2, 16)
    assert evidence_shares(film(grid), boxes, at) == pytest.approx(of_frames.flatten().tolist())
    whole = pixels.max(0)[:40, :40].reshape(4, 10, 4, 10).mean((1, 3)).flatten()
    assert evidence_shares(grid, boxes) == pytest.approx(whole.tolist())


def test_timing_says_whether_it_is_a_median():
    assert timing([3.0, 1.0, 2.0]).median_ms == 2.0
    assert timing([5.0]).single_shot and not timing([5.0, 6.0]).single_shot


def test_budget_meanings_of_sparsevlm_as_published():
    # methods.md section 6: [300, 200, 110] with clusters 309/204/113 at the outputs of layers 2, 6, 15 of 32
    per_layer = tokens_per_layer(576, 32, [(3, 309), (7, 204), (16, 113)])
    meanings = budget_meanings(per_layer, 113)
    assert meanings.average_in == pytest.approx(206.5, abs=0.05)
    assert meanings.average_logged == pytest.approx(192.0, abs=0.05)
    assert meanings.final == 113


def test_stages_before_the_llm_count_from_layer_zero():
    assert tokens_per_layer(576, 4, [("encoder", 300), ("projector", 100), (2, None), (3, 0)]) == [100, 100, 100, 0]


def share(box, other):
    """How much of a box another one covers: the formula that ``evidence_tokens`` computes for many at once."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    return max(width, 0) * max(height, 0) / area if area > 0 else 0.0


def evidence_one_by_one(grid, evidence, frames):
    in_view = [
        [box for k, box in enumerate(evidence) if not grid.is_video or frames[k] in view.frames] for view in grid.views
    ]
    return [
        token
        for token, box in enumerate(grid.box)
        if box and any(share(box, other) >= 0.1 for other in in_view[grid.view[token]])
    ]


edges = st.one_of(st.integers(-2, 12).map(float), st.floats(-1e308, 1e308), st.sampled_from([0.1, 0.3, 0.7, 1 / 3]))
boxes = st.tuples(edges, edges, edges, edges)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_evidence_is_found_as_one_by_one(data):
    n_views, is_video = data.draw(st.integers(1, 4)), data.draw(st.booleans())
    views = [
        GridView(name="", rows=4, cols=4, seen=(0, 0, 9, 9), level=i, frames=(2 * i, 2 * i + 1) if is_video else ())
        for i in range(n_views)
    ]
    drawn = data.draw(st.lists(st.tuples(st.integers(0, n_views - 1), st.none() | boxes), max_size=12))
    grid = TokenGrid(
        image_size=(9, 9), views=views, view=[view for view, _ in drawn], row=[-1] * len(drawn),
        col=[-1] * len(drawn), box=[box for _, box in drawn],
    )  # fmt: skip
    evidence = data.draw(st.lists(boxes, max_size=6))
    frames = [data.draw(st.integers(0, 2 * n_views)) for _ in evidence]
    assert evidence_tokens(grid, evidence, frames) == evidence_one_by_one(grid, evidence, frames)


def test_many_views_and_boxes_cost_their_sum_and_not_their_product():
    grid = centre_crop_grid((480, 480), 336, 336, 14)
    views = [grid.views[0], *[grid.views[0].model_copy(update={"level": 1})] * 15_999]
    wide = grid.model_copy(update={"views": views})
    began = time.process_time()
    assert evidence_tokens(wide, [(i / 1e4, 0.0, 30.0, 30.0) for i in range(20_000)]) == [0, 1, 24, 25]
    assert time.process_time() - began < 10  # one by one: 37 s for the boxes alone, 48 s for the views alone


def stage(kept, n_in, assignment=None, site="encoder", order=None):
    return StageRecord(
        title="", site=site, site_label="", positions="keep", planned_keep=None, n_in=n_in, kept=kept, score=None,
        order=order, assignment=assignment, maps=[], facts={}, selection_ms=None,
    )  # fmt: skip


def test_what_became_of_tokens_by_hand():
    # 1 goes into 0, 3 into 2, 5 is dropped; then 2 goes into 4 and takes 3 along; then 0 is dropped, and 1 with it.
    first = stage([0, 2, 4], 6, [0, 0, 2, 2, 4, -1])
    second = stage([0, 4], 3, [0, -1, 4, -1, 4, -1])
    third = stage([4], 2)
    everything = range(6)
    assert fates(everything, [], 6) == Fates((0, 1, 2, 3, 4, 5), (), ())
    assert fates(everything, [first], 6) == Fates((0, 2, 4), (1, 3), (5,))
    assert carriers([first, second], 6) == [0, 0, 4, 4, 4, -1]
    assert fates(everything, [first, second], 6) == Fates((0, 4), (1, 2, 3), (5,))
    assert fates([3, 1, 4], [first, second, third], 6) == Fates((4,), (3,), (1,))


def test_a_dropped_carrier_carries_nothing():
    assert carriers([stage([0], 3, [0, 2, -1])], 3) == [0, -1, -1]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_fates_are_what_following_each_token_gives(data):
    n, stages = data.draw(st.integers(1, 9)), []
    alive = list(range(n))
    for _ in range(data.draw(st.integers(0, 4))):
        kept = sorted(data.draw(st.sets(st.sampled_from(alive))) if alive else [])
        assignment = None
        if data.draw(st.booleans()):
            goal = st.sampled_from([-1, *kept])
            assignment = [t if t in kept else data.draw(goal) if t in alive else -1 for t in range(n)]
        stages.append(stage(kept, len(alive), assignment))
        alive = kept
    for token in range(n):
        place = token
        for one in stages:
            if place not in one.kept:
                place = -1 if one.assignment is None or place < 0 else one.assignment[place]
        expected = "lost" if place < 0 else "kept" if place == token else "absorbed"
        found = fates([token], stages, n)
        assert [name for name in ("kept", "absorbed", "lost") if getattr(found, name)] == [expected]
        assert carriers(stages, n)[token] == place


def test_a_withdrawal_is_no_selection():
    stages = [stage([0, 2], 4), stage([2], 2, site=3), stage([], 1, site=9)]
    run = Run(method="v2drop", label="", family="progressive", params={}, stages=stages)
    assert withdrawal(run) == stages[2] and stages_that_select(run) == stages[:2]
    kept = run.model_copy(update={"stages": stages[:2]})
    assert withdrawal(kept) is None and stages_that_select(kept) == stages[:2]
