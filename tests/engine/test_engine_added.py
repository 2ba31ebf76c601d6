"""Stages that add tokens, change their order and say how many patches a token stands for."""

from dataclasses import replace

import pytest
import torch
from engine_models import FAMILY, everything, generated, merged, prompt, ragged, stage, unpruned
from engine_sequences import adding, exchanging, merging_and_adding, only_shuffling, rebuilt, shuffling

from tokviz.engine import encode, kv_cache_bytes, prune, shorten
from tokviz.types import CLS_ATTENTION, LAST_ROW, TEXT_FEATURES, TEXT_ROWS, Need, Selection

POSITIONS = pytest.mark.parametrize("positions", ["keep", "reindex"])
CHOICES = pytest.mark.parametrize(
    "choose", [adding, merging_and_adding, shuffling, only_shuffling, exchanging], ids=lambda choose: choose.__name__
)
BATCHES = {
    "one row": [[3, "image", 6]],
    "image first": [["image", 6], ["image", 3]],
    "left-padded": [[5, "image", 6], [2, "image", 3]],
    "1 and 0 images": [[3, "image", 5], [7]],
    "side by side": [[2, "image", "image", 4]],
    "text between": [[2, "image", 2, "image", 1, "image", 4], [2, "image", 3, "image", 4]],
}


def schedules(positions):
    return {
        "encoder": [stage("encoder", 9, positions)],
        "projector": [stage("projector", 7, positions)],
        "a layer": [stage(2, 9, positions)],
        "layer 0": [stage(0, 9, positions)],
        "two early": [stage("encoder", 12, positions), stage("projector", 7, positions)],
        "two layers": [stage(1, 11, positions), stage(3, 5, positions)],
        "twice at one layer": [stage(2, 11, positions), stage(2, 6, positions)],
        "everywhere": [
            stage("encoder", 13, positions), stage("projector", 10, positions), stage(1, 7, positions),
            stage(4, 4, positions),
        ],
    }  # fmt: skip


def against_rebuilt(model, inputs, stages, choose, tolerance):
    plain = unpruned(model, inputs, steps=4)[1]
    with prune(model, FAMILY, None, stages, choose) as trace:
        sequences, logits = generated(model, inputs, steps=4)
    expected, orders = rebuilt(model, inputs, stages, choose, sequences[:, inputs["input_ids"].shape[1] :])
    assert (logits - expected).abs().max() <= tolerance
    assert [[event.sequence.tolist() for event in row] for row in trace.events] == orders
    for row in trace.events:
        for event in row:
            assert event.kept.tolist() == sorted(event.kept.tolist())
            assert set(event.sequence.tolist()) - {-1} == set(event.kept.tolist())
    assert (logits - plain).abs().max() > 0.05, "nothing changed: the test has no teeth"


@CHOICES
@POSITIONS
@pytest.mark.parametrize("where", schedules("keep"))
def test_added_and_reordered_tokens_equal_a_sequence_rebuilt_by_hand(sdpa64, where, positions, choose):
    inputs = prompt(sdpa64, BATCHES["left-padded"])
    against_rebuilt(sdpa64, inputs, schedules(positions)[where], choose, 1e-6)


@POSITIONS
@pytest.mark.parametrize("batch", BATCHES)
def test_every_kind_of_prompt_takes_them(model, tolerance, batch, positions):
    against_rebuilt(model, prompt(model, BATCHES[batch]), schedules(positions)["everywhere"], shuffling, tolerance)


@pytest.mark.parametrize("early, late", [("keep", "reindex"), ("reindex", "keep")])
def test_position_policies_may_differ(sdpa64, early, late):
    stages = [stage("projector", 9, early), stage(2, 5, late), stage(4, 3, early)]
    for rows in (BATCHES["left-padded"], BATCHES["image first"]):
        against_rebuilt(sdpa64, prompt(sdpa64, rows), stages, shuffling, 1e-6)


@CHOICES
@POSITIONS
@pytest.mark.parametrize(
    ("batch", "kind"), [("image first", "sdpa64"), ("left-padded", "eager32"), ("1 and 0 images", "sdpa32")]
)
def test_the_hook_free_way_is_bit_identical_to_the_hooks(request, kind, batch, positions, choose):
    model = request.getfixturevalue(kind)
    inputs = prompt(model, BATCHES[batch])
    stages = schedules(positions)["everywhere"]
    early, late = stages[:2], stages[2:]
    encoded = encode(model, FAMILY, inputs, ())
    short, events = shorten(model, FAMILY, encoded, early, choose)
    with prune(model, FAMILY, None, early, choose):
        hooked = generated(model, inputs, steps=4)
    new, logits = generated(model, short.generate_inputs(), steps=4)
    assert torch.equal(logits, hooked[1]) and torch.equal(new, hooked[0][:, inputs["input_ids"].shape[1] :])
    with prune(model, FAMILY, None, stages, choose) as trace:
        through = generated(model, inputs, steps=4)[1]
    with prune(model, FAMILY, short, late, choose) as rest:
        assert torch.equal(generated(model, short.generate_inputs(), steps=4)[1], through)
    both = [[*a, *b] for a, b in zip(events, rest.events, strict=True)]
    assert _told(both) == _told(trace.events)
    # One stage at a time is the same as both at once.
    first, _ = shorten(model, FAMILY, encoded, early[1:], choose)
    again, _ = shorten(model, FAMILY, first, [replace(early[1], keep=5)], choose)
    at_once, _ = shorten(model, FAMILY, encoded, [early[1], replace(early[1], keep=5)], choose)
    assert torch.equal(again.inputs_embeds, at_once.inputs_embeds) and _added(again) == _added(at_once)
    assert torch.equal(again.text_mask, at_once.text_mask)


