"""``prune`` on inputs that it encodes: one verb for every stage, the model's own ``generate``, every family."""

from threading import Thread

import pytest
import torch
from engine_models import FAMILY, generated, merged, prompt, ragged, spread, stage
from engine_oracle import oracle
from tiny_families import CASES
from transformers import TextIteratorStreamer

from tokviz.engine import encode, prune, running_on, selector, shorten
from tokviz.errors import Unsupported
from tokviz.names import VisionLayer
from tokviz.types import LAST_ROW, Diagnostics, Selection, Stage

ROWS = [[2, "visual", 1, "visual", 4], [3, "visual", 5], [7]]
STEPS = 4


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return CASES[request.param]


@pytest.fixture(scope="module")
def model(case):
    return case.model(torch.float64, "sdpa")


@pytest.fixture(scope="module")
def stages(case):
    positions = "reindex" if case.here.reindexes else "keep"
    return [*(stage(site, 11, positions) for site in case.early), stage(1, 7, positions), stage(3, 4, positions)]


def test_every_family_answers_as_with_inputs_of_its_own(case, model, stages):
    """Twice in one context; a second turn goes on from the cache, with the ids of the whole conversation."""
    inputs = case.prompt(model, ROWS)
    length = inputs["input_ids"].shape[1]
    more = torch.randint(4, 89, (3, 5), generator=torch.Generator().manual_seed(2))

    def conversation(trace, given):
        first = model.generate(**given, max_new_tokens=3, do_sample=False)[:, -3:]
        ids = torch.cat([inputs["input_ids"], first, more], dim=1)
        mask = torch.cat([inputs["attention_mask"], torch.ones(3, 8, dtype=torch.long)], dim=1)
        turn = {"input_ids": ids, "attention_mask": mask, "past_key_values": trace.cache}
        return first, generated(model, turn, STEPS)

    with prune(model, case.here, None, stages, merged) as own:
        logits = generated(model, inputs, STEPS)[1]
        kept, events = own.kept, [[event.kept.tolist() for event in row] for row in own.events]
        first, again = conversation(own, inputs)
    with prune(model, case.here, inputs, stages, merged) as pruned:
        for _ in range(2):
            tokens, mine = generated(model, pruned.inputs, STEPS)
            assert torch.equal(mine, logits) and tokens.shape == (3, STEPS)
            assert [[event.kept.tolist() for event in row] for row in pruned.events] == events
            assert [left.tolist() for left in pruned.kept] == [left.tolist() for left in kept]
            assert kept[0].tolist() == events[0][-1] and not kept[2].numel()
        my_first, my_turn = conversation(pruned, pruned.inputs)
    assert torch.equal(my_first, first) and torch.equal(my_turn[0], again[0]) and torch.equal(my_turn[1], again[1])
    assert torch.equal(again[0][:, length : length + 3], first)


