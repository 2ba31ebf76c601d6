"""``calibrate``: search a setting of a method on a model."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from tokviz.cli.terminal import check_writable, out, quiet_unless
from tokviz.errors import BadInput
from tokviz.files import write_or_refuse
from tokviz.viz.format import plain_text
from tokviz.viz.tables import cell, new_table

if TYPE_CHECKING:
    from rich.table import Table

    from .vtw_calibration import Calibration


def add_to(commands: Any) -> None:
    """Declare the command's arguments."""
    parser = commands.add_parser(
        "calibrate", allow_abbrev=False, help="find the layer at which VTW can withdraw the image"
    )
    parser.set_defaults(run=run_calibrate)
    add = parser.add_argument
    add("method", choices=("vtw",), help="the method to calibrate")
    add("--model", default="tokviz-tiny", metavar="NAME", help="menu entry, folder, or Hub id (default: %(default)s)")
    samples = parser.add_mutually_exclusive_group()
    samples.add_argument(
        "--scenes", type=int, default=20, metavar="N", help="number of held-out drawn scenes (default: %(default)s)"
    )
    samples.add_argument("--cases", metavar="FOLDER", help="use stored cases instead (folders with a session.json)")
    samples.add_argument("--images", metavar="FOLDER", help="use the images in a folder instead; needs --question")
    add("--question", metavar="TEXT", help="the question to ask about the images in --images")
    add("--eta", type=float, metavar="NATS", help="largest divergence of an unchanged answer (default: 0.003)")
    add("--first", type=int, metavar="K", help="first layer to try (default: 5 of 32, scaled for other depths)")
    add("--json", metavar="FILE", help="write the curve to FILE")


def run_calibrate(arguments: argparse.Namespace) -> int:
    """Search, print the curve and the layer, write the curve. Ends with 2 when no layer is good enough."""
    if (arguments.images is None) != (arguments.question is None):
        raise BadInput("--images and --question go together: give both or neither.")
    if arguments.json:
        check_writable(Path(arguments.json))
    progress = Console(stderr=True)
    quiet_unless(progress.is_terminal)

    import tokviz
    from tokviz.runs.requests import check_question

    from .vtw_calibration import ETA, calibrate_vtw, case_samples, image_samples, scene_samples

    if arguments.cases:
        samples = case_samples(Path(arguments.cases))
    elif arguments.images:
        samples = image_samples(Path(arguments.images), arguments.question)
    else:
        samples = scene_samples(arguments.scenes)
    vlm = tokviz.load(arguments.model)
    if arguments.question is not None:
        check_question(arguments.question, vlm)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=progress, transient=True, disable=not progress.is_terminal) as bar:
        task = bar.add_task("Calibrating", total=len(samples))
        found = calibrate_vtw(
            vlm,
            samples,
            eta=ETA if arguments.eta is None else arguments.eta,
            first=arguments.first,
            on_sample=lambda done: bar.update(task, description=f"Sample {done} of {len(samples)}"),
        )
    console = out()
    console.print(_curve_table(found))
    if arguments.json:
        text = json.dumps({**asdict(found), "layer": found.layer}, indent=2) + "\n"
        write_or_refuse(arguments.json, text.encode())
    if found.layer is None:
        layer, divergence = found.closest
        raise BadInput(
            f"No layer of {found.model} is good enough: the smallest divergence is {divergence:.3g} nats, at layer "
            f"{layer}, and eta is {found.eta:g}. Allow a larger --eta."
        )
    console.print(Text(f"K = {found.layer}. Use it with --param vtw.layer={found.layer}."))
    return 0


def _curve_table(found: Calibration) -> Table:
    """Divergence per layer, with what the layers in front of it make of the picture's cost."""
    table = new_table(
        f"VTW on {plain_text(found.model)}, mean of {found.n_samples} samples",
        ">layer K", ">divergence, nats", f"at most {found.eta:g}", ">layers that see the picture",
    )  # fmt: skip
    for layer, divergence in zip(found.layers, found.divergence, strict=True):
        enough = "yes" if divergence <= found.eta else ""
        seen = f"{layer} of {found.n_layers} ({layer / found.n_layers:.0%})"
        table.add_row(cell(layer), cell(f"{divergence:.6f}"), cell(enough), cell(seen))
    return table
