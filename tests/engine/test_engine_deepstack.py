"""Qwen3-VL's deepstack under pruning: what the tower adds inside the LLM reaches the tokens that are still there."""

import threading

import pytest
import torch
from engine_models import everything, generated, merged, nothing, ragged, spread, stage
from engine_oracle import oracle
from test_engine_families import BATCHES, against_oracle
from tiny_case import LAYERS
from tiny_families import CASES
from tiny_qwen import PATCH

from tokviz.engine import answer, encode, prune, running_on, shorten
from tokviz.errors import Unsupported
from tokviz.types import Selection

IMAGES, VIDEOS = CASES["qwen3_vl"], CASES["qwen3_vl (videos)"]
FAMILY = IMAGES.here
N_ADDED = 3


@pytest.fixture(scope="module")
def model():
    return IMAGES.model()


def inputs_of(model, batch="left-padded", case=IMAGES):
    return case.prompt(model, BATCHES[batch])


def encoded_of(model, batch="left-padded"):
    return encode(model, FAMILY, inputs_of(model, batch), ())


def test_without_what_is_added_the_answer_is_another(model, monkeypatch):
    """So that every test that compares logits would notice a lost feature."""
    inputs = inputs_of(model)
    plain = generated(model, inputs)[1]
    for lost in range(N_ADDED):
        calls = []

        def skipping(hidden, where, features, lost=lost, calls=calls):
            calls.append(len(calls))
            stock = type(model.model.language_model)._deepstack_process
            return hidden if calls[-1] == lost else stock(model.model.language_model, hidden, where, features)

        with monkeypatch.context() as patched:
            patched.setattr(model.model.language_model, "_deepstack_process", skipping)
            assert (generated(model, inputs)[1] - plain).abs().max() > 0.1
        assert len(calls) == N_ADDED


@pytest.mark.parametrize("site", range(N_ADDED + 2))
@pytest.mark.parametrize("choose", [merged, nothing], ids=lambda choose: choose.__name__)
@pytest.mark.parametrize("case", [IMAGES, VIDEOS], ids=["images", "videos"])
def test_a_stage_before_any_of_the_first_layers_equals_the_oracle(model, site, choose, case):
    against_oracle(case, model, inputs_of(model, case=case), [stage(site, 5, "keep")], choose, 1e-6)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("case", [IMAGES, VIDEOS], ids=["images", "videos"])
def test_without_stages_the_hooks_add_what_the_stock_model_adds(model, batch, case):
    inputs = inputs_of(model, batch, case)
    with torch.no_grad():
        plain = model(**inputs).logits
        with prune(model, FAMILY, None, (), everything):
            assert torch.equal(model(**inputs).logits, plain)
        encoded = encode(model, FAMILY, inputs, ())
        with running_on(model, FAMILY, encoded):
            assert torch.equal(model(**encoded.generate_inputs()).logits, plain)


def test_each_token_gets_its_own_and_added_ones_get_none(model):
    """What enters a layer less what left the one before, at every column."""
    inputs = inputs_of(model, "one row")
    encoded = encode(model, FAMILY, inputs, ())
    kept, order = torch.tensor([1, 4, 6, 9]), torch.tensor([2, 0, 4, 1, 3])  # the added one in the middle

    def choose(stage, signals, row):
        return Selection(kept, extra=signals.features[:1] * 0.5, sequence=order)

    short, _ = shorten(model, FAMILY, encoded, [stage("projector", 4, "keep")], choose)
    left, entered = {}, {}
    layers = model.model.language_model.layers
    with running_on(model, FAMILY, short):  # first its hooks, then these
        hooks = []
        for n, layer in enumerate(layers):
            hooks.append(layer.register_forward_hook(lambda _m, _a, output, n=n: left.update({n: output})))
            hooks.append(layer.register_forward_pre_hook(lambda _m, args, n=n: entered.update({n: args[0]})))
        with torch.no_grad():
            model(**short.generate_inputs())
    for hook in hooks:
        hook.remove()
    tokens = short.visual_mask[0].nonzero()[:, 0]
    assert short.alive[0].tolist() == [6, 1, 4, 9]
    features = encoded.deepstack.rows[0]
    assert len(features) == N_ADDED
    for layer in range(len(layers) - 1):
        expected = left[layer].clone()
        if layer < N_ADDED:
            expected[0, tokens] += features[layer][short.alive[0]]
        assert torch.equal(entered[layer + 1], expected)


def test_what_is_added_is_what_the_tower_made(model):
    inputs = inputs_of(model, "2, 1 and 0 images")
    encoded = encode(model, FAMILY, inputs, ())
    with torch.no_grad():
        made = model.model.visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]).deepstack_features
    assert len(made) == N_ADDED
    for layer, features in enumerate(made):
        assert torch.equal(torch.cat([row[layer] for row in encoded.deepstack.rows]), features)
    assert [len(row[0]) for row in encoded.deepstack.rows] == encoded.n_visual and encoded.n_visual[2] == 0


