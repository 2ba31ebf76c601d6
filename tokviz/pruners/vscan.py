"""VScan: half of the tokens window by window, half from the whole image, the rest merged; then a drop inside the LLM.

A shallow layer of the vision tower says what matters in each window, the layer that makes the features what matters in
the whole image. Halfway through the LLM what the last prompt token attends to stays.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..types import (
    LAST_ROW_OF_NEXT_LAYER,
    SHALLOW_ATTENTION,
    Budget,
    Diagnostics,
    Params,
    PlanningInfo,
    Schedule,
    Selection,
    Signals,
    Stage,
    TokenMap,
)
from .apet import plan_counts
from .diagnostics import group_sizes
from .ops import kept_rows, merge_into_nearest, required, spread, top_k, without
from .pdrop import select as select_stage_2
from .per_view import TOWER_ATTENTION, Usable, in_each_view, tower_attention, unrankable, usable
from .pruner import Paper, Pruner, fixed_count, needs_on, number, whole

NEEDS = (SHALLOW_ATTENTION, *TOWER_ATTENTION)
NO_GRID = "Where the patches lie in the image is not known, so that the whole image is a single window."


@dataclass(frozen=True)
class Scanned:
    """What was taken of one view.

    Shape: local ``(l,)``, window by window, global_ ``(g,)``, the best first; merged ``(s,)``, all others, and into
    whom each went, owner ``(s,)``; targets ``(l + g,)`` ascending and their features after merging ``(l + g, D)``.
    """

    local: Tensor
    global_: Tensor
    targets: Tensor
    merged: Tensor
    owner: Tensor
    features: Tensor


def best_of_windows(score: Tensor, cell: Tensor | None, rows: Tensor, count: int, side: int) -> Tensor:
    """The ``count // windows`` highest of each window of ``side x side`` cells; all of a window that has fewer.

    Windows begin at the first row and column of the view; those at its end may be smaller.
    Shape: score ``(N,)``, cell ``(N, 2)``, rows ``(n,)`` of one view, ascending -> ``(<= count,)``, by window.
    """
    window = torch.zeros_like(rows)
    if cell is not None:
        places = (cell[rows] - cell[rows].amin(0)) // side
        window = places[:, 0] * (places[:, 1].max() + 1) + places[:, 1]
    names, window = window.unique(return_inverse=True)
    each = count // len(names)
    by_score = top_k(score[rows], len(rows))
    order = by_score[window[by_score].sort(stable=True).indices]  # window by window, the best first
    sizes = torch.bincount(window, minlength=len(names))
    rank = torch.arange(len(rows), device=rows.device) - (sizes.cumsum(0) - sizes)[window[order]]
    return rows[order[rank < each]]


def scan(
    features: Tensor,
    shallow: Tensor,
    deep: Tensor,
    cell: Tensor | None,
    rows: Tensor,
    keep: int,
    params: Params,
) -> Scanned:
    """Take ``keep`` of ``rows``, those of one view, and average each of the others into the most similar one.

    Local tokens: of the windows, ``int(keep (1 - global_share))`` as far as it divides. Global tokens: of the rest the
    highest in the deep layer, as many as are left to ``keep``.
    Shape: features ``(N, D)``, shallow and deep ``(N,)``, rows ``(n,)`` ascending, ``1 <= keep <= n``.
    """
    wanted = int(keep * (1.0 - params["global_share"]) + 1e-9)
    local = best_of_windows(shallow, cell, rows, wanted, int(params["window"]))
    rest = without(rows, local, len(deep))
    global_ = rest[top_k(deep[rest], keep - len(local))]
    targets = torch.cat([local, global_]).sort().values
    merged = without(rows, targets, len(deep))
    merge = merge_into_nearest(features, targets, merged)
    return Scanned(local, global_, targets, merged, merge.owner, merge.features)


@fixed_count
def select_stage_1(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """Local and global tokens, in each view by itself with an equal share of ``keep``; the others are merged.

    Rows that are no patch are dropped; what is not finite neither stays (unless the count needs it) nor is merged.
    Shape: signals.features ``(N, D)``, shallow_attention and cls_attention ``(N,)`` -> kept and features ``(K, D)``
    with K = ``min(keep, patches)``.
    Source: VScan section 3, official ``llava/model/llava_arch.py`` ``encode_images``; see ``scan``. Differs: what does
    not divide by the number of windows goes to the global tokens, where the code keeps fewer than it was asked for.
    """
    score = tower_attention(signals, "the highest of what windows leave are global tokens")
    shallow = required(signals.shallow_attention, "shallow_attention").float()
    found = usable(signals, shallow, score.values)
    if len(found.rows) == 0:
        return unrankable(keep, found.pool, score)
    features = signals.features
    views = [
        view
        for _, view in in_each_view(
            signals,
            found.rows,
            keep,
            lambda rows, share: scan(features, shallow, score.values, signals.cell, rows, share, params),
        )
    ]
    targets, merged, owner = (torch.cat([getattr(v, name) for v in views]) for name in ("targets", "merged", "owner"))
    kept = found.kept(targets, keep)
    selection = Selection(
        kept=kept,
        assignment=spread(kept, kept, len(features), -1).index_copy_(0, merged, owner),
        features=kept_rows(features, kept, targets, torch.cat([view.features for view in views])),
    )
    no_grid = (NO_GRID,) if signals.cell is None else ()
    return selection.with_diagnostics(lambda _: _explained(selection, found, score, shallow, views, no_grid))


def _explained(
    selection: Selection,
    found: Usable,
    score: TokenMap,
    shallow: Tensor,
    views: list[Scanned],
    warnings: tuple[str, ...],
) -> Diagnostics:
    role = spread(torch.zeros_like(shallow[found.rows]), found.rows, len(shallow), torch.nan)
    for view in views:
        role[view.local], role[view.global_] = 2.0, 1.0
    counts = [sum(len(getattr(view, name)) for view in views) for name in ("local", "global_", "merged")]
    label = "Attention in the shallow layer"
    return found.explained(
        score,
        maps=(
            TokenMap("role", "Role", role, direction="2 local, 1 global, 0 merged"),
            TokenMap("shallow_attention", label, shallow, "probability", "the highest of a window are local", "log"),
            group_sizes(selection, len(shallow)),
        ),
        facts=dict(zip(("local", "global", "merged"), counts, strict=True)),
        warnings=warnings,
    )


def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """Stage 1 on the embeddings that enter the LLM, stage 2 before layer L/2 (16 of 32, 14 of 28).

    Counts are those of ``apet.plan_counts``: 1.5 B, then 0.5 B (64: 96, 32), as the released scripts have it.
    """
    first, second = plan_counts(budget, info)
    return Schedule(
        (
            Stage("projector", first, select_stage_1, needs_on(info, *NEEDS), title="Stage 1: windows and whole image"),
            Stage(
                info.n_layers // 2,
                second,
                select_stage_2,
                (LAST_ROW_OF_NEXT_LAYER,),
                title="Stage 2: attention of the last prompt token",
            ),
        )
    )


PRUNER = Pruner(
    id="vscan",
    label="VScan",
    family="merging",
    claim="Keeps what windows and the whole image attend to, merges the rest, and drops once more inside the LLM.",
    paper=Paper(
        "VScan: Rethinking Visual Token Reduction for Efficient Large Vision-Language Models",
        "Zhang et al.",
        2025,
        "https://arxiv.org/abs/2505.22654",
    ),
    needs=(*NEEDS, LAST_ROW_OF_NEXT_LAYER),
    does_without=TOWER_ATTENTION,
    params=(
        number(
            "global_share",
            "Share of global tokens",
            0.5,
            "Of the tokens that stage 1 keeps; the rest are local. Official: 0.5.",
        ),
        whole(
            "window",
            "Side of a window",
            6,
            "In tokens: local tokens are chosen window by window. Official: 6 (of 24) for LLaVA, 4 for Qwen2.5-VL.",
            minimum=1,
            maximum=64,
        ),
    ),
    schedule=schedule,
    merges=True,
)
