"""Merging inside the vision tower against a tower written out by hand, and its manners."""

import threading
from dataclasses import replace

import pytest
import torch
from engine_merging_oracle import merged_tower
from engine_models import FAMILY, IMAGE, PATCHES, everything, generated, prompt, spread, stage
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

from tokviz.engine import encode, prune, shorten
from tokviz.errors import Unsupported
from tokviz.names import VisionLayer
from tokviz.pruners.tome import PRUNER, merges_per_layer
from tokviz.types import CLS_ATTENTION, ENCODER_KEYS, LAST_ROW, Budget, PlanningInfo, Selection

BATCHES = {
    "one row": [[3, "image", 6]],
    "left-padded": [[5, "image", 6], [2, "image", 3]],
    "three images": [[2, "image", 2, "image", 1, "image", 4]],
    "2, 1 and 0 images": [[2, "image", 1, "image", 4], [3, "image", 5], [7]],
}
INFO = PlanningInfo(PATCHES, n_layers=6, n_vision_layers=3)


def plan(budget=6, **params):
    completed = PRUNER.complete(params)
    return PRUNER.schedule(Budget(budget), INFO, completed).stages, completed


def choose_with(params):
    """Every image of a row loses what the stage takes from one."""

    def choose(stage, signals, row):
        images = 1 if signals.view is None else len(signals.view.unique())
        return stage.select(signals, stage.keep * images, params, None)

    return choose


def by_hand(model, inputs, merges, order, proportional):
    """Per row: embeddings of the shortened prompt ``(L', D)`` and original indices of its visual tokens, as given."""
    rows, image = [], 0
    for ids, real in zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True):
        parts, kept, ids, seen = [], [], ids[real].tolist(), 0
        while ids:
            if ids[0] == IMAGE:
                features, patches = merged_tower(model, inputs["pixel_values"][image], merges, proportional)
                if order == "raster":
                    at = sorted(range(len(patches)), key=lambda token: min(patches[token]))
                    features, patches = features[at], [patches[token] for token in at]
                parts.append(model.model.multi_modal_projector(features))
                kept += [min(held) + seen * PATCHES for held in patches]
                ids, image, seen = ids[PATCHES:], image + 1, seen + 1
            else:
                parts.append(model.get_input_embeddings()(torch.tensor(ids[:1])))
                ids = ids[1:]
        rows.append((torch.cat(parts), kept))
    return rows


@pytest.mark.parametrize("proportional", [True, False])
@pytest.mark.parametrize("order", ["raster", "official"])
@pytest.mark.parametrize("batch", BATCHES)
@torch.no_grad()
def test_the_prompt_equals_the_tower_written_out(model, batch, order, proportional):
    inputs = prompt(model, BATCHES[batch])
    stages, params = plan(order=order, proportional_attention=proportional)
    encoded = encode(model, FAMILY, inputs, ())
    short, events = shorten(model, FAMILY, encoded, stages, choose_with(params))
    tolerance = 1e-6 if model.dtype == torch.float64 else 1e-5
    merges = merges_per_layer(PATCHES, PATCHES - 6, 3)
    for row, (expected, kept) in enumerate(by_hand(model, inputs, merges, order, proportional)):
        real = short.attention_mask[row].bool()
        assert (short.inputs_embeds[row][real] - expected).abs().max() <= tolerance
        assert short.alive[row].tolist() == kept
        if kept:
            assert events[row][-1].sequence.tolist() == kept
            assert events[row][-1].kept.tolist() == sorted(kept)
            assert int(short.sizes[row].sum()) == int(encoded.visual_mask[row].sum())
            logits = model(inputs_embeds=expected[None]).logits[0, -1]
            assert (generated(model, short.generate_inputs(), 1)[1][0, row] - logits).abs().max() <= 5 * tolerance


def test_merging_with_and_without_sizes_in_attention_differs(sdpa64):
    encoded = encode(sdpa64, FAMILY, prompt(sdpa64, BATCHES["one row"]), ())
    with_sizes, without = (
        shorten(sdpa64, FAMILY, encoded, *_call(proportional_attention=value))[0].inputs_embeds
        for value in (True, False)
    )
    assert (with_sizes - without).abs().max() > 1e-3


def _call(budget=6, **params):
    stages, completed = plan(budget, **params)
    return stages, choose_with(completed)


