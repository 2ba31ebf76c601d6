"""HoliTom on a film that can be checked on paper, its windows against all cuts, and a slow reference."""

import itertools
import math

import pytest
import torch
from films import FILM, QWEN, generator

from tokviz.errors import BadInput
from tokviz.pruners import get
from tokviz.pruners.holitom import best_windows, counts_of, halving_weights, select_inside, still_cells
from tokviz.types import CLS_ATTENTION, LAST_ROW, RECEIVED_ATTENTION, Budget, PlanningInfo, Signals


def params(**given):
    return get("holitom").complete(given)


def stage(info, tokens, **given):
    (found,) = get("holitom").schedule(Budget(tokens), info, params(**given)).stages
    return found


def kept(signals, keep, **given):
    frames = int(signals.view.max()) + 1
    info = PlanningInfo(len(signals.features), 32, "llava_next_video", n_views=frames, has_frames=True)
    found = stage(info, keep, **given)
    return found.select(signals, found.keep, params(**given), generator())


# ------------------------------------------------------------------------------------------------- on paper

# Three frames of four cells. Cells 0, 1 and 2 keep their direction over frames 0 and 1, cell 3 turns; in frame 2 all
# turn. 3 averages, 2 moving tokens of frames 0 and 1, and the 4 of frame 2: 9 of 12 are left.
SMALL = Signals(
    torch.tensor([[1.0, 0], [0, 1], [2, 2], [1, 0], [3, 0], [0, 5], [4, 4], [0, 1], [0, 1], [1, 0], [1, -1], [1, 0]]),
    cls_attention=torch.tensor([0.1, 0.1, 0.1, 0.5, 0.1, 0.1, 0.1, 0.2, 0.4, 0.3, 0.2, 0.1]),
    view=torch.arange(3).repeat_interleave(4),
)


def test_what_stands_still_is_averaged_and_clustered_on_paper():
    found = kept(SMALL, 6)
    facts = found.diagnostics.facts
    assert (facts["windows"], facts["still_cells"], facts["averaged_away"]) == ([2, 1], [3, 0], 3)
    assert facts["share_kept"] == pytest.approx(6 / 9)
    # Shares 2 of the 3 averages, ceil(2/3) = 1 moving one of frames 0 and 1 each, ceil(8/3) = 3 of frame 2: 7, and one
    # goes from frames 0 and 1 or 2, all a third above: the last, frame 2.
    # Averages (2, 0), (0, 3), (3, 3). Two neighbours, the row itself and the nearest: (2, 0) sqrt(10), (0, 3) 3, (3, 3)
    # 3: the two at 3 are equally dense. The first of them is the densest, sqrt(13) from anything at most; (3, 3) is 3
    # from it, and (2, 0) sqrt(10) but less dense: log(sqrt(10)) - 10/4 against log(3) - 9/4.
    assert found.kept.tolist() == [1, 2, 3, 7, 8, 9]
    # (2, 0) is nearer to (3, 3), sqrt(10), than to (0, 3), sqrt(13): 0.6 * (3, 3) + 0.4 * (2, 0).
    assert torch.allclose(found.features[:2], torch.tensor([[0.0, 3], [2.6, 1.8]]))
    assert torch.equal(found.features[2:], SMALL.features[[3, 7, 8, 9]])
    assert found.assignment.tolist() == [2, 1, 2, 3, 2, 1, 2, 7, 8, 9, -1, -1]


def test_maps_and_bars():
    shown = kept(SMALL, 6).diagnostics
    maps = {token_map.name: token_map.values for token_map in shown.maps}
    assert maps["window"].tolist() == [0] * 8 + [1] * 4
    assert maps["role"].tolist() == [1, 2, 2, 0, 1, 1, 1, 0, 0, 0, 0, 0]
    assert maps["similarity"][:4].isnan().all() and maps["similarity"][4:8].tolist() == pytest.approx([1, 1, 1, 0])
    assert maps["group_size"].tolist() == [0, 2, 4, 1, 0, 0, 0, 1, 1, 1, 0, 0]
    (chart,) = shown.charts
    assert chart.y == [3, 0] and list(chart.names) == ["1-2", "3-3"]


