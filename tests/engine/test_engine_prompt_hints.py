"""What the engine is told about a prompt (the user's own words, geometry), and what it refuses without."""

import pytest
import torch
from engine_models import FAMILY, everything, generated, prompt, ragged, stage

from tokviz.engine import Geometry, encode, prune, shorten
from tokviz.errors import Unsupported
from tokviz.types import (
    CLIP_RELEVANCE,
    HEAD_ROWS,
    KEY_NORMS,
    LLM_INPUT,
    NORMED_FEATURES,
    QUESTION_FEATURES,
    ROTARY_SIMILARITY,
    Need,
    Selection,
)

ROWS = [[5, "image", 6], [2, "image", 3]]
WORDS = [[-4, -3], [-2]]
"""Columns of the user's own words, counted from the end."""


def words(inputs):
    mask = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    for row, columns in enumerate(WORDS):
        mask[row, columns] = True
    return mask


def looking(seen):
    def choose(stage, signals, row):
        if stage.needs:
            seen[stage.site, row] = signals
        return ragged(stage, signals, row)

    return choose


def test_the_users_words_are_found_at_every_site_and_by_both_ways(model, tolerance):
    inputs = prompt(model, ROWS)
    mask, needs = words(inputs), (QUESTION_FEATURES,)
    stages = [stage("encoder", 9, needs=needs), stage("projector", 7, needs=needs), stage(3, 4, needs=needs)]
    hooked, short_way = {}, {}
    with torch.no_grad(), prune(model, FAMILY, None, stages, looking(hooked), question_mask=mask):
        model(**inputs)
    encoded = encode(model, FAMILY, inputs, (), question_mask=mask)
    short, _ = shorten(model, FAMILY, encoded, stages[:2], looking(short_way))
    assert short.question_mask.sum(1).tolist() == [2, 1]
    with torch.no_grad(), prune(model, FAMILY, short, stages[2:], looking(short_way)):
        model(**short.generate_inputs())
    embedded = model.model.language_model.embed_tokens(inputs["input_ids"])
    for row, columns in enumerate(WORDS):
        assert torch.equal(hooked["encoder", row].question_features, embedded[row, columns])
        for site in ("encoder", "projector"):
            assert torch.equal(hooked[site, row].question_features, embedded[row, columns])
            assert torch.equal(short_way[site, row].question_features, embedded[row, columns])
        deep = hooked[3, row].question_features
        assert deep.shape == (len(columns), 32) and not torch.equal(deep, embedded[row, columns])


def test_a_deep_question_is_the_hidden_state_of_its_own_tokens(sdpa64):
    inputs, seen = prompt(sdpa64, ROWS), {}
    stages = [stage(3, 16, needs=(QUESTION_FEATURES,))]

    def choose(stage, signals, row):
        seen[row] = signals.question_features
        return everything(stage, signals, row)

    with torch.no_grad():
        states = sdpa64(**inputs, output_hidden_states=True).hidden_states
        with prune(sdpa64, FAMILY, None, stages, choose, question_mask=words(inputs)):
            sdpa64(**inputs)
    for row, columns in enumerate(WORDS):
        assert torch.equal(seen[row], states[3][row, columns])


def test_without_being_told_the_users_words_are_not_guessed(sdpa32):
    inputs = prompt(sdpa32, ROWS)
    stages = [stage("projector", 7, needs=(QUESTION_FEATURES,), title="listener")]
    with prune(sdpa32, FAMILY, None, stages, ragged), pytest.raises(Unsupported, match=r"listener.*question_mask"):
        sdpa32(**inputs)
    encoded = encode(sdpa32, FAMILY, inputs, ())
    with pytest.raises(Unsupported, match=r"listener.*question_mask"):
        shorten(sdpa32, FAMILY, encoded, stages, ragged)
    before_the_image = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    before_the_image[:, 2] = True
    encoded = encode(sdpa32, FAMILY, inputs, (), question_mask=before_the_image)
    with pytest.raises(Unsupported, match="behind the last image"):
        shorten(sdpa32, FAMILY, encoded, stages, ragged)


