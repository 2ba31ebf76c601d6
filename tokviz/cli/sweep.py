"""``sweep``: one image or video, one question, many methods, many budgets."""

from __future__ import annotations

import argparse
from contextlib import closing
from typing import Any

from ..errors import BadInput
from ..names import DEFAULT_METHODS
from .compare import parse_methods, parse_params
from .studies import Asked, add_asking_options, answered


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
    methods = parse_methods(arguments.methods)
    params = parse_params(arguments.param, [method for method, _ in methods])
    budgets = None if arguments.budgets is None else parse_budgets(arguments.budgets)
    asked = Asked.of(arguments)

    import tokviz

    from ..viz.sweeps import save_sweep, sentences, sweep_table

    generator: Any = tokviz.sweep_events(
        asked.load(), asked.shown, arguments.question, methods, budgets=budgets, budget_as=arguments.budget_as,
        params=params, seeds=arguments.seeds, seconds=arguments.seconds or None, **asked.options(),
    )  # fmt: skip
    with asked.progress("Reading and encoding") as move, closing(generator) as events:
        for event in events:
            move(event.share, f"{event.method} at {event.point.budget}" if event.point else "Unpruned answer")
    found = event.sweep
    if found is None:
        raise BadInput("Stopped before the answer was there.")
    unpruned = f"Unpruned answer: {answered(found.answer)} ({found.logprob:.3g} nats)"
    asked.show(found, [unpruned], sweep_table(found), sentences(found), save_sweep)
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
