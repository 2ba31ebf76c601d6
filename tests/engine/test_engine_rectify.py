"""Merged tokens that weigh as many as they carry: ln(group size) in the attention of every later layer."""

from dataclasses import replace

import pytest
import torch
from engine_models import FAMILY, PATCHES, build, generated, merged, prompt, ragged, spread, stage
from engine_oracle import oracle
from engine_sequences import rebuilt
from loops import each
from test_engine_methods import PLACES, chosen_by, planned, words
from tiny_families import CASES
from transformers import DynamicCache

from tokviz.engine import encode, prune, running_on, shorten
from tokviz.engine.cache import state_of
from tokviz.engine.prefill import causal_mask
from tokviz.errors import BadInput, Unsupported
from tokviz.pruners import PRUNERS, get
from tokviz.types import HEAD_ROWS, LAST_ROW, TEXT_ROWS, Need, PlanningInfo, Selection

PADDED = [[5, "image", 6], [2, "image", 3]]
GROUPS = [1, 2, 3, 4, 6]  # sizes of the groups of 16 patches, one behind the other


def rectified(*stages):
    return [replace(one, rectify=True) for one in stages]


def everywhere(positions):
    return rectified(
        stage("encoder", 13, positions), stage("projector", 11, positions), stage(1, 8, positions),
        stage(3, 4, positions), stage(5, 2, positions),
    )  # fmt: skip


def against_oracle(model, inputs, stages, choose, tolerance, reference=oracle):
    """Every generated step is what a full recomputation of the whole sequence with its weights gives."""
    with prune(model, FAMILY, None, stages, choose):
        sequences, logits = generated(model, inputs)
    new = sequences[:, inputs["input_ids"].shape[1] :]
    assert (logits - reference(model, inputs, stages, choose, new)[0]).abs().max() <= tolerance
    with prune(model, FAMILY, None, [replace(one, rectify=False) for one in stages], choose):
        assert (generated(model, inputs)[1] - logits).abs().max() > 0.01, "weights changed nothing: no teeth"


# -- k identical tokens ------------------------------------------------------------------------------------------------


def groups_of(n, sizes):
    """The group of each of ``n`` tokens; the last one takes the rest. Shape: ``(n,)``."""
    last = n - sum(sizes[:-1])
    return torch.arange(len(sizes)).repeat_interleave(torch.tensor([*sizes[:-1], last]))


def first_of_each(group):
    """Merge every group into its first token, which is what all of them are."""

    def choose(stage, signals, row):
        kept = torch.tensor([group.tolist().index(number) for number in range(int(group.max()) + 1)])
        return Selection(kept=kept, assignment=kept[group])

    return choose


def as_one(prompt, group):
    """The prompt whose visual tokens are those of their group's first: the same embedding, the same position."""
    columns = prompt.visual_mask[0].nonzero()[:, 0]
    first = columns[torch.tensor([group.tolist().index(number) for number in group])]
    embeds = prompt.inputs_embeds.clone()
    embeds[0, columns] = embeds[0, first]
    positions = prompt.own_rows.positions.clone()
    positions[..., columns] = positions[..., first]
    return replace(prompt, inputs_embeds=embeds, position_ids=positions, deepstack=None), columns


