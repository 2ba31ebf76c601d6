"""What the papers print for LLaVA-1.5-7B at the same share of tokens, and how our ranking of the methods compares.

Every number below was read in the text of the paper named beside it. Left out: tables of other models (ToDRE prints
LLaVA-NeXT only), and the baseline rows of AdaptVTP's Table 1, which are constant multiples of rows in other papers and
so look rescaled rather than measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .outcomes import FULL
from .statistics import Correlation, ranks, spearman

N_PUBLISHED = 576
"""Visual tokens of LLaVA-1.5, of which the published budgets 192, 128 and 64 are shares."""

MIRRORED = {
    "POPE": ("existence",),
    "GQA": ("attribute", "relation"),
    "MME": ("counting",),
    "TextVQA": ("reading",),
}
"""Published benchmark -> our families whose mean stands beside it. MME's printed score covers more than counting."""


@dataclass(frozen=True)
class Row:
    """One printed line. scores: per benchmark, those that are printed. average: percent of unpruned, as printed."""

    method: str
    budget: int
    scores: Mapping[str, float]
    average: float | None


@dataclass(frozen=True)
class Source:
    """One table of one paper. column: the name of its average, None when it prints none and we compute it."""

    name: str
    title: str
    table: str
    column: str | None
    unpruned: Mapping[str, float]
    rows: tuple[Row, ...]
    remark: str = ""

    def ratios(self, row: Row) -> dict[str, float]:
        """Each printed score in percent of the unpruned one."""
        return {name: 100 * score / self.unpruned[name] for name, score in row.scores.items()}

    def average(self, row: Row) -> float:
        """The printed average, or the mean of the printed scores' ratios where none is printed."""
        ratios = self.ratios(row).values()
        return sum(ratios) / len(ratios) if row.average is None else row.average


def _source(name: str, title: str, column: str | None, benchmarks: str, lines: str, remark: str = "") -> Source:
    """Read a table of ``method budget score ... [average]`` lines, "-" where a score is not printed."""
    names = benchmarks.split()
    rows = []
    for line in lines.strip().splitlines():
        method, budget, *cells = line.split()
        scores = {key: float(cell) for key, cell in zip(names, cells, strict=False) if cell != "-"}
        rows.append(Row(method, int(budget), scores, float(cells[len(names)]) if column else None))
    return Source(name, title, "Table 1", column, rows[0].scores, tuple(rows[1:]), remark)


