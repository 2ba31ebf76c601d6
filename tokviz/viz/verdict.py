"""What pruning did to an answer, as page, figures, tables and terminal say it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..comparison import Comparison
from ..records import Run
from ..runs.metrics import VerdictKind, verdict

Tone = Literal["good", "bad", "same", "different"]
_LOOKS: dict[VerdictKind, tuple[Tone, str]] = {
    "right": ("good", "✓"),
    "recovered": ("good", "✓"),
    "wrong": ("bad", "✗"),
    "flipped": ("bad", "✗"),
    "same": ("same", "="),
    "changed": ("different", "≠"),
}


@dataclass(frozen=True)
class Judgement:
    """A verdict in words.

    kind: ``good`` and ``bad`` compare with the right answer, ``same`` and ``different`` with the unpruned one.
    sign: the same in one character, for readers who cannot tell colours apart.
    """

    kind: Tone
    sign: str
    text: str


def judge(comparison: Comparison, run: Run) -> Judgement | None:
    """Judge a run's answer. None for a run that failed, and where there is nothing to compare it with."""
    if run.error is not None:
        return None
    unpruned, expected = comparison.runs[0], comparison.request.expected_answer
    alone = run is unpruned or unpruned.error is not None
    if alone and expected is None:
        return None
    judged = verdict(run.answer, run.answer if alone else unpruned.answer, expected)
    return Judgement(*_LOOKS[judged.kind], judged.label)
