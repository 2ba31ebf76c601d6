"""What the papers print for LLaVA-1.5-7B, read from ``papers/`` and checked: tables as CSV files.

``tables.csv`` lists every table with its source. A table's ``full`` row is the unpruned model; an empty cell is a score
that is not printed. Every number was read in the text of the paper. Left out: rankings of other models than
LLaVA-1.5-7B (ToDRE prints LLaVA-NeXT only), and the baseline rows of AdaptVTP's Table 1, which are constant multiples
of rows in other papers and so look rescaled rather than measured.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..names import UNPRUNED

FOLDER = Path(__file__).with_name("papers")
N_PUBLISHED = 576
"""Visual tokens of LLaVA-1.5, of which the published budgets 192, 128 and 64 are shares."""

MEAN_WITHIN = 0.06
"""How far a printed mean may lie from that of the printed scores: rounding, but no digit read wrongly."""


@dataclass(frozen=True)
class PrintedRow:
    """One printed line.

    name: of the method or setting. tokens: as the paper counts them. scores: per benchmark, those that are printed.
    mean: percent of the unpruned model, None where it is not printed.
    """

    name: str
    tokens: str
    scores: Mapping[str, float]
    mean: float | None


@dataclass(frozen=True)
class PrintedTable:
    """One table of one paper.

    column: the name of its mean, None when it prints none and we compute it. page: in the paper's PDF, None where it is
    not known.
    """

    paper: str
    title: str
    table: str
    column: str | None
    remark: str
    unpruned: PrintedRow
    rows: tuple[PrintedRow, ...]
    page: int | None = None

    @property
    def place(self) -> str:
        """Where it is printed: paper, table and, where it is known, page."""
        return f"{self.paper}, {self.table}" + (f", p. {self.page}" if self.page is not None else "")

    def ratios(self, row: PrintedRow) -> dict[str, float]:
        """Each printed score in percent of the unpruned one."""
        return {name: 100 * score / self.unpruned.scores[name] for name, score in row.scores.items()}

    def average(self, row: PrintedRow) -> float:
        """The printed mean, or that of the printed scores' ratios where none is printed."""
        ratios = self.ratios(row).values()
        return sum(ratios) / len(ratios) if row.mean is None else row.mean

    def columns(self, row: PrintedRow) -> dict[str, float]:
        """The printed numbers in their order, the mean last."""
        return dict(row.scores) if self.column is None or row.mean is None else {**row.scores, self.column: row.mean}


def read_table(path: Path, entry: Mapping[str, str]) -> PrintedTable:
    """Read one CSV file; ``entry`` is its line of ``tables.csv``. Raises ValueError for what no paper can print."""
    column = entry["mean"] or None
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        rows = [_row(path, cells, column) for cells in reader]
        names = list(reader.fieldnames or ())
    if names[:2] != ["row", "tokens"] or len(set(names)) != len(names) or (column and names[-1] != column):
        raise ValueError(f"{path.name}: the columns are row, tokens, benchmarks, and last the mean, not {names}")
    if not rows or rows[0].name != UNPRUNED or len({(row.name, row.tokens) for row in rows}) != len(rows):
        raise ValueError(f"{path.name}: the first row is {UNPRUNED!r}, and no row stands twice")
    page = int(entry["page"]) if entry.get("page") else None
    about = entry["paper"], entry["title"], entry["table"], column, entry["remark"]
    table = PrintedTable(*about, rows[0], tuple(rows[1:]), page)
    for row in table.rows:
        if not set(row.scores) <= set(table.unpruned.scores) or (column is not None and row.mean is None):
            raise ValueError(f"{path.name}: {row.name!r} has a score that the unpruned row lacks, or no mean")
        ratios = table.ratios(row).values()
        if row.mean is not None and abs(sum(ratios) / len(ratios) - row.mean) > MEAN_WITHIN:
            raise ValueError(f"{path.name}: the mean of {row.name!r} at {row.tokens} is not that of its scores")
    return table


def _row(path: Path, cells: Mapping[str, Any], column: str | None) -> PrintedRow:
    if None in cells or None in cells.values():
        raise ValueError(f"{path.name}: {cells.get('row')!r} has more or fewer cells than the header")
    numbers = {name: _number(cell) for name, cell in cells.items() if name not in ("row", "tokens") and cell}
    if not all(number > 0 for number in numbers.values()):
        raise ValueError(f"{path.name}: {cells['row']!r} has a number that is not positive")
    mean = numbers.pop(column, None) if column else None
    return PrintedRow(cells["row"], cells["tokens"], numbers, mean)


def _number(cell: str) -> float:
    return float(cell) if "." in cell else int(cell)


@cache
def printed_tables() -> dict[str, tuple[PrintedTable, str]]:
    """Every table by the name of its file, with its use: ``ranking`` where its rows are methods, else ``ablation``."""
    with (FOLDER / "tables.csv").open(encoding="utf-8", newline="") as file:
        entries = list(csv.DictReader(file, strict=True))
    return {entry["file"]: (read_table(FOLDER / f"{entry['file']}.csv", entry), entry["use"]) for entry in entries}


@cache
def rankings() -> tuple[PrintedTable, ...]:
    """The tables whose rows are methods."""
    return tuple(table for table, use in printed_tables().values() if use == "ranking")


@cache
def printed_settings() -> dict[str, str]:
    """What the budget of a method's printed rows means here, beside their setting, by method."""
    with (FOLDER / "settings.csv").open(encoding="utf-8", newline="") as file:
        return {line["method"]: line["budget"] for line in csv.DictReader(file, strict=True)}


def published_budget(budget: int, n_visual: int) -> int | None:
    """The budget of LLaVA-1.5 that is the same share of all tokens; None where it is in no table."""
    scaled, rest = divmod(budget * N_PUBLISHED, n_visual)
    return scaled if rest == 0 and any(row.tokens == str(scaled) for t in rankings() for row in t.rows) else None
