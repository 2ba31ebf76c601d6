"""AdaFV on scores that can be checked on paper, and against a slow reference."""

import math

import pytest
import torch
from loops import each

from tokviz.pruners import get
from tokviz.pruners.adafv import select, split, text_attention
from tokviz.types import CLS_ATTENTION, RECEIVED_ATTENTION, TEXT_FEATURES, Budget, PlanningInfo, Signals

NAN = math.nan


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def params(**given):
    return get("adafv").complete(given)


def facts(selection):
    return {name: selection.diagnostics.facts[name] for name in ("by_text", "by_attention", "by_both")}


def roles(selection):
    return next(m.values for m in selection.diagnostics.maps if m.name == "role").tolist()


# ------------------------------------------------------------------------------------------------- on paper


def test_the_split_of_what_is_not_sure():
    one, other = torch.tensor([0.5, 0.2, 0.2, 0.1, 0.0]), torch.tensor([0.1, 0.6, 0.0, 0.2, 0.1])
    # floor(4 / 4) = 1 each is sure. Two are left; the next of one: 0.2, 0.2; of the other 0.2, 0.1. Products: 0 with
    # none or two of one, 0.2 * 0.2 with one each.
    one, other = one.log(), other.log()
    found = split(one, other, 4, 0.25)
    assert (found.first, found.second) == (2, 2)
    assert torch.allclose(found.means, torch.tensor([0.0, 0.2, 0.0]))
    # With nothing sure: 0.5 * (0.6 + 0.2 + 0.1), 0.7 * 0.8, 0.9 * 0.6.
    found = split(one, other, 4, 0.0)
    assert (found.first, found.second) == (2, 2)
    assert torch.allclose(found.means.square(), torch.tensor([0.0, 0.45, 0.56, 0.54, 0.0]))
    assert (split(one, other, 4, 0.5).first, split(one, other, 4, 0.5).second) == (2, 2)


def test_of_equal_products_the_one_with_less_text():
    even = torch.full((6,), 0.1).log()
    assert [split(even, even, keep, 0.25).first for keep in (1, 2, 3, 4, 5, 6)] == [0, 1, 1, 2, 2, 3]


# Directions in the plane; the text is at 0 degrees and 90 degrees. 100 cosines make nearly a maximum of the softmax.
FEATURES = [[1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [1.0, 0.9], [-1.0, 0.0], [0.0, -1.0]]
TEXT = [[3.0, 0.0], [0.0, 1.0]]
ATTENTION = [0.3, 0.0, 0.0, 0.1, 0.25, 0.2]


def signals(features=FEATURES, text=TEXT, attention=ATTENTION, **more):
    tensors = (torch.as_tensor(values) for values in (features, text, attention))
    return Signals(**dict(zip(("features", "text_features", "cls_attention"), tensors, strict=True)), **more)


def test_text_first_then_the_best_of_the_others_by_attention():
    found = select(signals(), 4, params(), generator())
    # Sure: 0 (or 1) by text and 0 by the tower. What is left for text is tiny, so both products are of one each:
    # text has 0 and 1, the tower 0 (taken), 4: its next is 5.
    assert facts(found) == {"by_text": 2, "by_attention": 2, "by_both": 1}
    assert found.kept.tolist() == [0, 1, 4, 5]
    assert roles(found) == [3, 2, 0, 0, 1, 1]
    assert found.diagnostics.text.chosen.tolist() == [True, True]


def test_attention_of_text_is_a_share_of_the_image():
    patches, text = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[5.0, 0.0]])
    expected = torch.tensor([[100.0, 60.0]]).softmax(1)
    assert torch.allclose(text_attention(patches, text).sigmoid(), expected)


def test_shares_that_round_to_one_or_nothing_are_still_ranked():
    # Logits 100, 60, -100: the largest share is 1 - exp(-40), the smallest exp(-200).
    patches = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]])
    odds = text_attention(patches, torch.tensor([[1.0, 0.0]]))
    assert torch.allclose(odds, torch.tensor([[40.0, -40.0, -200.0]]))


def test_without_text_the_tower_decides():
    found = select(signals(text=[[NAN, 0.0]]), 3, params(share=0.0), generator())
    assert found.kept.tolist() == [0, 4, 5] and facts(found)["by_text"] == 0


def test_broken_patches_and_rows_that_are_no_patch():
    made = signals(attention=[0.3, NAN, 0.0, 0.1, 0.25, 0.2], candidates=torch.tensor([True] * 5 + [False]))
    found = select(made, 4, params(), generator())
    assert found.kept.tolist() == [0, 2, 3, 4] and found.diagnostics.facts["non_finite"] == 1


def test_the_stage():
    for info, needs in (
        (PlanningInfo(576, 32), (TEXT_FEATURES, CLS_ATTENTION)),
        (PlanningInfo(576, 28, "qwen2_vl", has_cls=False, renumbers=False), (TEXT_FEATURES, RECEIVED_ATTENTION)),
    ):
        stages = get("adav").schedule(Budget(64), info, params()).stages
        assert [(s.site, s.keep, s.needs) for s in stages] == [("projector", 64, needs)]


# ------------------------------------------------------------------------------------------------- brute force


def slow(features, text, attention, keep, share):
    """Kept tokens, from lists."""
    n = len(features)
    like = [0.0] * n
    for word in text:
        cosines = [float(word @ patch / (word.norm() * patch.norm())) for patch in features]
        powers = [math.exp(100 * (cosine - max(cosines))) for cosine in cosines]
        like = [max(old, power / sum(powers)) for old, power in zip(like, powers, strict=True)]
    by_text = sorted(range(n), key=lambda i: (-like[i], i))
    by_tower = sorted(range(n), key=lambda i: (-float(attention[i]), i))
    base = int(keep * share)
    left, best = keep - 2 * base, (-1.0, 0)
    for first in range(left + 1):
        one = sum(like[i] for i in by_text[base : base + first])
        other = sum(float(attention[i]) for i in by_tower[base : base + left - first])
        best = max(best, (one * other, -first))
    first = base - best[1]
    picked = by_text[:first]
    return sorted(picked + [i for i in by_tower if i not in picked][: keep - first])


@each("seed", range(40))
def test_against_lists(seed):
    g = generator(seed)
    n, words = int(torch.randint(2, 60, (1,), generator=g)), int(torch.randint(1, 5, (1,), generator=g))
    # Around one direction, so that no share is 1 to float32.
    features, text = (4 + torch.randn(count, 9, generator=g, dtype=torch.float64) for count in (n, words))
    attention = torch.randn(n, generator=g).mul(2).softmax(0)
    keep, share = int(torch.randint(1, n, (1,), generator=g)), (0.0, 0.25, 0.4, 0.5)[seed % 4]
    found = select(signals(features, text, attention), keep, params(share=share), g)
    assert found.kept.tolist() == slow(features, text, attention, keep, share)


def test_every_view_is_ranked_with_the_others():
    g = generator(3)
    made = signals(torch.randn(12, 5, generator=g), torch.randn(3, 5, generator=g), torch.rand(12, generator=g))
    apart = signals(made.features, made.text_features, made.cls_attention, view=torch.arange(12) // 4)
    assert torch.equal(select(made, 5, params(), g).kept, select(apart, 5, params(), g).kept)


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_equal_patches_stay_in_order(keep):
    made = signals(torch.ones(4, 3), torch.ones(2, 3), torch.full((4,), 0.25))
    assert select(made, keep, params(), generator()).kept.tolist() == list(range(keep))