def test_officially_rounding_decides():
    found = kept(SMALL, 6, count="official")
    assert found.kept.tolist() == [1, 2, 3, 7, 8, 9, 10]


def test_a_budget_above_what_averaging_leaves_keeps_what_changed_most():
    found = kept(SMALL, 10)
    # All 9, each average its own cluster, and of the averaged-away tokens 4, 5, 6 (none of which changed) the first.
    assert found.kept.tolist() == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]
    assert torch.allclose(found.features[:3], torch.tensor([[2.0, 0], [0, 3], [3, 3]]))
    assert torch.equal(found.features[4], SMALL.features[4]) and found.assignment[[4, 5, 6]].tolist() == [4, 1, 2]
    assert len(kept(SMALL, 10, count="official").kept) == 9


def test_nothing_stands_still_above_a_threshold_of_one():
    found = kept(SMALL, 6, threshold=1.0)
    assert found.diagnostics.facts["windows"] == [1, 1, 1]
    assert found.kept.tolist() == [0, 3, 4, 7, 8, 9] and torch.equal(found.features, SMALL.features[found.kept])


def test_a_cell_that_lacks_a_token_does_not_stand_still():
    features = SMALL.features.clone()
    features[5] = torch.nan
    signals = Signals(features, cls_attention=SMALL.cls_attention, view=SMALL.view, cell=torch.cartesian_prod(
        torch.arange(2), torch.arange(2)).repeat(3, 1))  # fmt: skip
    assert kept(signals, 6).diagnostics.facts["still_cells"] == [2, 0]
    assert kept(signals, 11).kept.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize(
    ("sizes", "still", "ratio", "keep", "counts"),
    [
        ([3, 1, 1, 0, 4], [True, False, False, True, False], 2 / 3, None, [2, 1, 1, 0, 3]),
        ([3, 1, 1, 0, 4], [True, False, False, True, False], 2 / 3, 6, [2, 1, 1, 0, 2]),
        ([10, 10], [True, True], 0.25, 5, [3, 2]),  # round(2.5) is 2
        ([10, 10], [False, False], 0.25, 5, [3, 2]),
        ([4, 4], [False, False], 1.0, 9, [4, 4]),
        ([1, 1, 1], [False, False, False], 1 / 3, 1, [1, 0, 0]),
    ],
)
def test_counts(sizes, still, ratio, keep, counts):
    assert counts_of(sizes, still, ratio, keep) == counts


def test_the_stage():
    for info, need in ((FILM, CLS_ATTENTION), (QWEN, RECEIVED_ATTENTION)):
        found = stage(info, 288)
        assert (found.site, found.keep, found.needs) == ("projector", 288, (need,))
    assert stage(FILM, 288, count="official").keep is None
    assert get("holitom").missing(PlanningInfo(576, 32)).startswith("HoliTom compares the frames of a video")


# ------------------------------------------------------------------------------------------------- brute force


def averaged_away(similarity, threshold, cuts):
    """Tokens that these windows average away, counted cell by cell."""
    return sum(
        (stop - start - 1) * sum(all(line[cell] > threshold for line in similarity[start : stop - 1])
                                 for cell in range(len(similarity[0])))
        for start, stop in itertools.pairwise(cuts)
    )  # fmt: skip


def test_the_windows_are_the_best_of_all_cuts():
    for seed in range(60):
        frames, cells = 2 + seed % 6, 1 + seed % 5
        similarity = torch.rand(frames - 1, cells, generator=generator(seed))
        threshold = (0.2, 0.4, 0.7)[seed % 3]
        found = best_windows(still_cells(similarity, threshold))
        assert [frame for window in found for frame in window] == list(range(frames))
        lines = similarity.tolist()
        best = max(
            averaged_away(lines, threshold, [0, *inner, frames])
            for count in range(frames)
            for inner in itertools.combinations(range(1, frames), count)
        )
        assert averaged_away(lines, threshold, [0, *(window.stop for window in found)]) == best


