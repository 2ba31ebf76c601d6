"""The engine on a tiny stock model of every family: identity, the masked oracle, signals, manners.

What does not depend on how pictures become tokens is tested on LLaVA alone, in the files beside this one.
"""

from contextlib import ExitStack
from threading import Barrier, Thread

import pytest
import torch
from engine_models import everything, generated, merged, nothing, spread, stage
from engine_oracle import oracle
from tiny_families import BLOCKS, CASES, IMAGE

from tokviz.engine import encode, pruning, shorten
from tokviz.engine.encoding import watched_encoding
from tokviz.errors import Unsupported
from tokviz.types import (
    CLS_ATTENTION,
    CLS_FEATURE,
    CLS_LOGITS_LAST_BLOCK,
    ENCODER_KEYS,
    LAST_ROW,
    TEXT_ROWS,
    Need,
    Selection,
)

BATCHES = {
    "one row": [[3, "picture", 6]],
    "left-padded": [[5, "picture", 6], [2, "picture", 3]],
    "three pictures": [[2, "picture", 2, "picture", 1, "picture", 4]],
    "2, 1 and 0 pictures": [[2, "picture", 1, "picture", 4], [3, "picture", 5], [7]],
}
POSITIONS = pytest.mark.parametrize("positions", ["keep", "reindex"])
STEPS = 4


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return CASES[request.param]


@pytest.fixture(scope="module")
def exact(case):
    """float64, SDPA."""
    return case.model(torch.float64, "sdpa")


@pytest.fixture(scope="module")
def eager(case):
    """float32, eager."""
    return case.model(torch.float32, "eager")