def test_a_shortened_prompt_remembers_where_its_positions_began(sdpa64):
    """The first tokens are dropped and leave a gap that a later stage closes."""
    inputs = prompt(sdpa64, BATCHES["image first"])
    stages = [stage("projector", 5, "keep"), stage(2, 3, "reindex")]

    def choose(stage, signals, row):
        return Selection(kept=torch.arange(signals.features.shape[0])[-stage.keep :])

    short, _ = shorten(sdpa64, FAMILY, encode(sdpa64, FAMILY, inputs, ()), stages[:1], choose)
    assert short.position_ids[:, -8].tolist() == [14, 11]
    with prune(sdpa64, FAMILY, short, stages[1:], choose):
        logits = generated(sdpa64, short.generate_inputs())[1]
    with prune(sdpa64, FAMILY, None, stages, choose):
        assert torch.equal(generated(sdpa64, inputs)[1], logits)


def _added(prompt):
    return None if prompt.added_mask is None else prompt.added_mask.tolist()


def _told(rows):
    return [[(e.alive.tolist(), e.kept.tolist(), e.sequence.tolist(), e.n_extra) for e in row] for row in rows]


@POSITIONS
def test_embeddings_put_together_by_hand_give_the_same_logits(sdpa64, positions):
    """The whole prompt as a user would build it: text, kept tokens, added ones, question; nothing of the engine."""
    inputs = prompt(sdpa64, BATCHES["one row"])
    encoded = encode(sdpa64, FAMILY, inputs, ())
    features, embeds = encoded.vision[0].features, encoded.inputs_embeds[0]
    kept = torch.tensor([1, 4, 9, 15])
    extra = torch.stack([features.mean(0), features[3] + features[7]])

    def choose(stage, signals, row):
        return Selection(kept=kept, extra=extra, sequence=torch.tensor([5, 3, 0, 4, 1, 2]))

    project = sdpa64.model.multi_modal_projector
    tokens = [project(extra[1:]), embeds[3 + 15][None], embeds[3 + 1][None], project(extra[:1]), embeds[3 + 4][None],
              embeds[3 + 9][None]]  # fmt: skip
    by_hand = {"inputs_embeds": torch.cat([embeds[:3], *tokens, embeds[19:]])[None]}
    by_hand["attention_mask"] = torch.ones(1, 15, dtype=torch.long)
    if positions == "keep":  # the added tokens take the places of the last dropped ones, 13 and 14
        by_hand["position_ids"] = torch.tensor([[0, 1, 2, 17, 18, 4, 16, 7, 12, *range(19, 25)]])
    expected = generated(sdpa64, by_hand)[1]
    with prune(sdpa64, FAMILY, None, [stage("encoder", 6, positions)], choose):
        logits = generated(sdpa64, inputs)[1]
    assert (logits - expected).abs().max() <= 1e-6


def test_added_tokens_are_no_visual_columns_and_no_question(sdpa64):
    inputs = prompt(sdpa64, BATCHES["left-padded"])
    stages = [stage("projector", 6), stage(2, 6, needs=(TEXT_FEATURES, TEXT_ROWS)), stage(2, 3)]
    seen = []

    def choose(stage, signals, row):
        if stage.needs:
            seen.append((row, signals.features.shape[0], signals.text_features.shape[0], signals.attention_rows.shape))
        return adding(stage, signals, row)

    encoded = encode(sdpa64, FAMILY, inputs, ())
    short, _ = shorten(sdpa64, FAMILY, encoded, stages[:1], choose)
    assert short.n_visual == [6, 4] and short.added_mask.sum(1).tolist() == [2, 2]
    assert short.text_mask.sum(1).tolist() == [6, 3]
    with prune(sdpa64, FAMILY, short, stages[1:], choose):
        generated(sdpa64, short.generate_inputs(), steps=1)
    assert seen == [(0, 6, 6, (6, 6)), (1, 4, 3, (3, 4))]
    with prune(sdpa64, FAMILY, None, stages, choose) as trace:
        generated(sdpa64, inputs, steps=1)
        held = [layer.keys.shape[2] for layer in trace.cache.layers]
    assert seen[2:] == seen[:2]
    last = [len(row[-1].sequence) for row in trace.events]
    assert held[0] == 5 + 8 + 6 and held[2] == max(5 + last[0] + 6, 2 + last[1] + 3)
    assert kv_cache_bytes(trace.cache) == sum(held) * 2 * 2 * 2 * 8 * 8


