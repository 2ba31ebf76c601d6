"""What is special about Qwen's models when they are pruned: positions with three axes, towers that merge patches.

What holds for every family is tested in ``test_engine_families.py``.
"""

from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch
from engine_models import generated, merged, ragged, spread, stage
from engine_oracle import oracle
from tiny_case import IMAGE
from tiny_families import CASES
from tiny_qwen import KINDS, MERGE, TinyQwen

from tokviz.engine import encode, prune, shorten
from tokviz.engine.merged_vision import MergedVisionCapture
from tokviz.errors import Unsupported
from tokviz.types import (
    CLS_ATTENTION,
    HEAD_ROWS,
    KEY_NORMS,
    LLM_INPUT,
    NORMED_FEATURES,
    PREVIOUS_FEATURES,
    ROTARY_MEANS,
    TEXT_ROWS,
    VALUES,
    Need,
    Selection,
    Signals,
)

ONE, PADDED = [[3, "visual", 6]], [[5, "visual", 6], [2, "visual", 3]]
MIXED = [[2, "visual", 1, "visual", 4], [3, "visual", 5], [7]]
TWO_LAYERS = [stage(2, 7, "keep"), stage(4, 4, "keep")]
_models = {}


def tiny(case, dtype=torch.float64, attention="sdpa"):
    key = case.family, dtype, attention
    if key not in _models:
        _models[key] = case.model(dtype, attention)
    return _models[key]


@pytest.fixture(params=KINDS)
def case(request):
    return CASES[request.param]


def test_kept_tokens_keep_their_three_positions_and_decoding_goes_on_as_if_nothing_was_dropped(case):
    """What the language model is handed, with and without pruning."""
    model, seen = tiny(case), []
    inputs = case.prompt(model, PADDED)
    inside = [stage("projector", 5, "keep")]
    watch = model.model.language_model.rotary_emb.register_forward_pre_hook(
        lambda _module, args: seen.append(args[1].clone()) if len(args) > 1 else None
    )
    try:
        generated(model, inputs, steps=3)
        plain, seen[:] = list(seen), []
        with prune(model, case.here, None, inside, ragged) as trace:
            generated(model, inputs, steps=3)
    finally:
        watch.remove()
    assert len(plain) == len(seen) == 3
    for row, events in enumerate(trace.events):
        ids, real = inputs["input_ids"][row], inputs["attention_mask"][row].bool()
        stay = real & (ids != IMAGE)
        stay[(ids == IMAGE).nonzero()[:, 0][events[0].kept]] = True
        mine = seen[0][:, row, -int(stay.sum()) :]
        assert mine.shape[0] == 3 and torch.equal(mine, plain[0][-3:, row, stay])
        assert len(mine.unique(dim=0)) > 1, "text positions: the test has no teeth"
    assert all(torch.equal(a[-3:], b[-3:]) for a, b in zip(plain[1:], seen[1:], strict=True))


@pytest.mark.parametrize("rows", [ONE, PADDED], ids=["one row", "left-padded"])
def test_without_a_cache_it_is_the_same(case, rows):
    model = tiny(case)
    inputs, logits = case.prompt(model, rows), []
    for use_cache in (True, False):
        with prune(model, case.here, None, TWO_LAYERS, ragged):
            logits.append(generated(model, inputs, steps=4, use_cache=use_cache)[1])
    assert (logits[0] - logits[1]).abs().max() <= 1e-6


def test_a_decoding_loop_by_hand_leaves_positions_to_the_model_and_its_rope_deltas(case):
    """One sequence without a mask: with one, the stock model itself fails at the second token."""
    model = tiny(case)
    inputs = case.prompt(model, ONE)
    with prune(model, case.here, None, TWO_LAYERS, ragged):
        sequences, logits = generated(model, inputs, steps=4)
    n = inputs["input_ids"].shape[1]
    with torch.no_grad(), prune(model, case.here, None, TWO_LAYERS, ragged):
        output = model(**inputs, use_cache=True)
        for step in range(1, 4):
            token = sequences[:, n + step - 1 : n + step]
            output = model(input_ids=token, past_key_values=output.past_key_values)
            assert (output.logits[:, -1] - logits[step]).abs().max() <= 1e-6


