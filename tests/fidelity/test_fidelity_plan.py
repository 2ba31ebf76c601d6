"""What a benchmark asks for."""

import pytest

from benchmarks.fidelity import positions
from benchmarks.fidelity.ablations import minings
from benchmarks.fidelity.plan import (
    Mining,
    fidelity_minings,
    judged_budget,
    parse_budgets,
    parse_methods,
    possible,
    tried_layers,
    where,
)
from tokviz.errors import BadInput
from tokviz.pruners import get
from tokviz.types import Budget, PlanningInfo

TINY = PlanningInfo(n_visual=576, n_layers=8, n_vision_layers=5)


@pytest.mark.parametrize(
    ("text", "n_visual", "budgets"),
    [
        (None, 576, (192, 128, 64, 32)),
        (None, 144, (48, 32, 16, 8)),
        (None, 1, (1,)),
        ("64, 192,64", 576, (192, 64)),
        ("33%,100%", 576, (576, 190)),
    ],
)
def test_budgets(text, n_visual, budgets):
    assert parse_budgets(text, n_visual) == budgets


@pytest.mark.parametrize("text", ["0", "577", "few", "", "nan%", "inf%", "101%", "1e2"])
def test_what_is_no_budget(text):
    with pytest.raises(BadInput, match="budget"):
        parse_budgets(text, 576)


def test_methods_are_ranked_at_64_of_576():
    assert judged_budget([192, 64, 32], 576) == 64 and judged_budget([16, 48], 144) == 16
    assert judged_budget([192, 100], 576) == 100


def test_the_controls_always_run():
    assert set(parse_methods("apet")) == {"random", "uniform", "downsample", "pool", "oracle", "apet"}
    assert "full" not in parse_methods("all") and {"evs", "random_at", "vtw"} <= set(parse_methods("all"))
    for text in ("nonsense", ",", "apet,nonsense"):
        with pytest.raises(BadInput):
            parse_methods(text)


def test_layers_have_a_run_of_their_own_where_a_method_inside_was_asked_for():
    main, layers = fidelity_minings(["random", "apet", "fastv"], (192, 64), TINY, True)
    assert main.methods == (("random", {}), ("apet", {}), ("fastv", {}), ("uniform", {"phase": "drawn"}))
    assert (main.name, main.budgets) == ("methods", (192, 64))
    assert layers.budgets == (64,) and len(layers.methods) == 2 * 7
    assert layers.methods[0] == ("random_at", {"layer": 1})
    assert len(fidelity_minings(["apet"], (64,), TINY, True)) == 1
    assert len(fidelity_minings(["fastv"], (64,), TINY, False)) == 1
    assert tried_layers(8) == [1, 2, 3, 4, 5, 6, 7] and tried_layers(2) == [1]
    assert len(tried_layers(32)) == 10 and tried_layers(32)[-1] <= 31


def test_what_the_model_does_not_allow_is_told():
    asked = Mining("methods", (("evs", {}), ("apet", {}), ("pdrop", {})), (192, 32))
    kept, left_out = possible(asked, TINY)
    assert [method for method, _ in kept.methods] == ["apet", "pdrop"]
    assert [(each["label"], each["budget"]) for each in left_out] == [("EVS", None), ("PDrop", 32)]
    assert "frames of a video" in left_out[0]["why"] and "average of 32" in left_out[1]["why"]


@pytest.mark.parametrize(
    ("method", "budget", "sites"),
    [
        ("apet", 64, "encoder, layer 4"),
        ("pdrop", 192, "layers 2/4/6"),
        ("tome", 64, "vision layers 0-4"),
        ("pdrop", 32, ""),
        ("random", 64, "projector"),
    ],
)
def test_sites_in_a_few_words(method, budget, sites):
    assert where(method, {}, budget, TINY) == sites


def test_the_ablations_are_mined_once_for_every_budget():
    found = {mining.name: mining for mining in minings()}
    assert set(found) == {"at-64", "at-128"} and found["at-64"].budgets == (64,)
    for mining in found.values():
        complete = [(id, tuple(sorted(get(id).complete(params).items()))) for id, params in mining.methods]
        assert len(set(complete)) == len(complete), "nothing twice"


@pytest.mark.parametrize("mining", [*minings(), positions.mining(576)], ids=lambda mining: mining.name)
def test_every_setting_is_one_that_its_method_can_plan(mining):
    for id, params in mining.methods:
        schedule = get(id).schedule(Budget(mining.budgets[0]), TINY, get(id).complete(params))
        withdraws = id == "todre" and params.get("stage_1") is False
        assert withdraws or schedule.final_count(576) <= mining.budgets[0], (id, params)