@each("name", ["llava", "qwen2_5_vl", "llava_next (mistral)", "internvl"])
@torch.no_grad()
def test_a_rectified_group_of_k_identical_tokens_is_the_k_tokens(name):
    """At the same positions, and where all of a group see each other, as its one merged token sees all of itself."""
    case = CASES[name]
    model = case.model()
    family, lm = case.here, case.language_model(model)
    encoded = encode(model, family, case.prompt(model, [[4, "visual", 5]]), ())
    group = groups_of(encoded.n_visual[0], GROUPS)
    whole, columns = as_one(encoded, group)
    weighs = rectified(stage("projector", len(GROUPS)))
    short, _ = shorten(model, family, whole, weighs, first_of_each(group))
    sizes = torch.bincount(group)
    assert short.carried.sizes[short.visual_mask].tolist() == sizes.tolist()
    assert (short.carried.sizes[~short.visual_mask] == 1).all()
    with running_on(model, family, short):
        new, logits = generated(model, short.generate_inputs(), steps=5)
    ids = torch.cat([whole.input_ids, new[:, :-1]], dim=1)
    embeds = torch.cat([whole.inputs_embeds, lm.embed_tokens(new[:, :-1])], dim=1)
    n, length = whole.input_ids.shape[1], ids.shape[1]
    seen = torch.ones(length, length, dtype=torch.bool).tril()
    seen[columns[:, None], columns] |= group[:, None] == group
    after = whole.position_ids[..., -1:] + torch.arange(1, length - n + 1)
    positions = torch.cat([whole.position_ids, after.expand(*whole.position_ids.shape[:-1], -1)], dim=-1)
    hidden = lm(
        inputs_embeds=embeds, position_ids=positions, attention_mask=additive(seen, embeds.dtype), use_cache=False
    ).last_hidden_state
    expected = model.lm_head(hidden[0, n - 1 :])
    assert (logits[:, 0] - expected).abs().max() <= 1e-5
    without, _ = shorten(model, family, whole, [replace(weighs[0], rectify=False)], first_of_each(group))
    with running_on(model, family, without):
        assert (generated(model, without.generate_inputs(), steps=1)[1][0, 0] - expected[0]).abs().max() > 0.01


def additive(seen, dtype):
    return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)[None, None]


@torch.no_grad()
def test_in_one_layer_the_text_and_the_last_of_k_causal_tokens_are_the_same():
    """Without any mask of ours: the stock causal model on k copies at one position, attention output and logits."""
    model, group = build(torch.float64), groups_of(PATCHES, GROUPS)
    model.model.language_model.layers = model.model.language_model.layers[:1]
    encoded = encode(model, FAMILY, prompt(model, [[4, "image", 5]]), ())
    whole, columns = as_one(encoded, group)
    short, _ = shorten(model, FAMILY, whole, rectified(stage("projector", 5)), first_of_each(group))
    caught, attention = [], model.model.language_model.layers[0].self_attn
    hook = attention.register_forward_hook(lambda _module, _args, output: caught.append(output[0][0]))
    with running_on(model, FAMILY, short):
        mine = model(**short.generate_inputs()).logits[0]
    theirs = model(**whole.generate_inputs()).logits[0]
    hook.remove()
    last = columns[torch.tensor([len(group) - 1 - group.tolist()[::-1].index(number) for number in range(5)])]
    same = torch.cat([last, torch.arange(int(columns[-1]) + 1, whole.input_ids.shape[1])])
    here = torch.arange(int(columns[0]), short.input_ids.shape[1])
    assert len(here) == len(same) == 10
    assert (caught[0][here] - caught[1][same]).abs().max() <= 1e-6
    assert (mine[here] - theirs[same]).abs().max() <= 1e-5


def test_the_mask_by_hand():
    """Two tokens, of which the second carries three, a pad in front; then one new token behind them."""
    low, ln3 = torch.finfo(torch.float32).min, torch.tensor(3.0).log()
    real, carried = torch.tensor([[False, True, True]]), torch.tensor([[1, 1, 3]])
    made = causal_mask(None, torch.zeros(1, 3, 8), real, 0, carried)
    expected = torch.tensor([[low, low, low], [low, 0, low], [low, 0, ln3]])
    assert torch.equal(made, expected[None, None])
    made = causal_mask(None, torch.zeros(1, 1, 8), torch.tensor([[False, True, True, True]]), 3, carried)
    assert torch.equal(made, torch.tensor([[[[low, 0, ln3, 0]]]]))


# -- against the masked reference --------------------------------------------------------------------------------------

