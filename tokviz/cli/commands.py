"""The short commands: ``serve``, ``methods``, ``models``, and those of ``benchmarks/``, which need a checkout."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInput, need
from ..files import IMPORT_FOLDER
from ..viz.tables import cell, new_table
from .terminal import out

if TYPE_CHECKING:
    from ..pruners.pruner import Param

_BESIDE = {
    "bench": ("benchmarks.fidelity.command", "measure the accuracy of every method on held-out scenes; ablations"),
    "calibrate": ("benchmarks.vtw_calibration_command", "find the layer at which VTW can withdraw the image"),
}
"""Commands that ask about scenes that the project draws, and write its own reports: module and help."""


def add_to(commands: Any) -> None:
    """Declare the commands; those beside the package are real in a checkout, elsewhere they say how to have them."""
    _add_serve(commands)
    methods = commands.add_parser("methods", help="list the methods, their needs and their parameters")
    methods.set_defaults(run=run_methods)
    models = commands.add_parser("models", help="list the models on the menu")
    models.set_defaults(run=run_models)
    for name, (module, help) in _BESIDE.items():
        if (IMPORT_FOLDER / Path(*module.split("."))).with_suffix(".py").is_file():
            if str(IMPORT_FOLDER) not in sys.path:  # ``tokviz`` as a console script of an editable install
                sys.path.insert(0, str(IMPORT_FOLDER))
            import_module(module).add_to(commands)
        else:
            parser = commands.add_parser(name, help=f"{help} (in a checkout)", add_help=False)
            parser.add_argument("arguments", nargs=argparse.REMAINDER)
            parser.set_defaults(run=_needs_a_checkout, command=name)


def _add_serve(commands: Any) -> None:
    rest = "Everything else is set by environment variables, which docs/hosting.md lists"
    parser = commands.add_parser(
        "serve",
        allow_abbrev=False,
        help="serve the web page for comparing methods",
        description=f"Serve the page until Ctrl-C. {rest}; options given here override them.",
    )
    parser.set_defaults(run=run_serve)
    add = parser.add_argument
    address = "address to serve on; 0.0.0.0 for all interfaces"
    add("--host", metavar="HOST", help=f"{address} (default: the variable HOST or GRADIO_SERVER_NAME, else 127.0.0.1)")
    add("--port", type=int, metavar="PORT", help="port (default: the variable PORT or GRADIO_SERVER_PORT, else 7860)")
    offered = "models to offer on the page, ids or folders; the first is preselected"
    menu = "(default: the variable TOKVIZ_MODEL, else the whole menu)"
    add("--model", metavar="NAME,NAME", help=f"{offered} {menu}")
    add(
        "--runs",
        metavar="DIR",
        help="a mined run, or a folder of them, to browse (default: the one that comes with it)",
    )
    add("--media", metavar="DIR", action="append", default=[], help="folder with the images of a run; repeatable")


def run_serve(arguments: argparse.Namespace) -> int:
    """Serve the page; the process ends with it."""
    need("gradio", "ui", "The page")
    if arguments.port is not None and not 1 <= arguments.port <= 65535:
        raise BadInput(f"--port must lie between 1 and 65535, not {arguments.port}.")
    # Who may come in, and whether strangers can, is decided from the same variables.
    for name, value in (("HOST", arguments.host), ("PORT", arguments.port), ("TOKVIZ_MODEL", arguments.model)):
        if value is not None:
            os.environ[name] = str(value)

    from ..ui.serve import serve

    serve(arguments.runs, arguments.media)


def run_methods(arguments: argparse.Namespace) -> int:
    """Print every method with family, needed signals, parameters and claim."""
    from ..pruners import methods

    table = new_table("Methods", "id", "family", "needs", "parameters", "what it does")
    for pruner in methods():
        nothing = "–" if pruner.family == "control" else "features only"
        needs = ", ".join(dict.fromkeys(signal.kind.replace("_", " ") for signal in pruner.needs)) or nothing
        params = ", ".join(f"{param.name}={_default(param)}" for param in pruner.params) or "–"
        rest = (pruner.family.replace("-", " "), needs, params, pruner.claim)
        table.add_row(cell(pruner.id, "bold"), *map(cell, rest))
    out().print(table)
    return 0


def _default(param: Param) -> str:
    if param.kind == "choice":
        return "|".join([str(param.default), *(choice for choice in param.choices if choice != param.default)])
    return str(param.default).lower() if param.kind == "bool" else f"{param.default:g}"


def run_models(arguments: argparse.Namespace) -> int:
    """Print the catalog of models: what each needs, takes and is; the memory is estimated."""
    from ..models.catalog import CATALOG, EMBEDDED

    sizes = (">size", ">GB, bf16", ">GB, 4-bit")
    table = new_table("Models (GB are estimated)", "id", "family", *sizes, "takes", "licence", "revision", "note")
    table.columns[0].no_wrap = True  # ids are copied
    for entry in CATALOG:
        memory = [f"{gb:.1f}" if gb else "< 1" for gb in (entry.memory_gb, entry.memory_gb_4bit)]
        revision = entry.revision[:8] if entry.revision else "here" if entry.id in EMBEDDED else "newest"
        rest = (entry.family, entry.size or "–", *memory, " ".join(entry.takes), entry.licence, revision, entry.note)
        table.add_row(cell(entry.id, "bold"), *map(cell, rest))
    out().print(table)
    return 0


def _needs_a_checkout(arguments: argparse.Namespace) -> int:
    raise BadInput(
        f"tokviz {arguments.command} draws its own scenes, which are not part of an installed tokviz: run "
        f"`python -m tokviz {arguments.command}` in a checkout of the repository."
    )
