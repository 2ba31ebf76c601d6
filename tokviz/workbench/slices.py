"""Slices that separate two methods: every family, tercile and frequent word is tried, tested, and ranked.

The unit is the case: a method is right where most of its seeds are. Two methods are compared on the same cases, so the
test is McNemar's, exact; all slices are tried at once, so the p-values are Holm's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput
from ..statistics import compare_paired, holm
from .columns import NONE, CaseColumns, Number, case_columns, verdicts
from .compiler import Compiler
from .filters import Condition, Filter, HasText, IsOneOf, IsTrue, Labels, Within, about_cases
from .queries import Found
from .run import OpenRun

FEWEST = 10
"""Cases that a slice needs at least: of fewer nothing can be said."""
NUMBERS = {
    "evidence_size": "evidence size",
    "cls_entropy": "attention entropy",
    "effective_rank": "effective rank",
    "margin": "margin of the unpruned answer",
}
_BOOLS = {"difficult": ("downsampling fails", "downsampling suffices"), "right": ("unpruned right", "unpruned wrong")}
_THIRDS = ("lowest", "middle", "highest")
_MOST_WORDS = 30
_SAY_NOTHING = {
    "and",
    "are",
    "does",
    "for",
    "from",
    "has",
    "have",
    "that",
    "the",
    "there",
    "this",
    "was",
    "with",
    "you",
}
_WORD = re.compile(r"[^\W\d_]{3,}")


@dataclass(frozen=True)
class Slice:
    """Cases that have something in common, and how two methods do on them.

    Attributes:
        name: In words.
        kind: What it was made from: "family", "number", "text", "flag" or "saved".
        conditions: The filter that finds them.
        cases: How many; right_a, right_b: on how many of them each method is right.
        only_a, only_b: Cases on which one is right and the other is not.
        p: McNemar's exact p-value; p_holm: corrected for all slices that were tried. None where the two
            differ on too few cases for any test.
        beyond: How much the difference of the two rates exceeds that on all other cases; the ranking goes by it.
    """

    name: str
    kind: str
    conditions: tuple[Any, ...]
    cases: int
    right_a: int
    right_b: int
    only_a: int
    only_b: int
    p: float | None
    p_holm: float | None
    beyond: float

    @property
    def difference(self) -> float:
        """Rate of a minus rate of b."""
        return (self.right_a - self.right_b) / self.cases

    def to_json(self) -> dict[str, Any]:
        """As data for the browser."""
        facts = {name: getattr(self, name) for name in ("name", "kind", "cases", "right_a", "right_b", "only_a")}
        facts |= {name: getattr(self, name) for name in ("only_b", "p", "p_holm", "beyond", "difference")}
        return {**facts, "conditions": [condition.model_dump(mode="json") for condition in self.conditions]}


@dataclass(frozen=True)
class SliceRanking:
    """All slices that were tried, those that separate the methods most first.

    not_said: why nothing can be said, where that is so, as a sentence.
    """

    a: str
    b: str
    budget: int
    cases: int
    slices: list[Slice]
    not_said: str | None


def automatic_slices(
    run: OpenRun, a: str, b: str, budget: int, asked: Filter | None = None, labels: Labels | None = None
) -> SliceRanking:
    """Rank slices of the filtered cases by how much they separate two methods at a budget.

    Conditions on what a method did are left out of the filter: cases that were chosen by their outcome prove nothing
    about it. Raises BadInput for what was not mined, or a method compared with itself.
    """
    if a == b:
        raise BadInput("Choose two different methods to rank slices by.")
    place = Compiler(run.methods, run.manifest.budgets).place
    one, other = (verdicts(run, *place(key, budget)) for key in (a, b))
    unbiased = about_cases(asked or Filter())
    chosen = np.isin(case_columns(run).ordinal, Found(run, unbiased, labels).ordinals_found)
    chosen &= one.there & other.there
    found = [
        _compared(name, kind, conditions, members & chosen, chosen, one.good, other.good)
        for name, kind, conditions, members in _candidates(run, case_columns(run), chosen)
        if FEWEST <= np.count_nonzero(members & chosen) < np.count_nonzero(chosen)
    ]
    ranked = sorted(_with_holm(found), key=lambda s: (s.p_holm is None or s.p_holm > 0.05, -abs(s.beyond), s.name))
    return SliceRanking(a, b, budget, int(np.count_nonzero(chosen)), ranked, _not_said(chosen, one.good, other.good))


def compare_slice(
    run: OpenRun, name: str, asked: Filter, a: str, b: str, budget: int, labels: Labels | None = None
) -> Slice:
    """One slice, such as a saved one, as of ``automatic_slices``; its p-value stands alone."""
    place = Compiler(run.methods, run.manifest.budgets).place
    one, other = (verdicts(run, *place(key, budget)) for key in (a, b))
    there = one.there & other.there
    members = np.isin(case_columns(run).ordinal, Found(run, asked, labels).ordinals_found) & there
    return _compared(name, "saved", asked.conditions, members, there, one.good, other.good)


def _not_said(chosen: NDArray[np.bool_], a: NDArray[np.bool_], b: NDArray[np.bool_]) -> str | None:
    """Why a test of all the cases together would be refused, with how many it needs; None where it would not be."""
    refusal = compare_paired({"a": a[chosen], "b": b[chosen]}, [("a", "b")])[0].refusal
    if refusal is None:
        return None
    words = str(refusal)
    return f"{words[0].upper()}{words[1:]} Choose a smaller budget, or mine more cases."


def _compared(
    name: str,
    kind: str,
    conditions: tuple[Any, ...],
    members: NDArray[np.bool_],
    of: NDArray[np.bool_],
    a: NDArray[np.bool_],
    b: NDArray[np.bool_],
) -> Slice:
    n, rest = int(np.count_nonzero(members)), of & ~members
    said = compare_paired({"a": a[members], "b": b[members]}, [("a", "b")])[0]
    inside = said.difference / 100
    n_rest = int(np.count_nonzero(rest))
    outside = (int(np.count_nonzero(rest & a)) - int(np.count_nonzero(rest & b))) / n_rest if n_rest else 0.0
    right = int(np.count_nonzero(members & a)), int(np.count_nonzero(members & b))
    counts = n, *right, said.only_first, said.only_second
    return Slice(name, kind, conditions, *counts, said.p, None, inside - outside)


def _with_holm(found: Sequence[Slice]) -> list[Slice]:
    """All p-values corrected together; those that were refused were looked at as well and count as 1."""
    corrected = holm([1.0 if one.p is None else one.p for one in found]) if found else []
    return [one if one.p is None else replace(one, p_holm=p) for one, p in zip(found, corrected, strict=True)]


Candidate = tuple[str, str, tuple[Condition, ...], NDArray[np.bool_]]


def _candidates(run: OpenRun, columns: CaseColumns, chosen: NDArray[np.bool_]) -> Iterator[Candidate]:
    family = columns.words["family"]
    for code, word in enumerate(family.names):
        yield word, "family", (IsOneOf(column="family", values=(word,)),), family.codes == code
    for name, label in NUMBERS.items():
        yield from _thirds(name, label, columns.numbers[name], chosen)
    for name, (yes, no) in _BOOLS.items():
        for value, label in ((True, yes), (False, no)):
            flag: Any = IsTrue(column=name, values=(value,))  # type: ignore[arg-type]
            yield label, "flag", (flag,), columns.bools[name] == int(value)
    yield from _texts(run, columns, chosen)


def _thirds(name: str, label: str, number: Number, chosen: NDArray[np.bool_]) -> Iterator[Candidate]:
    values = number.values
    known = values[chosen & np.isfinite(values)]
    if len(known) < 3 * FEWEST:
        return
    low, high = np.quantile(known, (1 / 3, 2 / 3))
    ends = [(None, low), (low, high), (high, None)]
    for third, (start, stop) in zip(_THIRDS, ends, strict=True):
        members = np.isfinite(values)
        if start is not None:
            members &= values >= start
        if stop is not None:
            members &= values <= stop
        span = f"{f'{start:.3g} – ' if start is not None else '≤ '}{f'{stop:.3g}' if stop is not None else ''}"
        span = f"≥ {start:.3g}" if stop is None else span
        condition: Any = Within(
            column=name,  # type: ignore[arg-type]
            low=None if start is None else float(start),
            high=None if stop is None else float(stop),
        )
        yield f"{third} third of {label} ({span})", "number", (condition,), members


def _texts(run: OpenRun, columns: CaseColumns, chosen: NDArray[np.bool_]) -> Iterator[Candidate]:
    """Words that occur in some of the questions, and answers that several cases expect."""
    words, texts = run.remembered("question words", lambda: _question_words(run))
    share = Counter(word for at in np.flatnonzero(chosen) for word in words[at])
    n = int(np.count_nonzero(chosen))
    frequent = [word for word, count in share.most_common(300) if FEWEST <= count <= 0.9 * n][:_MOST_WORDS]
    for word in frequent:
        members = np.fromiter((word in text for text in texts), bool, len(texts))
        yield f"“{word}” in the question", "text", (HasText(text=word, where="question"),), members
    answer = columns.words["answer"]
    for code, value in enumerate(answer.names[:_MOST_WORDS]):
        if code < NONE - 1:
            condition = IsOneOf(column="answer", values=(value,))
            yield f"unpruned answer “{value[:40]}”", "text", (condition,), answer.codes == code


def _question_words(run: OpenRun) -> tuple[list[frozenset[str]], list[str]]:
    questions = [row[0].lower() for row in run.query("SELECT question FROM facts ORDER BY ordinal")]
    return [frozenset(_WORD.findall(question)) - _SAY_NOTHING for question in questions], questions
