import math

import numpy as np
import pruner_references as slow
import pytest
import torch
from loops import each

import tokviz
from tokviz.pruners import density, ops, pairs, pruner, sampling
from tokviz.types import Signals

INF, NAN = math.inf, math.nan


def rows(*values):
    return torch.tensor(values, dtype=torch.float32)


def gaussian(seed, n, width):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------ ranking


def test_sanitised_puts_nan_last_and_inf_level_with_the_finite_maximum():
    clean, count = ops.sanitised(rows(1, NAN, INF, -INF, 3))
    assert clean.tolist() == [1, -INF, 3, -INF, 3]
    assert count == 3


def test_sanitised_without_a_finite_score_ranks_nothing():
    clean, count = ops.sanitised(rows(INF, NAN))
    assert clean.tolist() == [-INF, -INF]
    assert count == 2


def test_sanitised_returns_half_precision_as_float32():
    assert ops.sanitised(torch.ones(2, dtype=torch.float16))[0].dtype == torch.float32


def test_top_k_takes_the_lowest_index_of_equals():
    assert ops.top_k(rows(1, 3, 2, 3, 2, 2), 4).tolist() == [1, 3, 2, 4]


def ranked_plainly(scores, count):
    return sorted(range(len(scores)), key=lambda index: (-scores[index], index))[:count]


