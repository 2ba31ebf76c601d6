"""The switch of methods that merge, from the request to the record, the lane's facts and the answer."""

import pytest

import tokviz
from tokviz.cli.compare import parse_methods
from tokviz.errors import BadInput
from tokviz.runs.execute import NOTHING_WEIGHED
from tokviz.ui.payload import _facts

QUESTION = "how many objects are there?"


@pytest.fixture(scope="module")
def comparison(vlm, scene_image):
    methods = [*parse_methods("pool:rectify=true,pool,sparsevlm:version=plus:rectify=true"), "divprune"]
    return tokviz.compare(vlm, scene_image, QUESTION, methods, budget=64, max_new_tokens=2)


def test_the_record_says_so_and_the_model_answers_otherwise(comparison):
    rectified, plain = (run for run in comparison.runs if run.method == "pool")
    assert (rectified.variant, rectified.params["rectify"], plain.params["rectify"]) == ("rectify=true", True, False)
    assert [stage.rectify for stage in rectified.stages] == [True] and [s.rectify for s in plain.stages] == [False]
    assert rectified.kept == plain.kept and rectified.stages[0].assignment == plain.stages[0].assignment
    assert rectified.tokens_per_layer == plain.tokens_per_layer
    assert rectified.answer_tokens[0].logprob != plain.answer_tokens[0].logprob
    assert NOTHING_WEIGHED not in rectified.warnings
    assert tokviz.Comparison.from_json(comparison.to_json()) == comparison


def test_lanes_show_what_merged_tokens_weigh(comparison):
    def shown(run):
        return dict(map(tuple, _facts(run.stages[0]))).get("merged tokens weigh")

    rectified, plain = (run for run in comparison.runs if run.method == "pool")
    assert shown(rectified) == "as many as they carry, in attention of later layers"
    assert shown(plain) == "one token each"
    assert shown(comparison["divprune"]) is None


def test_a_setting_that_merges_nothing_says_that_nothing_changed(comparison):
    assert NOTHING_WEIGHED in comparison["sparsevlm"].warnings
    assert NOTHING_WEIGHED not in comparison["divprune"].warnings


def test_methods_that_merge_nothing_refuse(vlm, scene_image):
    with pytest.raises(BadInput, match=r"DivPrune merges nothing.*choose a method that merges"):
        tokviz.compare(vlm, scene_image, QUESTION, [("divprune", {"rectify": True})])
    with pytest.raises(BadInput, match="DivPrune merges nothing"):
        parse_methods("divprune:rectify=true")


def test_a_method_of_ones_own_takes_it_when_it_says_that_it_merges():
    @tokviz.pruner("mine", merges=True)
    def mine(signals, keep):
        return range(keep)

    assert mine.complete({"rectify": True})["rectify"] is True
    (stage,) = mine.schedule(tokviz.Budget(8), tokviz.PlanningInfo(16, 4), mine.complete({"rectify": True})).stages
    assert stage.rectify
