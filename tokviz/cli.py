"""``python -m tokviz``: compare, calibrate, methods, models. One function and one parser block per subcommand.

Exit codes: 0 fine, 2 bad input (one sentence on stderr says what to do), 130 interrupted, 1 a defect (traceback).
Torch and models are imported by the subcommand that needs them, so that ``--help`` and bad arguments answer at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from .errors import BadInput
from .render.figure import figure_format, save_figure
from .render.panels import VIEWS
from .render.plain_text import plain_text
from .render.tables import answer_table, cell, cost_table, new_table, notes

if TYPE_CHECKING:
    from rich.table import Table

    from .calibration import Calibration
    from .images import Picture
    from .models.loading import VisionLanguageModel
    from .pruners.base import Param
    from .records import Comparison

_PIPE_WIDTH = 160
"""Columns of a table that goes to a file or another program."""


class _Parser(argparse.ArgumentParser):
    """Reports a wrong argument as BadInput, so that it ends like all other bad input."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message[:1].upper()}{message[1:]}; see {self.prog} --help.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (default: the process's) and return its exit code. Defects propagate."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal without a glyph must not end the run
            stream.reconfigure(errors="replace")
    try:
        arguments = _parser().parse_args(argv)
        return int(arguments.run(arguments))
    except BadInput as error:
        print(f"tokviz: {plain_text(str(error))}", file=sys.stderr)
        return 2
    except SystemExit as leaving:  # --help and --version, which argparse has answered
        return int(leaving.code or 0)
    except KeyboardInterrupt:
        print("tokviz: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe (head, less) left. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    from . import __version__

    parser = _Parser(prog="python -m tokviz", description="See what visual-token pruners keep.")
    parser.add_argument("--version", action="version", version=f"tokviz {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="command")
    _add_compare(commands)
    _add_calibrate(commands)
    _add_methods(commands)
    _add_models(commands)
    return parser


# ---------------------------------------------------------------------------------------------------------- compare


def _add_compare(commands: Any) -> None:
    parser = commands.add_parser(
        "compare", allow_abbrev=False, help="answer a question with and without pruning, at one budget"
    )
    parser.set_defaults(run=run_compare)
    add = parser.add_argument
    add("--image", required=True, metavar="FILE", help="picture (PNG, JPEG, WebP, GIF, BMP, TIFF)")
    add("--question", required=True, metavar="TEXT", help="one question about the picture")
    add("--methods", default="apet,fastervlm,divprune", metavar="ID,ID", help="method ids (default: %(default)s)")
    add("--budget", type=int, default=64, metavar="N", help="visual tokens to keep (default: %(default)s)")
    add("--budget-as", default="published", choices=("published", "final", "average"),
        help="what the budget counts: as the method's paper does, after the last stage, or on average over the "
        "model's blocks (default: %(default)s)")  # fmt: skip
    add("--model", default="tokviz-tiny", metavar="NAME", help="model of the menu, folder, or hub id")
    add("--seed", type=int, default=0, metavar="N", help="seed of everything random (default: %(default)s)")
    add("--repeats", type=int, default=1, metavar="N", help="more than 1: median times after a warm-up")
    add("--max-new-tokens", type=int, default=32, metavar="N", help="longest answer (default: %(default)s)")
    add("--param", action="append", default=[], metavar="ID.NAME=VALUE", help="a method's parameter; repeatable")
    add("--answer", metavar="TEXT", help="the right answer, to mark answers right or wrong")
    add("--evidence", action="append", default=[], metavar="X0,Y0,X1,Y1",
        help="box around what shows the answer, in pixels of the picture; repeatable")  # fmt: skip
    add("--json", metavar="FILE", help="write the session")
    add("--figure", metavar="FILE", help="write a figure (.png, .svg or .pdf)")
    add("--view", default="kept", choices=VIEWS, help="what the figure shows (default: %(default)s)")


def run_compare(arguments: argparse.Namespace) -> int:
    """Compare, print the tables, write session and figure. Everything that can be wrong is checked before the work."""
    outputs = [Path(name) for name in (arguments.json, arguments.figure) if name]
    if arguments.figure:
        figure_format(arguments.figure)
    for path in outputs:
        check_writable(path, arguments.image)
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise BadInput("--json and --figure name the same file; give them different names.")
    progress = Console(stderr=True)
    _quiet_unless(progress.is_terminal)

    from .images import read_image

    picture = read_image(arguments.image)
    methods = [name.strip() for name in arguments.methods.split(",") if name.strip()]
    options = {
        "methods": methods,
        "budget": arguments.budget,
        "budget_as": arguments.budget_as,
        "params": parse_params(arguments.param, methods),
        "seed": arguments.seed,
        "repeats": arguments.repeats,
        "max_new_tokens": arguments.max_new_tokens,
        "expected": arguments.answer,
        "evidence": [parse_box(text) for text in arguments.evidence],
    }
    comparison = _compare_with_progress(arguments.model, picture, arguments.question, options, progress)
    _print_comparison(comparison)
    if arguments.json:
        _write_text(Path(arguments.json), comparison.to_json())
    if arguments.figure:
        save_figure(comparison, arguments.figure, view=arguments.view)
    errors = [run.error for run in comparison.runs if run.error]
    if errors and len(errors) >= len(comparison.runs) - 1:
        raise BadInput(errors[0])
    return 0


def _compare_with_progress(
    model: str, picture: Picture, question: str, options: dict[str, Any], console: Console
) -> Comparison:
    """Load the model and run the comparison; on a terminal say what is going on, else stay silent."""
    import tokviz

    if console.is_terminal:
        console.print(Text(f"Loading {plain_text(model)} …"))
    vlm: VisionLanguageModel = tokviz.load(model)
    generator: Any = tokviz.compare_events(vlm, picture, question, **options)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with (
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
        closing(generator) as events,
    ):
        task = progress.add_task("Encoding the picture", total=None)
        for event in events:
            planned = event.comparison.request.methods
            if event.kind in ("lane", "text"):
                where = f"{planned[event.lane]} ({event.lane + 1} of {len(planned)})"
                progress.update(task, description=f"{where}  {plain_text(event.text)[-60:]}")
    return event.comparison


def _print_comparison(comparison: Comparison) -> None:
    console = _out()
    console.print(answer_table(comparison))
    console.print(cost_table(comparison))
    for line in notes(comparison):
        console.print(Text(line))


def check_writable(path: Path, image: str | None = None) -> None:
    """Raise BadInput when a file cannot be written at ``path``, or would overwrite the picture. Leaves no file."""
    if image is not None and path.exists() and Path(image).exists() and path.samefile(image):
        raise BadInput(f"{path.name!r} is the picture itself; give the output another name.")
    if path.is_dir():
        raise BadInput(f"{str(path)!r} is a folder; give a file name.")
    try:
        if path.exists():
            path.open("ab").close()
        else:
            tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise BadInput(f"{str(path)!r} cannot be written: {(error.strerror or 'unknown reason').lower()}.") from error


def _write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{str(path)!r} cannot be written: {(error.strerror or 'unknown reason').lower()}.") from error


def parse_params(texts: Sequence[str], methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """``["apet.mode=official"]`` as ``{"apet": {"mode": "official"}}``, typed and checked by the methods themselves.

    Raises BadInput for unknown methods (also among ``methods``), parameters and values.
    """
    from .pruners import get

    pruners = {method: get(method) for method in methods}
    given: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        method, dot, parameter = name.strip().partition(".")
        if not (equals and dot and method and parameter):
            raise BadInput(f"--param takes method.name=value, e.g. apet.mode=official, not {text!r}.")
        if method not in pruners:
            raise BadInput(f"--param {text!r} is about {method!r}, which is not among --methods.")
        spec = {param.name: param for param in pruners[method].params}.get(parameter)
        given.setdefault(method, {})[parameter] = value if spec is None else parse_value(spec, value.strip())
    for method, values in given.items():
        pruners[method].complete(values)
    return given


def parse_value(param: Param, text: str) -> bool | int | float | str:
    """The text of a parameter in the type of its kind. Raises BadInput."""
    if param.kind == "bool":
        if text.lower() not in ("true", "false"):
            raise BadInput(f"{param.name} must be true or false, not {text!r}.")
        return text.lower() == "true"
    if param.kind == "choice":
        return text
    try:
        return int(text) if param.kind == "int" else float(text)
    except ValueError as error:
        whole = "a whole number" if param.kind == "int" else "a number"
        raise BadInput(f"{param.name} must be {whole}, not {text!r}.") from error


def parse_box(text: str) -> tuple[float, float, float, float]:
    """``"x0,y0,x1,y1"`` as numbers. Raises BadInput."""
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError as error:
        raise BadInput(f"--evidence takes x0,y0,x1,y1 in pixels, not {text!r}.") from error
    return x0, y0, x1, y1


# -------------------------------------------------------------------------------------------------------- calibrate


def _add_calibrate(commands: Any) -> None:
    parser = commands.add_parser(
        "calibrate", allow_abbrev=False, help="search the block at which VTW may withdraw the picture from a model"
    )
    parser.set_defaults(run=run_calibrate)
    add = parser.add_argument
    add("method", choices=("vtw",), help="the method whose setting is searched")
    add("--model", default="tokviz-tiny", metavar="NAME", help="model of the menu, folder, or hub id")
    samples = parser.add_mutually_exclusive_group()
    samples.add_argument(
        "--scenes", type=int, default=20, metavar="N", help="held-out drawn scenes to ask about (default: %(default)s)"
    )
    samples.add_argument("--cases", metavar="FOLDER", help="stored cases instead (folders with a session.json)")
    samples.add_argument("--images", metavar="FOLDER", help="pictures of a folder instead; needs --question")
    add("--question", metavar="TEXT", help="the question about the pictures of --images")
    add("--eta", type=float, metavar="NATS", help="divergence at which the answer counts as unchanged (default: 0.003)")
    add("--first", type=int, metavar="K", help="first block to try (default: 5 of 32, in proportion elsewhere)")
    add("--json", metavar="FILE", help="write the curve")


def run_calibrate(arguments: argparse.Namespace) -> int:
    """Search, print the curve and the block, write the curve. Ends with 2 when no block is good enough."""
    if (arguments.images is None) != (arguments.question is None):
        raise BadInput("--images and --question belong together: give both or none.")
    if arguments.json:
        check_writable(Path(arguments.json))
    progress = Console(stderr=True)
    _quiet_unless(progress.is_terminal)

    import tokviz

    from .calibration import ETA, calibrate_vtw, case_samples, picture_samples, scene_samples
    from .comparing import check_question

    if arguments.cases:
        samples = case_samples(Path(arguments.cases))
    elif arguments.images:
        samples = picture_samples(Path(arguments.images), arguments.question)
    else:
        samples = scene_samples(arguments.scenes)
    vlm = tokviz.load(arguments.model)
    if arguments.question is not None:
        check_question(arguments.question, vlm)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=progress, transient=True, disable=not progress.is_terminal) as bar:
        task = bar.add_task("Calibrating", total=len(samples))
        found = calibrate_vtw(
            vlm, samples, eta=ETA if arguments.eta is None else arguments.eta, first=arguments.first,
            on_sample=lambda done: bar.update(task, description=f"Sample {done} of {len(samples)}"),
        )  # fmt: skip
    console = _out()
    console.print(_curve_table(found))
    if arguments.json:
        _write_text(Path(arguments.json), json.dumps({**asdict(found), "block": found.block}, indent=2) + "\n")
    if found.block is None:
        block, divergence = found.closest
        raise BadInput(
            f"No block of {found.model} is good enough: the smallest divergence is {divergence:.3g} nats, at block "
            f"{block}, and eta is {found.eta:g}. Allow a larger --eta."
        )
    console.print(Text(f"K = {found.block}. Use it with --param vtw.block={found.block}."))
    return 0


def _curve_table(found: Calibration) -> Table:
    """Divergence per block, with what the blocks in front of it make of the picture's cost."""
    table = new_table(
        f"VTW on {plain_text(found.model)}, mean of {found.n_samples} samples",
        ("block K", "right"), ("divergence, nats", "right"), (f"at most {found.eta:g}", "left"),
        ("blocks that see the picture", "right"),
    )  # fmt: skip
    for block, divergence in zip(found.blocks, found.divergence, strict=True):
        enough = "yes" if divergence <= found.eta else ""
        seen = f"{block} of {found.n_blocks} ({block / found.n_blocks:.0%})"
        table.add_row(cell(block), cell(f"{divergence:.6f}"), cell(enough), cell(seen))
    return table


# -------------------------------------------------------------------------------------------------- methods, models


def _add_methods(commands: Any) -> None:
    parser = commands.add_parser("methods", help="what there is, what each needs, its parameters")
    parser.set_defaults(run=run_methods)


def run_methods(arguments: argparse.Namespace) -> int:
    """Print every method with family, needed signals, parameters and claim."""
    from .pruners import methods

    table = new_table(
        "Methods",
        ("id", "left"),
        ("family", "left"),
        ("needs", "left"),
        ("parameters", "left"),
        ("what it does", "left"),
    )
    for pruner in methods():
        nothing = "–" if pruner.family == "control" else "features only"
        needs = ", ".join(dict.fromkeys(need.kind.replace("_", " ") for need in pruner.needs)) or nothing
        params = ", ".join(f"{param.name}={_default(param)}" for param in pruner.params) or "–"
        table.add_row(
            cell(pruner.id, "bold"),
            cell(pruner.family.replace("-", " ")),
            cell(needs),
            cell(params),
            cell(pruner.claim),
        )
    _out().print(table)
    return 0


def _default(param: Param) -> str:
    if param.kind == "choice":
        return "|".join([str(param.default), *(choice for choice in param.choices if choice != param.default)])
    return str(param.default).lower() if param.kind == "bool" else f"{param.default:g}"


def _add_models(commands: Any) -> None:
    parser = commands.add_parser("models", help="the menu of models")
    parser.set_defaults(run=run_models)


def run_models(arguments: argparse.Namespace) -> int:
    """Print the catalog of models."""
    from .models.catalog import CATALOG

    table = new_table(
        "Models", ("id", "left"), ("name", "left"), ("family", "left"), ("memory, estimated", "right"),
        ("licence", "left"), ("note", "left"),
    )  # fmt: skip
    for entry in CATALOG:
        memory = f"≈ {entry.memory_gb:g} GB" if entry.memory_gb else "< 1 GB"
        table.add_row(
            cell(entry.id, "bold"), cell(entry.label), cell(entry.family), cell(memory), cell(entry.licence),
            cell(entry.note),
        )  # fmt: skip
    _out().print(table)
    return 0


def _out() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)


def _quiet_unless(terminal: bool) -> None:
    """Keep the loader's progress bars out of logs. Works because transformers is imported only after this."""
    if not terminal:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