@pytest.mark.parametrize("late", [[], [stage(1, 3, "keep")], [stage(4, 3, "keep")]], ids=["early", "at 1", "at 4"])
def test_the_way_of_a_lane_equals_the_hooks(model, late):
    inputs, early = inputs_of(model, "one row"), [stage("projector", 6, "keep")]
    with prune(model, FAMILY, None, [*early, *late], spread):
        sequences, logits = generated(model, inputs)
    short, _ = shorten(model, FAMILY, encode(model, FAMILY, inputs, ()), early, spread)
    with running_on(model, FAMILY, short, late, spread) as trace:
        found = answer(model, short, max_new_tokens=6, on_tokens=lambda ids: None, stop=threading.Event())
    assert found.token_ids == sequences[0, inputs["input_ids"].shape[1] :].tolist()
    chosen = logits[:, 0].float().log_softmax(-1)[range(6), found.token_ids]
    assert found.logprobs == pytest.approx(chosen.tolist(), abs=1e-6)
    assert len(trace.events[0]) == len(late)


def test_beams_and_copies_get_what_belongs_to_their_prompt(model):
    inputs, stages = inputs_of(model), [stage("projector", 7, "keep"), stage(2, 4, "keep")]

    def same_for_copies(stage, signals, row):
        return ragged(stage, signals, row // 2)

    options = {"max_new_tokens": 5, "num_beams": 2, "num_return_sequences": 2, "do_sample": False}
    with prune(model, FAMILY, None, stages, same_for_copies):
        hooked = model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]
    short, _ = shorten(model, FAMILY, encode(model, FAMILY, inputs, ()), stages[:1], ragged)
    with running_on(model, FAMILY, short, stages[1:], ragged):  # a prompt that is known decides for its copies
        assert torch.equal(model.generate(**short.generate_inputs(), **options), hooked)


def test_without_a_cache_every_step_adds_it_anew(model):
    inputs, stages = inputs_of(model), [stage("projector", 7, "keep"), stage(1, 4, "keep")]
    found = []
    for use_cache in (True, False):
        with prune(model, FAMILY, None, stages, ragged):
            found.append(generated(model, inputs, use_cache=use_cache)[1])
    assert (found[0] - found[1]).abs().max() <= 1e-6


def test_other_threads_run_the_stock_model(model):
    inputs, found = inputs_of(model), []
    plain = generated(model, inputs)[1]
    with prune(model, FAMILY, None, [stage(1, 2, "keep")], spread):
        pruned = generated(model, inputs)[1]
        other = threading.Thread(target=lambda: found.append(generated(model, inputs)[1]))
        other.start()
        other.join()
    assert torch.equal(found[0], plain) and (pruned - plain).abs().max() > 0.1
    assert torch.equal(generated(model, inputs)[1], plain)


def test_the_oracle_without_stages_is_the_stock_model(model):
    inputs = inputs_of(model, case=VIDEOS)
    sequences, logits = generated(model, inputs)
    expected, _ = oracle(model, inputs, [], everything, sequences[:, inputs["input_ids"].shape[1] :], VIDEOS)
    assert (logits - expected).abs().max() <= 1e-6


# -------------------------------------------------------------------------------------------------------- refusals


def test_embeddings_alone_do_not_run(model):
    encoded = encoded_of(model)
    with pytest.raises(Unsupported, match="running_on"):
        encoded.generate_inputs()
    with running_on(model, FAMILY, encoded):
        model(**encoded.generate_inputs())
    with pytest.raises(Unsupported, match="running_on"):
        encoded.generate_inputs()


def test_embeddings_that_came_without_are_refused(model):
    encoded = encoded_of(model)
    embeds = {"inputs_embeds": encoded.inputs_embeds, "position_ids": encoded.position_ids}
    with (
        pytest.raises(Unsupported, match="came without"),
        prune(model, FAMILY, None, [stage(2, 4, "keep")], spread, visual_mask=encoded.visual_mask),
    ):
        model(**embeds)


def test_a_prompt_of_text_needs_nothing(model):
    inputs = IMAGES.prompt(model, [[7]])
    encoded = encode(model, FAMILY, inputs, ())
    assert encoded.deepstack is None
    assert torch.equal(generated(model, encoded.generate_inputs())[1], generated(model, inputs)[1])


def test_an_llm_that_ends_before_the_last_addition_is_refused(model, monkeypatch):
    patch = {"patch_size": PATCH, "merge_size": 2, "temporal_patch_size": 2}
    part = type("Part", (), patch)()
    processor = type("Processor", (), {"image_processor": part, "video_processor": part})()
    FAMILY.check(model, processor, "it")
    monkeypatch.setattr(model.config.vision_config, "deepstack_visual_indexes", [0] * LAYERS)
    with pytest.raises(Unsupported, match="adds 6 vision features inside an LLM of only 6 layers"):
        FAMILY.check(model, processor, "it")
