"""AdaptVTP: drop the fifth of the tokens that lies farthest from the text, then keep the most spread-out rest."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from ..records import Chart, Reading, TokenMap
from ..types import QUESTION_FEATURES, TEXT_FEATURES, Diagnostics, Params, Selection, Signals
from .ops import highest, required, spread, take_rows, unit_rows, usable_rows
from .pairs import distances_to
from .per_view import Usable, all_rows, unrankable, usable
from .pruner import Paper, Pruner, choice, fixed_count, number, single_stage, switch
from .sampling import MaxSum, greedy_max_sum, mean_distance, sigma_chart


def alignment(features: Tensor, text: Tensor, normalize: bool) -> Tensor:
    """alpha, the negative mean Euclidean distance of each token to the text tokens.

    In float64, as the expansion ``a^2 - 2ab + b^2`` cancels when tokens are much longer than what sets them apart.
    Shape: features ``(n, D)`` finite, text ``(M, D)`` finite with M >= 1 -> ``(n,)`` float32. Source: Eq. 3.
    """
    features, text = (unit_rows(rows) if normalize else rows.float() for rows in (features, text))
    return -distances_to(features, text).mean(1)


def correlation(a: Tensor, b: Tensor) -> float | None:
    """Pearson's correlation of two vectors ``(n,)``; None when one of them is constant."""
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    product = float((a @ b) / (a.norm() * b.norm()))
    return product if math.isfinite(product) else None


@fixed_count
def select(signals: Signals, keep: int, params: Params, generator: Generator) -> Selection:
    """The N1 = floor(0.8 N) tokens nearest to the text, at least ``keep``; of these the greedy max-sum of distances.

    Rows that are no patch (newlines) are candidates like any other, and several views are one pool. Without a text
    token nothing is filtered, and a warning says so.
    Shape: signals.features ``(N, D)``, question_features ``(Q, D)`` or text_features ``(M, D)`` -> kept ``(keep,)``.
    Source: AdaptVTP Eq. 3-4 and 8-16; no code is public.
    """
    features, found = signals.features, usable(signals, pool=all_rows(signals.features))
    rows = found.rows
    if len(rows) == 0:
        return unrankable(keep, found.pool)
    if params["text"] == "question":
        text = required(signals.question_features, "question_features")
    else:
        text = required(signals.text_features, "text_features")
    text = text[usable_rows(text, all_rows(text))]
    alpha = alignment(take_rows(features, rows), text, params["normalize"]) if len(text) else None
    survivors = all_rows(rows)
    if params["filter"] and alpha is not None:
        # 1e-9: a share such as 0.29 of 100 must not lose a token to its binary representation.
        wanted = max(math.floor(params["survivors"] * len(found.pool) + 1e-9), keep)
        survivors = highest(alpha, min(wanted, len(alpha)))
    cover = greedy_max_sum(take_rows(features, rows[survivors]), min(keep, len(survivors)))
    picks = rows[survivors[cover.picks]]
    return found.picked(
        picks, keep, len(features), lambda: _explained(features, found, survivors, cover, alpha, len(text))
    )


def _explained(
    features: Tensor, found: Usable, survivors: Tensor, cover: MaxSum, alpha: Tensor | None, n_text: int
) -> Diagnostics:
    """``survivors`` counts within the usable rows, ``cover`` within ``survivors``."""
    n, rows, alive = len(features), found.rows, found.rows[survivors]
    filtered = torch.zeros(n, device=rows.device).index_fill(0, rows, 1.0).index_fill(0, alive, 0.0)
    maps = [
        TokenMap("filtered", "Dropped by the text filter", filtered, direction="1 was dropped before any was compared")
    ]
    facts: dict[str, float] = {
        "survivors": len(survivors),
        "text_tokens": n_text,
        "first_pick": int(alive[cover.picks[0]]),
    }
    charts, readings, warnings = sigma_chart(cover), [], []
    if alpha is None:
        warnings.append("There is no text token to compare with, so that no token was filtered out.")
    else:
        length, everywhere = features[rows].float().norm(dim=1), spread(alpha, rows, n, torch.nan)
        passes = "high passes the filter by the text, where that is on"
        maps.insert(0, TokenMap("alignment", "Alignment α with the text", everywhere, "negative distance", passes))
        charts.append(_alignment_chart(alpha, length, rows, survivors))
        measured = correlation(alpha, -length)
        if measured is not None:
            facts["correlation_with_length"] = measured
            label = "Correlation of α with minus the length of the token"
            readings.append(Reading("correlation_with_length", label, measured))
    return found.explained(
        mean_distance(cover, alive, n), maps=maps, charts=charts, readings=readings, facts=facts, warnings=warnings
    )


def _alignment_chart(alpha: Tensor, length: Tensor, rows: Tensor, survivors: Tensor) -> Chart:
    """Alignment over the token's length: a straight line means that the filter drops the longest tokens."""
    return Chart(
        "alignment_over_length",
        "Alignment over the length of the token; marked tokens pass the filter",
        "scatter",
        x=length.tolist(),
        y=alpha.tolist(),
        x_label="length of the token",
        y_label="alignment α",
        line=float(alpha[survivors].min()) if len(survivors) < len(rows) else None,
        tokens=rows.tolist(),
        marked=survivors.tolist(),
    )


PRUNER = Pruner(
    id="adaptvtp",
    label="AdaptVTP",
    family="text-guided",
    claim="Drops the 20% of the tokens that lie farthest from the text, then keeps the most spread-out rest.",
    paper=Paper(
        "TrimTokenator: Towards Adaptive Visual Token Pruning for Large Multimodal Models",
        "Zhang et al.",
        2025,
        "https://arxiv.org/abs/2509.00320",
    ),
    needs=(QUESTION_FEATURES, TEXT_FEATURES),
    params=(
        choice(
            "text",
            "Text",
            ("question", "all_text"),
            "Which tokens α compares with: what the user wrote, or all text behind the image (template, roles).",
        ),
        switch("filter", "Text filter", True, "Off keeps the spread-out tokens of all (the paper's ablation)."),
        number(
            "survivors",
            "Share that passes the filter",
            0.8,
            "N1 / N. Paper: 0.8. Never fewer than the budget.",
            minimum=0.05,
        ),
        switch("normalize", "Unit lengths", False, "Compare directions only, so that long tokens do not lose."),
    ),
    aliases=("TrimTokenator",),
    schedule=single_stage(
        select,
        needs=lambda info, params: (QUESTION_FEATURES if params["text"] == "question" else TEXT_FEATURES,),
        title="Text filter, then spread out",
    ),
)
