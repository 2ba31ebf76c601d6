"""``tokviz`` and ``python -m tokviz``.

Exit codes: 0 success, 2 bad input (one sentence on stderr says what to do), 130 interrupted, 1 a bug (traceback).
Torch and models are imported by the command that needs them, so that ``--help`` and bad arguments answer at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from ..errors import BadInput
from ..viz.format import plain_text
from . import cases, commands, compare, horizon, inside, mine, report, rescue, sweep, tables


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
    from .. import __version__

    called = "python -m tokviz" if os.path.basename(sys.argv[0]) == "__main__.py" else "tokviz"
    parser = _Parser(prog=called, description="See what visual-token pruners keep.")
    parser.add_argument("--version", action="version", version=f"tokviz {__version__}")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="command")
    for module in (compare, sweep, cases, mine, tables, report, rescue, horizon, inside, commands):
        module.add_to(subparsers)
    return parser
