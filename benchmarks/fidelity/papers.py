"""What the papers print, read from ``papers/`` and checked: tables as CSV files, ablations as a TOML file. No torch.

``tables.csv`` lists every table with its source. A table's ``full`` row is the unpruned model; an empty cell is a score
that is not printed. Every number was read in the text of the paper. Left out: rankings of other models than
LLaVA-1.5-7B (ToDRE prints LLaVA-NeXT only), and the baseline rows of AdaptVTP's Table 1, which are constant multiples
of rows in other papers and so look rescaled rather than measured.
"""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .outcomes import FULL, Variant

FOLDER = Path(__file__).with_name("papers")

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
    """One table of one paper. column: the name of its mean, None when it prints none and we compute it."""

    paper: str
    title: str
    table: str
    column: str | None
    remark: str
    unpruned: PrintedRow
    rows: tuple[PrintedRow, ...]

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


@dataclass(frozen=True)
class Setting:
    """One row of an ablation.

    name: as the paper calls it. printed: None where the paper has no such row. worse_than_reference: what the paper
    shows without printing numbers.
    """

    name: str
    variant: Variant
    printed: PrintedRow | None = None
    worse_than_reference: bool = False


@dataclass(frozen=True)
class Ablation:
    """One ablation of one paper.

    varies: what differs between the rows. on: the paper's model and budget. reference: name of the row that all others
    are compared with, the paper's choice. claim: what the paper concludes, in our words. notes: what differs here.
    may_withdraw: whether a stage may drop every visual token.
    """

    id: str
    title: str
    varies: str
    table: PrintedTable
    on: str
    reference: str
    settings: tuple[Setting, ...]
    claim: str
    notes: tuple[str, ...] = ()
    may_withdraw: bool = False

    def __post_init__(self) -> None:
        names = [setting.name for setting in self.settings]
        if len(set(names)) != len(names) or names.count(self.reference) != 1:
            raise ValueError(f"{self.id}: names repeat, or {self.reference!r} is not among them")
        for setting in self.settings:
            if setting.printed is not None and set(setting.printed.scores) != set(self.table.unpruned.scores):
                raise ValueError(f"{self.id}: {setting.name!r} has not the scores of the unpruned row")

    @property
    def reference_setting(self) -> Setting:
        """The row that all others are compared with."""
        return next(setting for setting in self.settings if setting.name == self.reference)

    def paper_mean(self, setting: Setting) -> float | None:
        """The paper's mean retention of a row, in percent of its unpruned model; None where it prints no such row."""
        return None if setting.printed is None else self.table.average(setting.printed)

    def paper_difference(self, setting: Setting) -> float | None:
        """The row's mean minus that of the reference, in points as printed; None without numbers."""
        mean, reference = self.paper_mean(setting), self.paper_mean(self.reference_setting)
        # Means are printed with two decimals at most: what is left behind the sixth is rounding of the subtraction.
        return None if mean is None or reference is None else round(mean - reference, 6)

    def paper_direction(self, setting: Setting) -> int | None:
        """1 if the paper has the row above its reference, -1 below, 0 equal as printed; None where it does not say."""
        if setting.worse_than_reference:
            return -1
        difference = self.paper_difference(setting)
        return None if difference is None else (difference > 0) - (difference < 0)


def variant(method: str, budget: int, **params: Any) -> Variant:
    """A variant labelled by what it is, so that two ablations that share one share its label too."""
    settings = ", ".join(f"{name} {value}" for name, value in params.items())
    return Variant(method, params, f"{method} ({settings})" if settings else method, budget)


def read_table(path: Path, entry: Mapping[str, str]) -> PrintedTable:
    """Read one CSV file; ``entry`` is its line of ``tables.csv``. Raises ValueError for what no paper can print."""
    column = entry["mean"] or None
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        rows = [_row(path, cells, column) for cells in reader]
        names = list(reader.fieldnames or ())
    if names[:2] != ["row", "tokens"] or len(set(names)) != len(names) or (column and names[-1] != column):
        raise ValueError(f"{path.name}: the columns are row, tokens, benchmarks, and last the mean, not {names}")
    if not rows or rows[0].name != FULL or len({(row.name, row.tokens) for row in rows}) != len(rows):
        raise ValueError(f"{path.name}: the first row is {FULL!r}, and no row stands twice")
    table = PrintedTable(
        entry["paper"], entry["title"], entry["table"], column, entry["remark"], rows[0], tuple(rows[1:])
    )
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


def read_ablation(entry: Mapping[str, Any], tables: Mapping[str, PrintedTable]) -> Ablation:
    """Build one entry of ``ablations.toml``.

    Raises ValueError where it does not fit its table, TypeError for foreign fields.
    """
    entry = dict(entry)
    table, method, budget = tables[entry.pop("table")], entry.pop("method"), entry.pop("budget")
    tokens, worse = entry.pop("tokens", str(budget)), entry.pop("worse_than_reference", ())
    params, notes = entry.pop("settings"), tuple(entry.pop("notes", ()))
    printed = {row.name: row for row in table.rows if row.tokens == tokens}
    if unknown := (set(printed) | set(worse)) - set(params):
        raise ValueError(f"{entry['id']}: no setting is named {sorted(unknown)[0]!r}")
    settings = tuple(
        Setting(name, variant(method, budget, **given), printed.get(name), name in worse)
        for name, given in params.items()
    )
    return Ablation(table=table, settings=settings, notes=notes, **entry)


def _read() -> tuple[tuple[PrintedTable, ...], tuple[Ablation, ...], dict[str, str]]:
    with (FOLDER / "tables.csv").open(encoding="utf-8", newline="") as file:
        entries = list(csv.DictReader(file, strict=True))
    tables = {entry["file"]: read_table(FOLDER / f"{entry['file']}.csv", entry) for entry in entries}
    rankings = tuple(tables[entry["file"]] for entry in entries if entry["use"] == "ranking")
    declared = tomllib.loads((FOLDER / "ablations.toml").read_text(encoding="utf-8"))["ablation"]
    with (FOLDER / "settings.csv").open(encoding="utf-8", newline="") as file:
        settings = {line["method"]: line["budget"] for line in csv.DictReader(file, strict=True)}
    return rankings, tuple(read_ablation(entry, tables) for entry in declared), settings


RANKINGS, ABLATIONS, SETTINGS = _read()
"""The tables whose rows are methods; the ablations in the order of the document; what the budget of a ranking's rows
means here, beside the setting of the printed row, by method."""