@pytest.fixture(params=["exact", "eager"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def tolerance(model):
    return 1e-6 if model.dtype == torch.float64 else 5e-5


def schedules(positions):
    return {
        "projector": [stage("projector", 7, positions)],
        "encoder": [stage("encoder", 9, positions)],
        "two blocks": [stage(2, 10, positions), stage(4, 5, positions)],
        "everywhere": [
            stage("encoder", 13, positions), stage("projector", 11, positions), stage(1, 8, positions),
            stage(3, 4, positions), stage(5, 2, positions),
        ],
    }  # fmt: skip


def against_oracle(case, model, inputs, stages, choose, tolerance):
    plain = generated(model, inputs, STEPS)[1]
    with pruning(model, case.here, stages, choose) as trace:
        sequences, logits = generated(model, inputs, STEPS)
    new = sequences[:, inputs["input_ids"].shape[1] :]
    expected, kept = oracle(model, inputs, stages, choose, new, case.seen(model, inputs))
    assert (logits - expected).abs().max() <= tolerance
    assert [[event.kept.tolist() for event in row] for row in trace.rows] == kept
    assert (logits - plain).abs().max() > 0.1, "pruning changed nothing: the test has no teeth"


@POSITIONS
@pytest.mark.parametrize("batch", BATCHES)
def test_keeping_everything_is_bit_identical_to_the_unpatched_model(case, model, batch, positions):
    inputs = case.prompt(model, BATCHES[batch])
    needs = (LAST_ROW, CLS_ATTENTION)
    stages = [stage("encoder", 999, positions), stage("projector", 999, positions), stage(2, 999, positions, needs)]
    plain = generated(model, inputs, STEPS)
    with pruning(model, case.here, stages, everything) as trace:
        kept = generated(model, inputs, STEPS)
    assert torch.equal(plain[0], kept[0]) and torch.equal(plain[1], kept[1])
    assert any(trace.rows)
    encoded = encode(model, case.here, inputs, ())
    assert torch.equal(generated(model, encoded.generate_inputs(), STEPS)[1], plain[1])


@POSITIONS
@pytest.mark.parametrize("where", schedules("keep"))
@pytest.mark.parametrize("choose", [spread, merged], ids=lambda choose: choose.__name__)
def test_a_ragged_batch_equals_the_oracle(case, exact, where, positions, choose):
    """Before the LLM, inside it at two blocks, and both; rows lose different counts, as their pictures have them."""
    inputs = case.prompt(exact, BATCHES["left-padded"])
    against_oracle(case, exact, inputs, schedules(positions)[where], choose, 1e-6)


@POSITIONS
@pytest.mark.parametrize("batch", BATCHES)
def test_every_kind_of_prompt_equals_the_oracle(case, model, tolerance, batch, positions):
    inputs = case.prompt(model, BATCHES[batch])
    against_oracle(case, model, inputs, schedules(positions)["everywhere"], merged, tolerance)


@pytest.mark.parametrize("site", ["encoder", "projector", 3])
def test_all_visual_tokens_may_go(case, exact, site):
    inputs = case.prompt(exact, BATCHES["left-padded"])
    against_oracle(case, exact, inputs, [stage(site, 0)], nothing, 1e-6)


@POSITIONS
def test_the_hook_free_way_is_bit_identical_to_the_hooks(case, model, positions):
    inputs = case.prompt(model, BATCHES["2, 1 and 0 pictures"])
    stages = schedules(positions)["everywhere"]
    early, late = stages[:2], stages[2:]
    short, events = shorten(model, case.here, encode(model, case.here, inputs, ()), early, merged)
    with pruning(model, case.here, late, merged, prompt=short) as trace:
        logits = generated(model, short.generate_inputs(), STEPS)[1]
    kept = [[e.kept.tolist() for e in [*a, *b]] for a, b in zip(events, trace.rows, strict=True)]
    with pruning(model, case.here, stages, merged) as trace:
        assert torch.equal(generated(model, inputs, STEPS)[1], logits)
    assert [[event.kept.tolist() for event in row] for row in trace.rows] == kept


def test_a_text_only_prompt_is_left_alone(case, exact):
    inputs = case.prompt(exact, [[5], [3]])
    plain = generated(exact, inputs, STEPS)[1]
    with pruning(exact, case.here, [stage("encoder", 3), stage(2, 1, "reindex", (LAST_ROW,))], nothing) as trace:
        assert torch.equal(generated(exact, inputs, STEPS)[1], plain)
    assert trace.rows == [[], []]


def captured(case, model, inputs, stages, **options):
    """The Signals of every (site, row)."""
    seen = {}

    def choose(stage, signals, row):
        seen[stage.site, row] = signals
        return everything(stage, signals, row)

    with torch.no_grad(), pruning(model, case.here, stages, choose):
        model.generate(**inputs, max_new_tokens=1, do_sample=False, **options)
    return seen


VISION = (CLS_ATTENTION, CLS_LOGITS_LAST_BLOCK, ENCODER_KEYS, CLS_FEATURE)


@pytest.mark.parametrize("kernel", ["exact", "eager"])
@pytest.mark.parametrize("way", ["encode", "hooks", "beams"])
def test_vision_signals_are_the_eager_towers(request, case, kernel, way):
    model = request.getfixturevalue(kernel)
    inputs = case.prompt(model, [[2, "picture", 4], [3, "picture", 3], [9]])
    tolerance = 1e-6 if kernel == "exact" else 2e-5
    if way == "encode":
        vision = encode(model, case.here, inputs, VISION).vision
        found = [(v.view, v.patch, v.features, *(next(iter(v.seen[n.kind].values())) for n in VISION)) for v in vision]
        assert found[2][2].shape[0] == 0
    else:
        options = {"num_beams": 2} if way == "beams" else {}
        seen = captured(case, model, inputs, [stage("encoder", 999, "keep", VISION)], **options)
        assert len(seen) == (4 if way == "beams" else 2)
        found = [
            (s.view, s.candidates, s.features, s.cls_attention, s.cls_logits, s.keys, s.cls_feature.reshape(-1, 24))
            for s in (seen["encoder", row] for row in ((0, 2) if way == "beams" else (0, 1)))
        ]
    for row, (images, expected) in enumerate(zip(case.images(inputs), case.seen(model, inputs), strict=False)):
        view, patch, features, attention, logits, keys, cls = found[row]
        source, is_patch = expected.source, expected.source >= 0
        assert (patch is None) == bool(is_patch.all()) and (patch is None or torch.equal(patch, is_patch))
        rows = by_hand(model, images)
        n_patches = rows["attention"].shape[1]
        assert (view is None) == (len(images) == 1)
        if view is not None:
            assert torch.equal(view[is_patch], source[is_patch] // n_patches)
            newlines = (~is_patch).nonzero()[:, 0]
            assert torch.equal(view[newlines], view[newlines - 1]), "a newline belongs to the crop before it"
        assert (features - expected.features).abs().max() <= tolerance
        assert (cls - rows["cls"]).abs().max() <= tolerance
        for mine, name in ((attention, "attention"), (logits, "logits"), (keys, "keys")):
            theirs = rows[name].flatten(0, 1)[source[is_patch]]
            assert (mine[is_patch] - theirs).abs().max() <= tolerance
        assert attention[~is_patch].isnan().all() and not keys[~is_patch].any()


@torch.no_grad()
def by_hand(model, images):
    """Per image: [CLS] attention ``(P, n)`` of the feature block, [CLS] logits of the last, keys, [CLS] feature."""
    tower = model.model.vision_tower
    states = tower(images, output_hidden_states=True).hidden_states
    found = {"cls": states[3][:, 0]}
    for block, (hidden, layer) in enumerate(zip(states[2:4], tower.encoder.layers[2:], strict=True)):
        normed, attention = layer.layer_norm1(hidden), layer.self_attn
        query, key = (p(normed).unflatten(-1, (3, 8)).transpose(1, 2) for p in (attention.q_proj, attention.k_proj))
        logits = query[:, :, 0][:, :, None] @ key.transpose(2, 3) * 8**-0.5
        if block == 0:
            found["attention"] = logits.softmax(-1).mean(1)[:, 0, 1:]
            found["keys"] = key.mean(1)[:, 1:]
        else:
            found["logits"] = logits.mean(1)[:, 0, 1:]
    return found


@pytest.mark.parametrize("need", [LAST_ROW, TEXT_ROWS, Need("last_row", "this"), Need("text_rows", "this")], ids=str)
def test_attention_rows_are_the_eager_models(case, exact, need):
    inputs = case.prompt(exact, [[3, "picture", 6]])
    eager = case.model(torch.float64, "eager")
    with torch.no_grad():
        maps = eager(**inputs, output_attentions=True).attentions
    visual = inputs["input_ids"][0] == IMAGE
    stages = [stage(1, 999, "keep", (need,)), stage(BLOCKS - 2, 999, "keep", (need,))]
    for (site, _), signals in captured(case, exact, inputs, stages).items():
        weights = maps[site if need.block == "this" else site - 1][0].mean(0)
        first = weights.shape[0] - 1 if need.kind == "last_row" else int(visual.nonzero().max()) + 1
        expected = weights[first:][:, visual]
        assert signals.attention_rows.shape == expected.shape
        assert (signals.attention_rows - expected).abs().max() <= 1e-6
        assert expected.max() > 0.02


def test_the_model_is_as_it_was_in_whatever_order_contexts_are_left(case, exact):
    """Whoever is watching: attributes and hooks of every module are restored, and both contexts see their run."""
    inputs = case.prompt(exact, BATCHES["one row"])
    things = [(module, set(vars(module)), dict(module._forward_pre_hooks)) for module in exact.modules()]
    calls, base = [], exact.base_model
    first, second = ExitStack(), ExitStack()
    first.enter_context(watched_encoding(base, lambda arguments: calls.append(("first", arguments)), lambda: True))
    second.enter_context(watched_encoding(base, lambda arguments: calls.append(("second", arguments)), lambda: True))
    second.enter_context(watched_encoding(base, lambda arguments: calls.append(("other", arguments)), lambda: False))
    generated(exact, inputs, 1)
    first.close()
    exact(**inputs)
    second.close()
    exact(**inputs)
    with pruning(exact, case.here, [stage("encoder", 5)], spread):
        generated(exact, inputs, 1)
    with pytest.raises(KeyboardInterrupt), pruning(exact, case.here, [stage("encoder", 5)], spread):
        raise KeyboardInterrupt
    encode(exact, case.here, inputs, VISION)
    assert [name for name, _ in calls] == ["first", "second", "second"]
    assert all("pixel_values" in arguments for _, arguments in calls)
    for module, names, hooks in things:
        assert (set(vars(module)), dict(module._forward_pre_hooks)) == (names, hooks)


def test_two_threads_prune_different_pictures_on_one_model(case, exact):
    """Each sees its own pictures' layout and signals, whoever encodes in between."""
    prompts = [case.prompt(exact, [[2, "picture", 4]], seed=seed) for seed in (1, 30)]
    prompts.append(case.prompt(exact, [[2, "picture", 3, "picture", 4]]))
    stages = [stage("encoder", 6, "reindex", (CLS_ATTENTION,)), stage(2, 3, "keep", (LAST_ROW,))]

    def attended(stage, signals, row):
        scores = signals.cls_attention if stage.site == "encoder" else signals.attention_rows[-1]
        kept = scores.nan_to_num(-1).argsort(descending=True)[: stage.keep].sort().values
        return Selection(kept=kept, features=signals.features[kept] * 2 if stage.site == "encoder" else None)

    def logits(inputs):
        with pruning(exact, case.here, stages, attended):
            return generated(exact, inputs, 2)[1]

    alone, wrong, barrier = [logits(inputs) for inputs in prompts], [], Barrier(len(prompts))

    def work(number):
        barrier.wait()
        for _ in range(4):
            if not torch.equal(logits(prompts[number]), alone[number]):
                wrong.append(number)

    threads = [Thread(target=work, args=(number,)) for number in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and not torch.equal(alone[0], alone[1])


def test_what_is_no_patch_keeps_its_embedding_when_features_are_replaced():
    case = CASES["llava_next (vicuna)"]
    model = case.model()
    inputs = case.prompt(model, [[2, "picture", 4]])

    def doubled(stage, signals, row):
        return Selection(kept=torch.arange(len(signals.features)), features=signals.features * 2)

    encoded = encode(model, case.here, inputs, ())
    short, _ = shorten(model, case.here, encoded, [stage("encoder", 999)], doubled)
    (seen,) = case.seen(model, inputs)
    visual = short.inputs_embeds[short.visual_mask]
    newline = seen.source < 0
    assert newline.sum() > 1 and torch.equal(visual[newline], seen.embeddings[newline])
    projected = model.model.multi_modal_projector(seen.features[~newline] * 2)
    assert (visual[~newline] - projected).abs().max() <= 1e-9
    assert (projected - seen.embeddings[~newline]).abs().max() > 0.1


def test_sizes_that_do_not_fit_the_pixels_are_refused():
    case = CASES["llava_next (vicuna)"]
    model = case.model()
    with pytest.raises(Unsupported, match="image_sizes"):
        case.here.pictures(model, {}, 5, 9)
    with pytest.raises(Unsupported, match="say 4 tiles, but the vision tower saw 5"):
        case.here.pictures(model, {"image_sizes": torch.tensor([[20, 100]])}, 5, 9)
