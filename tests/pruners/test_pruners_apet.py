"""ApET on examples that can be checked on paper, and both modes against brute force."""

import math

import numpy as np
import pruner_references as slow
import pytest
import torch
from loops import each

from tokviz.pruners import get
from tokviz.pruners.apet import select_stage_1, select_stage_1_jointly, select_stage_2
from tokviz.types import Signals

NAN = math.nan


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def params(**given):
    return get("apet").complete(given)


# One basis token. The mean is (2, 0.8, 0.2), so token 0 starts and is the basis; its span is the x axis. Errors are the
# distances to that axis: 0, 0, 3, 1, 1. The last two tie for the third place.
FIVE = torch.tensor([[8.0, 0, 0], [1, 0, 0], [0, 3, 0], [0, 0, 1], [1, 1, 0]])

# Two basis tokens: 0 (farthest from the mean), then 1 (farthest from 0). Errors: 0, 0, 1, 2, 3.
FIVE_IN_4D = torch.tensor([[9.0, 0, 0, 0], [0, 8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 2], [0, 0, 0, 3]])


def values(selection, name):
    return next(token_map.values for token_map in selection.diagnostics.maps if token_map.name == name).tolist()


def test_paper_mode_keeps_the_basis_and_the_largest_errors_and_merges_into_all_of_them():
    selection = select_stage_1(Signals(FIVE), 3, params(basis_tokens=1), generator())
    assert selection.kept.tolist() == [0, 2, 3]
    assert selection.diagnostics.score.values.tolist() == pytest.approx([0, 0, 3, 1, 1])
    # Token 1 points like token 0. Token 4 has cosine 0.71 with 0 and with 2: the lower index. (8 + 1 + 1) / 3, 1 / 3.
    assert selection.assignment.tolist() == [0, 0, 2, 3, 0]
    assert torch.allclose(selection.features, torch.tensor([[10 / 3, 1 / 3, 0], [0, 3, 0], [0, 0, 1]]))
    assert selection.order.tolist() == [0, -1, -1, -1, -1]
    assert values(selection, "group_size") == [3, 0, 1, 1, 0]
    assert values(selection, "relative_error") == pytest.approx([0, 0, 1, 1, math.sqrt(0.5)])
    assert selection.diagnostics.facts == {
        "mode": "paper", "sampling": "fps", "basis_used": 1, "singular_values": [8.0],
        "ties_at_threshold": 2, "non_finite": 0,
    }  # fmt: skip


def test_official_mode_overwrites_the_lowest_ranked_kept_token():
    selection = select_stage_1(Signals(FIVE), 3, params(basis_tokens=1, mode="official"), generator())
    # Ranking 2, 3, 4: token 4 is the last kept one and gets the feature of token 0. Tokens 0 and 1 are dropped; both
    # have cosine 0 with the targets 2 and 3 and go to the first: ((0 + 8 + 1) / 3, (3 + 0 + 0) / 3).
    assert selection.kept.tolist() == [2, 3, 4]
    assert selection.assignment.tolist() == [2, 2, 2, 3, 4]
    assert torch.allclose(selection.features, torch.tensor([[3.0, 1, 0], [0, 0, 1], [8, 0, 0]]))
    assert values(selection, "group_size") == [0, 0, 3, 1, 1]
    assert values(selection, "basis_in") == pytest.approx([NAN, NAN, NAN, NAN, 0], nan_ok=True)
    assert selection.diagnostics.facts["mode"] == "official"


@pytest.mark.parametrize(("select", "at_2", "at_3"), [(select_stage_1, 0, 1), (select_stage_2, 1, 0)])
def test_official_mode_writes_by_position_in_stage_1_and_by_rank_in_stage_2(select, at_2, at_3):
    # Ranking 4, 3, 2; the basis (tokens 0 and 1, in this order) overwrites 3 and 2. By ascending position token 2 gets
    # basis 0; by rank token 3 does. Tokens 0 and 1 merge into 4: (9/3, 8/3, 0, 3/3).
    selection = select(Signals(FIVE_IN_4D), 3, params(basis_tokens=2, mode="official"), generator())
    assert selection.order.tolist() == [0, 1, -1, -1, -1]
    assert selection.kept.tolist() == [2, 3, 4]
    merged = torch.tensor([3.0, 8 / 3, 0, 1])
    assert torch.allclose(selection.features, torch.stack([FIVE_IN_4D[at_2], FIVE_IN_4D[at_3], merged]))
    assert values(selection, "basis_in") == pytest.approx([NAN, NAN, at_2, at_3, NAN], nan_ok=True)


