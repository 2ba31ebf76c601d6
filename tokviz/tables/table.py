"""A table of results, and how it is written: Markdown, CSV and LaTeX. Names in it are untrusted text."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any, Literal

from ..errors import BadInput
from ..records import Record
from ..statistics import Refusal

RowKind = Literal["unpruned", "method", "control", "published"]
Format = Literal["markdown", "csv", "latex"]
NOTHING = "–"
# Characters that a spreadsheet takes for the start of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Cell(Record):
    """One cell.

    Attributes:
        value: The number; None where there is none.
        text: What stands in a cell that is no number.
        low, high: Ends of its 95% interval over images; None where it has none.
        band: Lowest and highest value over the seeds of a method that has several.
        n: Cases behind it.
        digits: Decimals that are shown.
        refusal: Why there is no interval, or no value.
        where: The filter that opens the cell's cases, column to value; ``{"low", "high"}`` for a range, of which the
            upper end belongs to it. None for what is not made of cases.
    """

    value: float | None = None
    text: str = ""
    low: float | None = None
    high: float | None = None
    band: tuple[float, float] | None = None
    n: int = 0
    digits: int = 1
    refusal: Refusal | None = None
    where: dict[str, Any] | None = None

    def __str__(self) -> str:
        if self.value is None:
            return self.text or NOTHING
        shown = f"{self.value:.{self.digits}f}"
        if self.digits > 2 and self.value > 0 and not float(shown):
            shown = f"< {10**-self.digits:.{self.digits}f}"  # a p value is never nothing
        if self.low is not None and self.high is not None:
            shown += f" [{self.low:.{self.digits}f}, {self.high:.{self.digits}f}]"
        return f"{shown} {self.text}".rstrip()


class TableRow(Record):
    """One row. group: the heading that it stands under. source: paper, table and page of a published row."""

    name: str
    cells: tuple[Cell, ...]
    kind: RowKind = "method"
    group: str = ""
    source: str = ""

    @property
    def label(self) -> str:
        """The name, and for a published row where it was published."""
        return f"{self.name} (published: {self.source})" if self.source else self.name


class ResultTable(Record):
    """A table of results.

    Attributes:
        title: What it shows, in one line.
        head: Heading of the rows' names.
        columns: Headings of the cells.
        rows: From top to bottom; each has as many cells as there are columns.
        notes: What must be known to read it, a sentence each.
    """

    title: str
    head: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...] = ()

    def write(self, kind: Format) -> str:
        """Return the table as text of a format.

        Raises:
            BadInput: For a format that there is not.
        """
        writers: dict[str, Callable[[], str]] = {"markdown": self.markdown, "csv": self.csv, "latex": self.latex}
        if kind not in writers:
            raise BadInput(f"A table is written as {', '.join(writers)}, not {kind!r}.")
        return writers[kind]()

    def markdown(self) -> str:
        """Return the table as GitHub's Markdown, with its title and notes."""
        lines = [f"### {_markdown(self.title)}", "", _markdown_line([self.head, *self.columns])]
        lines.append("| --- |" + " ---: |" * len(self.columns))
        for group, rows in self._groups():
            if group:
                lines.append(_markdown_line([f"**{_markdown(group)}**", *[""] * len(self.columns)], escape=False))
            for row in rows:
                shown = [_markdown(str(cell)) for cell in row.cells]
                name = _markdown(row.label)
                if row.kind == "published":
                    name, shown = f"*{name}*", [f"*{cell}*" if cell != NOTHING else cell for cell in shown]
                lines.append(_markdown_line([name, *shown], escape=False))
        return "\n".join([*lines, "", *(f"- {_markdown(note)}" for note in self.notes)]).rstrip() + "\n"

    def csv(self) -> str:
        """Return the table with every number in a cell of its own: value, ends of the interval, cases."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        parts = ("", " low", " high", " n")
        writer.writerow(
            ["group", self.head, "kind", "source", *(_plain(c + part) for c in self.columns for part in parts)]
        )
        for row in self.rows:
            cells = [number for cell in row.cells for number in _numbers(cell)]
            writer.writerow([_plain(row.group), _plain(row.name), row.kind, _plain(row.source), *cells])
        return out.getvalue()

    def latex(self) -> str:
        """Return the table for LaTeX with booktabs, the best method of each group and column in bold."""
        columns = "l" + "r" * len(self.columns)
        lines = ["\\begin{table}[t]", "\\centering", f"\\caption{{{_latex(self.title)}}}"]
        lines += [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", _latex_line([self.head, *self.columns])]
        for group, rows in self._groups():
            lines.append("\\midrule")
            if group:
                lines.append(f"\\multicolumn{{{len(columns)}}}{{c}}{{\\textit{{{_latex(group)}}}}} \\\\")
            best = [_best(rows, at) for at in range(len(self.columns))]
            for row in rows:
                shown = [_latex_cell(row, cell, top) for cell, top in zip(row.cells, best, strict=True)]
                name = _latex(row.label)
                lines.append(" & ".join([f"\\textit{{{name}}}" if row.kind == "published" else name, *shown]) + " \\\\")
        lines += ["\\bottomrule", "\\end{tabular}", *(f"% {_plain_comment(note)}" for note in self.notes)]
        return "\n".join([*lines, "\\end{table}", ""])

    def _groups(self) -> list[tuple[str, list[TableRow]]]:
        """Rows under their headings, in their order."""
        groups: list[tuple[str, list[TableRow]]] = []
        for row in self.rows:
            if not groups or groups[-1][0] != row.group:
                groups.append((row.group, []))
            groups[-1][1].append(row)
        return groups


def _best(rows: list[TableRow], at: int) -> float | None:
    """The largest number of a column among methods, where there are two or more."""
    values = [row.cells[at].value for row in rows if row.kind == "method"]
    known = [value for value in values if value is not None]
    return max(known) if len(known) > 1 else None


def _numbers(cell: Cell) -> list[Any]:
    if cell.value is None:
        return [_plain(cell.text), "", "", cell.n or ""]
    ends = [cell.low, cell.high] if cell.low is not None else list(cell.band or (None, None))
    return [repr(cell.value), *("" if end is None else repr(end) for end in ends), cell.n or ""]


def _plain(text: str) -> str:
    """Text for a spreadsheet, which must not take it for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) and text != NOTHING else text


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _markdown(text: str) -> str:
    """Text without a meaning in Markdown or HTML."""
    line = _one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{character}" if character in "\\`*_[]|#~" else character for character in line)


def _markdown_line(cells: list[str], escape: bool = True) -> str:
    return "| " + " | ".join(_markdown(cell) if escape else cell for cell in cells) + " |"


_LATEX = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "–": "--", "±": "$\\pm$"}
_LATEX |= {character: f"\\{character}" for character in "&%$#_{}"}
_LATEX |= {"<": "$<$", ">": "$>$", "↓": "$\\downarrow$", "≤": "$\\leq$", "≥": "$\\geq$"}


def _latex(text: str) -> str:
    """Text without a meaning in LaTeX."""
    return "".join(_LATEX.get(character, character) for character in _one_line(text))


def _latex_line(cells: list[str]) -> str:
    return " & ".join(map(_latex, cells)) + " \\\\"


def _latex_cell(row: TableRow, cell: Cell, best: float | None) -> str:
    shown = _latex(str(cell))
    if row.kind == "published" and cell.value is not None:
        return f"\\textit{{{shown}}}"
    return f"\\textbf{{{shown}}}" if row.kind == "method" and best is not None and cell.value == best else shown


def _plain_comment(note: str) -> str:
    return _one_line(note)
