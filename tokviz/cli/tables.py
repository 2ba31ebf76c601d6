"""``tables``: what a mined run says, as tables for the terminal, Markdown, CSV and LaTeX."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from rich.table import Table

from ..errors import BadInput
from ..files import write_or_refuse, writing
from ..tables.table import Format, TableRow
from ..viz.format import plain_text
from ..viz.tables import cell, new_table
from .terminal import out

if TYPE_CHECKING:
    from ..tables import ResultTable

KINDS = ("retention", "budgets", "slices", "tests")
_ENDINGS: dict[str, str] = {"markdown": "md", "csv": "csv", "latex": "tex"}


def add_to(commands: Any) -> None:
    """Declare the command's arguments."""
    parser = commands.add_parser(
        "tables",
        allow_abbrev=False,
        help="print what a mined run says: retention, methods by budget and slice, tests",
        description="Several runs make one retention table, a column each; the other tables are of the first.",
    )
    parser.set_defaults(run=run_tables)
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="folder that tokviz mine wrote")
    add("--only", choices=KINDS, help="print this table alone (default: all)")
    add("--by", default="family", metavar="COLUMN", help="what slices the cases, e.g. family, split, evidence_size")
    add("--budget", type=int, metavar="N", help="budget of slices and tests (default: the smallest)")
    known = 'key of the method that the others are tested against, "full" for no pruning'
    add("--reference", metavar="KEY", help=f"{known} (default: random, else full)")
    add("--format", choices=get_args(Format), help="print as text of this format (default: for the terminal)")
    add("--out", metavar="DIR", help="write every table to DIR as Markdown, CSV and LaTeX")


def run_tables(arguments: argparse.Namespace) -> int:
    """Print or write the tables."""
    from ..mining.mined import open_run
    from ..tables import Results, against, by_budget, by_slice, retention

    runs = [Results(open_run(path)) for path in arguments.runs]
    makers = {
        "retention": lambda: retention(runs, arguments.by),
        "budgets": lambda: by_budget(runs[0]),
        "slices": lambda: by_slice(runs[0], arguments.by, arguments.budget),
        "tests": lambda: against(runs[0], arguments.budget, arguments.reference),
    }
    tables = {kind: makers[kind]() for kind in KINDS if arguments.only in (None, kind)}
    if arguments.out:
        _write(tables, Path(arguments.out))
    elif arguments.format:
        print("\n".join(table.write(arguments.format) for table in tables.values()), end="")
    else:
        for table in tables.values():
            _print(table)
    return 0


def _write(tables: dict[str, ResultTable], folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder.name!r} is a file; give a folder.")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for kind, table in tables.items():
        for form, ending in _ENDINGS.items():
            path = folder / f"{kind}.{ending}"
            write_or_refuse(path, table.write(form).encode())  # type: ignore[arg-type]
            print(path)


def _print(table: ResultTable) -> None:
    console = out()
    console.print(as_rich(table))
    for note in table.notes:
        console.print(cell(f"  {note}"))


def as_rich(table: ResultTable) -> Table:
    """The table for a terminal: headings of groups as rows of their own, published rows in italics."""
    shown = new_table(plain_text(table.title), table.head, *(f">{plain_text(column)}" for column in table.columns))
    for column in shown.columns[1:]:
        column.no_wrap = False
    group = ""
    for row in table.rows:
        if row.group != group:
            group = row.group
            shown.add_row(cell(group, "bold"))
        shown.add_row(*_row(row))
    return shown


def _row(row: TableRow) -> list[Any]:
    style = "italic" if row.kind == "published" else ""
    return [cell(row.label, style), *(cell(str(each), style) for each in row.cells)]
