"""What a mining is asked to do, checked before any work, and its receipt."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import BadInput
from ..models.loading import VisionLanguageModel
from ..names import UNPRUNED, BudgetMeaning
from ..pruners import PRUNERS
from ..pruners.plugins import packaged
from ..pruners.stack import JOIN
from ..records import RequestedMethod
from ..runs.inputs import check_whole
from ..runs.requests import MAX_NEW_TOKENS, ChosenMethod, MethodLike, chosen_methods, listed
from ..short import passed

PART_CASES = 100
QUICK_CASES, QUICK_BUDGETS = 40, 2
MOST_BUDGETS, MOST_SEEDS, MOST_TOKENS = 32, 64, 1_000_000
_PERCENT = re.compile(r"\s*(\d{1,3}(?:\.\d{1,6})?)\s*%\s*")


@dataclass(frozen=True)
class Plan:
    """What every case is asked, the same in every process.

    chosen: the unpruned run first. budgets: descending. model_id: as rows name it.
    """

    chosen: tuple[ChosenMethod, ...]
    budgets: tuple[int, ...]
    budget_as: BudgetMeaning
    seeds: tuple[int, ...]
    max_new_tokens: int
    frames: int | None
    model_id: str

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle methods by their ids: what a schedule is made of cannot be sent to another process."""
        asked = [chosen.requested for chosen in self.methods]
        return _rebuilt, (asked, {name: value for name, value in vars(self).items() if name != "chosen"})

    @property
    def methods(self) -> tuple[ChosenMethod, ...]:
        """Without the unpruned run."""
        return tuple(chosen for chosen in self.chosen if chosen.pruner.id != UNPRUNED)


def _rebuilt(asked: list[RequestedMethod], rest: dict[str, Any]) -> Plan:
    return Plan(chosen=tuple(chosen_methods(asked)), **rest)


def only_here(plan: Plan) -> list[str]:
    """The methods that another process does not know: those that were made or registered in this one."""
    found = {pruner.id for pruner in (*PRUNERS, *packaged(PRUNERS))}
    return [chosen.requested.key for chosen in plan.methods if not {*chosen.pruner.id.split(JOIN)} <= found]


def checked_plan(
    vlm: VisionLanguageModel,
    methods: Sequence[MethodLike],
    budgets: Sequence[int | str],
    *,
    params: Mapping[str, Mapping[str, Any]] | None,
    budget_as: BudgetMeaning,
    seeds: int,
    seed: int,
    max_new_tokens: int,
    frames: int | None,
    quick: bool,
) -> Plan:
    """Check what is asked for. quick: the largest and the smallest budget and one seed. Raises BadInput."""
    check_whole("The number of seeds", seeds, 1, MOST_SEEDS)
    check_whole("The seed", seed, 0, 2**63 - 1 - seeds)
    check_whole("The number of new tokens", max_new_tokens, 1, MAX_NEW_TOKENS)
    if budget_as not in ("published", "final", "average"):
        raise BadInput(f"budget_as must be published, final or average, not {passed(budget_as)}.")
    chosen = chosen_methods(methods, params)
    if len(chosen) < 2:
        raise BadInput("There is no method to mine: name at least one beside the unpruned run.")
    found = checked_budgets(vlm, budgets)
    if quick and len(found) > QUICK_BUDGETS:
        found = [found[0], found[-1]]
    last = 1 if quick else seeds
    return Plan(
        tuple(chosen), tuple(found), budget_as, tuple(range(seed, seed + last)), max_new_tokens, frames, vlm.record.name
    )


def checked_budgets(vlm: VisionLanguageModel, budgets: Sequence[int | str]) -> list[int]:
    """Budgets in tokens, descending, each once; shares are of a square image's tokens. Raises BadInput."""
    found = set()
    for value in listed("budgets", budgets):
        share = _PERCENT.fullmatch(value) if isinstance(value, str) else None
        if share is not None and 0 < float(share[1]) <= 100:
            found.add(max(1, round(vlm.n_visual * float(share[1]) / 100)))
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_TOKENS:
            raise BadInput(
                f'A budget is a whole number of visual tokens, or a share of them such as "25%", not {passed(value)}.'
            )
        found.add(value)
    if not found:
        raise BadInput('There are no budgets: give visual tokens (64) or shares of all of them ("25%").')
    if len(found) > MOST_BUDGETS:
        raise BadInput(f"There are {len(found)} budgets; a mining has at most {MOST_BUDGETS}.")
    return sorted(found, reverse=True)


def positions(count: int, limit: int | None, quick: bool) -> Sequence[int]:
    """Places in the case file of the cases that are mined: all of them, or ``limit`` evenly spaced ones.

    quick: at most 40.
    """
    wanted = min(count if limit is None else limit, QUICK_CASES if quick else count, count)
    return range(count) if wanted == count else [at * count // wanted for at in range(wanted)]
