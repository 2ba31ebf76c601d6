"""The out-of-world score: a Mahalanobis distance that survives its file and tells noise from what it was fitted on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tokviz.models.out_of_world import FILE, WorldStatistics, spread
from training import out_of_world
from training.out_of_world import auroc, fit


def points(count: int, seed: int, width: int = 48) -> torch.Tensor:
    """Points that vary much in few directions and little in the others."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(0).normal(size=(4, width))
    return torch.from_numpy(rng.normal(size=(count, 4)) @ mixing + 0.05 * rng.normal(size=(count, width)) + 3).float()


def test_the_threshold_keeps_its_false_alarms() -> None:
    statistics = fit(points(400, 1), points(400, 2), 3)
    fresh = statistics.distance(points(2000, 3))
    assert 0.001 <= float((fresh > statistics.threshold).float().mean()) <= 0.03


def test_other_points_are_outside() -> None:
    statistics = fit(points(400, 1), points(400, 2), 3)
    away = points(200, 4) + torch.from_numpy(np.random.default_rng(5).normal(size=48)).float() * 4
    assert (statistics.distance(away) > statistics.threshold).all()


def test_it_is_a_mahalanobis_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all directions but one kept, the distance is that of the whole covariance."""
    monkeypatch.setattr(out_of_world, "DIRECTIONS", 1000)
    data = points(500, 1, 12)
    statistics = fit(data, data, 3)
    covariance = torch.cov(data.double().T)
    even = torch.eye(12, dtype=torch.float64) * covariance.trace() / 12
    inverse = torch.linalg.inv((1 - out_of_world.SHRINK) * covariance + out_of_world.SHRINK * even)
    away = (points(20, 7, 12) - data.mean(0)).double()
    expected = torch.einsum("bi,ij,bj->b", away, inverse, away).sqrt()
    assert torch.allclose(statistics.distance(points(20, 7, 12)).double(), expected, rtol=2e-2)


def test_the_file_gives_the_same_scores(tmp_path: Path) -> None:
    statistics = fit(points(400, 1, 192), points(400, 2, 192), 3)
    statistics.save(tmp_path / FILE)
    again = WorldStatistics.load(tmp_path / FILE)
    seen = points(50, 6, 192)
    assert torch.equal(statistics.distance(seen), again.distance(seen)) and again.threshold == statistics.threshold
    assert (tmp_path / FILE).stat().st_size < 20_000


def test_the_spread_forgets_where_things_are() -> None:
    states = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 30, 8))).float()
    shuffled = states[:, torch.randperm(30)]
    assert torch.allclose(spread(states), spread(shuffled), atol=1e-6) and spread(states).shape == (2, 8)


def test_auroc_counts_pairs() -> None:
    assert auroc([1, 2], [3, 4]) == 1.0 and auroc([3], [1]) == 0.0 and auroc([1, 1], [1]) == 0.5
