"""What each method keeps, on examples that can be checked on paper, and against brute force."""

import math

import pruner_references as slow
import pytest
import torch
from loops import each

from tokviz.pruners import divprune, fastervlm, fastv, get, todre
from tokviz.pruners.controls import select_random, select_uniform
from tokviz.types import Signals

NAN = math.nan
MIDDLE = {"phase": "middle"}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def directions(*degrees):
    """Unit vectors in the plane: the cosine of two of them is the cosine of the angle between."""
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1).float()


def gaussian(seed, n, width):
    return torch.randn(n, width, generator=generator(seed))


def cosine_distance(degrees):
    return 1 - math.cos(math.radians(degrees))


# ------------------------------------------------------------ controls


def test_random_is_fair():
    draws = torch.stack([select_random(Signals(torch.zeros(5, 1)), 2, {}, generator(s)).kept for s in range(500)])
    # Each of the 5 tokens is expected in 200 of 500 draws, standard deviation sqrt(500 * 0.4 * 0.6) = 11.
    assert all(150 < count < 250 for count in torch.bincount(draws.flatten(), minlength=5).tolist())


def test_uniform_on_a_4_by_4_raster():
    # 4 of 16: floor(16 (2i + 1) / 8) = 2, 6, 10, 14, one per row.
    # 5 of 16: floor(16 (2i + 1) / 10) = 1.6, 4.8, 8, 11.2, 14.4.
    assert select_uniform(Signals(torch.zeros(16, 1)), 4, MIDDLE, generator()).kept.tolist() == [2, 6, 10, 14]
    assert select_uniform(Signals(torch.zeros(16, 1)), 5, MIDDLE, generator()).kept.tolist() == [1, 4, 8, 11, 14]


def test_uniform_at_a_drawn_place_shifts_all_slices_alike():
    """4 of 10: places u, u + 2.5, ... with u below 2.5, so that over many seeds every token is kept as often as any."""
    kept = torch.stack(
        [select_uniform(Signals(torch.zeros(10, 1)), 4, {"phase": "drawn"}, generator(s)).kept for s in range(1000)]
    )
    shifts = {tuple(row) for row in kept.tolist()}
    # u = 0, 1/8, ..., 19/8: floor(u + 2.5 i) changes where u passes 0.5, 1, 1.5 and 2.
    assert shifts == {(0, 2, 5, 7), (0, 3, 5, 8), (1, 3, 6, 8), (1, 4, 6, 9), (2, 4, 7, 9)}
    counts = torch.bincount(kept.flatten(), minlength=10).tolist()
    assert all(330 < count < 470 for count in counts), counts  # 400 expected


# ------------------------------------------------------------ attention-ranked


def test_fastervlm_keeps_the_highest_cls_attention():
    attention = torch.tensor([0.1, 0.4, 0.1, 0.4])
    selection = fastervlm.select(Signals(torch.zeros(4, 2), cls_attention=attention), 3, {}, generator())
    assert selection.kept.tolist() == [0, 1, 3]  # 0 and 2 tie for the third place
    assert selection.diagnostics.facts == {"non_finite": 0, "ties_at_threshold": 2}
    assert torch.equal(selection.diagnostics.score.values, attention)
    assert selection.assignment is None
    assert selection.features is None


def test_fastervlm_never_keeps_a_row_that_is_no_patch():
    signals = Signals(
        torch.zeros(4, 2),
        cls_attention=torch.tensor([0.1, 0.2, NAN, 0.3]),
        candidates=torch.tensor([True, True, False, True]),
    )
    selection = fastervlm.select(signals, 3, {}, generator())
    assert selection.kept.tolist() == [0, 1, 3]
    assert selection.diagnostics.facts["non_finite"] == 0
    assert selection.diagnostics.warnings == ()


