"""VisPruner: half of the budget by [CLS] attention, half by removing near-duplicates among the rest, round by round."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..records import TokenMap
from ..types import Diagnostics, Params, Selection, Signals
from .diagnostics import lines_per_view
from .ops import top_k
from .pairs import cosine_similarity
from .per_view import TOWER_ATTENTION, shared, tower_attention, unrankable, usable
from .pruner import Paper, Pruner, fixed_count, number, single_stage

# The official loop removes this many tokens per round.
REMOVED_PER_ROUND = 8
# Most similar rows that are listed per row: a quarter of them or more is at odd places, so hardly ever none.
NEIGHBOURS_LISTED = 64


@dataclass(frozen=True)
class Thinned:
    """What ``remove_duplicates`` left.

    Shape: left ``(count,)``, in the order of the last list; removed_in ``(n,)``, the round (from 1) in which a row was
    removed, 0 for rows that are left; similarity, per round the smallest cosine at which a row was removed ``(1,)``.
    """

    left: Tensor
    removed_in: Tensor
    similarity: list[Tensor]


def remove_duplicates(features: Tensor, count: int, listed: Tensor | None = None) -> Thinned:
    """Remove the rows that look most like another one until ``count`` are left, at most 8 per round.

    A round splits the list into rows at even and at odd places and removes those even rows whose largest cosine to an
    odd row is highest. The next list is the surviving even rows, most similar first, then the odd rows as they were.
    Ties go to the row that is listed first. A list of odd length has one even row more, and a round never removes more
    than its even rows.
    Shape: features ``(N, D)``, listed ``(n,)`` its finite rows in the order of the first list (None: all, as they
    are); ``1 <= count <= n``. Source: VisPruner, official ``llava_arch.py`` ``encode_images``.
    """
    return _thin_out(cosine_similarity(features, listed), count, NEIGHBOURS_LISTED)


def _thin_out(similarity: Tensor, count: int, listed: int) -> Thinned:
    """``remove_duplicates`` on the cosines ``(n, n)``.

    The largest cosine of an even row to an odd one is the first odd row on the list of its ``listed`` most similar
    rows. The lists hold for as long as half of their rows are left, so that they are made anew a few times instead of
    the matrix being searched in every round. If some row met no odd one on its list, those rounds are searched in full:
    the host waits for that answer once per list, not once per round.
    """
    rows = torch.arange(len(similarity), device=similarity.device)
    removed_in, at_similarity, turn = torch.zeros_like(rows), [], 0
    while len(rows) > count:
        thinned, complete = _rounds(similarity, rows, removed_in, count, turn, listed)
        if not complete:
            thinned, _ = _rounds(similarity, rows, removed_in, count, turn, 0)
        rows, removed_in = thinned.left, thinned.removed_in
        at_similarity += thinned.similarity
        turn += len(thinned.similarity)
    return Thinned(rows, removed_in, at_similarity)


def _rounds(
    similarity: Tensor, rows: Tensor, removed_in: Tensor, count: int, turn: int, listed: int
) -> tuple[Thinned, Tensor]:
    """Rounds ``turn + 1`` and on, until half of ``rows`` are gone or ``count`` are left; were all lists long enough?

    listed: 0 searches the matrix in every round. Shape: similarity ``(n, n)``, rows ``(m,)``, removed_in ``(n,)``.
    """
    removed_in, at_similarity, complete = removed_in.clone(), [], torch.ones((), dtype=torch.bool, device=rows.device)
    listed = listed if listed < len(rows) else 0
    if listed:
        cosines, neighbours = _most_similar(similarity, rows, listed)
        is_odd = torch.zeros(len(similarity), dtype=torch.bool, device=rows.device)
    until = max(count, len(rows) // 2)
    while len(rows) > until:
        even, odd = rows[::2], rows[1::2]
        removed = min(REMOVED_PER_ROUND, len(rows) - count, len(even))
        turn += 1
        if listed:
            is_odd.zero_().index_fill_(0, odd, True)
            nearest = cosines[even].where(is_odd[neighbours[even]], -torch.inf).max(1).values
            complete = complete & (nearest > -torch.inf).all()
        else:
            nearest = similarity.index_select(0, even).index_select(1, odd).max(1).values
        ranked = top_k(nearest, len(even))
        removed_in[even[ranked[:removed]]] = turn
        at_similarity.append(nearest[ranked[removed - 1 : removed]])
        rows = torch.cat([even[ranked[removed:]], odd])
    return Thinned(rows, removed_in, at_similarity), complete


def _most_similar(similarity: Tensor, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest cosines of each of ``rows (m,)`` to one another, and to whom. Shape: two of ``(n, count)``,
    filled at ``rows``.
    """
    shape = (len(similarity), count)
    cosines, neighbours = similarity.new_zeros(shape), torch.zeros(shape, dtype=torch.int64, device=rows.device)
    for part in rows.split(1024):
        found = similarity.index_select(0, part).index_select(1, rows).topk(count)
        cosines[part], neighbours[part] = found.values, rows[found.indices]
    return cosines, neighbours