BATCHES = {
    "one row": [[3, "image", 6]],
    "left-padded": PADDED,
    "2, 1 and 0 images": [[2, "image", 1, "image", 4], [3, "image", 5], [7]],
}


@pytest.mark.parametrize("positions", ["keep", "reindex"])
@pytest.mark.parametrize("batch", BATCHES)
def test_random_groups_equal_the_masked_reference_step_by_step(model, tolerance, batch, positions):
    against_oracle(model, prompt(model, BATCHES[batch]), everywhere(positions), merged, tolerance)


@pytest.mark.parametrize(
    "stages",
    [
        rectified(stage("projector", 7)),
        rectified(stage(2, 9), stage(4, 4)),
        rectified(stage(0, 8), stage(0, 5, "reindex")),
        [*rectified(stage("projector", 9)), stage(3, 4)],  # what later stages merge does not count
        [stage("projector", 9), *rectified(stage(3, 4, "reindex"))],
        # Weights of earlier layers go along when their cache is cut to what a later stage left.
        [*rectified(stage("projector", 9), stage(2, 7)), replace(stage(4, 4), cuts_cache=True)],
    ],
    ids=["before", "inside", "layer 0", "first alone", "second alone", "cut behind"],
)
def test_only_stages_that_rectify_count(sdpa64, stages):
    against_oracle(sdpa64, prompt(sdpa64, PADDED), stages, merged, 1e-6)


def shuffled_groups(stage, signals, row):
    """Merge as ``merged`` does, put one summary in, and hand the tokens over in an order of their own."""
    made = merged(stage, signals, row)
    if stage.site == 3:
        return made
    extra = signals.features.mean(0, keepdim=True)
    sequence = torch.randperm(len(made.kept) + 1, generator=torch.Generator().manual_seed(row))
    return replace(made, extra=extra, sequence=sequence)


def test_weights_follow_their_tokens_and_added_ones_carry_themselves(sdpa64):
    stages = rectified(stage("encoder", 12), stage("projector", 9, "reindex"), stage(3, 4))
    against_oracle(sdpa64, prompt(sdpa64, PADDED), stages, shuffled_groups, 1e-6, rebuilt)


@each(
    "name",
    ["llava_next (vicuna)", "llava_onevision", "video_llava", "qwen2_vl (videos)", "qwen3_vl", "smolvlm (videos)"],
)
def test_every_family_equals_the_masked_reference(name):
    case = CASES[name]
    model = case.model()
    inputs = case.prompt(model, [[3, "visual", 5], [1, "visual", 2]])
    stages = rectified(stage("projector", 9), stage(3, 5))
    with prune(model, case.here, None, stages, merged):
        sequences, logits = generated(model, inputs, steps=4)
    new = sequences[:, inputs["input_ids"].shape[1] :]
    assert (logits - oracle(model, inputs, stages, merged, new, case)[0]).abs().max() <= 2e-6


@each("needs", [(LAST_ROW,), (TEXT_ROWS, HEAD_ROWS), (Need("last_row", "this"),)])
def test_stages_behind_see_the_attention_that_the_model_really_has(model, tolerance, needs):
    seen = []

    def looking(stage, signals, row):
        seen.append(signals.attention_rows)
        return merged(stage, signals, row)

    stages = rectified(stage("projector", 12), stage(2, 9, needs=needs), stage(4, 5, "reindex", needs))
    against_oracle(model, prompt(model, [[3, "image", 6]]), stages, looking, tolerance)
    mine, theirs = seen[: len(stages)], seen[len(stages) : 2 * len(stages)]
    for engine, by_hand in zip(mine[1:], theirs[1:], strict=True):
        assert (engine - by_hand).abs().max() <= tolerance


