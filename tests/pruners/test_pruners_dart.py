"""DART on an example that can be checked on paper, its schedule, and against a slow pivot-by-pivot reference."""

import math

import pytest
import torch

from tokviz.errors import BadInput
from tokviz.pruners import get
from tokviz.pruners.dart import least_duplicated, released_order, select
from tokviz.types import KEY_NORMS, NORMED_FEATURES, Budget, PlanningInfo, Signals

NAN = math.nan
LLAVA_7B = PlanningInfo(n_visual=576, n_layers=32)
TINY = PlanningInfo(n_visual=144, n_layers=8)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def params(**given):
    return get("dart").complete(given)


def directions(*degrees):
    angles = torch.tensor([float(d) for d in degrees]).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], 1)


def signals(features, norms, text, text_norms, start=35):
    places = torch.arange(len(features) + len(text)) + start
    return Signals(
        sequence_index=places[: len(features)],
        text_index=places[len(features) :],
        features=torch.zeros(len(features), 3),
        key_norms=torch.as_tensor(norms, dtype=torch.float32),
        text_key_norms=torch.as_tensor(text_norms, dtype=torch.float32),
        normed_features=features,
        normed_text=text,
    )


def picks_of(selection):
    order = selection.order.tolist()
    return [order.index(step) for step in range(max(order) + 1)]


def values(selection, name):
    return next(token_map.values for token_map in selection.diagnostics.maps if token_map.name == name).tolist()


# ------------------------------------------------------------------------------------------------- on paper

# Six tokens by direction in degrees, and two text tokens at 90 and 270.
SIX = directions(0, 10, 170, 100, 200, 260)
NORMS = [9, 1, 8, 2, 3, 4]
TEXT = directions(90, 270)


def test_each_pivot_takes_what_duplicates_it_least():
    given = params(visual_pivots=1, text_pivots=1)
    selection = select(signals(SIX, NORMS, TEXT, [5, 6]), 4, given, generator())
    # Visual pivot: token 0, at 0 degrees. Three to pick, two for it: 170 (token 2), then 200 (token 4). Text pivot: 270
    # degrees (norm 6); the farthest from it that is left is 100 (token 3), not 10.
    assert picks_of(selection) == [0, 2, 4, 3]
    assert selection.kept.tolist() == [0, 2, 3, 4]
    assert values(selection, "pivot") == pytest.approx([1, NAN, 1, 2, 1, NAN], nan_ok=True)
    # Token 1 is 10 degrees from pivot 0 and 100 from the text; token 5 is 100 from pivot 0 and 10 from the text.
    expected = [NAN, *(1 - math.cos(math.radians(degrees)) for degrees in (100, 170, 170, 160, 100))]
    assert selection.diagnostics.score.values.tolist() == pytest.approx(expected, nan_ok=True, abs=1e-6)
    assert selection.diagnostics.text.chosen.tolist() == [False, True]
    assert selection.diagnostics.text.values.tolist() == [5, 6]
    assert selection.diagnostics.facts == {"visual_pivots": [0], "text_pivots": [1], "non_finite": 0}


def test_pivots_choose_in_order_of_their_norm_and_the_visual_ones_first():
    given = params(visual_pivots=2, text_pivots=2)
    selection = select(signals(SIX, NORMS, TEXT, [5, 6]), 6 - 1, given, generator())
    # Pivots: 0 (0 degrees), 2 (170), text at 270, text at 90. Three picks, one each: 0 takes 200; 2 takes 10 (160
    # away); the text at 270 takes 100; nothing is left for the text at 90.
    assert picks_of(selection) == [0, 2, 4, 1, 3]
    assert selection.diagnostics.facts["text_pivots"] == [1, 0]


