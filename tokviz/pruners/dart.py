"""DART: a few pivot tokens, and for each of them the tokens that duplicate it least; the rest is taken as redundant."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from ..names import Params
from ..records import TextScores, TokenMap
from ..types import (
    KEY_NORMS,
    NORMED_FEATURES,
    SEQUENCE_INDEX,
    Budget,
    Diagnostics,
    Need,
    PlanningInfo,
    Schedule,
    Selection,
    Signals,
)
from .ops import complement, required, row_lengths, spread, top_k, unit_rows, usable_rows, whole_groups
from .per_view import Usable, all_rows, unrankable
from .pruner import Paper, Pruner, budget_tokens, choice, fixed_count, single_stage, whole
from .schedules import layer_asked

NEEDS = (KEY_NORMS, NORMED_FEATURES)
PUBLISHED_LAYER = 2


@dataclass(frozen=True)
class LeastDuplicated:
    """What ``least_duplicated`` picked.

    Shape: picks ``(count,)`` in the order of picking; pivot ``(count,)``, the pivot that picked each; cosine
    ``(P, n)``, of every pivot with every row.
    """

    picks: Tensor
    pivot: Tensor
    cosine: Tensor


def least_duplicated(features: Tensor, pivots: Tensor, candidates: Tensor, count: int) -> LeastDuplicated:
    """Each pivot in turn takes the candidates with the lowest cosine to it that no earlier pivot took.

    ``count`` is shared equally; a remainder goes to the first pivots, one each. Ties go to the lowest index.
    Shape: features ``(n, D)`` and pivots ``(P, D)`` finite, candidates ``(c,)`` rows of features, ``count <= c``.
    Source: DART section 3; llmc ``token_reduction/dart.py``.
    """
    # Pivot by pivot and in whole groups of rows, as equal tokens must have equal cosines for ties to be ties.
    grouped, lengths = whole_groups(features.float()), row_lengths(features).clamp_min_(1e-12)
    cosine = torch.stack([grouped @ pivot for pivot in unit_rows(pivots)])[:, : len(features)] / lengths
    taken = torch.ones(len(features), dtype=torch.bool, device=features.device).index_fill(0, candidates, False)
    each, longer = divmod(count, len(pivots))
    picks, pivot = [candidates[:0]], [candidates[:0]]
    for number in range(len(pivots)):
        quota = each + (number < longer)
        nearest_last = torch.sort(cosine[number].masked_fill(taken, torch.inf), stable=True).indices[:quota]
        taken.index_fill_(0, nearest_last, True)
        picks.append(nearest_last)
        pivot.append(torch.full_like(nearest_last, number))
    return LeastDuplicated(torch.cat(picks), torch.cat(pivot), cosine)


def released_order(places: Tensor) -> Tensor:
    """The order in which the released code lets pivots choose: that of a copied Python set of their places.

    Such a set of small numbers is ordered by their remainders, mostly: the table of 8 pivots has 32 slots.
    Shape: places ``(P,)`` -> indices ``(P,)``.
    Source: DART, ``get_retained_image_token``; CPython 3.11, whose sets order whole numbers as all others do so far.
    """
    numbers = places.tolist()
    at = {number: index for index, number in enumerate(numbers)}
    return torch.tensor([at[number] for number in set(numbers).copy()], dtype=torch.int64, device=places.device)


@fixed_count
def select(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """The visual pivots, and ``keep`` minus their number of tokens that duplicate visual and text pivots least.

    Pivots: the tokens with the longest keys (L1 norm) in the layer before, four visual and four text ones behind the
    image. Visual pivots choose first, then text pivots, both by descending norm; with ``order = released`` in the order
    in which CPython walks through a set of their places in the prompt. Rows that are no patch take part.
    Shape: signals.key_norms ``(N,)``, text_key_norms ``(M,)``, normed_features ``(N, D)``, normed_text ``(M, D)``,
    sequence_index ``(N,)``, text_index ``(M,)`` -> kept ``(keep,)``.
    Source: DART; llmc ``token_reduction/dart.py`` ``get_retained_image_token``.
    """
    norms = required(signals.key_norms, "key_norms").float()
    text_norms = required(signals.text_key_norms, "text_key_norms").float()
    features = required(signals.normed_features, "normed_features")
    text = required(signals.normed_text, "normed_text")
    everything = all_rows(features)
    rows = usable_rows(norms, usable_rows(features, everything))
    if len(rows) == 0:
        return unrankable(keep, everything)
    text_rows = usable_rows(text_norms, usable_rows(text, all_rows(text)))
    text_pivots = text_rows[top_k(text_norms[text_rows], params["text_pivots"])]
    visual_pivots = rows[top_k(norms[rows], min(params["visual_pivots"], keep))]
    candidates = rows[~torch.isin(rows, visual_pivots)]
    pivots = torch.cat([features[visual_pivots], text[text_pivots]])
    turns = torch.arange(len(pivots), device=rows.device)
    if params["order"] == "released":
        visual_index = required(signals.sequence_index, "sequence_index")[visual_pivots]
        turns = released_order(torch.cat([visual_index, required(signals.text_index, "text_index")[text_pivots]]))
        pivots = pivots[turns]
    found = least_duplicated(features, pivots, candidates, min(keep - len(visual_pivots), len(candidates)))
    of, picks = Usable(everything, rows), torch.cat([visual_pivots, found.picks])

    def diagnose() -> Diagnostics:
        n, distance = len(norms), 1.0 - found.cosine
        # A kept token shows its distance to the pivot that took it, a dropped one that to its farthest pivot.
        shown = distance.max(0).values.index_copy(0, found.picks, distance[found.pivot, found.picks])
        shown = shown.index_fill(0, complement(rows, n), torch.nan).index_fill(0, visual_pivots, torch.nan)
        chosen = torch.zeros_like(text_norms, dtype=torch.bool).index_fill(0, text_pivots, True)
        by = torch.cat([torch.arange(len(visual_pivots), device=rows.device), turns[found.pivot]]).float() + 1.0
        high = "high is kept first; dropped tokens show the largest distance to any pivot"
        numbered = f"visual pivots are 1 to {len(visual_pivots)}, text pivots follow"
        return of.explained(
            TokenMap("distance_to_pivot", "Distance to the pivot that took it", shown, "cosine distance", high),
            maps=(
                TokenMap("key_norm", "Length of the key (L1)", norms, direction="the highest become pivots"),
                TokenMap("pivot", "Pivot that took it", spread(by, picks, n, torch.nan), direction=numbered),
            ),
            text=TextScores("text_key_norm", "Length of the key (L1); the highest become pivots", text_norms, chosen),
            facts={"visual_pivots": visual_pivots.tolist(), "text_pivots": text_pivots.tolist()},
        )

    return of.picked(picks, keep, len(features), diagnose)


def layer(info: PlanningInfo, params: Params) -> int:
    """The first layer that sees fewer tokens: that asked for, or the published 2, in proportion to 32 layers.

    Raises BadInput when it is not a layer of this model, or the first, before which there are no keys.
    """
    return layer_asked("DART", "keys", params["layer"], PUBLISHED_LAYER, info)


def _needs(info: PlanningInfo, params: Params) -> tuple[Need, ...]:
    return (*NEEDS, SEQUENCE_INDEX) if params["order"] == "released" else NEEDS


_exact = single_stage(select, layer, needs=_needs, title="Least duplicated", label="DART")


def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """One stage before layer 2; tokens keep their positions.

    ``published``: R = B tokens survive, or, with ``count = official``, the visual pivots and floor(B / pivots) for each
    pivot: 4 + 8 * 16 = 132 for B = 128. ``final``: R = B. ``average``: R such that the layers process B on average.
    Raises BadInput for a budget below 1 token, when the average cannot be met, and for a model of one layer.
    """
    tokens, pivots = budget_tokens(budget), params["visual_pivots"] + params["text_pivots"]
    if budget.counted_as == "published" and params["count"] == "official" and tokens < info.n_visual:
        budget = replace(budget, tokens=params["visual_pivots"] + pivots * (tokens // pivots))
    return _exact(budget, info, params)


PRUNER = Pruner(
    id="dart",
    label="DART",
    family="diversity",
    claim="Keeps a few pivots with long keys and the tokens that duplicate them least, whatever attention says.",
    paper=Paper(
        "Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More",
        "Wen et al.",
        2025,
        "https://arxiv.org/abs/2502.11494",
    ),
    needs=(*NEEDS, SEQUENCE_INDEX),
    params=(
        whole(
            "layer",
            "Layer",
            0,
            "The first layer that sees fewer tokens; the keys of the layer before decide. 0: as published, 2 of 28, 32 "
            "or 40, else in proportion to 32.",
            minimum=0,
            maximum=63,
        ),
        choice(
            "count",
            "Count",
            ("exact", "official"),
            "exact keeps the budget, pivots included. official keeps the pivots and floor(budget / pivots) tokens for "
            "each of them: 132 for a budget of 128.",
        ),
        choice(
            "order",
            "Order of the pivots",
            ("insertion", "released"),
            "Who chooses first. insertion: visual pivots, then text pivots, by descending norm. released: as the "
            "released code walks through a Python set of their places in the prompt.",
        ),
        whole(
            "visual_pivots",
            "Visual pivots",
            4,
            "How many visual tokens with the longest keys become pivots. Official: 4.",
            minimum=1,
            maximum=32,
        ),
        whole(
            "text_pivots",
            "Text pivots",
            4,
            "How many text tokens behind the image become pivots. Official: 4.",
            minimum=0,
            maximum=32,
        ),
    ),
    schedule=schedule,
)
