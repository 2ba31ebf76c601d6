"""Tiny stock LLaVA models with random weights, prompts for them, and a choose callback with teeth."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from tokviz.models.llava import Llava
from tokviz.types import Selection, Signals, Stage

FAMILY = Llava()
IMAGE = 90
PAD = 0
PATCHES = 16
LAYERS = 6


def build(dtype=torch.float64, attention="sdpa", seed=0, **text):
    """CLIP tower of 4 layers (4 x 4 patches), Llama of 6 layers with grouped heads."""
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=24, intermediate_size=32, num_hidden_layers=4, num_attention_heads=3, image_size=32, patch_size=8
    )
    llama = LlamaConfig(
        vocab_size=100, hidden_size=32, intermediate_size=48, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=None, pad_token_id=PAD, **text,
    )  # fmt: skip
    config = LlavaConfig(vision_config=vision, text_config=llama, image_token_index=IMAGE, image_token_id=IMAGE)
    config._attn_implementation = attention
    model = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Wide weights: attention far from uniform, so that dropping a token changes the logits visibly.
            if parameter.dim() > 1:
                parameter.normal_(0, 1.4 / parameter.shape[-1] ** 0.5 if parameter.dim() == 2 else 0.1)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = PAD
    # The stock model takes a generated <image> for an image when it runs without a cache; raw logits are untouched.
    model.generation_config.suppress_tokens = [IMAGE]
    return model.to(dtype)


def prompt(model, rows, seed=1):
    """Inputs of a left-padded batch; each row is a list of "image" and counts of text tokens.

    Example: ``[[3, "image", 5], [4]]``.
    """
    generator = torch.Generator().manual_seed(seed)
    ids, images = [], 0
    for parts in rows:
        row: list[int] = []
        for part in parts:
            if part == "image":
                row += [IMAGE] * PATCHES
                images += 1
            else:
                row += torch.randint(2, 89, (part,), generator=generator).tolist()
        ids.append(row)
    length = max(map(len, ids))
    inputs = {
        "input_ids": torch.tensor([[PAD] * (length - len(row)) + row for row in ids]),
        "attention_mask": torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in ids]),
    }
    if images:
        inputs["pixel_values"] = torch.randn(images, 3, 32, 32, generator=generator).to(model.dtype)
    return inputs


def stage(site, keep, positions="keep", needs=(), title=""):
    """A stage whose selection the test's choose callback makes."""

    def unused(*_):
        raise AssertionError("the engine asks choose, not select")

    return Stage(site=site, keep=keep, select=unused, needs=tuple(needs), positions=positions, title=title or str(site))


def spread(stage: Stage, signals: Signals, row: int) -> Selection:
    """Keep ``stage.keep`` tokens, different ones per row and site."""
    n = signals.features.shape[0]
    generator = torch.Generator().manual_seed(sum(map(ord, str(stage.site))) + 17 * row)
    return Selection(kept=torch.randperm(n, generator=generator)[: stage.keep].sort().values)


def ragged(stage: Stage, signals: Signals, row: int) -> Selection:
    """Like ``spread``, but rows keep different counts."""
    kept = spread(stage, signals, row).kept
    return Selection(kept=kept[: max(1, len(kept) - 2 * row)])


def merged(stage: Stage, signals: Signals, row: int) -> Selection:
    """Keep as ``ragged`` does and blend each dropped token into the kept one before it (or the first)."""
    kept = ragged(stage, signals, row).kept
    target = (torch.searchsorted(kept, torch.arange(signals.features.shape[0]), right=True) - 1).clamp(min=0)
    sums = signals.features.new_zeros(len(kept), signals.features.shape[1]).index_add(0, target, signals.features)
    counts = torch.bincount(target, minlength=len(kept))[:, None]
    return Selection(kept=kept, features=sums / counts, assignment=kept[target])


def everything(stage: Stage, signals: Signals, row: int) -> Selection:
    """Drop nothing."""
    return Selection(kept=torch.arange(signals.features.shape[0]))


def nothing(stage: Stage, signals: Signals, row: int) -> Selection:
    """Drop every visual token."""
    return Selection(kept=torch.arange(0))


_unpruned: WeakKeyDictionary = WeakKeyDictionary()


def unpruned(model, inputs, steps=6):
    """Tokens and logits without pruning, made once per model and prompt."""
    made = _unpruned.setdefault(model, {})
    key = str(inputs["input_ids"].tolist()), steps
    if key not in made:
        made[key] = generated(model, inputs, steps)
    return made[key]


def generated(model, inputs, steps=6, **options):
    """Tokens and raw logits ``(steps, B, V)`` of greedy generation."""
    output = model.generate(
        **inputs, max_new_tokens=steps, do_sample=False, return_dict_in_generate=True, output_logits=True, **options
    )
    return output.sequences, torch.stack(output.logits)