def test_infinite_attention_counts_as_the_finite_maximum_and_nan_is_last():
    signals = Signals(torch.zeros(5, 2), cls_attention=torch.tensor([0.1, 0.5, NAN, math.inf, 0.2]))
    assert fastervlm.select(signals, 1, {}, generator()).kept.tolist() == [1]
    selection = fastervlm.select(signals, 4, {}, generator())
    assert selection.kept.tolist() == [0, 1, 3, 4]
    assert selection.diagnostics.facts["non_finite"] == 2
    assert "2 of 5 tokens" in selection.diagnostics.warnings[0]


def test_no_finite_score_at_all_keeps_evenly_spaced_tokens_and_says_so():
    selection = fastervlm.select(Signals(torch.zeros(9, 2), cls_attention=torch.full((9,), NAN)), 3, {}, generator())
    assert selection.kept.tolist() == [1, 4, 7]
    assert "evenly spaced" in selection.diagnostics.warnings[0]


def test_fastv_keeps_what_the_last_row_attends_to():
    row = torch.tensor([[0.3, 0.0, 0.1, 0.2]])
    selection = fastv.select(Signals(torch.zeros(4, 2), attention_rows=row), 2, {}, generator())
    assert selection.kept.tolist() == [0, 3]
    several = torch.cat([torch.tensor([[0.0, 0.4, 0.4, 0.0]]), row])  # only the last of several rows counts
    assert fastv.select(Signals(torch.zeros(4, 2), attention_rows=several), 2, {}, generator()).kept.tolist() == [0, 3]
    candidates = torch.tensor([False, True, True, True])
    signals = Signals(torch.zeros(4, 2), attention_rows=row, candidates=candidates)
    assert fastv.select(signals, 2, {}, generator()).kept.tolist() == [0, 3]  # the whole span is ranked


def test_fastervlm_ranks_every_crop_by_itself():
    attention = torch.tensor([0.9, 0.8, 0.7, 0.1, 0.3, 0.2, 0.0])
    view = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    signals = Signals(torch.zeros(7, 2), cls_attention=attention, view=view)
    selection = fastervlm.select(signals, 5, {}, generator())
    assert selection.kept.tolist() == [0, 1, 2, 4, 5]
    assert selection.diagnostics.facts == {"non_finite": 0, "ties_at_threshold": 1, "kept_per_view": [3, 2]}
    # A token without a score stays only if the count cannot be met without it; its view's share goes to the other.
    signals = Signals(
        torch.zeros(4, 2), cls_attention=torch.tensor([0.9, 0.8, NAN, NAN]), view=torch.tensor([0, 0, 1, 1])
    )
    assert fastervlm.select(signals, 2, {}, generator()).kept.tolist() == [0, 1]
    assert fastervlm.select(signals, 3, {}, generator()).kept.tolist() == [0, 1, 2]


def test_fastv_shows_attention_over_position():
    row = torch.tensor([[0.25, 0.0, 0.125, 0.5]])
    chart = fastv.select(Signals(torch.zeros(4, 2), attention_rows=row), 2, {}, generator()).diagnostics.charts[0]
    assert (chart.x, chart.y, chart.tokens) == ([0, 1, 2, 3], [0.25, 0.0, 0.125, 0.5], [0, 1, 2, 3])
    assert chart.marked == [0, 3]


# ------------------------------------------------------------ DivPrune


def test_divprune_by_hand():
    # Nearest neighbours: 0-10 and 90-100 are 10 degrees apart; 200 is 100 away from the nearest, so it comes first.
    # Angles to 200: 160, 170, 110, 100 -> token 1 (10 degrees). To {200, 10}: 10, -, 80, 90 -> token 3 (100 degrees).
    signals = Signals(directions(0, 10, 90, 100, 200))
    selection = divprune.select(signals, 3, {}, generator())
    assert selection.kept.tolist() == [1, 3, 4]
    assert selection.order.tolist() == [-1, 1, -1, 2, 0]
    radius = pytest.approx(cosine_distance(10), abs=1e-6)
    assert selection.diagnostics.facts == {"first_pick": 4, "non_finite": 0, "coverage_radius": radius}
    chart = selection.diagnostics.charts[0]
    assert (chart.x, chart.tokens, chart.line) == ([2, 3], [1, 3], radius)
    assert chart.y == pytest.approx([cosine_distance(170), 1], abs=1e-6)
    to_kept = [cosine_distance(10), 0, cosine_distance(10), 0, 0]
    assert selection.diagnostics.maps[0].values.tolist() == pytest.approx(to_kept, abs=1e-6)
    # When picked: token 1 was 170 degrees from token 4, token 3 was 90 degrees from token 1; the first pick shares 170.
    when_picked = [cosine_distance(10), cosine_distance(170), cosine_distance(10), 1, cosine_distance(170)]
    assert selection.diagnostics.score.values.tolist() == pytest.approx(when_picked, abs=1e-6)