def peaks(x, count, scale):
    """Density peaks among the rows of ``x``, float64, one pair at a time, and the smallest gap that decided.

    Mutually nearest rows are equally dense for two neighbours, and all are for one; the lower index counts as denser.
    """
    distance = [[float((a - b).norm()) / scale for b in x] for a in x]
    near = min(7, count)
    density = [math.exp(-sum(d * d for d in sorted(line)[:near]) / near) for line in distance]
    score = []
    for i in range(len(x)):
        denser = [distance[i][j] for j in range(len(x)) if (density[j], -j) > (density[i], -i)]
        score.append(density[i] * (min(denser) if denser else max(map(max, distance))))
    levels = sorted(score, reverse=True)
    centres = sorted(sorted(range(len(x)), key=lambda i: -score[i])[:count])
    owner = [i if i in centres else min(centres, key=lambda c: distance[i][c]) for i in range(len(x))]
    return centres, owner, levels[count - 1] - levels[count] if count < len(x) else 1.0


def slow(x, attention, frames, threshold, ratio, windows):
    """What rounding leaves, with features, token by token; and how close it was."""
    x, cells, found, gap = x.double(), len(x) // frames, {}, 1.0
    unit = x / x.norm(dim=1, keepdim=True)

    def alike(frame, cell):
        return float(unit[frame * cells + cell] @ unit[(frame - 1) * cells + cell])

    gap = min(gap, *(abs(alike(t, c) - threshold) for t in range(1, frames) for c in range(cells)))
    still = {
        w: [c for c in range(cells) if len(w) > 1 and all(alike(t, c) > threshold for t in w[1:])] for w in windows
    }
    left = len(x) - sum(len(still[w]) * (len(w) - 1) for w in windows)
    share = min(1.0, ratio / (left / len(x)))
    for w in windows:
        count = round(len(still[w]) * share)
        gap = min(gap, abs(len(still[w]) * share % 1 - 0.5))
        if count:
            means = [sum(x[t * cells + c] for t in w) / len(w) for c in still[w]]
            centres, owner, here = peaks(means, count, math.sqrt(x.shape[1]))
            gap = min(gap, here)
            for centre in centres:
                others = [means[i] for i in range(len(means)) if owner[i] == centre and i != centre]
                mean = sum(others) / len(others) if others else means[centre]
                found[w[0] * cells + still[w][centre]] = 0.6 * means[centre] + 0.4 * mean
        for t in w:
            moving = [t * cells + c for c in range(cells) if c not in still[w]]
            moving.sort(key=lambda row: (-float(attention[row]), row))
            gap = min(gap, 1.0, abs(len(moving) * share - round(len(moving) * share)) or 1.0)
            found |= {row: x[row] for row in moving[: math.ceil(len(moving) * share)]}
    return found, gap


def test_against_brute_force():
    compared = merged = 0
    for seed in range(80):
        g = generator(seed)
        frames, cells, width = 2 + seed % 7, 6 + seed % 9, 3 + seed % 6
        base = torch.randn(cells, width, generator=g)
        x = torch.cat([base + 0.3 * torch.rand(cells, 1, generator=g) * torch.randn(cells, width, generator=g)
                       for _ in range(frames)])  # fmt: skip
        attention, threshold = torch.rand(len(x), generator=g), (0.8, 0.95)[seed % 2]
        keep = max(2, int(len(x) * (0.1, 0.25, 0.4, 0.6)[seed % 4]))
        signals = Signals(x, cls_attention=attention, view=torch.arange(frames).repeat_interleave(cells))
        found = kept(signals, keep, threshold=threshold, count="official")
        ends = [0, *itertools.accumulate(found.diagnostics.facts["windows"])]
        windows = [range(start, stop) for start, stop in itertools.pairwise(ends)]
        expected, gap = slow(x, attention, frames, threshold, keep / len(x), windows)
        exact = kept(signals, keep, threshold=threshold)
        assert len(exact.kept) == keep and exact.diagnostics.facts["windows"] == found.diagnostics.facts["windows"]
        if gap < 1e-6:
            continue  # rounding decides, or all are equally dense
        compared += 1
        merged += any(found.diagnostics.facts["still_cells"])
        assert found.kept.tolist() == sorted(expected), seed
        assert torch.allclose(found.features, torch.stack([expected[i].float() for i in sorted(expected)]), atol=1e-5)
    assert compared > 25 and merged > 20


# ------------------------------------------------------------------------------------------------- inside the LLM


def inside(features, attention, keep):
    return select_inside(Signals(features, attention_rows=attention[None]), keep, params(inside="merge"), generator())


