"""``report``: takes cases of a mined run away: as a page that opens offline, a figure, tables of rows, a case file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from rich.text import Text

from ..errors import BadInput, need
from ..files import write_or_refuse
from ..viz.format import size
from .terminal import out

_BY_SUFFIX = {
    ".html": "report",
    ".pdf": "figure-pdf",
    ".png": "figure-png",
    ".svg": "figure-svg",
    ".jsonl": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}


def add_to(commands: Any) -> None:
    """Declare the command's arguments."""
    what = "take cases of a mined run away: report, figure, rows, or a case file"
    parser = commands.add_parser("report", allow_abbrev=False, help=what)
    parser.set_defaults(run=run_report)
    add = parser.add_argument
    add("run_folder", metavar="RUN", help="folder that tokviz mine made")
    suffixes = (
        "page that opens offline (.html), figure of the first 8 cases (.pdf, .png, .svg), rows (.jsonl, .csv, .parquet)"
    )
    add("--out", required=True, metavar="FILE", help=suffixes)
    add("--cases", action="store_true", help="write a case file (.jsonl) that tokviz mine takes, not rows")
    add("--methods", metavar="ID,ID", help="up to 4 methods that are drawn (default: the first three)")
    add("--budget", type=int, metavar="N", help="visual tokens (default: 64 if it was mined, else the smallest)")
    outcomes = "kept, lost, rescued, changed, wrong, right, not-right"
    add(
        "--where",
        action="append",
        default=[],
        metavar="ID=OUTCOME",
        help=f"only cases where it is so: {outcomes}; repeatable",
    )
    add("--family", action="append", default=[], metavar="NAME", help="only questions of this family; repeatable")
    add("--text", metavar="WORDS", help="only cases whose question, answers or id have all of these words")
    add("--tag", action="append", default=[], metavar="TAG", help="only cases with this tag; repeatable")
    add("--slice", metavar="NAME", help="only cases of a slice that was saved on the page")
    add("--view", metavar="ADDRESS", help="what the page shows at this address, in place of the options above")
    add("--media", metavar="DIR", action="append", default=[], help="folder with the images of the run; repeatable")


def run_report(arguments: argparse.Namespace) -> int:
    """Write the file and say how large it is."""
    need("duckdb", "mine", "A report of a mined run")
    kind = _kind(arguments)

    from ..workbench.exports import exported
    from ..workbench.manifest import is_run
    from ..workbench.service import Workbench

    if not is_run(Path(arguments.run_folder)):
        raise BadInput(f"{arguments.run_folder!r} is no mined run: it has no manifest.json. tokviz mine makes one.")
    bench = Workbench(arguments.run_folder, media=arguments.media, read_only=True)
    try:
        view = _of_address(bench, arguments.view) if arguments.view else _of_options(bench, arguments)
        content = exported(bench, kind, view)[2]
        n_cases = len(bench.view(view)[2])
    finally:
        bench.close()
    write_or_refuse(arguments.out, content)
    out().print(Text(f"{n_cases:,} {'case' if n_cases == 1 else 'cases'} in {arguments.out} ({size(len(content))})"))
    return 0


def _kind(arguments: argparse.Namespace) -> str:
    suffix = Path(arguments.out).suffix.lower()
    if suffix not in _BY_SUFFIX:
        raise BadInput(f"--out must end in {', '.join(_BY_SUFFIX)}, not {suffix!r}.")
    if arguments.cases and suffix != ".jsonl":
        raise BadInput("--cases writes a case file: --out must end in .jsonl then.")
    return "cases" if arguments.cases else _BY_SUFFIX[suffix]


def _of_options(bench: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    name = bench.names()[0]
    run = bench.opened(name)
    budgets = run.manifest.budgets
    budget = arguments.budget if arguments.budget is not None else 64 if 64 in budgets else min(budgets)
    methods = arguments.methods.split(",") if arguments.methods else run.methods[:3]
    conditions: list[dict[str, Any]] = []
    for text in arguments.where:
        method, equals, outcomes = text.rpartition("=")
        if not equals or not method:
            raise BadInput(f"--where takes a method and an outcome, e.g. apet=lost, not {text!r}.")
        results = [one.replace("not-right", "not right") for one in outcomes.split(",")]
        conditions.append({"kind": "outcome", "method": method, "budget": budget, "results": results})
    if arguments.family:
        conditions.append({"kind": "is", "column": "family", "values": arguments.family})
    if arguments.text:
        conditions.append({"kind": "text", "text": arguments.text})
    if arguments.tag:
        conditions.append({"kind": "tag", "values": arguments.tag})
    if arguments.slice:
        conditions += _saved(bench, name, arguments.slice)
    return {"run": name, "budget": budget, "methods": methods, "filter": {"conditions": conditions}}


def _saved(bench: Any, run: str, name: str) -> list[dict[str, Any]]:
    slices = {one.name: one.filter for one in bench.tags(run).slices()}
    if name not in slices:
        raise BadInput(f"This run has no saved slice {name!r}" + (f"; it has {', '.join(slices)}." if slices else "."))
    conditions: list[dict[str, Any]] = slices[name]["conditions"]
    return conditions


def _of_address(bench: Any, address: str) -> dict[str, Any]:
    """The view that the page's address says, see ``workbench_state.js``."""
    words = parse_qs(urlsplit(address).fragment.partition("?")[2])
    try:
        view: dict[str, Any] = {"run": bench.names()[0], "budget": int(words["budget"][0]), "methods": words["method"]}
        view["filter"] = {"conditions": json.loads(words.get("filter", ["[]"])[0])}
        if "sort" in words:
            view["sort"] = json.loads(words["sort"][0])
        if "seed" in words:
            view["seed"] = int(words["seed"][0])
    except (KeyError, ValueError) as error:
        raise BadInput(
            "--view takes the address of the page as the browser shows it, with its part behind #."
        ) from error
    return view