def test_a_question_mask_of_another_prompt_is_refused(sdpa32):
    inputs = prompt(sdpa32, ROWS)
    wrong = words(inputs)[:, :-1]
    with pytest.raises(Unsupported, match="this very prompt"):
        encode(sdpa32, FAMILY, inputs, (), question_mask=wrong)
    with (
        prune(sdpa32, FAMILY, None, [stage(2, 5)], ragged, question_mask=wrong),
        pytest.raises(Unsupported, match="this very prompt"),
    ):
        sdpa32(**inputs)


@pytest.mark.parametrize("way", ["cached", "uncached", "beams"])
def test_a_question_mask_serves_generation(sdpa32, way):
    """Without a cache the prompt grows with every step; beams repeat every row."""
    inputs, calls = prompt(sdpa32, ROWS), []
    options = {"cached": {}, "uncached": {"use_cache": False}, "beams": {"num_beams": 2}}[way]
    needs = (QUESTION_FEATURES,)

    def choose(stage, signals, row):
        calls.append((row, signals.question_features.shape[0]))
        return ragged(stage, signals, 0)

    with prune(sdpa32, FAMILY, None, [stage("projector", 6, needs=needs)], choose, question_mask=words(inputs)):
        sdpa32.generate(**inputs, max_new_tokens=3, do_sample=False, **options)
    assert calls == ([(0, 2), (1, 2), (2, 1), (3, 1)] if way == "beams" else [(0, 2), (1, 1)])


def test_what_entered_the_llm_is_told_at_any_depth(model):
    inputs, seen = prompt(model, ROWS), {}
    stages = [stage("projector", 9), stage(1, 6, needs=(LLM_INPUT,)), stage(3, 4, needs=(LLM_INPUT,))]
    with torch.no_grad(), prune(model, FAMILY, None, stages, looking(seen)) as trace:
        model(**inputs)
    encoded = encode(model, FAMILY, inputs, ())
    for row in (0, 1):
        kept = encoded.inputs_embeds[row, encoded.visual_mask[row]][trace.events[row][0].kept]
        behind = encoded.inputs_embeds[row, [-6, -5, -4, -3, -2, -1][3 * row :]]
        for site in (1, 3):
            assert torch.equal(seen[site, row].input_features, kept)
            assert torch.equal(seen[site, row].input_text, behind)
        assert seen[3, row].features.shape[0] < kept.shape[0]