SOURCES = (
    _source(
        "ApET",
        "ApET: Approximation-Error Guided Token Compression for Efficient VLMs",
        "Avg.",
        "GQA MMB MMB-CN MME POPE SQA VQAv2 TextVQA VizWiz",
        """
        full        576  61.9 64.7 58.1 1862 85.9 69.5 78.5 58.2 50.0  100
        tome        192  54.3 60.5 -    1563 72.4 65.2 68.0 52.1 -     88.5
        fastv       192  52.7 61.2 57.0 1612 64.8 67.3 67.1 52.5 50.8  90.4
        sparsevlm   192  57.6 62.5 53.7 1721 83.6 69.1 75.6 56.1 50.5  96.1
        pdrop       192  57.3 63.3 56.8 1797 82.3 69.0 75.1 56.5 51.1  97.2
        visionzip   192  59.3 63.0 -    1783 85.3 68.9 77.4 57.3 -     97.8
        apet        192  60.2 63.4 57.9 1808 86.3 68.5 76.2 54.4 50.2  98.0
        tome        128  52.4 53.3 -    1343 62.8 59.6 63.0 49.1 -     80.4
        fastv       128  49.6 56.1 56.4 1490 59.6 60.2 61.8 50.6 51.3  85.4
        sparsevlm   128  56.0 60.0 51.1 1696 80.5 67.1 73.8 54.9 51.4  93.7
        pdrop       128  57.1 61.6 56.6 1761 82.3 68.4 72.9 56.6 51.0  96.2
        visionzip   128  57.6 62.0 -    1763 83.2 68.9 75.6 56.8 -     96.2
        apet        128  58.9 62.3 56.4 1801 86.1 68.7 75.1 53.9 50.7  97.1
        tome         64  48.6 43.7 -    1138 52.5 50.0 57.1 45.3 -     70.1
        fastv        64  46.1 48.0 52.7 1256 48.0 51.1 55.0 47.8 50.8  76.7
        sparsevlm    64  52.7 56.2 46.1 1505 75.1 62.2 68.2 51.8 50.1  87.2
        pdrop        64  47.5 58.8 50.5 1561 55.9 69.2 69.2 50.6 50.7  86.6
        visionzip    64  55.1 60.1 -    1690 77.0 69.0 72.4 55.5 -     92.7
        apet         64  56.9 61.2 54.4 1714 84.4 68.9 72.5 53.0 51.9  95.2
        """,
    ),
    _source(
        "Polymorphic",
        "Polymorphic: Plug-and-Play Visual Token Compression for Scalable VLMs",
        "Mean %",
        "VizWiz SQA GQA TextVQA MME POPE",
        """
        full        576  54.04 69.41 61.92 46.00 1864.84 85.85  100.00
        fastv       192  56.87 55.23 53.94 41.45 1556.45 79.33  89.65
        sparsevlm   192  54.04 68.96 59.33 44.68 1781.43 85.41  97.89
        visionzip   192  53.98 68.62 59.22 44.58 1769.02 85.29  97.58
        polymorphic 192  52.30 68.32 59.95 45.18 1772.17 85.47  97.47
        fastv       128  56.26 55.43 51.26 37.76 1490.22 72.52  85.54
        sparsevlm   128  53.11 68.86 58.36 42.43 1743.33 84.70  96.02
        visionzip   128  54.05 68.67 57.62 43.79 1768.73 82.89  96.44
        polymorphic 128  52.25 68.27 59.00 44.56 1780.38 85.02  96.95
        fastv        64  51.51 53.30 38.03 15.61 1045.11 17.70  57.35
        sparsevlm    64  52.75 68.96 52.46 32.10 1601.96 76.17  87.68
        visionzip    64  54.68 68.96 55.16 41.95 1716.93 76.97  93.76
        polymorphic  64  52.72 69.46 56.20 42.60 1734.67 81.79  94.88
        """,
        "TextVQA without OCR hints (46.0 unpruned; ApET's table has 58.2), so its cells do not compare with ApET's.",
    ),
    _source(
        "AdaptVTP",
        "Towards Adaptive Visual Token Pruning for Large Multimodal Models",
        None,
        "ChartQA COCO MMB MME MMU NoCaps OCRBench OK-VQA POPE TextVQA",
        """
        full        576  18.20 1.10 64.09 1508.24 36.33 1.06 31.30 53.44 93.86 46.11
        divprune    192  17.40 1.06 62.29 1436.44 35.78 1.01 30.40 51.55 91.37 43.24
        adaptvtp    192  17.80 1.08 63.75 1467.30 36.22 1.03 31.00 52.29 93.68 45.10
        divprune    128  16.96 1.04 61.77 1396.25 36.22 1.04 29.00 50.02 91.31 41.66
        adaptvtp    128  17.80 1.06 62.80 1397.22 36.44 1.02 29.50 51.12 94.29 44.28
        divprune     64  15.84 0.99 59.28 1348.99 35.89 0.94 27.60 48.36 92.18 39.22
        adaptvtp     64  16.36 1.02 61.34 1359.12 36.11 0.98 29.00 49.37 95.01 41.45
        """,
        "The paper prints no average: it is computed here from its ten printed scores. Its POPE is precision, which "
        "rises as tokens fall, and its MME is the perception part; its rows for ToMe, FastV, SparseVLM and PDrop look "
        "rescaled from other papers and are left out.",
    ),
)

SETTINGS = {
    "tome": "How many merges per block the printed rows used is said nowhere. Here they are spread evenly over the "
    "vision blocks that the features pass through.",
    "fastv": "The papers do not say what 192, 128 and 64 count; the collapse that they print at 64 fits an average "
    "over the blocks (30 of 576 tokens left after block 2). Here that many tokens stay after block 2, and the blocks "
    "process more on average.",
    "sparsevlm": "The printed label is the average count after each of 32 blocks. Here the official keep lists are "
    "taken as shares and their blocks scaled to the depth of the model.",
    "pdrop": "The settings behind the printed rows are not published. Here one ratio is solved for 32 blocks that "
    "process the budget on average, and its blocks are scaled to the depth of the model.",
    "polymorphic": "No code is public and the counts between its stages are not printed; here they fall by one ratio "
    "per stage, and the blocks process the budget on average, as the paper says.",
    "apet": "As in the paper: 1.5 times the budget after the encoder, half of it from the middle block on.",
    "visionzip": "As in the paper: dominant and contextual tokens together are the budget (54 and 10 of 64).",
    "divprune": "As in the paper: the budget is the number of tokens that enter the language model.",
    "adaptvtp": "As in the paper: the budget is the number of tokens that enter the language model.",
}
"""What the budget means here, beside the setting of the printed row."""


@dataclass(frozen=True)
class Ours:
    """Our numbers of one method at one budget. retention: the mean, percent. families: retention per family."""

    retention: float
    families: Mapping[str, float]


Table = Mapping[str, Mapping[int, Ours]]
"""Method id -> published budget -> our numbers."""


def published_budget(budget: int, n_visual: int) -> int | None:
    """The budget of LLaVA-1.5 that is the same share of all tokens, None when it is in no table."""
    scaled, rest = divmod(budget * N_PUBLISHED, n_visual)
    return scaled if rest == 0 and scaled in budgets() else None


def budgets() -> list[int]:
    """The published budgets, descending."""
    return sorted({row.budget for source in SOURCES for row in source.rows}, reverse=True)


