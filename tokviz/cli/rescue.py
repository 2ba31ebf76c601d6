"""``rescue``: which part of the image that a method drops, given back, restores the answer."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from ..errors import BadInput
from ..viz.format import plain_text
from .compare import checked, parse_evidence, parse_methods, parse_params
from .terminal import add_asking_options, asking_options, checked_outputs, loading_options, out, quiet_unless


def add_to(commands: Any) -> None:
    """Declare the command's arguments."""
    what = "find the dropped part of an image that restores the answer once it is given back"
    parser = commands.add_parser("rescue", allow_abbrev=False, help=what)
    parser.set_defaults(run=run_rescue)
    add = parser.add_argument
    add_asking_options(parser)
    add("--method", required=True, metavar="ID", help="what prunes, optionally with parameters: fastv:layer=2")
    add("--budget", type=int, default=64, metavar="N", help="visual tokens that it keeps (default: %(default)s)")
    meanings = ("published", "final", "average")
    add("--budget-as", default="published", choices=meanings, help="what the budget counts (default: %(default)s)")
    add("--param", action="append", default=[], metavar="ID.NAME=VALUE", help="set the method's parameter; repeatable")
    add("--block", type=int, default=2, metavar="N", help="side of the blocks in tokens (default: %(default)s)")
    which = "whose log-probability is to rise (default: %(default)s)"
    add("--scored", default="unpruned", choices=("unpruned", "expected"), help=which)
    add("--seeds", type=int, default=10, metavar="N", help="random sets of each size (default: %(default)s)")
    time = "how long it may take; blocks get larger where they would take longer; 0: no limit (default: %(default)s)"
    add("--seconds", type=float, default=60.0, metavar="S", help=time)
    add("--least", type=float, default=0.01, metavar="NATS", help="smallest gain that counts (default: %(default)s)")


def run_rescue(arguments: argparse.Namespace) -> int:
    """Rescue, print the table, write result and figure. Everything that can be wrong is checked before the work."""
    source = checked_outputs(arguments)
    methods = parse_methods(arguments.method)
    if len(methods) != 1:
        raise BadInput(f"--method takes one method, not {arguments.method!r}.")
    params = parse_params(arguments.param, [methods[0][0]])
    evidence = [parse_evidence(text) for text in arguments.evidence]
    console = Console(stderr=True)
    quiet_unless(console.is_terminal)
    shown = checked(source, arguments.frames)

    import tokviz

    from ..viz.rescues import rescue_table, save_rescue, sentences

    vlm = tokviz.load(arguments.model, **loading_options(arguments))
    for notice in vlm.notices:
        console.print(Text(notice))
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Giving back block after block", total=1.0)
        found = tokviz.rescue(
            vlm, shown, arguments.question, methods[0], arguments.budget, budget_as=arguments.budget_as,
            params=params, block=arguments.block, answer=arguments.scored, seeds=arguments.seeds,
            seconds=arguments.seconds or None, least=arguments.least,
            on_progress=lambda share: bar.update(task, completed=share), **asking_options(arguments, evidence),
        )  # fmt: skip
    screen = out()
    screen.print(Text(f"Unpruned answer: {plain_text(found.comparison.runs[0].answer) or '(no answer)'}"))
    screen.print(Text(f"{plain_text(found.rescued.label)}: {plain_text(found.rescued.answer) or '(no answer)'}"))
    screen.print(rescue_table(found))
    for line in sentences(found):
        screen.print(Text(plain_text(line)))
    if arguments.json:
        found.save(arguments.json)
    if arguments.figure:
        save_rescue(found, arguments.figure)
    return 0