def test_the_released_order_is_that_of_a_set_of_places():
    # Four numbers in a table of 8 slots, by their remainders: 35 is 3, 70 is 6, 33 is 1, 64 is 0.
    assert released_order(torch.tensor([35, 70, 33, 64])).tolist() == [3, 2, 0, 1]
    # Eight numbers in a table of 32: 64 is 0, 33 is 1, 130 is 2, 35 is 3, 70 is 6, 40 is 8, 300 is 12, 31 is 31.
    assert released_order(torch.tensor([31, 40, 300, 130, 35, 70, 33, 64])).tolist() == [7, 6, 3, 4, 5, 1, 2, 0]


def test_in_the_released_order_a_text_pivot_may_choose_first():
    # As above, but the image begins at place 2: pivots stand at 2 (0 degrees), 4 (170), 9 (270) and 8 (90), and a set
    # of them is 8, 9, 2, 4. 90 takes 260; 270 takes 100; 0 takes 200; nothing is left for 170 to take.
    given = params(visual_pivots=2, text_pivots=2, order="released")
    selection = select(signals(SIX, NORMS, TEXT, [5, 6], start=2), 6 - 1, given, generator())
    assert picks_of(selection) == [0, 2, 5, 3, 4]
    assert values(selection, "pivot") == pytest.approx([1, NAN, 2, 3, 1, 4], nan_ok=True)


@pytest.mark.parametrize(("keep", "kept"), [(1, [0]), (2, [0, 2]), (3, [0, 2, 5])])
def test_a_budget_up_to_the_pivots_keeps_pivots(keep, kept):
    selection = select(signals(SIX, NORMS, TEXT, [5, 6]), keep, params(), generator())
    assert selection.kept.tolist() == kept


def test_fewer_text_tokens_make_fewer_pivots():
    for text in (TEXT, TEXT[:0]):
        selection = select(signals(SIX, NORMS, text, [5.0, 6.0][: len(text)]), 5, params(), generator())
        assert len(selection.diagnostics.facts["text_pivots"]) == len(text)
        assert len(selection.kept) == 5


def test_tokens_and_text_that_are_not_finite_are_neither_pivots_nor_picked():
    x = torch.cat([SIX, torch.full((1, 2), NAN)])
    text = torch.cat([TEXT, torch.full((1, 2), NAN)])
    selection = select(signals(x, [*NORMS, 99], text, [5, NAN, 99]), 5, params(), generator())
    assert selection.diagnostics.facts == {"visual_pivots": [0, 2, 5, 4], "text_pivots": [0], "non_finite": 1}
    assert 6 not in selection.kept.tolist()
    assert "1 of 7 tokens" in selection.diagnostics.warnings[0]


def test_ties_go_to_the_lowest_index():
    found = least_duplicated(torch.eye(4)[[0, 1, 1, 2, 3]], torch.eye(4)[:1], torch.arange(1, 5), 2)
    assert found.picks.tolist() == [1, 2]


# ------------------------------------------------------------------------------------------------- schedule


def plan(tokens, counted_as="published", info=LLAVA_7B, **given):
    return get("dart").schedule(Budget(tokens, counted_as), info, params(**given)).stages


@pytest.mark.parametrize(
    ("tokens", "kept"), [(192, 196), (128, 132), (64, 68), (100, 4 + 8 * 12), (7, 4), (8, 12), (575, 4 + 8 * 71)]
)
def test_the_official_count(tokens, kept):
    (stage,) = plan(tokens, count="official")
    assert (stage.site, stage.keep, stage.needs, stage.positions) == (2, kept, (KEY_NORMS, NORMED_FEATURES), "keep")
    assert [stage.keep for stage in plan(tokens, "final", count="official")] == [tokens]
    assert [stage.keep for stage in plan(tokens)] == [tokens]


def test_a_budget_above_everything_changes_nothing_in_either_count():
    assert plan(576, count="official")[0].keep == 576


def test_the_average():
    assert [plan(tokens, "average")[0].keep for tokens in (192, 128, 64)] == [166, 98, 30]
    with pytest.raises(BadInput, match="DART cannot reach an average of 30"):
        plan(30, "average")


@pytest.mark.parametrize(("layers", "layer"), [(32, 2), (40, 2), (28, 2), (8, 1), (24, 1), (48, 3), (2, 1)])
def test_the_layer(layers, layer):
    assert plan(64, info=PlanningInfo(576, layers))[0].site == layer