# --------------------------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize("rows", [PADDED, MIXED], ids=["left-padded", "2, 1 and 0 images"])
@pytest.mark.parametrize("kernel", ["sdpa64", "eager32"])
def test_every_signal_inside_the_llm_is_the_oracles(case, kernel, rows):
    model = tiny(case) if kernel == "sdpa64" else tiny(case, torch.float32, "eager")
    tolerance = 1e-6 if kernel == "sdpa64" else 5e-5
    wanted = (TEXT_ROWS, HEAD_ROWS, KEY_NORMS, LLM_INPUT, NORMED_FEATURES, PREVIOUS_FEATURES, VALUES, ROTARY_MEANS)
    seen = []

    def choose(stage, signals, row):
        seen.append(((str(stage.title), row), signals))
        return merged(stage, signals, row)

    stages = [
        stage("projector", 8, "keep"), stage(2, 6, "keep", wanted), stage(4, 5, "keep", wanted),
        stage(5, 4, "keep", (Need("last_row", "this"), Need("key_norms", "this"))),
    ]  # fmt: skip
    inputs = case.prompt(model, rows)
    with prune(model, case.here, None, stages, choose):
        sequences, logits = generated(model, inputs)
    half = len(seen)
    expected, _ = oracle(model, inputs, stages, choose, sequences[:, inputs["input_ids"].shape[1] :], case)
    assert (logits - expected).abs().max() <= tolerance
    engine, by_oracle, compared = dict(seen[:half]), dict(seen[half:]), 0
    assert engine.keys() == by_oracle.keys()
    for key, mine in engine.items():
        for field in fields(Signals):
            one, other = getattr(mine, field.name), getattr(by_oracle[key], field.name)
            if other is not None:
                assert one.shape == other.shape, (key, field.name)
                assert (one - other).abs().max() <= 10 * tolerance * other.abs().max().clamp(min=1), (key, field.name)
                compared += 1
    assert compared >= half * 5


def test_attention_received_is_looked_at_where_whole_frames_are_attended():
    for family, layer in (("qwen2_vl", 3), ("qwen2_5_vl", 2), ("qwen3_vl", 3)):  # Qwen2.5-VL's layer 3 has windows
        case = CASES[family]
        model = tiny(case)
        assert case.here.vision_attention(model, "last") is model.model.visual.blocks[layer].attn
        assert case.here.vision_attention(model, "object") is model.model.visual.blocks[1].attn, "16 of 32"
    whole = SimpleNamespace(depth=32, fullatt_block_indexes=[7, 15, 23, 31])
    here = CASES["qwen2_5_vl"].here
    assert [here.last_whole_frame_layer(whole, among) for among in (None, 16, 15, 8, 7)] == [31, 15, 7, 7, 7]


def test_windows_are_out_of_the_order_of_the_llm(case):
    """Else the tests of vision signals would not notice a tower that is read in the wrong order."""
    model = tiny(case)
    places = case.here.patch_merging(model).tower_positions(case.prompt(model, ONE)["image_grid_thw"])
    assert (places.tolist() != sorted(places.tolist())) == (case.family == "qwen2_5_vl")


def test_flash_attention_hands_over_all_frames_in_one_call(case):
    """The kernel gets one sequence with borders; split by them, the frames are what SDPA sees one by one."""
    merging = case.here.patch_merging(tiny(case))
    grid = torch.tensor([[1, 8, 6], [2, 4, 4]])
    generator = torch.Generator().manual_seed(3)
    query, key = (torch.randn(1, 2, 80, 12, generator=generator) for _ in range(2))
    found = []
    for pieces in ([80], [48, 16, 16]):
        capture = MergedVisionCapture(merging, ["received_attention"])
        capture.see_images((), {"grid_thw": grid})
        for q, k in zip(query.split(pieces, 2), key.split(pieces, 2), strict=True):
            capture.see_attention(q, k, 0.3)
        output = type("Output", (), {"pooler_output": torch.zeros(20, 32)})
        capture.see_tokens({"grid_thw": grid}, output)
        found.append(capture.consume([20])[0].seen["received_attention"]["last"])
    assert torch.equal(*found)
    assert found[0].sum() == pytest.approx(3 / 4)  # 1 for each frame, mean of four patches


