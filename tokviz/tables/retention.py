"""Retention in the shape of the papers' Table 1: scores per data set, budgets as headings, what they print beside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..names import UNPRUNED
from ..statistics import ImageBootstrap, Interval
from .published import PrintedTable, printed_settings, published_budget, rankings
from .results import Flags, Results, data_set_figure, names_of
from .table import Cell, ResultTable, RowKind, TableRow
from .tabulate import INTERVALS, UNPRUNED_NAME, left_out

DATA_SETS = {
    "pope": "POPE",
    "gqa": "GQA",
    "mme": "MME",
    "textvqa": "TextVQA",
    "vqav2": "VQAv2",
    "vizwiz": "VizWiz",
    "scienceqa": "SQA",
}
"""Layout -> the name of the data set in the papers' tables."""
_PUBLISHED = (
    "Published rows are of LLaVA-1.5-7B on photographs, at the same share of its 576 tokens, as printed; those of this "
    "run are measured here."
)


def retention(runs: Sequence[Results], by: str = "family") -> ResultTable:
    """Scores and mean retention in the shape of the papers' Table 1, what they print for the same methods beside.

    Args:
        runs: One run, whose slices become the columns; or several, a column each, named by their data set.
        by: What slices the cases of a single run.

    Raises:
        BadInput: For a column that cases are not sliced by.
    """
    parts = _parts(runs, by)
    methods = {method.key: method for results in runs for method in results.methods}
    names = names_of(list(methods.values()))
    budgets = sorted({budget for results in runs for budget in results.budgets}, reverse=True)
    full = [data_set_figure(r, r.unpruned_right, r.unpruned[None], there) for _, r, there, _ in parts]
    columns = (*(name for name, *_ in parts), "mean retention, %")
    group = f"Unpruned{_of_all(runs)}"
    places = [where for *_, where in parts]
    rows = [TableRow(name=UNPRUNED_NAME, cells=_scores(full, full, places), kind="unpruned", group=group)]
    rows += _published_rows(UNPRUNED, UNPRUNED_NAME, None, columns, group)
    spreads = _mean_intervals(runs[0], parts) if len(runs) == 1 else {}
    for budget in budgets:
        group = _heading(runs, budget)
        for key, method in methods.items():
            found = [
                data_set_figure(r, r.right_by_seed(key, budget), r.by_seed(key, budget), there)
                for _, r, there, _ in parts
            ]
            same = full if not any((key, budget) in r.missing for r in runs) else _beside(key, budget, parts)
            if all(figure is None for figure in found) or method.id == UNPRUNED:
                continue
            here = [{"method": key, "budget": budget, **where} for where in places]
            kind: RowKind = "control" if method.kind == "control" else "method"
            cells = _scores(found, same, here, spreads.get((key, budget)))
            rows.append(TableRow(name=names[key], cells=cells, kind=kind, group=group))
            share = published_budget(budget, n) if (n := _one_n(runs)) else None
            if share is not None and key == method.id:
                rows += _published_rows(key, names[key], share, columns, group)
    title = "Scores, and the mean of their shares of the unpruned model's"
    notes = (*_score_notes(runs), *([INTERVALS] if spreads else []), *_published_notes(rows, methods))
    return ResultTable(title=title, head="method", columns=columns, rows=tuple(rows), notes=notes)


Part = tuple[str, Results, Flags, dict[str, Any]]
"""A column of the retention table: its heading, run, cases, and the filter that opens them."""


def _parts(runs: Sequence[Results], by: str) -> list[Part]:
    if len(runs) > 1:
        return [(DATA_SETS.get(results.layout, results.name), results, _every(results), {}) for results in runs]
    results = runs[0]
    if results.layout in DATA_SETS:
        return [(DATA_SETS[results.layout], results, _every(results), {})]
    slices = results.slices(by)
    if not slices:
        return [("all", results, _every(results), {})]
    return [(some.name, results, some.there, some.where) for some in slices]


def _beside(key: str, budget: int, parts: Sequence[Part]) -> list[float | None]:
    """The unpruned figures over the cases that a method has answers to."""
    return [
        data_set_figure(r, r.unpruned_right, r.unpruned[None], there & ~np.isnan(r.points(key, budget)))
        for _, r, there, _ in parts
    ]


def _every(results: Results) -> Flags:
    return np.ones(results.n, dtype=bool)


