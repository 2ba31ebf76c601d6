"""``inside``: one image or video, one question: where every layer of the model looks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from ..errors import BadInput
from ..viz.figures import figure_format
from ..viz.format import plain_text
from .compare import checked, one_file, parse_evidence
from .horizon import parse_layers
from .terminal import add_loading_options, check_writable, loading_options, out, quiet_unless


def add_to(commands: Any) -> None:
    """Declare the command's arguments."""
    parser = commands.add_parser("inside", allow_abbrev=False, help="show where every layer of the model looks")
    parser.set_defaults(run=run_inside)
    add = parser.add_argument
    add("file", nargs="?", metavar="FILE", help="image or video, as for compare")
    add("--image", "--video", dest="image", metavar="FILE", help="same as FILE, as an option")
    add("--question", required=True, metavar="TEXT", help="one question about the image or video")
    add("--frames", type=int, metavar="N", help="number of frames to sample from a video, 1 to 64")
    add("--method", metavar="ID", help="look inside a pruned run (default: the unpruned model)")
    add("--budget", type=int, metavar="N", help="visual tokens that the method keeps (default: 64)")
    means = ("published", "final", "average")
    add("--budget-as", default="published", choices=means, help="what the budget counts (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="random seed (default: %(default)s)")
    kept = "LLM layers whose maps are kept for each word, beside the mean (default: six; none: the mean alone)"
    add("--layers", metavar="N,N", help=kept)
    add("--model", default="tokviz-tiny", metavar="NAME", help="menu entry, folder, or Hub id (default: %(default)s)")
    add_loading_options(parser)
    add("--max-new-tokens", type=int, default=32, metavar="N", help="maximum answer length (default: %(default)s)")
    add("--answer", metavar="TEXT", help="the right answer, for the figure")
    box = "box in pixels around the evidence; for a video with its sampled frame (from 0); repeatable"
    add("--evidence", action="append", default=[], metavar="[FRAME:]X0,Y0,X1,Y1", help=box)
    add("--json", metavar="FILE", help="write the result to FILE")
    add("--figure", metavar="FILE", help="write a figure to FILE (.png, .svg or .pdf)")


def run_inside(arguments: argparse.Namespace) -> int:
    """Look, print the table, write result and figure. Everything that can be wrong is checked before the work."""
    outputs = [Path(name) for name in (arguments.json, arguments.figure) if name]
    if arguments.figure:
        figure_format(arguments.figure)
    source = one_file(arguments)
    for path in outputs:
        check_writable(path, source)
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise BadInput("--json and --figure name the same file; give them different names.")
    layers = None if arguments.layers is None else [] if arguments.layers == "none" else parse_layers(arguments.layers)
    evidence = [parse_evidence(text) for text in arguments.evidence]
    progress = Console(stderr=True)
    quiet_unless(progress.is_terminal)
    shown = checked(source, arguments.frames)

    import tokviz

    from ..viz.inside import inside_table, save_inside, sentences

    vlm = tokviz.load(arguments.model, **loading_options(arguments))
    for notice in vlm.notices:
        progress.print(Text(notice))
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=progress, transient=True, disable=not progress.is_terminal) as bar:
        task = bar.add_task("Watching the layers", total=1.0)
        found = tokviz.inside(
            vlm,
            shown,
            arguments.question,
            method=arguments.method,
            budget=arguments.budget,
            budget_as=arguments.budget_as,
            seed=arguments.seed,
            layers=layers,
            max_new_tokens=arguments.max_new_tokens,
            expected=arguments.answer,
            evidence=[box for _, box in evidence],
            evidence_frames=[frame for frame, _ in evidence if frame is not None],
            frames=arguments.frames,
            on_progress=lambda share: bar.update(task, completed=share),
        )
    console = out()
    console.print(Text(f"Answer: {plain_text(found.run.answer) or '(no answer)'} ({plain_text(found.run.label)})"))
    console.print(inside_table(found))
    for line in sentences(found):
        console.print(Text(plain_text(line)))
    if arguments.json:
        found.save(arguments.json)
    if arguments.figure:
        save_inside(found, arguments.figure)
    return 0
