"""``mine``: a data set, many methods, budgets and seeds, into a folder of tables."""

from __future__ import annotations

import argparse
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from ..errors import BadInput
from ..names import DEFAULT_METHODS
from ..viz.format import plain_text
from ..viz.tables import cell, new_table
from .compare import parse_methods, parse_params
from .sweep import parse_budgets
from .terminal import add_loading_options, loading_options, out, quiet_unless

if TYPE_CHECKING:
    from rich.table import Table

    from ..mining.mine import MiningProgress
    from ..mining.mined import MinedRun

_LINE_EVERY_S = 30.0
"""How often a log is told how far it is."""


def add_to(commands: Any) -> None:
    """Declare the command's arguments."""
    what = "answer every question of a data set with each method, and keep what became of each answer"
    parser = commands.add_parser("mine", allow_abbrev=False, help=what)
    parser.set_defaults(run=run_mine)
    add = parser.add_argument
    add("--cases", required=True, metavar="FILE", help="case file or folder; docs/cases.md lists the layouts")
    add("--layout", metavar="NAME", help="layout of the case file (default: recognised)")
    add("--media", metavar="DIR", help="folder of the images and videos (default: that of the case file)")
    add("--out", required=True, metavar="DIR", help="folder of the run; the same command goes on where it stopped")
    add("--model", default="tokviz-tiny", metavar="NAME", help="menu entry, folder, or Hub id (default: %(default)s)")
    add_loading_options(parser)
    own = "method ids, optionally with parameters after a colon: apet,apet:mode=official"
    chosen = ",".join((*DEFAULT_METHODS, "random", "downsample"))
    add("--methods", default=chosen, metavar="ID,ID", help=f"{own} (default: %(default)s)")
    add("--budgets", default="192,128,64", metavar="N,N%%", help="visual tokens, or shares (default: %(default)s)")
    meanings = ("published", "final", "average")
    add("--budget-as", default="published", choices=meanings, help="what they count (default: %(default)s)")
    add("--param", action="append", default=[], metavar="ID.NAME=VALUE", help="set a method's parameter; repeatable")
    add("--seeds", type=int, default=1, metavar="N", help="seeds of methods that are random (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="first random seed (default: %(default)s)")
    add("--max-new-tokens", type=int, default=32, metavar="N", help="maximum answer length (default: %(default)s)")
    add("--frames", type=int, metavar="N", help="number of frames to sample from a video, 1 to 64")
    add("--limit", type=int, metavar="N", help="mine only N cases, evenly spaced over the file")
    first = "a first look: at most 40 cases, the largest and the smallest budget, one seed"
    add("--quick", action="store_true", help=first)
    add("--workers", type=int, metavar="N", help="processes, or Ray actors (default: one per core, or per GPU)")
    add("--engine", default="local", choices=("local", "ray"), help="this machine, or a Ray cluster (default: local)")
    add("--address", metavar="ADDRESS", help="of the Ray cluster (default: one is started on this machine)")
    add("--copy-media", action="store_true", help="copy images and videos into the folder")


def run_mine(arguments: argparse.Namespace) -> int:
    """Mine, say how far it is, print what became of the answers. What can be wrong is checked before the work."""
    methods = parse_methods(arguments.methods)
    params = parse_params(arguments.param, [method for method, _ in methods])
    budgets = parse_budgets(arguments.budgets)
    console = Console(stderr=True)
    quiet_unless(console.is_terminal)

    import tokviz

    from ..cases import open_cases
    from ..mining.mine import check_engine

    check_engine(arguments.engine, arguments.address, arguments.workers)
    cases = open_cases(arguments.cases, arguments.layout, arguments.media)
    vlm = tokviz.load(arguments.model, **loading_options(arguments))
    for notice in vlm.notices:
        console.print(Text(notice))
    with interruptible(console) as stop, told(console) as on_progress:
        run = tokviz.mine(
            vlm, cases, methods, budgets, out=arguments.out, budget_as=arguments.budget_as, params=params,
            seeds=arguments.seeds, seed=arguments.seed, max_new_tokens=arguments.max_new_tokens,
            frames=arguments.frames, limit=arguments.limit, quick=arguments.quick, workers=arguments.workers,
            engine=arguments.engine, address=arguments.address, copy_media=arguments.copy_media, stop=stop,
            on_progress=on_progress,
        )  # fmt: skip
    return _told_result(run, out())


@contextmanager
def interruptible(console: Console) -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second one interrupts as usual."""
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _frame: object) -> None:
        stop.set()
        for each, handler in before.items():
            signal.signal(each, handler)
        console.print(
            "Stopping after the cases in flight. Ctrl-C again leaves at once; nothing finished is lost.", soft_wrap=True
        )

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def told(console: Console) -> Iterator[Callable[[MiningProgress], None]]:
    """What tells how far it is: a bar on a terminal, a line now and then in a log."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Mining", total=None)
        last = [0.0]

        def tell(event: MiningProgress) -> None:
            for note in event.notes:
                console.print(Text(plain_text(note)))
            line = progress_line(event)
            bar.update(task, completed=event.done, total=event.total, description=line)
            now = time.monotonic()
            if not console.is_terminal and (event.done == event.total or now - last[0] > _LINE_EVERY_S):
                last[0] = now
                console.print(line, soft_wrap=True)

        yield tell


