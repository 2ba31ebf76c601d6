"""From which layer on does it still matter which tokens a method drops? Methods inside the LLM beside random tokens
dropped before the same layer, layer by layer, at one budget."""

from __future__ import annotations

from typing import Any

import numpy as np

from .measured import RANDOM_AT, Measured


def depth_result(measured: Measured) -> dict[str, Any] | None:
    """What came of the run layer by layer, as JSON data; None where random tokens are missing.

    Of every layer: the mean retention of random tokens with that of each drawing, and per method its own with the
    paired difference to random's mean. last: the last layer at which a method was better beyond its interval, or None.
    """
    results = measured.results
    budget, by_layer = results.budgets[-1], dict[int, dict[str, str]]()
    for method in results.methods:
        if len(results.by_seed(method.key, budget)):
            by_layer.setdefault(int(method.params["layer"]), {})[method.id] = method.key
    layers = [
        _at(measured, layer, own, budget)
        for layer, own in sorted(by_layer.items())
        if len(own) > 1 and RANDOM_AT in own
    ]
    if not layers:
        return None
    better = [at["layer"] for at in layers if any((one["minus"]["low"] or 0) > 0 for one in at["methods"])]
    return {"budget": budget, "layers": layers, "last": max(better) if better else None}


def _at(measured: Measured, layer: int, keys: dict[str, str], budget: int) -> dict[str, Any]:
    results = measured.results
    labels = {method.key: method.label.partition(" (")[0] for method in results.methods}
    random = keys[RANDOM_AT]
    others = [key for id, key in keys.items() if id != RANDOM_AT]
    drawn = [draw["value"] for draw in measured.retained(results.by_seed(random, budget))]
    own = np.array([results.points(key, budget) for key in others])
    means, minus = measured.retained(own), measured.retained(own - results.points(random, budget))
    return {
        "layer": layer,
        "random": measured.retained(results.points(random, budget)[None])[0],
        "draws": drawn,
        "methods": [
            {"label": labels[key], "retention": mean, "minus": gap}
            for key, mean, gap in zip(others, means, minus, strict=True)
        ],
    }
