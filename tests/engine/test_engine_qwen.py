"""Qwen's models pruned: against a full-length masked oracle, the stock model, and eager weights."""

from copy import deepcopy
from dataclasses import fields

import engine_qwen
import pytest
import torch
from engine_models import everything, generated, merged, nothing, ragged, spread, stage
from engine_qwen import FAMILIES, oracle, prompt

from tokviz.engine import encode, pruning, running_on, shorten
from tokviz.errors import Unsupported
from tokviz.types import (
    CLS_ATTENTION,
    ENCODER_KEYS,
    HEAD_ROWS,
    KEY_NORMS,
    LAST_ROW,
    LLM_INPUT,
    NORMED_FEATURES,
    PREVIOUS_FEATURES,
    RECEIVED_ATTENTION,
    TEXT_FEATURES,
    TEXT_ROWS,
    Need,
    Selection,
    Signals,
)

BATCHES = {
    "one row": [[3, "picture", 6]],
    "left-padded": [[5, "picture", 6], [2, "picture", 3]],
    "three pictures": [[2, "picture", 2, "picture", 1, "picture", 4]],
    "2, 1 and 0 pictures": [[2, "picture", 1, "picture", 4], [3, "picture", 5], [7]],
    "videos": [[3, "video", 6], [1, "video", 2]],
}
SCHEDULES = {
    "projector": [stage("projector", 7, "keep")],
    "two blocks": [stage(2, 7, "keep"), stage(4, 4, "keep")],
    "everywhere": [
        stage("projector", 8, "keep"), stage(0, 7, "keep"), stage(2, 6, "keep"), stage(2, 5, "keep"),
        stage(4, 3, "keep"),
    ],
}  # fmt: skip
_models = {}


def tiny(family, dtype=torch.float64, attention="sdpa"):
    key = family, dtype, attention
    if key not in _models:
        _models[key] = engine_qwen.build(*key)
    return _models[key]


@pytest.fixture(params=list(FAMILIES))
def family(request):
    return request.param


@pytest.fixture(params=["sdpa64", "eager32"])
def model(request, family):
    return tiny(family) if request.param == "sdpa64" else tiny(family, torch.float32, "eager")


@pytest.fixture
def tolerance(model):
    return 1e-6 if model.dtype == torch.float64 else 5e-5


def here(model):
    return FAMILIES[model.config.model_type]


def against_oracle(model, inputs, stages, choose, tolerance):
    plain = generated(model, inputs)[1]
    with pruning(model, here(model), stages, choose) as trace:
        sequences, logits = generated(model, inputs)
    new = sequences[:, inputs["input_ids"].shape[1] :]
    expected, kept = oracle(model, inputs, stages, choose, new)
    assert (logits - expected).abs().max() <= tolerance
    assert [[event.kept.tolist() for event in row] for row in trace.rows] == kept
    assert (logits - plain).abs().max() > 0.1, "pruning changed nothing: the test has no teeth"


@pytest.mark.parametrize("choose", [spread, ragged, merged], ids=lambda choose: choose.__name__)
@pytest.mark.parametrize("where", SCHEDULES)
def test_a_pruned_batch_equals_the_oracle(family, where, choose):
    model = tiny(family)
    against_oracle(model, prompt(model, BATCHES["left-padded"]), SCHEDULES[where], choose, 1e-6)


@pytest.mark.parametrize("batch", BATCHES)
def test_every_kind_of_prompt_equals_the_oracle(model, tolerance, batch):
    against_oracle(model, prompt(model, BATCHES[batch]), SCHEDULES["everywhere"], merged, tolerance)


@pytest.mark.parametrize("site", ["projector", 3])
def test_all_visual_tokens_may_go(model, tolerance, site):
    stages = [stage(site, 0, "keep"), stage(4, 2, "keep")]
    against_oracle(model, prompt(model, BATCHES["left-padded"]), stages, nothing, tolerance)