def test_beams_and_sampled_sequences_are_copies_of_their_prompt(case, model, stages):
    inputs, rows = case.prompt(model, ROWS), []
    beams = {"num_beams": 2, "num_return_sequences": 2} if case.beams else {"num_return_sequences": 2}
    options = {**beams, "do_sample": True, "max_new_tokens": STEPS}

    def once(stage, signals, row):
        rows.append(row)
        return merged(stage, signals, row)

    torch.manual_seed(5)
    with prune(model, case.here, None, stages, lambda stage, signals, row: merged(stage, signals, row // 2)):
        expected = model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]
    torch.manual_seed(5)
    with prune(model, case.here, inputs, stages, once) as pruned:
        assert torch.equal(model.generate(**pruned.inputs, **options), expected)
    assert rows == [0, 1] * len(stages), "a prompt decides for its copies"
    assert len(pruned.kept) == len(pruned.events) == 6 and torch.equal(pruned.kept[0], pruned.kept[1])
    assert [event.sequence.tolist() for event in pruned.events[0]] == [e.sequence.tolist() for e in pruned.events[1]]


# -- stages inside the vision tower ------------------------------------------------------------------------------------

BATCH = [[2, "image", 1, "image", 4], [3, "image", 5], [7]]
MERGING = [stage(VisionLayer(0), 24, "reindex"), stage(VisionLayer(2), 16, "reindex")]
LATER = [stage("encoder", 9, "reindex"), stage("projector", 8, "keep"), stage(2, 5, "keep", (LAST_ROW,)), stage(4, 3)]


def halving(stage, signals, row):
    """Inside the tower every image loses as many tokens, and the last one left comes first; else as ``ragged``."""
    if not isinstance(stage.site, VisionLayer):
        return ragged(stage, signals, row)
    n_images = 1 if signals.view is None else len(signals.view.unique())
    each, left = signals.features.shape[0] // n_images, stage.keep // 2
    kept = torch.cat([torch.arange(each - left, each) + each * image for image in range(n_images)])
    sequence = torch.cat([torch.arange(left).roll(1) + left * image for image in range(n_images)])
    return Selection(kept=kept, features=signals.features[kept] * 0.5, sequence=sequence)


def test_stages_inside_the_tower_before_the_llm_and_inside_it(sdpa64):
    inputs = prompt(sdpa64, BATCH)
    stages = [*MERGING, *LATER]
    short, before = shorten(sdpa64, FAMILY, encode(sdpa64, FAMILY, inputs, ()), stages, halving)
    with running_on(sdpa64, FAMILY, short, LATER[2:], halving) as trace:
        tokens, logits = generated(sdpa64, short.generate_inputs(), STEPS)
    for given in (inputs, encode(sdpa64, FAMILY, inputs, ())):
        with prune(sdpa64, FAMILY, given, stages, halving) as pruned:
            mine = generated(sdpa64, pruned.inputs, STEPS)
        assert torch.equal(mine[0], tokens) and (mine[1] - logits).abs().max() <= 1e-6
        expected = [[*early, *late] for early, late in zip(before, trace.events, strict=True)]
        for row, events in enumerate(pruned.events):
            assert [event.sequence.tolist() for event in events] == [e.sequence.tolist() for e in expected[row]]
        assert [left.tolist() for left in pruned.kept[:2]] == [row[-1].kept.tolist() for row in pruned.events[:2]]
        assert [len(left) for left in pruned.kept] == [3, 1, 0]


def test_a_second_turn_behind_stages_inside_the_tower(sdpa64):
    """Against one forward of the short prompt with everything that was said behind it."""
    inputs = prompt(sdpa64, BATCH)
    more = torch.randint(2, 89, (3, 4), generator=torch.Generator().manual_seed(4))
    with prune(sdpa64, FAMILY, inputs, MERGING, halving) as pruned:
        first = sdpa64.generate(**pruned.inputs, max_new_tokens=3, do_sample=False)
        ids = torch.cat([inputs["input_ids"], first, more], dim=1)
        mask = torch.cat([inputs["attention_mask"], torch.ones(3, 7, dtype=torch.long)], dim=1)
        turn = {"input_ids": ids, "attention_mask": mask, "past_key_values": pruned.cache}
        tokens, logits = generated(sdpa64, turn, STEPS)
    assert pruned.cache.layers[0].keys.shape[-2] < tokens.shape[1] - 16
    short, _ = shorten(sdpa64, FAMILY, encode(sdpa64, FAMILY, inputs, ()), MERGING, halving)
    said = sdpa64.get_input_embeddings()(tokens[:, inputs["input_ids"].shape[1] : -1])
    mask = torch.cat([short.attention_mask, torch.ones(said.shape[:2], dtype=torch.long)], dim=1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        embeds = torch.cat([short.inputs_embeds, said], dim=1)
        expected = sdpa64(inputs_embeds=embeds, attention_mask=mask, position_ids=positions).logits[:, -STEPS:]
    assert (logits.transpose(0, 1) - expected).abs().max() <= 1e-6


def test_beams_behind_stages_inside_the_tower(sdpa64):
    inputs, calls = prompt(sdpa64, BATCH), []

    def counted(stage, signals, row):
        calls.append((stage.site, row))
        return halving(stage, signals, row)

    options = {"num_beams": 3, "max_new_tokens": STEPS, "return_dict_in_generate": True, "output_scores": True}
    with prune(sdpa64, FAMILY, inputs, [*MERGING, *LATER], counted) as pruned:
        mine = sdpa64.generate(**pruned.inputs, **options)
    assert sorted(calls, key=str) == sorted({*calls}, key=str), "once for a prompt"
    short, _ = shorten(sdpa64, FAMILY, encode(sdpa64, FAMILY, inputs, ()), [*MERGING, *LATER], halving)
    with running_on(sdpa64, FAMILY, short, LATER[2:], halving):
        expected = sdpa64.generate(**short.generate_inputs(), **options)
    assert torch.equal(mine.sequences, expected.sequences)
    assert (mine.sequences_scores - expected.sequences_scores).abs().max() <= 1e-6
    assert len(pruned.events) == 9 and len(pruned.events[1]) == len(MERGING) + len(LATER)


@pytest.mark.parametrize("stages", [MERGING, LATER], ids=["inside the tower", "behind it"])
def test_inputs_that_were_encoded_before_are_the_ones_to_call_generate_with(sdpa64, stages):
    inputs = prompt(sdpa64, BATCH)
    with prune(sdpa64, FAMILY, inputs, stages, halving), pytest.raises(Unsupported, match=r"its pruned\.inputs"):
        sdpa64(**inputs)


# -- around it ---------------------------------------------------------------------------------------------------------


class _Tokenizer:
    def decode(self, ids, **_):
        return "".join(f"{int(i)} " for i in ids)


def test_an_answer_streams_while_generate_runs_in_a_thread(sdpa64):
    inputs, stages = prompt(sdpa64, [[3, "image", 6]]), [*MERGING, *LATER]
    with prune(sdpa64, FAMILY, inputs, stages, halving) as pruned:
        tokens = sdpa64.generate(**pruned.inputs, max_new_tokens=6, do_sample=False)[0].tolist()
    streamer = TextIteratorStreamer(_Tokenizer(), timeout=60)
    with prune(sdpa64, FAMILY, inputs, stages, halving, this_thread=False) as pruned:
        options = {**pruned.inputs, "max_new_tokens": 6, "do_sample": False, "streamer": streamer}
        worker = Thread(target=pruned.bind(sdpa64.generate), kwargs=options)
        worker.start()
        text = "".join(streamer)
    worker.join(5)
    assert [int(token) for token in text.split()] == tokens and len(pruned.kept[0]) == 3


def test_nothing_of_it_stays_on_the_model_and_encoding_needs_no_attribute():
    case = CASES["llava_next (vicuna)"]
    model = case.model()
    inputs, base, seen = case.prompt(model, [[2, "visual", 4]]), model.base_model, []
    watch = model.model.multi_modal_projector.register_forward_hook(
        lambda *_: seen.append("get_image_features" in vars(base))
    )
    with prune(model, case.here, inputs, [stage("encoder", 5)], spread) as pruned:
        assert "get_image_features" not in vars(base)
        model.generate(**pruned.inputs, max_new_tokens=1)
    encode(model, case.here, inputs, case.vision)
    assert seen and not any(seen), "the arguments are known: no method of the model is shadowed"
    watch.remove()
    assert "get_image_features" not in vars(base) and "get_video_features" not in vars(base)


def test_without_inputs_there_are_none_to_hand_on(sdpa32):
    inputs = prompt(sdpa32, [[3, "image", 6]])
    with prune(sdpa32, FAMILY, None, [stage(2, 3)], spread) as pruned:
        assert pruned.kept == [] and pruned.cache is None
        with pytest.raises(Unsupported, match="call generate with your own"):
            _ = pruned.inputs
        generated(sdpa32, inputs, 1)
    assert [len(left) for left in pruned.kept] == [3]


def test_diagnostics_are_made_only_for_those_who_ask(sdpa32):
    inputs, asked = prompt(sdpa32, [[3, "image", 6]]), []

    def told(stage, signals, row):
        diagnostics = Diagnostics(facts={"site": str(stage.site)})
        return Selection(
            kept=spread(stage, signals, row).kept, diagnose=lambda: asked.append(stage.site) or diagnostics
        )

    for diagnose in (False, True):
        with prune(sdpa32, FAMILY, inputs, [stage("projector", 9), stage(2, 3)], told, diagnose=diagnose) as pruned:
            generated(sdpa32, pruned.inputs, 1)
        found = [event.diagnostics and event.diagnostics.facts["site"] for event in pruned.events[0]]
        assert (asked, found) == ((["projector", 2], ["projector", "2"]) if diagnose else ([], [None, None]))
    encoded = encode(sdpa32, FAMILY, inputs, ())
    assert shorten(sdpa32, FAMILY, encoded, [stage("projector", 9)], told)[1][0][0].diagnostics is None
    assert shorten(sdpa32, FAMILY, encoded, [stage("projector", 9)], told, diagnose=True)[1][0][0].diagnostics


def test_a_selector_gives_every_row_and_every_prefill_what_it_would_get_alone(sdpa32):
    def by_lot(signals, keep, params, generator):
        n = signals.features.shape[0]
        return Selection(kept=torch.randperm(n, generator=generator)[: keep - params["less"]].sort().values)

    stages = [Stage("projector", 9, by_lot), Stage(2, 5, by_lot)]

    def kept(inputs, times=1, seed=3):
        with prune(sdpa32, FAMILY, inputs, stages, selector({"less": 1}, seed)) as pruned:
            for _ in range(times):
                generated(sdpa32, pruned.inputs, 1)
        return [[event.kept.tolist() for event in row] for row in pruned.events]

    (alone,) = kept(prompt(sdpa32, [[3, "image", 6]]))
    assert [len(left) for left in alone] == [8, 4] and kept(prompt(sdpa32, [[3, "image", 6]]), seed=4) != [alone]
    assert kept(prompt(sdpa32, [[3, "image", 6]] * 2), times=3) == [alone, alone]
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    mixed = kept(prompt(sdpa32, [[3, "image", 6]] * 2), seed=generators)
    assert mixed[0] == alone and mixed[1] != alone


def test_against_the_oracle(sdpa64):
    inputs, stages = prompt(sdpa64, [[5, "image", 6], [2, "image", 3]]), [*LATER[:2], stage(2, 5), stage(4, 3)]
    with prune(sdpa64, FAMILY, inputs, stages, ragged) as pruned:
        tokens, logits = generated(sdpa64, pruned.inputs, STEPS)
    expected, kept = oracle(sdpa64, inputs, stages, ragged, tokens)
    assert (logits - expected).abs().max() <= 1e-6
    assert [[event.kept.tolist() for event in row] for row in pruned.events] == kept
