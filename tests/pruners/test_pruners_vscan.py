"""VScan's first stage on an image that can be checked on paper, and against a slow reference; its counts."""

import math

import pytest
import torch

from tokviz.pruners import get
from tokviz.pruners.vscan import NO_GRID, best_of_windows, select_stage_1
from tokviz.types import CLS_ATTENTION, LAST_ROW_OF_NEXT_LAYER, SHALLOW_ATTENTION, Budget, PlanningInfo, Signals

NAN = math.nan


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def params(**given):
    return get("vscan").complete(given)


def grid(rows, cols):
    return torch.cartesian_prod(torch.arange(rows), torch.arange(cols))


def signals(features, shallow, deep, rows, cols, **more):
    features, shallow, deep = map(torch.as_tensor, (features, shallow, deep))
    return Signals(features, shallow_attention=shallow, cls_attention=deep, **{"cell": grid(rows, cols), **more})


def roles(selection):
    return next(m.values for m in selection.diagnostics.maps if m.name == "role").tolist()


# ------------------------------------------------------------------------------------------------- on paper

# Two rows of four: windows of 2 x 2 are 0, 1, 4, 5 and 2, 3, 6, 7.
SHALLOW = [0.1, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.3]
DEEP = [0.3, 0.4, 0.1, 0.2, 0.0, 0.0, 0.0, 0.5]
FEATURES = [[1.0, 0], [0, 1], [3, 1], [0, 2], [2, 0], [0, 3], [1, 0], [4, 4]]


def test_local_global_and_merged():
    selection = select_stage_1(signals(FEATURES, SHALLOW, DEEP, 2, 4), 4, params(window=2), generator())
    # Two local ones, the best of each window: 1 and 7. Of the rest 0 and 3 have most attention in the deep layer.
    assert selection.kept.tolist() == [0, 1, 3, 7]
    assert roles(selection) == [1, 2, 0, 1, 0, 0, 0, 2]
    # 4 and 6 look like 0, and 2 too (cosine 0.95, with 7 it is 0.89). 5 is north like 1 and 3: the first of them.
    assert selection.assignment.tolist() == [0, 1, 0, 3, 0, 1, 0, 7]
    assert selection.features.tolist() == [[(1 + 3 + 2 + 1) / 4, 1 / 4], [0, 2], [0, 2], [4, 4]]
    assert selection.diagnostics.facts == {"local": 2, "global": 2, "merged": 4, "non_finite": 0}


def test_what_windows_cannot_share_goes_to_the_whole_image():
    selection = select_stage_1(signals(FEATURES, SHALLOW, DEEP, 2, 4), 3, params(window=2), generator())
    # int(1.5) = 1 local token for two windows: none. The three best of the deep layer.
    assert selection.kept.tolist() == [0, 1, 7] and selection.diagnostics.facts["local"] == 0
    assert select_stage_1(
        signals(FEATURES, SHALLOW, DEEP, 2, 4), 4, params(window=2, global_share=0.0), generator()
    ).diagnostics.facts == {"local": 4, "global": 0, "merged": 4, "non_finite": 0}


def test_windows_begin_with_the_view_and_small_ones_give_what_they_have():
    score = torch.arange(15.0)
    rows = torch.arange(15)
    cell = grid(3, 5) + torch.tensor([7, 11])  # windows of 2: 4, 4 and 2 of the first rows, 2, 2 and 1 of the last one
    found = best_of_windows(score, cell, rows, 6 * 2, 2).tolist()
    assert found == [6, 5, 8, 7, 9, 4, 11, 10, 13, 12, 14]
    assert best_of_windows(score, None, rows, 2, 2).tolist() == [14, 13]


def test_every_view_by_itself():
    two = signals(FEATURES * 2, SHALLOW * 2, DEEP * 2, 4, 4, view=torch.tensor([0] * 8 + [1] * 8))
    selection = select_stage_1(two, 8, params(window=2), generator())
    assert selection.kept.tolist() == [0, 1, 3, 7, 8, 9, 11, 15]
    assert selection.assignment[8:].tolist() == (8 + selection.assignment[:8]).tolist()


def test_without_a_grid_and_with_what_is_not_finite():
    deep = [NAN, *DEEP[1:]]
    selection = select_stage_1(signals(FEATURES, SHALLOW, deep, 2, 4, cell=None), 2, params(), generator())
    assert selection.kept.tolist() == [1, 7] and NO_GRID in selection.diagnostics.warnings
    assert selection.assignment[0] == -1


def test_the_stages():
    stages = get("vscan").schedule(Budget(64), PlanningInfo(576, 32), params()).stages
    assert [(s.site, s.keep, s.positions) for s in stages] == [("projector", 96, "reindex"), (16, 32, "reindex")]
    assert [s.needs for s in stages] == [(SHALLOW_ATTENTION, CLS_ATTENTION), (LAST_ROW_OF_NEXT_LAYER,)]


# ------------------------------------------------------------------------------------------------- brute force


def slow(x, shallow, deep, rows, cols, keep, side, share):
    """Kept tokens, who carries each, and the averages, from lists."""
    n = rows * cols
    windows = {}
    for i in range(n):
        windows.setdefault((i // cols // side, i % cols // side), []).append(i)
    each = int(keep * (1 - share)) // len(windows)
    local = [i for inside in windows.values() for i in sorted(inside, key=lambda i: (-float(shallow[i]), i))[:each]]
    ranked = sorted(set(range(n)) - set(local), key=lambda i: (-float(deep[i]), i))
    kept = sorted([*local, *ranked[: keep - len(local)]])
    unit = (x / x.norm(dim=1, keepdim=True)).double()
    owner = [i if i in kept else max(kept, key=lambda k: float(unit[i] @ unit[k])) for i in range(n)]
    means = [x[[i for i in range(n) if owner[i] == k]].double().mean(0) for k in kept]
    return kept, owner, torch.stack(means)


def test_against_a_slow_reference():
    for seed in range(60):
        rows, cols, side = 2 + seed % 6, 2 + seed % 5, 1 + seed % 3
        n = rows * cols
        x = torch.randn(n, 6, generator=generator(seed))
        shallow, deep = (torch.randint(9, (n,), generator=generator(seed + k)) / n for k in (100, 200))
        keep, share = 1 + seed % (n - 1), (0.5, 0.25, 0.0, 1.0)[seed % 4]
        kept, owner, means = slow(x, shallow, deep, rows, cols, keep, side, share)
        given = signals(x, shallow, deep, rows, cols)
        found = select_stage_1(given, keep, params(window=side, global_share=share), generator())
        assert found.kept.tolist() == kept and found.assignment.tolist() == owner
        assert torch.allclose(found.features.double(), means, atol=1e-5)


@pytest.mark.parametrize(("tokens", "counts"), [(192, (288, 96)), (128, (192, 64)), (64, (96, 32))])
def test_counts_are_those_of_the_released_scripts(tokens, counts):
    stages = get("vscan").schedule(Budget(tokens), PlanningInfo(576, 32), params()).stages
    assert tuple(stage.keep for stage in stages) == counts
