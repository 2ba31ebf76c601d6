"""``sweep``: one image or video, one question, many methods, many budgets."""

from __future__ import annotations

import argparse
from contextlib import closing
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from ..errors import BadInput
from ..names import DEFAULT_METHODS
from ..viz.format import plain_text
from .compare import checked, parse_evidence, parse_methods, parse_params
from .terminal import add_asking_options, asking_options, checked_outputs, loading_options, out, quiet_unless


def add_to(commands: Any) -> None:
    """Declare the command's arguments."""
    what = "answer a question with each method over many budgets, and score the unpruned answer at each"
    parser = commands.add_parser("sweep", allow_abbrev=False, help=what)
    parser.set_defaults(run=run_sweep)
    add = parser.add_argument
    add_asking_options(parser)
    own = "method ids, optionally with parameters after a colon: apet,apet:mode=official"
    add(
        "--methods",
        default=",".join((*DEFAULT_METHODS, "random")),
        metavar="ID,ID",
        help=f"{own} (default: %(default)s)",
    )
    kinds = "visual tokens or shares of all of them, e.g. 100%%,25%%,64 (default: eleven from 100%% to 2%%)"
    add("--budgets", metavar="N,N%%", help=kinds)
    meanings = ("published", "final", "average")
    add("--budget-as", default="published", choices=meanings, help="what they count (default: %(default)s)")
    add("--param", action="append", default=[], metavar="ID.NAME=VALUE", help="set a method's parameter; repeatable")
    add("--seeds", type=int, default=5, metavar="N", help="seeds of methods that are random (default: %(default)s)")
    add("--seconds", type=float, default=0.0, metavar="S", help="how long it may take (default: no limit)")


def run_sweep(arguments: argparse.Namespace) -> int:
    """Sweep, print the table, write result and figure. Everything that can be wrong is checked before the work."""
    source = checked_outputs(arguments)
    methods = parse_methods(arguments.methods)
    params = parse_params(arguments.param, [method for method, _ in methods])
    evidence = [parse_evidence(text) for text in arguments.evidence]
    budgets = None if arguments.budgets is None else parse_budgets(arguments.budgets)
    console = Console(stderr=True)
    quiet_unless(console.is_terminal)
    shown = checked(source, arguments.frames)

    import tokviz

    from ..viz.sweeps import save_sweep, sentences, sweep_table

    vlm = tokviz.load(arguments.model, **loading_options(arguments))
    for notice in vlm.notices:
        console.print(Text(notice))
    generator: Any = tokviz.sweep_events(
        vlm, shown, arguments.question, methods, budgets=budgets, budget_as=arguments.budget_as, params=params,
        seeds=arguments.seeds, seconds=arguments.seconds or None, **asking_options(arguments, evidence),
    )  # fmt: skip
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with (
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
        closing(generator) as events,
    ):
        task = bar.add_task("Reading and encoding", total=1.0)
        for event in events:
            told = f"{event.method} at {event.point.budget}" if event.point is not None else "Unpruned answer"
            bar.update(task, completed=event.share, description=told)
    found = event.sweep
    if found is None:
        raise BadInput("Stopped before the answer was there.")
    screen = out()
    screen.print(Text(f"Unpruned answer: {plain_text(found.answer) or '(no answer)'} ({found.logprob:.3g} nats)"))
    screen.print(sweep_table(found))
    for line in sentences(found):
        screen.print(Text(plain_text(line)))
    if arguments.json:
        found.save(arguments.json)
    if arguments.figure:
        save_sweep(found, arguments.figure)
    if found.curves and all(curve.error for curve in found.curves):
        raise BadInput(str(found.curves[0].error))
    return 0


def parse_budgets(text: str) -> list[int | str]:
    """``"100%,64"`` as numbers of tokens and shares as text. Raises BadInput."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    try:
        return [part if part.endswith("%") else int(part) for part in parts]
    except ValueError as error:
        raise BadInput(f"--budgets takes visual tokens and shares, e.g. 100%,25%,64, not {text!r}.") from error