@pytest.mark.parametrize("mode", ["paper", "official"])
def test_a_single_token_is_the_longest_one_and_holds_the_mean(mode):
    selection = select_stage_1(Signals(FIVE), 1, params(mode=mode), generator())
    assert selection.kept.tolist() == [0]
    assert torch.allclose(selection.features, FIVE.mean(0, keepdim=True))
    assert selection.diagnostics.facts["basis_used"] == 0
    assert selection.diagnostics.score.values.tolist() == pytest.approx(FIVE.norm(dim=1).tolist())


@pytest.mark.parametrize("mode", ["paper", "official"])
@pytest.mark.parametrize("sampling", ["fps", "dpc", "random"])
def test_a_flat_image_is_survived(mode, sampling):
    flat = torch.full((12, 4), 40.0)
    selection = select_stage_1(Signals(flat), 5, params(mode=mode, sampling=sampling), generator())
    assert len(selection.kept) == 5
    assert torch.allclose(selection.features, flat[:5])
    if sampling == "fps":
        assert selection.diagnostics.facts["basis_used"] == 1


def test_newlines_stay_at_their_places_and_are_not_counted():
    x = torch.cat([FIVE[:3], torch.tensor([[500.0, 500, 500]]), FIVE[3:], torch.tensor([[NAN, 0, 0]])])
    candidates = torch.tensor([True, True, True, False, True, True, False])
    selection = select_stage_1(Signals(x, candidates=candidates), 3, params(basis_tokens=1), generator())
    assert selection.kept.tolist() == [0, 2, 3, 4, 6]  # 0, 2, 3 of FIVE and rows 3 and 6
    assert selection.assignment.tolist() == [0, 0, 2, 3, 4, 0, 6]
    expected = torch.stack([torch.tensor([10 / 3, 1 / 3, 0]), x[2], x[3], x[4], x[6]])
    assert torch.allclose(selection.features, expected, equal_nan=True)
    assert selection.diagnostics.facts["non_finite"] == 0
    everything = select_stage_1(Signals(x, candidates=candidates), 5, params(), generator())
    assert everything.kept.tolist() == list(range(7))


def test_tokens_that_are_not_finite_are_neither_basis_nor_merged():
    x = torch.cat([FIVE, torch.tensor([[NAN, 0, 0], [math.inf, 0, 0]])])
    selection = select_stage_1(Signals(x), 3, params(basis_tokens=1), generator())
    assert selection.kept.tolist() == [0, 2, 3]
    assert selection.assignment.tolist() == [0, 0, 2, 3, 0, -1, -1]
    assert torch.isfinite(selection.features).all()
    assert selection.diagnostics.facts["non_finite"] == 2
    assert "2 of 7 tokens" in selection.diagnostics.warnings[0]
    assert select_stage_1(Signals(x), 6, params(), generator()).kept.tolist() == [0, 1, 2, 3, 4, 5]
    nothing_finite = select_stage_1(Signals(torch.full((9, 2), NAN)), 3, params(), generator())
    assert nothing_finite.kept.tolist() == [1, 4, 7]
    assert "evenly spaced" in nothing_finite.diagnostics.warnings[0]


def test_random_start_and_random_sampling_follow_the_generator():
    x = torch.randn(40, 8, generator=generator(5))
    for given in ({"start": "random"}, {"sampling": "random"}):
        orders = [select_stage_1(Signals(x), 20, params(**given), generator(s)).order.tolist() for s in (1, 1, 2)]
        assert orders[0] == orders[1]
        assert orders[0] != orders[2]
    fixed = [select_stage_1(Signals(x), 20, params(), generator(s)).order.tolist() for s in (1, 2)]
    assert fixed[0] == fixed[1]