@pytest.mark.parametrize("batch", BATCHES)
def test_keeping_everything_is_bit_identical_to_the_unpatched_model(model, batch):
    inputs = prompt(model, BATCHES[batch])
    needs = (LAST_ROW, PREVIOUS_FEATURES, TEXT_FEATURES)
    stages = [stage("projector", 99, "keep", (RECEIVED_ATTENTION,)), stage(2, 99, "keep", needs)]
    plain = generated(model, inputs)
    with pruning(model, here(model), stages, everything) as trace:
        kept = generated(model, inputs)
    assert torch.equal(plain[0], kept[0]) and torch.equal(plain[1], kept[1])
    assert any(trace.rows)
    encoded = encode(model, here(model), inputs, (RECEIVED_ATTENTION,))
    with running_on(model, here(model), encoded):
        assert torch.equal(generated(model, encoded.generate_inputs())[1], plain[1])


@pytest.mark.parametrize("batch", BATCHES)
def test_the_hook_free_way_and_the_hooks_are_bit_identical(model, batch):
    inputs, stages = prompt(model, BATCHES[batch]), SCHEDULES["everywhere"]
    short, events = shorten(model, here(model), encode(model, here(model), inputs, ()), stages[:1], merged)
    with pruning(model, here(model), stages[1:], merged, prompt=short) as trace:
        new, logits = generated(model, short.generate_inputs())
    kept = [[e.kept.tolist() for e in [*a, *b]] for a, b in zip(events, trace.rows, strict=True)]
    with pruning(model, here(model), stages, merged) as trace:
        sequences, hooked = generated(model, inputs)
    assert torch.equal(logits, hooked) and torch.equal(new, sequences[:, inputs["input_ids"].shape[1] :])
    assert [[event.kept.tolist() for event in row] for row in trace.rows] == kept


def test_kept_tokens_keep_their_three_positions_and_decoding_goes_on_as_if_nothing_was_dropped(family):
    """What the language model is handed, with and without pruning."""
    model, seen = tiny(family), []
    inputs = prompt(model, BATCHES["left-padded"])
    inside = [stage("projector", 5, "keep")]
    watch = model.model.language_model.rotary_emb.register_forward_pre_hook(
        lambda _module, args: seen.append(args[1].clone()) if len(args) > 1 else None
    )
    try:
        generated(model, inputs, steps=3)
        plain, seen[:] = list(seen), []
        with pruning(model, here(model), inside, ragged) as trace:
            generated(model, inputs, steps=3)
    finally:
        watch.remove()
    assert len(plain) == len(seen) == 3
    for row, events in enumerate(trace.rows):
        ids, real = inputs["input_ids"][row], inputs["attention_mask"][row].bool()
        stay = real & (ids != engine_qwen.IMAGE)
        stay[(ids == engine_qwen.IMAGE).nonzero()[:, 0][events[0].kept]] = True
        mine = seen[0][:, row, -int(stay.sum()) :]
        assert mine.shape[0] == 3 and torch.equal(mine, plain[0][-3:, row, stay])
        assert len(mine.unique(dim=0)) > 1, "text positions: the test has no teeth"
    assert all(torch.equal(a[-3:], b[-3:]) for a, b in zip(plain[1:], seen[1:], strict=True))


@pytest.mark.parametrize("batch", ["one row", "left-padded"])
def test_without_a_cache_it_is_the_same(family, batch):
    model = tiny(family)
    inputs, stages = prompt(model, BATCHES[batch]), SCHEDULES["two blocks"]
    logits = []
    for use_cache in (True, False):
        with pruning(model, here(model), stages, ragged):
            logits.append(generated(model, inputs, steps=4, use_cache=use_cache)[1])
    assert (logits[0] - logits[1]).abs().max() <= 1e-6


