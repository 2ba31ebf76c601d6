"""The case that the page opens on: its lanes are one of each kind that a visitor should meet first, and random."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .choosing import SURE, Shown, missed_goals, telling
from .search import FoundCase

APPROXIMATION, BASELINE = "apet", "random"
"""Shown beside an attention-ranked method and one that seeks diversity."""


def openings(case: FoundCase) -> Iterator[Shown]:
    """Every way to show a case with the four; sure answers, and evidence that tells losers from keepers."""

    def of(family: str) -> list[str]:
        return [method for method, o in case.outcomes.items() if o.family == family and o.sure >= SURE]

    if not {APPROXIMATION, BASELINE} <= set(case.outcomes) or case.sure < SURE:
        return
    for ranked in of("attention-ranked"):
        for diverse in of("diversity"):
            shown = Shown(case, (ranked, APPROXIMATION, diverse, BASELINE))
            if len({outcome.right for outcome in shown.outcomes[:3]}) < 2:
                continue
            loser, keeper = shown.ends()
            if case.recall(keeper) - case.recall(loser) >= 0.5:
                yield shown


def with_opening(chosen: Sequence[Shown]) -> list[Shown]:
    """The chosen cases with the opening one first, shown with its four lanes; as they are where none can open.

    What the case covered with its former lanes must be covered by the others.
    """
    found = [(at, shown) for at, one in enumerate(chosen) for shown in openings(one.case)]
    whole = len(missed_goals(chosen))
    orders = [[shown, *chosen[:at], *chosen[at + 1 :]] for at, shown in found]
    fair = [order for order in orders if len(missed_goals(order)) <= whole]
    return max(fair, key=lambda order: _welcome(order[0]), default=list(chosen))


def _welcome(shown: Shown) -> float:
    """How good a first impression it makes: attention loses what others keep, chance loses it too, plain to see."""
    ranked, apet, diverse, chance = shown.outcomes
    return 2.0 * (not ranked.right) + apet.right + diverse.right + 0.5 * (not chance.right) + telling(shown)
