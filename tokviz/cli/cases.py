"""``cases check``: what a case file holds and what is wrong with it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from ..errors import BadInput
from ..files import write_or_refuse
from ..viz.format import plain_text
from ..viz.tables import cell, new_table
from .terminal import check_writable, out

if TYPE_CHECKING:
    from ..cases import CaseReport

_SHOWN = 12
"""Rows of a count that is printed; the JSON file has all."""


def add_to(commands: Any) -> None:
    """Declare the command's arguments."""
    cases = commands.add_parser("cases", allow_abbrev=False, help="look at a data set before it is mined")
    inner = cases.add_subparsers(title="commands", required=True, metavar="command")
    check = inner.add_parser(
        "check",
        allow_abbrev=False,
        help="print what a case file holds and what is wrong with it",
        description="Read a case file whole and look at its images. Exit code 2 if anything cannot be mined.",
    )
    check.set_defaults(run=run_check)
    add_case_options(check, "FILE")
    check.add_argument("--decode", action="store_true", help="decode every image and video instead of its header")
    check.add_argument("--json", metavar="FILE", help="write the report to FILE")


def add_case_options(parser: argparse.ArgumentParser, name: str) -> None:
    """Declare which cases are meant; name: of the argument or option."""
    add = parser.add_argument
    add(name, metavar="FILE", help="case file, or a folder that holds one; docs/cases.md lists the layouts")
    add("--layout", metavar="NAME", help="how the file is laid out (default: recognised)")
    add("--media", metavar="DIR", help="folder of the images and videos (default: the file's)")
    ask = 'what each question becomes, e.g. "{question}\\nAnswer the question using a single word or phrase."'
    add("--prompt", metavar="TEXT", help=f"{ask} (\\n: a new line)")


def run_check(arguments: argparse.Namespace) -> int:
    """Print the report."""
    from ..cases import check_cases, open_cases

    if arguments.json:
        check_writable(Path(arguments.json), arguments.FILE)
    prompt = arguments.prompt.replace("\\n", "\n") if arguments.prompt else None
    cases = open_cases(arguments.FILE, arguments.layout, arguments.media, prompt)
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} cases"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)
        report = check_cases(cases, decode=arguments.decode, on_progress=lambda n: progress.update(task, completed=n))
    _print(report)
    if arguments.json:
        write_or_refuse(arguments.json, report.model_dump_json(indent=1).encode())
    if not report.ok:
        raise BadInput(_verdict(report))
    return 0


def _print(report: CaseReport) -> None:
    console = out()
    table = new_table(f"{plain_text(report.name)}, read as {report.layout}", "", ">")
    rows = [("cases", report.cases), ("images", report.images), ("videos", report.videos)]
    rows += [("cases with evidence", report.with_evidence), ("cases without an answer", report.without_answers)]
    rows += [(f"left out: {kind}", count) for kind, count in report.left_out.items()]
    rows += [("broken entries", report.n_problems), ("media missing", report.n_missing)]
    rows += [("media unreadable", report.n_unreadable), ("evidence boxes outside of the image", report.n_outside)]
    for name, count in rows:
        table.add_row(cell(name), cell(f"{count:,}"))
    console.print(table)
    console.print(_counts(report))
    examples = {"broken": report.problems, "missing": report.missing, "unreadable": report.unreadable}
    examples |= {"evidence outside of the image": report.outside}
    if any(examples.values()):
        table = new_table("What is wrong (the first of each kind)", "kind", "where")
        for kind, places in examples.items():
            for place in places:
                table.add_row(cell(kind), cell(place))
        console.print(table)


def _counts(report: CaseReport) -> Any:
    table = new_table("Cases by", "", "", ">cases")
    kinds = {"family": report.families, "split": report.splits, "metric": report.metrics}
    kinds |= {"answers of": report.others, "unused key": report.unused_keys}
    for kind, counts in kinds.items():
        for value, count in list(counts.items())[:_SHOWN]:
            table.add_row(cell(kind), cell(value), cell(f"{count:,}"))
        rest = list(counts.values())[_SHOWN:]
        if rest:
            table.add_row(cell(kind), cell(f"{len(rest):,} more"), cell(f"{sum(rest):,}"))
    return table


def _verdict(report: CaseReport) -> str:
    kinds = {"broken": report.n_problems, "without their file": report.n_missing, "unreadable": report.n_unreadable}
    if not report.cases and not report.n_problems:
        return f"There are no cases in {report.name!r}."
    kinds["evidence boxes outside of the image"] = report.n_outside
    wrong = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items() if count)
    return f"{report.cases:,} cases can be read; not in order: {wrong}."