def test_a_layer_that_is_asked_for():
    found = get("dart").schedule(Budget(64, "published"), PlanningInfo(576, 8), get("dart").complete({"layer": 5}))
    assert [stage.site for stage in found.stages] == [5]
    with pytest.raises(BadInput, match="DART's layer must lie between 1 and 7 for a model of 8 layers, not 8"):
        get("dart").schedule(Budget(64, "published"), PlanningInfo(576, 8), get("dart").complete({"layer": 8}))


def test_a_model_of_one_layer_is_refused():
    with pytest.raises(BadInput, match=r"keys of one layer.* single one"):
        plan(64, info=PlanningInfo(576, 1))


# ------------------------------------------------------------------------------------------------- brute force


def cosine(a, b):
    """Of two lists, term by term: the sums of a library may round equal rows differently, and ties would be lost."""
    product = sum(p * q for p, q in zip(a, b, strict=True))
    length = math.sqrt(sum(p * p for p in a)) * math.sqrt(sum(q * q for q in b))
    return product / length if length else 0.0


def slow(x, norms, text, text_norms, keep):
    """Kept tokens in the order of picking, single rows and float64; and how close the closest
    decision was that is no tie."""
    x, text = x.tolist(), text.tolist()
    visual = sorted(range(len(x)), key=lambda i: (-norms[i], i))[: min(4, keep)]
    words = sorted(range(len(text)), key=lambda i: (-text_norms[i], i))[:4]
    pivots = [x[i] for i in visual] + [text[i] for i in words]
    pool = [i for i in range(len(x)) if i not in visual]
    to_pick, kept, margin = keep - len(visual), list(visual), 1.0
    for number, pivot in enumerate(pivots):
        quota = to_pick // len(pivots) + (1 if number < to_pick % len(pivots) else 0)
        similar = {i: cosine(pivot, x[i]) for i in pool}
        ranked = sorted(pool, key=lambda i: (similar[i], i))
        if 0 < quota < len(ranked):
            gap = similar[ranked[quota]] - similar[ranked[quota - 1]]
            margin = min(margin, gap) if gap else margin  # an exact tie is no question of rounding
        kept += ranked[:quota]
        pool = [i for i in pool if i not in ranked[:quota]]
    return kept, margin


@pytest.mark.parametrize("kind", ["gaussian", "duplicates", "zero rows", "nan", "constant"])
def test_against_brute_force(kind):
    compared = 0
    for seed in range(80):
        g = generator(seed)
        n, width, m = 3 + seed % 40, 2 + seed % 6, 1 + seed % 6
        x, text = torch.randn(n, width, generator=g), torch.randn(m, width, generator=g)
        norms, text_norms = torch.rand(n, generator=g), torch.rand(m, generator=g)
        if kind == "duplicates":
            x = x[torch.randint(max(1, n // 2), (n,), generator=g)]
        if kind == "zero rows":
            x[torch.rand(n, generator=g) < 0.4] = 0.0
        if kind == "nan":
            x[torch.rand(n, generator=g) < 0.3, 0] = NAN
        if kind == "constant":
            x, norms = torch.ones(n, width), torch.ones(n)
        keep = 1 + seed % (n - 1)
        selection = select(signals(x, norms, text, text_norms), keep, params(), generator())
        assert len(selection.kept) == keep
        rows = [i for i in range(n) if x[i].isfinite().all()]
        if len(rows) <= keep:
            assert set(rows) <= set(selection.kept.tolist())
            continue
        kept, margin = slow(x[rows], norms[rows].tolist(), text, text_norms.tolist(), keep)
        if margin < 1e-6:
            continue  # rounding decides
        compared += 1
        assert selection.kept.tolist() == sorted(rows[i] for i in kept)
        assert set(picks_of(selection)[: min(4, keep)]) == {rows[i] for i in kept[:4]}
    assert compared > 30
