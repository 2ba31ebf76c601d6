"""CDPruner: the tokens that span the largest volume once each is scaled by its relevance to the question (a DPP)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..errors import Unsupported
from ..types import (
    CLIP_RELEVANCE,
    QUESTION_FEATURES,
    Budget,
    Chart,
    Diagnostics,
    Params,
    PlanningInfo,
    Schedule,
    Selection,
    Signals,
    Stage,
    TokenMap,
)
from .diagnostics import non_finite_warnings
from .ops import candidate_rows, fill_up, required, spread, take_rows, top_k, unit_rows, usable_rows
from .pairs import cosine_rows, whole_groups
from .per_view import equal_shares, rows_by_view, unrankable
from .pruner import Paper, Param, Pruner, budget_tokens, fixed_count

# The official min-max scaling adds this, so that the least relevant token keeps a little weight.
RELEVANCE_FLOOR = 1e-6
# A token whose conditional variance is below this share of its own is spanned by the picks, as far as float32 can tell.
SPANNED = 1e-5


@dataclass(frozen=True)
class Volume:
    """What ``largest_volume`` picked.

    Shape: picks ``(count,)`` in the order of picking; gains ``(m,)``, conditional variance of the first ``m`` picks,
    each the factor by which the determinant grew (the other picks are spanned by them: their factor is 0); variance
    ``(n,)``, of a pick when it was picked, of every other row at the end.
    """

    picks: Tensor
    gains: Tensor
    variance: Tensor


def largest_volume(features: Tensor, weights: Tensor, count: int) -> Volume:
    """Fast greedy MAP of the DPP with kernel ``w_i cos(i, j) w_j``: always the row that adds most to its determinant.

    One Cholesky row per pick, ``count * n`` numbers in all. Once no row adds anything (the rank is exhausted, or only
    zero rows are left), the rows with the largest weights follow. Ties go to the lowest index; no row comes twice; no
    host synchronisation in the loop.
    Shape: features ``(n, D)`` finite, weights ``(n,)`` positive, ``1 <= count <= n``.
    Source: CDPruner, official ``llava_arch.py`` ``encode_images`` (Chen et al. 2018). Differs: rows that the picks span
    are worth 0 instead of the square root of a rounding error, which officially turns into NaN and repeats a token.
    """
    unit, weights = unit_rows(features), weights.float()
    cosines_with = cosine_rows(unit, count)
    # A token's cosine with itself is 1 and not 1 plus a rounding error, by which equals would be ranked.
    own = torch.where(unit.any(dim=1), weights.square(), 0.0)
    variance, picked = own.clone(), torch.zeros(len(unit), dtype=torch.bool, device=unit.device)
    n = len(unit)
    factors = torch.zeros(count, n + -n % 16, device=unit.device)  # as in ``whole_groups``: equal tokens stay equal
    picks, gains = [], []
    for step in range(count):
        pick = variance.masked_fill(picked, -1.0).argmax().unsqueeze(0)
        gain = variance.index_select(0, pick)
        row = cosines_with(pick) * weights * weights.index_select(0, pick)
        row = row - (factors[:step].index_select(1, pick).squeeze(1) @ factors[:step])[:n]
        factors[step, :n] = torch.where(gain > 0, row / gain.sqrt(), 0.0)
        variance = variance - factors[step, :n].square()
        variance = torch.where(variance > SPANNED * own, variance, 0.0)
        picked.index_fill_(0, pick, True)
        picks.append(pick)
        gains.append(gain)
    found, grew = torch.cat(picks), torch.cat(gains)
    rank = int((grew > 0).sum())
    spanned = weights.index_fill(0, found[:rank], -1.0)
    chosen = torch.cat([found[:rank], top_k(spanned, count - rank)])
    return Volume(chosen, grew[:rank], variance.index_copy(0, chosen[:rank], grew[:rank]))


def scaled(relevance: Tensor) -> Tensor:
    """Relevance from just above 0 to 1, as the kernel takes it; all 1 when it is constant. Shape: ``(n,)``, n >= 1.

    ``(r - min + 1e-6) / (max - min)``, with a denominator of at least 1e-6: the choice does not depend on the scale, so
    that the bound changes nothing but the division by 0 of the official code.
    """
    relevance = relevance.float()
    low, high = relevance.min(), relevance.max()
    return (relevance - low + RELEVANCE_FLOOR) / (high - low).clamp_min(RELEVANCE_FLOOR)


def question_relevance(signals: Signals, rows: Tensor) -> Tensor | None:
    """Cosine of each token to the mean embedding of the question; None without a finite question token.

    Shape: rows ``(n,)`` -> ``(n,)``.
    """
    question = required(signals.question_features, "question_features")
    question = question[usable_rows(question, torch.arange(len(question), device=question.device))].float()
    if len(question) == 0:
        return None
    unit = whole_groups(unit_rows(signals.features, rows))
    return (unit @ unit_rows(question.mean(0, keepdim=True)).squeeze(0))[: len(rows)]


@fixed_count
def select(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """Greedy MAP of the conditional DPP, in each view by itself with an equal share of ``keep``.

    Relevance is scaled with the minimum and maximum over all views. ``clip``: minus the cosine of patch and question in
    CLIP's space (the official code negates it). ``llm``: cosine of token and mean question embedding, a variant. Rows
    that are no patch are never kept. Without a question token all tokens are equally relevant, and a warning says so.
    Shape: signals.features ``(N, D)``, clip_relevance ``(N,)`` or question_features ``(Q, D)`` -> kept
    ``(min(keep, patches),)``.
    Source: CDPruner Eq. 3-9, official ``llava_arch.py``. Differs: see ``largest_volume`` and ``scaled``; zero tokens
    have cosine 0 with everything instead of NaN; cosines are taken in float32 throughout.
    """
    pool = candidate_rows(signals)
    rows = usable_rows(signals.features, pool)
    source = str(params["relevance"])
    relevance: Tensor | None
    if source == "clip":
        in_clip = -required(signals.clip_relevance, "clip_relevance").float()
        rows = rows[torch.isfinite(in_clip[rows])]
        relevance = in_clip[rows]
    else:
        relevance = question_relevance(signals, rows)
    if len(rows) == 0:
        return unrankable(min(keep, len(pool)), pool)
    if relevance is None:
        relevance, source = torch.ones(len(rows), device=rows.device), "constant"
    weights = spread(scaled(relevance), rows, len(signals.features), torch.nan)
    views = rows_by_view(signals, rows)
    shares = equal_shares([len(view) for view in views], keep)
    volumes = [
        (view, largest_volume(take_rows(signals.features, view), weights[view], share))
        for view, share in zip(views, shares, strict=True)
        if share
    ]
    return _selection(signals, keep, pool, weights, volumes, source)


def _selection(
    signals: Signals, keep: int, pool: Tensor, weights: Tensor, volumes: list[tuple[Tensor, Volume]], source: str
) -> Selection:
    """Back to the numbering of the stage. ``volumes``: for each view its rows ``(n_v,)`` and what was picked."""
    n_all = len(signals.features)
    picks = torch.cat([view[volume.picks] for view, volume in volumes])
    variance = torch.full((n_all,), torch.nan, device=picks.device)
    for view, volume in volumes:
        variance[view] = volume.variance
    non_finite = len(pool) - int(torch.isfinite(weights).sum())
    warnings = non_finite_warnings(non_finite, len(pool))
    if source == "constant":
        warnings += ("There is no question token to compare with, so that all tokens count as equally relevant.",)
    return Selection(
        kept=fill_up(picks, keep, pool).sort().values,
        order=spread(torch.arange(len(picks), device=picks.device), picks, n_all, -1),
        diagnose=lambda: Diagnostics(
            score=TokenMap(
                "conditional_variance",
                "Volume added when picked",
                variance,
                unit="factor of the determinant",
                direction="high is kept first; dropped tokens show what they would still add",
                scale="log",
            ),
            maps=(TokenMap("relevance", _RELEVANCE_LABELS[source], weights, direction="high weighs more"),),
            charts=tuple(
                _gain_chart(number, volume, int(view[0]) if len(volumes) > 1 else None)
                for number, (view, volume) in enumerate(volumes)
                if len(volume.gains)
            ),
            facts={
                "relevance": source,
                "independent_picks": sum(len(volume.gains) for _, volume in volumes),
                "filled_by_relevance": sum(len(volume.picks) - len(volume.gains) for _, volume in volumes),
                "log_determinant": sum(float(volume.gains.log().sum()) for _, volume in volumes),
                "non_finite": non_finite,
            },
            warnings=warnings,
        ),
    )


_RELEVANCE_LABELS = {
    "clip": "Relevance: minus the cosine of patch and question in CLIP's space, scaled",
    "llm": "Relevance (variant): cosine of token and mean question embedding, scaled",
    "constant": "Relevance (no question: all equal)",
}


def _gain_chart(number: int, volume: Volume, about: int | None) -> Chart:
    """ln of the factor by which each pick enlarged the determinant; it ends where the picks span all tokens."""
    return Chart(
        f"gain_{number}",
        "Log-determinant gained by each pick",
        "line",
        y=volume.gains.log().tolist(),
        x=list(range(1, len(volume.gains) + 1)),
        x_label="pick",
        y_label="ln of the gain",
        about=about,
    )


def schedule(budget: Budget, info: PlanningInfo, params: Params) -> Schedule:
    """One stage on the embeddings that enter the LLM.

    ``published``, ``final`` and ``average`` coincide, because every block sees what the stage leaves. Raises BadInput
    for a budget below 1 token, Unsupported for ``clip`` relevance without CLIP's text tower.
    """
    tokens = budget_tokens(budget)
    if params["relevance"] == "clip" and not info.has_text_tower:
        raise Unsupported(
            "CDPruner's relevance by CLIP needs the text tower of the CLIP model that the vision tower was taken from, "
            "and this model comes without it. Choose relevance llm."
        )
    need = CLIP_RELEVANCE if params["relevance"] == "clip" else QUESTION_FEATURES
    return Schedule((Stage("projector", tokens, select, (need,), title="Largest volume (conditional DPP)"),))


PRUNER = Pruner(
    id="cdpruner",
    label="CDPruner",
    family="text-guided",
    claim="Keeps the tokens that span the largest volume, each scaled by its relevance to the question (a DPP).",
    paper=Paper(
        "Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in MLLMs",
        "Zhang et al.",
        2025,
        "https://arxiv.org/abs/2506.10967",
    ),
    needs=(QUESTION_FEATURES, CLIP_RELEVANCE),
    params=(
        Param(
            "relevance",
            "Relevance",
            "choice",
            "llm",
            "llm: cosine of token and mean question embedding in the LLM's space (a variant that every model can "
            "give). clip: as published, in the space of CLIP, with its text tower.",
            choices=("llm", "clip"),
        ),
    ),
    schedule=schedule,
    does_without=(CLIP_RELEVANCE,),
)
