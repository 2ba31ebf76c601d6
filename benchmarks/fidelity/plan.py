"""What a benchmark asks of a model: methods with parameters, budgets, and the runs that they make up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from scenes import DEFAULT_SIZE
from tokviz.errors import BadInput
from tokviz.models.loading import VisionLanguageModel
from tokviz.names import UNPRUNED, Site, VisionLayer
from tokviz.pruners import get, methods
from tokviz.runs.execute import planning_info
from tokviz.types import Budget, PlanningInfo

from .measured import BASELINES, ORACLE, RANDOM_AT

ALWAYS = (*BASELINES, ORACLE)
SHARES = ((1, 3), (2, 9), (1, 9), (1, 18))
"""The papers' budgets, 192, 128, 64 and 32 of 576 visual tokens, as fractions."""
DRAWN = ("uniform", {"phase": "drawn"})
"""The place of the kept token in every slice by lot, for a band; in the tables it is the middle."""
INSIDE = ("fastv", "dart")
"""Methods whose layer can be chosen: one by attention, one by duplication."""
MOST_LAYERS = 10

Entry = tuple[str, Mapping[str, Any]]
"""A method with the parameters that differ from its defaults."""


@dataclass(frozen=True)
class Mining:
    """One run: every method at every budget. name: of its folder."""

    name: str
    methods: tuple[Entry, ...]
    budgets: tuple[int, ...]


class LeftOut(TypedDict):
    """What this model or budget does not allow; why, in a sentence. budget: None where it is all of them."""

    label: str
    budget: int | None
    why: str


def benchmark_info(vlm: VisionLanguageModel) -> PlanningInfo:
    """What methods plan by, for the benchmark's images."""
    return planning_info(vlm, vlm.family.grid(vlm.model, vlm.processor, DEFAULT_SIZE, {}), has_evidence=True)


def parse_budgets(text: str | None, n_visual: int) -> tuple[int, ...]:
    """``"192,128"`` or ``"33%,11%"`` as token counts, descending, each once; None gives the papers' four.

    Raises BadInput for anything else, and for counts outside 1..N.
    """
    if text is None:
        budgets = {max(1, round(n_visual * above / below)) for above, below in SHARES}
    else:
        budgets = {_budget(part.strip(), n_visual) for part in text.split(",")}
    return tuple(sorted(budgets, reverse=True))


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


def judged_budget(budgets: Iterable[int], n_visual: int) -> int:
    """Where methods are ranked: at 64 of 576 tokens, or at the smallest budget where that is none."""
    ascending = sorted(budgets)
    return next((budget for budget in ascending if 576 * budget == 64 * n_visual), ascending[0])


def parse_methods(text: str) -> list[str]:
    """``"all"`` or ``"apet,fastervlm"`` as method ids in the order of the menu, with the controls.

    Raises BadInput naming the ids that exist.
    """
    asked = {name.strip() for name in text.split(",") if name.strip()}
    if not asked:
        raise BadInput("There is no method to run: give ids, or all.")
    for name in sorted(asked - {"all"}):
        get(name)
    every = [pruner.id for pruner in methods() if pruner.id != UNPRUNED]
    return [id for id in every if id in ALWAYS or id in asked or "all" in asked]


def fidelity_minings(ids: Sequence[str], budgets: Sequence[int], info: PlanningInfo, layers: bool) -> list[Mining]:
    """Every method at every budget; and ``INSIDE`` beside random tokens layer by layer, at one of them."""
    entries: list[Entry] = [(id, {}) for id in ids]
    made = [Mining("methods", (*entries, DRAWN), tuple(budgets))]
    inside = [id for id in INSIDE if id in ids]
    if layers and inside:
        at = tried_layers(info.n_layers)
        deep = tuple((id, {"layer": layer}) for id in (RANDOM_AT, *inside) for layer in at)
        made.append(Mining("layers", deep, (judged_budget(budgets, info.n_visual),)))
    return made


def tried_layers(n_layers: int) -> list[int]:
    """Every layer but the first, or ``MOST_LAYERS`` of them, evenly spaced."""
    count = min(MOST_LAYERS, n_layers - 1)
    return sorted({1 + (2 * i + 1) * (n_layers - 1) // (2 * count) for i in range(count)})


def possible(mining: Mining, info: PlanningInfo) -> tuple[Mining, list[LeftOut]]:
    """The run without methods that this model never allows, and why; and what it refuses at one of the budgets."""
    kept, left_out = [], []
    for method, params in mining.methods:
        pruner, entry = get(method), f"{get(method).label}"
        missing = pruner.missing(info)
        if missing is not None:
            left_out.append(LeftOut(label=entry, budget=None, why=missing))
            continue
        kept.append((method, params))
        for budget in mining.budgets:
            try:
                pruner.schedule(Budget(budget), info, pruner.complete(params))
            except BadInput as error:
                left_out.append(LeftOut(label=entry, budget=budget, why=str(error)))
    return Mining(mining.name, tuple(kept), mining.budgets), left_out


def where(method: str, params: Mapping[str, Any], budget: int, info: PlanningInfo) -> str:
    """At which sites a method drops tokens, in a few words; empty where it refuses."""
    pruner = get(method)
    try:
        schedule = pruner.schedule(Budget(budget), info, pruner.complete(params))
    except BadInput:
        return ""
    return "image" if schedule.smaller is not None else _sites([stage.site for stage in schedule.stages])


def _sites(sites: list[Site]) -> str:
    """``"encoder, layer 4"`` or ``"vision layers 0-4"``."""
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
