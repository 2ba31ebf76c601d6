"""The engine on a tiny stock model of every family, with images and videos: identity, the oracle, signals, manners.

What does not depend on how images become tokens is tested on LLaVA alone, in the files beside this one, where whole
products of parameters run too; here each family runs a covering array of them (``conftest.py``).
"""

from contextlib import ExitStack
from threading import Barrier, Thread

import pytest
import torch
from engine_models import everything, generated, merged, nothing, spread, stage, unpruned
from engine_oracle import oracle
from tiny_case import LAYERS
from tiny_families import CASES

from tokviz.engine import encode, prune, running_on, shorten
from tokviz.engine.capture import watched_encoding
from tokviz.errors import Unsupported
from tokviz.types import CLS_FEATURE, LAST_ROW, PIXELS, TEXT_ROWS, Need, Selection

BATCHES = {
    "one row": [[3, "visual", 6]],
    "left-padded": [[5, "visual", 6], [2, "visual", 3]],
    "three images": [[2, "visual", 2, "visual", 1, "visual", 4]],
    "2, 1 and 0 images": [[2, "visual", 1, "visual", 4], [3, "visual", 5], [7]],
}
STEPS = 3


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return CASES[request.param]


@pytest.fixture(params=["keep", "reindex"])
def positions(request):
    """ "reindex" for families that renumber (``conftest.py``): positions of several axes never are."""
    return request.param


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


SCHEDULES = ["projector", "encoder", "two layers", "everywhere"]


def schedule(case, where, positions):
    """Stages, without those at sites that this family does not have."""
    stages = {
        "projector": [stage("projector", 7, positions)],
        "encoder": [stage("encoder", 9, positions)],
        "two layers": [stage(2, 10, positions), stage(4, 5, positions)],
        "everywhere": [
            stage("encoder", 13, positions), stage("projector", 11, positions), stage(1, 8, positions),
            stage(3, 4, positions), stage(5, 2, positions),
        ],
    }[where]  # fmt: skip
    stages = [stage for stage in stages if isinstance(stage.site, int) or stage.site in case.early]
    return stages if stages else pytest.skip(f"{case.family} is not pruned there")


def renumbering(case):
    """The harder policy, where positions have one axis."""
    return "reindex" if case.here.reindexes else "keep"


def against_oracle(case, model, inputs, stages, choose, tolerance):
    plain = unpruned(model, inputs, STEPS)[1]
    with prune(model, case.here, None, stages, choose) as trace:
        sequences, logits = generated(model, inputs, STEPS)
    new = sequences[:, inputs["input_ids"].shape[1] :]
    expected, kept = oracle(model, inputs, stages, choose, new, case)
    assert (logits - expected).abs().max() <= tolerance
    assert [[event.kept.tolist() for event in row] for row in trace.events] == kept
    assert (logits - plain).abs().max() > 0.1, "pruning changed nothing: the test has no teeth"


@pytest.mark.parametrize("batch", BATCHES)
def test_keeping_everything_is_bit_identical_to_the_unpatched_model(case, model, batch, positions):
    inputs = case.prompt(model, BATCHES[batch])
    early = [stage(site, 999, positions) for site in case.early]
    stages = [*early, stage(2, 999, positions, (LAST_ROW, case.vision[0]))]
    plain = unpruned(model, inputs, STEPS)
    with prune(model, case.here, None, stages, everything) as trace:
        kept = generated(model, inputs, STEPS)
    assert torch.equal(plain[0], kept[0]) and torch.equal(plain[1], kept[1])
    assert any(trace.events)
    encoded = encode(model, case.here, inputs, ())
    with running_on(model, case.here, encoded):
        assert torch.equal(generated(model, encoded.generate_inputs(), STEPS)[1], plain[1])


@pytest.mark.parametrize("where", SCHEDULES)
@pytest.mark.parametrize("choose", [spread, merged], ids=lambda choose: choose.__name__)
def test_a_ragged_batch_equals_the_oracle(case, exact, where, positions, choose):
    """Before the LLM, inside it at two layers, and both; rows lose different counts, as their images have them."""
    inputs = case.prompt(exact, BATCHES["left-padded"])
    against_oracle(case, exact, inputs, schedule(case, where, positions), choose, 1e-6)