def progress_line(event: MiningProgress) -> str:
    """How many cases are there, how fast they come, and what is left."""
    if event.rate is None or event.remaining is None:
        return f"{event.done:,} of {event.total:,} cases"
    rate = f"{event.rate:.2g} cases/s" if event.rate >= 0.1 else f"{1 / event.rate:.0f} s per case"
    hours, seconds = divmod(round(event.remaining), 3600)
    left = f"{hours}:{seconds // 60:02d}:{seconds % 60:02d}"
    return f"{event.done:,} of {event.total:,} cases, {rate}, {left} left"


def _told_result(run: MinedRun, screen: Console) -> int:
    manifest = run.manifest
    problems = manifest.problems
    if manifest.status != "done":
        screen.print(Text("Not all cases are mined: repeat the command to go on."))
        return 130
    if problems:
        advice = f"tokviz cases check {manifest.cases.name}"
        entries = "entry" if problems == 1 else "entries"
        screen.print(Text(f"{problems:,} {entries} of the case file could not be used; {advice} lists them."))
    if manifest.cases.asked < manifest.cases.count:
        few = f"{manifest.cases.asked:,} of {manifest.cases.count:,} cases, evenly spaced over the file"
        screen.print(Text(f"{few}; budgets {', '.join(map(str, manifest.budgets))}; {len(manifest.seeds)} seed(s)."))
    if not run.n_rows:
        raise BadInput("No case was mined.")
    screen.print(outcome_table(run))
    screen.print(Text(f"{run.n_cases:,} cases, {run.n_rows:,} rows in {run.path}"))
    return 0


def outcome_table(run: MinedRun) -> Table:
    """What became of the answers, by method and budget."""
    columns = run.table("rows", ["method", "budget", "outcome"]).to_pydict()
    counts: dict[tuple[str, int], Counter[str]] = {}
    for method, budget, outcome in zip(*columns.values(), strict=True):
        counts.setdefault((method, budget), Counter())[outcome] += 1
    order = {method.key: number for number, method in enumerate(run.manifest.methods)}
    names = [name for name in _OUTCOMES if any(count[name] for count in counts.values())]
    table = new_table("Answers of all cases and seeds", "method", ">budget", *(f">{_OUTCOMES[name]}" for name in names))
    for method, budget in sorted(counts, key=lambda key: (order[key[0]], -key[1])):
        count = counts[method, budget]
        table.add_row(cell(method, "bold"), str(budget), *(f"{count[name]:,}" for name in names))
    return table


_OUTCOMES = {
    "kept": "right", "lost": "lost by pruning", "rescued": "rescued by pruning", "wrong": "same wrong answer",
    "changed": "another wrong answer", "same": "same answer", "differs": "another answer", "error": "could not run",
}  # fmt: skip
