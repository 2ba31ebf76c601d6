"""IVC-Prune on tokens that can be checked on paper, and against a slow reference."""

import math

import pytest
import torch
from loops import each

from tokviz.errors import BadInput
from tokviz.pruners import get
from tokviz.pruners.ivcprune import SELECTS, likeness
from tokviz.types import ROTARY_MEANS, VALUES, Budget, PlanningInfo, Signals

NAN = math.nan
QWEN = PlanningInfo(576, 28, "qwen2_5_vl", has_cls=False, merges_patches=True, renumbers=False, published_as="qwen")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def params(**given):
    return get("ivcprune").complete(given)


def signals(values, text, other, means):
    values = torch.as_tensor(values)
    return Signals(
        torch.ones(len(values), 2),
        values=values,
        text_values=torch.as_tensor(text),
        other_values=torch.as_tensor(other).reshape(-1, *values.shape[1:]),
        rotary_means=torch.as_tensor(means),
    )


def roles(selection):
    return next(m.values for m in selection.diagnostics.maps if m.name == "role").tolist()


# ------------------------------------------------------------------------------------------------- on paper

# One head of width 1. The question (after two tokens that ask nothing) has value 1: token 5 is most like it, then 4.
VALUES_OF = [[[0.0]], [[0.5]], [[-1.0]], [[1.0]], [[2.0]], [[4.0]], [[-2.0]], [[-4.0]]]
TEXT = [[[-9.0]], [[-9.0]], [[1.0]]]
MEANS = [[0.9, 0.1], [0.8, 0.2], [0.7, 0.9], [0.1, 0.8], [0.0, 0.0], [0.2, 0.3], [0.3, 0.4], [0.4, 0.5]]


def test_coordinates_then_seeds_then_what_is_like_them():
    made = signals(VALUES_OF, TEXT, [[[0.0]]], MEANS)
    found = SELECTS["image"](made, 5, params(), generator())
    # round(0.2 * 5) = 1 by cosine (0) and 1 by sine (2); max(1, round(0.08)) = 1 seed (5); then 4 and 3 are next.
    assert found.kept.tolist() == [0, 2, 3, 4, 5]
    assert roles(found) == [4, 0, 3, 1, 1, 2, 0, 0]
    assert found.diagnostics.facts == {
        "coordinates_by_cosine": 1, "coordinates_by_sine": 1, "seeds": 1, "foreground": 2, "non_finite": 0,
    }  # fmt: skip
    assert found.diagnostics.text.chosen.tolist() == [False, False, True]


def test_without_coordinates_the_question_decides_alone():
    made = signals(VALUES_OF, TEXT, [[[0.0]]], MEANS)
    assert SELECTS["image"](made, 3, params(coordinates=0.0), generator()).kept.tolist() == [3, 4, 5]


def test_half_by_cosine_and_half_by_sine_leave_nothing_else():
    made = signals(VALUES_OF, TEXT, [[[0.0]]], MEANS)
    found = SELECTS["image"](made, 4, params(coordinates=0.5), generator())
    assert found.kept.tolist() == [0, 1, 2, 3] and roles(found) == [4, 4, 3, 3, 0, 0, 0, 0]


def test_likeness_is_a_share_of_the_image_or_of_the_whole_prompt():
    # Logits 0 and ln 3 for the keys, ln 4 for a third token: shares 1/4 and 3/4, or 1/8, 3/8 (and 4/8 elsewhere).
    asking, keys = torch.tensor([[[1.0]]]), torch.tensor([[[0.0]], [[math.log(3)]]])
    assert torch.allclose(likeness(asking, keys, None), torch.tensor([[0.25, 0.75]]))
    assert torch.allclose(likeness(asking, keys, torch.tensor([[[math.log(4)]]])), torch.tensor([[0.125, 0.375]]))


def test_heads_are_softened_each_by_itself_and_scaled_by_the_root_of_their_width():
    asking = torch.tensor([[[1.0, 0, 0, 0], [0, 2.0, 0, 0]]])  # two heads of width 4
    keys = torch.tensor([[[0.0] * 4, [0.0, 0, 9, 0]], [[2 * math.log(3), 0, 0, 0], [0.0, math.log(7), 0, 0]]])
    # Head 1: logits 0 and ln 3, head 2: 0 and ln 7.
    expected = torch.tensor([[(1 / 4 + 1 / 8) / 2, (3 / 4 + 7 / 8) / 2]])
    assert torch.allclose(likeness(asking, keys, None), expected)


def test_a_seed_asks_beside_the_question():
    """Tokens 1 and 2 are as like the question; token 2 is like the seed (0)."""
    values = [[[2.0, 1.0]], [[1.0, -1.0]], [[1.0, 1.0]], [[0.0, 0.0]]]
    made = signals(values, [[[0.0, 0.0]], [[0.0, 0.0]], [[1.0, 0.0]]], [[[0.0, 0.0]]], [[0.0, 0.0]] * 4)
    assert SELECTS["image"](made, 2, params(coordinates=0.0), generator()).kept.tolist() == [0, 2]