@pytest.mark.parametrize("batch", BATCHES)
def test_every_kind_of_prompt_equals_the_oracle(case, model, tolerance, batch, positions):
    inputs = case.prompt(model, BATCHES[batch])
    against_oracle(case, model, inputs, schedule(case, "everywhere", positions), merged, tolerance)


@pytest.mark.parametrize("site", ["encoder", "projector", 3])
def test_all_visual_tokens_may_go(case, exact, site):
    if site == "encoder" and site not in case.early:
        pytest.skip(f"{case.family} is not pruned there")
    inputs = case.prompt(exact, BATCHES["left-padded"])
    against_oracle(case, exact, inputs, [stage(site, 0)], nothing, 1e-6)


def test_the_hook_free_way_is_bit_identical_to_the_hooks(case, model, positions):
    inputs = case.prompt(model, BATCHES["2, 1 and 0 images"])
    stages = schedule(case, "everywhere", positions)
    n_early = len(case.early)
    early, late = stages[:n_early], stages[n_early:]
    short, events = shorten(model, case.here, encode(model, case.here, inputs, ()), early, merged)
    with prune(model, case.here, short, late, merged) as trace:
        logits = generated(model, short.generate_inputs(), STEPS)[1]
    kept = [[e.kept.tolist() for e in [*a, *b]] for a, b in zip(events, trace.events, strict=True)]
    with prune(model, case.here, None, stages, merged) as trace:
        assert torch.equal(generated(model, inputs, STEPS)[1], logits)
    assert [[event.kept.tolist() for event in row] for row in trace.events] == kept


def test_a_text_only_prompt_is_left_alone(case, exact):
    inputs = case.prompt(exact, [[5], [3]])
    plain = unpruned(exact, inputs, STEPS)[1]
    with prune(
        exact, case.here, None, [stage(case.early[0], 3), stage(2, 1, renumbering(case), (LAST_ROW,))], nothing
    ) as trace:
        assert torch.equal(generated(exact, inputs, STEPS)[1], plain)
    assert trace.events == [[], []]


def captured(case, model, inputs, stages, **options):
    """The Signals of every (site, row)."""
    seen = {}

    def choose(stage, signals, row):
        seen[stage.site, row] = signals
        return everything(stage, signals, row)

    with torch.no_grad(), prune(model, case.here, None, stages, choose):
        model.generate(**inputs, max_new_tokens=1, do_sample=False, **options)
    return seen


FIELDS = {"encoder_keys": "keys"}
"""Signals that are called otherwise than the need for them."""


@pytest.mark.parametrize("kernel", ["exact", "eager"])
@pytest.mark.parametrize("way", ["encode", "hooks", "beams"])
def test_vision_signals_are_the_eager_towers(request, case, kernel, way):
    model = request.getfixturevalue(kernel)
    inputs = case.prompt(model, [[2, "visual", 4], [3, "visual", 3], [9]])
    tolerance = 1e-6 if kernel == "exact" else 2e-5
    if way == "encode":
        vision = encode(model, case.here, inputs, case.vision).vision
        assert vision[2].features.shape[0] == 0
        found = [
            (
                v.view,
                v.patch,
                v.features,
                {n: v.seen[n.kind]["last" if n.layer == "last" else "feature"] for n in case.vision},
            )
            for v in vision[:2]
        ]
    else:
        if way == "beams" and not case.beams:
            pytest.skip("this version of transformers has no beams here")
        options = {"num_beams": 2} if way == "beams" else {}
        seen = captured(case, model, inputs, [stage(case.early[0], 999, "keep", case.vision)], **options)
        assert len(seen) == (4 if way == "beams" else 2)
        rows = [seen[case.early[0], row] for row in ((0, 2) if way == "beams" else (0, 1))]
        found = [
            (s.view, s.candidates, s.features, {n: getattr(s, FIELDS.get(n.kind, n.kind)) for n in case.vision})
            for s in rows
        ]
    for row, (images, expected) in enumerate(zip(case.images(inputs), case.seen(model, inputs), strict=False)):
        view, patch, features, signals = found[row]
        is_patch = expected.is_patch
        assert (patch is None) == bool(is_patch.all()) and (patch is None or torch.equal(patch, is_patch))
        assert (view is None) == (len(images) == 1)
        assert view is None or torch.equal(view, expected.tile), "a newline belongs to the crop before it"
        if way == "encode" or case.early[0] == "encoder":
            assert (features - expected.features).abs().max() <= tolerance
        theirs = case.by_hand(model, images)
        for need, mine in signals.items():
            if need == CLS_FEATURE:
                assert (mine.reshape(theirs[need].shape) - theirs[need]).abs().max() <= tolerance
                continue
            assert (mine[is_patch] - expected.of_patches(theirs[need])).abs().max() <= tolerance
            unseen = mine[~is_patch]
            assert unseen.isnan().all() if need.kind.startswith("cls_") else not unseen.any()


