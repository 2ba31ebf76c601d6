"""FastVID on a film that can be checked on paper, its shares, and a slow reference token by token."""

import math
from itertools import pairwise

import pytest
import torch
from films import FILM, QWEN, generator

from tokviz.errors import Unsupported
from tokviz.pruners import get
from tokviz.pruners.fastvid import merge, segments, split_of, transitions
from tokviz.types import CLS_ATTENTION, RECEIVED_ATTENTION, Budget, PlanningInfo, Signals


def params(**given):
    return get("fastvid").complete(given)


def stage(info, tokens, **given):
    (found,) = get("fastvid").schedule(Budget(tokens), info, params(**given)).stages
    return found


def kept(signals, keep, **given):
    return stage(FILM, keep, **given).select(signals, keep, params(**given), generator())


# ------------------------------------------------------------------------------------------------- on paper

# Three frames of three tokens. The means of the first two point the same way, the third one's the other.
SMALL = Signals(
    torch.tensor([[1.0, 0], [0, 1], [1, 1], [2, 0], [0, 2], [3, 3], [-1, 0], [0, -1], [-1, -2]]),
    cls_attention=torch.tensor([0.5, 0.1, 0.1, 0.1, 0.1, 0.9, 0.1, 0.9, 0.1]),
    view=torch.arange(3).repeat_interleave(3),
)
TWO = {"segments": 2, "threshold": 0.0, "context": 0.5}


def test_salient_tokens_and_anchors_on_paper():
    found = kept(SMALL, 6, **TWO)
    # Segment of frames 0 and 1: 4 tokens, of which 2 anchors in frame 1 and a salient one in each: rows 0 and 5. What
    # is left of frame 1 is anchors 3 and 4; row 1 joins 4, row 2 is as near to both and joins the first. Frame 2: 7 is
    # salient, 6 and 8 are equally dense and the first is the anchor.
    assert found.kept.tolist() == [0, 3, 4, 5, 6, 7]
    assert found.assignment.tolist() == [0, 4, 3, 3, 4, 5, 6, 7, 6]
    # w = max(1/2, 0.6): 0.6 * (2, 0) + 0.4 * (1, 1) and so on.
    expected = [[1, 0], [1.6, 0.4], [0, 1.6], [3, 3], [-1, -0.8], [0, -1]]
    assert torch.allclose(found.features, torch.tensor(expected))
    facts = found.diagnostics.facts
    assert (facts["segments"], facts["salient"], facts["context"]) == ([2, 1], [1, 1, 1], [0, 2, 1])


def test_maps_and_the_chart_of_transitions():
    shown = kept(SMALL, 6, **TWO).diagnostics
    maps = {token_map.name: token_map.values for token_map in shown.maps}
    assert maps["segment"].tolist() == [0] * 6 + [1] * 3
    assert maps["role"].tolist() == [1, 0, 0, 2, 2, 1, 2, 1, 0]
    assert maps["group_size"].tolist() == [1, 0, 0, 2, 2, 1, 2, 1, 0]
    assert maps["density_peak"].isnan().tolist() == [True, True, True, False, False, True, False, True, False]
    (chart,) = shown.charts
    assert chart.y == pytest.approx([1.0, -5 / math.sqrt(26)]) and list(chart.marked) == [1]


def test_in_onevisions_code_an_anchor_takes_itself_in():
    found = kept(SMALL, 6, code="onevision", **TWO)
    assert found.kept.tolist() == [0, 3, 4, 5, 6, 7]
    # Two tokens, so w = max(1/3, 0.6): 0.6 * (2, 0) + 0.4 * ((2, 0) + (1, 1)) / 2.
    assert torch.allclose(found.features[1], torch.tensor([1.8, 0.2]))


