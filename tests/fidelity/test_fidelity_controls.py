"""What methods have to beat: draws of what is drawn by lot, layers from which on nothing is better than random tokens,
and the sentences about both, on made-up outcomes whose truth is known."""

import numpy as np
import pytest
from made_up_outcomes import SKILLS, about, outcomes, variants

from benchmarks.fidelity.depth import DRAWS as DEPTH_DRAWS
from benchmarks.fidelity.depth import depth_result, depth_variants, is_depth, tried_layers
from benchmarks.fidelity.draws import bands
from benchmarks.fidelity.outcomes import FULL, Variant, judged_budget
from benchmarks.fidelity.pages import written
from benchmarks.fidelity.plan import variants as planned
from benchmarks.fidelity.retained import measure
from benchmarks.fidelity.summary import summarise

DRAWS = 5
FULL_RUN = Variant(FULL, {}, "No pruning", None)


def skilled(levels, scenes=60):
    """Outcomes of further variants with their skills, on the questions of ``outcomes``."""
    made = {}
    for variant, skill in levels.items():
        own = outcomes(scenes, skills={"apet": (None, None, skill, None)})
        made[variant] = next(found for other, found in own.items() if other.method == "apet")
    return made


@pytest.fixture(scope="module")
def made():
    own = outcomes()
    own |= skilled({Variant("pool", {}, "Pooling", 64): 0.6, Variant("downsample", {}, "Downsampling", 64): 0.81})
    own |= skilled({Variant("random", {}, "Random", 64, draw): 0.45 + 0.05 * draw for draw in range(1, DRAWS)})
    depth = {}
    for layer, (random, fastv) in {1: (0.4, 0.7), 4: (0.6, 0.85), 7: (0.9, 0.9)}.items():
        at = {"layer": layer}
        depth |= {Variant("random_at", at, "Random", 64, draw): random for draw in range(DEPTH_DRAWS)}
        depth |= {Variant("fastv", at, "FastV", 64): fastv}
    return own | skilled(depth)


@pytest.fixture(scope="module")
def document(made):
    return summarise(made, about(), resamples=200)


def test_draws_and_layers_stand_in_no_table_of_methods(document):
    """They would be ranked with the methods, and random tokens compared with random tokens."""
    assert [(row["method"], row["budget"]) for row in document["rows"] if row["params"]] == []
    plain = summarise(
        outcomes()
        | skilled({Variant("pool", {}, "Pooling", 64): 0.6, Variant("downsample", {}, "Downsampling", 64): 0.81}),
        about(),
        resamples=200,
    )
    assert plain["rows"] == document["rows"] and plain["separation"] == document["separation"]
    assert plain["bands"] == [] and plain["depth"] is None


def test_a_band_is_the_lowest_and_highest_draw_with_the_tables_first(document, made):
    (band,) = [each for each in document["bands"] if (each["method"], each["budget"]) == ("random", 64)]
    of_table = next(r for r in document["rows"] if (r["method"], r["budget"]) == ("random", 64))
    assert len(band["draws"]) == DRAWS and band["draws"][0] == of_table["mean_retention"]["value"]
    alone = [
        float(measure({FULL_RUN: made[FULL_RUN], v: own}, resamples=10).mean[1])
        for v, own in made.items()
        if v.method == "random" and v.draw
    ]
    assert band["draws"][1:] == alone
    assert (band["low"], band["high"]) == (min(band["draws"]), max(band["draws"]))
    assert band["mean"] == pytest.approx(np.mean(band["draws"]))
    assert bands({v: own for v, own in made.items() if not v.draw}, resamples=10, seed=0) == []


def test_the_last_layer_at_which_a_method_is_better_than_random(document, made):
    depth = document["depth"]
    assert [at["layer"] for at in depth["layers"]] == [1, 4, 7] and depth["last"] == 4 and depth["budget"] == 64
    first = depth["layers"][0]
    assert [one["label"] for one in first["methods"]] == ["FastV"]
    difference = first["methods"][0]["difference"]
    assert difference["value"] == pytest.approx(
        first["methods"][0]["mean_retention"]["value"] - first["random"]["value"]
    )
    assert 0 < difference["low"] <= difference["value"] <= difference["high"]
    assert "Up to layer 4 of 8 FastV is better than random tokens" in written("fidelity", document, short=False)
    never = {v: own for v, own in made.items() if not is_depth(v) or v.params["layer"] == 7}
    assert depth_result(never, resamples=50, seed=0)["last"] is None
    always = {v: own for v, own in made.items() if not is_depth(v) or v.params["layer"] < 7}
    assert depth_result(always, resamples=50, seed=0)["last"] == 4


def test_methods_beside_every_control_as_they_were_made(document):
    """Pooling is worse than most methods; downsampling is as good as the best, which nothing beats then."""
    text = written("controls", document)
    at_64 = text[text.index("At 64 tokens") :].split(". ")[0]
    assert "0 beat downsampling" in at_64 and "and 0 beat all of these (none)" in at_64
    best = {"Apet", "Fastervlm", "Visionzip", "Divprune", "Sparsevlm", "Polymorphic"}
    rows = [row for row in document["rows"] if row["budget"] == 64 and row["label"] in best]
    assert all(row["against"]["random"]["p_holm"] < 0.05 for row in rows)
    assert "Tome" in at_64[at_64.index("beat none of them") :]


def test_layers_that_are_tried():
    assert tried_layers(8) == [1, 2, 3, 4, 5, 6, 7] and tried_layers(2) == [1] and tried_layers(1) == []
    deep = tried_layers(32)
    assert len(deep) == 10 and 1 <= deep[0] < deep[-1] <= 31 and deep == sorted(set(deep))


def test_what_is_planned_beside_the_tables():
    ids = ["full", "random", "uniform", "fastv"]
    wanted = [*planned(ids, [192, 64], 5), *depth_variants(ids, 64, 4)]
    drawn = [(v.method, v.budget, v.draw, v.params) for v in wanted if v.draw and not is_depth(v)]
    assert len(drawn) == len(set(map(str, drawn))) == 2 * 2 * 4
    assert {str(params) for method, _, _, params in drawn if method == "uniform"} == {"{'phase': 'drawn'}"}
    assert len([v for v in wanted if is_depth(v)]) == 3 * (DEPTH_DRAWS + 1)
    assert len({v.file_name for v in wanted}) == len(wanted) and len(set(wanted)) == len(wanted)
    assert depth_variants(["full", "apet"], 64, 4) == depth_variants(["fastv"], 64, 1) == []


@pytest.mark.parametrize(
    "budgets, n_visual, judged", [([192, 64, 32], 576, 64), ([48, 16], 144, 16), ([100, 50], 576, 50)]
)
def test_the_budget_that_is_judged(budgets, n_visual, judged):
    assert judged_budget(budgets, n_visual) == judged


def test_skills_are_those_of_the_made_up_outcomes(made):
    assert set(variants(SKILLS)) < set(made)