def test_dpc_takes_its_centres_as_basis():
    x = torch.randn(30, 5, generator=generator(9))
    selection = select_stage_1(Signals(x), 12, params(sampling="dpc", basis_tokens=4), generator())
    centres, _ = slow.density_peaks(x.double().numpy(), 4, neighbours=4)
    assert [selection.order.tolist().index(step) for step in range(4)] == centres


@each("seed", range(150))
def test_both_modes_against_brute_force(seed):
    # The basis must not span the space, or every error is rounding and so is the ranking.
    n, width, basis_tokens = 6 + seed % 12, 6 + seed % 4, 1 + seed % 4
    keep = min(2 + seed % (n - 3), n - basis_tokens)
    x = torch.randn(n, width, generator=generator(seed)) * 3
    exact = x.double().numpy()
    cases = [
        (select_stage_1, "paper", slow.apet_paper(exact, keep, basis_tokens)),
        (select_stage_1, "official", slow.apet_official(exact, keep, basis_tokens, by_rank=False)),
        (select_stage_2, "official", slow.apet_official(exact, keep, basis_tokens, by_rank=True)),
    ]
    for select, mode, (kept, assignment, features) in cases:
        selection = select(Signals(x), keep, params(mode=mode, basis_tokens=basis_tokens), generator())
        assert selection.kept.tolist() == kept
        assert selection.assignment.tolist() == assignment
        assert np.allclose(selection.features.numpy(), features, atol=1e-4)


def test_the_official_ridge_is_absolute_and_so_shows_on_short_features():
    # The basis token has length 0.008: its square 6.4e-5 is shrunk by 6.4 / (6.4 + 1) against the ridge of 1e-5.
    selection = select_stage_1(Signals(FIVE / 1000), 3, params(basis_tokens=1, mode="official"), generator())
    assert selection.diagnostics.score.values[0].item() == pytest.approx(0.008 * (1 - 6.4 / 7.4), rel=1e-3)
    paper = select_stage_1(Signals(FIVE / 1000), 3, params(basis_tokens=1), generator())
    assert paper.diagnostics.score.values[0].item() == pytest.approx(0, abs=1e-8)


def test_crops_share_the_count_and_have_a_basis_each():
    signals = Signals(torch.cat([FIVE, FIVE]), view=torch.tensor([0] * 5 + [1] * 5))
    selection = select_stage_1(signals, 6, params(basis_tokens=1), generator())
    assert selection.kept.tolist() == [0, 2, 3, 5, 7, 8]
    assert selection.assignment.tolist() == [0, 0, 2, 3, 0, 5, 5, 7, 8, 5]
    assert selection.order.tolist() == [0, -1, -1, -1, -1, 1, -1, -1, -1, -1]
    assert selection.diagnostics.facts["kept_per_view"] == [3, 3]
    assert [chart.name for chart in selection.diagnostics.charts] == [
        "singular_values_0",
        "singular_values_1",
        "group_sizes",
    ]
    assert selection.diagnostics.charts[-1].y == [3.0, 3.0]
    assert selection.diagnostics.charts[-1].tokens == [0, 5]
    # Together one basis token spans the x axis for both copies; the copies of token 2 stay, then 3, 4, 8 tie.
    together = select_stage_1_jointly(signals, 6, params(basis_tokens=1), generator())
    assert together.kept.tolist() == [0, 2, 3, 4, 7, 8]
    assert select_stage_2(signals, 6, params(basis_tokens=1), generator()).kept.tolist() == together.kept.tolist()


def test_a_view_without_a_share_is_dropped_and_merges_into_nothing():
    signals = Signals(torch.cat([FIVE, FIVE]), view=torch.tensor([0] * 5 + [1] * 5))
    selection = select_stage_1(signals, 1, params(basis_tokens=1), generator())
    assert selection.kept.tolist() == [0]
    assert selection.assignment.tolist() == [0] * 5 + [-1] * 5
    # A view whose share is all it has stays untouched beside one that is reduced.
    uneven = Signals(torch.cat([FIVE[:1], FIVE]), view=torch.tensor([0] + [1] * 5))
    selection = select_stage_1(uneven, 4, params(basis_tokens=1), generator())
    assert selection.kept.tolist() == [0, 1, 3, 4]
    assert torch.equal(selection.features[0], FIVE[0])


