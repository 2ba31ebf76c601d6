"""Pruned generation against the full-length masked oracle, and against itself by the other way."""

from dataclasses import fields, replace

import pytest
import torch
from engine_models import FAMILY, everything, generated, merged, nothing, prompt, ragged, spread, stage, unpruned
from engine_oracle import oracle
from loops import each

from tokviz.engine import encode, prune, shorten
from tokviz.types import (
    HEAD_ROWS,
    KEY_NORMS,
    LAST_ROW,
    LLM_INPUT,
    NORMED_FEATURES,
    PREVIOUS_FEATURES,
    PROMPT_FEATURES,
    ROTARY_MEANS,
    ROTARY_SIMILARITY,
    SEQUENCE_INDEX,
    TEXT_FEATURES,
    TEXT_ROWS,
    VALUES,
    Diagnostics,
    Need,
    Selection,
    Signals,
    TokenMap,
)

BATCHES = {
    "one row": [[3, "image", 6]],
    "left-padded": [[5, "image", 6], [2, "image", 3]],
    "three images": [[2, "image", 2, "image", 1, "image", 4]],
    "2, 1 and 0 images": [[2, "image", 1, "image", 4], [3, "image", 5], [7]],
}


def schedules(positions):
    return {
        "projector": [stage("projector", 7, positions)],
        "encoder": [stage("encoder", 9, positions)],
        "encoder and projector": [stage("encoder", 11, positions), stage("projector", 6, positions)],
        "two layers": [stage(2, 10, positions), stage(4, 5, positions)],
        "everywhere": [
            stage("encoder", 13, positions), stage("projector", 11, positions), stage(1, 8, positions),
            stage(3, 4, positions), stage(5, 2, positions),
        ],
        "before layer 0": [stage(0, 8, positions), stage(2, 4, positions)],
        "twice at one layer": [stage(2, 10, positions), stage(2, 6, positions)],
    }  # fmt: skip


def against_oracle(model, inputs, stages, choose, tolerance):
    plain = unpruned(model, inputs)[1]
    with prune(model, FAMILY, None, stages, choose) as trace:
        sequences, logits = generated(model, inputs)
    new = sequences[:, inputs["input_ids"].shape[1] :]
    expected, kept = oracle(model, inputs, stages, choose, new)
    assert (logits - expected).abs().max() <= tolerance
    assert [[event.kept.tolist() for event in row] for row in trace.events] == kept
    assert (logits - plain).abs().max() > 0.1, "pruning changed nothing: the test has no teeth"
    return logits


@pytest.mark.parametrize("choose", [spread, ragged, merged], ids=lambda choose: choose.__name__)
@pytest.mark.parametrize("positions", ["keep", "reindex"])
@pytest.mark.parametrize("where", schedules("keep"))
def test_a_pruned_batch_equals_the_oracle(sdpa64, where, positions, choose):
    inputs = prompt(sdpa64, BATCHES["left-padded"])
    against_oracle(sdpa64, inputs, schedules(positions)[where], choose, 1e-6)


@pytest.mark.parametrize("positions", ["keep", "reindex"])
@pytest.mark.parametrize("batch", BATCHES)
def test_every_kind_of_prompt_equals_the_oracle(model, tolerance, batch, positions):
    inputs = prompt(model, BATCHES[batch])
    against_oracle(model, inputs, schedules(positions)["everywhere"], merged, tolerance)


CUTS = {
    "one layer": (3,),
    "two layers": (1, 3),
    "the second of two": (1, -3),
    "twice at one layer": (3, 3),
    "first": (0, 4),
}


@pytest.mark.parametrize("choose", [ragged, merged], ids=lambda choose: choose.__name__)
@pytest.mark.parametrize("positions", ["keep", "reindex"])
@each("where", CUTS)
def test_what_is_cut_from_earlier_layers_no_later_token_sees_there(sdpa64, where, positions, choose):
    """Negative: of two stages only this one cuts."""
    only = any(site < 0 for site in CUTS[where])
    stages = [
        replace(stage(abs(site), 9 - 4 * number, positions), cuts_cache=site < 0 or not only)
        for number, site in enumerate(CUTS[where])
    ]
    inputs = prompt(sdpa64, BATCHES["left-padded"])
    cut = against_oracle(sdpa64, inputs, stages, choose, 1e-6)
    with prune(sdpa64, FAMILY, None, [replace(s, cuts_cache=False) for s in stages], choose):
        left = generated(sdpa64, inputs)[1]
    assert torch.equal(cut[0], left[0]), "the first new token comes of the prompt alone"
    assert (cut[1:] - left[1:]).abs().max() > 1e-3, "nothing was cut: the test has no teeth"


