"""Signals against what eager attention would have returned, and the tap's manners."""

import pytest
import torch
from engine_models import FAMILY, build, everything, generated, prompt, stage
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tokviz.engine import encode, prune
from tokviz.engine.capture import attention_rows, tapped
from tokviz.errors import Unsupported
from tokviz.models.base import object_layer, shallow_layer
from tokviz.types import (
    CLS_ATTENTION,
    CLS_ATTENTION_LAST_LAYER,
    CLS_FEATURE,
    DEEP_ATTENTION,
    ENCODER_FEATURES,
    ENCODER_KEYS,
    LAST_ROW,
    OBJECT_ATTENTION,
    QUESTION_FEATURES,
    SHALLOW_ATTENTION,
    TEXT_FEATURES,
    TEXT_ROWS,
    Need,
    Selection,
)

VISION = (CLS_ATTENTION, CLS_ATTENTION_LAST_LAYER, ENCODER_KEYS, Need("encoder_keys", "last"))
# Equally long: eager float64 with padding is NaN in the stock model.
TWO_IMAGES = [[2, "image", 2, "image", 4], [3, "image", 21], [40]]


def captured(model, inputs, stages):
    """The Signals of every (site, row)."""
    seen = {}

    def choose(stage, signals, row):
        seen[stage.site, row] = signals
        return everything(stage, signals, row)

    with torch.no_grad(), prune(model, FAMILY, None, stages, choose):
        model(**inputs)
    return seen


@pytest.fixture(scope="module")
def eager64():
    """Returns its attention maps; float64 so that nothing but the softmax (float32 in eager) differs."""
    return build(torch.float64, "eager")


@pytest.fixture(scope="module")
def eager_attentions(eager64):
    """LLM attention maps ``(B, H, L, L)`` per layer and vision maps."""
    inputs = prompt(eager64, TWO_IMAGES)
    with torch.no_grad():
        llm = eager64(**inputs, output_attentions=True).attentions
        vision = eager64.model.vision_tower(inputs["pixel_values"], output_attentions=True, output_hidden_states=True)
    return llm, vision


@pytest.mark.parametrize("need", [LAST_ROW, TEXT_ROWS, Need("last_row", "this"), Need("text_rows", "this")], ids=str)
@pytest.mark.parametrize("kernel", ["sdpa64", "eager64"])
def test_attention_rows_are_the_eager_models(request, kernel, need, eager_attentions):
    model = request.getfixturevalue(kernel)
    inputs = prompt(model, TWO_IMAGES)
    seen = captured(model, inputs, [stage(1, 99, "keep", (need,)), stage(4, 99, "keep", (need,))])
    visual = inputs["input_ids"] == 90
    for (site, row), signals in seen.items():
        weights = eager_attentions[0][site if need.layer == "this" else site - 1][row].mean(0)
        first = weights.shape[0] - 1 if need.kind == "last_row" else int(visual[row].nonzero().max()) + 1
        expected = weights[first:][:, visual[row]]
        assert signals.attention_rows.shape == expected.shape
        assert (signals.attention_rows - expected).abs().max() <= 1e-6
        assert expected.max() > 0.02
    assert set(seen) == {(1, 0), (1, 1), (4, 0), (4, 1)}