@each("seed", range(20))
def test_official_density_peaks_reconstruct_from_the_means_of_the_clusters(seed):
    x = torch.randn(24, 8, generator=generator(seed)) * 3
    exact = x.double().numpy()
    selection = select_stage_1(Signals(x), 12, params(mode="official", sampling="dpc", basis_tokens=4), generator())
    centres, owner = slow.density_peaks(exact, 4, neighbours=4)
    means = np.stack([np.mean([exact[i] for i in range(24) if owner[i] == centre], axis=0) for centre in centres])
    assert selection.diagnostics.score.values.tolist() == pytest.approx(
        slow.reconstruction_error(exact, means), abs=1e-4
    )
    ranked = slow.stable_top(selection.diagnostics.score.values.tolist(), 12)
    assert selection.kept.tolist() == sorted(ranked)
    for place, mean, centre in zip(sorted(ranked[8:]), means, centres, strict=True):
        assert selection.features[selection.kept.tolist().index(place)].tolist() == pytest.approx(
            mean.tolist(), abs=1e-4
        )
        assert values(selection, "basis_in")[place] == selection.order.tolist()[centre]


def test_official_random_bases_are_drawn_with_replacement():
    x = torch.randn(6, 12, generator=generator(1))
    drawn = torch.randint(6, (4,), generator=generator(2)).tolist()
    assert len(set(drawn)) < 4  # seed 2 draws one token twice
    selection = select_stage_1(Signals(x), 5, params(mode="official", sampling="random", basis_tokens=4), generator(2))
    expected = slow.reconstruction_error(x.double().numpy(), x[sorted(set(drawn))].double().numpy())
    assert selection.diagnostics.score.values.tolist() == pytest.approx(expected, abs=1e-4)
    assert selection.diagnostics.facts["basis_used"] == len(set(drawn))


def test_charts_show_the_singular_values_and_the_groups():
    selection = select_stage_1(Signals(FIVE_IN_4D), 4, params(basis_tokens=2), generator())
    singular, groups = selection.diagnostics.charts
    assert (singular.kind, singular.x) == ("line", [1, 2])
    assert singular.y == pytest.approx([9, 8])
    # Token 2 (error 1) is dropped; it is orthogonal to all kept ones and joins the first.
    assert (groups.kind, groups.tokens, groups.y) == ("bars", [0], [2.0])


@each("seed", range(10))
def test_a_basis_that_spans_the_space_leaves_raster_order(seed):
    x = torch.randn(20, 4, generator=generator(seed)) * 50  # the first 10 farthest points span all 4 dimensions
    selection = select_stage_1(Signals(x), 13, params(), generator())
    assert selection.diagnostics.score.values.tolist() == [0.0] * 20
    basis = (selection.order >= 0).nonzero().flatten().tolist()
    first_of_the_rest = [i for i in range(20) if i not in basis][:3]
    assert selection.kept.tolist() == sorted([*basis, *first_of_the_rest])


@pytest.mark.parametrize(("width", "rank", "offset"), [(4, 4, 0.0), (64, 9, 0.0), (1024, 5, 10.0), (4096, 9, 0.0)])
def test_rounding_counts_as_no_error_at_every_width(width, rank, offset):
    g = generator(width)
    wide = torch.randn(300, rank, generator=g).double() @ torch.randn(rank, width, generator=g).double()
    x = (wide + offset * torch.randn(1, width, generator=g).double()).float()
    selection = select_stage_2(Signals(x), 100, params(), generator())
    assert int(selection.diagnostics.score.values.count_nonzero()) == 0
    # What a direction of its own tells apart from rounding by a hundred times is still an error.
    x[7] += 1e-3 * x[7].norm() * torch.nn.functional.normalize(torch.randn(width, generator=g), dim=0)
    if width > rank:
        found = select_stage_2(Signals(x), 100, params(), generator())
        assert 7 in found.kept.tolist()
