"""``horizon``: one image or video, one question: from which layer on which part of the image still matters."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from ..errors import BadInput
from ..viz.format import plain_text
from .compare import checked, parse_evidence
from .terminal import add_loading_options, checked_outputs, loading_options, out, quiet_unless


def add_to(commands: Any) -> None:
    """Declare the command's arguments."""
    what = "measure from which layer on which part of an image still matters to the answer"
    parser = commands.add_parser("horizon", allow_abbrev=False, help=what)
    parser.set_defaults(run=run_horizon)
    add = parser.add_argument
    add("file", nargs="?", metavar="FILE", help="image or video, as for compare")
    add("--image", "--video", dest="image", metavar="FILE", help="same as FILE, as an option")
    add("--question", required=True, metavar="TEXT", help="one question about the image or video")
    add("--frames", type=int, metavar="N", help="number of frames to sample from a video, 1 to 64")
    few = "LLM layers before which tokens are left out (default: six, from the first to the last)"
    add("--layers", metavar="N,N", help=few)
    add("--block", type=int, default=2, metavar="N", help="side of the blocks in tokens (default: %(default)s)")
    kinds = "leave a block out, or leave all but a block out (default: %(default)s)"
    add("--measure", default="removal", choices=("removal", "alone"), help=kinds)
    left = "tokens that the random control leaves (default: 64, or all where there are fewer)"
    add("--budget", type=int, metavar="N", help=left)
    add("--seeds", type=int, default=5, metavar="N", help="draws of the random control (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="first random seed (default: %(default)s)")
    time = "how long it may take; blocks get larger where they would take longer; 0: no limit (default: %(default)s)"
    add("--seconds", type=float, default=60.0, metavar="S", help=time)
    add("--least", type=float, default=0.01, metavar="NATS", help="smallest change that counts (default: %(default)s)")
    add("--model", default="tokviz-tiny", metavar="NAME", help="menu entry, folder, or Hub id (default: %(default)s)")
    add_loading_options(parser)
    add("--max-new-tokens", type=int, default=32, metavar="N", help="maximum answer length (default: %(default)s)")
    add("--answer", metavar="TEXT", help="the right answer, for the figure")
    box = "box in pixels around the evidence, for the figure; for a video with its sampled frame (from 0); repeatable"
    add("--evidence", action="append", default=[], metavar="[FRAME:]X0,Y0,X1,Y1", help=box)
    add("--json", metavar="FILE", help="write the result to FILE")
    add("--figure", metavar="FILE", help="write a figure to FILE (.png, .svg or .pdf)")


def run_horizon(arguments: argparse.Namespace) -> int:
    """Measure, print the table, write result and figure. Everything that can be wrong is checked before the work."""
    source = checked_outputs(arguments)
    layers = None if arguments.layers is None else parse_layers(arguments.layers)
    evidence = [parse_evidence(text) for text in arguments.evidence]
    progress = Console(stderr=True)
    quiet_unless(progress.is_terminal)
    shown = checked(source, arguments.frames)

    import tokviz

    from ..viz.horizon import horizon_table, save_horizon, sentences

    vlm = tokviz.load(arguments.model, **loading_options(arguments))
    for notice in vlm.notices:
        progress.print(Text(notice))
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=progress, transient=True, disable=not progress.is_terminal) as bar:
        task = bar.add_task("Measuring layer by layer", total=1.0)
        found = tokviz.information_horizon(
            vlm,
            shown,
            arguments.question,
            layers=layers,
            block=arguments.block,
            measure=arguments.measure,
            budget=arguments.budget,
            seeds=arguments.seeds,
            seed=arguments.seed,
            seconds=arguments.seconds or None,
            least=arguments.least,
            max_new_tokens=arguments.max_new_tokens,
            expected=arguments.answer,
            evidence=[box for _, box in evidence],
            evidence_frames=[frame for frame, _ in evidence if frame is not None],
            frames=arguments.frames,
            on_progress=lambda share: bar.update(task, completed=share),
        )
    console = out()
    console.print(Text(f"Answer: {plain_text(found.answer) or '(no answer)'} ({found.logprob:.3g} nats)"))
    console.print(horizon_table(found))
    for line in sentences(found):
        console.print(Text(plain_text(line)))
    if arguments.json:
        found.save(arguments.json)
    if arguments.figure:
        save_horizon(found, arguments.figure)
    return 0


def parse_layers(text: str) -> list[int]:
    """``"0,2,4"`` as numbers. Raises BadInput."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise BadInput(f"--layers takes numbers of layers, e.g. 0,2,4, not {text!r}.") from error