def test_a_decoding_loop_by_hand_leaves_positions_to_the_model_and_its_rope_deltas(family):
    """One sequence without a mask: with one, the stock model itself fails at the second token."""
    model = tiny(family)
    inputs, stages = prompt(model, BATCHES["one row"]), SCHEDULES["two blocks"]
    with pruning(model, here(model), stages, ragged):
        sequences, logits = generated(model, inputs, steps=4)
    n = inputs["input_ids"].shape[1]
    with torch.no_grad(), pruning(model, here(model), stages, ragged):
        output = model(**inputs, use_cache=True)
        for step in range(1, 4):
            token = sequences[:, n + step - 1 : n + step]
            output = model(input_ids=token, past_key_values=output.past_key_values)
            assert (output.logits[:, -1] - logits[step]).abs().max() <= 1e-6


# --------------------------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize("batch", ["left-padded", "2, 1 and 0 pictures"])
def test_every_signal_inside_the_llm_is_the_oracles(model, tolerance, batch):
    wanted, seen = (TEXT_ROWS, HEAD_ROWS, KEY_NORMS, LLM_INPUT, NORMED_FEATURES, PREVIOUS_FEATURES), []

    def choose(stage, signals, row):
        seen.append(((str(stage.title), row), signals))
        return merged(stage, signals, row)

    stages = [
        stage("projector", 8, "keep"), stage(2, 6, "keep", wanted), stage(4, 5, "keep", wanted),
        stage(5, 4, "keep", (Need("last_row", "this"), Need("key_norms", "this"))),
    ]  # fmt: skip
    against_oracle(model, prompt(model, BATCHES[batch]), stages, choose, tolerance)
    half, compared = len(seen) // 2, 0
    engine, by_oracle = dict(seen[:half]), dict(seen[half:])
    assert engine.keys() == by_oracle.keys()
    for key, mine in engine.items():
        for field in fields(Signals):
            one, other = getattr(mine, field.name), getattr(by_oracle[key], field.name)
            if other is not None:
                assert one.shape == other.shape, (key, field.name)
                assert (one - other).abs().max() <= 10 * tolerance * other.abs().max().clamp(min=1), (key, field.name)
                compared += 1
    assert compared >= half * 5


def test_attention_inside_the_llm_is_the_eager_models(family):
    model, eager = tiny(family), tiny(family, torch.float64, "eager")
    inputs, seen = prompt(model, BATCHES["one row"]), {}
    with torch.no_grad():
        maps = eager(**inputs, output_attentions=True).attentions

    def choose(stage, signals, row):
        seen[stage.site] = signals.attention_rows
        return everything(stage, signals, row)

    with (
        torch.no_grad(),
        pruning(
            model,
            here(model),
            [stage(1, 99, "keep", (LAST_ROW,)), stage(4, 99, "keep", (Need("last_row", "this"),))],
            choose,
        ),
    ):
        model(**inputs)  # fmt: skip
    visual = inputs["input_ids"][0] == engine_qwen.IMAGE
    for site, block in ((1, 0), (4, 4)):
        assert (seen[site][0] - maps[block][0].mean(0)[-1, visual]).abs().max() <= 1e-6


def eager_vision(model, inputs, monkeypatch):
    """Of the block that is looked at: weights per frame, keys ``(H, patches, d)``, and the tower's order of patches.

    The order is found by comparing what enters block 0 with what the patch embedding made, row by row, in a run of its
    own without learned positions (which Qwen3-VL adds in between).
    """
    module = __import__(type(model).__module__, fromlist=["eager_attention_forward"])
    attention, weights, keys, states = here(model).vision_attention(model, "last"), [], [], {}
    stock = module.eager_attention_forward

    def recording(owner, query, key, *args, **kwargs):
        output, map_ = stock(owner, query, key, *args, **kwargs)
        if owner is attention:
            weights.append(map_[0])
            keys.append(key[0])
        return output, map_

    visual = model.model.visual
    name = "video" if "video_grid_thw" in inputs else "image"
    pixels = inputs["pixel_values_videos" if name == "video" else "pixel_values"].to(model.dtype)

    @torch.no_grad()
    def run(tower):
        tower(pixels, grid_thw=inputs[f"{name}_grid_thw"])

    unplaced = deepcopy(visual)
    if hasattr(unplaced, "pos_embed"):
        torch.nn.init.zeros_(unplaced.pos_embed.weight)
    unplaced.patch_embed.register_forward_hook(lambda _m, _a, output: states.update(patches=output))
    unplaced.blocks[0].register_forward_pre_hook(lambda _m, args: states.update(entered=args[0]))
    run(unplaced)
    monkeypatch.setattr(module, "eager_attention_forward", recording)
    run(visual)
    order = [int((states["patches"] == row).all(dim=1).nonzero()) for row in states["entered"]]
    return weights, torch.cat(keys, dim=1), order


