"""A lane that merges inside the vision tower, on the embedded model: kept as planned, charged for its own run."""

import pytest

import tokviz
from tokviz.models.base import merging_flops, prefill_flops
from tokviz.names import VisionLayer
from tokviz.viz.tables import notes

QUESTION = "how many objects are there?"


N_LAYERS = 5
"""Vision layers that run: LLaVA reads the output of the last but one."""


@pytest.fixture(scope="module")
def third(n_tokens):
    return n_tokens // 3


@pytest.fixture(scope="module")
def counts(n_tokens, third):
    """Tokens before each layer and behind the last: as many merge in each, one more in the first ones."""
    each, more = divmod(n_tokens - third, N_LAYERS)
    return [n_tokens - each * layer - min(layer, more) for layer in range(N_LAYERS + 1)]


@pytest.fixture(scope="module")
def comparison(vlm, scene_image, third):
    return tokviz.compare(vlm, scene_image, QUESTION, ["tome", "random"], budget=third, repeats=2)


def test_the_tower_keeps_what_was_planned_and_the_llm_gets_it(comparison, counts, third):
    run = comparison["tome"]
    assert run.error is None and run.answer
    assert [stage.site for stage in run.stages] == [VisionLayer(layer) for layer in range(N_LAYERS)]
    assert [stage.n_in for stage in run.stages] == counts[:-1]
    assert [len(stage.kept) for stage in run.stages] == [stage.planned_keep for stage in run.stages]
    assert len(run.kept) == run.actual.final == run.planned.final == third
    assert run.tokens_per_layer == [third] * 8
    assert run.cost.kv_cache_bytes == comparison["random"].cost.kv_cache_bytes


def test_every_patch_ends_in_one_group_whose_first_patch_it_goes_by(comparison, n_tokens):
    stages = comparison["tome"].stages
    carrier = list(range(n_tokens))
    for stage in stages:
        carrier = [stage.assignment[token] for token in carrier]
    assert sorted(set(carrier)) == stages[-1].kept
    assert all(carrier[: leader + 1].index(leader) == leader for leader in stages[-1].kept)
    sizes = next(token_map.values for token_map in stages[-1].maps if token_map.name == "group_size")
    for token in stages[-1].kept:
        assert sizes[token] == carrier.count(token)


def test_order_behind_the_tower(vlm, scene_image, comparison, third):
    assert comparison["tome"].stages[-1].sequence is None  # raster
    assert all(stage.sequence is not None for stage in comparison["tome"].stages[:-1])
    official = tokviz.compare(
        vlm, scene_image, QUESTION, ["tome"], budget=third, params={"tome": {"order": "official"}}
    )
    last = official["tome"].stages[-1]
    assert last.kept == comparison["tome"].stages[-1].kept
    assert sorted(last.sequence) == last.kept != last.sequence


def test_it_is_charged_for_its_own_run_of_the_tower(vlm, comparison, counts):
    merged, random = comparison["tome"], comparison["random"]
    assert merged.timings["vision"].samples == 2
    assert merged.timings["vision"].median_ms > 0
    assert "vision" not in random.timings
    assert "and once more for ToMe" in notes(comparison)[0]
    vision = vlm.model.config.vision_config
    d, m = vision.hidden_size, vision.intermediate_size
    assert random.cost.vision_flops == prefill_flops([counts[0] + 1] * (N_LAYERS + 1), d, m)
    with_cls = [count + 1 for count in counts]
    assert merged.cost.vision_flops == merging_flops(with_cls[:-1], with_cls[1:], d, m)


def test_flops_of_a_merging_layer_by_hand():
    """4 * 3 * 4 + 2 * 9 * 2 + 2 * 2 * 2 * 5 for three tokens that become two, d = 2 and m = 5."""
    assert merging_flops([3], [2], d=2, m=5) == 48 + 36 + 40
    assert merging_flops([7, 7], [7, 7], d=2, m=5) == prefill_flops([7, 7], d=2, m=5)


def test_what_cannot_be_reached_is_said_in_the_lane(vlm, scene_image, n_tokens):
    least = n_tokens
    for _ in range(N_LAYERS):
        least -= least // 2
    run = tokviz.compare(vlm, scene_image, QUESTION, ["tome"], budget=least - 1)["tome"]
    assert run.error.startswith(f"ToMe leaves at least {least} of an image's {n_tokens} tokens in 5 vision layers")
    everything = tokviz.compare(vlm, scene_image, QUESTION, ["tome"], budget=n_tokens)
    assert everything["tome"].stages == []
    assert everything["tome"].answer_tokens == everything["full"].answer_tokens