def test_attention_rows_are_the_eager_models(case, exact):
    inputs = case.prompt(exact, [[3, "visual", 6]])
    eager = case.model(torch.float64, "eager")
    with torch.no_grad():
        maps = eager(**inputs, output_attentions=True).attentions
    visual = case.is_visual(inputs["input_ids"][0])
    for need in (LAST_ROW, TEXT_ROWS, Need("last_row", "this"), Need("text_rows", "this")):
        stages = [stage(1, 999, "keep", (need,)), stage(LAYERS - 2, 999, "keep", (need,))]
        seen = captured(case, exact, inputs, stages)
        assert seen.keys() == {(1, 0), (LAYERS - 2, 0)}, need
        for (site, _), signals in seen.items():
            weights = maps[site if need.layer == "this" else site - 1][0].mean(0)
            first = weights.shape[0] - 1 if need.kind == "last_row" else int(visual.nonzero().max()) + 1
            expected = weights[first:][:, visual]
            assert signals.attention_rows.shape == expected.shape, (need, site)
            assert (signals.attention_rows - expected).abs().max() <= 1e-6, (need, site)
            assert expected.max() > 0.02


def test_the_model_is_as_it_was_in_whatever_order_contexts_are_left(case, exact):
    """Whoever is watching: attributes and hooks of every module are restored, and both contexts see their run."""
    inputs = case.prompt(exact, BATCHES["one row"])
    generated(exact, inputs, 1)  # transformers puts up hooks of its own at the first run, and leaves them
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
    with prune(exact, case.here, None, [stage(case.early[0], 5)], spread):
        generated(exact, inputs, 1)
    with pytest.raises(KeyboardInterrupt), prune(exact, case.here, None, [stage(case.early[0], 5)], spread):
        raise KeyboardInterrupt
    encode(exact, case.here, inputs, case.vision)
    assert [name for name, _ in calls] == ["first", "second", "second"]
    assert all(any(name.startswith("pixel_values") for name in arguments) for _, arguments in calls)
    for module, names, hooks in things:
        assert (set(vars(module)), dict(module._forward_pre_hooks)) == (names, hooks)


