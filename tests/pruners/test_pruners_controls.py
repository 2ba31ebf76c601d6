"""The controls that are more than a draw of rows: random tokens inside the LLM, pooling, the marked evidence."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from tokviz.errors import BadInput, Unsupported
from tokviz.pruners import get, oracle, pool
from tokviz.pruners.controls import select_random, select_uniform
from tokviz.types import Budget, PlanningInfo, Signals

LLAVA = PlanningInfo(576, 32)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------ random from a layer on


def random_at(tokens=64, counted_as="published", info=LLAVA, **params):
    pruner = get("random_at")
    (stage,) = pruner.schedule(Budget(tokens, counted_as), info, pruner.complete(params)).stages
    return stage


@pytest.mark.parametrize(("n_layers", "layer"), [(32, 16), (28, 14), (7, 3), (2, 1), (1, 0)])
def test_half_of_the_layers_see_every_token_where_nobody_said(n_layers, layer):
    stage = random_at(info=PlanningInfo(576, n_layers))
    assert (stage.site, stage.keep, stage.positions, stage.needs) == (layer, 64, "keep", ())


def test_a_layer_that_was_asked_for_is_taken_or_refused():
    assert random_at(layer=2).site == 2
    assert random_at(layer=31).site == 31
    with pytest.raises(BadInput, match="Random from a layer on drops tokens before layer 32; this model has 0 to 31"):
        random_at(layer=32)
    with pytest.raises(BadInput, match="layer must lie between 0 and 127"):
        random_at(layer=-1)


def test_an_average_is_met_by_what_is_left_behind_the_layer():
    # 16 of 32 layers with 576 and 16 with 192 are 384 on average; 2 with 576 and 30 with 98 are 127.875.
    assert random_at(384, "average").keep == 192
    assert random_at(128, "average", layer=2).keep == 98
    assert random_at(128, "final", layer=2).keep == 128
    with pytest.raises(BadInput, match="Random from a layer on cannot reach an average of 128 tokens"):
        random_at(128, "average")


def test_it_draws_the_tokens_that_random_draws_before_the_llm():
    stage, signals = random_at(20), Signals(torch.zeros(100, 1))
    for seed in range(20):
        inside = stage.select(signals, 20, {}, generator(seed)).kept
        assert torch.equal(inside, select_random(signals, 20, {}, generator(seed)).kept)


# ------------------------------------------------------------ pooling


def raster(rows, columns):
    return torch.cartesian_prod(torch.arange(rows), torch.arange(columns))


def pooled(signals, keep):
    return pool.select(signals, keep, {}, generator())


@pytest.mark.parametrize(
    ("shape", "tokens", "grid"),
    [
        ((24, 24), 192, (13, 14)),  # 13.86 a side: 13 x 14 = 182 uses most; 12 x 16 = 192 would stretch it by a third
        ((24, 24), 128, (11, 11)),  # 7 tokens unused, 5.8 %; 10 x 12 would use 8 fewer and stretch it by a fifth
        ((24, 24), 64, (8, 8)),
        ((24, 24), 1, (1, 1)),
        ((24, 24), 575, (23, 24)),  # 25 x 23 is no coarser grid
        ((24, 24), 576, (24, 24)),
        ((1, 31), 8, (1, 8)),
        ((9, 1), 4, (4, 1)),
        ((10, 20), 50, (5, 10)),
        ((4, 4), 2, (1, 2)),  # 2 x 1 is as near: the one with more columns
        ((3, 4), 5, (2, 2)),
    ],
)
def test_the_nearest_grid(shape, tokens, grid):
    assert pool.nearest_grid(*shape, tokens) == grid


def test_the_nearest_grid_against_all_grids():
    """By exact fractions: nothing that fits is nearer, and the budget is never passed."""
    for rows, columns in [(1, 7), (5, 5), (6, 9), (13, 4)]:
        for tokens in range(1, rows * columns + 3):

            def far(high, wide, tokens=tokens, rows=rows, columns=columns):
                stretch = Fraction(high * columns, wide * rows)
                return max(Fraction(min(tokens, rows * columns), high * wide), stretch, 1 / stretch)

            high, wide = pool.nearest_grid(rows, columns, tokens)
            assert high * wide <= tokens and high <= rows and wide <= columns
            others = [(a, b) for a in range(1, rows + 1) for b in range(1, columns + 1) if a * b <= tokens]
            assert far(high, wide) == min(far(*other) for other in others)


def test_pooling_by_hand():
    # 3 x 4 for 5 tokens is 2 x 2: rows 0, 0, 1 (0, 2/3, 4/3) and columns 0, 0, 1, 1. Features are the row numbers:
    # 0, 1, 4, 5 | 2, 3, 6, 7 | 8, 9 | 10, 11.
    signals = Signals(torch.arange(12.0).unsqueeze(1), cell=raster(3, 4))
    selection = pooled(signals, 5)
    assert selection.kept.tolist() == [0, 2, 8, 10]
    assert selection.assignment.tolist() == [0, 0, 2, 2, 0, 0, 2, 2, 8, 8, 10, 10]
    assert selection.features.tolist() == [[2.5], [4.5], [8.5], [10.5]]
    assert selection.diagnostics.facts == {"grids": ["2 x 2"], "asked_for": 5, "cells": 4, "non_finite": 0}
    assert selection.diagnostics.warnings == ("Pooling kept 4 of the 5 tokens asked for: 2 x 2 is the nearest grid.",)
    sizes, lost = selection.diagnostics.maps
    assert sizes.values.tolist() == [4, 0, 4, 0, 0, 0, 0, 0, 2, 0, 2, 0]
    assert lost.values.tolist() == [2.5, 1.5, 2.5, 1.5, 1.5, 2.5, 1.5, 2.5, 0.5, 0.5, 0.5, 0.5]


def test_every_view_is_pooled_by_itself_and_what_is_no_patch_goes():
    # Two frames of 2 x 2 behind their [CLS], 3 tokens: 2 for the first (1 x 2), 1 for the second.
    cell = torch.cat([torch.tensor([[-1, -1]]), raster(2, 2)] * 2)
    patch, view = cell[:, 0] >= 0, torch.arange(2).repeat_interleave(5)
    signals = Signals(torch.arange(10.0).unsqueeze(1), cell=cell, view=view, candidates=patch)
    selection = pooled(signals, 3)
    assert selection.kept.tolist() == [1, 2, 6]
    assert selection.assignment.tolist() == [-1, 1, 2, 1, 2, -1, 6, 6, 6, 6]
    assert selection.features.tolist() == [[2.0], [3.0], [7.5]]
    assert selection.diagnostics.facts["grids"] == ["1 x 2", "1 x 1"]
    assert selection.diagnostics.warnings == ()
    assert pooled(signals, 1).assignment.tolist() == [-1, 1, 1, 1, 1, -1, -1, -1, -1, -1]
    assert pooled(signals, 8).kept.tolist() == [1, 2, 3, 4, 6, 7, 8, 9]


def test_crops_are_pooled_where_they_lie_on_the_stitched_grid():
    # The right one of two crops of 2 x 2 begins at column 2.
    cell = torch.cat([raster(2, 2), raster(2, 2) + torch.tensor([0, 2])])
    signals = Signals(torch.arange(8.0).unsqueeze(1), cell=cell, view=torch.arange(2).repeat_interleave(4))
    assert pooled(signals, 2).features.tolist() == [[1.5], [5.5]]


def test_a_row_that_is_not_finite_is_not_averaged_and_stands_for_a_cell_only_alone():
    features = torch.tensor([[torch.nan], [2.0], [2.0], [torch.inf], [4.0], [3.0], [6.0], [torch.nan]])
    selection = pooled(Signals(features, cell=raster(2, 4)), 4)
    assert selection.diagnostics.facts["grids"] == ["1 x 3"]  # columns 0, 0, 1, 2
    assert selection.kept.tolist() == [1, 2, 3]
    assert selection.assignment.tolist() == [-1, 1, 2, 3, 1, 1, 2, -1]
    assert selection.features[:2].tolist() == [[3.0], [4.0]] and selection.features[2].isinf()
    assert "3 of 8 tokens" in selection.diagnostics.warnings[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("rows", "columns", "keep"), [(24, 24, 64), (24, 24, 144), (6, 9, 6), (16, 8, 8), (12, 30, 10)]
)
def test_where_the_grid_divides_it_is_adaptive_average_pooling(rows, columns, keep, dtype):
    features = torch.randn(rows * columns, 16, dtype=dtype, generator=generator(keep))
    high, wide = pool.nearest_grid(rows, columns, keep)
    assert rows % high == columns % wide == 0
    image = features.T.reshape(1, 16, rows, columns)
    expected = torch.nn.functional.adaptive_avg_pool2d(image, (high, wide)).flatten(2)[0].T
    selection = pooled(Signals(features, cell=raster(rows, columns)), keep)
    assert selection.features.dtype == dtype
    assert torch.allclose(selection.features, expected, atol=1e-6 if dtype == torch.float32 else 1e-14)


def test_pooling_against_brute_force():
    for seed in range(60):
        rng = np.random.default_rng(seed)
        shape, keep = rng.integers(1, 9, 2).tolist(), int(rng.integers(1, 12))
        features = torch.randn(shape[0] * shape[1], 3, generator=generator(seed))
        selection = pooled(Signals(features, cell=raster(*shape)), keep)
        if keep >= len(features):
            assert len(selection.kept) == len(features)
            continue
        high, wide = pool.nearest_grid(*shape, keep)
        groups = {}
        for index in range(len(features)):
            row, column = divmod(index, shape[1])
            groups.setdefault((row * high // shape[0], column * wide // shape[1]), []).append(index)
        assert len(groups) == high * wide
        found = sorted(groups.values())
        assert selection.kept.tolist() == [members[0] for members in found]
        means = np.stack([features.double().numpy()[members].mean(0) for members in found])
        assert np.allclose(selection.features.numpy(), means, atol=1e-6)
        owners = {index: members[0] for members in found for index in members}
        assert selection.assignment.tolist() == [owners[index] for index in range(len(features))]


def test_pooling_without_places_says_what_to_do():
    with pytest.raises(Unsupported, match=r"where the visual tokens lie.*tokviz\.inputs_for"):
        pooled(Signals(torch.zeros(9, 2)), 4)


# ------------------------------------------------------------ oracle


def marked(shares, keep):
    return oracle.select(Signals(torch.zeros(len(shares), 1), evidence=torch.tensor(shares)), keep, {}, generator())


def test_oracle_by_hand():
    # Most evidence first: 4, then 1 before 6 (a tie), then 2. Of 0, 3, 5, 7 place 2, then 1 and 3, then 0, 2 and 3.
    shares = [0.0, 0.5, 0.1, 0.0, 1.0, 0.0, 0.5, 0.0]
    kept = {keep: marked(shares, keep).kept.tolist() for keep in range(1, 8)}
    assert kept == {
        1: [4],
        2: [1, 4],
        3: [1, 4, 6],
        4: [1, 2, 4, 6],
        5: [1, 2, 4, 5, 6],
        6: [1, 2, 3, 4, 6, 7],
        7: [0, 1, 2, 4, 5, 6, 7],
    }
    found = marked(shares, 6).diagnostics
    assert found.facts == {"tokens_with_evidence": 4, "of_them_kept": 4, "evenly_spaced": 2}
    assert found.score.values.tolist() == pytest.approx(shares)
    assert found.warnings == ()


def test_without_any_token_that_shows_evidence_the_oracle_is_uniform_and_says_so():
    selection = marked([0.0] * 16, 4)
    assert torch.equal(
        selection.kept, select_uniform(Signals(torch.zeros(16, 1)), 4, {"phase": "middle"}, generator()).kept
    )
    assert selection.diagnostics.warnings == (oracle.NOT_SHOWN,)
    assert marked([torch.nan, 0.0, 1.0, torch.nan], 1).kept.tolist() == [2]
    assert marked([torch.nan, 0.0, 1.0, torch.nan], 2).kept.tolist() == [1, 2]


def test_oracle_against_brute_force():
    for seed in range(100):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(2, 30))
        shares, keep = (rng.integers(-4, 5, n).clip(0) / 4).tolist(), int(rng.integers(1, n))
        best = [i for i in sorted(range(n), key=lambda i: (-shares[i], i)) if shares[i] > 0][:keep]
        rest = [i for i in range(n) if i not in best]
        others = [rest[(2 * i + 1) * len(rest) // (2 * (keep - len(best)))] for i in range(keep - len(best))]
        assert marked(shares, keep).kept.tolist() == sorted(best + others)


def test_oracle_refuses_without_evidence_and_says_what_to_pass():
    pruner = get("oracle")
    with pytest.raises(Unsupported, match=r"Oracle needs evidence.*evidence=\[.*inputs_for.*--evidence"):
        pruner.schedule(Budget(8), replace(LLAVA, has_evidence=False), {})
