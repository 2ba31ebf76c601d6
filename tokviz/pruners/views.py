"""Ranking within each view: crops of LLaVA-NeXT are cut to their share one by one."""

from __future__ import annotations

import torch

from ..types import Diagnostics, Selection, Signals, TokenMap
from .ops import candidate_rows, fill_up, keep_highest, non_finite_warnings, sanitised, ties_at_threshold, top_k
from .planning import equal_shares, rows_by_view


def keep_highest_of_each_view(signals: Signals, score: TokenMap, keep: int) -> Selection:
    """``keep`` patches with the highest score, each view keeping an equal share ranked by itself.

    With one view this is ``keep_highest`` over all patches. Shares count tokens with a score only, so that a token
    without one stays only if the count cannot be met otherwise. ``ties_at_threshold`` is the most of any view.
    Shape: score.values ``(N,)`` -> kept ``(min(keep, patches),)``.
    """
    pool = candidate_rows(signals)
    ranked, non_finite = sanitised(score.values[pool])
    rankable = ranked > -torch.inf
    views = rows_by_view(signals, pool[rankable])
    if len(views) <= 1:
        return keep_highest(signals, score, keep, pool)
    shares = equal_shares([len(rows) for rows in views], keep)
    values = score.values.float().index_copy(0, pool, ranked)
    kept = torch.cat([rows[top_k(values[rows], share)] for rows, share in zip(views, shares, strict=True)])
    ties = [ties_at_threshold(values[rows], share) for rows, share in zip(views, shares, strict=True) if share > 0]
    return Selection(
        kept=fill_up(kept, keep, pool).sort().values,
        diagnose=lambda: Diagnostics(
            score=score,
            facts={"non_finite": non_finite, "ties_at_threshold": max(ties), "kept_per_view": shares},
            warnings=non_finite_warnings(non_finite, len(pool)),
        ),
    )