def test_a_token_merges_into_an_anchor_of_every_anchor_frame():
    found = kept(SMALL, 6, segments=1, threshold=0.0, interval=1, context=0.5)
    # The transition to frame 2 is below 0, so that it is cut all the same; within frames 0 and 1 both have anchors.
    assert found.diagnostics.facts["context"] == [1, 1, 1]
    # Salient 0, 5, 7. Of rows 1, 2 the first is the anchor (a tie), of 3, 4 too. Into 1: 2, 3, 4; into 3: 1, 2, 4.
    assert found.kept.tolist() == [0, 1, 3, 5, 6, 7]
    mean = torch.tensor([[3.0, 3], [1, 4]]) / 3
    assert torch.allclose(found.features[1], 0.6 * SMALL.features[1] + 0.4 * mean[0])
    assert torch.allclose(found.features[2], 0.6 * SMALL.features[3] + 0.4 * mean[1])
    assert found.assignment[[2, 4]].tolist() == [1, 1], "the most similar of both; row 2 ties"


def test_an_anchor_that_takes_nothing_in_stays_as_it_is():
    x = torch.tensor([[1.0, 0], [0, 1], [0, 2]])
    found = merge(x, torch.tensor([0, 1]), torch.tensor([2]), 0.6)
    assert torch.allclose(found, torch.tensor([[1.0, 0], [0, 1.4]]))
    assert torch.allclose(merge(x, torch.tensor([0, 1]), torch.tensor([2]), 0.0)[1], torch.tensor([0, 1.5]))


def test_cuts_are_the_lowest_transitions_and_all_below_the_threshold():
    similarity = torch.tensor([0.94, 0.91, 0.42, 0.89, 0.35])
    assert segments(similarity, 2, 0.5) == [range(3), range(3, 5), range(5, 6)]
    assert segments(similarity, 1, 0.0) == [range(6)]
    assert segments(similarity, 4, 0.0) == [range(3), range(3, 4), range(4, 5), range(5, 6)]
    assert len(segments(similarity, 64, 0.0)) == 6
    assert segments(torch.ones(3), 2, 0.0) == [range(1), range(1, 4)], "of equal ones the first"
    assert segments(torch.empty(0), 8, 0.9) == [range(1)]


def test_transitions_are_cosines_of_means():
    frames = [torch.tensor([0, 1, 2]), torch.tensor([3, 4, 5]), torch.tensor([6, 7, 8])]
    assert transitions(SMALL.features, frames).tolist() == pytest.approx([1.0, -5 / math.sqrt(26)])


@pytest.mark.parametrize(
    ("sizes", "shares", "parts", "salient", "context"),
    [
        # 12 of 30 are anchors, in the last frame and four before it.
        ([10] * 6, [5] * 6, [range(6)], [3] * 6, [0, 6, 0, 0, 0, 6]),
        # 2 of 7, and 5 salient: one more in the first.
        ([4, 4], [4, 3], [range(2)], [3, 2], [0, 2]),
        # Frame 3 has room for 2 of its 4 anchors: two salient ones more elsewhere.
        ([4] * 4, [3] * 4, [range(4)], [3, 3, 2, 2], [0, 0, 0, 2]),
        # An odd number of anchors: one more in the last anchor frame. 13 of 33.
        ([20] * 5, [7, 7, 7, 6, 6], [range(5)], [4, 4, 4, 4, 4], [6, 0, 0, 0, 7]),
        ([3, 3], [1, 0], [range(1), range(1, 2)], [1, 0], [0, 0]),
    ],
)
def test_shares(sizes, shares, parts, salient, context):
    found = split_of(sizes, shares, parts, params())
    assert (found.salient, found.context) == (salient, context)
    assert sum(found.salient) + sum(found.context) == sum(shares)


def test_onevision_rounds_by_frame():
    found = split_of([10] * 5, [4] * 5, [range(5)], params(code="onevision"))
    assert (found.salient, found.context) == ([3] * 5, [2, 0, 0, 0, 3]), "int(1.6) each, not int(8)"
    assert split_of([10] * 5, [4] * 5, [range(5)], params()).context == [4, 0, 0, 0, 4]


def test_the_stage():
    for info, need in ((FILM, CLS_ATTENTION), (QWEN, RECEIVED_ATTENTION)):
        found = stage(info, 288)
        assert (found.site, found.keep, found.needs, found.positions) == ("projector", 288, (need,), "keep")
    with pytest.raises(Unsupported, match="FastVID compares the frames of a video, and this model takes images only"):
        stage(PlanningInfo(576, 32), 64)


# ------------------------------------------------------------------------------------------------- brute force


