"""``rescue``: which part of the image that a method drops, given back, restores the answer."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import BadInput
from ..viz.format import plain_text
from .compare import parse_methods, parse_params
from .studies import Asked, add_asking_options, answered


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
    methods = parse_methods(arguments.method)
    if len(methods) != 1:
        raise BadInput(f"--method takes one method, not {arguments.method!r}.")
    params = parse_params(arguments.param, [methods[0][0]])
    asked = Asked.of(arguments)

    import tokviz

    from ..viz.rescues import rescue_table, save_rescue, sentences

    vlm = asked.load()
    with asked.progress("Giving back block after block") as move:
        found = tokviz.rescue(
            vlm, asked.shown, arguments.question, methods[0], arguments.budget, budget_as=arguments.budget_as,
            params=params, block=arguments.block, answer=arguments.scored, seeds=arguments.seeds,
            seconds=arguments.seconds or None, least=arguments.least, on_progress=move, **asked.options(),
        )  # fmt: skip
    answers = [
        f"Unpruned answer: {answered(found.comparison.runs[0].answer)}",
        f"{plain_text(found.rescued.label)}: {answered(found.rescued.answer)}",
    ]
    asked.show(found, answers, rescue_table(found), sentences(found), save_rescue)
    return 0