@pytest.mark.parametrize("kernel", ["sdpa64", "eager64"])
@pytest.mark.parametrize("way", ["encode", "hooks"])
def test_vision_signals_are_the_eager_models(request, kernel, way, eager_attentions):
    model = request.getfixturevalue(kernel)
    inputs = prompt(model, TWO_IMAGES)
    maps, states = eager_attentions[1].attentions, eager_attentions[1].hidden_states
    rows = [(0, slice(0, 2)), (1, slice(2, 3))]
    if way == "encode":
        vision = encode(model, FAMILY, inputs, VISION).vision
        found = {
            row: (
                vision[row].features,
                *vision[row].seen["cls_attention"].values(),
                *vision[row].seen["encoder_keys"].values(),
            )
            for row, _ in rows
        }
        assert [list(vision[0].seen["cls_attention"]), list(vision[0].seen["encoder_keys"])] == [
            ["feature", "last"]
        ] * 2
        assert vision[2].features.shape[0] == 0
    else:
        seen = captured(model, inputs, [stage("encoder", 99, "keep", VISION[0::2])])
        late = captured(model, inputs, [stage(3, 99, "keep", (VISION[1], VISION[3]))])
        found = {
            row: (
                seen["encoder", row].features, seen["encoder", row].cls_attention, late[3, row].cls_attention,
                seen["encoder", row].keys, late[3, row].keys,
            )
            for row, _ in rows
        }  # fmt: skip
        assert seen["encoder", 0].view.tolist() == [0] * 16 + [1] * 16 and seen["encoder", 1].view is None
    attention = {name: FAMILY.vision_attention(model, name) for name in ("feature", "last")}
    for row, images in rows:
        features, feature_row, last_row, feature_keys, last_keys = found[row]
        assert (features - states[-2][images, 1:].flatten(0, 1)).abs().max() <= 1e-6
        assert (feature_row - maps[-2][images, :, 0, 1:].mean(1).flatten()).abs().max() <= 1e-6
        assert (last_row - maps[-1][images, :, 0, 1:].mean(1).flatten()).abs().max() <= 1e-6
        for name, keys, norm_input in (("feature", feature_keys, states[-3]), ("last", last_keys, states[-2])):
            layer = model.model.vision_tower.encoder.layers[2 if name == "feature" else 3]
            by_hand = attention[name].k_proj(layer.layer_norm1(norm_input[images])).unflatten(-1, (3, -1)).mean(2)
            assert (keys - by_hand[:, 1:].flatten(0, 1)).abs().max() <= 1e-6


@pytest.mark.parametrize("kernel", ["sdpa64", "eager64"])
@pytest.mark.parametrize("way", ["encode", "hooks"])
@pytest.mark.parametrize("layer", ["feature", "last"])
@pytest.mark.parametrize("kind", ["cls_logits", "cls_full_width", "full_keys"])
def test_further_vision_signals_are_what_the_tower_computes(request, kernel, way, layer, kind):
    model, need = request.getfixturevalue(kernel), Need(kind, layer)
    inputs = prompt(model, TWO_IMAGES)
    if way == "encode":
        found = [vision.seen[kind][layer] for vision in encode(model, FAMILY, inputs, [need]).vision[:2]]
    else:
        seen = captured(model, inputs, [stage("projector", 99, "keep", (need,))])
        found = [getattr(seen["projector", row], kind) for row in (0, 1)]
    with torch.no_grad():
        tower = model.model.vision_tower
        states = tower(inputs["pixel_values"], output_hidden_states=True).hidden_states
        module = tower.encoder.layers[2 if layer == "feature" else 3]
        hidden = module.layer_norm1(states[2 if layer == "feature" else 3])
        query, key = module.self_attn.q_proj(hidden)[:, 0], module.self_attn.k_proj(hidden)
    if kind == "full_keys":
        expected = key[:, 1:]
    elif kind == "cls_full_width":  # one head as wide as the tower
        expected = (query[:, None] @ key.transpose(1, 2) * 24**-0.5).softmax(-1)[:, 0, 1:]
    else:
        heads = (query.view(-1, 3, 1, 8) * key.view(-1, 17, 3, 8).transpose(1, 2)).sum(-1) * 8**-0.5
        expected = heads.mean(1)[:, 1:]
        assert expected.min() < 0, "logits, not probabilities"
    for mine, images in zip(found, (slice(0, 2), slice(2, 3)), strict=True):
        assert mine.shape == expected[images].flatten(0, 1).shape
        assert (mine - expected[images].flatten(0, 1)).abs().max() <= 1e-5


@pytest.mark.parametrize("kernel", ["sdpa64", "eager64"])
@pytest.mark.parametrize("way", ["encode", "hooks"])
def test_attention_received_in_two_layers_is_that_of_the_eager_tower(request, kernel, way, eager_attentions):
    """From [CLS] too; the object layer is the first of four (9 of 24), the features leave the third.

    In the shallow layer, the first of four as well, it is the [CLS] row that counts.
    """
    model, needs = request.getfixturevalue(kernel), (OBJECT_ATTENTION, DEEP_ATTENTION, SHALLOW_ATTENTION, CLS_ATTENTION)
    inputs = prompt(model, TWO_IMAGES)
    if way == "encode":
        rows = encode(model, FAMILY, inputs, needs).vision[:2]
        found = [[row.seen[need.kind][need.layer] for need in needs[:3]] for row in rows]
    else:
        seen = captured(model, inputs, [stage("projector", 99, "keep", needs)])
        fields = ("object_attention", "deep_attention", "shallow_attention")
        found = [[getattr(seen["projector", row], name) for name in fields] for row in (0, 1)]
    maps = eager_attentions[1].attentions
    for mine, images in zip(found, (slice(0, 2), slice(2, 3)), strict=True):
        received = [weights[images].mean((1, 2))[:, 1:].flatten() for weights in (maps[0], maps[2])]
        for values, expected in zip(mine, (*received, maps[0][images, :, 0, 1:].mean(1).flatten()), strict=True):
            assert values.dtype == torch.float32
            assert (values - expected).abs().max() <= 1e-6