def test_a_cut_cache_is_small_in_every_layer(sdpa64):
    inputs = prompt(sdpa64, BATCHES["one row"])
    with prune(sdpa64, FAMILY, None, [replace(stage(3, 5), cuts_cache=True)], spread):
        cache = sdpa64(**inputs, use_cache=True).past_key_values
    lengths = {layer.keys.shape[2] for layer in cache.layers} | {layer.values.shape[2] for layer in cache.layers}
    assert lengths == {3 + 5 + 6}
    assert cache.get_seq_length() == inputs["input_ids"].shape[1]


@pytest.mark.parametrize("early, late", [("keep", "reindex"), ("reindex", "keep")])
def test_stages_may_differ_in_their_position_policy(sdpa64, early, late):
    stages = [stage("projector", 9, early), stage(2, 5, late), stage(4, 3, early)]
    against_oracle(sdpa64, prompt(sdpa64, BATCHES["left-padded"]), stages, ragged, 1e-6)


@pytest.mark.parametrize("site", ["encoder", "projector", 3])
def test_all_visual_tokens_may_go_and_later_stages_are_skipped(model, tolerance, site):
    stages = [stage(site, 0), stage(4, 2)]
    inputs = prompt(model, BATCHES["left-padded"])
    against_oracle(model, inputs, stages, nothing, tolerance)
    with prune(model, FAMILY, None, stages, nothing) as trace:
        generated(model, inputs, steps=1)
    assert [[event.stage.site for event in row] for row in trace.events] == [[site], [site]]


