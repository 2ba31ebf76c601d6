"""Temporary."""
from __future__ import annotations
from typing import NamedTuple
from ..runs.metrics import normalised
class Judgement(NamedTuple):
    right: bool | None
    score: float | None
def judge(case, answer):
    if not case.answers: return Judgement(None, None)
    r = any(normalised(answer)==normalised(a) for a in case.answers)
    return Judgement(r, float(r))