def test_divprune_does_not_repeat_duplicates_and_takes_newlines_like_any_other():
    duplicates = directions(0, 0, 0, 90)
    assert divprune.select(Signals(duplicates), 3, {}, generator()).kept.tolist() == [0, 1, 3]
    newline = torch.tensor([True, True, True, False])
    assert 3 in divprune.select(Signals(duplicates, candidates=newline), 1, {}, generator()).kept.tolist()


@each("seed", range(100))
def test_divprune_against_brute_force(seed):
    n, width = 3 + seed % 12, 3 + seed % 4
    x, keep = gaussian(seed, n, width), 1 + seed % (2 + seed % 12)
    selection = divprune.select(Signals(x), keep, {}, generator())
    picks = slow.divprune(x.double().numpy(), keep)
    assert selection.kept.tolist() == sorted(picks)
    assert [selection.order.tolist().index(step) for step in range(keep)] == picks


# ------------------------------------------------------------ ToDRE


V1 = get("todre").complete({})


def test_todre_v2_takes_what_is_far_from_all_kept_ones_together():
    # Pivot 0, then 170. Of 60 the cosine distances to both are 0.5 and 1.342, together 1.842, and the smaller one 0.5;
    # of 165 they are 1.966 and 0.004, together 1.970.
    signals = Signals(directions(60, 0, 170, 165), cls_attention=torch.tensor([0.1, 0.5, 0.2, 0.2]))
    assert todre.select_diverse(signals, 3, V1, generator()).kept.tolist() == [0, 1, 2]
    selection = todre.select_diverse(signals, 3, {**V1, "version": "v2"}, generator())
    assert selection.kept.tolist() == [1, 2, 3]
    assert selection.order.tolist() == [-1, 0, 1, 2]
    score = selection.diagnostics.score.values.tolist()
    assert score[2:] == pytest.approx([cosine_distance(170), 1.970 / 2], abs=1e-3)
    assert score[0] == pytest.approx((1.842 + cosine_distance(105)) / 3, abs=1e-3)


def test_todre_expands_from_the_pivot():
    # Pivot 90. Angles to it: 90, 80, -, 10, 110 -> token 4. Then min over {90, 200}: 90, 80, -, 10 -> token 0.
    attention = torch.tensor([0.1, 0.1, 0.5, 0.2, 0.1])
    signals = Signals(directions(0, 10, 90, 100, 200), cls_attention=attention)
    selection = todre.select_diverse(signals, 3, V1, generator())
    assert selection.kept.tolist() == [0, 2, 4]
    assert selection.order.tolist() == [2, -1, 0, -1, 1]
    assert selection.diagnostics.facts["pivot"] == 2
    assert selection.diagnostics.facts["pivot_rule"] == "highest [CLS] attention"
    assert selection.diagnostics.maps[0].values.tolist() == pytest.approx(
        [0, cosine_distance(10), 0, cosine_distance(10), 0], abs=1e-6
    )


def test_todre_ignores_length():
    long = directions(0, 10, 90, 100, 200) * torch.tensor([[1.0], [50.0], [3.0], [0.1], [7.0]])
    attention = torch.tensor([0.1, 0.1, 0.5, 0.2, 0.1])
    assert todre.select_diverse(Signals(long, cls_attention=attention), 3, V1, generator()).kept.tolist() == [0, 2, 4]


