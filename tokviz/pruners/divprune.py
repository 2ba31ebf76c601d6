"""DivPrune: greedily keep the tokens that are farthest apart. Needs no attention."""

from __future__ import annotations

from torch import Generator

from ..types import Params, Selection, Signals
from .ops import take_rows, unit_rows
from .pairs import nearest_cosines
from .per_view import all_rows, unrankable, usable
from .pruner import Paper, Pruner, fixed_count, single_stage
from .sampling import cosine_distances, diverse_selection, greedy_cover


@fixed_count
def select(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """Max-min cosine distance: first the most isolated token, then always the one farthest from everything kept.

    The first pick has the largest distance to its nearest neighbour. Rows that are no patch are picked like any other.
    Shape: signals.features ``(N, D)`` -> kept ``(keep,)``.
    Source: DivPrune, greedy max-min; official ``LLaVA/llava/model/llava_arch.py``.
    """
    features, found = signals.features, usable(signals, pool=all_rows(signals.features))
    if len(found.rows) == 0:
        return unrankable(keep, found.pool)
    to_neighbour, distances_to = nearest_cosines(unit_rows(take_rows(features, found.rows)), cosine_distances)
    cover = greedy_cover(distances_to, to_neighbour.argmin(0, keepdim=True), min(keep, len(found.rows)))
    return diverse_selection(len(features), found, cover, keep, "first_pick")


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
    schedule=single_stage(select, title="Farthest apart"),
)