def test_two_threads_prune_different_images_on_one_model(case, exact):
    """Each sees its own images' layout and signals, whoever encodes in between."""
    prompts = [case.prompt(exact, [[2, "visual", 4]], seed=seed) for seed in (1, 30)]
    prompts.append(case.prompt(exact, [[2, "visual", 3, "visual", 4]]))
    score = case.vision[0]
    stages = [stage(case.early[0], 6, renumbering(case), (score,)), stage(2, 3, "keep", (LAST_ROW,))]

    def attended(stage, signals, row):
        scores = signals.attention_rows[-1] if isinstance(stage.site, int) else getattr(signals, score.kind)
        kept = scores.nan_to_num(-1).argsort(descending=True)[: stage.keep].sort().values
        return Selection(kept=kept, features=None if isinstance(stage.site, int) else signals.features[kept] * 2)

    def logits(inputs):
        with prune(exact, case.here, None, stages, attended):
            return generated(exact, inputs, 2)[1]

    alone, wrong, barrier = [logits(inputs) for inputs in prompts], [], Barrier(len(prompts))

    def work(number):
        barrier.wait()
        for _ in range(2):
            if not torch.equal(logits(prompts[number]), alone[number]):
                wrong.append(number)

    threads = [Thread(target=work, args=(number,)) for number in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and not torch.equal(alone[0], alone[1])


def test_what_is_no_patch_keeps_its_embedding_when_features_are_replaced(case, exact):
    """Newlines of images, [CLS] of video frames: the encoder's features of these are not what the LLM gets."""
    inputs = case.prompt(exact, [[2, "visual", 4]])
    (seen,) = case.seen(exact, inputs)
    if seen.is_patch.all() or "encoder" not in case.early:
        pytest.skip(f"every token of {case.family} is a patch")

    def doubled(stage, signals, row):
        return Selection(kept=torch.arange(len(signals.features)), features=signals.features * 2)

    encoded = encode(exact, case.here, inputs, ())
    short, _ = shorten(exact, case.here, encoded, [stage("encoder", 999)], doubled)
    visual, patch = short.inputs_embeds[short.visual_mask], seen.is_patch
    assert (~patch).sum() > 1 and torch.equal(visual[~patch], encoded.inputs_embeds[encoded.visual_mask][~patch])
    assert (visual[~patch] - seen.embeddings[~patch]).abs().max() <= 1e-9
    projected = case.project(exact, seen.features[patch] * 2)
    assert (visual[patch] - projected).abs().max() <= 1e-9
    assert (projected - seen.embeddings[patch]).abs().max() > 0.1


@pytest.mark.parametrize("name", ["llava_next_video", "video_llava"])
@pytest.mark.parametrize("rows", [[[2, "image", 1, "video", 4]], [[2, "image", 4], [1, "video", 3]]])
def test_images_and_videos_in_one_prompt_are_refused_with_a_sentence(name, rows):
    """They are encoded one kind after the other, whatever their order in the prompt."""
    case = CASES[name]
    model = case.model()
    inputs = case.prompt(model, rows)
    generated(model, inputs, 1)  # the stock model takes them
    with pytest.raises(Unsupported, match="both images and videos"):
        encode(model, case.here, inputs, ())
    with (
        pytest.raises(Unsupported, match="both images and videos"),
        prune(model, case.here, None, [stage(2, 5)], spread),
    ):
        generated(model, inputs, 1)


def test_sizes_that_do_not_fit_the_pixels_are_refused():
    case = CASES["llava_next (vicuna)"]
    model = case.model()
    with pytest.raises(Unsupported, match="image_sizes"):
        case.here.images(model, {}, 5, 9)
    with pytest.raises(Unsupported, match="say 4 tiles, but the vision tower saw 5"):
        case.here.images(model, {"image_sizes": torch.tensor([[20, 100]])}, 5, 9)


@pytest.mark.parametrize("name", ["llava", "llava_next (vicuna)", "qwen2_vl"])
def test_signals_of_a_forward_that_failed_are_nobody_elses(name):
    """The tower ran, the image did not fit the prompt; embeddings that come next were made of another image."""
    case = CASES[name]
    model = case.model()
    inputs = case.prompt(model, [[3, "visual", 4]])
    torn = inputs["input_ids"].clone()
    torn[0, case.is_visual(torn)[0].nonzero()[0]] = 5
    stages = [stage("projector", 5, renumbering(case), case.vision[:1])]
    other = encode(model, case.here, case.prompt(model, [[3, "visual", 4]], seed=9), ())
    with torch.no_grad(), prune(model, case.here, None, stages, spread, visual_mask=other.visual_mask):
        with pytest.raises(ValueError, match="do not match"):
            model(**{**inputs, "input_ids": torn})
        with pytest.raises(Unsupported, match="did not run inside"):
            model(**other.generate_inputs())


def test_pixels_of_a_token_are_those_that_it_shows(case, exact):
    """One number of what the tower is given changes: few tokens show it, each at one place, in units of 0 to 1."""
    inputs = case.prompt(exact, [[3, "visual", 6]])
    name = next(name for name in inputs if name.startswith("pixel_values"))
    before = encode(exact, case.here, inputs, (PIXELS,)).vision[0].seen["pixels"]["feature"]
    pixels = inputs[name].clone()
    image = pixels if pixels.dim() == 2 else pixels.flatten(0, -4)[0]  # Qwen: (patches, numbers); a tile, a frame
    middle = tuple(size // 2 for size in image.shape)
    image[middle] += 1.0
    after = encode(exact, case.here, {**inputs, name: pixels}, (PIXELS,)).vision[0].seen["pixels"]["feature"]
    assert len(before) == int(case.is_visual(inputs["input_ids"]).sum())
    changed = after - before
    rows = changed.abs().amax(1) > 0
    assert 1 <= int(rows.sum()) <= 4
    channel = middle[0] if image is not pixels else middle[1] * 3 // image.shape[1]
    assert torch.allclose(changed[rows].sum(1), torch.tensor(case.here.pixel_std[channel], dtype=changed.dtype))
    assert bool(((changed[rows] != 0).sum(1) == 1).all())