def test_a_tower_as_deep_as_that_of_llava(sdpa32):
    """24 layers, 576 patches, features of layer 22: 23 layers merge, and 64 tokens enter the LLM."""
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=24, num_attention_heads=2, image_size=336, patch_size=14
    )
    torch.manual_seed(0)
    deep = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=sdpa32.config.text_config, image_token_id=IMAGE)
    ).eval()
    inputs = {"input_ids": torch.tensor([[1, *[IMAGE] * 576, 5]]), "pixel_values": torch.randn(1, 3, 336, 336)}
    params = PRUNER.complete({})
    stages = PRUNER.schedule(Budget(64), PlanningInfo(576, 6, n_vision_layers=23), params).stages
    short, events = shorten(deep, FAMILY, encode(deep, FAMILY, inputs, ()), stages, choose_with(params))
    left = [576]
    for r in [23] * 6 + [22] * 17:
        left.append(left[-1] - r)
    assert [len(event.kept) for event in events[0]] == left[1:]
    assert short.inputs_embeds.shape[1] == 66
    assert int(short.sizes[0].sum()) == 576
    assert short.alive[0].tolist() == sorted(short.alive[0].tolist())


@pytest.mark.parametrize("batch", ["one row", "left-padded", "three images"])
def test_merging_nothing_is_the_stock_tower_bit_for_bit(batch, request):
    for name in ("sdpa64", "sdpa32"):
        model = request.getfixturevalue(name)
        encoded = encode(model, FAMILY, prompt(model, BATCHES[batch]), ())
        stages = [replace(stage(VisionLayer(i), 99, "reindex"), proportional_attention=True) for i in range(3)]
        short, events = shorten(model, FAMILY, encoded, stages, everything)
        assert torch.equal(short.inputs_embeds, encoded.inputs_embeds)
        assert short.position_ids is None
        assert [[len(event.kept) for event in row] for row in events] == [[n] * 3 for n in encoded.n_visual]


def test_an_eager_tower_is_the_same_up_to_rounding(eager32):
    encoded = encode(eager32, FAMILY, prompt(eager32, BATCHES["one row"]), ())
    short, _ = shorten(eager32, FAMILY, encoded, [stage(VisionLayer(0), 99, "reindex")], everything)
    assert (short.inputs_embeds - encoded.inputs_embeds).abs().max() <= 1e-5


@torch.no_grad()
def test_later_stages_go_on_with_the_merged_tokens(sdpa64):
    """Encoder stages see merged features and sizes, those inside the LLM go on with ``prune`` of the short prompt."""
    inputs = prompt(sdpa64, BATCHES["one row"])
    encoded = encode(sdpa64, FAMILY, inputs, ())
    merging, choose = _call(9, order="official")
    seen = {}

    def look(at, signals, row):
        if isinstance(at.site, VisionLayer):
            return choose(at, signals, row)
        seen[at.site] = signals
        return Selection(kept=torch.tensor([0, 2, 3, 7])[: at.keep])

    later = [stage("encoder", 4, "reindex"), stage(2, 2, "keep", needs=(LAST_ROW,))]
    short, _ = shorten(sdpa64, FAMILY, encoded, [*merging, *later], look)
    features, patches = merged_tower(sdpa64, inputs["pixel_values"][0], merges_per_layer(16, 7, 3))
    assert (seen["encoder"].features - features).abs().max() < 1e-9
    assert seen["encoder"].sizes.tolist() == [len(held) for held in patches]
    assert short.alive[0].tolist() == [min(patches[token]) for token in (0, 2, 3, 7)]
    assert short.sizes[0].tolist() == [len(patches[token]) for token in (0, 2, 3, 7)]
    with prune(sdpa64, FAMILY, short, later[1:], look) as trace:
        generated(sdpa64, short.generate_inputs(), 3)
    assert trace.events[0][0].kept.tolist() == sorted(short.alive[0][[0, 2]].tolist())


def test_the_given_prompt_and_the_model_stay_as_they_were(sdpa64):
    inputs = prompt(sdpa64, BATCHES["left-padded"])
    encoded = encode(sdpa64, FAMILY, inputs, ())
    before = encoded.inputs_embeds.clone()
    things = [(module, set(vars(module)), type(module), dict(module._forward_pre_hooks)) for module in sdpa64.modules()]
    first, _ = shorten(sdpa64, FAMILY, encoded, *_call())
    again, _ = shorten(sdpa64, FAMILY, encoded, *_call())
    assert torch.equal(encoded.inputs_embeds, before)
    assert torch.equal(first.inputs_embeds, again.inputs_embeds)
    assert encoded.n_visual == [16, 16]
    for module, names, kind, hooks in things:
        assert (set(vars(module)), type(module), dict(module._forward_pre_hooks)) == (names, kind, hooks)
    assert first.vision_ms > 0
    assert first.vision_ms != encoded.vision_ms


