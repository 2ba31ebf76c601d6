"""Ways in which users drive the model's own ``generate`` inside a pruning context."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from . import adapter

FAMILIES = (
    "llava", "llava_next (mistral)", "llava_onevision", "video_llava (videos)", "internvl", "qwen2_5_vl", "qwen3_vl",
    "idefics3",
)  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "apet": {}, "divprune": {}, "fastv": {}, "pdrop": {}, "polymorphic": {}, "sparsevlm": {}, "tome": {},
    "visionzip": {}, "adaptvtp": {},
}  # fmt: skip
"""Of each place one or more: behind the projector, inside the LLM (once and in stages), in the tower, with merging."""
SHARE = 0.5
ONE, TWO = [[5, "visual", 6]], [[5, "visual", 6], [2, "visual", 3]]
OPTIONS = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True, "max_new_tokens": 4}


def batch(model: Any, inputs: dict[str, Any]) -> Any:
    """Two prompts of different length at once."""
    return model.generate(**inputs, **OPTIONS)


def beams(model: Any, inputs: dict[str, Any]) -> Any:
    """Beam search."""
    return model.generate(**inputs, **OPTIONS, num_beams=2, output_scores=True)


def sampled(model: Any, inputs: dict[str, Any]) -> Any:
    """Two sampled answers of one prompt."""
    torch.manual_seed(3)
    return model.generate(**inputs, **{**OPTIONS, "do_sample": True}, num_return_sequences=2)


def uncached(model: Any, inputs: dict[str, Any]) -> Any:
    """Without a cache: the whole prompt runs with every token."""
    return model.generate(**inputs, **{**OPTIONS, "max_new_tokens": 2}, use_cache=False)


def second_turn(model: Any, inputs: dict[str, Any]) -> Any:
    """An answer, then a further question that goes on from its cache."""
    first = model.generate(**inputs, **{**OPTIONS, "max_new_tokens": 2})
    more = torch.tensor([[21, 22, 23]])
    ids = torch.cat([first.sequences, more], dim=1)
    if "input_ids" in inputs:
        mask = torch.cat([inputs["attention_mask"], torch.ones(1, 5, dtype=torch.long)], dim=1)
    else:  # only what was generated has ids
        lengths = first.past_key_values.get_seq_length()
        ids, mask = ids[:, 1:], torch.ones(1, lengths + 4, dtype=torch.long)
    return model.generate(input_ids=ids, attention_mask=mask, past_key_values=first.past_key_values, **OPTIONS)


WAYS: dict[str, tuple[Callable[[Any, dict[str, Any]], Any], list[list[Any]]]] = {
    "batch": (batch, TWO),
    "beams": (beams, TWO),
    "sampled": (sampled, ONE),
    "uncached": (uncached, ONE),
    "second turn": (second_turn, ONE),
}


def names() -> list[str]:
    """``family/method/own generate/way``."""
    return [f"{family}/{method}/own generate/{way}" for family in FAMILIES for method in METHODS for way in WAYS]


def content(name: str) -> dict[str, Any]:
    """What happened, or the sentence of the refusal."""
    family, method, _, way = name.split("/")
    run, rows = WAYS[way]
    if way == "beams" and not adapter.beams_allowed(family):
        return _only("transformers has no beam search here")
    try:
        return adapter.generate(family, method, METHODS[method], SHARE, rows, run)
    except adapter.Refused as error:
        return _only(str(error))


def _only(sentence: str) -> dict[str, Any]:
    return {"decisions": {}, "floats": {}, "diagnostics": {}, "sentences": {"error": sentence}}
