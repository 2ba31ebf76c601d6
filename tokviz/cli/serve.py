"""``serve``: the page, until it is told to end."""

from __future__ import annotations

import argparse
import os
from typing import Any

from ..errors import BadInput
from ..extras import need


def add_to(commands: Any) -> None:
    """Declare the command's arguments."""
    parser = commands.add_parser(
        "serve", allow_abbrev=False, help="serve the page in which methods are compared",
        description="Serve the page until Ctrl-C. Everything else is set by environment variables, which "
        "docs/hosting.md lists; what is given here goes before them.",
    )  # fmt: skip
    parser.set_defaults(run=run_serve)
    add = parser.add_argument
    add("--host", metavar="HOST", help="address to serve on; 0.0.0.0 for every one of this machine (default: the "
        "variable HOST or GRADIO_SERVER_NAME, else 127.0.0.1)")  # fmt: skip
    add("--port", type=int, metavar="PORT", help="port (default: the variable PORT or GRADIO_SERVER_PORT, else 7860)")
    add("--model", metavar="NAME,NAME", help="models that the page offers, ids or folders, the first one by default "
        "(default: the variable TOKVIZ_MODEL, else the whole menu)")  # fmt: skip


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

    serve()
