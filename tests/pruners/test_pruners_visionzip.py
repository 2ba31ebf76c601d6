"""VisionZip on paper, against plain loops on hundreds of inputs, and view by view."""

import math

import numpy as np
import pytest
import torch

import tokviz
from tokviz.engine import encode
from tokviz.models.prompts import model_inputs
from tokviz.pruners import get
from tokviz.pruners.visionzip import contextual_count, select_images, select_tiles
from tokviz.types import Signals

PRUNER = get("visionzip")


def zipped(signals, keep, select=select_images, **params):
    return select(signals, keep, PRUNER.complete(params), torch.Generator())


# ------------------------------------------------------------------------------------------------- on paper

ATTENTION = [0.1, 0.5, 0.2, 0.05, 0.3, 0.1, 0.1, 0.15]
VALUES = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]
ANGLES = [0, 0, 10, 80, 0, 90, 85, 5]  # of the keys, in degrees


def paper_signals():
    keys = [[math.cos(math.radians(a)), math.sin(math.radians(a))] for a in ANGLES]
    return Signals(
        features=torch.tensor(VALUES).unsqueeze(1),
        cls_attention=torch.tensor(ATTENTION),
        keys=torch.tensor(keys),
        cls_feature=torch.tensor([-1.0]),
    )


def test_worked_example_with_the_official_rule():
    # 5 tokens, 2 of them contextual: [CLS], the patches 1 and 4 with the highest attention, and targets. What remains
    # is 0 2 3 5 6 7, R = 6, so every third one is a target: 0 (key at 0 degrees) and 5 (at 90).
    # Nearest key: 2 (10 degrees) and 7 (5) join 0; 3 (80) and 6 (85) join 5.
    found = zipped(paper_signals(), 5, contextual=2)
    assert found.kept.tolist() == [0, 1, 4, 5]
    assert found.assignment.tolist() == [0, 1, 0, 5, 4, 5, 5, 0]
    # Target plus the mean of what it received: 1 + (4 + 128) / 2 and 32 + (8 + 64) / 2.
    assert found.features.flatten().tolist() == [67.0, 2.0, 16.0, 68.0]
    assert found.extra.tolist() == [[-1.0]]
    # Positions in [0, 1, 4, 5, CLS]: CLS, dominant 1 and 4, contextual 0 and 5.
    assert found.sequence.tolist() == [4, 1, 2, 0, 3]
    assert (
        found.diagnostics.facts["dominant"] == 3
        and found.diagnostics.facts["contextual"] == 2
        and found.diagnostics.facts["cls_tokens"] == 1
    )
    maps = {token_map.name: token_map.values.tolist() for token_map in found.diagnostics.maps}
    assert maps["role"] == [1.0, 2.0, 0.0, 0.0, 2.0, 1.0, 0.0, 0.0]
    assert maps["group_size"] == [3.0, 1.0, 0.0, 0.0, 1.0, 3.0, 0.0, 0.0]
    bars, lengths = found.diagnostics.charts
    assert (bars.y, bars.tokens) == ([3, 3], [0, 5])
    assert (lengths.x, lengths.y, lengths.marked) == ([1.0, 2.0, 16.0, 32.0], [67.0, 2.0, 16.0, 68.0], [0, 3])


def test_worked_example_with_the_alternatives():
    found = zipped(paper_signals(), 5, contextual=2, context_rule="mean", order="raster", cls_token="left_out")
    # Without [CLS] three patches are dominant: 1, 4, 2. What remains is 0 3 5 6 7, R = 5, step 2: targets 0 and 5.
    assert found.kept.tolist() == [0, 1, 2, 4, 5]
    assert found.assignment.tolist() == [0, 1, 2, 5, 4, 5, 5, 0]
    assert found.features.flatten().tolist() == pytest.approx([(1 + 128) / 2, 2.0, 4.0, 16.0, (32 + 8 + 64) / 3])
    assert found.extra is None and found.sequence is None


def test_a_group_of_its_own_is_not_doubled():
    # Dominant 3; what remains is 0 1 2, and with two targets every one of it is one, from the front: 0 and 1. All keys
    # are equal, so 2 joins the first, which becomes 1 + 1; nothing joins 1, which stays as it is.
    signals = Signals(torch.ones(4, 1), cls_attention=torch.tensor([0.0, 0.1, 0.2, 0.3]), keys=torch.ones(4, 1))
    found = zipped(signals, 3, cls_token="left_out", contextual=2)
    assert found.kept.tolist() == [0, 1, 3]
    assert found.features.flatten().tolist() == [2.0, 1.0, 1.0]


def test_a_single_token_is_dominant():
    signals = paper_signals()
    official = zipped(signals, 1)
    assert official.kept.tolist() == [] and official.extra.tolist() == [[-1.0]] and official.sequence.tolist() == [0]
    assert zipped(signals, 1, cls_token="left_out").kept.tolist() == [1]


