"""How our ranking of the methods compares with what the papers print for LLaVA-1.5-7B at the same share of tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tokviz.tables.published import PrintedTable, printed_settings, rankings

RANKINGS, SETTINGS = rankings(), printed_settings()
"""The tables whose rows are methods; what the budget of a method's rows means here, beside the setting of the paper."""
EXACT_UP_TO = 9
"""Most pairs for which all orders are tried (9! = 362,880)."""

MIRRORED = {
    "POPE": ("existence",),
    "GQA": ("attribute", "relation"),
    "MME": ("counting",),
    "TextVQA": ("reading",),
}
"""Published benchmark -> our families whose mean stands beside it. MME's printed score covers more than counting."""


@dataclass(frozen=True)
class Ours:
    """Our numbers of one method at one budget. retention: the mean, percent. families: retention per family."""

    retention: float
    families: Mapping[str, float]


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of ``n`` pairs. rho: None when undefined (fewer than two pairs, or all tied).

    p: exact and two-sided over all orders, None for more than EXACT_UP_TO pairs.
    """

    rho: float | None
    n: int
    p: float | None


def spearman(left: Sequence[float], right: Sequence[float]) -> Correlation:
    """The rank correlation, with the share of orders that are at least as extreme.

    Raises ValueError for different numbers of values.
    """
    from scipy.stats import permutation_test, rankdata

    n = len(left)
    if n != len(right):
        raise ValueError(f"{n} and {len(right)} values cannot be paired.")
    x, y = (rankdata(values) - (n + 1) / 2 for values in (left, right))
    scale = float(np.sqrt((x @ x) * (y @ y))) if n > 1 else 0.0
    if not scale:
        return Correlation(None, n, None)
    p = None
    if n <= EXACT_UP_TO:
        orders = permutation_test(
            (x,),
            lambda x, axis=-1: x @ y,
            permutation_type="pairings",
            n_resamples=np.inf,
            vectorized=True,
            batch=50_000,
        )
        p = float(orders.pvalue)
    return Correlation(float(x @ y) / scale, n, p)


def ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1 for the highest value; ties share the mean of their places."""
    from scipy.stats import rankdata

    found: list[float] = rankdata([-value for value in values]).tolist()
    return found


def mean(values: Iterable[float]) -> float:
    """The mean, NaN of nothing."""
    every = list(values)
    return sum(every) / len(every) if every else math.nan


Table = Mapping[str, Mapping[int, Ours]]
"""Method id -> published budget -> our numbers."""


def budgets() -> list[int]:
    """The published budgets, descending."""
    return sorted({int(row.tokens) for table in RANKINGS for row in table.rows}, reverse=True)


def compare(ours: Table) -> dict[str, Any]:
    """Rank correlations with each paper and with all together, falls beside each other, and the settings, as JSON."""
    shown = [budget for budget in budgets() if any(budget in at for at in ours.values())]
    return {
        "budgets": [_at_budget(ours, budget) for budget in shown],
        "falls": _falls(ours, shown),
        "mirrored": [entry for budget in shown for entry in _mirrored(ours, budget)],
        "settings": {method: SETTINGS[method] for method in ours if method in SETTINGS},
        "sources": [
            {"name": t.paper, "title": t.title, "table": t.table, "column": t.column, "remark": t.remark}
            for t in RANKINGS
        ],
        "not_compared": sorted(method for method in ours if method not in SETTINGS),
    }


def _at_budget(ours: Table, budget: int) -> dict[str, Any]:
    sources = [{"source": table.paper, **_ranking(ours, budget, _averages([table], budget))} for table in RANKINGS]
    return {"budget": budget, "sources": sources, "together": _ranking(ours, budget, _averages(RANKINGS, budget))}


def _averages(tables: Iterable[PrintedTable], budget: int) -> dict[str, float]:
    """Published average per method; the mean over the papers where more than one prints it."""
    printed: dict[str, list[float]] = {}
    for table in tables:
        for row in table.rows:
            if int(row.tokens) == budget:
                printed.setdefault(row.name, []).append(table.average(row))
    return {method: mean(values) for method, values in printed.items()}


def _ranking(ours: Table, budget: int, theirs: Mapping[str, float]) -> dict[str, Any]:
    """Spearman over the methods in common and each method's two ranks; farthest: those with the largest difference."""
    common = [method for method in theirs if budget in ours.get(method, {})]
    common = [method for method in common if not math.isnan(ours[method][budget].retention)]
    mine = [ours[method][budget].retention for method in common]
    published = [theirs[method] for method in common]
    places = zip(ranks(mine), ranks(published), strict=True)
    rows: list[dict[str, Any]] = [
        {"method": method, "ours": a, "published": b, "our_rank": rank, "published_rank": their_rank}
        for method, a, b, (rank, their_rank) in zip(common, mine, published, places, strict=True)
    ]
    rows.sort(key=lambda row: row["published_rank"])
    gaps = [abs(row["our_rank"] - row["published_rank"]) for row in rows]
    largest = max(gaps, default=0.0)
    farthest = [row["method"] for row, gap in zip(rows, gaps, strict=True) if gap == largest > 0]
    return {**asdict(spearman(mine, published)), "methods": rows, "farthest": farthest, "largest_gap": largest}


def _falls(ours: Table, shown: Sequence[int]) -> dict[str, Any]:
    """Points lost from the largest to the smallest published budget, each method beside each paper that prints it."""
    if len(shown) < 2:
        return {"from": None, "to": None, "methods": [], **asdict(spearman([], []))}
    top, bottom = shown[0], shown[-1]
    rows: list[dict[str, Any]] = []
    for table in RANKINGS:
        printed = {(row.name, int(row.tokens)): table.average(row) for row in table.rows}
        for method, at in ours.items():
            if {top, bottom} <= set(at) and (method, top) in printed and (method, bottom) in printed:
                mine = at[top].retention - at[bottom].retention
                theirs = printed[method, top] - printed[method, bottom]
                rows.append({"method": method, "source": table.paper, "ours": mine, "published": theirs})
    usable = [row for row in rows if not math.isnan(row["ours"])]
    mine_of = {row["method"]: row["ours"] for row in usable}
    theirs_of = {m: mean(row["published"] for row in usable if row["method"] == m) for m in mine_of}
    related = spearman(list(mine_of.values()), list(theirs_of.values()))
    return {"from": top, "to": bottom, "methods": rows, **asdict(related)}


def _mirrored(ours: Table, budget: int) -> list[dict[str, Any]]:
    """Rank correlation of our families with the printed benchmark they mirror, per paper with 3 methods or more."""
    found = []
    for table in RANKINGS:
        rows = [row for row in table.rows if int(row.tokens) == budget and budget in ours.get(row.name, {})]
        for benchmark, families in MIRRORED.items():
            pairs = [
                (mean(ours[row.name][budget].families[f] for f in families), table.ratios(row)[benchmark])
                for row in rows
                if benchmark in row.scores
            ]
            pairs = [pair for pair in pairs if not math.isnan(pair[0])]
            if len(pairs) >= 3:
                related = spearman([a for a, _ in pairs], [b for _, b in pairs])
                head = {"budget": budget, "source": table.paper, "benchmark": benchmark, "families": list(families)}
                found.append({**head, **asdict(related)})
    return found
