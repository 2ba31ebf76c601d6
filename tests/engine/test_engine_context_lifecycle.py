"""Contexts: clean exits, threads that are not mixed, and refusals in a sentence."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Thread

import pytest
import torch
from engine_models import FAMILY, build, generated, merged, prompt, ragged, spread, stage
from transformers import DynamicCache, StaticCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tokviz.engine import Stopwatch, encode, prune, shorten
from tokviz.errors import Unsupported
from tokviz.types import CLS_ATTENTION, LAST_ROW, PREVIOUS_FEATURES, TEXT_ROWS, Need, Selection

GUIDED = [stage("encoder", 12, "reindex", (CLS_ATTENTION,)), stage(2, 5, "keep", (LAST_ROW, PREVIOUS_FEATURES))]


def hooks_of(model):
    """Every pre-hook and hook of every module, and the attention table (transformers keeps hooks of its own)."""
    hooks = {
        name: (tuple(module._forward_pre_hooks), tuple(module._forward_hooks)) for name, module in model.named_modules()
    }
    return hooks, dict(ALL_ATTENTION_FUNCTIONS._local_mapping), {n: set(vars(m)) for n, m in model.named_modules()}


def test_nothing_is_left_on_the_model_after_an_exception(sdpa32):
    inputs = prompt(sdpa32, [[3, "image", 6]])
    plain = generated(sdpa32, inputs)[1]
    before = hooks_of(sdpa32)

    def broken(stage, signals, row):
        if stage.site == 2:
            raise RuntimeError("boom")
        return spread(stage, signals, row)

    with pytest.raises(RuntimeError, match="boom"), prune(sdpa32, FAMILY, None, GUIDED, broken):
        assert hooks_of(sdpa32) != before
        generated(sdpa32, inputs)
    assert hooks_of(sdpa32) == before
    with prune(sdpa32, FAMILY, None, GUIDED, spread):
        right = generated(sdpa32, inputs)[1]
        with pytest.raises(RuntimeError, match="boom"):
            encode_inside(sdpa32, inputs)
        assert torch.equal(generated(sdpa32, inputs)[1], right)
    assert hooks_of(sdpa32) == before
    assert torch.equal(generated(sdpa32, inputs)[1], plain)


def encode_inside(model, inputs):
    with pytest.raises(Unsupported, match="cannot be nested"):
        encode(model, FAMILY, inputs, ())
    raise RuntimeError("boom")


def test_encode_leaves_nothing_behind_even_when_the_input_is_bad(sdpa32):
    inputs = prompt(sdpa32, [[3, "image", 6]])
    before = hooks_of(sdpa32)
    encode(sdpa32, FAMILY, inputs, (CLS_ATTENTION,))
    assert hooks_of(sdpa32) == before
    inputs["input_ids"][0, 5] = 7
    with pytest.raises(ValueError):
        encode(sdpa32, FAMILY, inputs, (CLS_ATTENTION,))
    assert hooks_of(sdpa32) == before


def test_nesting_is_refused_and_the_outer_context_stays(sdpa32):
    inputs = prompt(sdpa32, [[3, "image", 6]])
    with prune(sdpa32, FAMILY, None, GUIDED, spread):
        right = generated(sdpa32, inputs)[1]
        with pytest.raises(Unsupported, match="already inside"), prune(sdpa32, FAMILY, None, [], spread):
            pass
        assert torch.equal(generated(sdpa32, inputs)[1], right)
    with prune(sdpa32, FAMILY, None, GUIDED, spread):
        assert torch.equal(generated(sdpa32, inputs)[1], right)


def test_threads_on_one_model_are_never_mixed(sdpa64):
    batches = [
        prompt(sdpa64, [[3, "image", 6]], seed=1),
        prompt(sdpa64, [[6, "image", 4], [2, "image", 9]], seed=2),
        prompt(sdpa64, [[2, "image", 1, "image", 5]], seed=3),
    ]
    lanes = [
        ([stage("encoder", 9, "reindex", (CLS_ATTENTION,)), stage(2, 4, "keep", (LAST_ROW,))], by_attention),
        ([stage("projector", 11, "keep"), stage(3, 6, "reindex", (TEXT_ROWS,))], by_attention),
        ([stage("encoder", 8, "reindex"), stage(4, 3, "keep")], merged),
        (None, None),
    ]
    work = [(inputs, *lane) for inputs in batches for lane in lanes]

    def run(inputs, stages, choose):
        if stages is None:
            return generated(sdpa64, inputs)[1]
        with prune(sdpa64, FAMILY, None, stages, choose):
            return generated(sdpa64, inputs)[1]

    alone = [run(*job) for job in work]
    barrier = Barrier(4)

    def together(job):
        barrier.wait(30)
        return run(*job)

    with ThreadPoolExecutor(4) as pool:
        for logits, expected in zip(pool.map(together, work), alone, strict=True):
            assert torch.equal(logits, expected)


def test_a_hook_that_vanishes_under_another_threads_forward_does_no_harm(sdpa32, eager32):
    """torch calls a hook without keyword arguments when it is removed between being listed and being looked up."""
    for model in (sdpa32, eager32):
        before = {id(hook) for module in model.modules() for hook in _all_hooks(module)}
        with prune(model, FAMILY, None, GUIDED, spread):
            ours = [
                (module, hook) for module in model.modules() for hook in _all_hooks(module) if id(hook) not in before
            ]
            assert len(ours) >= 9
            for module, hook in ours:
                is_pre_hook = any(hook is other for other in module._forward_pre_hooks.values())
                assert (hook(module, ()) if is_pre_hook else hook(module, (), "output")) is None
            generated(model, prompt(model, [[3, "image", 6]]), steps=1)


def _all_hooks(module):
    return [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]


def by_attention(stage, signals, row):
    rows = signals.cls_attention if stage.site == "encoder" else signals.attention_rows
    scores = signals.features.norm(dim=1) if rows is None else rows.reshape(-1, signals.features.shape[0]).mean(0)
    return Selection(kept=scores.argsort(descending=True, stable=True)[: stage.keep].sort().values)


def test_an_unbound_thread_runs_unpruned_and_an_idle_context_says_so(sdpa32):
    inputs = prompt(sdpa32, [[3, "image", 6]])
    plain, found = generated(sdpa32, inputs)[1], []
    with pytest.warns(UserWarning, match="pruned.bind"), prune(sdpa32, FAMILY, None, GUIDED, spread):
        worker = Thread(target=lambda: found.append(generated(sdpa32, inputs)[1]))
        worker.start()
        worker.join(30)
    assert torch.equal(found[0], plain)


def sliding_config():
    """A text model whose cache forgets."""
    from transformers import MistralConfig

    return MistralConfig(num_hidden_layers=6, sliding_window=8)


def refused(sentence):
    return pytest.raises(Unsupported, match=sentence)


@pytest.mark.parametrize(
    "stages, sentence",
    [
        ([stage(6, 3)], "there is no layer 6"),
        ([stage(3, 3), stage("encoder", 3)], "in the order"),
        ([stage("projector", 3, "keep", (LAST_ROW,))], "before the LLM"),
        ([stage(0, 3, "keep", (LAST_ROW,))], "none before layer 0"),
        ([stage(0, 3, "keep", (PREVIOUS_FEATURES,))], "none before layer 0"),
        ([stage(2, 3, "keep", (LAST_ROW, TEXT_ROWS))], "2 attention maps"),
    ],
)
def test_impossible_stages_are_refused_before_anything_runs(sdpa32, stages, sentence):
    before = hooks_of(sdpa32)
    with refused(sentence), prune(sdpa32, FAMILY, None, stages, spread):
        pass
    assert hooks_of(sdpa32) == before


def test_layer_0_may_look_at_itself(sdpa32):
    inputs = prompt(sdpa32, [[3, "image", 6]])
    with prune(sdpa32, FAMILY, None, [stage(0, 3, "keep", (Need("last_row", "this"),))], by_attention) as trace:
        pruned = generated(sdpa32, inputs, steps=2)[1]
    assert len(trace.events[0][0].kept) == 3
    assert not torch.equal(pruned, generated(sdpa32, inputs, steps=2)[1])


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"labels": torch.zeros(1, 25, dtype=torch.long)}, "Labels"),
        ({"attention_mask": torch.ones(1, 1, 25, 25)}, "2D attention mask"),
        ({"attention_mask": torch.tensor([[1] * 24 + [0]])}, "on the left"),
    ],
)
def test_calls_that_cannot_be_pruned_are_refused(sdpa32, change, sentence):
    inputs = {**prompt(sdpa32, [[3, "image", 6]]), **change}
    with prune(sdpa32, FAMILY, None, [stage(2, 3)], spread), refused(sentence):
        sdpa32(**inputs)


def test_caches_that_cannot_be_pruned_are_refused(sdpa32):
    inputs = prompt(sdpa32, [[3, "image", 6]])
    caches = [
        StaticCache(config=sdpa32.config, max_cache_len=64),
        DynamicCache(config=sliding_config()),
        DynamicCache(config=sdpa32.config),
    ]
    caches[-1].offloading = True  # the real thing needs a GPU
    with prune(sdpa32, FAMILY, None, [stage(2, 3)], spread):
        for cache in caches:
            with refused("cannot be pruned"):
                sdpa32(**inputs, past_key_values=cache)
        with refused("StaticCache"):
            sdpa32.generate(**inputs, max_new_tokens=2, cache_implementation="static")
        with refused("in chunks"):
            sdpa32.generate(**inputs, max_new_tokens=2, prefill_chunk_size=8)
        cache = sdpa32(torch.tensor([[4, 5]]), use_cache=True).past_key_values
        with refused("Images must come"):
            sdpa32(**inputs | {"attention_mask": None}, past_key_values=cache)


def test_prompts_that_cannot_be_pruned_are_refused(sdpa32):
    with prune(sdpa32, FAMILY, None, [stage(2, 3)], spread):
        with refused("ends in an image"):
            sdpa32(**prompt(sdpa32, [[3, "image"]]))
        embeds = torch.randn(1, 9, 32)
        with refused("visual_mask or a prompt"):
            sdpa32(inputs_embeds=embeds)
    with (
        prune(sdpa32, FAMILY, None, [stage(2, 3)], spread, visual_mask=torch.ones(1, 8).bool()),
        refused("this very prompt"),
    ):
        sdpa32(inputs_embeds=embeds)
    with pytest.raises(Unsupported, match="no image was encoded"):
        encode(sdpa32, FAMILY, {"input_ids": prompt(sdpa32, [[3, "image", 6]])["input_ids"]}, ())
    inputs = prompt(sdpa32, [[3, "image", 6]])
    features = sdpa32.get_image_features(inputs.pop("pixel_values"), return_dict=True)
    with prune(sdpa32, FAMILY, None, [stage("encoder", 3)], spread), refused("did not run inside"):
        sdpa32(**inputs, mm_encoder_outputs={"image": features})


def test_models_that_cannot_be_pruned_are_refused(sdpa32):
    sliding = build(torch.float32, "sdpa")
    sliding.model.language_model.config.layer_types = ["sliding_attention"] * 6
    flex = build(torch.float32, "sdpa")
    flex.model.language_model.config._attn_implementation = "flex_attention"
    static = build(torch.float32, "sdpa")
    static.generation_config.cache_implementation = "static"
    chunked = build(torch.float32, "sdpa")
    chunked.generation_config.prefill_chunk_size = 8
    compiled = torch.compile(sdpa32, backend="eager")
    for model, sentence in [
        (sliding, "sliding"),
        (flex, "flex_attention"),
        (static, "static"),
        (chunked, "Chunked"),
        (compiled, "Compiled"),
    ]:
        with refused(sentence), prune(model, FAMILY, None, [stage(2, 3)], spread):
            pass


@pytest.mark.parametrize(
    "selection, sentence",
    [
        (Selection(kept=torch.tensor([3, 1])), "ascending"),
        (Selection(kept=torch.tensor([1, 1])), "unique"),
        (Selection(kept=torch.tensor([1, 16])), "within 0..15"),
        (Selection(kept=torch.tensor([-1, 1])), "within 0..15"),
        (Selection(kept=torch.tensor([1.0])), "int64"),
        (Selection(kept=torch.tensor([1]), features=torch.zeros(2, 32)), r"features must be \(1, 32\)"),
    ],
)
def test_a_method_that_breaks_its_contract_is_named(sdpa32, selection, sentence):
    encoded = encode(sdpa32, FAMILY, prompt(sdpa32, [[3, "image", 6]]), ())
    with pytest.raises(ValueError, match=f"wrong one.*{sentence}"):
        shorten(sdpa32, FAMILY, encoded, [stage("projector", 2, title="wrong one")], lambda *_: selection)


def test_a_signal_that_was_not_encoded_is_named(sdpa32):
    encoded = encode(sdpa32, FAMILY, prompt(sdpa32, [[3, "image", 6]]), ())
    with pytest.raises(ValueError, match="cls_attention of the feature vision layer"):
        shorten(sdpa32, FAMILY, encoded, [stage("projector", 3, "keep", (CLS_ATTENTION,))], spread)


def test_events_hold_no_features_and_say_what_it_took(sdpa32):
    with prune(sdpa32, FAMILY, None, [stage("encoder", 9), stage(2, 4)], merged) as trace:
        generated(sdpa32, prompt(sdpa32, [[3, "image", 6]]), steps=1)
    first, second = trace.events[0]
    assert first.selection.features is None and second.selection.features is None
    assert first.milliseconds > 0 and first.selection.assignment.shape == (16,)
    assert second.alive.tolist() == first.kept.tolist()
    assert second.kept.tolist() == second.alive[second.selection.kept].tolist()


def test_the_clock_counts_milliseconds():
    import time

    with Stopwatch("cpu") as watch:
        time.sleep(0.02)
    assert 20 <= watch.milliseconds < 500


def test_ragged_rows_do_not_depend_on_their_neighbours(sdpa64):
    """The row alone and the row in a batch give the same logits."""
    together = prompt(sdpa64, [[5, "image", 6], [2, "image", 3]])
    stages = [stage("encoder", 11, "reindex"), stage(2, 7, "keep"), stage(4, 4, "reindex")]
    with prune(sdpa64, FAMILY, None, stages, ragged):
        batch = generated(sdpa64, together)[1]
    real = together["attention_mask"][1].bool()
    alone = {"input_ids": together["input_ids"][1:, real], "pixel_values": together["pixel_values"][1:]}
    with prune(sdpa64, FAMILY, None, stages, lambda stage, signals, _row: ragged(stage, signals, 1)):
        single = generated(sdpa64, {**alone, "attention_mask": torch.ones_like(alone["input_ids"])})[1]
    assert (batch[:, 1] - single[:, 0]).abs().max() <= 1e-6


@pytest.mark.parametrize("part", [lambda m: m, lambda m: m.model.language_model, lambda m: m.lm_head])
def test_models_compiled_in_place_are_refused_before_anything_runs(part):
    model = build()
    inputs = prompt(model, [[3, "image", 6]])
    part(model).compile()  # nothing is compiled before it is called
    with pytest.raises(Unsupported, match=r"compiled in place.*load it again"):
        encode(model, FAMILY, inputs, ())
    with pytest.raises(Unsupported, match="compiled"), prune(model, FAMILY, None, GUIDED, spread):
        pass


def test_models_with_a_wrapped_compiled_part_are_refused():
    model = build()
    inputs = prompt(model, [[3, "image", 6]])
    model.lm_head = torch.compile(model.lm_head)
    with pytest.raises(Unsupported, match="compiled"):
        encode(model, FAMILY, inputs, ())
