"""``inside``: one image or video, one question: where every layer of the model looks."""

from __future__ import annotations

import argparse
from typing import Any

from ..viz.format import plain_text
from .horizon import parse_layers
from .studies import Asked, add_asking_options, answered


def add_to(commands: Any) -> None:
    """Declare the command's arguments."""
    parser = commands.add_parser("inside", allow_abbrev=False, help="show where every layer of the model looks")
    parser.set_defaults(run=run_inside)
    add = parser.add_argument
    add_asking_options(parser)
    add("--method", metavar="ID", help="look inside a pruned run (default: the unpruned model)")
    add("--budget", type=int, metavar="N", help="visual tokens that the method keeps (default: 64)")
    means = ("published", "final", "average")
    add("--budget-as", default="published", choices=means, help="what the budget counts (default: %(default)s)")
    kept = "LLM layers whose maps are kept for each word, beside the mean (default: six; none: the mean alone)"
    add("--layers", metavar="N,N", help=kept)


def run_inside(arguments: argparse.Namespace) -> int:
    """Look, print the table, write result and figure. Everything that can be wrong is checked before the work."""
    layers = None if arguments.layers is None else [] if arguments.layers == "none" else parse_layers(arguments.layers)
    asked = Asked.of(arguments)

    import tokviz

    from ..viz.inside import inside_table, save_inside, sentences

    vlm = asked.load()
    with asked.progress("Watching the layers") as move:
        found = tokviz.inside(
            vlm, asked.shown, arguments.question, method=arguments.method, budget=arguments.budget,
            budget_as=arguments.budget_as, layers=layers, on_progress=move, **asked.options(),
        )  # fmt: skip
    answer = f"Answer: {answered(found.run.answer)} ({plain_text(found.run.label)})"
    asked.show(found, [answer], inside_table(found), sentences(found), save_inside)
    return 0
