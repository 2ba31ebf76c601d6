"""A lane that merges inside the vision tower, on the embedded model: kept as planned, charged for its own run."""

import pytest

import tokviz
from tokviz.measures import merging_flops, prefill_flops
from tokviz.names import VisionBlock
from tokviz.render.tables import notes

QUESTION = "how many objects are there?"


@pytest.fixture(scope="module")
def comparison(vlm, scene_image):
    return tokviz.compare(vlm, scene_image, QUESTION, ["tome", "random"], budget=48, repeats=2)


def test_the_tower_keeps_what_was_planned_and_the_llm_gets_it(comparison):
    run = comparison.run("tome")
    assert run.error is None and run.answer
    assert [stage.site for stage in run.stages] == [VisionBlock(block) for block in range(5)]
    assert [stage.n_in for stage in run.stages] == [144, 124, 105, 86, 67]
    assert [len(stage.kept) for stage in run.stages] == [stage.planned_keep for stage in run.stages]
    assert len(run.kept) == run.actual.final == run.planned.final == 48
    assert run.tokens_per_block == [48] * 8
    assert run.cost.kv_cache_bytes == comparison.run("random").cost.kv_cache_bytes


def test_every_patch_ends_in_one_group_whose_first_patch_it_goes_by(comparison):
    stages = comparison.run("tome").stages
    carrier = list(range(144))
    for stage in stages:
        carrier = [stage.assignment[token] for token in carrier]
    assert sorted(set(carrier)) == stages[-1].kept
    assert all(carrier[: leader + 1].index(leader) == leader for leader in stages[-1].kept)
    sizes = next(token_map.values for token_map in stages[-1].maps if token_map.name == "group_size")
    for token in stages[-1].kept:
        assert sizes[token] == carrier.count(token)


def test_order_behind_the_tower(vlm, scene_image, comparison):
    assert comparison.run("tome").stages[-1].sequence is None  # raster
    assert all(stage.sequence is not None for stage in comparison.run("tome").stages[:-1])
    official = tokviz.compare(vlm, scene_image, QUESTION, ["tome"], budget=48, params={"tome": {"order": "official"}})
    last = official.run("tome").stages[-1]
    assert last.kept == comparison.run("tome").stages[-1].kept
    assert sorted(last.sequence) == last.kept != last.sequence


def test_it_is_charged_for_its_own_run_of_the_tower(vlm, comparison):
    merged, random = comparison.run("tome"), comparison.run("random")
    assert merged.timings["vision"].samples == 2
    assert merged.timings["vision"].median_ms > 0
    assert "vision" not in random.timings
    assert "and once more for ToMe" in notes(comparison)[0]
    vision = vlm.model.config.vision_config
    d, m = vision.hidden_size, vision.intermediate_size
    assert random.cost.vision_flops == prefill_flops([145] * 6, d, m)
    assert merged.cost.vision_flops == merging_flops([145, 125, 106, 87, 68], [125, 106, 87, 68, 49], d, m)


def test_flops_of_a_merging_block_by_hand():
    """4 * 3 * 4 + 2 * 9 * 2 + 2 * 2 * 2 * 5 for three tokens that become two, d = 2 and m = 5."""
    assert merging_flops([3], [2], d=2, m=5) == 48 + 36 + 40
    assert merging_flops([7, 7], [7, 7], d=2, m=5) == prefill_flops([7, 7], d=2, m=5)


def test_what_cannot_be_reached_is_said_in_the_lane(vlm, scene_image):
    run = tokviz.compare(vlm, scene_image, QUESTION, ["tome"], budget=4).run("tome")
    assert run.error.startswith("ToMe leaves at least 5 of a picture's 144 tokens in 5 vision blocks")
    everything = tokviz.compare(vlm, scene_image, QUESTION, ["tome"], budget=144)
    assert everything.run("tome").stages == []
    assert everything.run("tome").answer_tokens == everything.run("full").answer_tokens