@pytest.mark.parametrize(
    ("keep", "contextual"), [(64, 10), (128, 20), (192, 30), (1, 0), (2, 1), (10, 2), (32, 5), (16, 3), (640 // 5, 20)]
)
def test_published_counts(keep, contextual):
    assert contextual_count(keep) == contextual


def test_the_default_of_the_released_api_can_be_asked_for():
    assert contextual_count(191 + 30, asked=30) == 30
    assert contextual_count(5, asked=30) == 4


# ------------------------------------------------------------------------------------------------- plain loops


def cosine(a, b):
    length = math.sqrt(a @ a) * math.sqrt(b @ b)
    return a @ b / length if length > 0 else 0.0


def reference(x, attention, keys, patches, contextual, as_sum):
    """Dominant rows, targets, who joined whom, and what each target then holds."""
    dominant = sorted(sorted(range(len(x)), key=lambda i: (-attention[i], i))[:patches])
    remaining = [i for i in range(len(x)) if i not in dominant]
    step = max(1, len(remaining) // contextual)
    targets = [remaining[i * step] for i in range(contextual)]
    joined = {t: [] for t in targets}
    for i in remaining:
        if i not in targets:
            joined[max(targets, key=lambda t, i=i: (cosine(keys[i], keys[t]), -t))].append(i)
    held = {}
    for t, members in joined.items():
        if as_sum:
            held[t] = x[t] + (sum(x[i] for i in members) / len(members) if members else 0)
        else:
            held[t] = (x[t] + sum(x[i] for i in members)) / (1 + len(members))
    return dominant, targets, joined, held


@pytest.mark.parametrize("as_sum", [True, False])
@pytest.mark.parametrize("with_cls", [True, False])
def test_against_plain_loops(as_sum, with_cls):
    for seed in range(150):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(3, 40))
        x, keys = rng.normal(size=(n, 5)), rng.normal(size=(n, 4))
        attention = rng.integers(0, 6, n) / 7 if seed % 3 == 0 else rng.random(n)
        keep = int(rng.integers(2, n))
        contextual = contextual_count(keep) if seed % 2 else int(rng.integers(1, keep))
        signals = Signals(
            torch.tensor(x, dtype=torch.float32),
            cls_attention=torch.tensor(attention, dtype=torch.float32),
            keys=torch.tensor(keys, dtype=torch.float32),
            cls_feature=torch.ones(5),
        )
        found = zipped(
            signals, keep, contextual=0 if seed % 2 else contextual, context_rule="sum" if as_sum else "mean",
            cls_token="kept" if with_cls else "left_out",
        )  # fmt: skip
        contextual = min(contextual, keep - 1)
        dominant, targets, joined, held = reference(
            x, attention.astype(np.float32), keys, keep - contextual - with_cls, contextual, as_sum
        )
        assert found.kept.tolist() == sorted([*dominant, *targets])
        owner = {i: t for t, members in joined.items() for i in members}
        assert found.assignment.tolist() == [owner.get(i, i) for i in range(n)]
        expected = [held.get(i, x[i]) for i in found.kept.tolist()]
        assert np.allclose(found.features.numpy(), np.array(expected), atol=1e-5)
        place = {row: k for k, row in enumerate(found.kept.tolist())}
        order = [place[i] for i in [*dominant, *targets]]
        assert found.sequence.tolist() == ([len(found.kept)] if with_cls else []) + order


# ------------------------------------------------------------------------------------------------- views


def views_signals(sizes, with_cls_per_view=True, seed=0):
    g = torch.Generator().manual_seed(seed)
    n = sum(sizes)
    view = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    cls = torch.arange(len(sizes)).float().unsqueeze(1).expand(-1, 3)
    return Signals(
        torch.randn(n, 3, generator=g),
        cls_attention=torch.rand(n, generator=g),
        keys=torch.randn(n, 4, generator=g),
        cls_feature=cls if with_cls_per_view else cls[0],
        view=view,
    )


def test_every_view_is_zipped_by_itself():
    signals = views_signals([20, 20, 20])
    found = zipped(signals, 30)
    parts = []
    for view in range(3):
        rows = (signals.view == view).nonzero().flatten()
        part = Signals(
            signals.features[rows],
            cls_attention=signals.cls_attention[rows],
            keys=signals.keys[rows],
            cls_feature=signals.cls_feature[view],
        )
        parts.append(zipped(part, 10))
    assert found.kept.tolist() == [20 * view + row for view, part in enumerate(parts) for row in part.kept.tolist()]
    assert torch.equal(found.features, torch.cat([part.features for part in parts]))
    assert torch.equal(found.extra, signals.cls_feature)
    # Images: [CLS], dominant, contextual one image after the other.
    given = torch.cat([found.features, found.extra])
    alone = torch.cat([torch.cat([part.features, part.extra])[part.sequence] for part in parts])
    assert torch.equal(given[found.sequence], alone)


def test_crops_give_all_dominants_then_all_cls_then_all_contextual():
    # Thumbnail of 4 and two crops of 4 side by side, stitched: rows of the grid alternate between the crops.
    view = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 1, 1, 2, 2])
    attention = torch.tensor([0.9, 0.1, 0.1, 0.1, 0.1, 0.2, 0.9, 0.1, 0.9, 0.1, 0.1, 0.8])
    signals = Signals(
        torch.arange(12.0).unsqueeze(1),
        cls_attention=attention,
        keys=torch.ones(12, 1),
        cls_feature=torch.tensor([[-1.0], [-2.0], [-3.0]]),
        view=view,
    )
    found = zipped(signals, 9, select_tiles)
    # 3 each: [CLS], one dominant (0; 8; 6), one contextual (first of what remains: 1; 4; 7).
    assert found.kept.tolist() == [0, 1, 4, 6, 7, 8]
    names = [*found.kept.tolist(), "c0", "c1", "c2"]
    assert [names[place] for place in found.sequence.tolist()] == ["c0", 0, 1, 6, 8, "c1", "c2", 4, 7]


