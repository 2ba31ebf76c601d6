"""Every method on weights of 8 and 4 bits by bitsandbytes (on the CPU here), where that package is installed."""

import pytest
import torch
from tiny_case import IMAGE, noise
from tiny_families import CASES
from transformers import (
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

import tokviz
from tokviz.models.families import FAMILIES
from tokviz.models.loading import VisionLanguageModel, loaded_record
from tokviz.pruners import PRUNERS

pytest.importorskip("bitsandbytes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny LLaVA whose matrices are whole layers of 64 numbers."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4,
                              image_size=32, patch_size=8)  # fmt: skip
    text = LlamaConfig(vocab_size=128, hidden_size=64, intermediate_size=128, num_hidden_layers=6, eos_token_id=None,
                       num_attention_heads=4, num_key_value_heads=4, bos_token_id=1, pad_token_id=0)  # fmt: skip
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE, image_token_id=IMAGE)
    path = tmp_path_factory.mktemp("quantized")
    LlavaForConditionalGeneration(config).save_pretrained(path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_every_method_runs_on_weights_of_fewer_bits(folder, bits):
    four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
    settings = BitsAndBytesConfig(**(four if bits == "4bit" else {"load_in_8bit": True}))
    model = AutoModelForImageTextToText.from_pretrained(
        folder, quantization_config=settings, dtype=torch.float32, device_map={"": "cpu"}
    ).eval()
    family = FAMILIES["llava"]
    vlm = VisionLanguageModel(model, CASES["llava"].processor(), family, loaded_record(model, family, "tiny", bits))
    assert vlm.record.quantization == bits and type(model.lm_head) is torch.nn.Linear
    assert type(model.model.language_model.layers[0].self_attn.q_proj) is not torch.nn.Linear
    found = tokviz.compare(vlm, noise(60, 40, seed=7), "what is it ?", [p.id for p in PRUNERS], budget=6,
                           max_new_tokens=3)  # fmt: skip
    other_media = {p.id for p in PRUNERS if p.needs_tiles or p.needs_frames}
    assert {run.method for run in found.runs if run.error} == other_media
    assert all(run.actual.final <= 6 for run in found.runs if run.method != "full" and not run.error)
