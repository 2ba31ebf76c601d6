"""What became of answers and evidence, and what follows from all rows of a case. Pure functions on plain values.

A row is a dict with the columns of ``schema.py``. A method that draws no random numbers has one row per budget, of the
first seed: wherever rows of one seed are compared, that row stands for every seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Literal

import numpy as np

from ..records import StageRecord
from ..runs.metrics import fates, normalised

Outcome = Literal["kept", "lost", "rescued", "changed", "wrong", "same", "differs", "error"]
CONTROL = "control"
RANDOM, DOWNSAMPLE = "random", "downsample"
Row = dict[str, Any]


def outcome_of(right: bool | None, unpruned_right: bool | None, answer: str, unpruned: str) -> Outcome:
    """Say what pruning did to an answer.

    ``kept``: right before and after. ``lost``: right before, wrong now. ``rescued``: wrong before, right now.
    ``changed``: wrong before, and another wrong answer now. ``wrong``: the same wrong answer. Where nothing says what
    is right: ``same`` or ``differs``. Answers are the same apart from case, spaces and final punctuation.
    """
    same = normalised(answer) == normalised(unpruned)
    if right is None or unpruned_right is None:
        return "same" if same else "differs"
    if right:
        return "kept" if unpruned_right else "rescued"
    return "lost" if unpruned_right else "wrong" if same else "changed"


def flipped(outcome: str) -> bool | None:
    """Whether right became wrong or wrong right; None where nothing says what is right, or there is no answer."""
    return None if outcome in ("same", "differs", "error") else outcome in ("lost", "rescued")


def evidence_outcome(tokens: Sequence[int], stages: Sequence[StageRecord], n_visual: int) -> dict[str, Any]:
    """What became of the tokens that show the evidence: ``evidence_kept``, ``_absorbed``, ``_lost``, ``_gone_layer``.

    The first three are shares of ``tokens``. The last is the first LLM layer that none of them reaches, neither itself
    nor merged into another one: 0 for what is lost before the LLM; None while one is left. All None without evidence.
    """
    names = ("evidence_kept", "evidence_absorbed", "evidence_lost")
    if not tokens:
        return dict.fromkeys((*names, "evidence_gone_layer"))
    end = fates(tokens, stages, n_visual)
    shares = [len(some) / len(tokens) for some in (end.kept, end.absorbed, end.lost)]
    gone = None
    if not end.kept and not end.absorbed:
        passed = range(1, len(stages) + 1)
        last = next(at for at in passed if len(fates(tokens, stages[:at], n_visual).lost) == len(tokens))
        site = stages[last - 1].site
        gone = site if isinstance(site, int) else 0
    return {**dict(zip(names, shares, strict=True)), "evidence_gone_layer": gone}


def add_case_columns(rows: Sequence[Row], kept: Sequence[Sequence[int] | None], unpruned_right: bool | None) -> None:
    """Fill the columns of a case's rows that need its other rows.

    Args:
        rows: All rows of one case, with outcome, right, budget, seed and kind.
        kept: The tokens that each row kept, None for a row without an answer.
        unpruned_right: Whether the unpruned answer is right; None where nothing says what is.
    """
    unpruned_wrong = None if unpruned_right is None else not unpruned_right
    for budget in dict.fromkeys(row["budget"] for row in rows):
        beside = _Budget([(row, some) for row, some in zip(rows, kept, strict=True) if row["budget"] == budget])
        for row, some in beside.rows:
            row["unpruned_wrong"] = unpruned_wrong
            row["only_failure"], row["all_failed"] = beside.failures(row)
            row["random_beats_it"] = beside.random_beats(row)
            row["agreement"] = beside.agreement(row, some)
    _add_flip_budgets(rows)


class _Budget:
    """The rows of a case at one budget, with what each kept."""

    def __init__(self, rows: Sequence[tuple[Row, Sequence[int] | None]]) -> None:
        self.rows = rows
        self._of_method: dict[str, list[tuple[Row, Sequence[int] | None]]] = {}
        for row, kept in rows:
            self._of_method.setdefault(row["method"], []).append((row, kept))

    def _pruners(self, seed: int) -> list[tuple[Row, Sequence[int] | None]]:
        """Of each method that is no control the row of this seed, or the one that stands for every seed."""
        found = []
        for rows in self._of_method.values():
            if rows[0][0]["kind"] != CONTROL:
                found.append(next((pair for pair in rows if pair[0]["seed"] == seed), rows[0]))
        return [pair for pair in found if pair[0]["outcome"] != "error"]

    def failures(self, row: Row) -> tuple[bool | None, bool | None]:
        """Whether of two or more pruners only this one lost the answer, and whether all of them did."""
        if row["right"] is None:
            return None, None
        there = self._pruners(row["seed"])
        lost = [other for other, _ in there if other["outcome"] == "lost"]
        alone = len(there) > 1 and [other["method"] for other in lost] == [row["method"]] and row["outcome"] == "lost"
        return alone, len(there) > 1 and len(lost) == len(there)

    def random_beats(self, row: Row) -> bool | None:
        """Whether this answer is wrong and most random selections of this budget leave the right one."""
        random = [other["right"] for other, _ in self.rows if other["method_id"] == RANDOM]
        if row["right"] is None or None in random or not random:
            return None
        return row["method_id"] != RANDOM and not row["right"] and 2 * sum(random) > len(random)

    def agreement(self, row: Row, kept: Sequence[int] | None) -> float | None:
        """Mean over the other pruners of kept tokens in common, as a share of those that at least one keeps."""
        if kept is None:
            return None
        others = [some for other, some in self._pruners(row["seed"]) if other["method"] != row["method"]]
        shares = [share for some in others if (share := _overlap(kept, some)) is not None]
        return sum(shares) / len(shares) if shares else None


def _overlap(a: Sequence[int], b: Sequence[int] | None) -> float | None:
    if b is None:
        return None
    common = len(np.intersect1d(a, b, assume_unique=True))
    union = len(a) + len(b) - common
    return common / union if union else None


def _add_flip_budgets(rows: Sequence[Row]) -> None:
    """``flip_budget``: the largest mined budget at which this method, with this seed, loses the right answer."""
    by_method = sorted(rows, key=lambda row: str(row["method"]))
    for _, group in groupby(by_method, key=lambda row: str(row["method"])):
        own = list(group)
        for row in own:
            budgets = {}
            for other in own:
                if other["seed"] == row["seed"] or other["budget"] not in budgets:
                    budgets[other["budget"]] = other["outcome"]
            row["flip_budget"] = max((budget for budget, end in budgets.items() if end == "lost"), default=None)


def difficult(rows: Sequence[Row], unpruned_right: bool | None) -> bool | None:
    """Whether plain downsampling loses the unpruned right answer at a mined budget, as VTC-Bench has it.

    None where downsampling was not mined, or the unpruned answer is not right.
    """
    outcomes = [row["outcome"] for row in rows if row["method_id"] == DOWNSAMPLE and row["outcome"] != "error"]
    return any(outcome == "lost" for outcome in outcomes) if outcomes and unpruned_right else None
