"""HiPrune: what attention looks at in a middle vision layer, the patches around it, and what it looks at in a deep one.

Anchors receive most attention in the object layer, buffers are their neighbours in the image, registers receive most in
the layer that makes the features. Needs no [CLS] token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..types import DEEP_ATTENTION, OBJECT_ATTENTION, Chart, Diagnostics, Params, Selection, Signals, TokenMap
from .ops import required, spread, top_k, without
from .per_view import in_each_view, unrankable, usable
from .pruner import Paper, Pruner, choice, fixed_count, number, single_stage

NEEDS = (OBJECT_ATTENTION, DEEP_ATTENTION)
NO_GRID = "Where the patches lie in the image is not known, so that anchors have no buffers around them."


@dataclass(frozen=True)
class Roles:
    """Who is kept of one view as what, each in the order in which it was taken. Shape: ``(a,)``, ``(b,)``, ``(r,)``."""

    anchors: Tensor
    buffers: Tensor
    registers: Tensor


def neighbours(cell: Tensor, rows: Tensor, anchors: Tensor, wrapped: bool) -> Tensor:
    """Which of ``rows`` lie beside, above or below an anchor, anchors left out. Shape: -> ``(b,)`` ascending.

    wrapped: as the official code counts, by numbers: left of the first column is the last patch of the row above, and
    what falls off the view is its first or last patch.
    Shape: cell ``(N, 2)``, rows ``(n,)`` of one view, ascending, anchors ``(a,)``.
    """
    if wrapped:
        width = int(cell[rows, 1].max() - cell[rows, 1].min()) + 1
        at = torch.searchsorted(rows, anchors)
        steps = torch.tensor([-1, 1, -width, width], device=rows.device)
        near = rows[(at.unsqueeze(1) + steps).clamp(0, len(rows) - 1).flatten().unique()]
    else:
        near = rows[((cell[rows].unsqueeze(1) - cell[anchors]).abs().sum(2) == 1).any(1)]
    return near[~torch.isin(near, anchors)]


def roles(
    object_attention: Tensor, deep_attention: Tensor, cell: Tensor | None, rows: Tensor, keep: int, params: Params
) -> Roles:
    """Choose ``keep`` of ``rows``, those of one view.

    Anchors: the ``round(keep alpha / 5)`` highest in the object layer. Buffers: their neighbours, as many as there is
    room for, the highest in the object layer first. Registers: of the rest the highest in the deep layer.
    Shape: object_attention and deep_attention ``(N,)``, rows ``(n,)`` ascending, ``1 <= keep <= n``.
    """
    anchors = rows[top_k(object_attention[rows], min(round(keep * params["alpha"] / 5), keep))]
    near = rows[:0] if cell is None else neighbours(cell, rows, anchors, params["buffers"] == "official")
    buffers = near[top_k(object_attention[near], min(len(near), keep - len(anchors)))]
    rest = without(rows, torch.cat([anchors, buffers]), len(object_attention))
    registers = rest[top_k(deep_attention[rest], keep - len(anchors) - len(buffers))]
    return Roles(anchors, buffers, registers)


@fixed_count
def select(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """Anchors, buffers and registers, in each view by itself with an equal share of ``keep``; see ``roles``.

    Rows that are no patch are never kept.
    Shape: signals.object_attention and deep_attention ``(N,)``, cell ``(N, 2)`` -> kept ``(min(keep, patches),)``.
    Source: HiPrune section 4, official ``LLaVA/llava/model/llava_arch.py`` ``encode_images``. Differs: see ``roles``
    where there is not enough room, and ``neighbours``.
    """
    middle = required(signals.object_attention, "object_attention").float()
    deep = required(signals.deep_attention, "deep_attention").float()
    found = usable(signals, middle, deep)
    if len(found.rows) == 0:
        return unrankable(keep, found.pool)
    views = in_each_view(
        signals, found.rows, keep, lambda rows, share: roles(middle, deep, signals.cell, rows, share, params)
    )
    picks = torch.cat([part for _, of in views for part in (of.anchors, of.buffers, of.registers)])
    kept = found.kept(picks, keep)

    def diagnose() -> Diagnostics:
        role = spread(torch.zeros_like(middle[found.rows]), found.rows, len(middle), torch.nan)
        for _, of in views:
            role[of.anchors], role[of.buffers], role[of.registers] = 3.0, 2.0, 1.0
        counts = [sum(len(getattr(of, name)) for _, of in views) for name in ("anchors", "buffers", "registers")]
        x, y = middle[found.rows], deep[found.rows]
        marked = torch.isin(found.rows, picks).nonzero().squeeze(1)
        layers = "Attention received in the object layer", "Attention received in the layer of the features"
        return found.explained(
            TokenMap("deep_attention", layers[1], deep, "probability", "the highest of the rest are registers", "log"),
            maps=(
                TokenMap("role", "Role", role, direction="3 anchor, 2 buffer, 1 register, 0 dropped"),
                TokenMap("object_attention", layers[0], middle, "probability", "the highest are anchors", "log"),
            ),
            charts=(
                Chart(
                    "layers",
                    "Attention received in both layers",
                    "scatter",
                    y=y.tolist(),
                    x=x.tolist(),
                    x_label="object layer",
                    y_label="layer of the features",
                    tokens=found.rows.tolist(),
                    marked=marked.tolist(),
                ),
            ),
            facts=dict(zip(("anchors", "buffers", "registers"), counts, strict=True)),
            warnings=(NO_GRID,) if signals.cell is None else (),
        )

    return Selection(kept, diagnose=diagnose)


PRUNER = Pruner(
    id="hiprune",
    label="HiPrune",
    family="attention-ranked",
    claim="Keeps what a middle vision layer attends to, the patches around it, and what a deep one attends to.",
    paper=Paper(
        "HiPrune: Hierarchical Attention for Efficient Token Pruning in Vision-Language Models",
        "Liu et al.",
        2025,
        "https://arxiv.org/abs/2508.00553",
    ),
    needs=NEEDS,
    params=(
        number(
            "alpha",
            "Share of anchors and buffers α",
            0.1,
            "How much of the budget goes to anchors and their four neighbours; the rest are registers. Paper: 0.1.",
        ),
        choice(
            "buffers",
            "Buffers",
            ("image", "official"),
            "image: neighbours in the image, as the paper says. official: by number, as the code does, where the left "
            "neighbour of a row's first patch is the last one of the row above.",
        ),
    ),
    schedule=single_stage(select, needs=NEEDS, title="Anchors, buffers, registers"),
)
