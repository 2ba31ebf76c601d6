"""Density peaks, recycled clusters and text raters, against examples on paper and slow references."""

import math

import numpy as np
import pytest
import torch
from text_guided_references import alignment as alignment_reference
from text_guided_references import density_peaks as density_peaks_reference
from text_guided_references import keep_and_recycle as keep_and_recycle_reference
from text_guided_references import n_clusters
from text_guided_references import raters as raters_reference

from tokviz.pruners import density
from tokviz.pruners.clustering import cluster_means, keep_and_recycle, recycled_clusters, split_keep
from tokviz.pruners.raters import alignment, mean_of_raters, text_raters
from tokviz.types import Signals, TokenMap


def random_features(seed, n, width, kind):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, width, generator=g)
    if kind == "duplicates":
        x = x[torch.randint(max(1, n // 3), (n,), generator=g)]
    elif kind == "zero rows":
        x[torch.rand(n, generator=g) < 0.4] = 0.0
    elif kind == "constant":
        x = torch.full((n, width), 2.0)
    return x, g


KINDS = ("gaussian", "duplicates", "zero rows", "constant")


# ------------------------------------------------------------------------------------------------- density peaks


def test_equally_dense_points_on_paper():
    # Points on a line; each has a neighbour at distance 1, so that all are equally dense and the first is the densest.
    x = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0]])
    found = cluster_means(x, [(torch.arange(5), 2)], neighbours=1)
    assert found.log_density.tolist() == pytest.approx([-1.0] * 5)
    assert found.separation.tolist() == [11, 1, 1, 8, 1]  # 11: the largest distance of all
    assert found.centres.tolist() == [0, 3]
    assert found.owner.tolist() == [0, 0, 0, 3, 3]
    assert found.means.flatten().tolist() == [1.0, 10.5]
    assert found.sizes.tolist() == [3, 2]


def test_a_row_between_two_centres_joins_the_one_with_the_lower_index():
    points = torch.tensor([[-1.0], [-1.2], [0.0], [0.95], [1.0], [1.05]])
    peaks = density.density_peaks(points, 2, 2)
    assert peaks.centres.tolist() == [4, 0]  # the more prominent one first
    assert peaks.owner.tolist() == [0, 0, 0, 4, 4, 4]


def test_own_distance_counts_only_as_in_the_official_code():
    x = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    others = cluster_means(x, [(torch.arange(4), 2)], neighbours=2)
    # Mean of the two smallest squared distances to others: (1 + 9) / 2, (1 + 4) / 2, (4 + 9) / 2, (16 + 36) / 2.
    assert others.log_density.tolist() == pytest.approx([-5, -2.5, -6.5, -26])
    assert others.separation.tolist() == [1, 7, 2, 4]
    # log(rho delta): -5 + 0, -2.5 + 1.95, -6.5 + 0.69, -26 + 1.39.
    assert others.centres.tolist() == [1, 0]
    assert others.owner.tolist() == [0, 1, 1, 1]
    assert others.means.flatten().tolist() == pytest.approx([11 / 3, 0.0])
    itself = cluster_means(x, [(torch.arange(4), 2)], neighbours=0)
    # Its own 0 and the nearest other: 1 / 2, 1 / 2, 4 / 2, 16 / 2. The first of the equal pair counts as denser.
    assert itself.log_density.tolist() == pytest.approx([-0.5, -0.5, -2, -8])
    assert itself.separation.tolist() == [7, 1, 2, 4]
    assert itself.centres.tolist() == [0, 1]
    assert itself.means.flatten().tolist() == pytest.approx([0.0, 11 / 3])


@pytest.mark.parametrize("knn", [0, 1, 2, 5])
def test_density_peaks_as_the_reference(knn):
    for seed in range(60):
        kind = KINDS[seed % 4]
        n = 1 + seed % 17
        x, g = random_features(seed, n, 1 + seed % 5, kind)
        count = int(torch.randint(1, n + 1, (1,), generator=g))
        found = cluster_means(x, [(torch.arange(n), count)], knn)
        centres, owner, rho, separation = density_peaks_reference(x.double().numpy(), count, knn)
        assert found.centres.tolist() == centres
        assert found.owner.tolist() == owner
        assert found.log_density.exp().tolist() == pytest.approx(rho, rel=1e-4)
        assert found.separation.tolist() == pytest.approx(separation, rel=1e-5)


