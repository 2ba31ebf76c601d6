"""The papers' ablations, read from ``papers/ablations.toml``; their tables are those of ``tokviz.tables``. No torch."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokviz.tables.published import PrintedRow, PrintedTable, printed_tables

FOLDER = Path(__file__).with_name("papers")


@dataclass(frozen=True)
class Setting:
    """One row of an ablation.

    name: as the paper calls it. params: that differ from the method's defaults. printed: None where the paper has no
    such row. worse_than_reference: what the paper shows without printing numbers.
    """

    name: str
    params: Mapping[str, Any]
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
    method: str
    budget: int
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


def read_ablation(entry: Mapping[str, Any], tables: Mapping[str, PrintedTable]) -> Ablation:
    """Build one entry of ``ablations.toml``.

    Raises ValueError where it does not fit its table, TypeError for foreign fields.
    """
    entry = dict(entry)
    table = tables[entry.pop("table")]
    tokens, worse = entry.pop("tokens", str(entry["budget"])), entry.pop("worse_than_reference", ())
    params, notes = entry.pop("settings"), tuple(entry.pop("notes", ()))
    printed = {row.name: row for row in table.rows if row.tokens == tokens}
    if unknown := (set(printed) | set(worse)) - set(params):
        raise ValueError(f"{entry['id']}: no setting is named {sorted(unknown)[0]!r}")
    settings = tuple(Setting(name, given, printed.get(name), name in worse) for name, given in params.items())
    return Ablation(table=table, settings=settings, notes=notes, **entry)


def _ablations() -> tuple[Ablation, ...]:
    declared = tomllib.loads((FOLDER / "ablations.toml").read_text(encoding="utf-8"))["ablation"]
    tables = {file: table for file, (table, _) in printed_tables().items()}
    return tuple(read_ablation(entry, tables) for entry in declared)


ABLATIONS = _ablations()
"""In the order of the document."""
