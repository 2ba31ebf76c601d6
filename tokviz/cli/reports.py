"""``bench`` and ``calibrate``: commands that live beside the package, in ``benchmarks/``, and need a checkout.

They ask about scenes that the project draws, and write its own reports; an installed tokviz names them and says where
they are.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import BadInput
from ..resources import IMPORT_FOLDER

_COMMANDS = {
    "bench": ("benchmarks.fidelity.command", "right answers of every method on held-out scenes; ablations"),
    "calibrate": ("benchmarks.vtw_calibration_command", "search the layer at which VTW may withdraw the image"),
}


def add_to(commands: Any) -> None:
    """Declare both commands: the real ones in a checkout, elsewhere what to do to have them."""
    for name, (module, help) in _COMMANDS.items():
        if (IMPORT_FOLDER / Path(*module.split("."))).with_suffix(".py").is_file():
            if str(IMPORT_FOLDER) not in sys.path:  # ``tokviz`` as a console script of an editable install
                sys.path.insert(0, str(IMPORT_FOLDER))
            import_module(module).add_to(commands)
        else:
            parser = commands.add_parser(name, help=f"{help} (in a checkout)", add_help=False)
            parser.add_argument("arguments", nargs=argparse.REMAINDER)
            parser.set_defaults(run=_needs_a_checkout, command=name)


def _needs_a_checkout(arguments: argparse.Namespace) -> int:
    raise BadInput(
        f"tokviz {arguments.command} draws its own scenes, which an installed tokviz does not carry: run "
        f"`python -m tokviz {arguments.command}` in a checkout of the repository."
    )
