"""A number that a refusal recommends is accepted, and is the smallest one that is: tried one by one."""

import re

import pytest

from tokviz.errors import BadInput
from tokviz.pruners import PRUNERS, get
from tokviz.types import Budget, PlanningInfo

MEANINGS = ("published", "final", "average")
SETTINGS = [
    ("polymorphic", {"stage_1": False}), ("polymorphic", {"factor": 4.0}), ("polymorphic", {"factor": 3.0}),
    ("sparsevlm", {"version": "plus"}), ("pdrop", {"layers": "8-16-24"}), ("v2drop", {"mode": "official"}),
    ("fastv", {"layer": 1}), *((pruner.id, {}) for pruner in PRUNERS),
]  # fmt: skip
INFOS = [
    PlanningInfo(n * views, layers, n_views=views, has_tiles=views > 1, n_vision_layers=min(23, layers))
    for layers in (1, 2, 3, 8, 28, 32)
    for n, views in ((1, 1), (18, 1), (144 if layers in (3, 8, 32) else 49, 1), (5, 3))
]


def refusal(pruner, params, info, counted_as, tokens):
    try:
        pruner.schedule(Budget(tokens, counted_as), info, params)
    except BadInput as error:
        return str(error)
    return None


@pytest.mark.parametrize(("method", "given"), SETTINGS)
def test_what_a_refusal_recommends_is_accepted_and_the_smallest(method, given):
    pruner = get(method)
    params = pruner.complete(given)
    for info in INFOS:
        if pruner.missing(info) is not None:
            continue
        for counted_as in MEANINGS:
            said = [refusal(pruner, params, info, counted_as, tokens) for tokens in range(1, info.n_visual + 1)]
            for tokens, sentence in enumerate(said, 1):
                if sentence is not None:
                    where = f"{info.n_visual} tokens, {info.n_layers} layers, {counted_as} {tokens}: {sentence}"
                    check(pruner, params, info, tokens, sentence, said, where)


def check(pruner, params, info, tokens, sentence, said, where):
    accepted = [number for number, refused in enumerate(said, 1) if refused is None]
    ranged = re.search(r"allow (\d+) to (\d+)", sentence)
    asked = re.search(r"[Aa]sk for (at least )?(\d+)", sentence)
    if ranged:
        low, high = map(int, ranged.groups())
        assert low in accepted and high in accepted and not low <= tokens <= high, where
        below = [number for number in accepted if number < low]  # the paper prints ratios for these shares
        assert all(number * 576 in (192 * info.n_visual, 128 * info.n_visual, 64 * info.n_visual) for number in below)
    elif asked:
        number = int(asked[2])
        assert number in accepted, where
        assert not asked[1] or number == min(more for more in accepted if more > tokens), where
    else:
        assert (
            "single" in sentence or "layer must lie between" in sentence or "no visual token at the end" in sentence
        ), where
    if "count the budget as final" in sentence:
        assert refusal(pruner, params, info, "final", tokens) is None, where
    if "count the budget as published" in sentence:
        assert refusal(pruner, params, info, "published", tokens) is None, where


@pytest.mark.parametrize(("info", "tokens"), [(PlanningInfo(144, 32), 12), (PlanningInfo(768, 32), 73),
                                              (PlanningInfo(765, 32), 72), (PlanningInfo(768, 28), 73)])  # fmt: skip
def test_polymorphic_without_its_first_stage_names_the_budget_that_works(info, tokens):
    pruner = get("polymorphic")
    params = pruner.complete({"stage_1": False})
    sentence = refusal(pruner, params, info, "average", tokens)
    found = int(re.search(r"Switch stage 1 on, or ask for at least (\d+)\.$", sentence)[1])
    assert refusal(pruner, params, info, "average", found) is None
    assert all(refusal(pruner, params, info, "average", less) for less in range(1, found))
