"""Whole attention maps of the stock model with eager attention, in float64: nothing of tokviz's capture is used.

Eager attention takes its softmax in float32 whatever the model's type; here it keeps the type.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def exact_softmax() -> Iterator[list[torch.Tensor]]:
    """Softmax in the type of its input; yields the list of everything that it returned."""
    original, made = torch.nn.functional.softmax, []

    def softmax(values, dim=None, _stacklevel=3, dtype=None):
        made.append(original(values, dim=dim))
        return made[-1]

    torch.nn.functional.softmax = softmax
    try:
        yield made
    finally:
        torch.nn.functional.softmax = original


@torch.no_grad()
def generated_maps(model, inputs, steps):
    """Token ids of a greedy answer, and for each of them the maps of all layers, ``(H, q, k)`` each."""
    with exact_softmax():
        made = model.generate(
            **inputs, max_new_tokens=steps, do_sample=False, return_dict_in_generate=True, output_attentions=True
        )
    ids = made.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    return ids, [[layer[0] for layer in step] for step in made.attentions]


@torch.no_grad()
def tower_maps(model, attentions, inputs):
    """For each attention module of the tower, the maps ``(P, H, n, n)`` that it computed, one after the other."""
    found = {number: [] for number in range(len(attentions))}
    with exact_softmax() as made:
        hooks = []
        for number, module in enumerate(attentions):
            hooks.append(module.register_forward_pre_hook(lambda *_: made.clear()))
            hooks.append(module.register_forward_hook(lambda *_, n=number: found[n].extend(made)))
        try:
            model(**inputs)
        finally:
            for hook in hooks:
                hook.remove()
    return found