def test_the_object_layer_is_in_proportion_to_the_published_ones():
    assert [object_layer(depth) for depth in (1, 2, 4, 12, 24, 27, 48)] == [1, 1, 1, 4, 9, 10, 18]
    assert [shallow_layer(depth) for depth in (1, 4, 24, 27, 32)] == [1, 1, 6, 6, 8]
    assert [object_layer(depth, 16, 32) for depth in (1, 4, 27, 32)] == [1, 2, 13, 16]


@pytest.mark.parametrize("kernel", ["sdpa64", "eager64"])
@pytest.mark.parametrize("layer", ["feature", "last"])
def test_the_cls_feature_is_the_layers_first_row(request, kernel, layer):
    model, need = request.getfixturevalue(kernel), Need("cls_feature", layer)
    inputs = prompt(model, [[2, "image", 4], [3, "image", 3]])
    with torch.no_grad():
        states = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True).hidden_states
    expected = states[3 if layer == "feature" else 4][:, 0]
    vision = encode(model, FAMILY, inputs, [need]).vision
    seen = captured(model, inputs, [stage("encoder", 99, "keep", (need,)), stage(2, 99, "keep", (need,))])
    for row in (0, 1):
        assert torch.equal(vision[row].seen["cls_feature"][layer], expected[row][None])
        assert torch.equal(seen["encoder", row].cls_feature, expected[row])
        assert torch.equal(seen[2, row].cls_feature, expected[row])


def test_one_cls_feature_of_several_images_is_refused(sdpa64):
    stages = [stage("encoder", 99, "keep", (CLS_FEATURE,), title="the summary")]
    with pytest.raises(Unsupported, match=r"the summary.*2 images"):
        captured(sdpa64, prompt(sdpa64, TWO_IMAGES), stages)


def test_a_fastv_like_choice_is_the_one_from_eager_attentions(sdpa64, eager_attentions):
    inputs = prompt(sdpa64, TWO_IMAGES)
    kept = {}

    def choose(stage, signals, row):
        kept[row] = signals.attention_rows[-1].argsort(descending=True, stable=True)[:8].sort().values
        return Selection(kept=kept[row])

    with prune(sdpa64, FAMILY, None, [stage(2, 8, "keep", (LAST_ROW,))], choose):
        generated(sdpa64, inputs, steps=1)
    visual = inputs["input_ids"] == 90
    for row in (0, 1):
        scores = eager_attentions[0][1][row].mean(0)[-1][visual[row]]
        assert kept[row].tolist() == scores.argsort(descending=True, stable=True)[:8].sort().values.tolist()