def test_row_tiles_change_nothing(monkeypatch):
    x, _ = random_features(3, 50, 4, "duplicates")
    for include_self in (True, False):
        whole = density.density_peaks(x, 7, 3, include_self)
        monkeypatch.setattr(density, "ROW_TILE", 8)
        tiled = density.density_peaks(x, 7, 3, include_self)
        monkeypatch.undo()
        for name in ("centres", "log_density", "separation", "owner"):
            assert torch.equal(getattr(whole, name), getattr(tiled, name))


def test_far_apart_rows_are_still_ranked_when_their_density_underflows():
    x = torch.tensor([[0.0], [300.0], [1000.0], [1001.0], [1100.0]])
    found = cluster_means(x, [(torch.arange(5), 2)], neighbours=2)
    assert float(found.log_density.exp().max()) == 0.0  # exp(-4900) and less
    centres, *_ = density_peaks_reference(x.double().numpy(), 2, 2)
    assert found.centres.tolist() == centres == [3, 2]


# ------------------------------------------------------------------------------------------------- recycling


@pytest.mark.parametrize(
    ("n", "keep", "split"),
    [
        # SparseVLM's published lists (300, 200, 110 and so on) with the clusters that they lead to.
        (576, 309, (300, 9)), (309, 204, (200, 4)), (204, 113, (110, 3)),
        (576, 312, (303, 9)), (312, 117, (110, 7)), (117, 39, (36, 3)),
        (576, 249, (238, 11)), (249, 55, (48, 7)), (55, 27, (26, 1)),
        (576, 82, (66, 16)), (82, 32, (30, 2)), (32, 18, (17, 1)),
        # 18 clusters would come of 575 pruned tokens: below that the clusters are cut to fit.
        (576, 19, (1, 18)), (576, 5, (1, 4)), (576, 2, (1, 1)), (576, 1, (1, 0)), (2, 1, (1, 0)),
    ],
)  # fmt: skip
def test_split_of_a_count(n, keep, split):
    assert split_keep(n, keep) == split


def test_every_count_can_be_split():
    for n in range(2, 130):
        for keep in range(1, n):
            selected, clusters = split_keep(n, keep)
            assert selected >= 1
            assert selected + clusters == keep
            assert clusters <= n_clusters(n - selected)
            assert clusters == n_clusters(n - selected) or selected == 1
    assert all(recycled_clusters(p) == (math.floor(0.3 * p) + 1, n_clusters(p)) for p in range(1, 5000))


def test_keep_and_recycle_as_the_reference():
    compared = 0
    for seed in range(240):
        kind = KINDS[seed % 4]
        n = 2 + seed % 33
        x, g = random_features(seed, n, 1 + seed % 6, kind)
        scores = torch.rand(n, generator=g)
        if seed % 3 == 0:
            scores = (scores * 3).floor()  # ties
        if seed % 5 == 0:
            x[torch.rand(n, generator=g) < 0.2, 0] = torch.nan
            scores[torch.rand(n, generator=g) < 0.2] = torch.nan
        keep = int(torch.randint(1, n, (1,), generator=g))
        knn, append = (0, 1, 5)[seed % 3], seed % 2 == 0
        score = TokenMap("s", "S", scores)
        found = keep_and_recycle(x, score, keep, knn, append)
        usable = [i for i in range(n) if x[i].isfinite().all() and scores[i].isfinite()]
        assert found.diagnostics.facts["non_finite"] == n - len(usable)
        if not usable:
            assert len(found.kept) == keep
            continue
        kept, features, assignment, sequence = keep_and_recycle_reference(
            x.double().numpy(), scores.double().numpy(), keep, knn
        )
        assert found.kept.tolist() == kept
        if features is None:
            assert found.features is None
            continue
        compared += 1
        assert found.assignment.tolist() == assignment
        given = x[found.kept] if found.features is None else found.features
        np.testing.assert_allclose(given.numpy(), np.array(features), atol=1e-5)
        if append and found.features is not None:
            assert found.kept[found.sequence].tolist() == sequence
        else:
            assert found.sequence is None
        sizes = next(m for m in found.diagnostics.maps if m.name == "group_size").values
        assert sizes.tolist() == [assignment.count(i) for i in range(n)]
    assert compared > 180