def test_short_texts_ask_as_a_whole_and_silent_ones_leave_the_first():
    made = signals(VALUES_OF, [[[1.0]]], [[[0.0]]], MEANS)
    assert SELECTS["image"](made, 2, params(coordinates=0.0), generator()).kept.tolist() == [4, 5]
    silent = signals(VALUES_OF, [[[NAN]]] * 3, [[[0.0]]], MEANS)
    assert SELECTS["image"](silent, 2, params(coordinates=0.0), generator()).kept.tolist() == [
        0,
        1,
    ]  # whose value 0 likes all alike


def test_ties_go_to_the_lowest_index_and_broken_rows_take_no_part():
    values = torch.ones(6, 2, 3)
    values[1, 0, 0], means = NAN, torch.zeros(6, 2)
    means[4, 0] = NAN
    made = signals(values, torch.ones(4, 2, 3), torch.ones(2, 2, 3), means)
    for over in SELECTS:
        found = SELECTS[over](made, 3, params(), generator())
        assert found.kept.tolist() == [0, 2, 3] and found.diagnostics.facts["non_finite"] == 2


# ------------------------------------------------------------------------------------------------- the plan


def planned(info, **given):
    schedule = get("ivcprune").schedule(Budget(144), info, params(**given))
    return [(s.site, s.keep, s.needs, s.positions, s.cuts_cache, s.select) for s in schedule.stages]


def test_the_stage():
    needs = (VALUES, ROTARY_MEANS)
    assert planned(PlanningInfo(576, 32)) == [(16, 144, needs, "keep", True, SELECTS["prompt"])]
    assert planned(QWEN) == [(16, 144, needs, "keep", True, SELECTS["image"])]
    assert planned(QWEN, similarity="prompt", cut_cache=False) == [(16, 144, needs, "keep", False, SELECTS["prompt"])]
    assert planned(PlanningInfo(576, 32), similarity="image", layer=3)[0][::5] == (3, SELECTS["image"])


@each("published", [(32, 16), (28, 16), (36, 22), (40, 20), (8, 4), (2, 1)])
def test_the_layer(published):
    depth, site = published
    assert planned(PlanningInfo(576, depth))[0][0] == site


def test_layers_that_do_not_exist_are_refused():
    with pytest.raises(BadInput, match="between 1 and 7 for a model of 8 layers, not 8"):
        planned(PlanningInfo(576, 8), layer=8)
    with pytest.raises(BadInput, match="single one"):
        planned(PlanningInfo(576, 1))


# ------------------------------------------------------------------------------------------------- brute force


def slow(values, text, other, means, keep, share, over_image):
    """Kept tokens, from lists, as the released code for Qwen does it."""
    n, heads, width = values.shape
    everything = [*values, *([] if over_image else [*other, *text])]

    def shares(asking):
        total = [0.0] * n
        for head in range(heads):
            logits = [float(asking[head] @ token[head]) / math.sqrt(width) for token in everything]
            top = max(logits)
            powers = [math.exp(logit - top) for logit in logits]
            total = [t + p / sum(powers) / heads for t, p in zip(total, powers, strict=False)]
        return total

    def ranked(scores):
        return sorted(range(n), key=lambda i: (-float(scores[i]), i))

    rows = [shares(token) for token in text[2:]]
    seeds = ranked([sum(column) for column in zip(*rows, strict=True)])[: max(1, round(0.01 * n))]
    rows += [shares(values[seed]) for seed in seeds]
    relevance = [sum(column) for column in zip(*rows, strict=True)]
    count = round(share * keep)
    kept = [*ranked(means[:, 0])[:count], *ranked(means[:, 1])[:count], *seeds]
    kept = list(dict.fromkeys(kept))[:keep]
    kept += [token for token in ranked(relevance) if token not in kept][: keep - len(kept)]
    return sorted(kept)


@each("seed", range(40))
@pytest.mark.parametrize("over", SELECTS)
def test_against_lists(over, seed):
    g = generator(seed)
    ranges = ((3, 130), (1, 4), (3, 6), (0, 5))
    n, heads, text, other = (int(torch.randint(*ends, (1,), generator=g)) for ends in ranges)
    values, spoken, before = (torch.randn(k, heads, 5, generator=g, dtype=torch.float64) for k in (n, text, other))
    means = torch.rand(n, 2, generator=g)
    keep, share = int(torch.randint(1, n, (1,), generator=g)), (0.0, 0.1, 0.2, 1 / 6, 0.5)[seed % 5]
    found = SELECTS[over](signals(values, spoken, before, means), keep, params(coordinates=share), g)
    assert found.kept.tolist() == slow(values, spoken, before, means, keep, share, over == "image")
