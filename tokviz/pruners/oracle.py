"""Oracle: the tokens that show the marked evidence, then evenly spaced ones. What a selection could at best keep."""

from __future__ import annotations

import torch
from torch import Generator

from ..types import EVIDENCE, Diagnostics, Params, Selection, Signals, TokenMap
from .ops import complement, evenly_spaced, highest, required, sanitised
from .pruner import Pruner, fixed_count, single_stage

NOT_SHOWN = "No token shows the marked evidence: evenly spaced tokens were kept."


@fixed_count
def select(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """Keep the tokens of which evidence covers most, ties to the lowest index; where evidence ends, evenly spaced ones.

    The others are evenly spaced in the sequence of all that show no evidence; rows that are no patch are among them.
    Shape: signals.evidence ``(N,)`` -> kept ``(keep,)``.
    """
    given = required(signals.evidence, "evidence").float()
    share, _ = sanitised(given)
    shown = int((share > 0).sum())
    best = highest(share, min(keep, shown))
    rest = complement(best, len(share))
    others = rest[evenly_spaced(len(rest), keep - len(best), rest.device)]

    def diagnose() -> Diagnostics:
        return Diagnostics(
            score=TokenMap("evidence", "Marked evidence in the patch", given, "share of its area"),
            facts={"tokens_with_evidence": shown, "of_them_kept": len(best), "evenly_spaced": len(others)},
            warnings=() if shown else (NOT_SHOWN,),
        )

    return Selection(kept=torch.cat([best, others]).sort().values, diagnose=diagnose)


PRUNER = Pruner(
    id="oracle",
    label="Oracle",
    family="control",
    claim="Keeps the marked evidence first, then evenly spaced tokens: what a selection could at best know.",
    needs=(EVIDENCE,),
    schedule=single_stage(select, needs=(EVIDENCE,), title="Marked evidence first"),
)