def test_a_row_whose_images_are_gone_keeps_its_question(sdpa64):
    """Only added tokens are left: what stands behind the image is still just the question."""

    def summary(stage, signals, row):
        if stage.site == "projector":
            return Selection(kept=torch.arange(0), extra=signals.features.mean(0, keepdim=True))
        raise AssertionError("there is no visual token left to decide on")

    encoded = encode(sdpa64, FAMILY, prompt(sdpa64, BATCHES["one row"]), ())
    short, _ = shorten(sdpa64, FAMILY, encoded, [stage("projector", 1)], summary)
    assert short.text_mask.sum() == 6 and short.n_visual == [0] and short.added_mask.sum(1).tolist() == [1]
    with prune(sdpa64, FAMILY, short, [stage(2, 1)], summary) as trace:
        generated(sdpa64, short.generate_inputs(), steps=1)
    assert trace.events == [[]]
    against_rebuilt(sdpa64, prompt(sdpa64, BATCHES["one row"]), [stage("projector", 1), stage(2, 1)], summary, 1e-6)


@POSITIONS
def test_without_a_cache_the_first_decision_stands(model, tolerance, positions):
    calls = []

    def choose(stage, signals, row):
        calls.append(row)
        return shuffling(stage, signals, row)

    inputs = prompt(model, BATCHES["left-padded"])
    stages = schedules(positions)["everywhere"]
    with prune(model, FAMILY, None, stages, choose):
        cached = generated(model, inputs)
        n = len(calls)
        uncached = generated(model, inputs, use_cache=False)
    assert n == 8 and len(calls) == 16
    assert torch.equal(cached[0], uncached[0])
    assert (cached[1] - uncached[1]).abs().max() <= tolerance


@pytest.mark.parametrize(
    "need", [LAST_ROW, TEXT_ROWS, Need("last_row", "this"), CLS_ATTENTION], ids=lambda need: f"{need.kind} {need.layer}"
)
def test_later_stages_get_their_rows_in_sequence_order(model, tolerance, need):
    """The second stage's signals are those of a run whose tokens stood in order, permuted."""
    order = torch.tensor([3, 1, 0, 4, 2])
    seen = {}

    def run(reordered):
        def choose(stage, signals, row):
            if stage.needs:
                seen[reordered] = signals
                return everything(stage, signals, row)
            return Selection(kept=torch.tensor([1, 4, 6, 9, 14]), sequence=order if reordered else None)

        # Positions stay with their tokens; before layer 5 nothing of the order shows but the order itself.
        stages = [stage(5, 5, "keep"), stage(5, 5, "keep", (need,))]
        with prune(model, FAMILY, None, stages, choose) as trace:
            generated(model, prompt(model, BATCHES["one row"]), steps=1)
        return trace.events[0]

    usual, mine = run(False), run(True)
    assert mine[0].kept.tolist() == usual[0].kept.tolist() == [1, 4, 6, 9, 14]
    assert mine[1].alive.tolist() == [9, 4, 1, 14, 6] == mine[1].sequence.tolist()
    assert mine[1].kept.tolist() == [1, 4, 6, 9, 14]
    assert torch.equal(seen[True].features, seen[False].features[order])
    for name in ("attention_rows", "cls_attention"):
        if getattr(seen[True], name) is not None:
            expected = getattr(seen[False], name)[..., order]
            assert (getattr(seen[True], name) - expected).abs().max() <= tolerance


def test_an_order_of_its_own_holds_within_each_of_the_images_that_text_separates(sdpa64):
    def choose(stage, signals, row):
        kept = torch.tensor([1, 3, 5, 20, 22])
        return Selection(kept=kept, extra=signals.features[:1] * 2, sequence=torch.tensor([4, 2, 5, 0, 3, 1]))

    encoded = encode(sdpa64, FAMILY, prompt(sdpa64, [[2, "image", 1, "image", 4]]), ())
    short, events = shorten(sdpa64, FAMILY, encoded, [stage("projector", 6)], choose)
    first, second = encoded.inputs_embeds[0, 2:18], encoded.inputs_embeds[0, 19:35]
    expected = [first[[5, 1, 3]], encoded.inputs_embeds[0, 18:19], second[[6]], first[:1] * 2, second[[4]]]
    assert torch.equal(short.inputs_embeds[0, 2:9], torch.cat(expected))
    assert events[0][0].sequence.tolist() == [5, 1, 3, 22, -1, 20]