@fixed_count
def select(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """In each view with its equal share T: the int(T rho) highest [CLS] attentions, then the most distinct of the rest.

    The rest enters ``remove_duplicates`` in descending order of attention. Rows that are no patch are never kept.
    Shape: signals.features ``(N, D)``, cls_attention ``(N,)`` -> kept ``(min(keep, patches),)``.
    Source: VisPruner, official ``llava_arch.py``; see ``remove_duplicates``.
    """
    score = tower_attention(signals, "the highest are important; of the others the most distinct stay")
    found = usable(signals, score.values)
    if len(found.rows) == 0:
        return unrankable(keep, found.pool, score)
    views = []
    for view, share in shared(signals, found.rows, keep):
        n_important = int(share * params["important_share"])
        by_attention = view[top_k(score.values[view], len(view))]
        important, rest = by_attention[:n_important], by_attention[n_important:]
        thinned = Thinned(rest[:0], torch.zeros_like(rest), [])
        if share > n_important:
            thinned = remove_duplicates(signals.features, share - n_important, rest)
        views.append((view, important, rest, thinned))
    picks = torch.cat([part for _, important, rest, thinned in views for part in (important, rest[thinned.left])])

    def diagnose() -> Diagnostics:
        group, removed_in = (torch.full_like(score.values, torch.nan) for _ in range(2))
        group[found.rows] = 0.0
        for _, important, rest, thinned in views:
            group[important], group[rest[thinned.left]] = 2.0, 1.0
            removed_in[rest] = torch.where(thinned.removed_in > 0, thinned.removed_in.float(), torch.nan)
        n_important = sum(len(important) for _, important, _, _ in views)
        steps = [(view, torch.cat([score.values[:0], *thinned.similarity])) for view, *_, thinned in views]
        label, lowest = "Similarity at which tokens were removed", "lowest cosine that was removed"
        return found.explained(
            score,
            maps=(
                TokenMap("group", "Important or distinct", group, direction="2 kept by attention, 1 kept as distinct"),
                TokenMap("removed_in", "Round of removal", removed_in, "round", "low went first"),
            ),
            charts=lines_per_view("similarity_{}", label, steps, "round", lowest),
            facts={"important": n_important, "distinct": len(picks) - n_important},
        )

    return Selection(found.kept(picks, keep), diagnose=diagnose)


PRUNER = Pruner(
    id="vispruner",
    label="VisPruner",
    family="attention-ranked",
    claim="Keeps half of the budget by [CLS] attention and half as the most distinct of the rest.",
    paper=Paper(
        "Beyond Text-Visual Attention: Exploiting Visual Cues for Effective Token Pruning in VLMs",
        "Zhang et al.",
        2024,
        "https://arxiv.org/abs/2412.01818",
    ),
    needs=TOWER_ATTENTION,
    does_without=TOWER_ATTENTION,
    params=(
        number(
            "important_share",
            "Important share ρ",
            0.5,
            "How much of the budget goes to the highest [CLS] attention; the rest goes to distinct tokens. Paper: 0.5.",
        ),
    ),
    schedule=single_stage(select, "encoder", needs=TOWER_ATTENTION, title="Important and distinct"),
)
