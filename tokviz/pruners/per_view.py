"""What nearly every stage does around its own rule: the rows that can be compared, shares of views, filling up.

A view is one image, tile or frame. ``usable`` gives the rows that take part, ``shared`` the budget of each view, and
``Usable.kept`` makes up for what could not be compared. ``ranked`` is all that an attention-ranked stage does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..types import CLS_ATTENTION, RECEIVED_ATTENTION, Diagnostics, Selection, Signals, TokenMap
from .diagnostics import UNRANKABLE, explained
from .ops import candidate_rows, fill_up, highest, required, sanitised, spread, ties_at_threshold, usable_rows

Part = TypeVar("Part")
TOWER_ATTENTION = (CLS_ATTENTION, RECEIVED_ATTENTION)
"""What ``tower_attention`` reads: the one or the other."""


@dataclass(frozen=True)
class Usable:
    """The rows that a stage may keep, and those of them that can be compared.

    Shape: pool ``(P,)``, rows ``(n,)``, both ascending.
    """

    pool: Tensor
    rows: Tensor

    @property
    def non_finite(self) -> int:
        """How many rows of the pool cannot be compared."""
        return len(self.pool) - len(self.rows)

    def kept(self, picks: Tensor, keep: int) -> Tensor:
        """The picks, ascending, and rows that cannot be compared where they are fewer than ``keep``.

        Shape: picks ``(k,)`` -> ``(min(max(k, keep), P),)``.
        """
        return fill_up(picks, keep, self.pool).sort().values

    def picked(self, picks: Tensor, keep: int, n: int, diagnose: Callable[[], Diagnostics]) -> Selection:
        """What a greedy method picked of ``n`` rows, in the order of picking ``(k,)``; see ``kept``."""
        order = spread(torch.arange(len(picks), device=picks.device), picks, n, -1)
        return Selection(self.kept(picks, keep), order, diagnose=diagnose)

    def explained(self, score: TokenMap, **shown: Any) -> Diagnostics:
        """Diagnostics that also tell of the rows that cannot be compared; see ``diagnostics.explained``."""
        return explained(score, non_finite=self.non_finite, of=len(self.pool), **shown)


def all_rows(features: Tensor) -> Tensor:
    """The numbers of the rows of ``features (n, ...)``. Shape: ``(n,)``."""
    return torch.arange(len(features), device=features.device)


def usable(signals: Signals, *others: Tensor, pool: Tensor | None = None) -> Usable:
    """Return the image patches (or the rows of ``pool``) whose feature and whose ``others`` are finite.

    Shape: others ``(N,)`` or ``(N, d)`` each.
    """
    pool = candidate_rows(signals) if pool is None else pool
    rows = usable_rows(signals.features, pool)
    for values in others:
        rows = usable_rows(values, rows)
    return Usable(pool, rows)


def unrankable(keep: int, pool: Tensor, score: TokenMap | None = None) -> Selection:
    """Keep evenly spaced rows and say so: the way out when no row of ``pool (P,)`` has a finite score or feature."""
    return Selection(
        kept=fill_up(pool[:0], keep, pool).sort().values,
        diagnose=lambda: Diagnostics(score=score, facts={"non_finite": len(pool)}, warnings=(UNRANKABLE,)),
    )


def equal_shares(sizes: Sequence[int], keep: int) -> list[int]:
    """Spread ``keep`` tokens equally over views of ``sizes`` tokens: what a small view cannot take goes to the others.

    A remainder goes to the first views with room, one each. The shares add up to ``min(keep, sum(sizes))``.
    """
    shares = [0] * len(sizes)
    left = min(keep, sum(sizes))
    while left:
        with_room = [view for view, size in enumerate(sizes) if shares[view] < size]
        smallest_room = min(sizes[view] - shares[view] for view in with_room)
        each = min(left // len(with_room), smallest_room)
        for view in with_room if each else with_room[:left]:
            shares[view] += each or 1
            left -= each or 1
    return shares


def rows_by_view(signals: Signals, rows: Tensor) -> list[Tensor]:
    """``rows`` split into views, first view first; views without rows are left out.

    Shape: rows ``(n,)`` ascending -> a list of ``(n_v,)`` ascending.
    """
    if signals.view is None:
        return [rows] if len(rows) else []
    view = signals.view[rows]
    return [rows[view == number] for number in torch.unique(view)]


def shared(signals: Signals, rows: Tensor, keep: int) -> list[tuple[Tensor, int]]:
    """The rows of each view, and its equal share of ``keep``. Shape: rows ``(n,)`` -> a list of ``(n_v,)``, int."""
    views = rows_by_view(signals, rows)
    return list(zip(views, equal_shares([len(view) for view in views], keep), strict=True))


def in_each_view(
    signals: Signals, rows: Tensor, keep: int, reduce: Callable[[Tensor, int], Part]
) -> list[tuple[Tensor, Part]]:
    """Reduce every view by itself to its equal share of ``keep``; views without a share are left out.

    Shape: ``reduce(rows (n_v,), share)`` -> what became of the view, returned beside its rows.
    """
    return [(view, reduce(view, share)) for view, share in shared(signals, rows, keep) if share]


def ranked(score: TokenMap, keep: int, pool: Tensor | None = None) -> Selection:
    """Keep the ``keep`` rows of ``pool`` (None: of all) with the highest score.

    Shape: score.values ``(N,)``, pool ``(P,)`` -> kept ``(min(keep, P),)``.
    """
    values, non_finite = sanitised(score.values if pool is None else score.values[pool])
    n, keep = len(values), min(keep, len(values))
    if non_finite == n:
        return unrankable(keep, torch.arange(n, device=values.device) if pool is None else pool, score)
    found = highest(values, keep)
    return Selection(
        kept=found if pool is None else pool[found],
        diagnose=lambda: explained(
            score, facts={"ties_at_threshold": ties_at_threshold(values, keep)}, non_finite=non_finite, of=n
        ),
    )


def ranked_per_view(signals: Signals, score: TokenMap, keep: int) -> Selection:
    """Keep ``keep`` patches with the highest score, each view an equal share ranked by itself.

    With one view this is ``ranked`` over all patches. Shares count tokens with a score only, so that a token without
    one stays only if the count cannot be met otherwise. ``ties_at_threshold`` is the most of any view.
    Shape: score.values ``(N,)`` -> kept ``(min(keep, patches),)``.
    """
    if signals.view is None:
        return ranked(score, keep, None if signals.candidates is None else candidate_rows(signals))
    pool = candidate_rows(signals)
    clean, non_finite = sanitised(score.values[pool])
    values = score.values.float().index_copy(0, pool, clean)
    views = shared(signals, pool[clean > -torch.inf], keep)
    if len(views) <= 1:
        return ranked(score, keep, pool)
    kept = torch.cat([rows[highest(values[rows], share)] for rows, share in views])

    def diagnose() -> Diagnostics:
        ties = max(ties_at_threshold(values[rows], share) for rows, share in views if share)
        facts = {"ties_at_threshold": ties, "kept_per_view": [share for _, share in views]}
        return explained(score, facts=facts, non_finite=non_finite, of=len(pool))

    return Selection(fill_up(kept, keep, pool).sort().values, diagnose=diagnose)


def tower_attention(signals: Signals, direction: str = "high is kept first") -> TokenMap:
    """The vision tower's [CLS] attention, or, of a tower without one, the attention that tokens receive.

    Shape: values ``(N,)`` float32.
    """
    name, label, values = "cls_attention", "[CLS] attention", signals.cls_attention
    if values is None and signals.received_attention is not None:
        name, label, values = "received_attention", "Attention received", signals.received_attention
    return TokenMap(name, label, required(values, name).float(), "probability", direction, "log")


def last_row(signals: Signals) -> TokenMap:
    """The attention of the last prompt token on the visual tokens. Shape: values ``(N,)`` float32."""
    values = required(signals.attention_rows, "attention_rows")[-1].float()
    return TokenMap("last_row_attention", "Attention of the last prompt token", values, "probability", scale="log")
