"""``horizon``: one image or video, one question: from which layer on which part of the image still matters."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import BadInput
from .studies import Asked, add_asking_options, answered


def add_to(commands: Any) -> None:
    """Declare the command's arguments."""
    what = "measure from which layer on which part of an image still matters to the answer"
    parser = commands.add_parser("horizon", allow_abbrev=False, help=what)
    parser.set_defaults(run=run_horizon)
    add = parser.add_argument
    add_asking_options(parser)
    few = "LLM layers before which tokens are left out (default: six, from the first to the last)"
    add("--layers", metavar="N,N", help=few)
    add("--block", type=int, default=2, metavar="N", help="side of the blocks in tokens (default: %(default)s)")
    kinds = "leave a block out, or leave all but a block out (default: %(default)s)"
    add("--measure", default="removal", choices=("removal", "alone"), help=kinds)
    left = "tokens that the random control leaves (default: 64, or all where there are fewer)"
    add("--budget", type=int, metavar="N", help=left)
    add("--seeds", type=int, default=5, metavar="N", help="draws of the random control (default: %(default)s)")
    time = "how long it may take; blocks get larger where they would take longer; 0: no limit (default: %(default)s)"
    add("--seconds", type=float, default=60.0, metavar="S", help=time)
    add("--least", type=float, default=0.01, metavar="NATS", help="smallest change that counts (default: %(default)s)")


def run_horizon(arguments: argparse.Namespace) -> int:
    """Measure, print the table, write result and figure. Everything that can be wrong is checked before the work."""
    layers = None if arguments.layers is None else parse_layers(arguments.layers)
    asked = Asked.of(arguments)

    import tokviz

    from ..viz.horizon import horizon_table, save_horizon, sentences

    vlm = asked.load()
    with asked.progress("Measuring layer by layer") as move:
        found = tokviz.information_horizon(
            vlm, asked.shown, arguments.question, layers=layers, block=arguments.block, measure=arguments.measure,
            budget=arguments.budget, seeds=arguments.seeds, seconds=arguments.seconds or None, least=arguments.least,
            on_progress=move, **asked.options(),
        )  # fmt: skip
    answer = f"Answer: {answered(found.answer)} ({found.logprob:.3g} nats)"
    asked.show(found, [answer], horizon_table(found), sentences(found), save_horizon)
    return 0


def parse_layers(text: str) -> list[int]:
    """``"0,2,4"`` as numbers. Raises BadInput."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise BadInput(f"--layers takes numbers of layers, e.g. 0,2,4, not {text!r}.") from error
