"""FlashVID: per frame keep what is attended to and diverse; trees over the frames and clusters take in the rest.

Segments of the video are worked on one by one. Late in the LLM what the last prompt token attends to stays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor

from ..errors import BadInput
from ..records import Chart, TokenMap
from ..types import LAST_ROW, Budget, Diagnostics, Params, PlanningInfo, Schedule, Selection, Signals, Stage
from .density import density_peaks
from .diagnostics import group_sizes
from .fastvid import Segment, segments, transitions
from .ops import group_sums, kept_rows, take_rows, unit_rows, whole_groups, without
from .pairs import symmetric_product
from .per_view import (
    TOWER_ATTENTION,
    Usable,
    equal_shares,
    last_row,
    ranked,
    rows_by_view,
    tower_attention,
    unrankable,
    usable,
)
from .pruner import Paper, Pruner, budget_tokens, choice, fixed_count, needs_on, number, whole
from .schedules import carried_layers

# Nearest rows, itself among them, that make the density of a row; fixed in the code.
NEIGHBOURS = 7


@dataclass(frozen=True)
class Pruned:
    """What became of a segment, in rows of the stage.

    Shape: selected ``(s,)`` by attention and diversity; roots ``(r,)`` that no earlier frame took in; centres ``(c,)``
    of clusters of roots, and what they hold ``(c, D)`` float32; tokens ``(m,)`` all others but ``selected``, with the
    centre that carries each, owner ``(m,)``, and their cosine with the most similar token of the frame before, alike
    ``(m,)``, -1 in the first frame.
    """

    selected: Tensor
    roots: Tensor
    centres: Tensor
    held: Tensor
    tokens: Tensor
    owner: Tensor
    alike: Tensor


def calibrated_picks(unit: Tensor, weight: Tensor, count: int) -> Tensor:
    """Pick what is far from its nearest row times its weight, then always from the picks; the lowest index of equals.

    Of a negative weight the largest distance counts, as the smallest product does in the code.
    Shape: unit ``(n, D)`` of length 1 or 0, weight ``(n,)`` float32, ``count <= n`` -> ``(count,)`` in the order of
    picking.
    Source: FlashVID section 3.2, ADTS; official ``token_selection.py``. Differs: no row comes twice.
    """
    n = len(unit)
    if count >= n:
        return torch.arange(n, device=unit.device)
    distance = (1.0 - symmetric_product(unit)).fill_diagonal_(0.0)
    if count == 0:
        return torch.arange(0, device=unit.device)
    low, high = distance.topk(2, 1, largest=False).values[:, 1], distance.topk(2, 1).values[:, 1]
    picked = torch.zeros_like(weight)
    picks = []
    for step in range(count):
        worth = torch.where(weight >= 0, weight * low, weight * high) + picked
        pick = worth.argmax(0, keepdim=True)
        row = distance.index_select(0, pick).squeeze(0)
        low, high = (row, row) if step == 0 else (torch.minimum(low, row), torch.maximum(high, row))
        picked = picked.index_fill(0, pick, -torch.inf)
        picks.append(pick)
    return torch.cat(picks)


def most_similar_before(units: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Cosine of every token with the most similar one of the frame before, and which that is; ties to the lowest.

    Shape: T of ``(n_t, D)`` -> cosine ``(n,)`` and number in its frame ``(n,)``, -1 and -1 without a frame before.
    """
    cosines, which = [], []
    for place, unit in enumerate(units):
        before = units[place - 1] if place else unit[:0]
        if len(before) == 0 or len(unit) == 0:
            cosines.append(torch.full((len(unit),), -1.0, device=unit.device))
            which.append(torch.full((len(unit),), -1, dtype=torch.int64, device=unit.device))
            continue
        products = (whole_groups(unit) @ whole_groups(before).T)[: len(unit), : len(before)]
        best = products.max(1).values
        cosines.append(best)
        which.append((products == best.unsqueeze(1)).to(torch.uint8).argmax(1))
    return torch.cat(cosines), torch.cat(which)


def joins(alike: Tensor, threshold: float, most: int) -> Tensor:
    """Which tokens join a tree of the frame before: above the threshold, and, where those are more than ``most``, above
    the similarity of the ``most``-th, so that fewer than ``most`` do.

    Shape: ``(n,)`` -> ``(n,)`` bool.
    """
    found = alike > threshold
    if int(found.sum()) > most:
        line = alike.topk(most).values[-1].clamp_min(-1.0 + 1e-6) if most > 0 else torch.inf
        found = alike > line
    return found