def peaks(rows, features, count):
    """Density peaks of ``rows`` with four neighbours in float64, one pair at a time, and the smallest gap of scores."""
    x, scale = [features[row].double() for row in rows], math.sqrt(features.shape[1])
    distance = [[float((a - b).norm()) / scale for b in x] for a in x]
    density = [math.exp(-sum(d * d for d in sorted(line)[:4]) / len(sorted(line)[:4])) for line in distance]
    score = []
    for i in range(len(x)):
        denser = [distance[i][j] for j in range(len(x)) if density[j] > density[i]]
        score.append(density[i] * (min(denser) if denser else max(map(max, distance))))
    levels = sorted(score, reverse=True)
    gap = levels[count - 1] - levels[count] if count < len(levels) else 1.0
    return sorted(rows[i] for i in sorted(range(len(x)), key=lambda i: (-score[i], i))[:count]), gap


def slow(x, attention, frames, keep, given):
    """Segments, salient tokens, anchors and their merged features, one by one in float64."""
    x, size = x.double(), len(x) // frames
    means = [x[t * size : t * size + size].mean(0) for t in range(frames)]
    similarity = [float(a @ b / (a.norm() * b.norm())) for a, b in pairwise(means)]
    lowest = sorted(range(frames - 1), key=lambda t: (similarity[t], t))[: given["segments"] - 1]
    cuts = sorted({*lowest, *(t for t in range(frames - 1) if similarity[t] < given["threshold"])})
    ends = [0, *(t + 1 for t in cuts), frames]
    shares = [keep // frames + (t < keep % frames) for t in range(frames)]
    found, gap = {}, 1.0
    for start, end in pairwise(ends):
        total = sum(shares[start:end])
        count = int(total * given["context"])
        anchors_of = list(range(end - 1, start - 1, -given["interval"]))
        context = {t: count // len(anchors_of) + (i < count % len(anchors_of)) for i, t in enumerate(anchors_of)}
        salient, peaked = [], []
        for i, t in enumerate(range(start, end)):
            own = sorted(range(t * size, t * size + size), key=lambda row: (-float(attention[row]), row))
            number = (total - count) // (end - start) + (i < (total - count) % (end - start))
            if number + context.get(t, 0) > size:
                return None, 0.0  # what such a frame cannot take is checked above
            salient += own[:number]
            if context.get(t, 0):
                chosen, here = peaks(sorted(own[number:]), x, context[t])
                peaked.append(chosen)
                gap = min(gap, here)
        found |= {row: x[row] for row in salient}
        for anchors in peaked:
            groups = {anchor: [] for anchor in anchors}
            for row in set(range(start * size, end * size)) - {*salient, *anchors}:
                near = [float(x[row] @ x[a] / (x[row].norm() * x[a].norm())) for a in anchors]
                groups[anchors[near.index(max(near))]].append(x[row])
            for anchor, group in groups.items():
                w = max(1 / (len(group) + 1), given["beta"])
                found[anchor] = w * x[anchor] + (1 - w) * torch.stack(group).mean(0) if group else x[anchor]
    return found, gap


@pytest.mark.parametrize("still", [False, True])
def test_against_brute_force(still):
    compared = 0
    for seed in range(60):
        g = generator(seed)
        frames, size, width = 2 + seed % 9, 6 + seed % 7, 3 + seed % 8
        x = torch.randn(frames * size, width, generator=g)
        if still:
            x = x[:size].repeat(frames, 1) + 0.2 * x
        attention = torch.rand(len(x), generator=g)
        given = {"segments": 1 + seed % 4, "threshold": (0.0, 0.5, 0.95)[seed % 3], "context": (0.4, 0.5)[seed % 2],
                 "interval": 1 + seed % 4, "beta": (0.6, 0.1)[seed % 2]}  # fmt: skip
        keep = frames + seed % (2 * frames)
        expected, gap = slow(x, attention, frames, keep, given)
        if expected is None or gap < 1e-5:
            continue
        compared += 1
        signals = Signals(x, cls_attention=attention, view=torch.arange(frames).repeat_interleave(size))
        found = kept(signals, keep, **given)
        assert found.kept.tolist() == sorted(expected), seed
        assert torch.allclose(found.features, torch.stack([expected[i].float() for i in sorted(expected)]), atol=1e-5)
    assert compared > 30