def test_one_cls_feature_serves_the_first_view_only():
    found = zipped(views_signals([20, 20], with_cls_per_view=False), 20)
    assert len(found.extra) == 1 and len(found.kept) == 19


def test_zero_keys_join_the_first_target():
    signals = paper_signals()
    signals = Signals(signals.features, signals.cls_attention, keys=torch.zeros(8, 2), cls_feature=signals.cls_feature)
    assert zipped(signals, 5, contextual=2).assignment.tolist() == [0, 1, 0, 0, 4, 5, 0, 0]


# ------------------------------------------------------------------------------------------------- a whole run


@torch.inference_mode()
def vision_signals(vlm, pixels):
    """Features, [CLS] row, mean keys and [CLS] feature, from the hidden states that the stock tower returns."""
    tower, layer = vlm.model.model.vision_tower, vlm.model.config.vision_feature_layer
    hidden = tower(pixels, output_hidden_states=True).hidden_states
    encoder = tower.vision_model.encoder if hasattr(tower, "vision_model") else tower.encoder
    module = encoder.layers[layer - 1 if layer > 0 else layer]  # hidden_states starts with the embeddings
    heads = module.self_attn.num_heads
    normed = module.layer_norm1(hidden[layer - 1])
    query, key = (
        projection(normed)[0].unflatten(-1, (heads, -1))
        for projection in (module.self_attn.q_proj, module.self_attn.k_proj)
    )
    row = torch.einsum("hd,nhd->hn", query[0], key) / math.sqrt(query.shape[-1])
    return hidden[layer][0, 1:], row.softmax(-1).sum(0)[1:], key.mean(1)[1:], hidden[layer][0, 0]


@pytest.mark.parametrize("with_cls", [True, False])
def test_a_run_gives_the_model_what_the_plain_algorithm_makes(vlm, scene, scene_image, with_cls):
    keep, question = 20, scene.questions[0].text
    params = {"cls_token": "kept" if with_cls else "left_out"}
    run = tokviz.compare(
        vlm, scene_image, question, ["visionzip"], keep, params={"visionzip": params}, max_new_tokens=1
    )["visionzip"]
    inputs, _ = model_inputs(vlm, scene_image, question)
    x, attention, keys, cls = vision_signals(vlm, inputs["pixel_values"])
    dominant, targets, _, held = reference(
        x.double().numpy(), attention.tolist(), keys.double().numpy(), keep - 3 - with_cls, 3, as_sum=True
    )
    assert run.stages[0].kept == sorted([*dominant, *targets])
    assert run.stages[0].sequence == [*([-1] if with_cls else []), *dominant, *targets]
    assert run.actual.final == keep
    rows = [*([cls] if with_cls else []), *x[dominant], *(torch.tensor(held[t], dtype=x.dtype) for t in targets)]
    with torch.inference_mode():
        made = vlm.model.model.multi_modal_projector(torch.stack(rows)[None])[0]
        prompt = encode(vlm.model, vlm.family, inputs, ())
        visual = prompt.visual_mask[0].nonzero().flatten().tolist()
        embeds = torch.cat([prompt.inputs_embeds[0, : visual[0]], made, prompt.inputs_embeds[0, visual[-1] + 1 :]])
        expected = vlm.model(inputs_embeds=embeds[None]).logits[0, -1].log_softmax(-1)
    first = run.answer_tokens[0]
    assert first.id == int(expected.argmax())
    assert first.logprob == pytest.approx(float(expected.max()), abs=1e-4)
