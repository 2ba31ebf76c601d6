"""DART: a few pivot tokens, and for each of them the tokens that duplicate it least; the rest is taken as redundant."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from ..names import Params
from ..records import ServingFlag, TextScores, TokenMap
from ..types import (
    KEY_NORMS,
    NORMED_FEATURES,
    PROMPT_FEATURES,
    SEQUENCE_INDEX,
    Budget,
    Diagnostics,
    Need,
    PlanningInfo,
    Schedule,
    Selection,
    Signals,
)
from .ops import complement, required, row_blocks, row_lengths, top_k, unit_rows, usable_rows, whole_groups
from .per_view import Usable, all_rows, unrankable
from .pruner import Paper, Pruner, budget_tokens, choice, fixed_count, single_stage, whole
from .schedules import layer_asked
from .serving_flags import Served, edge_dart

NEEDS = (KEY_NORMS, NORMED_FEATURES)
EMBEDDING_NEEDS = (SEQUENCE_INDEX, PROMPT_FEATURES)
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


@dataclass(frozen=True)
class Pivots:
    """What one span of visual tokens did: who its pivots are, and what they took.

    Shape: rows ``(n,)`` of the span, visual ``(p,)`` and text ``(q,)`` pivots as rows of the stage and of the text,
    turns ``(p + q,)`` the order in which they chose; found in numbers of ``rows``.
    """

    rows: Tensor
    visual: Tensor
    text: Tensor
    turns: Tensor
    found: LeastDuplicated

    @property
    def picks(self) -> Tensor:
        """Visual pivots, then what all pivots took, as rows of the stage. Shape: ``(k,)``."""
        return torch.cat([self.visual, self.rows[self.found.picks]])


@dataclass(frozen=True)
class Compared:
    """What pivots are chosen by and compared in. Shape: norms and text_norms ``(N,)``, ``(M,)`` float32, features and
    text ``(N, D)``, ``(M, D)``, index and text_index ``(N,)``, ``(M,)`` int64, None where nobody asks for the order."""

    norms: Tensor
    features: Tensor
    text_norms: Tensor
    text: Tensor
    index: Tensor | None
    text_index: Tensor | None

    def text_pivots(self, count: int) -> Tensor:
        """The finite text tokens with the highest norms, best first. Shape: ``(<= count,)``."""
        rows = usable_rows(self.text_norms, usable_rows(self.text, all_rows(self.text)))
        return rows[top_k(self.text_norms[rows], count)]

    def pivots(self, rows: Tensor, usable: Tensor, keep: int, params: Params) -> Pivots:
        """Let the pivots of a span take ``keep`` of its ``usable`` rows, visual pivots included.

        Shape: rows ``(n,)`` ascending, usable ``(u,)`` of them with ``u >= 1``.
        """
        text = self.text_pivots(params["text_pivots"])
        visual = usable[top_k(self.norms[usable], min(params["visual_pivots"], keep))]
        candidates = usable[~torch.isin(usable, visual)]
        everything = len(rows) == len(self.features)
        features = self.features if everything else self.features[rows]
        pivots = torch.cat([self.features[visual], self.text[text]])
        turns = torch.arange(len(pivots), device=rows.device)
        if params["order"] == "released":
            places = (required(self.index, "sequence_index")[visual], required(self.text_index, "text_index")[text])
            turns = released_order(torch.cat(places))
            pivots = pivots[turns]
        here = candidates if everything else torch.searchsorted(rows, candidates)
        found = least_duplicated(features, pivots, here, min(keep - len(visual), len(candidates)))
        return Pivots(rows, visual, text, turns, found)


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
    compared = Compared(
        required(signals.key_norms, "key_norms").float(),
        required(signals.normed_features, "normed_features"),
        required(signals.text_key_norms, "text_key_norms").float(),
        required(signals.normed_text, "normed_text"),
        signals.sequence_index,
        signals.text_index,
    )
    everything = all_rows(compared.features)
    rows = usable_rows(compared.norms, usable_rows(compared.features, everything))
    if len(rows) == 0:
        return unrankable(keep, everything)
    of = Usable(everything, rows)
    parts = [compared.pivots(everything, rows, keep, params)]
    name = "Length of the key (L1)"
    words = TextScores("text_key_norm", f"{name}; the highest become pivots", compared.text_norms, chosen_of(
        parts[0].text, len(compared.text_norms)))  # fmt: skip
    return of.picked(
        parts[0].picks, keep, len(everything), lambda: _explained(of, compared, parts, TokenMap(
            "key_norm", name, compared.norms, direction="the highest become pivots"), words)
    )  # fmt: skip


@fixed_count
def select_embeddings(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """The same on the embeddings that enter the LLM, in each unbroken span of visual tokens with its share of ``keep``.

    Pivots: the embeddings with the highest L1 norms, of a span and of all text of the prompt, template and what stands
    in front of the image included.
    Shape: signals.features ``(N, D)``, sequence_index ``(N,)``, prompt_features ``(T, D)``, prompt_index ``(T,)`` ->
    kept ``(keep,)``.
    Source: TensorRT-Edge-LLM 0.11, ``runtime/preprocess/visualTokenPruner.cpp`` and ``dartPruner.cpp``.
    """
    features, text = signals.features, required(signals.prompt_features, "prompt_features")
    index, text_index = (
        required(signals.sequence_index, "sequence_index"),
        required(signals.prompt_index, "prompt_index"),
    )
    compared = Compared(l1_norms(features), features, l1_norms(text), text, index, text_index)
    everything = all_rows(features)
    rows = usable_rows(compared.norms, usable_rows(features, everything))
    if len(rows) == 0:
        return unrankable(keep, everything)
    of, spans = Usable(everything, rows), spans_of(index)
    usable = [span[torch.isin(span, rows)] for span in spans]
    shares = proportional_shares([len(part) for part in usable], min(keep, len(rows)))
    parts = [
        compared.pivots(span, part, share, params)
        for span, part, share in zip(spans, usable, shares, strict=True)
        if share
    ]
    name = "Length of the embedding (L1)"

    def diagnose() -> Diagnostics:
        behind = text_index > index.max()
        chosen = chosen_of(parts[0].text, len(text))[behind]
        words = TextScores("text_norm", f"{name}; the highest become pivots", compared.text_norms[behind], chosen)
        shown = TokenMap("norm", name, compared.norms, direction="the highest become pivots")
        own = _explained(of, compared, parts, shown, words)
        places = text_index[parts[0].text].tolist()
        return replace(own, facts={**own.facts, "text_pivots": places, "spans": [len(span) for span in spans]})

    return of.picked(torch.cat([part.picks for part in parts]), keep, len(features), diagnose)


def l1_norms(features: Tensor) -> Tensor:
    """Sum of the magnitudes of every row. Shape: ``(n, D)`` -> ``(n,)`` float32."""
    norms = torch.empty(len(features), device=features.device)
    for rows in row_blocks(features):
        norms[rows] = features[rows].float().abs().sum(1)
    return norms


def spans_of(index: Tensor) -> list[Tensor]:
    """Rows whose places in the prompt follow one another without a gap, first span first.

    Shape: index ``(n,)``, n >= 1 -> a list of ``(n_s,)`` ascending.
    """
    places, order = index.sort()
    gaps = (places.diff() != 1).nonzero().squeeze(1) + 1
    return [part.sort().values for part in torch.tensor_split(order, gaps.cpu())]


def proportional_shares(sizes: list[int], keep: int) -> list[int]:
    """Spread ``keep`` over spans in proportion to their sizes, at least one each where that is possible.

    What rounding down leaves goes to the largest remainders, ties to the first. Equal to ``ceil`` of each share, as
    the engine has it, wherever that adds up to ``keep``.
    """
    total, left = sum(sizes), keep
    shares = [min(size, max(keep * size // total, int(size > 0))) for size in sizes] if total else [0] * len(sizes)
    left -= sum(shares)
    step = 1 if left > 0 else -1
    while left:
        able = [s for s, size in enumerate(sizes) if 0 <= shares[s] + step <= size]
        best = max(able, key=lambda s: (step * (keep * sizes[s] / total - shares[s]), -s))
        shares[best] += step
        left -= step
    return shares


def chosen_of(rows: Tensor, n: int) -> Tensor:
    """True at ``rows``. Shape: ``(k,)`` -> ``(n,)`` bool."""
    return torch.zeros(n, dtype=torch.bool, device=rows.device).index_fill(0, rows, True)


def _explained(of: Usable, compared: Compared, parts: list[Pivots], norm: TokenMap, words: TextScores) -> Diagnostics:
    """Distances to the pivots, who took which token, norms; pivots as facts."""
    n, device = len(compared.norms), of.rows.device
    shown, by = (torch.full((n,), torch.nan, device=device) for _ in range(2))
    for part in parts:
        found, distance = part.found, 1.0 - part.found.cosine
        # A kept token shows its distance to the pivot that took it, a dropped one that to its farthest pivot.
        shown[part.rows] = distance.max(0).values.index_copy(0, found.picks, distance[found.pivot, found.picks])
        took = torch.cat([torch.arange(len(part.visual), device=device), part.turns[found.pivot]]).float() + 1.0
        by[part.picks] = took
    visual = torch.cat([part.visual for part in parts])
    shown = shown.index_fill(0, complement(of.rows, n), torch.nan).index_fill(0, visual, torch.nan)
    high = "high is kept first; dropped tokens show the largest distance to any pivot"
    numbered = f"visual pivots are 1 to {len(parts[0].visual)}, text pivots follow"
    return of.explained(
        TokenMap("distance_to_pivot", "Distance to the pivot that took it", shown, "cosine distance", high),
        maps=(norm, TokenMap("pivot", "Pivot that took it", by, direction=numbered)),
        text=words,
        facts={"visual_pivots": visual.tolist(), "text_pivots": parts[0].text.tolist()},
    )


def layer(info: PlanningInfo, params: Params) -> int:
    """The first layer that sees fewer tokens: that asked for, or the published 2, in proportion to 32 layers.

    Raises BadInput when it is not a layer of this model, or the first, before which there are no keys.
    """
    return layer_asked("DART", "keys", params["layer"], PUBLISHED_LAYER, info)


def _needs(info: PlanningInfo, params: Params) -> tuple[Need, ...]:
    return (*NEEDS, SEQUENCE_INDEX) if params["order"] == "released" else NEEDS


_TITLE = "Least duplicated"
_inside = single_stage(select, layer, needs=_needs, title=_TITLE, label="DART")
_before = single_stage(select_embeddings, needs=EMBEDDING_NEEDS, positions="keep", title=f"{_TITLE} embeddings")


def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """One stage before layer 2, or before the LLM; tokens keep their positions.

    ``published``: R = B tokens survive, or, with ``count = official``, the visual pivots and floor(B / pivots) for each
    pivot: 4 + 8 * 16 = 132 for B = 128. ``final``: R = B. ``average``: R such that the layers process B on average.
    Raises BadInput for a budget below 1 token, when the average cannot be met, and for a model of one layer.
    """
    tokens, pivots = budget_tokens(budget), params["visual_pivots"] + params["text_pivots"]
    if budget.counted_as == "published" and params["count"] == "official" and tokens < info.n_visual:
        budget = replace(budget, tokens=params["visual_pivots"] + pivots * (tokens // pivots))
    return (_before if params["at"] == "embeddings" else _inside)(budget, info, params)


def deployed(served: Served, params: Params) -> tuple[ServingFlag, ...]:
    """TensorRT-Edge-LLM's flags, and how the run differs from what it does."""
    inside = "it compares embeddings before the LLM: at = embeddings shows what it keeps"
    order = "its pivots choose in the order of insertion"
    differs = [*([inside] if params["at"] == "layer" else []), *([order] if params["order"] == "released" else [])]
    return edge_dart(served, params["visual_pivots"], params["text_pivots"], "; ".join(differs))


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
    needs=(*NEEDS, SEQUENCE_INDEX, PROMPT_FEATURES),
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
            "at",
            "Compared",
            ("layer", "embeddings"),
            "layer: hidden states and keys inside the LLM, as published. embeddings: what enters the LLM, before its "
            "first layer, as TensorRT-Edge-LLM does.",
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
    deployed=deployed,
)
