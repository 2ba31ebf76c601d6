"""Controls that are drawn by lot, drawn several times: a band, so that one lucky or unlucky draw is seen as such."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .outcomes import FULL, Variant
from .retained import Outcomes, measure

MOST_DRAWS = 100
DRAWN: Mapping[str, Mapping[str, Any]] = {"random": {}, "uniform": {"phase": "drawn"}}
"""What is drawn, with the parameters of its further draws: the first of ``uniform`` is the middle of every slice."""


def draw_variants(id: str, label: str, budgets: Sequence[int], draws: int) -> list[Variant]:
    """The draws beside the first one, which stands in the tables; none for what has no lot."""
    if id not in DRAWN:
        return []
    return [Variant(id, DRAWN[id], label, budget, draw) for budget in budgets for draw in range(1, draws)]


def bands(outcomes: Outcomes, *, resamples: int, seed: int) -> list[dict[str, Any]]:
    """Mean retention of every control over its draws, by falling budget: ``method``, ``label``, ``budget``, ``mean``,
    ``low`` and ``high`` (the lowest and highest draw), ``draws`` (each of them, the table's first)."""
    drawn = {
        variant: found
        for variant, found in outcomes.items()
        if variant.method in DRAWN and (variant.draw or not variant.params)
    }
    if not any(variant.draw for variant in drawn):
        return []
    full = {variant: found for variant, found in outcomes.items() if variant.method == FULL}
    measured = measure({**full, **drawn}, resamples=resamples, seed=seed)
    values: dict[tuple[str, str, int], list[tuple[int, float]]] = {}
    for variant, value in zip(measured.variants, measured.mean.tolist(), strict=True):
        if variant.budget is not None:
            values.setdefault((variant.method, variant.label, variant.budget), []).append((variant.draw, value))
    made = []
    for (method, label, budget), own in values.items():
        draws = [value for _, value in sorted(own)]
        made.append(
            {
                "method": method,
                "label": label,
                "budget": budget,
                "mean": sum(draws) / len(draws),
                "low": min(draws),
                "high": max(draws),
                "draws": draws,
            }
        )
    return made