@pytest.mark.parametrize("way", ["encode", "hooks"])
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("batch", ["2, 1 and 0 pictures", "videos"])
def test_attention_received_and_keys_are_the_eager_models(family, batch, kernel, way, monkeypatch):
    model, eager = tiny(family, attention=kernel), tiny(family, torch.float64, "eager")
    rows = BATCHES[batch] if kernel == "sdpa" or batch == "videos" else [BATCHES[batch][0]]  # eager pads: NaN
    inputs = prompt(model, rows)
    if way == "encode":
        vision = encode(model, here(model), inputs, (RECEIVED_ATTENTION, ENCODER_KEYS)).vision
        found = [(v.seen["received_attention"]["last"], v.seen["encoder_keys"]["feature"], v.view)
                 for v in vision if len(v.features)]  # fmt: skip
    else:
        seen = {}

        def choose(stage, signals, row):
            seen[row] = signals.received_attention, signals.keys, signals.view
            return everything(stage, signals, row)

        wanted = [stage("projector", 99, "keep", (RECEIVED_ATTENTION, ENCODER_KEYS))]
        with torch.no_grad(), pruning(model, here(model), wanted, choose):
            model(**inputs)
        found = list(seen.values())
    weights, keys, order = eager_vision(eager, inputs, monkeypatch)
    assert (order != sorted(order)) == (family == "qwen2_5_vl"), "windows are out of the LLM's order, else it is that"
    assert len(weights) == sum(g[0] for g in inputs["video_grid_thw" if batch == "videos" else "image_grid_thw"])
    tower = torch.cat([map_.mean(dim=(0, 1)) for map_ in weights])
    by_patch, keys_by_patch = torch.empty(len(order)).double(), torch.empty(len(order), keys.shape[2]).double()
    by_patch[order], keys_by_patch[order] = tower.double(), keys.mean(0)
    received, metric = by_patch.view(-1, 4).mean(1), keys_by_patch.view(-1, 4, keys.shape[2]).mean(1)
    assert (torch.cat([r for r, _, _ in found]) - received).abs().max() <= 1e-6
    assert (torch.cat([k for _, k, _ in found]) - metric).abs().max() <= 1e-6
    assert received.std() > 0.1 * received.mean(), "nearly uniform: the test has no teeth"
    assert found[0][2].unique().tolist() == ([0, 1, 2] if batch == "videos" else [0, 1])


def test_attention_received_is_looked_at_where_whole_frames_are_attended():
    model = tiny("qwen2_5_vl")
    assert here(model).vision_attention(model, "last") is model.model.visual.blocks[2].attn  # 3 looks at windows
    other = tiny("qwen2_vl")
    assert here(other).vision_attention(other, "last") is other.model.visual.blocks[3].attn


def test_flash_attention_hands_over_all_frames_in_one_call(family):
    """The kernel gets one sequence with borders; split by them, the frames are what SDPA sees one by one."""
    from tokviz.engine.patch_merging import MergedVisionCapture

    model = tiny(family)
    merging = here(model).patch_merging(model)
    grid = torch.tensor([[1, 8, 6], [2, 4, 4]])
    generator = torch.Generator().manual_seed(3)
    query, key = (torch.randn(1, 2, 80, 12, generator=generator) for _ in range(2))
    found = []
    for pieces in ([80], [48, 16, 16]):
        capture = MergedVisionCapture(merging, ["received_attention"])
        capture.see_pictures((), {"grid_thw": grid})
        for q, k in zip(query.split(pieces, 2), key.split(pieces, 2), strict=True):
            capture.see_attention(q, k, 0.3)
        output = type("Output", (), {"pooler_output": torch.zeros(20, 32)})
        capture.see_tokens({"grid_thw": grid}, output)
        found.append(capture.consume([20])[0].seen["received_attention"]["last"])
    assert torch.equal(*found)
    assert found[0].sum() == pytest.approx(3 / 4)  # 1 for each frame, mean of four patches