def test_each_token_halves_what_it_is_merged_into_on_paper():
    # Tokens 1 (east) and 4 (north) are attended to most. 0 and 3 go east, 2 and 5 north, each in its turn.
    features = torch.tensor([[8.0, 0], [16, 0], [0, 4], [4, 1], [0, 8], [1, 2]])
    found = inside(features, torch.tensor([0.1, 0.3, 0.05, 0.1, 0.4, 0.05]), 2)
    assert found.kept.tolist() == [1, 4] and found.assignment.tolist() == [1, 1, 4, 1, 4, 4]
    # East: (16 + 8) / 2 = 12, then (12 + 4) / 2 and (0 + 1) / 2. North: (8 + 4) / 2 = 6, then (0 + 1) / 2, (6 + 2) / 2.
    assert found.features.tolist() == [[8, 0.5], [0.5, 4]]
    weight, sizes = (token_map.values.tolist() for token_map in found.diagnostics.maps)
    assert weight == [0.25, 0.25, 0.25, 0.5, 0.25, 0.5] and sizes == [0, 3, 0, 0, 3, 0]
    assert found.diagnostics.facts == {"merged": 4, "largest_group": 3, "non_finite": 0}


def test_of_equally_similar_targets_the_one_with_more_attention_takes_it():
    features = torch.tensor([[1.0, 0], [3, 0], [2, 0]])
    found = inside(features, torch.tensor([0.2, 0.7, 0.1]), 2)
    assert found.assignment.tolist() == [0, 1, 1] and found.features.tolist() == [[1, 0], [2.5, 0]]


def test_weights_of_halving_add_up_to_one():
    weights, own = halving_weights(torch.tensor([2, 0, 2, 2]), 4)
    assert weights.tolist() == [0.125, 0.5, 0.25, 0.5] and own.tolist() == [0.5, 1, 0.125, 1]


def test_halving_against_the_loop():
    for seed in range(40):
        g = generator(seed)
        n, width = 5 + seed % 30, 2 + seed % 6
        x, attention = torch.randn(n, width, generator=g), torch.rand(n, generator=g)
        keep = 1 + seed % (n - 1)
        found = inside(x, attention, keep)
        best = sorted(range(n), key=lambda i: (-float(attention[i]), i))[:keep]
        held, unit = x.double().clone(), torch.nn.functional.normalize(x.double(), dim=1)
        for token in range(n):
            if token not in best:
                target = max(best, key=lambda i: float(unit[token] @ unit[i]))
                held[target] = (held[target] + held[token]) / 2
                assert found.assignment[token] == target
        assert found.kept.tolist() == sorted(best)
        assert torch.allclose(found.features.double(), held[sorted(best)], atol=1e-5)


@pytest.mark.parametrize(
    ("layers", "counted_as", "site", "counts"),
    [
        (28, "published", 18, (200, 100)),
        (28, "final", 18, (400, 200)),
        (28, "average", 18, (243, 123)),  # (18 * 243 + 10 * 123) / 28 = 200.1
        (32, "published", 21, (200, 100)),
        (6, "published", 3, (200, 100)),
    ],
)
def test_the_stage_inside_the_llm(layers, counted_as, site, counts):
    info = PlanningInfo(8 * 144, layers, "llava_next_video", n_views=8, has_frames=True)
    first, second = get("holitom").schedule(Budget(200, counted_as), info, params(inside="merge")).stages
    assert (first.site, second.site, second.needs, second.positions) == ("projector", site, (LAST_ROW,), "keep")
    assert (first.keep, second.keep) == counts
    rounded = get("holitom").schedule(Budget(200), info, params(inside="merge", count="official")).stages
    assert [part.keep for part in rounded] == [None, None]
    signals = Signals(torch.randn(9, 4, generator=generator()), attention_rows=torch.rand(1, 9, generator=generator(1)))
    assert len(rounded[1].select(signals, None, params(), generator()).kept) == 4  # round(4.5) is 4


def test_inside_a_model_of_one_layer_nothing_can_be_merged():
    info = PlanningInfo(8 * 144, 1, "llava_next_video", n_views=8, has_frames=True)
    with pytest.raises(BadInput, match="this model has only one"):
        get("holitom").schedule(Budget(200), info, params(inside="merge"))