def trees(values: Tensor, sizes: list[int], joined: Tensor, parent: Tensor, average: str) -> tuple[Tensor, Tensor]:
    """Add every token that joined to its parent in the frame before, the last frame first; roots become means.

    tree: of all tokens below the root. official: divided by 1 + its direct children, whatever is below those.
    Shape: values ``(n, D)`` float32, frame by frame; joined ``(n,)``, parent ``(n,)`` in the frame before -> ``(n, D)``
    that is right at roots, and the root of every token ``(n,)``.
    """
    starts = [sum(sizes[:place]) for place in range(len(sizes))]
    sums, counts = values.clone(), torch.ones(len(values), device=values.device)
    root = torch.arange(len(values), device=values.device)
    for place in range(len(sizes) - 1, 0, -1):
        start, before = starts[place], starts[place - 1]
        children = joined[start : start + sizes[place]].nonzero().squeeze(1) + start
        own = slice(before, before + sizes[place - 1])
        added, direct = group_sums(sums, children, parent[children], sizes[place - 1])
        sums[own] += added
        below = torch.zeros(sizes[place - 1], device=values.device).index_add_(0, parent[children], counts[children])
        counts[own] += below if average == "tree" else direct
    for place in range(1, len(sizes)):  # parents know their root first
        start, before = starts[place], starts[place - 1]
        children = joined[start : start + sizes[place]].nonzero().squeeze(1) + start
        root[children] = root[before + parent[children]]
    return sums / counts.unsqueeze(1), root


