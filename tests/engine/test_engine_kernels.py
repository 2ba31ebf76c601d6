"""Every method under every attention kernel: the same tokens are kept, and no method changes the kernel."""

from contextlib import nullcontext

import pytest
import torch
from engine_models import spread, stage
from fake_kernels import HUB_KERNEL, fake_kernel, kernels_of, use_kernel
from tiny_case import noise
from tiny_families import CASES

import tokviz
from tokviz.engine import encode, prune
from tokviz.errors import Unsupported
from tokviz.models.families import FAMILIES
from tokviz.models.loading import VisionLanguageModel, loaded_record
from tokviz.pruners import PRUNERS

IMAGE = noise(60, 40, seed=7)
GAPS = ["pixelprune"]
"""Methods that leave gaps in the positions of the prompt itself, which flash attention gets by its other function."""
METHODS = [pruner.id for pruner in PRUNERS if pruner.id not in GAPS]
FLASH = ("flash_attention_2", HUB_KERNEL)


def of_case(case):
    return lambda: (case.model(torch.float32), case.processor())


MODELS = {name: of_case(case) for name, case in CASES.items() if case.media == "image"}


def under(name, kernel):
    """The tiny model as if it had been loaded with this kernel."""
    model, processor = MODELS[name]()
    use_kernel(model, kernel)
    family = FAMILIES[model.config.model_type]
    return VisionLanguageModel(model, processor, family, loaded_record(model, family, "tiny"))


def kept(vlm, methods):
    """Per method what every stage kept and the answer, or why it did not run."""
    comparison = tokviz.compare(vlm, IMAGE, "what is it ?", methods, budget=6, max_new_tokens=2)
    return {
        run.method: run.error or ([stage.kept for stage in run.stages], [token.id for token in run.answer_tokens])
        for run in comparison.runs
    }


WAYS = ("eager", "flash")


def products():
    """Every model under one of the kernels with a third of the methods, and Qwen, whose tower is its own, under both.

    So every method meets either kernel on two models at least. `make test-all`: all methods under both.
    """
    for number, name in enumerate(MODELS):
        ways = WAYS if name.startswith("qwen") else (WAYS[number // 2 % 2],)
        yield pytest.param((name, METHODS[number % 3 :: 3], ways), id=f"{name}-in turn")
        yield pytest.param((name, METHODS, WAYS), id=f"{name}-all", marks=pytest.mark.generator)


@pytest.mark.parametrize("product", products())
def test_every_method_keeps_the_same_tokens_under_every_kernel(product):
    name, methods, ways = product
    vlm = under(name, "sdpa")
    expected = kept(vlm, methods), kept(vlm, GAPS) if "flash" in ways else None
    for way in ways:
        check_kernel(name, way, methods, *expected)


def check_kernel(name, way, methods, under_sdpa, with_gaps):
    """Both names of flash attention go through the same glue: one for every other model."""
    kernel = "eager" if way == "eager" else FLASH[list(MODELS).index(name) % 2]
    vlm = under(name, kernel)
    before = kernels_of(vlm.model)
    assert set(vars(before).values()) == {kernel} == {vlm.record.attention}
    with nullcontext() if kernel == "eager" else fake_kernel(kernel) as calls:
        found = kept(vlm, methods)
    assert found == under_sdpa
    assert sum(isinstance(value, tuple) for value in found.values()) > len(methods) * 0.6
    assert kernels_of(vlm.model) == before
    if calls is not None:
        assert calls.whole > 0 and (calls.varlen > 0) == name.startswith("qwen")
        with fake_kernel(kernel) as calls:
            assert kept(vlm, GAPS) == with_gaps
        assert calls.varlen > 0


@pytest.mark.parametrize("kernel", FLASH)
def test_a_padded_batch_goes_through_the_glue_of_flash_attention(kernel):
    """Rows of different lengths that lose different numbers of tokens, before the LLM and inside: as under SDPA."""
    case, answers = CASES["llava"], []
    rows = [["image", 5], [3, "image", 9]]
    for name in ("sdpa", kernel):
        model = case.model(torch.float32)
        inputs = case.prompt(model, rows)
        use_kernel(model, name)
        with fake_kernel(kernel) as calls, prune(model, case.here, None, [stage("projector", 8), stage(2, 4)], spread):
            output = model.generate(**inputs, max_new_tokens=4, do_sample=False, output_logits=True,
                                    return_dict_in_generate=True)  # fmt: skip
        answers.append(torch.stack(output.logits))
        assert (calls.varlen > 0) == (name != "sdpa")
    torch.testing.assert_close(answers[1], answers[0], atol=5e-5, rtol=0)


def test_a_name_that_no_kernel_is_registered_under_is_refused():
    vlm = under("llava", "sdpa")
    vlm.model.config.text_config._attn_implementation_internal = HUB_KERNEL
    with pytest.raises(Unsupported, match="kernels-community/flash-attn2"):
        encode(vlm.model, vlm.family, {}, ())
    vlm.model.config.text_config._attn_implementation_internal = "flex_attention"
    with pytest.raises(Unsupported, match="flex_attention"):
        encode(vlm.model, vlm.family, {}, ())