def test_beams_share_the_vision_signals_of_their_prompt(sdpa32):
    inputs = prompt(sdpa32, [[3, "image", 5], [2, "image", 2]])
    seen = {}

    def choose(stage, signals, row):
        seen[row] = signals.cls_attention
        return everything(stage, signals, row)

    with prune(sdpa32, FAMILY, None, [stage("projector", 16, "keep", (CLS_ATTENTION,))], choose):
        sdpa32.generate(**inputs, num_beams=2, max_new_tokens=1)
    alone = encode(sdpa32, FAMILY, inputs, [CLS_ATTENTION]).vision
    for row in range(4):
        assert torch.equal(seen[row], alone[row // 2].seen["cls_attention"]["feature"])


def test_vision_signals_reach_stages_inside_the_llm_of_a_shortened_prompt(sdpa32):
    from tokviz.engine import shorten

    inputs = prompt(sdpa32, [[3, "image", 5]])
    encoded = encode(sdpa32, FAMILY, inputs, [CLS_ATTENTION])

    def choose(stage, signals, row):
        if isinstance(stage.site, int):
            assert torch.equal(signals.cls_attention, encoded.vision[0].seen["cls_attention"]["feature"][[2, 5, 7]])
            return Selection(kept=torch.tensor([0, 2]))
        return Selection(kept=torch.tensor([2, 5, 7]))

    short, _ = shorten(sdpa32, FAMILY, encoded, [stage("projector", 3)], choose)
    with prune(sdpa32, FAMILY, short, [stage(2, 2, "keep", (CLS_ATTENTION,))], choose) as trace:
        generated(sdpa32, short.generate_inputs(), steps=1)
    assert trace.events[0][0].alive.tolist() == [2, 5, 7] and trace.events[0][0].kept.tolist() == [2, 7]


def test_one_wrapper_serves_all_taps_in_any_order(sdpa32):
    from contextlib import ExitStack

    layer = sdpa32.model.language_model.layers[0].self_attn
    inputs = prompt(sdpa32, [[4]])
    calls = []
    original = ALL_ATTENTION_FUNCTIONS["sdpa"]
    first, second = ExitStack(), ExitStack()
    first.enter_context(tapped(layer, "sdpa", lambda *_: calls.append("first")))
    wrapper = ALL_ATTENTION_FUNCTIONS["sdpa"]
    assert wrapper is not original
    second.enter_context(tapped(layer, "sdpa", lambda *_: calls.append("second")))
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is wrapper
    sdpa32(**inputs)
    first.close()
    sdpa32(**inputs)
    second.close()
    assert calls == ["first", "second", "second"]
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is original
    ALL_ATTENTION_FUNCTIONS["sdpa"] = mine = lambda *args, **kwargs: original(*args, **kwargs)
    try:
        with tapped(layer, "sdpa", lambda *_: calls.append("third")):
            sdpa32(**inputs)
        assert calls[3:] == ["third"] and ALL_ATTENTION_FUNCTIONS["sdpa"] is mine, "what others put there stays theirs"
    finally:
        del ALL_ATTENTION_FUNCTIONS["sdpa"]
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is original, "nothing of ours is left in the table"


def test_half_precision_attention_is_looked_at_in_single_precision():
    model = build(torch.bfloat16, "sdpa")
    inputs = prompt(model, [[3, "image", 5]])
    needs = [(LAST_ROW,), (Need("last_row", "this"),)]
    seen = captured(model, inputs, [stage(2, 16, "keep", needs[0]), stage(3, 16, "keep", needs[1])])
    for signals in seen.values():
        assert signals.attention_rows.dtype == torch.float32
        assert len(signals.attention_rows.unique()) > 12, "bfloat16 would have made ties"


def test_attention_rows_of_half_precision_are_those_of_float32():
    """Computed in bfloat16 most of a row would be ties."""
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(4, n, 16, generator=generator).bfloat16() for n in (2, 50))
    mask = torch.ones(2, 50, dtype=torch.bool)
    rows = attention_rows(query, key[:2], 0.25, mask)
    assert rows.dtype == torch.float32
    assert torch.equal(rows, attention_rows(query.float(), key[:2].float(), 0.25, mask))


@pytest.mark.parametrize("kernel", ["sdpa64", "eager64"])
def test_features_before_the_projector_behind_it_and_the_place_of_the_question(request, kernel):
    model, needs = request.getfixturevalue(kernel), (ENCODER_FEATURES, QUESTION_FEATURES, TEXT_FEATURES)
    inputs = prompt(model, TWO_IMAGES)
    seen = {}

    def choose(stage, signals, row):
        seen[stage.site, row] = signals
        return everything(stage, signals, row)

    asked = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    asked[:, -3:-1] = True
    stages = [stage("encoder", 99, "keep"), stage("projector", 99, "keep", needs)]
    with torch.no_grad(), prune(model, FAMILY, None, stages, choose, question_mask=asked):
        model(**inputs)
        states = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True).hidden_states[-2]
    for row, images in ((0, slice(0, 2)), (1, slice(2, 3))):
        found = seen["projector", row]
        assert torch.equal(found.encoder_features, seen["encoder", row].features)
        assert (found.encoder_features - states[images, 1:].flatten(0, 1)).abs().max() <= 1e-6
        assert found.question_index.dtype == torch.int64
        last = len(found.text_features) - 1
        assert found.question_index.tolist() == [last - 2, last - 1]
        assert torch.equal(found.text_features[found.question_index], found.question_features)