def test_time_goes_on_as_the_video_says():
    """Qwen2.5-VL turns seconds between grids into positions; what is left of a video keeps them."""
    model = tiny("qwen2_5_vl")
    inputs = prompt(model, BATCHES["videos"])
    encoded = encode(model, here(model), inputs, ())
    stages = [stage("projector", 7, "keep")]
    short, events = shorten(model, here(model), encoded, stages, spread)
    per_second = model.config.vision_config.tokens_per_second
    for row, seconds in enumerate(engine_qwen.SECONDS):
        times = encoded.position_ids[0, row, encoded.visual_mask[row]]
        steps = [int(seconds * per_second * n) for n in range(3)]
        assert (times.unique() - times[0]).tolist() == steps and steps[1] != per_second
        assert torch.equal(short.position_ids[0, row, short.visual_mask[row]], times[events[row][0].kept])


# -------------------------------------------------------------------------------------------------------- refusals


def test_positions_with_axes_are_never_renumbered(family):
    model = tiny(family)
    stages = [stage(2, 4, "reindex")]
    with pytest.raises(Unsupported, match="several axes"), pruning(model, here(model), stages, spread):
        pass


def test_there_are_no_tokens_before_the_merger(family):
    model = tiny(family)
    encoded = encode(model, here(model), prompt(model, BATCHES["one row"]), ())
    with pytest.raises(Unsupported, match="behind the projector"):
        shorten(model, here(model), encoded, [stage("encoder", 4, "keep")], spread)


def test_a_tower_without_cls_says_so(family):
    model = tiny(family)
    with pytest.raises(Unsupported, match=r"no \[CLS\]"):
        encode(model, here(model), prompt(model, BATCHES["one row"]), (CLS_ATTENTION,))


def test_pictures_with_positions_of_text_are_refused(family):
    model = tiny(family)
    inputs = prompt(model, BATCHES["left-padded"])
    del inputs["mm_token_type_ids"]
    stages = [stage(2, 4, "keep")]
    with pytest.raises(Unsupported, match="mm_token_type_ids"), pruning(model, here(model), stages, spread):
        generated(model, inputs)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_what_is_left_of_a_video_may_look_like_text(family):
    """A cell and the one below and to the right of it in the next frame: on Qwen2-VL every axis rises by one."""
    model = tiny(family)
    inputs = prompt(model, BATCHES["videos"][:1])
    _, rows, columns = engine_qwen.VIDEO_GRID
    columns //= engine_qwen.MERGE
    diagonal = [0, rows * columns // engine_qwen.MERGE + columns + 1]

    def choose(stage, signals, row):
        return Selection(torch.tensor(diagonal) if stage.site == "projector" else torch.tensor([1]))

    early, late = [stage("projector", 2, "keep")], [stage(2, 1, "keep")]
    short, _ = shorten(model, here(model), encode(model, here(model), inputs, ()), early, choose)
    steps = short.position_ids[:, 0, short.visual_mask[0]].diff(dim=1)[:, 0].tolist()
    assert steps[1:] == [1, 1] and (steps[0] == 1) == (family == "qwen2_vl")
    with pruning(model, here(model), late, choose, prompt=short):
        logits = generated(model, short.generate_inputs())[1]
    with pruning(model, here(model), [*early, *late], choose):
        assert torch.equal(generated(model, inputs)[1], logits)


def test_pictures_and_videos_in_one_prompt_are_refused(family):
    model = tiny(family)
    inputs = prompt(model, [[2, "picture", 2, "video", 3]])
    with pytest.raises(Unsupported, match="both pictures and videos"):
        encode(model, here(model), inputs, ())
