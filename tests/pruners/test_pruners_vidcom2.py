"""VidCom2 on films that can be checked on paper, against a slow reference, and its three ways of counting."""

import math
from itertools import pairwise

import pytest
import torch
from films import FILM, generator

from tokviz.pruners import get
from tokviz.pruners.vidcom2 import kernels, lowest_in_each_frame, outliers, quiet_channels, reconciled
from tokviz.types import Budget, PlanningInfo, Signals

WIDTHS = (0.125, 0.25, 0.5, 1, 2)


def params(**given):
    return get("vidcom2").complete(given)


def stage(info, tokens, **given):
    (found,) = get("vidcom2").schedule(Budget(tokens), info, params(**given)).stages
    return found


def kept(signals, keep, n_views=1, **given):
    info = PlanningInfo(len(signals.features), 32, n_views=n_views, has_frames=n_views > 1)
    found = stage(info, keep, **given)
    return found.select(signals, found.keep, params(**given), generator())


def near(squared):
    return sum(math.exp(-squared / (2 * width)) for width in WIDTHS)


# ------------------------------------------------------------------------------------------------- on paper

# Two frames of three: channels 0 and 1 vary, 2 and 3 are the quiet ones. In those, frame 0 is (1, 0) three times, frame
# 1 is (1, 0) twice and (0, 1) once.
QUIET = torch.tensor([[1.0, 0], [1, 0], [1, 0], [1, 0], [0, 1], [1, 0]])
SMALL = Signals(
    torch.cat([9 * torch.tensor([[1.0, -1], [-1, 1], [1, 1], [-1, -1], [1, -1], [-1, 1]]), QUIET], dim=1),
    view=torch.tensor([0, 0, 0, 1, 1, 1]),
)


def test_both_centres_and_the_frames_shares_on_paper():
    found = outliers(SMALL.features, torch.arange(6), SMALL.view, 0.5)
    assert found.channels == 2
    # Centre of the video (5/6, 1/6): (1, 0) is 2/36 away, (0, 1) 50/36. Of frame 1 (2/3, 1/3): 2/9 and 8/9.
    assert found.to_video.tolist() == pytest.approx([near(2 / 36)] * 4 + [near(50 / 36), near(2 / 36)])
    assert found.to_frame.tolist() == pytest.approx([5.0] * 3 + [near(2 / 9), near(8 / 9), near(2 / 9)])
    # Frame 1 is far less like the video: it has all the weight, so 0.5 * (1 + 1 - 0.5) = 0.75 of 3 and 0.25 of 3.
    assert found.weight.tolist() == pytest.approx([0, 1], abs=1e-6)
    assert found.given.tolist() == [1, 2]
    assert lowest_in_each_frame(found).tolist() == [0, 3, 4]
    assert found.most == 5


def test_what_is_kept_and_shown():
    found = kept(SMALL, 3, 2)
    assert found.kept.tolist() == [0, 3, 4]
    shown = found.diagnostics
    assert shown.facts == {
        "channels": 2, "given": [1, 2], "kept_per_view": [1, 2], "reconciled": 0, "non_finite": 0,
        "vllm": "--video-pruning-rate 0.5 --video-pruning-method vidcom2",
    }  # fmt: skip
    assert [chart.name for chart in shown.charts] == ["tokens_per_frame", "frame_weight"]
    assert shown.charts[0].y == [1, 2]
    assert next(m for m in shown.maps if m.name == "given").values.tolist() == pytest.approx([1 / 3] * 3 + [2 / 3] * 3)
    assert int(shown.score.values.argmax()) == 4


def test_rounding_is_made_up_by_score():
    # Of 4: 4/6 * 0.5 * 3 = 1 and 4/6 * 1.5 = 1 (at most all), so 1 and 3. Of 2: 0.5 -> 0, so at least 1, and 1.5 -> 2.
    assert kept(SMALL, 4, 2).diagnostics.facts["given"] == [1, 3]
    two = kept(SMALL, 2, 2)
    assert two.diagnostics.facts["given"] == [1, 2] and two.diagnostics.facts["reconciled"] == -1
    assert two.kept.tolist() == [3, 4], "the most typical token goes, and with it its frame"
    official = kept(SMALL, 2, 2, count="official")
    assert official.kept.tolist() == [0, 3, 4]


def test_reconciling_takes_the_most_and_adds_the_least_alike_ties_to_the_lowest():
    similarity = torch.tensor([3.0, 1, 2, 2, 3, 2])
    assert reconciled(similarity, torch.tensor([0, 1, 2, 3]), 2).tolist() == [1, 2]
    assert reconciled(similarity, torch.tensor([0]), 4).tolist() == [0, 1, 2, 3]
    assert reconciled(similarity, torch.tensor([1, 4]), 2).tolist() == [1, 4]


def test_quiet_channels_are_those_of_the_lowest_variance():
    x = torch.tensor([[0.0, 5, 1, 1000, 2], [4, 5, 2, 1001, 2]])
    assert quiet_channels(x, torch.arange(2)).tolist() == [1, 4]
    assert quiet_channels(x[:, [0, 2, 3]], torch.arange(2)).tolist() == [1], "of two alike the first"
    assert quiet_channels(x[:, :1], torch.arange(2)).tolist() == [0]
    shifted = torch.randn(50, 8, generator=generator()) * torch.arange(1, 9) + 1e4
    assert quiet_channels(shifted, torch.arange(50)).tolist() == [0, 1, 2, 3]