def test_the_decision_graph_links_points_and_tokens():
    x, g = random_features(5, 60, 3, "gaussian")
    found = keep_and_recycle(x, TokenMap("s", "S", torch.rand(60, generator=g)), 12, 5, False)
    (chart,) = found.diagnostics.charts
    maps = {m.name: m.values for m in found.diagnostics.maps}
    assert chart.kind == "scatter"
    assert len(chart.tokens) == found.diagnostics.facts["recycled"]
    assert chart.x == maps["log_density"][chart.tokens].tolist()
    assert chart.y == maps["separation"][chart.tokens].tolist()
    centres = [chart.tokens[place] for place in chart.marked]
    assert len(centres) == found.diagnostics.facts["clusters"]
    assert set(centres) <= set(found.kept.tolist())
    assert torch.isnan(maps["log_density"]).sum() == 60 - found.diagnostics.facts["recycled"]


# ------------------------------------------------------------------------------------------------- raters


@pytest.mark.parametrize("scaled", [False, True])
def test_raters_as_the_reference(scaled):
    for seed in range(120):
        n, m, width = 1 + seed % 9, 1 + seed % 7, 1 + seed % 5
        visual, g = random_features(seed, n, width, KINDS[seed % 4])
        text = torch.randn(m, width, generator=g)
        if seed % 4 == 0:
            text = text[:1].expand(m, width)
        scale = width**-0.5 if scaled else 1.0
        found = text_raters(Signals(visual, input_features=visual, input_text=text), scaled)
        mean, chosen = raters_reference(visual.double().numpy(), text.double().numpy(), scale)
        assert found.shares.tolist() == pytest.approx(mean, abs=1e-5)
        assert found.rows.tolist() == chosen
        assert found.line == pytest.approx(1 / m)
        assert float(found.shares.sum()) == pytest.approx(1.0, abs=1e-5)
        shares = alignment_reference(visual.double().numpy(), text.double().numpy(), scale)
        np.testing.assert_allclose(alignment(visual, text, scale).numpy(), np.array(shares), atol=1e-5)


def test_a_single_word_or_words_alike_are_all_raters():
    visual = torch.randn(6, 4)
    for text in (torch.randn(1, 4), torch.randn(1, 4).expand(3, 4)):
        found = text_raters(Signals(visual, input_features=visual, input_text=text), scaled=False)
        assert found.chosen.all()
        assert "none is above" in found.rule


def test_words_and_tokens_that_are_not_finite_do_not_vote():
    visual, text = torch.randn(6, 4), torch.randn(5, 4)
    broken = torch.cat([visual, torch.full((2, 4), torch.nan)])
    with_nan = text_raters(
        Signals(broken, input_features=broken, input_text=torch.cat([text, torch.full((1, 4), torch.inf)])), scaled=True
    )
    without = text_raters(Signals(visual, input_features=visual, input_text=text), scaled=True)
    assert torch.allclose(with_nan.shares[:5], without.shares)
    assert with_nan.chosen.tolist() == [*without.chosen.tolist(), False]
    assert with_nan.line == without.line == 0.2


def test_without_text_the_last_row_decides():
    visual = torch.randn(6, 4)
    nobody = text_raters(Signals(visual, input_features=visual, input_text=visual[:0]), scaled=False)
    assert nobody.rows.tolist() == []
    assert nobody.line is None
    rows = torch.rand(3, 6)
    assert torch.equal(mean_of_raters(rows, nobody), rows[2])
    assert mean_of_raters(rows[:0], nobody).isnan().all()
