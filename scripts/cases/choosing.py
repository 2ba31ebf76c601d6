"""Choose from found cases a varied handful that is fair: every family of methods loses somewhere and wins somewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import combinations
from typing import get_args

from scenes import FAMILIES
from tokviz.names import MethodFamily

from .difficulty import Kind
from .search import FoundCase, Outcome

METHOD_FAMILIES: tuple[MethodFamily, ...] = tuple(f for f in get_args(MethodFamily) if f != "control")
WANTED_KINDS: tuple[Kind, ...] = (
    "small evidence",
    "near-duplicates",
    "busy background",
    "printed word",
    "handwritten digit",
    "crowd to count",
    "relation",
    "wide image",
)
TOLD_FIRST: tuple[Kind, ...] = (
    "handwritten digit",
    "printed word",
    "printed number",
    "crowd to count",
    "relation",
    "small evidence",
    "busy background",
    "near-duplicates",
    "wide image",
)
"""The kind that names a case: the first of these that applies, rare ones before those that most scenes have."""
N_SHOWN = 3
"""With the unpruned one these lanes fill a row of the page."""
SURE = 0.5
"""Answers that the model gives with less than this probability may turn with the rounding of another processor."""
Goal = tuple[str, str]


@dataclass(frozen=True)
class Shown:
    """A case with the methods that the page shows of it: one per family, at least one lost and one kept the answer."""

    case: FoundCase
    methods: tuple[str, ...]

    @cached_property
    def outcomes(self) -> list[Outcome]:
        """Of the shown methods, in their order."""
        return [self.case.outcomes[method] for method in self.methods]

    @cached_property
    def goals(self) -> frozenset[Goal]:
        """What a set of examples has covered when it holds this one."""
        return frozenset(
            {(("wins" if o.right else "loses"), o.family) for o in self.outcomes}
            | {("question", self.case.question_family)}
            | {("difficulty", kind) for kind in self.case.kinds}
        )

    @cached_property
    def clarity(self) -> float:
        """How plainly the overlays explain the answers, 0 to 1: keepers have the evidence, losers have not."""
        recalls = [self.case.recall(method) for method in self.methods]
        fit = [recall if o.right else 1 - recall for recall, o in zip(recalls, self.outcomes, strict=True)]
        return sum(fit) / len(fit)

    @cached_property
    def sure(self) -> float:
        """The least sure of the shown answers."""
        return min(self.case.sure, *(outcome.sure for outcome in self.outcomes))

    def ends(self) -> tuple[str, str]:
        """The method that lost the answer with the least evidence, and the one that kept it with the most."""
        lost = [method for method in self.methods if not self.case.outcomes[method].right]
        kept = [method for method in self.methods if self.case.outcomes[method].right]
        return min(lost, key=self.case.recall), max(kept, key=self.case.recall)

    @property
    def kind(self) -> str:
        """The kind of difficulty that names the case; the question's family where none applies."""
        return next((kind for kind in TOLD_FIRST if kind in self.case.kinds), self.case.question_family)


def wanted_goals() -> set[Goal]:
    """All that the shipped examples have to cover together."""
    families = {(end, family) for end in ("loses", "wins") for family in METHOD_FAMILIES}
    return families | {("question", f) for f in FAMILIES} | {("difficulty", kind) for kind in WANTED_KINDS}


def missed_goals(shown: Sequence[Shown]) -> list[str]:
    """What a set of examples does not cover, in words, sorted."""
    return sorted(" ".join(goal) for goal in wanted_goals().difference(*(one.goals for one in shown)))


def showings(case: FoundCase) -> Iterator[Shown]:
    """Every way to show a case plainly: methods of different families, sure answers, evidence that tells them apart."""
    sure = [method for method, outcome in case.outcomes.items() if outcome.sure >= SURE]
    for methods in combinations(sure, N_SHOWN):
        outcomes = [case.outcomes[method] for method in methods]
        families = {outcome.family for outcome in outcomes}
        if len(families) < N_SHOWN or len({outcome.right for outcome in outcomes}) < 2 or case.sure < SURE:
            continue
        shown = Shown(case, methods)
        loser, keeper = shown.ends()
        if case.recall(keeper) - case.recall(loser) >= 0.5:
            yield shown


def choose(found: Sequence[FoundCase], count: int) -> list[Shown]:
    """Greedy and deterministic: each next case covers most of what is missing, then is clear and brings new methods.

    The most telling case comes first, the others in the order of the questions' families. Fewer than ``count`` where
    there are no more scenes.
    """
    in_order = sorted(found, key=lambda case: (case.seed, case.question))
    pool = [shown for case in in_order for shown in showings(case)]
    missing, chosen = wanted_goals(), list[Shown]()
    while pool and len(chosen) < count:
        best = max(
            pool, key=partial(_gain, missing=missing, shown=Counter(name for one in chosen for name in _names(one)))
        )
        chosen.append(best)
        missing -= best.goals
        pool = [one for one in pool if one.case.seed != best.case.seed]
    first = max(chosen, key=telling, default=None)
    return sorted(chosen, key=lambda one: (one is not first, FAMILIES.index(one.case.question_family), one.case.seed))


def _names(one: Shown) -> list[str]:
    """What should not come again and again: methods, the family of the question, wide images (smaller patches)."""
    return [*one.methods, one.case.question_family, *(kind for kind in one.case.kinds if kind == "wide image")]


def _gain(one: Shown, missing: set[Goal], shown: Counter[str]) -> float:
    """What a case adds: a point per goal and up to one for clarity; less for what was shown before and for controls."""
    repeated = sum(0.1 * shown[method] for method in one.methods) + sum(
        0.3 * shown[name] for name in _names(one)[N_SHOWN:]
    )
    controls = sum(outcome.family == "control" for outcome in one.outcomes)
    return len(missing & one.goals) + one.clarity + 0.3 * one.sure - repeated - 0.5 * controls


def telling(one: Shown) -> float:
    """How good a first impression a case makes: plain to see, little evidence, things that look alike, all in view.

    Best are methods that drop tokens before the LLM: what their images show is all that the model got.
    """
    points = {"small evidence": 0.5, "near-duplicates": 0.3, "wide image": -0.5}
    before = 0.5 * all(not outcome.inside for outcome in one.outcomes)
    return one.clarity + before + sum(points.get(kind, 0.0) for kind in one.case.kinds)
