"""Which variants a benchmark consists of, which of them a model does not allow, and what tables say of a method."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from tokviz.errors import BadInput
from tokviz.models.loading import VisionLanguageModel
from tokviz.names import Site, VisionLayer
from tokviz.pruners import get, methods
from tokviz.records import TokenGrid
from tokviz.runs.execute import planning_info
from tokviz.types import EVIDENCE, Budget, PlanningInfo

from .draws import draw_variants
from .outcomes import BASELINES, EVIDENCE_ORACLE, FULL, LeftOut, Variant
from .running import ORACLE_LABEL, Recipe, recipe

SHARES = ((1, 3), (2, 9), (1, 9), (1, 18))
"""The papers' budgets, 192, 128, 64 and 32 of 576 visual tokens, as fractions."""

ALWAYS = (FULL, *BASELINES)
"""Rows that every benchmark has: what retention and tests are measured against."""


def parse_budgets(text: str | None, n_visual: int) -> list[int]:
    """``"192,128"`` or ``"33%,11%"`` as token counts, descending, each once; None gives the papers' four.

    Raises BadInput for anything else, and for counts outside 1..N.
    """
    if text is None:
        budgets = {max(1, round(n_visual * above / below)) for above, below in SHARES}
    else:
        budgets = {_budget(part.strip(), n_visual) for part in text.split(",")}
    return sorted(budgets, reverse=True)


def _budget(text: str, n_visual: int) -> int:
    try:
        number = float(text.removesuffix("%")) if text.endswith("%") else int(text)
    except ValueError as error:
        raise BadInput(f"A budget is a whole number of visual tokens or a percentage, not {text!r}.") from error
    tokens = round(number * n_visual / 100) if text.endswith("%") and math.isfinite(number) else number
    if not 1 <= tokens <= n_visual:
        raise BadInput(
            f"The budget {text!r} is not between 1 and the {n_visual} visual tokens of this model; percentages of them "
            "are possible too, e.g. 33%."
        )
    return int(tokens)


def parse_methods(text: str) -> list[str]:
    """``"all"`` or ``"apet,fastervlm"`` as method ids in the order of the menu, with the controls and the oracle.

    Raises BadInput naming the ids that exist.
    """
    # Those that go by marked evidence have the benchmark's own oracle in their place, which knows the very pixels.
    every = [pruner.id for pruner in methods() if EVIDENCE not in pruner.needs]
    asked = {name.strip() for name in text.split(",") if name.strip()}
    if not asked:
        raise BadInput("There is no method to run: give ids, or all.")
    for name in sorted(asked - {"all", EVIDENCE_ORACLE}):
        get(name)
    return [id for id in every if id in ALWAYS or id in asked or "all" in asked] + [EVIDENCE_ORACLE]


def variants(ids: Sequence[str], budgets: Sequence[int], draws: int = 1) -> list[Variant]:
    """Every method at every budget, method by method; the unpruned model once, what is drawn by lot ``draws`` times."""
    made = []
    for id in ids:
        label = ORACLE_LABEL if id == EVIDENCE_ORACLE else get(id).label
        made += [Variant(id, {}, label, budget) for budget in ([None] if id == FULL else budgets)]
        made += draw_variants(id, label, budgets, draws)
    return made


def plan(vlm: VisionLanguageModel, grid: TokenGrid, wanted: Sequence[Variant]) -> tuple[list[Recipe], list[LeftOut]]:
    """The variants that can run on this model, and why the others cannot."""
    info = planning_info(vlm, grid)
    recipes: list[Recipe] = []
    left_out: list[LeftOut] = []
    for variant in wanted:
        missing = None if variant.method == EVIDENCE_ORACLE else get(variant.method).missing(info)
        try:
            if missing is None:
                recipes.append(recipe(vlm, grid, variant))
                continue
            why, budget = missing, None
        except BadInput as error:
            why, budget = str(error), variant.budget
        entry = LeftOut(label=variant.label, budget=budget, why=why)
        if entry not in left_out:
            left_out.append(entry)
    return recipes, left_out


def describe(variants: Iterable[Variant], info: PlanningInfo) -> dict[str, dict[str, Any]]:
    """Type and sites per method, for ``about["methods"]``: ``{id: {"family": str, "where": {budget: str}}}``.

    A budget that the method refuses is left out.
    """
    described: dict[str, dict[str, Any]] = {}
    for variant in variants:
        if variant.method == EVIDENCE_ORACLE:
            described[EVIDENCE_ORACLE] = {"family": "control", "where": {}}
            continue
        pruner = get(variant.method)
        entry = described.setdefault(pruner.id, {"family": pruner.family, "where": {}})
        if variant.method == FULL or variant.budget is None or variant.params:
            continue
        try:
            schedule = pruner.schedule(Budget(variant.budget, "published"), info, pruner.complete(None))
        except BadInput:
            continue
        sites = where([stage.site for stage in schedule.stages])
        entry["where"][str(variant.budget)] = sites if schedule.smaller is None else "image"
    return described


def where(sites: list[Site]) -> str:
    """Sites in a few words, "encoder, layer 4" or "vision layers 0-4"."""
    vision = [site.vision_layer for site in sites if isinstance(site, VisionLayer)]
    layers = [site for site in sites if isinstance(site, int)]
    words = [str(site) for site in sites if isinstance(site, str)]
    words += [_many("vision layer", vision)] if vision else []
    words += [_many("layer", layers)] if layers else []
    return ", ".join(words)


def _many(noun: str, numbers: list[int]) -> str:
    if len(numbers) == 1:
        return f"{noun} {numbers[0]}"
    if len(numbers) > 3 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{noun}s {numbers[0]}-{numbers[-1]}"
    return f"{noun}s {'/'.join(map(str, numbers))}"