def _mean_intervals(results: Results, parts: Sequence[Part]) -> dict[tuple[str, int], Interval]:
    """The interval of the mean retention by method and budget; none where a score is no mean over cases (POPE, MME)."""
    if set(results.cases["metric"]) & {"pope", "mme"}:
        return {}
    masks = [there for _, _, there, _ in parts if results.unpruned[there].any()]
    wanted, tops, bottoms, counted = [], [], [], []
    for method in results.methods:
        for budget in results.budgets:
            points = results.points(method.key, budget)
            known = ~np.isnan(points)
            full = [np.where(there & known, results.unpruned, 0.0) for there in masks]
            if full and all(column.any() for column in full):
                wanted.append((method.key, budget))
                bottoms.append(full)
                counted.append([there & known for there in masks])
                tops.append([np.where(there & known, 100 * points, 0.0) for there in masks])
    if not wanted:
        return {}
    found = ImageBootstrap(results.images).mean_ratios(*map(np.array, (tops, bottoms, counted)))
    return dict(zip(wanted, found, strict=True))


def _scores(
    found: Sequence[float | None],
    full: Sequence[float | None],
    where: Sequence[dict[str, Any]],
    spread: Interval | None = None,
) -> tuple[Cell, ...]:
    """The cells of a row of figures, and their mean in percent of the unpruned ones."""
    cells = [Cell(value=figure, where=place) for figure, place in zip(found, where, strict=True)]
    shares = [100 * figure / whole for figure, whole in zip(found, full, strict=True) if figure is not None and whole]
    mean = Cell(value=sum(shares) / len(shares) if shares else None)
    if spread is not None:
        mean = mean.model_copy(update={"low": spread.low, "high": spread.high, "refusal": spread.refusal})
    return (*cells, mean)


def _published_rows(method: str, name: str, tokens: int | None, columns: Sequence[str], group: str) -> list[TableRow]:
    """What each paper prints of a method at so many of 576 tokens, under the columns of the same name."""
    found = []
    for table in rankings():
        printed = [row for row in table.rows if row.name == method and row.tokens == str(tokens)]
        for row in [table.unpruned] if method == UNPRUNED else printed:
            if method == UNPRUNED and not row.scores.keys() & set(columns):
                continue  # it would say that 100% are 100%
            scores = [Cell(value=row.scores.get(column), digits=_digits(table, column)) for column in columns[:-1]]
            mean = Cell(value=table.average(row))
            cells = (*scores, mean)
            found.append(TableRow(name=name, cells=cells, kind="published", group=group, source=table.place))
    return found


def _digits(table: PrintedTable, column: str) -> int:
    """Decimals that the paper prints in a column."""
    values = [row.scores[column] for row in (table.unpruned, *table.rows) if column in row.scores]
    return max((len(repr(value).partition(".")[2]) for value in values if isinstance(value, float)), default=0)


def _published_notes(rows: Sequence[TableRow], methods: Any) -> list[str]:
    printed = {row.name for row in rows if row.kind == "published" and row.name != UNPRUNED_NAME}
    if not printed:
        return ["No method of this run is in the papers' tables at the same share of tokens."]
    settings, shown = printed_settings(), {row.source for row in rows}
    remarks = [f"{t.place}: {t.remark}" for t in rankings() if t.remark and t.place in shown]
    return [
        _PUBLISHED,
        *remarks,
        *(
            f"{method.label}: {settings[key]}"
            for key, method in methods.items()
            if key in settings and method.label in printed
        ),
    ]


def _score_notes(runs: Sequence[Results]) -> list[str]:
    metrics = {metric for results in runs for metric in results.cases["metric"]}
    notes = [
        "A column's score is the data set's own; the mean retention leaves out columns that the unpruned model fails."
    ]
    if "pope" in metrics:
        notes.append("POPE: F1 in percent.")
    if "mme" in metrics:
        notes.append("MME: accuracy plus accuracy+ in percent, summed over the categories.")
    return notes + [note for results in runs for note in left_out(results)]


def _one_n(runs: Sequence[Results]) -> int | None:
    """Visual tokens of every case of every run; None where they differ."""
    numbers = {results.n_tokens for results in runs}
    return numbers.pop() if len(numbers) == 1 else None


def _of_all(runs: Sequence[Results]) -> str:
    n = _one_n(runs)
    return f", {n:,} tokens (100%)" if n else ""


def _heading(runs: Sequence[Results], budget: int) -> str:
    n = _one_n(runs)
    return f"Retain {budget:,} tokens" + (f" (↓ {100 * (1 - budget / n):.1f}%)" if n else "")