def cluster_counts(sizes: list[int], keep: int, exact: bool) -> list[int]:
    """How many of each frame's roots stay: ``ceil`` of its share of ``keep``, all where there are no more than that.

    exact: largest remainders instead, the first of equals, so that they add up to ``keep``.
    """
    total = sum(sizes)
    if total <= keep:
        return list(sizes)
    if not exact:
        return [math.ceil(size * (keep / total)) for size in sizes]
    counts = [size * keep // total for size in sizes]
    by_rest = sorted(range(len(sizes)), key=lambda place: (-(sizes[place] * keep % total), place))
    for place in by_rest[: keep - sum(counts)]:
        counts[place] += 1
    return counts


def centres_of(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Density peaks: ``count`` rows, ascending, and the number of the one that each row belongs to.

    For a single peak the only neighbour is the row itself: all are equally dense, and the first one is it.
    Shape: ``(n, D)`` -> ``(count,)``, ``(n,)``.
    """
    rows = torch.arange(len(values), device=values.device)
    if count in (1, len(values)):
        return rows[:count], rows if count > 1 else torch.zeros_like(rows)
    found = density_peaks(values, count, min(NEIGHBOURS, count))
    middle = found.centres.sort().values
    return middle, torch.searchsorted(middle, found.owner)


def prune_segment(
    features: Tensor, attention: Tensor, frames: Sequence[Tensor], chosen: list[int], others: int, params: Params
) -> Pruned:
    """Select ``chosen`` tokens of each frame, join the rest into trees, and keep ``others`` clusters of their roots.

    Shape: features ``(N, D)``, attention ``(N,)``, frames of the segment ``(n_t,)`` each, none empty.
    """
    n, device = len(features), features.device
    exact = params["count"] == "exact"
    centre = torch.stack([take_rows(features, rows).mean(0) for rows in frames]).mean(0)
    selected = []
    for rows, count in zip(frames, chosen, strict=True):
        weight = attention[rows].float()
        if params["relevance"] == "event":
            weight = weight * (whole_groups(features[rows].float()) @ centre)[: len(rows)]
        selected.append(rows[calibrated_picks(unit_rows(features, rows), weight, count)])
    rest = [without(rows, picks, n) for rows, picks in zip(frames, selected, strict=True)]
    tokens, sizes = torch.cat(rest), [len(rows) for rows in rest]
    alike, parent = most_similar_before([unit_rows(features, rows) for rows in rest])
    joined = joins(alike, params["threshold"], max(0, len(tokens) - others)) & (parent >= 0)
    values, root = trees(features[tokens].float(), sizes, joined, parent, params["average"])
    owner, centres, held = torch.arange(len(tokens), device=device), [], []
    standing = [(~part).nonzero().squeeze(1) for part in joined.split(sizes)]
    roots = [part + sum(sizes[:place]) for place, part in enumerate(standing)]
    for mine, count in zip(roots, cluster_counts([len(part) for part in roots], others, exact), strict=True):
        if count == 0:
            owner[mine] = -1
            continue
        middle, own = centres_of(values[mine], count)
        sums, members = group_sums(values[mine], torch.arange(len(mine), device=device), own, count)
        owner[mine] = mine[middle[own]]
        centres.append(mine[middle])
        held.append(sums / members.unsqueeze(1))
    kept = torch.cat([tokens[:0], *centres])
    carrier = owner[root]
    return Pruned(
        torch.cat(selected), tokens[torch.cat(roots)], tokens[kept],
        torch.cat([values[:0], *held]), tokens, torch.where(carrier < 0, -1, tokens[carrier.clamp_min(0)]), alike,
    )  # fmt: skip


def _select(signals: Signals, keep: int, params: Params, generator: Generator, each: int | None = None) -> Selection:
    """Cut the video into segments, and prune each one; frames get equal shares of the budget, the first ones one more.

    each: what rounding leaves of so many tokens per frame, not ``keep``. A view is a frame.
    Shape: signals.features ``(N, D)``, attention of the tower ``(N,)`` -> kept ``(min(keep, patches),)``.
    Source: FlashVID section 3; official ``flashvid/utils.py`` ``flashvid_compression``.
    """
    score = tower_attention(signals, "weighs the distance of a token from those already selected")
    features, found = signals.features, usable(signals, score.values)
    if len(found.rows) == 0:
        return unrankable(keep, found.pool, score)
    frames = rows_by_view(signals, found.rows)
    sizes = [len(rows) for rows in frames]
    shares = equal_shares(sizes, keep) if each is None else [min(size, each) for size in sizes]
    chosen = [math.ceil(share * params["alpha"]) for share in shares]
    similarity = transitions(features, frames)
    parts = segments(similarity, params["segments"], params["cut"])
    pruned = [
        prune_segment(features, score.values, frames[part.start : part.stop], chosen[part.start : part.stop],
                      sum(shares[part.start : part.stop]) - sum(chosen[part.start : part.stop]), params)
        for part in parts
    ]  # fmt: skip
    centres, held = torch.cat([part.centres for part in pruned]), torch.cat([part.held for part in pruned])
    order = centres.sort().indices
    centres, held = centres[order], held[order]
    kept = found.kept(torch.cat([*(part.selected for part in pruned), centres]), 0 if each is not None else keep)
    tokens, owner = torch.cat([part.tokens for part in pruned]), torch.cat([part.owner for part in pruned])
    assignment = torch.full((len(features),), -1, dtype=torch.int64, device=features.device)
    assignment[tokens] = owner
    assignment[kept] = kept
    selection = Selection(kept, assignment=assignment, features=kept_rows(features, kept, centres, held))
    shown = (score, selection, found, frames, parts, pruned, similarity, params["cut"])
    return selection.with_diagnostics(lambda _: _explained(*shown))


def _explained(
    score: TokenMap, selection: Selection, found: Usable, frames: Sequence[Tensor], parts: Sequence[Segment],
    pruned: Sequence[Pruned], similarity: Tensor, cut: float,
) -> Diagnostics:  # fmt: skip
    """Maps of roles, segments, similarity to the frame before and groups; the transitions with their cuts."""
    n, device = len(score.values), score.values.device
    role, segment, alike = (torch.full((n,), torch.nan, device=device) for _ in range(3))
    role[torch.cat(list(frames))] = 0.0
    for place, (part, result) in enumerate(zip(parts, pruned, strict=True)):
        segment[torch.cat(list(frames[part.start : part.stop]))] = float(place)
        role[result.roots], role[result.centres], role[result.selected] = 1.0, 2.0, 3.0
        alike[result.tokens] = result.alike.masked_fill(result.alike <= -1.0, torch.nan)
    roles = "3 selected, 2 centre of a cluster, 1 root of a tree in a cluster, 0 joined the frame before"
    maps = (
        TokenMap("role", "What became of it", role, direction=roles),
        TokenMap("segment", "Segment of the video", segment, direction="number in the order of time"),
        TokenMap("alike", "Similarity to the frame before", alike, "cosine", "above the threshold it joins a tree"),
        group_sizes(selection, n),
    )
    charts = (
        Chart("transitions", "Similarity of consecutive frames; marked are the cuts", "line", similarity.tolist(),
              x=list(range(1, len(similarity) + 1)), x_label="frame", y_label="cosine",
              marked=[part.start - 1 for part in parts[1:]], line=cut),
    ) if len(similarity) else ()  # fmt: skip
    facts = {
        "segments": [len(part) for part in parts],
        "selected": sum(len(part.selected) for part in pruned),
        "roots": sum(len(part.roots) for part in pruned),
        "clusters": sum(len(part.centres) for part in pruned),
    }
    return found.explained(score, maps=maps, charts=charts, facts=facts)


select = fixed_count(_select)


def _select_inside(
    signals: Signals, keep: int | None, params: Params, generator: Generator, share: float | None = None
) -> Selection:
    """Keep what the last prompt token attends to most; share: this part of the tokens that there are, rounded up.

    Shape: signals.attention_rows ``(1, N)`` -> kept ``(keep,)``.
    Source: official ``flashvid/utils.py`` ``fastv_prune``.
    """
    return ranked(last_row(signals), math.ceil(len(signals.features) * share) if share else keep or 0)


select_inside = fixed_count(_select_inside)


def inside_layer(n_layers: int) -> int:
    """20 of 28 layers, 28 of 36, elsewhere in proportion. Raises BadInput for a model of one layer."""
    layers = carried_layers({28: (20,), 32: (23,), 36: (28,)}, n_layers)
    if not layers:
        raise BadInput("FlashVID reads the attention of one layer and prunes before the next; this model has only one.")
    return layers[0]


def plan_counts(budget: Budget, info: PlanningInfo, params: Params) -> tuple[int, int]:
    """How many tokens are left before the LLM, and inside it. Each at least 1 and at most N.

    ``published``: 1.25 B, then 0.3 of these, which is B on average over 28 layers. ``average``: so much that B is the
    average at the model's own depth. ``final``: B, of B / 0.3.
    """
    tokens, n, share = budget_tokens(budget), info.n_visual, params["inside_ratio"]
    layer, layers = inside_layer(info.n_layers), info.n_layers
    if budget.counted_as == "final":
        return min(n, max(tokens, math.ceil(tokens / share))), tokens
    if budget.counted_as == "average":
        first = min(n, max(1, round(tokens * layers / (layer + (layers - layer) * share))))
        return first, min(first, max(1, round((tokens * layers - first * layer) / (layers - layer))))
    first = min(n, max(1, math.ceil(tokens * params["expansion"])))
    return first, max(1, math.ceil(first * share)) if tokens < n else n


def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """One stage behind the projector and one inside the LLM, as many as planned, or as rounding leaves."""
    first, second = plan_counts(budget, info, params)
    needs, layer = needs_on(info, *TOWER_ATTENTION), inside_layer(info.n_layers)
    titles = "Diverse tokens, trees and clusters", "Attention of the last prompt token"
    if params["count"] == "exact":
        before = Stage("projector", first, select, needs, title=titles[0])
        return Schedule((before, Stage(layer, second, select_inside, (LAST_ROW,), "keep", titles[1])))
    each = math.ceil(first / info.n_views)

    def as_rounded(signals: Signals, keep: int | None, params: Params, generator: Generator) -> Selection:
        return _select(signals, first, params, generator, each)

    share = partial(_select_inside, share=second / first)
    before = Stage("projector", None, as_rounded, needs, title=titles[0])
    return Schedule((before, Stage(layer, None, share, (LAST_ROW,), "keep", titles[1])))


PRUNER = Pruner(
    id="flashvid",
    label="FlashVID",
    family="merging",
    claim="Keeps diverse tokens with attention, joins the rest into trees over frames and clusters; drops late again.",
    paper=Paper(
        "FlashVID: Efficient Video Large Language Models via Training-free Tree-based Spatiotemporal Token Merging",
        "Fan et al.",
        2026,
        "https://arxiv.org/abs/2602.08024",
    ),
    needs=(*TOWER_ATTENTION, LAST_ROW),
    does_without=TOWER_ATTENTION,
    params=(
        choice("relevance", "What weighs distances", ("event", "attention"), "event: attention times the product with "
               "the mean of the segment, as in the paper. attention: alone, as the code has it on Qwen."),
        number("alpha", "Share of selected tokens", 0.7, "The rest are clusters of trees. Official: 0.7."),
        number("threshold", "Threshold of joining", 0.8, "A token joins the frame before when its most similar token "
               "there is above this cosine. Official: 0.8.", step=0.01),
        choice("average", "Mean of a tree", ("tree", "official"), "tree: of all its tokens. official: their sum over "
               "1 + the number of direct children."),
        whole("segments", "Fewest segments", 8, "The video is cut at the lowest transitions into at least so many.",
              minimum=1, maximum=64),
        number("cut", "Threshold of a cut", 0.9, "Every transition below this cosine is a cut. Official: 0.9.",
               step=0.01),
        number("expansion", "Expansion", 1.25, "So many times the budget enters the LLM. Official: 1.25.", minimum=1.0,
               maximum=4.0),
        number("inside_ratio", "Kept inside the LLM", 0.3, "The share that stays from layer 20 of 28 on. Official: "
               "0.3, on Qwen3-VL 0.1.", minimum=0.05, maximum=1.0),
        choice("count", "Token count", ("exact", "official"), "exact: the budget. official: what rounding up in every "
               "frame leaves."),
    ),
    schedule=schedule,
    needs_frames=True,
    merges=True,
)  # fmt: skip