# -- ways to generate --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", ["one row", "left-padded"])
def test_the_hook_free_way_and_no_cache_give_the_same_bits(model, batch):
    inputs, stages = prompt(model, BATCHES[batch]), everywhere("reindex")
    with prune(model, FAMILY, None, stages, merged):
        logits = generated(model, inputs)[1]
    with prune(model, FAMILY, None, stages, merged):
        uncached = generated(model, inputs, use_cache=False)[1]
    short, _ = shorten(model, FAMILY, encode(model, FAMILY, inputs, ()), stages[:2], merged)
    with running_on(model, FAMILY, short, stages[2:], merged):
        assert torch.equal(generated(model, short.generate_inputs())[1], logits)
    assert (uncached - logits).abs().max() <= 1e-4


def test_beams_and_a_given_cache(sdpa64):
    inputs, stages = prompt(sdpa64, PADDED), rectified(stage("projector", 9), stage(3, 5))
    with prune(sdpa64, FAMILY, None, stages, lambda stage, signals, row: merged(stage, signals, row // 3)):
        output = sdpa64.generate(
            **inputs, num_beams=3, max_new_tokens=6, length_penalty=0.0, return_dict_in_generate=True,
            output_scores=True,
        )  # fmt: skip
    new = output.sequences[:, inputs["input_ids"].shape[1] :]
    logits = oracle(sdpa64, inputs, stages, merged, new)[0]
    scores = logits.log_softmax(-1).gather(-1, new.T[..., None])[..., 0].sum(0)
    assert (output.sequences_scores - scores).abs().max() <= 1e-5


def test_a_second_turn_still_weighs_and_outside_it_is_refused(sdpa64):
    inputs = prompt(sdpa64, [[3, "image", 6]])
    stages = rectified(stage("projector", 7))
    with prune(sdpa64, FAMILY, None, stages, merged):
        cache = DynamicCache(config=sdpa64.config)
        sequences = generated(sdpa64, inputs, steps=3, past_key_values=cache)[0]
        longer = torch.cat([sequences, torch.tensor([[11, 12, 13]])], dim=1)
        again = {"input_ids": longer, "attention_mask": torch.ones_like(longer)}
        final, logits = generated(sdpa64, again, steps=3, past_key_values=cache)
    new = final[:, inputs["input_ids"].shape[1] :]
    expected = oracle(sdpa64, inputs, stages, merged, new)[0]
    assert (logits - expected[-3:]).abs().max() <= 1e-6
    plain = [replace(stages[0], rectify=False)]
    with prune(sdpa64, FAMILY, None, plain, merged), pytest.raises(Unsupported, match="other stages"):
        sdpa64(input_ids=torch.tensor([[11]]), past_key_values=cache)


# -- nothing to weigh, and refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("choose", [spread, ragged], ids=lambda choose: choose.__name__)
def test_where_nothing_merges_not_a_bit_changes(model, choose):
    def unmerged(stage, signals, row):
        kept = choose(stage, signals, row).kept
        carrier = torch.full((len(signals.features),), -1).index_copy(0, kept, kept)
        return Selection(kept=kept, assignment=carrier)

    inputs, stages = prompt(model, PADDED), everywhere("keep")
    with prune(model, FAMILY, None, stages, unmerged):
        logits = generated(model, inputs)[1]
    with prune(model, FAMILY, None, [replace(one, rectify=False) for one in stages], unmerged):
        assert torch.equal(generated(model, inputs)[1], logits)


def test_a_rectified_prompt_runs_nowhere_else(sdpa64):
    encoded = encode(sdpa64, FAMILY, prompt(sdpa64, [[3, "image", 6]]), ())
    short, _ = shorten(sdpa64, FAMILY, encoded, rectified(stage("projector", 7)), merged)
    with pytest.raises(Unsupported, match="running_on"):
        short.generate_inputs()
    with running_on(sdpa64, FAMILY, short):
        assert torch.isfinite(sdpa64(**short.generate_inputs()).logits).all()
    with pytest.raises(Unsupported, match="running_on"):
        short.generate_inputs()


@pytest.mark.parametrize("kernel", ["flash_attention_2", "flash_attention_3"])
def test_flash_attention_has_no_place_for_it(kernel):
    model = build(torch.float32)
    encoded = encode(model, FAMILY, prompt(model, [[3, "image", 6]]), ())
    short, _ = shorten(model, FAMILY, encoded, rectified(stage("projector", 7)), merged)
    model.model.language_model.config._attn_implementation = kernel
    for stages in (rectified(stage("projector", 7)), rectified(stage(2, 7))):
        with pytest.raises(Unsupported, match=rf"ln\(group size\).*'{kernel}'.*sdpa or eager"):
            shorten(model, FAMILY, encoded, stages, merged)
    with pytest.raises(Unsupported, match="switch rectify off"), running_on(model, FAMILY, short):
        pass


def test_an_assignment_that_does_not_hold_its_kept_tokens_is_an_error(sdpa64):
    def broken(stage, signals, row):
        return replace(merged(stage, signals, row), assignment=torch.full((16,), -1))

    encoded = encode(sdpa64, FAMILY, prompt(sdpa64, [[3, "image", 6]]), ())
    with pytest.raises(ValueError, match="of every kept token itself"):
        shorten(sdpa64, FAMILY, encoded, rectified(stage("projector", 7)), broken)


# -- the methods -------------------------------------------------------------------------------------------------------

INFO = PlanningInfo(PATCHES, 6, n_vision_layers=3, n_views=1)


def test_methods_that_merge_take_it_and_no_others():
    for pruner in PRUNERS:
        if pruner.merges:
            assert pruner.complete({})["rectify"] is False
        else:
            with pytest.raises(
                BadInput, match=f"{pruner.label} merges nothing" if pruner.label.isalnum() else "merges"
            ):
                pruner.complete({"rectify": True})


@each("pruner", [pruner.id for pruner in PRUNERS if pruner.merges and pruner.missing(INFO) is None])
@torch.no_grad()
def test_every_merging_method_weighs_exactly_what_its_stages_merged(sdpa32, pruner):
    """Through all its stages, in the tower, before the LLM and inside; and rectify changes nothing else of them."""
    method, inputs = get(pruner), prompt(sdpa32, PADDED)
    params = method.complete({"rectify": True})
    stages, plain = planned(method, rectify=True)[0], planned(method)[0]
    assert stages and [replace(one, rectify=True) for one in plain] == list(stages)
    needs = {need for one in stages for need in one.needs}
    encoded = encode(sdpa32, FAMILY, inputs, needs, question_mask=words(inputs), geometry=[PLACES] * 2)
    inside = [one for one in stages if isinstance(one.site, int)]
    early = [one for one in stages if one not in inside]
    short, before = shorten(sdpa32, FAMILY, encoded, early, chosen_by(params))
    carried = None if short.carried is None else short.carried.sizes
    events = before
    if inside:
        with running_on(sdpa32, FAMILY, short, inside, chosen_by(params)) as trace:
            sdpa32(**short.generate_inputs())
        events = [[*a, *b] for a, b in zip(before, trace.events, strict=True)]
        carried = state_of(trace.cache).segments[-1].carried
    found = []
    for row, mine in enumerate(events):
        held = groups(mine)
        assert sum(held.values()) <= PATCHES
        assert carried[row][carried[row] > 1].tolist() == [
            held[token] for token in mine[-1].sequence.tolist() if held.get(token, 1) > 1
        ]
        found += held.values()
    assert max(found) > 1


def groups(events):
    """How many of the patches each token holds that is left after the stages of one row, one by one."""
    held = dict.fromkeys(range(PATCHES), 1)
    for event in events:
        after, alive = {token: held[token] for token in event.kept.tolist()}, event.alive.tolist()
        carriers = [] if event.selection.assignment is None else event.selection.assignment.tolist()
        for token, place in zip(alive, carriers, strict=bool(carriers)):
            if place >= 0 and alive[place] != token:
                after[alive[place]] += held[token]
        held = after
    return held
