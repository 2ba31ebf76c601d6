"""IVC-Prune: tokens at places where rotary positions turn by nothing or by a quarter, and what the question asks for.

The first are implicit visual coordinates: whatever they show, the model measures places against them. The others are
found by how alike value vectors are, which positions do not touch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import torch
from torch import Generator, Tensor

from ..errors import BadInput
from ..records import TextScores
from ..types import (
    ROTARY_MEANS,
    VALUES,
    Budget,
    Chart,
    Diagnostics,
    Params,
    PlanningInfo,
    Schedule,
    Selection,
    Signals,
    TokenMap,
)
from .ops import required, spread, top_k, usable_rows, whole_groups, without
from .per_view import Usable, all_rows, unrankable, usable
from .pruner import Paper, Pruner, choice, fixed_count, number, single_stage, switch, whole
from .schedules import carried_layers

NEEDS = (VALUES, ROTARY_MEANS)
PUBLISHED_LAYERS = {32: (16,), 28: (16,), 36: (22,)}
NOT_ASKING = 2
"""So many tokens behind the image end its frame and ask nothing."""
SEEDS = 0.01
"""Share of the image's tokens that the question finds first."""
COSINE, SINE, SEED, FOREGROUND = 4.0, 3.0, 2.0, 1.0
"""What a kept token is, in the map of roles; the higher one where it is several things."""

Over = Literal["prompt", "image"]


def likeness(asking: Tensor, keys: Tensor, others: Tensor | None) -> Tensor:
    """How value vectors look at each other: softmax over ``keys`` and ``others`` of v v' / sqrt(d), mean over heads.

    Shape: asking ``(R, H, d)``, keys ``(n, H, d)``, others ``(P, H, d)`` or None -> of the keys ``(R, n)`` float32.
    """
    heads, width = keys.shape[1:]
    total = torch.zeros(len(asking), len(keys), device=keys.device)
    for head in range(heads):
        rows = asking[:, head].float() * width**-0.5
        logits = (rows @ whole_groups(keys[:, head].float()).T)[:, : len(keys)]
        if others is not None:
            logits = torch.cat([logits, rows @ others[:, head].float().T], dim=1)
        total += logits.softmax(1)[:, : len(keys)]
    return total / heads


@dataclass(frozen=True)
class Found:
    """What is worth keeping of ``n`` tokens, in numbers of them.

    Shape: by_cosine and by_sine ``(c,)``, seeds ``(s,)``, each best first; asked ``(R, n)``, of every asking text token
    how alike the tokens are to it; relevance ``(n,)``, mean over asking tokens and seeds.
    """

    by_cosine: Tensor
    by_sine: Tensor
    seeds: Tensor
    asked: Tensor
    relevance: Tensor

    def picks(self, keep: int) -> Tensor:
        """Coordinates first, then seeds, then by relevance. Shape: ``(keep,)``, in the order of picking."""
        n = len(self.relevance)
        picks = self.by_cosine
        for more in (self.by_sine, self.seeds, top_k(self.relevance, n)):
            picks = torch.cat([picks, without(more, picks, n)])
        return picks[:keep]

    def roles(self, picks: Tensor) -> Tensor:
        """What each token was kept as, 0 for the others. Shape: ``(n,)``."""
        roles = torch.zeros_like(self.relevance)
        roles[picks] = FOREGROUND
        for role, rows in ((SEED, self.seeds), (SINE, self.by_sine), (COSINE, self.by_cosine)):
            roles[rows[torch.isin(rows, picks)]] = role
        return roles


def find(values: Tensor, asking: Tensor, others: Tensor | None, means: Tensor, coordinates: int) -> Found:
    """Find coordinates, seeds, and what is like the seeds and the question.

    Shape: values ``(n, H, d)``, asking ``(R, H, d)``, others ``(P, H, d)`` or None, means ``(n, 2)``.
    """
    n = len(values)
    asked = likeness(asking, values, others)
    seeds = top_k(asked.sum(0) / max(1, len(asked)), max(1, round(SEEDS * n)))
    together = torch.cat([asked, likeness(values[seeds], values, others)])
    return Found(
        top_k(means[:, 0], min(coordinates, n)),
        top_k(means[:, 1], min(coordinates, n)),
        seeds,
        asked,
        together.sum(0) / len(together),
    )


def select(signals: Signals, keep: int, params: Params, generator: Generator, *, over: Over) -> Selection:
    """Coordinates (a share of ``keep`` by cosine, as many by sine), seeds, and the rest by likeness to seeds and text.

    All text behind the image asks, but for its first two tokens. Rows that are no patch take part.
    over: what likeness is a share of, all tokens of the prompt or those of the image.
    Shape: signals.values ``(N, H, d)``, text_values ``(M, H, d)``, other_values ``(P, H, d)``, rotary_means ``(N, 2)``
    -> kept ``(keep,)``.
    Source: IVC-Prune; official ``IVCP_forward_flashattention`` of ``modeling_qwen2_5_vl.py`` (``image``) and of
    ``modeling_llama.py`` (``prompt``).
    """
    values, means = required(signals.values, "values"), required(signals.rotary_means, "rotary_means").float()
    pool = all_rows(values)
    found = usable(signals, values.flatten(1), means, pool=pool)
    if len(found.rows) == 0:
        return unrankable(keep, pool)
    text, n = required(signals.text_values, "text_values"), len(values)
    spoken = usable_rows(text.flatten(1), all_rows(text))
    asks = spoken[spoken >= NOT_ASKING]
    asks = asks if len(asks) else spoken
    others = None
    if over == "prompt":
        before = required(signals.other_values, "other_values")
        before = before[usable_rows(before.flatten(1), all_rows(before))]
        others = torch.cat([before, text[spoken]])
    parts = find(values[found.rows], text[asks], others, means[found.rows], round(params["coordinates"] * keep))
    picks = parts.picks(min(keep, len(found.rows)))
    kept = found.kept(found.rows[picks], keep)
    return Selection(kept, diagnose=partial(_diagnostics, found, parts, picks, means, asks, n, len(text)))