@each("seed", range(40))
def test_partial_sorts_choose_as_a_stable_sort(seed):
    n = [5, 40, 600, 2500][seed % 4]  # below and above the size from which a partial sort is taken
    scores = gaussian(seed, n, 1).squeeze(1)
    if seed % 3:
        scores = scores.mul(seed % 5).round()  # ties, and all alike
    if seed % 7 == 0:
        scores[::3] = -INF
    for count in {0, 1, 2, n // 9, n // 3, n - 1, n}:
        expected = ranked_plainly(scores.tolist(), count)
        assert ops.top_k(scores, count).tolist() == expected
        assert ops.highest(scores, count).tolist() == sorted(expected)


def test_the_highest_of_any_scores():
    def kept(scores, keep):
        return tokviz.keep_highest(scores, keep).kept.tolist()

    assert kept(rows(1, NAN, 3, 3, INF, -INF), 3) == [2, 3, 4]
    assert kept(rows(1, NAN, INF, 3, 3), 1) == [2]  # inf counts as 3, and the lowest index wins
    assert kept(rows(NAN, 2, NAN), 2) == [0, 1]
    assert kept(rows(1, 2), 9) == [0, 1]
    assert kept(torch.tensor([3, 1, 2]), 2) == [0, 2]
    assert kept(torch.tensor([1.0, 2.0, 4.0], dtype=torch.bfloat16), 2) == [1, 2]


def test_sums_that_overflow_are_looked_at_term_by_term():
    huge = rows(3e38, 3e38, 1)
    assert ops.sanitised(huge)[1] == 0
    assert ops.highest(ops.sanitised(huge)[0], 1).tolist() == [0]


@pytest.mark.parametrize(("count", "ties"), [(1, 1), (2, 2), (3, 2), (4, 1)])
def test_ties_at_threshold_counts_scores_equal_to_the_last_kept_one(count, ties):
    assert ops.ties_at_threshold(rows(3, 5, 1, 3), count) == ties


@pytest.mark.parametrize(
    ("n", "count", "expected"),
    [
        (9, 3, [1, 4, 7]),  # floor(9 (2i+1) / 6) = 1.5, 4.5, 7.5
        (10, 4, [1, 3, 6, 8]),  # floor(10 (2i+1) / 8) = 1.25, 3.75, 6.25, 8.75
        (5, 1, [2]),
        (3, 3, [0, 1, 2]),
        (4, 0, []),
    ],
)
def test_evenly_spaced(n, count, expected):
    assert ops.evenly_spaced(n, count).tolist() == expected


def test_fill_up_takes_the_lowest_rows_of_the_pool_that_were_not_picked():
    pool = torch.tensor([0, 2, 3, 5, 7])
    assert ops.fill_up(torch.tensor([5, 2]), 4, pool).tolist() == [5, 2, 0, 3]
    assert ops.fill_up(torch.tensor([5, 2]), 2, pool).tolist() == [5, 2]
    assert ops.fill_up(torch.tensor([5, 2]), 9, pool).tolist() == [5, 2, 0, 3, 7]
    assert ops.fill_up(torch.tensor([], dtype=torch.int64), 1, pool).tolist() == [3]  # the middle of five


def test_usable_rows_leaves_out_nan_inf_and_lengths_beyond_float32():
    features = rows([1, 1], [NAN, 0], [0, INF], [3e19, 0], [0, 0])  # (3e19)^2 > 3.4e38
    assert ops.usable_rows(features, torch.tensor([0, 1, 2, 3, 4])).tolist() == [0, 4]
    assert ops.usable_rows(features, torch.tensor([1, 4])).tolist() == [4]


def test_usable_rows_of_numbers_are_the_finite_ones():
    assert ops.usable_rows(rows(1, NAN, -INF, 2), torch.tensor([1, 2, 3])).tolist() == [3]


def test_without_keeps_the_order():
    assert ops.without(torch.tensor([4, 1, 3, 0]), torch.tensor([3, 4]), 6).tolist() == [1, 0]


def test_candidate_rows():
    assert ops.candidate_rows(Signals(torch.zeros(3, 1))).tolist() == [0, 1, 2]
    candidates = torch.tensor([True, False, True])
    assert ops.candidate_rows(Signals(torch.zeros(3, 1), candidates=candidates)).tolist() == [0, 2]


def test_fixed_count_needs_a_count_and_required_needs_a_signal():
    select = pruner.fixed_count(lambda signals, keep, params, generator: pytest.fail("no selection work expected"))
    signals = Signals(torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"Stage\.keep is None"):
        select(signals, None, {}, torch.Generator())
    assert select(signals, 3, {}, torch.Generator()).kept.tolist() == [0, 1, 2]
    assert select(signals, 0, {}, torch.Generator()).kept.tolist() == []
    with pytest.raises(ValueError, match=r"Signals\.keys"):
        ops.required(signals.keys, "keys")


# ------------------------------------------------------------ cosine, reconstruction


def test_cosine_of_a_zero_row_is_zero_with_everything_itself_included():
    # (3, 4) . (4, 3) / 25 = 24 / 25
    similarity = pairs.cosine_similarity(rows([3, 4], [0, 0], [4, 3]))
    assert torch.allclose(similarity, rows([1, 0, 0.96], [0, 0, 0], [0.96, 0, 1]))


def test_reconstruction_error_is_the_distance_to_the_span_of_the_basis():
    # (1,0,0) and (1,1,0) span the plane z = 0, so only the 5 of (3,4,5) cannot be reconstructed.
    error, singular = ops.reconstruction_error(rows([3, 4, 5], [7, -2, 0]), rows([1, 0, 0], [1, 1, 0]))
    assert torch.allclose(error, rows(5, 0), atol=1e-5)
    # B B^T = [[1, 1], [1, 2]] has eigenvalues (3 +- sqrt 5) / 2.
    expected = [math.sqrt((3 + math.sqrt(5)) / 2), math.sqrt((3 - math.sqrt(5)) / 2)]
    assert singular.tolist() == pytest.approx(expected)


def test_ridge_shrinks_the_reconstruction():
    # b = (2,0), ridge 4: weight of (4,3) is b.x / (b.b + 4) = 8 / 8 = 1, so x^ = (2,0) and the residual is (2,3).
    error, _ = ops.reconstruction_error(rows([4, 3]), rows([2, 0]), ridge=4.0)
    assert error.item() == pytest.approx(math.sqrt(13))


def test_no_basis_leaves_the_length_and_a_deficient_one_does_not_crash():
    assert ops.reconstruction_error(rows([3, 4]), torch.empty(0, 2))[0].tolist() == [5]
    for basis in (rows([0, 0], [0, 0]), rows([100, 0], [100, 0], [0, 0])):
        error, _ = ops.reconstruction_error(rows([3, 4]), basis)
        assert error.item() == pytest.approx(4 if basis.any() else 5)


@each("seed", range(100))
def test_reconstruction_error_against_lstsq(seed):
    n, width, m = 3 + seed % 9, 2 + seed % 7, 1 + seed % 4
    x, basis = gaussian(seed, n, width) * 10.0 ** (seed % 5 - 2), gaussian(seed + 1000, m, width)
    if seed % 3 == 0:
        basis[-1] = basis[0]  # rank-deficient: the normal equations would be singular
    error, singular = ops.reconstruction_error(x, basis)
    lengths = x.norm(dim=1).double().numpy()
    expected = slow.reconstruction_error(x.double().numpy(), basis.double().numpy())
    assert np.all(np.abs(error.double().numpy() - expected) <= 2e-6 * lengths)
    assert np.allclose(singular.numpy(), np.linalg.svd(basis.double().numpy())[1], atol=1e-5)


@each("seed", range(30))
def test_ridge_against_the_normal_equations_of_the_official_code(seed):
    x, basis, ridge = gaussian(seed, 8, 6), gaussian(seed + 500, 3, 6), 10.0 ** (seed % 6 - 5)
    x64, b64 = x.double(), basis.double()
    weights = torch.linalg.solve(b64 @ b64.T + ridge * torch.eye(3, dtype=torch.float64), b64 @ x64.T).T
    expected = (x64 - weights @ b64).norm(dim=1)
    assert torch.allclose(ops.reconstruction_error(x, basis, ridge)[0].double(), expected, atol=1e-5)


# ------------------------------------------------------------ merging


def test_merge_averages_the_target_in_and_gives_ties_to_the_first_target():
    x = rows([1, 0], [0, 2], [3, 1], [1, 3], [0, 0])
    merge = ops.merge_into_nearest(x, torch.tensor([0, 1]), torch.tensor([2, 3, 4]))
    assert merge.owner.tolist() == [0, 1, 0]  # the zero row has cosine 0 with both
    assert merge.sizes.tolist() == [3, 2]
    assert torch.allclose(merge.features, rows([4 / 3, 1 / 3], [0.5, 2.5]))


def test_merge_without_sources_changes_nothing():
    x = gaussian(0, 4, 3)
    merge = ops.merge_into_nearest(x, torch.tensor([1, 3]), torch.tensor([], dtype=torch.int64))
    assert torch.equal(merge.features, x[[1, 3]])
    assert merge.sizes.tolist() == [1, 1]


@each("seed", range(100))
def test_merge_against_loops(seed):
    n, width = 2 + seed % 14, 2 + seed % 5
    x, order = gaussian(seed, n, width), torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    targets, sources = order[: 1 + seed % (n - 1)].sort().values, order[1 + seed % (n - 1) :]
    merge = ops.merge_into_nearest(x, targets, sources)
    means, owner = slow.merge(x.double().numpy(), targets.tolist(), sources.tolist())
    assert merge.owner.tolist() == [owner[s] for s in sources.tolist()]
    assert np.allclose(merge.features.numpy(), [means[t] for t in targets.tolist()], atol=1e-5)
    assert int(merge.sizes.sum()) == n


# ------------------------------------------------------------ greedy picking


def test_farthest_points_on_a_line():
    # 0 1 4 10 11: the mean is 5.2, so 11 starts; then 0 (11 away), 4 (4 away from 0), then 1 and 10 are both 1 away
    # from a pick and the lower index wins.
    x = rows([0], [1], [4], [10], [11])
    first = sampling.farthest_from_mean(x)
    assert first.tolist() == [4]
    assert sampling.farthest_points(x, 5, first).tolist() == [4, 0, 2, 1, 3]


def test_farthest_points_stop_at_duplicates():
    x = rows([0], [0], [5], [5])
    assert sampling.farthest_points(x, 4, torch.tensor([0])).tolist() == [0, 2]
    assert sampling.farthest_points(torch.zeros(3, 2), 3, torch.tensor([1])).tolist() == [1]


def k_center(similarity, first, count):
    distances_to = pairs.StoredRows(similarity, sampling.cosine_distances)
    return sampling.greedy_cover(distances_to, first, count)


def test_k_center_masks_picks_and_reports_gaps_and_coverage():
    # Cosines: 0-1 0.9, 0-2 0.1, 1-2 0.2. From 0: row 2 is farthest (0.9), then row 1, 0.1 away from row 0.
    similarity = rows([1, 0.9, 0.1], [0.9, 1, 0.2], [0.1, 0.2, 1])
    cover = k_center(similarity, torch.tensor([0]), 2)
    assert cover.picks.tolist() == [0, 2]
    assert cover.gaps.tolist() == pytest.approx([INF, 0.9])
    assert cover.nearest.tolist() == pytest.approx([-INF, 0.1, -INF])
    duplicates = k_center(torch.ones(4, 4), torch.tensor([2]), 4)
    assert duplicates.picks.tolist() == [2, 0, 1, 3]


@each("seed", range(200))
def test_greedy_picks_against_brute_force(seed):
    n, width = 3 + seed % 14, 2 + seed % 6  # two rows are always equally far from their mean
    x, count = gaussian(seed, n, width), 1 + seed % n
    exact = x.double().numpy()
    first = sampling.farthest_from_mean(x)
    assert first.item() == slow.farthest_from_mean(exact)
    assert sampling.farthest_points(x, count, first).tolist() == slow.farthest_points(exact, count, first.item())
    cover = k_center(pairs.cosine_similarity(x), torch.tensor([seed % n]), count)
    assert cover.picks.tolist() == slow.k_center(exact, count, seed % n)


def test_density_peaks_by_hand():
    # 0, 1, 10 with two neighbours (itself and one): mean squared distances 0.5, 0.5, 40.5. Row 0 counts as densest
    # (tie, lower index) and gets the largest distance 10; row 1 is 1 from row 0; row 2 is 9 from row 1.
    peaks = density.density_peaks(rows([0], [1], [10]), 2, neighbours=2)
    assert peaks.log_density.tolist() == pytest.approx([-0.5, -0.5, -40.5])
    assert peaks.separation.tolist() == [10, 1, 9]
    assert peaks.centres.tolist() == [0, 1]
    assert peaks.owner.tolist() == [0, 1, 1]


@each("seed", range(100))
def test_density_peaks_against_loops(seed):
    n, width = 2 + seed % 12, 1 + seed % 5
    # With 2 neighbours (a row and its nearest) mutually nearest rows are equally dense, and rounding would decide.
    x, count, neighbours = gaussian(seed, n, width), 1 + seed % min(4, n), 3 + seed % 3
    peaks = density.density_peaks(x, count, neighbours)
    centres, owner = slow.density_peaks(x.double().numpy(), count, neighbours)
    assert peaks.centres.tolist() == centres
    assert peaks.owner.tolist() == owner


def test_random_rows_differ_and_follow_the_seed():
    draw = [sampling.random_rows(50, 20, torch.Generator().manual_seed(s), torch.device("cpu")) for s in (1, 1, 2)]
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])
    assert len(set(draw[0].tolist())) == 20
