"""Shortcuts give what the plain way gives: on random numbers and on those made to fool them."""

import pytest
import torch
from loops import each

from tokviz.pruners import density, ops, pairs, sampling, vispruner


def gaussian(seed, n, width):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def hard_features(kind, seed):
    x = gaussian(seed, 60 + seed % 40, 3 + seed % 60)
    if kind == "far from the origin":  # rounding of |x|^2 hides the distances
        return x + 3e3
    if kind == "outliers":
        return x * torch.where(torch.arange(len(x)) % 11 == 0, 1e3, 1.0).unsqueeze(1)
    if kind == "duplicates":
        return x[torch.randint(len(x) // 4, (len(x),), generator=torch.Generator().manual_seed(seed))]
    if kind == "lattice":  # many equal distances
        return x.mul(1.5).round()
    if kind == "near duplicates":
        return x[:5].repeat(20, 1) + 1e-6 * gaussian(seed + 1, 100, x.shape[1])
    if kind == "tiny":
        return x * 1e-15
    return x


KINDS = ("gaussian", "far from the origin", "outliers", "duplicates", "lattice", "near duplicates", "tiny")


@each("kind", KINDS)
@each("seed", range(20))
def test_farthest_points_by_bounds_are_those_by_differences(kind, seed):
    x = hard_features(kind, seed)
    squares, first = ops.row_lengths(x).square(), torch.tensor([seed % len(x)])
    plain = sampling._farthest_points_by_differences(x, squares, 20, first)
    assert torch.equal(sampling.farthest_points(x, 20, first), plain)
    fast, certain = sampling._farthest_points_by_bounds(x, squares, 20, first)
    assert not certain or torch.equal(fast, plain)


def test_farthest_points_are_usually_certain_without_the_plain_way():
    for seed in range(20):
        x = hard_features("gaussian", seed)
        assert sampling._farthest_points_by_bounds(x, ops.row_lengths(x).square(), 10, torch.tensor([0]))[1]


@each("kind", KINDS)
@each("seed", range(5))
def test_farthest_from_mean_is_that_by_differences(kind, seed):
    x = hard_features(kind, seed)
    assert sampling.farthest_from_mean(x).item() == (x - x.mean(0)).square().sum(1).argmax().item()


@pytest.mark.parametrize("n", [1, 2, 255, 256, 257, 700, 1500])
def test_symmetric_products_are_the_products_and_exactly_symmetric(n):
    x = gaussian(n, n, 24)
    found = pairs.symmetric_product(x)
    assert torch.equal(found, found.T)
    assert torch.allclose(found, x @ x.T, atol=1e-4)


@each("kind", KINDS)
def test_euclidean_distances_against_differences_in_float64(kind):
    x = hard_features(kind, 3)
    exact = (x.double().unsqueeze(1) - x.double()).square().sum(2).sqrt()
    found = pairs.euclidean_distances(x)
    assert torch.equal(found, found.T)
    assert torch.all(found[exact == 0] == 0)
    lengths = x.double().norm(dim=1)
    assert torch.all((found - exact).abs() <= 1e-6 * exact + 2e-7 * (lengths.unsqueeze(1) + lengths))


@pytest.mark.parametrize("n", [16, 33, 290, 301])
def test_computed_rows_of_cosines_are_the_stored_ones_and_equal_for_duplicates(n):
    x = gaussian(n, n, 40)
    x[-(n // 2) :] = x[: n // 2]
    unit = ops.unit_rows(x)
    stored, computed = pairs.cosine_rows(unit), pairs.cosine_rows(unit, 1)
    for row in (0, n // 3, n - 1):
        pick = torch.tensor([row])
        assert torch.allclose(stored(pick), computed(pick), atol=1e-6)
        assert torch.equal(computed(pick)[-(n // 2) :], computed(pick)[: n // 2])


@pytest.mark.parametrize("limit", [8192, 10])
def test_nearest_cosines_leave_out_the_row_itself(monkeypatch, limit):
    monkeypatch.setattr(pairs, "LARGEST_COSINE_MATRIX", limit)
    unit = ops.unit_rows(gaussian(1, 130, 20))
    plain = (unit @ unit.T).fill_diagonal_(-torch.inf)
    largest, row_of = pairs.nearest_cosines(unit)
    assert torch.allclose(largest, plain.max(1).values, atol=1e-6)
    others = torch.arange(130) != 7
    assert torch.allclose(row_of(torch.tensor([7]))[others], plain[7][others], atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_group_sums_add_what_belongs_together(dtype):
    x, weights = gaussian(2, 50, 6).to(dtype), torch.rand(30, generator=torch.Generator().manual_seed(1))
    sources, group = torch.arange(5, 35), torch.arange(30) % 4 + (torch.arange(30) > 20).long()
    for given in (None, weights):
        sums, counts = ops.group_sums(x, sources, group, 6, given)
        for number in range(6):
            mine = group == number
            scaled = x[sources[mine]].double() * (1.0 if given is None else given[mine].double().unsqueeze(1))
            assert torch.allclose(sums[number].double(), scaled.sum(0), atol=1e-5)
            assert counts[number] == mine.sum()
    assert ops.group_sums(x, sources[:0], group[:0], 3)[0].tolist() == [[0.0] * 6] * 3


def test_half_precision_lengths_and_unit_rows_are_those_of_float32():
    x = gaussian(4, 33, 70).half()
    assert torch.allclose(ops.row_lengths(x), x.float().norm(dim=1))
    assert torch.allclose(ops.unit_rows(x), ops.unit_rows(x.float()))
    rows = torch.tensor([3, 1, 7])
    assert torch.equal(ops.unit_rows(x, rows), ops.unit_rows(x)[rows])
    assert torch.equal(ops.unit_rows(x.float(), rows), ops.unit_rows(x.float())[rows])


@each("listed", [1, 4, 64])
@each("seed", range(6))
def test_thinning_by_lists_is_thinning_by_search(listed, seed):
    # With one neighbour listed the list runs out at once and the rounds are searched in full.
    n = 90 + 23 * seed
    similarity = pairs.cosine_similarity(gaussian(seed, n, 12))
    listing, search = (vispruner._thin_out(similarity, 9 + seed, length) for length in (listed, 0))
    assert torch.equal(listing.left, search.left)
    assert torch.equal(listing.removed_in, search.removed_in)
    assert torch.equal(torch.cat(listing.similarity), torch.cat(search.similarity))


@each("kind", KINDS)
@each("count", [1, 9, 17])
def test_rows_computed_ahead_give_the_cover_of_the_stored_matrix(kind, count):
    unit = ops.unit_rows(hard_features(kind, 7))
    first = torch.tensor([count])
    ahead = sampling.greedy_cover(pairs.RowsAhead(unit, sampling.cosine_distances), first, count)
    stored = pairs.StoredRows(pairs.symmetric_product(unit), sampling.cosine_distances)
    assert torch.equal(ahead.picks, sampling.greedy_cover(stored, first, count).picks)


def test_rows_are_computed_ahead_until_half_of_them_are_there():
    unit = ops.unit_rows(gaussian(3, 100, 20))
    rows, matrix = pairs.RowsAhead(unit, None), pairs.symmetric_product(unit)
    for row in (0, 50, 99, 7, 3):
        assert torch.allclose(rows(torch.tensor([row])), matrix[row], atol=1e-6)
    for row in range(100):
        assert torch.allclose(rows(torch.tensor([row]), torch.arange(100.0)), matrix[row], atol=1e-6)
    assert rows.stored is not None
    assert not rows.found


@each("columns", [40, 800, 801, 1607])
@each("count", [1, 4, 5])
def test_smallest_of_grouped_columns_are_the_smallest(columns, count):
    x = gaussian(columns, 30, columns).mul(3).round()  # many are equal
    assert torch.equal(density._smallest(x, count)[0], x.sort(1).values[:, :count])