def test_a_stage_may_decide_its_count_at_run_time(sdpa64):
    def half_then_nothing(stage, signals, row):
        assert stage.keep is None
        n = signals.features.shape[0]
        return Selection(kept=torch.arange(n // 2 if stage.site == 2 and row == 0 else 0))

    stages = [stage(2, None), stage(4, None)]
    against_oracle(sdpa64, prompt(sdpa64, BATCHES["left-padded"]), stages, half_then_nothing, 1e-6)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("positions", ["keep", "reindex"])
def test_keeping_everything_is_bit_identical_to_the_unpatched_model(model, batch, positions):
    inputs = prompt(model, BATCHES[batch])
    needs = (LAST_ROW, PREVIOUS_FEATURES, TEXT_FEATURES)
    stages = [stage("encoder", 16, positions), stage("projector", 16, positions), stage(2, 16, positions, needs)]
    plain = unpruned(model, inputs)
    with prune(model, FAMILY, None, stages, everything) as trace:
        kept = generated(model, inputs)
    assert torch.equal(plain[0], kept[0]) and torch.equal(plain[1], kept[1])
    assert any(trace.events)
    plain_forward = model(**inputs).logits
    with prune(model, FAMILY, None, stages, everything):
        assert torch.equal(model(**inputs).logits, plain_forward)


@pytest.mark.parametrize("positions", ["keep", "reindex"])
@pytest.mark.parametrize("batch", ["one row", "left-padded", "2, 1 and 0 images"])
def test_the_hook_free_way_is_bit_identical_to_the_hooks(model, batch, positions):
    choose = merged if positions == "keep" else ragged
    inputs = prompt(model, BATCHES[batch])
    early = schedules(positions)["encoder and projector"]
    short, events = shorten(model, FAMILY, encode(model, FAMILY, inputs, ()), early, choose)
    new, logits = generated(model, short.generate_inputs())
    with prune(model, FAMILY, None, early, choose) as trace:
        sequences, hooked = generated(model, inputs)
    assert torch.equal(logits, hooked)
    assert torch.equal(new, sequences[:, inputs["input_ids"].shape[1] :])
    assert [[e.kept.tolist() for e in row] for row in events] == [
        [e.kept.tolist() for e in row] for row in trace.events
    ]


@pytest.mark.parametrize("positions", ["keep", "reindex"])
@pytest.mark.parametrize("batch", ["one row", "left-padded"])
def test_a_shortened_prompt_goes_on_inside_the_llm_as_if_hooks_had_done_it_all(model, batch, positions):
    inputs = prompt(model, BATCHES[batch])
    stages = schedules(positions)["everywhere"]
    early, late = stages[:2], stages[2:]
    short, events = shorten(model, FAMILY, encode(model, FAMILY, inputs, ()), early, merged)
    with prune(model, FAMILY, short, late, merged) as trace:
        logits = generated(model, short.generate_inputs())[1]
    kept = [[e.kept.tolist() for e in [*a, *b]] for a, b in zip(events, trace.events, strict=True)]
    with prune(model, FAMILY, None, late, merged, visual_mask=short.visual_mask):
        assert torch.equal(generated(model, short.generate_inputs())[1], logits)
    with prune(model, FAMILY, None, stages, merged) as trace:
        assert torch.equal(generated(model, inputs)[1], logits)
    assert [[event.kept.tolist() for event in row] for row in trace.events] == kept


def test_encoding_without_pruning_is_bit_identical_to_the_stock_model(model):
    inputs = prompt(model, BATCHES["left-padded"])
    encoded = encode(model, FAMILY, inputs, ())
    assert torch.equal(generated(model, encoded.generate_inputs())[1], generated(model, inputs)[1])
    assert encoded.vision_ms > 0 and encoded.n_visual == [16, 16]
    assert torch.equal(encoded.visual_mask, inputs["input_ids"] == 90)


def test_shortening_leaves_the_prompt_as_it_was_and_serves_many_lanes(sdpa64):
    encoded = encode(sdpa64, FAMILY, prompt(sdpa64, BATCHES["left-padded"]), ())
    before = encoded.inputs_embeds.clone()
    first, _ = shorten(sdpa64, FAMILY, encoded, schedules("reindex")["encoder and projector"], merged)
    again, _ = shorten(sdpa64, FAMILY, encoded, schedules("reindex")["encoder and projector"], merged)
    assert torch.equal(encoded.inputs_embeds, before)
    assert torch.equal(first.inputs_embeds, again.inputs_embeds)
    assert first.inputs_embeds.shape[1] == 5 + 6 + 6  # the longer row: text before, text behind, tokens kept
    assert first.n_visual == [6, 4] and torch.equal(first.visual_mask.sum(1), torch.tensor([6, 4]))


def test_merging_in_two_stages_composes_original_indices(sdpa64):
    encoded = encode(sdpa64, FAMILY, prompt(sdpa64, BATCHES["one row"]), ())
    first, one = shorten(sdpa64, FAMILY, encoded, [stage("encoder", 9)], merged)
    second, two = shorten(sdpa64, FAMILY, first, [stage("projector", 4)], spread)
    assert two[0][0].alive.tolist() == one[0][0].kept.tolist()
    assert torch.equal(second.alive[0], two[0][0].kept)
    by_hand = FAMILY.project(sdpa64, merged(stage("encoder", 9), _features(encoded.vision[0].features), 0).features)
    assert torch.equal(first.inputs_embeds[0, first.visual_mask[0]], by_hand)


def _features(features):
    from tokviz.types import Signals

    return Signals(features=features)


@each("needs", [(LAST_ROW,), (TEXT_ROWS,), (Need("last_row", "this"),), (Need("text_rows", "this"),)])
@pytest.mark.parametrize("batch", BATCHES)
def test_attention_guided_stages_choose_as_the_oracle_does(model, tolerance, batch, needs):
    seen = []

    def most_attended(stage, signals, row):
        scores = signals.attention_rows.mean(0)
        kept = scores.argsort(descending=True)[: stage.keep].sort().values
        seen.append(signals.attention_rows)
        return Selection(
            kept=kept,
            diagnose=lambda: Diagnostics(
                score=TokenMap("attention", "attention", scores),
            ),
        )

    stages = [stage(2, 9, "keep", needs), stage(4, 4, "reindex", needs), stage(4, 2, "keep", needs)]
    against_oracle(model, prompt(model, BATCHES[batch]), stages, most_attended, tolerance)
    engine, by_oracle = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    for mine, theirs in zip(sorted(engine, key=_order), sorted(by_oracle, key=_order), strict=True):
        assert (mine - theirs).abs().max() <= tolerance


def _order(rows):
    return (rows.shape, round(float(rows.double().sum()), 4))


SEVERAL = {
    "several at once": (
        TEXT_ROWS,
        HEAD_ROWS,
        ROTARY_SIMILARITY,
        KEY_NORMS,
        LLM_INPUT,
        NORMED_FEATURES,
        TEXT_FEATURES,
        SEQUENCE_INDEX,
        PROMPT_FEATURES,
    ),
    "of the next layer": (Need("last_row", "this"), Need("head_rows", "this"), Need("key_norms", "this")),
    "mixed layers": (LAST_ROW, Need("head_rows", "this"), KEY_NORMS, PREVIOUS_FEATURES),
    "keys alone": (KEY_NORMS,),
    "values and positions": (VALUES, ROTARY_MEANS),
    "heads alone": (HEAD_ROWS,),
}


@each("needs", SEVERAL)
@pytest.mark.parametrize(("batch", "positions"), [("left-padded", "keep"), ("2, 1 and 0 images", "reindex")])
def test_every_signal_inside_the_llm_is_the_oracles(model, tolerance, batch, positions, needs):
    """After stages that dropped and merged tokens, at two stages of one layer, rows padded."""
    wanted, seen = SEVERAL[needs], []

    def choose(stage, signals, row):
        seen.append(((str(stage.title), row), signals))
        return merged(stage, signals, row)

    early = (LLM_INPUT,) if LLM_INPUT in wanted else ()
    stages = [
        stage("encoder", 14, positions), stage("projector", 12, positions, early), stage(2, 10, positions, wanted),
        stage(4, 8, positions, wanted), stage(4, 5, positions, wanted, title="again"),
    ]  # fmt: skip
    against_oracle(model, prompt(model, BATCHES[batch]), stages, choose, tolerance)
    half = len(seen) // 2
    engine, by_oracle = dict(seen[:half]), dict(seen[half:])
    assert engine.keys() == by_oracle.keys() and len(engine) == half
    compared = 0
    for key, mine in engine.items():
        for field in fields(Signals):
            one, other = getattr(mine, field.name), getattr(by_oracle[key], field.name)
            if other is not None:
                assert one.shape == other.shape, (key, field.name)
                assert (one - other).abs().max() <= 10 * tolerance * other.abs().max().clamp(min=1), (key, field.name)
                compared += 1
    assert compared >= half + 3 * len(wanted)


@pytest.mark.parametrize("choice", [TEXT_FEATURES, PREVIOUS_FEATURES], ids=lambda need: need.kind)
def test_hidden_states_that_stages_look_at_are_the_oracles(model, tolerance, choice):
    def nearest(stage, signals, row):
        if choice is TEXT_FEATURES:
            scores = signals.features @ signals.text_features.mean(0)
        else:
            scores = (signals.features - signals.previous_features).norm(dim=1)
        return Selection(kept=scores.argsort(descending=True)[: stage.keep].sort().values)

    stages = [stage(2, 9, "keep", (choice,)), stage(4, 4, "reindex", (choice,)), stage(4, 3, "keep", (choice,))]
    against_oracle(model, prompt(model, BATCHES["left-padded"]), stages, nearest, tolerance)


@pytest.mark.parametrize("batch", ["one row", "left-padded"])
def test_gaps_in_positions_are_not_taken_for_packed_sequences(model, tolerance, batch):
    inputs = prompt(model, BATCHES[batch])
    stages = [stage("projector", 7, "keep"), stage(3, 4, "keep")]
    with prune(model, FAMILY, None, stages, spread):
        cached = model(**inputs).logits[:, -1]
        uncached = model(**inputs, use_cache=False).logits[:, -1]
    if batch == "one row":  # a direct forward counts pads as positions, which the oracle does not
        expected, _ = oracle(model, inputs, stages, spread, torch.zeros(1, 1, dtype=torch.long))
        assert (uncached - expected[0]).abs().max() <= tolerance
    assert torch.equal(cached, uncached)