def test_threads_do_not_mix(sdpa64):
    """Lanes that merge, at different budgets, beside one that encodes and generates on the same model."""
    inputs = prompt(sdpa64, BATCHES["left-padded"])
    needs = (CLS_ATTENTION, ENCODER_KEYS)
    encoded = encode(sdpa64, FAMILY, inputs, needs)
    expected = {n: shorten(sdpa64, FAMILY, encoded, *_call(n))[0].inputs_embeds for n in (4, 6, 11)}
    unpruned = generated(sdpa64, inputs, 3)[1]
    wrong, barrier = [], threading.Barrier(5)

    def merge(n):
        barrier.wait()
        for _ in range(8):
            if not torch.equal(shorten(sdpa64, FAMILY, encoded, *_call(n))[0].inputs_embeds, expected[n]):
                wrong.append(n)

    def encode_again():
        barrier.wait()
        for _ in range(8):
            found = encode(sdpa64, FAMILY, inputs, needs)
            if not torch.equal(found.vision[0].features, encoded.vision[0].features):
                wrong.append("encode")

    def generate():
        barrier.wait()
        for _ in range(4):
            if not torch.equal(generated(sdpa64, inputs, 3)[1], unpruned):
                wrong.append("generate")

    tasks = [*((merge, (n,)) for n in expected), (encode_again, ()), (generate, ())]
    threads = [threading.Thread(target=task, args=args) for task, args in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_what_cannot_be_merged_is_refused(sdpa64, monkeypatch):
    inputs = prompt(sdpa64, BATCHES["one row"])
    encoded = encode(sdpa64, FAMILY, inputs, (ENCODER_KEYS,))
    stages, choose = _call()

    def refuses(match, given=stages, on=encoded, by=choose):
        with pytest.raises(Unsupported, match=match):
            shorten(sdpa64, FAMILY, on, given, by)

    by_hooks = prune(sdpa64, FAMILY, None, stages, choose)
    with pytest.raises(Unsupported, match=r"give prune\(\) the inputs, or a prompt from encode\(\)"), by_hooks:
        pass
    refuses("nothing to look at but the features and keys", [replace(stages[0], needs=(ENCODER_KEYS,))])
    refuses("as it ran with all tokens", [*stages, stage("encoder", 3, "reindex", needs=(ENCODER_KEYS,))])
    refuses("no position to keep", [replace(stages[0], positions="keep")])
    refuses(r"layers 0\.\.2; there is no layer 3", [stage(VisionLayer(3), 9, "reindex")], by=spread)
    refuses("A vision layer takes one stage", [stages[0], stages[0]])
    refuses("Stages must come in the order", [stages[1], stages[0]])
    refuses("needs the pixels of every image", on=replace(encoded, pixel_values=None))
    refuses("merging inside the vision tower must come first", on=shorten(sdpa64, FAMILY, encoded, stages, choose)[0])
    extra = torch.zeros(1, 24, dtype=torch.float64)
    refuses("adds tokens inside the vision tower", by=lambda *_: Selection(kept=torch.arange(3), extra=extra))
    refuses("the same number of tokens, at least one", by=lambda *_: Selection(kept=torch.arange(0)))
    two = encode(sdpa64, FAMILY, prompt(sdpa64, BATCHES["left-padded"]), ())
    ragged = [stage(VisionLayer(0), 9, "reindex")]
    refuses("different numbers of tokens in different", ragged, two, lambda s, _, row: Selection(torch.arange(9 - row)))
    monkeypatch.setattr(type(FAMILY), "vision_tower", lambda self, model: None)
    refuses("cannot be run with fewer tokens")


def test_a_prompt_without_images_has_nothing_to_merge(sdpa64):
    encoded = encode(sdpa64, FAMILY, prompt(sdpa64, [[7]]), ())
    short, events = shorten(sdpa64, FAMILY, encoded, *_call())
    assert short.inputs_embeds is encoded.inputs_embeds
    assert events == [[]]
