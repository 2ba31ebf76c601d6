"""The control that knows where the answer is: what a selection could at best keep."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator

from tokviz.pruners.pruner import budget_tokens
from tokviz.pruners.sampling import random_rows
from tokviz.types import Budget, Params, Schedule, Selection, Signals, Stage

LABEL = "Evidence oracle"


def oracle_schedule(budget: Budget) -> Schedule:
    """One stage before the LLM, as the controls have it. Raises BadInput below 1 token."""
    return Schedule((Stage("projector", budget_tokens(budget), _unasked, title="Evidence first"),))


def _unasked(signals: Signals, keep: int | None, params: Params, generator: Generator) -> Selection:
    raise RuntimeError("The oracle selects by evidence, which signals do not hold; call keep_evidence.")


def keep_evidence(cover: NDArray[np.float64], keep: int, generator: Generator) -> Selection:
    """The ``keep`` tokens with most evidence pixels, ties to the lowest index; where evidence ends, others by lot.

    Shape: cover ``(N,)``, evidence pixels of each token's patch -> kept ``(min(keep, N),)``.
    """
    ranked = np.argsort(-cover, kind="stable")
    shown, blank = ranked[cover[ranked] > 0], np.sort(ranked[cover[ranked] <= 0])
    drawn = random_rows(len(blank), max(0, keep - len(shown)), generator, torch.device("cpu"))
    kept = torch.cat([torch.from_numpy(shown[:keep].copy()), torch.from_numpy(blank)[drawn]])
    return Selection(kept=kept.sort().values)