def test_time_goes_on_as_the_video_says():
    """Qwen2.5-VL turns seconds between grids into positions; what is left of a video keeps them.

    Whole seconds: transformers 5.17 rounds them down.
    """
    case = CASES["qwen2_5_vl (videos)"]
    model = tiny(case)
    inputs, seconds = case.prompt(model, PADDED), [2.0, 3.0]
    inputs["second_per_grid_ts"] = torch.tensor(seconds)
    encoded = encode(model, case.here, inputs, ())
    short, events = shorten(model, case.here, encoded, [stage("projector", 7, "keep")], spread)
    for row, apart in enumerate(seconds):
        times = encoded.position_ids[0, row, encoded.visual_mask[row]]
        step = apart * model.config.vision_config.tokens_per_second
        assert (times.unique() - times[0]).tolist() == [0, step]
        assert torch.equal(short.position_ids[0, row, short.visual_mask[row]], times[events[row][0].kept])


# -------------------------------------------------------------------------------------------------------- refusals


def test_positions_with_axes_are_never_renumbered(case):
    model = tiny(case)
    stages = [stage(2, 4, "reindex")]
    with pytest.raises(Unsupported, match="several axes"), prune(model, case.here, None, stages, spread):
        pass


def test_there_are_no_tokens_before_the_merger(case):
    model = tiny(case)
    encoded = encode(model, case.here, case.prompt(model, ONE), ())
    with pytest.raises(Unsupported, match="behind the projector"):
        shorten(model, case.here, encoded, [stage("encoder", 4, "keep")], spread)


def test_a_tower_without_cls_says_so(case):
    model = tiny(case)
    with pytest.raises(Unsupported, match=r"no \[CLS\]"):
        encode(model, case.here, case.prompt(model, ONE), (CLS_ATTENTION,))


def test_images_with_positions_of_text_are_refused(case):
    model = tiny(case)
    inputs = case.prompt(model, PADDED)
    del inputs["mm_token_type_ids"]
    stages = [stage(2, 4, "keep")]
    with pytest.raises(Unsupported, match="mm_token_type_ids"), prune(model, case.here, None, stages, spread):
        generated(model, inputs)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_what_is_left_of_a_video_may_look_like_text(family):
    """A cell and the one below and to the right of it in the next frame: on Qwen2-VL every axis rises by one."""
    case = CASES[f"{family} (videos)"]
    model = tiny(case)
    inputs = case.prompt(model, ONE)
    _, rows, columns = (inputs["video_grid_thw"][0]).tolist()
    rows, columns = rows // MERGE, columns // MERGE
    diagonal = [0, rows * columns + columns + 1]

    def choose(stage, signals, row):
        return Selection(torch.tensor(diagonal) if stage.site == "projector" else torch.tensor([1]))

    early, late = [stage("projector", 2, "keep")], [stage(2, 1, "keep")]
    short, _ = shorten(model, case.here, encode(model, case.here, inputs, ()), early, choose)
    steps = short.position_ids[:, 0, short.visual_mask[0]].diff(dim=1)[:, 0].tolist()
    assert steps[1:] == [1, 1] and (steps[0] == 1) == (family == "qwen2_vl")
    with prune(model, case.here, short, late, choose):
        logits = generated(model, short.generate_inputs())[1]
    with prune(model, case.here, None, [*early, *late], choose):
        assert torch.equal(generated(model, inputs)[1], logits)


def test_images_and_videos_in_one_prompt_are_refused(case):
    model = tiny(case)
    inputs = TinyQwen(case.family).prompt(model, [[2, "image", 2, "video", 3]])
    with pytest.raises(Unsupported, match="both images and videos"):
        encode(model, case.here, inputs, ())