def compare(ours: Table) -> dict[str, Any]:
    """Rank correlations with each paper and with all together, falls beside each other, and the settings, as JSON."""
    shown = [budget for budget in budgets() if any(budget in at for at in ours.values())]
    return {
        "budgets": [_at_budget(ours, budget) for budget in shown],
        "falls": _falls(ours, shown),
        "mirrored": [entry for budget in shown for entry in _mirrored(ours, budget)],
        "settings": {method: SETTINGS[method] for method in ours if method in SETTINGS},
        "sources": [
            {"name": s.name, "title": s.title, "table": s.table, "column": s.column, "remark": s.remark}
            for s in SOURCES
        ],
        "not_compared": sorted(method for method in ours if method not in SETTINGS and method != FULL),
    }


def _at_budget(ours: Table, budget: int) -> dict[str, Any]:
    per_source = {source.name: _averages([source], budget) for source in SOURCES}
    return {
        "budget": budget,
        "sources": [{"source": name, **_ranking(ours, budget, theirs)} for name, theirs in per_source.items()],
        "together": _ranking(ours, budget, _averages(SOURCES, budget)),
    }


def _averages(sources: Iterable[Source], budget: int) -> dict[str, float]:
    """Published average per method; the mean over the papers where more than one prints it."""
    printed: dict[str, list[float]] = {}
    for source in sources:
        for row in source.rows:
            if row.budget == budget:
                printed.setdefault(row.method, []).append(source.average(row))
    return {method: sum(values) / len(values) for method, values in printed.items()}


def _ranking(ours: Table, budget: int, theirs: Mapping[str, float]) -> dict[str, Any]:
    """Spearman over the methods in common and each method's two ranks; farthest: those with the largest difference."""
    common = [method for method in theirs if budget in ours.get(method, {})]
    common = [method for method in common if not math.isnan(ours[method][budget].retention)]
    mine = [ours[method][budget].retention for method in common]
    published = [theirs[method] for method in common]
    places = zip(ranks(mine).tolist(), ranks(published).tolist(), strict=True)
    rows = [
        {"method": method, "ours": a, "published": b, "our_rank": rank, "published_rank": their_rank}
        for method, a, b, (rank, their_rank) in zip(common, mine, published, places, strict=True)
    ]
    rows.sort(key=lambda row: row["published_rank"])
    gaps = [abs(row["our_rank"] - row["published_rank"]) for row in rows]
    largest = max(gaps, default=0.0)
    farthest = [row["method"] for row, gap in zip(rows, gaps, strict=True) if gap == largest > 0]
    return {**_plain(spearman(mine, published)), "methods": rows, "farthest": farthest, "largest_gap": largest}


def _falls(ours: Table, shown: Sequence[int]) -> dict[str, Any]:
    """Points lost from the largest to the smallest published budget, each method beside each paper that prints it."""
    if len(shown) < 2:
        return {"from": None, "to": None, "methods": [], **_plain(spearman([], []))}
    top, bottom = shown[0], shown[-1]
    rows: list[dict[str, Any]] = []
    for source in SOURCES:
        printed = {(row.method, row.budget): source.average(row) for row in source.rows}
        for method, at in ours.items():
            if {top, bottom} <= set(at) and (method, top) in printed and (method, bottom) in printed:
                mine = at[top].retention - at[bottom].retention
                theirs = printed[method, top] - printed[method, bottom]
                rows.append({"method": method, "source": source.name, "ours": mine, "published": theirs})
    usable = [row for row in rows if not math.isnan(row["ours"])]
    methods = list(dict.fromkeys(str(row["method"]) for row in usable))
    mine_of = {row["method"]: row["ours"] for row in usable}
    theirs_of = {m: _mean([row["published"] for row in usable if row["method"] == m]) for m in methods}
    related = spearman([mine_of[m] for m in methods], [theirs_of[m] for m in methods])
    return {"from": top, "to": bottom, "methods": rows, **_plain(related)}


def _mirrored(ours: Table, budget: int) -> list[dict[str, Any]]:
    """Rank correlation of our families with the printed benchmark they mirror, per paper with 3 methods or more."""
    found = []
    for source in SOURCES:
        rows = [row for row in source.rows if row.budget == budget and budget in ours.get(row.method, {})]
        for benchmark, families in MIRRORED.items():
            pairs = [
                (_mean([ours[row.method][budget].families[f] for f in families]), source.ratios(row)[benchmark])
                for row in rows
                if benchmark in row.scores
            ]
            pairs = [pair for pair in pairs if not math.isnan(pair[0])]
            if len(pairs) >= 3:
                related = spearman([a for a, _ in pairs], [b for _, b in pairs])
                head = {"budget": budget, "source": source.name, "benchmark": benchmark, "families": list(families)}
                found.append({**head, **_plain(related)})
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _plain(related: Correlation) -> dict[str, Any]:
    return {"rho": related.rho, "n": related.n, "p": related.p}