CELLS = torch.tensor([[place // 4, place % 4] for place in range(16)])


@pytest.mark.parametrize("way", ["hooks", "prompt"])
def test_geometry_follows_the_tokens(sdpa32, way):
    inputs, seen = prompt(sdpa32, ROWS), {}
    views = torch.arange(16) // 8
    with_newlines = CELLS.clone()
    with_newlines[[3, 7]] = -1
    geometry = [Geometry(cell=CELLS), Geometry(view=views, cell=with_newlines)]

    def choose(stage, signals, row):
        seen[stage.site, row] = signals
        return Selection(kept=torch.tensor([2, 3, 9]) if stage.site == "projector" else torch.tensor([1, 2]))

    stages = [stage("projector", 3), stage(2, 2)]
    if way == "hooks":
        with torch.no_grad(), prune(sdpa32, FAMILY, None, stages, choose, geometry=geometry):
            sdpa32(**inputs)
    else:
        encoded = encode(sdpa32, FAMILY, inputs, (), geometry=geometry)
        short, _ = shorten(sdpa32, FAMILY, encoded, stages[:1], choose)
        with torch.no_grad(), prune(sdpa32, FAMILY, short, stages[1:], choose):
            sdpa32(**short.generate_inputs())
    assert torch.equal(seen["projector", 0].cell, CELLS) and seen["projector", 0].view is None
    assert seen["projector", 0].candidates is None and seen[2, 0].candidates is None
    assert seen[2, 0].cell.tolist() == [[0, 2], [0, 3], [2, 1]]
    assert torch.equal(seen["projector", 1].view, views)
    assert seen[2, 1].view.tolist() == [0, 0, 1] and seen[2, 1].cell.tolist() == [[0, 2], [-1, -1], [2, 1]]
    assert seen[2, 1].candidates.tolist() == [True, False, True]
    assert seen["projector", 1].candidates.sum() == 14


def test_geometry_that_nobody_told_is_unknown(sdpa32):
    seen = {}
    stages = [stage("projector", 3, needs=(LLM_INPUT,))]
    shorten(sdpa32, FAMILY, encode(sdpa32, FAMILY, prompt(sdpa32, ROWS), ()), stages, looking(seen))
    assert seen["projector", 0].cell is None and seen["projector", 0].view is None
    assert seen["projector", 0].sizes is None


@pytest.mark.parametrize(
    "stages, sentence",
    [
        ([stage("projector", 3, needs=(HEAD_ROWS,))], "before the LLM"),
        ([stage("projector", 3, needs=(ROTARY_SIMILARITY,))], "before the LLM"),
        ([stage("encoder", 3, needs=(NORMED_FEATURES,))], "before the LLM"),
        ([stage("encoder", 3, needs=(LLM_INPUT,))], "does not exist there yet"),
        ([stage(0, 3, needs=(KEY_NORMS,))], "none before layer 0"),
        ([stage(0, 3, needs=(HEAD_ROWS,))], "none before layer 0"),
        ([stage(2, 3, needs=(HEAD_ROWS, Need("head_rows", "this")))], "2 attention maps of all heads"),
        ([stage(2, 3, needs=(KEY_NORMS, Need("key_norms", "this")))], "2 layers' keys"),
        ([stage("projector", 3, needs=(CLIP_RELEVANCE,))], "text tower"),
    ],
)
def test_signals_that_do_not_exist_there_are_refused(sdpa32, stages, sentence):
    with pytest.raises(Unsupported, match=sentence), prune(sdpa32, FAMILY, None, stages, ragged):
        pass


def test_a_text_tower_is_not_there_to_encode_with(sdpa32):
    with pytest.raises(Unsupported, match="text tower"):
        encode(sdpa32, FAMILY, prompt(sdpa32, ROWS), [CLIP_RELEVANCE])


@pytest.mark.parametrize(
    "need", [HEAD_ROWS, KEY_NORMS, QUESTION_FEATURES, LLM_INPUT, NORMED_FEATURES, ROTARY_SIMILARITY]
)
def test_guessed_tokens_are_not_read_as_text(sdpa64, need):
    inputs = prompt(sdpa64, [[3, "image", 6]])
    inputs["input_ids"][0, -6:] = torch.tensor([7, 8, 9, 7, 8, 9])
    with prune(sdpa64, FAMILY, None, [stage(2, 5, needs=(need,))], ragged), pytest.raises(ValueError, match="guess"):
        sdpa64.generate(**inputs, max_new_tokens=8, do_sample=False, prompt_lookup_num_tokens=3)


def test_layer_0_may_look_at_what_does_not_lie_before_it(sdpa64):
    seen = {}
    needs = (Need("head_rows", "this"), Need("key_norms", "this"), ROTARY_SIMILARITY, NORMED_FEATURES, LLM_INPUT)
    with prune(sdpa64, FAMILY, None, [stage(0, 5, needs=needs)], looking(seen)):
        generated(sdpa64, prompt(sdpa64, ROWS), steps=1)
    assert seen[0, 0].head_rows.shape == (4, 6, 16) and seen[0, 1].head_rows.shape == (4, 3, 16)
    assert torch.equal(seen[0, 0].input_features, seen[0, 0].features)
