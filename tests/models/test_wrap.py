"""A transformers model that the caller holds already: taken as it is, or refused in one sentence."""

import copy

import pytest
import torch
from tiny_case import noise, text
from tiny_families import CASES
from transformers import LlamaForCausalLM

import tokviz
from tokviz.errors import BadInput, Unsupported
from tokviz.models.loading import VisionLanguageModel, wrap

TINY = CASES["llava"]


@pytest.mark.parametrize("name", CASES)
def test_every_family_is_found_and_nothing_is_changed(name):
    case = CASES[name]
    model, processor = case.model(torch.float64), case.processor()
    before = copy.deepcopy(model.config.to_dict()), {key: value.clone() for key, value in model.state_dict().items()}
    vlm = wrap(model, processor, name="mine")
    assert isinstance(vlm, VisionLanguageModel) and vlm.model is model and vlm.processor is processor
    assert vlm.family is case.here and vlm.record.family == case.family and vlm.record.name == "mine"
    assert (vlm.record.dtype, vlm.record.device, vlm.record.attention) == ("float64", "cpu", "sdpa")
    assert model.config.to_dict() == before[0] and not model.training
    assert all(torch.equal(value, before[1][key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_wrapped_model_answers_as_the_loaded_one(tmp_path):
    model, processor = TINY.model(torch.float32), TINY.processor()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    asked = {"budget": 6, "max_new_tokens": 3}
    here, there = (
        tokviz.compare(vlm, noise(60, 40, seed=7), "what is it ?", ["apet", "fastv"], **asked)
        for vlm in (wrap(model, processor), tokviz.load(tmp_path))
    )
    assert [run.answer_tokens for run in here.runs] == [run.answer_tokens for run in there.runs]
    assert [[stage.kept for stage in run.stages] for run in here.runs] == [
        [stage.kept for stage in run.stages] for run in there.runs
    ]


def test_its_name_is_where_it_came_from_unless_one_is_given(tmp_path):
    model, processor = TINY.model(torch.float32), TINY.processor()
    assert wrap(model, processor).record.name == "LlavaForConditionalGeneration"
    model.save_pretrained(tmp_path / "secret" / "mine")
    assert wrap(type(model).from_pretrained(tmp_path / "secret" / "mine"), processor).record.name == "mine"
    model.config._name_or_path = "owner/mine"
    assert wrap(model, processor).record.name == "owner/mine"
    assert wrap(model, processor, name="best").record.name == "best"


def test_a_model_says_in_a_line_what_it_is(vlm):
    said = repr(vlm)
    assert "\n" not in said and len(said) < 200
    for part in ("tokviz-tiny", "llava", "layers=8", "cpu", "float32", "5.0 M"):
        assert part in said


def in_training(model):
    return model.train()


def without_weights(model):
    return model.to("meta")


def with_kernel(name):
    def changed(model):
        model.config.text_config._attn_implementation = name
        return model

    return changed


MODELS = {
    "nothing": (lambda model: None, "takes a transformers model and its processor, not None"),
    "a name": (lambda model: "owner/name", "takes a transformers model and its processor, not a str"),
    "another module": (lambda model: torch.nn.Linear(1, 1), "not a Linear"),
    "another architecture": (lambda model: LlamaForCausalLM(text()), "'llama' model; supported architectures are"),
    "without its head": (lambda model: model.model, "the stock LlavaForConditionalGeneration of .*, not a LlavaModel"),
    "compiled": (torch.compile, "as it was before torch.compile"),
    "in training": (in_training, r"in training mode.*call model\.eval\(\) first"),
    "without weights": (without_weights, "has no weights: all of them are on the device 'meta'"),
    "unknown kernel": (with_kernel("flex_attention"), r"no attention kernel 'flex_attention'.*set_attn_implementation"),
    "kernel of a GPU": (with_kernel("flash_attention_2"), "Flash attention needs an NVIDIA GPU"),
}


@pytest.mark.parametrize("kind", MODELS)
def test_models_that_cannot_be_served_are_refused(kind):
    change, sentence = MODELS[kind]
    with pytest.raises(BadInput, match=sentence) as refused:
        wrap(change(TINY.model(torch.float32)), TINY.processor())
    assert "\n" not in str(refused.value)


def without_template(processor):
    processor.chat_template = None
    return processor


def with_more_words(processor):
    processor.tokenizer.add_tokens(["something"])
    return processor


def with_patches(processor):
    processor.patch_size = 4
    return processor


PROCESSORS = {
    "nothing": (lambda processor: None, "needs a LlavaProcessor, not None: take AutoProcessor"),
    "the tokenizer": (lambda processor: processor.tokenizer, "needs a LlavaProcessor, not a"),
    "of another family": (lambda processor: CASES["llava_next (vicuna)"].processor(), "not a LlavaNextProcessor"),
    "without a template": (without_template, "has no chat template"),
    "with more words": (with_more_words, "knows 100 tokens and its processor writes 101"),
    "with other patches": (with_patches, "a processor that counts patches of 4 px"),
}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_processors_that_do_not_fit_are_refused(kind):
    change, sentence = PROCESSORS[kind]
    with pytest.raises(BadInput, match=sentence) as refused:
        wrap(TINY.model(torch.float32), change(TINY.processor()))
    assert "\n" not in str(refused.value)
    assert isinstance(refused.value, Unsupported) == (kind == "with other patches")


def test_what_was_meant_is_said(vlm):
    with pytest.raises(BadInput, match="already wrapped"):
        wrap(vlm, vlm.processor)
    with pytest.raises(BadInput, match="name of a model is a text"):
        wrap(vlm.model, vlm.processor, name=" ")
    with pytest.raises(TypeError, match="did you mean 'name'"):
        wrap(vlm.model, vlm.processor, nmae="x")
    with pytest.raises(BadInput, match=r"tokviz\.wrap\(model, processor\)"):
        tokviz.load(vlm.model)