def test_added_tokens_stay_with_the_image_whose_place_they_take(sdpa64):
    def choose(stage, signals, row):
        kept = torch.tensor([2, 3, *range(16, 31)])  # all but one of the second image
        return Selection(kept=kept, extra=signals.features[:2] * 2)

    encoded = encode(sdpa64, FAMILY, prompt(sdpa64, [[2, "image", 1, "image", 4]]), ())
    short, events = shorten(sdpa64, FAMILY, encoded, [stage("projector", 19)], choose)
    before, doubled = encoded.inputs_embeds[0], encoded.inputs_embeds[0, 2:4] * 2
    expected = [before[:2], before[4:6], doubled[:1], before[18:19], before[19:34], doubled[1:], before[35:]]
    assert torch.equal(short.inputs_embeds[0], torch.cat(expected))
    assert events[0][0].sequence.tolist() == [2, 3, -1, *range(16, 31), -1]


def test_how_many_patches_a_token_stands_for_goes_along(sdpa64):
    seen = []

    def choose(stage, signals, row):
        seen.append(signals.sizes)
        if stage.title == "first":
            kept = torch.tensor([0, 5, 9, 12])
            return Selection(kept=kept, sizes=torch.tensor([2.0, 7.0, 4.0, 3.0]), sequence=torch.tensor([1, 0, 3, 2]))
        if stage.title == "last":
            return everything(stage, signals, row)
        return Selection(kept=torch.tensor([0, 2, 3]))

    stages = [stage("encoder", 4, title="first"), stage("projector", 3, title="second"), stage(2, 3, title="last")]
    inputs = prompt(sdpa64, BATCHES["one row"])
    with prune(sdpa64, FAMILY, None, stages, choose):
        generated(sdpa64, inputs, steps=1)
    short, _ = shorten(sdpa64, FAMILY, encode(sdpa64, FAMILY, inputs, ()), stages[:2], choose)
    with prune(sdpa64, FAMILY, short, stages[2:], choose):
        generated(sdpa64, short.generate_inputs(), steps=1)
    told = [None if sizes is None else sizes.tolist() for sizes in seen]
    assert told == [None, [7, 2, 3, 4], [7, 3, 4]] * 2


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"extra": torch.zeros(1, 3)}, r"extra must be \(1, 32\)"),
        ({"extra": torch.zeros(15, 32)}, "do not fit in the places of 16"),
        ({"sequence": torch.tensor([0, 2])}, "every position 0..1"),
        ({"sequence": torch.tensor([0, 0])}, "every position 0..1"),
        ({"sequence": torch.tensor([1.0, 0.0])}, "int64"),
        ({"sequence": torch.tensor([1, 0]), "extra": torch.zeros(1, 32)}, "every position 0..2"),
        ({"sizes": torch.tensor([1.0])}, r"sizes must be \(2,\)"),
    ],
)
def test_a_method_that_breaks_its_contract_is_named(sdpa32, change, sentence):
    encoded = encode(sdpa32, FAMILY, prompt(sdpa32, BATCHES["one row"]), ())
    selection = Selection(kept=torch.tensor([1, 4]), **change)
    with pytest.raises(ValueError, match=f"wrong one.*{sentence}"):
        shorten(sdpa32, FAMILY, encoded, [stage("projector", 2, title="wrong one")], lambda *_: selection)


def test_beams_take_added_tokens_along(sdpa64):
    inputs = prompt(sdpa64, BATCHES["left-padded"])

    def choose(stage, signals, row):
        return shuffling(stage, signals, row // 2)

    stages = schedules("reindex")["everywhere"]
    with prune(sdpa64, FAMILY, None, stages, choose):
        beams = sdpa64.generate(
            **inputs, num_beams=2, max_new_tokens=4, length_penalty=0.0, return_dict_in_generate=True,
            output_scores=True,
        )  # fmt: skip
    new = beams.sequences[:, inputs["input_ids"].shape[1] :]
    logits, _ = rebuilt(sdpa64, inputs, stages, shuffling, new)
    scores = logits.log_softmax(-1).gather(-1, new.T[..., None])[..., 0].sum(0)
    assert (beams.sequences_scores - scores).abs().max() <= 1e-5


def test_rows_may_add_or_not(sdpa64):
    def choose(stage, signals, row):
        return shuffling(stage, signals, row) if row else merged(stage, signals, row)

    inputs = prompt(sdpa64, BATCHES["left-padded"])
    against_rebuilt(sdpa64, inputs, schedules("keep")["everywhere"], choose, 1e-6)
    against_rebuilt(sdpa64, inputs, schedules("reindex")["two layers"], lambda *a: ragged(*a), 1e-6)
