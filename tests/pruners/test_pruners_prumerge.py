"""PruMerge and PruMerge+ on examples that can be checked on paper, and against a slow token-by-token reference."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tokviz.pruners import get, prumerge, prumerge_plus
from tokviz.pruners.prumerge import absorb, outlier_line
from tokviz.types import (
    CLS_FULL_WIDTH_LAST_LAYER,
    FULL_KEYS_LAST_LAYER,
    RECEIVED_ATTENTION,
    Budget,
    PlanningInfo,
    Signals,
)

NAN = math.nan


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def params(method="prumerge", **given):
    return get(method).complete(given)


def signals(x, attention, keys=None, **more):
    return Signals(x, cls_full_width=torch.as_tensor(attention), full_keys=x if keys is None else keys, **more)


def values(selection, name):
    return next(token_map.values for token_map in selection.diagnostics.maps if token_map.name == name).tolist()


# ------------------------------------------------------------------------------------------------- on paper

# Keys point where tokens 0 and 1 do, and 2 and 3; token 4 is at right angles to both groups.
X = torch.tensor([[1.0, 0, 0], [2, 0, 0], [0, 3, 0], [0, 4, 0], [0, 0, 5]])
ATTENTION = [0.4, 0.1, 0.3, 0.1, 0.05]


def test_neighbours_are_added_to_what_stays_and_the_rest_is_summed_up():
    selection = prumerge.select(signals(X, ATTENTION), 3, params(neighbours=1), generator())
    # Two centres (0 and 2) and the summary. Token 1 is nearest to 0, token 3 to 2, both with attention 0.1.
    assert selection.kept.tolist() == [0, 2]
    assert torch.allclose(selection.features, torch.tensor([[1.2, 0, 0], [0, 3.4, 0]]))
    # Dropped: 1, 3, 4. 0.1 * 2, 0.1 * 4, 0.05 * 5.
    assert torch.allclose(selection.extra, torch.tensor([[0.2, 0.4, 0.25]]))
    assert selection.assignment.tolist() == [0, 0, 2, 2, -1]
    assert values(selection, "taken_in") == [0, 1, 0, 1, 0]
    assert values(selection, "group") == [2, 0, 2, 0, 0]
    assert selection.sequence is None
    assert selection.diagnostics.facts == {
        "outliers": 0, "by_attention": 2, "by_grid": 0, "summary_tokens": 1, "non_finite": 0,
        "added": "the sum of what was dropped, weighted by attention",
    }  # fmt: skip


def test_kept_tokens_are_neighbours_too_and_give_their_original_feature():
    # Two neighbours each. Of token 0: 1, then 2, the lowest index at cosine 0. Of 2: 3, then 0.
    found = absorb(X, X, torch.tensor(ATTENTION), torch.tensor([0, 2]), 2)
    assert torch.allclose(found.features, torch.tensor([[1.2, 0.9, 0], [0.4, 3.4, 0]]))
    assert found.taken_in.tolist() == [1, 1, 1, 1, 0]


def test_keys_decide_who_is_near_and_not_features():
    keys = X[[0, 4, 0, 0, 0]]
    selection = prumerge.select(signals(X, ATTENTION, keys), 2, params(neighbours=1), generator())
    assert selection.kept.tolist() == [0]
    assert torch.allclose(selection.features, torch.tensor([[1.0, 0.9, 0]]))  # token 2 times 0.3


def test_a_token_can_be_added_to_several():
    keys = torch.tensor([[1.0, 0], [1, 1], [0, 1], [-1, 0], [0, -1]])
    selection = prumerge.select(signals(X, ATTENTION, keys), 3, params(neighbours=1), generator())
    assert values(selection, "taken_in") == [0, 2, 0, 0, 0]
    assert selection.assignment.tolist() == [0, 0, 2, -1, -1]  # equally near to 0 and 2: the lower index


def test_attention_received_takes_the_place_of_cls():
    """Same numbers, same tokens; only the name of the score tells."""
    cls = prumerge.select(signals(X, ATTENTION), 3, params(neighbours=1), generator())
    received = Signals(X, received_attention=torch.tensor(ATTENTION), full_keys=X)
    other = prumerge.select(received, 3, params(neighbours=1), generator())
    assert torch.equal(cls.features, other.features) and torch.equal(cls.extra, other.extra)
    assert (cls.diagnostics.score.name, other.diagnostics.score.name) == ("cls_full_width", "received_attention")
    assert other.diagnostics.charts[0].y_label == "Attention received"


def test_a_budget_of_one_has_no_room_for_a_summary():
    selection = prumerge.select(signals(X, ATTENTION), 1, params(neighbours=1), generator())
    assert selection.kept.tolist() == [0]
    assert selection.extra is None


def test_the_official_order_is_by_attention_with_the_summary_last():
    attention = [0.1, 0.2, 0.1, 0.4, 0.3]
    selection = prumerge.select(signals(X, attention), 4, params(order="attention"), generator())
    assert selection.kept.tolist() == [1, 3, 4]
    assert selection.kept[selection.sequence[:3]].tolist() == [3, 4, 1]
    assert selection.sequence[3] == 3
    plus = prumerge_plus.select(signals(X, attention), 4, params("prumerge_plus", order="attention"), generator())
    # A quarter of 3 is none, so one by attention: 3; of 0, 1, 2, 4 two evenly spaced ones: 1 and 4.
    assert plus.kept[plus.sequence[:3]].tolist() == [3, 1, 4]


def test_outliers_lie_above_the_third_quartile_by_one_and_a_half_ranges():
    attention = torch.tensor([0.0, 1, 2, 3, 4, 5, 6, 7, 13.1])
    assert outlier_line(attention) == pytest.approx(6 + 1.5 * 4)
    assert outlier_line(attention) == pytest.approx(np.percentile(attention, 75) + 1.5 * 4)
    selection = prumerge.select_adaptive(signals(torch.eye(9), attention), None, params(adaptive=True), generator())
    assert selection.kept.tolist() == [8]
    assert len(selection.extra) == 1
    assert selection.diagnostics.facts["outliers"] == 1
    assert selection.diagnostics.readings[0].value == pytest.approx(1 / 9)
    assert selection.diagnostics.charts[0].line == pytest.approx(12)
    assert list(selection.diagnostics.charts[0].marked) == [0]
    assert list(selection.diagnostics.charts[0].tokens) == [8, 7, 6, 5, 4, 3, 2, 1, 0]


def test_the_adaptive_grid_has_three_tokens_for_each_outlier():
    attention = torch.full((24,), 0.01)
    attention[[5, 12]] = 0.3
    given = params("prumerge_plus", adaptive=True)
    selection = prumerge_plus.select_adaptive(signals(torch.eye(24), attention), None, given, generator())
    # Share 2 / 24: a step of int(12 / 3) = 4: 0, 4, 8, (12), 16, 20 of 0..22.
    assert selection.kept.tolist() == [0, 4, 5, 8, 12, 16, 20]
    assert (selection.diagnostics.facts["by_attention"], selection.diagnostics.facts["by_grid"]) == (2, 5)
    assert len(selection.extra) == 1


@pytest.mark.parametrize(("method", "kept"), [(prumerge, [0]), (prumerge_plus, [0, 3, 6])])
def test_equal_attention_has_no_outlier_and_one_token_stays(method, kept):
    given = params("prumerge_plus", adaptive=True)
    selection = method.select_adaptive(signals(torch.eye(9), torch.full((9,), 0.1)), None, given, generator())
    assert selection.kept.tolist() == kept  # PruMerge+: a step of int(9 / 3) on 0..7
    assert selection.diagnostics.facts["outliers"] == 0


def test_with_a_planned_count_the_grid_is_spaced_over_what_is_left():
    attention = torch.zeros(16)
    attention[[2, 9]] = 0.4
    given = params("prumerge_plus", attention_share=0.25)
    selection = prumerge_plus.select(signals(torch.eye(16), attention), 9, given, generator())
    # 2 by attention; six of the fourteen others, at floor((2 i + 1) 14 / 12): places 1, 3, 5, 8, 10, 12.
    rest = [row for row in range(16) if row not in (2, 9)]
    assert selection.kept.tolist() == sorted([2, 9, *(rest[place] for place in (1, 3, 5, 8, 10, 12))])
    assert len(selection.extra) == 1


def test_each_view_has_its_share_and_its_summary():
    x = torch.cat([X, X * 10])
    view = torch.tensor([0] * 5 + [1] * 5)
    selection = prumerge.select(signals(x, ATTENTION * 2, view=view), 6, params(neighbours=1), generator())
    assert selection.kept.tolist() == [0, 2, 5, 7]
    assert selection.assignment.tolist() == [0, 0, 2, 2, -1, 5, 5, 7, 7, -1]
    assert torch.allclose(selection.extra, torch.tensor([[0.2, 0.4, 0.25], [2, 4, 2.5]]))
    assert len(selection.diagnostics.charts) == 2
    # The second view has two tokens, fewer than its share: it stays as it is.
    short = signals(x[:7], (ATTENTION * 2)[:7], view=view[:7])
    found = prumerge.select(short, 6, params(neighbours=1), generator())
    assert found.kept.tolist() == [0, 1, 2, 5, 6]
    assert len(found.extra) == 1
    assert torch.equal(found.features[-2:], x[5:7])


def test_tokens_that_are_not_finite_are_in_nothing():
    x = torch.cat([X, torch.full((1, 3), NAN)])
    selection = prumerge.select(signals(x, [*ATTENTION, 0.9], torch.cat([X, X[:1]])), 3, params(), generator())
    assert selection.kept.tolist() == [0, 2]
    assert selection.features.isfinite().all()
    assert selection.extra.isfinite().all()
    everything = prumerge.select(signals(x, [*ATTENTION, 0.9], torch.cat([X, X[:1]])), 5, params(), generator())
    assert everything.kept.tolist() == [0, 1, 2, 3, 4]
    assert everything.extra is None
    assert torch.equal(everything.features, X)
    # Where a row that is not finite has to stay, the maps do not call it dropped: it was not looked at.
    two = torch.cat([X, torch.full((3, 3), NAN)])
    filled = prumerge.select(signals(two, [*ATTENTION, 0.9, 0.9, 0.9], torch.cat([X, X[:3]])), 7, params(), generator())
    assert filled.kept.tolist() == [0, 1, 2, 3, 4, 5, 6]
    for name, expected in (("group", [2] * 5), ("taken_in", [0] * 5)):
        assert values(filled, name) == pytest.approx([*expected, NAN, NAN, NAN], nan_ok=True)


@pytest.mark.parametrize("method", ["prumerge", "prumerge_plus"])
def test_the_stage(method):
    needs = (CLS_FULL_WIDTH_LAST_LAYER, FULL_KEYS_LAST_LAYER)
    pruner, info = get(method), PlanningInfo(576, 32)
    stages = pruner.schedule(Budget(64), info, pruner.complete({})).stages
    assert [(s.site, s.keep, s.needs, s.positions) for s in stages] == [("encoder", 64, needs, "reindex")]
    adaptive = pruner.schedule(Budget(64), info, pruner.complete({"adaptive": True}))
    assert [stage.keep for stage in adaptive.stages] == [None]
    blind = PlanningInfo(576, 32, has_cls=False)
    for there, site in ((blind, "encoder"), (replace(blind, merges_patches=True, renumbers=False), "projector")):
        (stage,) = pruner.schedule(Budget(64), there, pruner.complete({})).stages
        assert (stage.site, stage.needs) == (site, (RECEIVED_ATTENTION, FULL_KEYS_LAST_LAYER))


# ------------------------------------------------------------------------------------------------- brute force


def cosine(a, b):
    length = math.sqrt(a @ a) * math.sqrt(b @ b)
    return (a @ b) / length if length > 0 else 0.0


def slow(x, keys, attention, centres, neighbours):
    """Merged centres and the summary, token by token in float64."""
    merged, closest = [], 1.0
    for c in centres:
        others = [j for j in range(len(x)) if j != c]
        near = {j: cosine(keys[c], keys[j]) for j in others}
        ranked = sorted(others, key=lambda j: (-near[j], j))
        if neighbours < len(ranked):
            closest = min(closest, near[ranked[neighbours - 1]] - near[ranked[neighbours]])
        merged.append(x[c] + sum(attention[j] * x[j] for j in ranked[:neighbours]))
    dropped = [j for j in range(len(x)) if j not in centres]
    return np.array(merged), sum(attention[j] * x[j] for j in dropped), closest


def slow_adaptive(attention, plus):
    """Centres in the official order, with numpy's percentile and Python's floats as in the released code."""
    n = len(attention)
    q1, q3 = np.percentile(attention, 25), np.percentile(attention, 75)
    count = max(sum(1 for a in attention if a > q3 + 1.5 * (q3 - q1)), 1)
    kept = sorted(range(n), key=lambda i: (-attention[i], i))[:count]
    if plus:
        step = int(int(1 / (count / n)) / 3) or 1
        kept += [i for i in range(0, n - 1, step) if i not in kept]
    return kept


@pytest.mark.parametrize("kind", ["gaussian", "duplicates", "zero rows", "nan"])
@pytest.mark.parametrize("plus", [False, True])
def test_against_brute_force(kind, plus):
    method, compared = (prumerge_plus if plus else prumerge), 0
    for seed in range(60):
        g = generator(seed)
        n, width = 3 + seed % 40, 2 + seed % 5
        x, keys = torch.randn(n, width, generator=g), torch.randn(n, 2 * width, generator=g)
        attention = torch.rand(n, generator=g).pow(6)
        attention = attention / attention.sum() * 0.9
        if kind == "duplicates":
            same = torch.randint(max(1, n // 3), (n,), generator=g)
            x, keys = x[same], keys[same]
        if kind == "zero rows":
            keys[torch.rand(n, generator=g) < 0.4] = 0.0
        if kind == "nan":
            x[torch.rand(n, generator=g) < 0.2, 0] = NAN
            keys[torch.rand(n, generator=g) < 0.1, 0] = NAN
        rows = [i for i in range(n) if x[i].isfinite().all() and keys[i].isfinite().all()]
        if len(rows) < 3:
            continue
        keep, neighbours = 2 + seed % (len(rows) - 2), (32, 3)[seed % 2]
        exact, exact_keys, shares = x[rows].double().numpy(), keys[rows].double().numpy(), attention[rows].numpy()
        for adaptive in (False, True):
            given = params("prumerge_plus", adaptive=adaptive, neighbours=neighbours, order="attention")
            select = method.select_adaptive if adaptive else method.select
            selection = select(signals(x, attention, keys), None if adaptive else keep, given, generator())
            kept = selection.kept.tolist()
            if adaptive:
                centres = slow_adaptive(shares, plus)
                official = selection.kept[selection.sequence[: len(kept)]].tolist()
                assert official == [rows[i] for i in centres]
                assert kept == sorted(official)
            else:
                centres = [rows.index(i) for i in kept]
                by_attention = max(int((keep - 1) * 0.25), 1) if plus else keep - 1
                best = sorted(range(len(rows)), key=lambda i: (-shares[i], i))[:by_attention]
                assert set(best) <= set(centres)
                assert len(centres) == keep - 1
            merged, summary, closest = slow(exact, exact_keys, shares.astype(float), sorted(centres), neighbours)
            if 0 < closest < 1e-6:
                continue  # rounding decides who is a neighbour
            if closest == 0 and kind == "duplicates":
                continue  # equal up to rounding, as duplicates do not always come out equal in a matrix product
            compared += 1
            assert np.allclose(selection.features.numpy(), merged, atol=1e-4)
            if len(centres) < len(rows):
                assert np.allclose(selection.extra.numpy(), summary, atol=1e-4)
            else:
                assert selection.extra is None
    assert compared > 40


def test_zero_tokens_do_not_disturb():
    selection = prumerge.select(signals(torch.zeros(8, 3), torch.full((8,), 0.1)), 4, params(), generator())
    assert selection.kept.tolist() == [0, 1, 2]
    assert torch.equal(selection.features, torch.zeros(3, 3))