def _diagnostics(
    found: Usable, parts: Found, picks: Tensor, means: Tensor, asks: Tensor, n: int, n_text: int
) -> Diagnostics:
    rows, roles = found.rows, parts.roles(picks)
    question = parts.asked.sum(0) / max(1, len(parts.asked))
    names = {"coordinates_by_cosine": COSINE, "coordinates_by_sine": SINE, "seeds": SEED, "foreground": FOREGROUND}
    chosen = torch.zeros(n_text, dtype=torch.bool, device=rows.device).index_fill(0, asks, True)
    to_seeds = spread(parts.asked[:, parts.seeds].sum(1), asks, n_text, torch.nan)
    told = "4 coordinate by cosine, 3 by sine, 2 seed, 1 foreground, 0 dropped"
    high, share = "the highest are coordinates", "share of value similarity"
    return found.explained(
        TokenMap(
            "relevance",
            "Likeness of values to question and seeds",
            spread(parts.relevance, rows, n, torch.nan),
            share,
            "the highest fill what coordinates and seeds leave",
            "log",
        ),
        maps=(
            TokenMap("role", "Role", spread(roles, rows, n, torch.nan), direction=told),
            TokenMap("mean_cosine", "Mean rotary cosine of the position", means[:, 0], direction=high),
            TokenMap("mean_sine", "Mean rotary sine of the position", means[:, 1], direction=high),
            TokenMap(
                "question_likeness",
                "Likeness of values to the question",
                spread(question, rows, n, torch.nan),
                share,
                "the highest are seeds",
                "log",
            ),
        ),
        charts=(
            Chart(
                "rotary_means",
                "Where rotary positions turn by nothing (right) or by a quarter (up); marked are coordinates",
                "scatter",
                y=means[rows, 1].tolist(),
                x=means[rows, 0].tolist(),
                x_label="mean cosine",
                y_label="mean sine",
                tokens=rows.tolist(),
                marked=(roles >= SINE).nonzero().squeeze(1).tolist(),
            ),
        ),
        text=TextScores("to_seeds", "Share of its likeness that goes to the seeds", to_seeds, chosen),
        facts={name: int((roles == role).sum()) for name, role in names.items()},
    )


SELECTS = {over: fixed_count(partial(select, over=over)) for over in get_args(Over)}


def layer(info: PlanningInfo, params: Params) -> int:
    """The layer that the parameter names, or the published one. Raises BadInput where there is no layer before it."""
    published = carried_layers(PUBLISHED_LAYERS, info.n_layers)
    if not published:
        raise BadInput(
            "IVC-Prune reads the values of one layer and prunes before the next; this model has a single one."
        )
    found: int = params["layer"] or published[0]
    if found >= info.n_layers:
        raise BadInput(
            f"IVC-Prune's layer must lie between 1 and {info.n_layers - 1} for a model of {info.n_layers} layers, "
            f"not {found}."
        )
    return found


def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """One stage before layer 16 of 32 that also shortens the cache of the layers before; tokens keep their positions.

    Raises BadInput when an average cannot be met, and for a layer that the model does not have.
    """
    over = params["similarity"]
    if over == "released":
        over = "image" if info.published_as == "qwen" else "prompt"
    title = "Coordinates and what the question asks for"
    planned = single_stage(SELECTS[over], layer, needs=NEEDS, title=title, label="IVC-Prune")(budget, info, params)
    stages = tuple(replace(stage, cuts_cache=bool(params["cut_cache"])) for stage in planned.stages)
    return replace(planned, stages=stages)


PRUNER = Pruner(
    id="ivcprune",
    label="IVC-Prune",
    family="text-guided",
    claim="Keeps tokens that rotary positions make coordinates, and those whose values are like the question.",
    paper=Paper(
        "IVC-Prune: Revealing the Implicit Visual Coordinates in LVLMs for Vision Token Pruning",
        "Sun et al.",
        2026,
        "https://arxiv.org/abs/2602.03060",
    ),
    needs=NEEDS,
    params=(
        number(
            "coordinates",
            "Share of coordinates",
            0.2,
            "Share of the budget that goes to coordinates by cosine, and as much again by sine. Official: 0.2 for Qwen "
            "and InternVL, a sixth for LLaVA.",
            maximum=0.5,
        ),
        choice(
            "similarity",
            "Likeness is a share of",
            ("released", "prompt", "image"),
            "The tokens over which likeness adds up to 1: all of the prompt, or those of the image. released: of the "
            "image for Qwen, else of the prompt, as in the official code.",
        ),
        switch(
            "cut_cache",
            "Cut the earlier cache",
            True,
            "Dropped tokens also leave the key-value cache of the layers before, so that no new token sees them.",
        ),
        whole(
            "layer",
            "Layer",
            0,
            "The first layer that sees fewer tokens. 0: as released, 16 of 28 or 32, 22 of 36, else in proportion.",
            minimum=0,
            maximum=63,
        ),
    ),
    schedule=schedule,
)
