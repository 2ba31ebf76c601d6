"""DivPrune: greedily keep the tokens that are farthest apart. Needs no attention; the file to copy for a new method."""

from __future__ import annotations

import torch
from torch import Generator

from ..types import Budget, Params, PlanningInfo, Schedule, Selection, Signals, Stage
from .diagnostics import with_coverage
from .ops import take_rows, unit_rows, usable_rows
from .pairs import nearest_cosines
from .per_view import unrankable
from .pruner import Paper, Pruner, budget_tokens, fixed_count
from .sampling import diverse_selection


@fixed_count
def select(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """Max-min cosine distance: first the most isolated token, then always the one farthest from everything kept.

    The first pick has the largest distance to its nearest neighbour. Rows that are no patch (newlines) are picked like
    any other, as in the official code.
    Shape: signals.features ``(N, D)`` -> kept ``(keep,)``.
    Source: DivPrune, greedy max-min; official ``LLaVA/llava/model/llava_arch.py``. Differs: the official loop does not
    mask picked tokens and so repeats them among duplicates, has NaN distances for zero tokens, and ranks in the model's
    dtype; here picked tokens are masked, a zero token has cosine 0 with everything, and ranking is float32.
    """
    pool = torch.arange(len(signals.features), device=signals.features.device)
    rows = usable_rows(signals.features, pool)
    if len(rows) == 0:
        return unrankable(keep, pool)
    to_neighbour, similarity = nearest_cosines(unit_rows(take_rows(signals.features, rows)))
    first = to_neighbour.argmin(0, keepdim=True)
    facts = {"first_pick": int(rows[first])}
    return with_coverage(diverse_selection(signals, rows, similarity, first, keep, pool, facts))


def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """One stage on the embeddings that enter the LLM.

    ``published``, ``final`` and ``average`` coincide, because every block sees what the stage leaves. Raises BadInput
    for a budget below 1 token.
    """
    return Schedule((Stage("projector", budget_tokens(budget), select, title="Farthest apart"),))


PRUNER = Pruner(
    id="divprune",
    label="DivPrune",
    family="diversity",
    claim="Keeps the tokens that are farthest apart (max-min cosine distance), whatever their content.",
    paper=Paper(
        "DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models",
        "Alvar et al.",
        2025,
        "https://arxiv.org/abs/2503.02175",
    ),
    needs=(),
    params=(),
    schedule=schedule,
)