def test_todre_pivot_without_cls_attention():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]])
    received = Signals(x, received_attention=torch.tensor([0.2, 0.5, 0.3]))
    assert todre.select_diverse(received, 1, V1, generator()).kept.tolist() == [1]
    selection = todre.select_diverse(Signals(x), 1, V1, generator())
    assert selection.kept.tolist() == [2]  # the mean is (10/3, 10/3)
    assert selection.diagnostics.facts["pivot_rule"] == "farthest from the mean"


def test_todre_drops_rows_that_are_no_patch_even_below_its_count():
    candidates = torch.tensor([True, True, False, True, False])
    signals = Signals(directions(0, 10, 90, 100, 200), cls_attention=torch.rand(5), candidates=candidates)
    assert todre.select_diverse(signals, 4, V1, generator()).kept.tolist() == [0, 1, 3]
    assert todre.select_diverse(signals, 5, V1, generator()).kept.tolist() == [0, 1, 2, 3, 4]  # identity at N


def test_todre_takes_the_pivot_of_anyres_images_from_the_thumbnail():
    signals = Signals(
        directions(0, 10, 90),
        cls_attention=torch.tensor([0.1, 0.2, 0.7]),
        view=torch.tensor([0, 0, 1]),
    )
    assert todre.select_diverse_from_thumbnail(signals, 1, V1, generator()).kept.tolist() == [1]
    assert todre.select_diverse(signals, 1, V1, generator()).kept.tolist() == [2]


@each("seed", range(60))
def test_todre_against_brute_force(seed):
    n, width = 3 + seed % 12, 2 + seed % 5
    x, keep = gaussian(seed, n, width), 1 + seed % (2 + seed % 12)
    attention = torch.rand(n, generator=generator(seed))
    selection = todre.select_diverse(Signals(x, cls_attention=attention), keep, V1, generator())
    picks = slow.k_center(x.double().numpy(), keep, int(attention.argmax()))
    assert selection.kept.tolist() == sorted(picks)
    assert [selection.order.tolist().index(step) for step in range(keep)] == picks


@pytest.mark.parametrize(("tau", "kept"), [(0.05, []), (0.03125, [0, 1]), (0.03, [0, 1]), (0.0, [0, 1])])
def test_todre_withdraws_below_tau(tau, kept):
    # The two text rows spend 3/128 and 5/128 of their attention on the visual tokens: alpha = 1/32, exact in binary.
    rows = torch.tensor([[1.0, 2.0], [4.0, 1.0]]) / 128
    signals = Signals(torch.zeros(2, 3), attention_rows=rows)
    selection = todre.select_withdrawal(signals, None, {"tau": tau}, generator())
    assert selection.kept.tolist() == kept
    assert selection.diagnostics.facts == {
        "alpha_text_to_visual": 0.03125, "alpha_visual_to_text": 0.0, "tau": tau, "withdrawn": not kept
    }  # fmt: skip
    assert [(r.name, r.value, r.line) for r in selection.diagnostics.readings] == [
        ("alpha_text_to_visual", 0.03125, tau), ("alpha_visual_to_text", 0.0, tau)
    ]  # fmt: skip
    assert selection.diagnostics.maps[0].values.sum().item() == pytest.approx(0.03125)


def test_todre_keeps_everything_when_alpha_is_not_a_number_and_nothing_when_nothing_is_left():
    params = get("todre").complete({})
    for rows in (torch.full((2, 2), NAN), torch.empty(0, 2)):
        selection = todre.select_withdrawal(Signals(torch.zeros(2, 3), attention_rows=rows), None, params, generator())
        assert selection.kept.tolist() == [0, 1]
        assert "not a number" in selection.diagnostics.warnings[0]
    empty = todre.select_withdrawal(Signals(torch.zeros(0, 3)), None, params, generator())
    assert empty.kept.tolist() == []


def test_a_missing_signal_is_named():
    with pytest.raises(ValueError, match="cls_attention"):
        fastervlm.select(Signals(torch.zeros(3, 1)), 1, {}, generator())
    with pytest.raises(ValueError, match="attention_rows"):
        fastv.select(Signals(torch.zeros(3, 1)), 1, {}, generator())
