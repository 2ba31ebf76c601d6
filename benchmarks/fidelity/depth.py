"""From which layer on does it still matter which tokens a method drops? Methods inside the LLM beside random tokens
dropped before the same layer, layer by layer, at one budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .outcomes import FULL, Variant
from .retained import Outcomes, Retained, estimate, measure

RANDOM_AT = "random_at"
INSIDE = {"fastv": "FastV", "dart": "DART"}
"""Methods whose layer can be chosen, with their labels: one by attention, one by duplication."""
DRAWS = 3
"""How many drawings of random tokens a layer's control is the mean of."""
MOST_LAYERS = 10


def tried_layers(n_layers: int) -> list[int]:
    """Every layer but the first, or ``MOST_LAYERS`` of them, evenly spaced."""
    count = min(MOST_LAYERS, n_layers - 1)
    return sorted({1 + (2 * i + 1) * (n_layers - 1) // (2 * count) for i in range(count)})


def depth_variants(ids: Sequence[str], budget: int, n_layers: int) -> list[Variant]:
    """``random_at`` and those of ``ids`` that are in ``INSIDE``, at every tried layer; nothing where there are none."""
    inside = [method for method in INSIDE if method in ids]
    made = []
    for layer in tried_layers(n_layers) if inside else ():
        at: dict[str, Any] = {"layer": layer}
        made += [Variant(RANDOM_AT, at, "Random", budget, draw) for draw in range(DRAWS)]
        made += [Variant(method, at, INSIDE[method], budget) for method in inside]
    return made


def is_depth(variant: Variant) -> bool:
    """Whether a variant belongs to this comparison and not to the tables."""
    return variant.method in (RANDOM_AT, *INSIDE) and set(variant.params) == {"layer"}


def depth_result(outcomes: Outcomes, *, resamples: int, seed: int) -> dict[str, Any] | None:
    """What came of ``depth_variants``, as JSON data; None where they did not run.

    Of every layer: retention of the mean of the random drawings with its lowest and highest, and per method its
    retention and the paired difference to that mean. last: the last layer at which a method was better beyond its
    interval, None if at none.
    """
    own = {variant: found for variant, found in outcomes.items() if is_depth(variant)}
    if not own:
        return None
    full = {variant: found for variant, found in outcomes.items() if variant.method == FULL}
    measured = measure({**full, **own}, resamples=resamples, seed=seed)
    layers = [_at(measured, layer) for layer in sorted({variant.params["layer"] for variant in own})]
    better = [at["layer"] for at in layers if any(one["difference"]["low"] > 0 for one in at["methods"])]
    return {
        "budget": next(iter(own)).budget,
        "draws": DRAWS,
        "layers": layers,
        "last": max(better) if better else None,
    }


def _at(measured: Retained, layer: int) -> dict[str, Any]:
    places = [v for v, variant in enumerate(measured.variants) if variant.params.get("layer") == layer]
    random = [v for v in places if measured.variants[v].method == RANDOM_AT]
    drawn, samples = measured.mean[random], measured.mean_samples[:, random].mean(axis=1)
    return {
        "layer": layer,
        "random": {"value": float(drawn.mean()), "low": float(drawn.min()), "high": float(drawn.max())},
        "methods": [
            {
                "method": measured.variants[v].method,
                "label": measured.variants[v].label,
                "mean_retention": measured.of(v),
                "difference": estimate(measured.mean[v] - drawn.mean(), measured.mean_samples[:, v] - samples),
            }
            for v in places
            if v not in random
        ],
    }