def test_the_papers_cosines_on_paper():
    x = torch.tensor([[2.0, 0], [0, 1], [1, 0], [1, 0]])
    found = outliers(x, torch.arange(4), torch.tensor([0, 0, 1, 1]), 0.5, "cosine")
    # Mean of all (1, 0.25), of frame 0 (1, 0.5), of frame 1 (1, 0); lengths count in the means.
    video, frame = math.sqrt(1.0625), math.sqrt(1.25)
    assert found.to_video.tolist() == pytest.approx([1 / video, 0.25 / video, 1 / video, 1 / video])
    assert found.to_frame.tolist() == pytest.approx([1 / frame, 0.5 / frame, 1, 1])
    assert found.channels == 2 and found.given.tolist() == [2, 1]  # 0.75 * 2 = 1.5 and 0.25 * 2 = 0.5


def test_duplicates_tie_exactly():
    for n in (7, 33, 1001):
        x = torch.randn(1, 8, generator=generator(n)).expand(n, 8).contiguous()
        for similarity in ("kernels", "cosine"):
            found = outliers(x, torch.arange(n), torch.zeros(n, dtype=torch.int64), 0.5, similarity)
            assert len(found.similarity.unique()) == 1


def test_five_kernels():
    assert kernels(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([5.0, near(1.0)])


def test_an_image_is_one_frame():
    signals = Signals(SMALL.features[3:])
    assert kept(signals, 1).kept.tolist() == [1]
    shown = kept(signals, 2).diagnostics
    assert shown.facts["given"] == [2] and not shown.charts


def test_a_token_that_is_not_finite_shrinks_its_frame():
    features = SMALL.features.clone()
    features[1] = torch.nan
    found = kept(Signals(features, view=SMALL.view), 5, 2)
    assert found.kept.tolist() == [0, 2, 3, 4, 5]
    candidates = torch.tensor([True, False, True, True, True, True])
    assert kept(Signals(SMALL.features, view=SMALL.view, candidates=candidates), 2, 2).kept.tolist() == [3, 4]


# ------------------------------------------------------------------------------------------------- totals


def test_the_stage():
    found = stage(FILM, 288)
    assert (found.site, found.keep, found.needs, found.positions) == ("projector", 288, (), "reindex")
    assert stage(FILM, 288, count="official").keep is None
    assert stage(FILM, 3, count="vllm").keep == 8, "one token per frame"
    assert stage(FILM, 5000, count="vllm").keep == 1152
    for tokens in range(8, 1152):
        rate = 1 - tokens / 1152
        assert stage(FILM, tokens, count="vllm").keep == max(8, int(1152 * (1 - rate)))


# ------------------------------------------------------------------------------------------------- brute force


def slow(x, frames, ratio, total, cosine):
    """Float64, token by token; what rounding gives, what is left after reconciling, and how close it was."""
    x, n, size = x.double(), len(x), len(x) // frames
    means = [float(x[:, c].sum()) / n for c in range(x.shape[1])]
    variance = [sum((float(v) - means[c]) ** 2 for v in x[:, c]) / n for c in range(x.shape[1])]
    quiet = sorted(range(len(variance)), key=lambda c: (variance[c], c))[: max(1, x.shape[1] // 2)]
    unit = x.tolist() if cosine else []
    for row in [] if cosine else x[:, sorted(quiet)].tolist():
        length = max(math.sqrt(sum(v * v for v in row)), 1e-12)
        unit.append([v / length for v in row])

    def mean(rows):
        return [sum(column) / len(rows) for column in zip(*rows, strict=True)]

    def alike(row, centre):
        if cosine:
            return sum(a * b for a, b in zip(row, centre, strict=True)) / (math.hypot(*row) * math.hypot(*centre))
        return near(sum((a - b) ** 2 for a, b in zip(row, centre, strict=True)))

    video = mean(unit)
    to_video = [alike(row, video) for row in unit]
    score = [v + alike(unit[i], mean(unit[i // size * size :][:size])) for i, v in enumerate(to_video)]
    unlike = [-sum(to_video[t * size :][:size]) / size for t in range(frames)]
    weights = [math.exp((u - max(unlike)) / 0.01) for u in unlike]
    weights = [w / sum(weights) for w in weights]
    picks, margin = [], 1.0
    for t in range(frames):
        share = min(1.0, ratio * (1 + weights[t] - 1 / frames)) * size
        margin = min(margin, abs(share % 1 - 0.5))
        ranked = sorted(range(t * size, t * size + size), key=lambda i: (score[i], i))
        picks += ranked[: max(1, round(share))]
    exact = sorted(picks, key=lambda i: (score[i], i))[:total]
    rest = sorted(set(range(n)) - set(picks), key=lambda i: (score[i], i))
    exact += rest[: total - len(exact)]
    levels = sorted(score)
    margin = min(margin, *(b - a for a, b in pairwise(levels)))
    return sorted(picks), sorted(exact), margin


@pytest.mark.parametrize("similarity", ["kernels", "cosine"])
@pytest.mark.parametrize("still", [False, True])
def test_against_brute_force(still, similarity):
    compared = 0
    for seed in range(120):
        g = generator(seed)
        frames, size, width = 2 + seed % 4, 2 + seed % 7, 2 + seed % 9
        x = torch.randn(frames * size, width, generator=g)
        if still:
            x = x[:size].repeat(frames, 1) + 0.3 * x * (torch.rand(frames * size, 1, generator=g) + 0.1)
        keep = 1 + seed % (len(x) - 1)
        official, exact, margin = slow(x, frames, keep / len(x), keep, similarity == "cosine")
        if margin < 1e-4:
            continue  # rounding decides
        compared += 1
        signals = Signals(x, view=torch.arange(frames).repeat_interleave(size))
        assert kept(signals, keep, frames, similarity=similarity).kept.tolist() == exact, seed
        rounded = kept(signals, keep, frames, count="official", similarity=similarity)
        assert rounded.kept.tolist() == official, seed
    assert compared > 30
