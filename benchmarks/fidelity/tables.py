"""The fidelity benchmark as files: ``fidelity.json`` with every number, and pages and a chart made from it alone.

python -m benchmarks.fidelity.tables benchmarks/fidelity.json    # writes the pages again beside it
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokviz.errors import BadInput
from tokviz.files import write_whole

from .chart import chart_bytes
from .conclusions import conclusions
from .pages import accuracy_tables, comparison, differences, facts, flips, left_out, reading, reasons, retention_tables
from .separation import sentences
from .summary import FORMAT, Outcomes, summarise

CHART_FORMATS = ("png", "svg")


def write(outcomes: Outcomes, about: Mapping[str, Any], folder: Path, docs: Path | None = None) -> list[Path]:
    """Compute and write ``fidelity.json``, ``fidelity.md`` and the chart to ``folder``, the short page to ``docs``.

    outcomes, about: as for ``summarise``, whose BadInput this raises too. Returns the paths written.
    """
    document = summarise(outcomes, about)
    folder.mkdir(parents=True, exist_ok=True)
    stored = folder / "fidelity.json"
    write_whole(stored, (json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode())
    return [stored, *write_pages(document, folder, docs)]


def write_pages(document: Mapping[str, Any], folder: Path, docs: Path | None = None) -> list[Path]:
    """Write everything but the JSON file from its content."""
    page = folder / "fidelity.md"
    write_whole(page, full_page(document).encode())
    charts = [folder / f"fidelity.{file_format}" for file_format in CHART_FORMATS]
    for path, file_format in zip(charts, CHART_FORMATS, strict=True):
        write_whole(path, chart_bytes(document, file_format))
    written = [page, *charts]
    if docs is not None:
        docs.mkdir(parents=True, exist_ok=True)
        short = docs / "fidelity.md"
        write_whole(short, short_page(document, Path(os.path.relpath(folder, docs)).as_posix()).encode())
        written.append(short)
    return written


def read(path: Path) -> dict[str, Any]:
    """Read ``fidelity.json``. Raises BadInput when it is missing, damaged or of another format version."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = (error.strerror or "unknown reason").lower()
        raise BadInput(f"{str(path)!r} cannot be read: {reason}.") from error
    except ValueError as error:
        raise BadInput(f"{str(path)!r} is no JSON file.") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise BadInput(f"{str(path)!r} is no fidelity table of format {FORMAT}.")
    return document


def full_page(document: Mapping[str, Any]) -> str:
    """``fidelity.md``: all tables, the demands on the benchmark, the papers, and how to read it."""
    n_visual = document["about"]["n_visual"]
    parts = [
        "# Fidelity: what pruning costs in right answers",
        *facts(document),
        *conclusions(document),
        f"![Mean retention over the budget]({'fidelity.png'})",
        "## Accuracy",
        *accuracy_tables(document),
        "## Retention by family",
        *retention_tables(document),
        "## Against random and uniform tokens",
        *differences(document),
        "## Answers that flip",
        *flips(document),
        "## Does the benchmark separate?",
        *sentences(document["separation"], n_visual),
        "## Beside the papers",
        *comparison(document),
        "## Left out",
        *left_out(document),
        "## How to read it",
        *reading(document),
    ]
    return "\n\n".join(parts) + "\n"


def short_page(document: Mapping[str, Any], folder: str) -> str:
    """``docs/fidelity.md``: the conclusions and the main tables. folder: where the full page lies, seen from docs."""
    parts = [
        "# Fidelity",
        "What pruning costs in right answers, on drawn scenes that the model has not seen. Every number, interval and "
        f"test is in [{folder}/fidelity.md]({folder}/fidelity.md).",
        *facts(document),
        *conclusions(document),
        f"![Mean retention over the budget]({folder}/fidelity.png)",
        *accuracy_tables(document, short=True),
        "## Why ranks can differ from the papers'",
        reasons(),
        "## How to read it",
        *reading(document),
    ]
    return "\n\n".join(parts) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Write the pages again from a stored JSON file. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fidelity.tables", description=main.__doc__)
    parser.add_argument("file", type=Path, help="fidelity.json")
    parser.add_argument("--docs", type=Path, help="folder for the short page")
    given = parser.parse_args(arguments)
    try:
        for path in write_pages(read(given.file), given.file.parent, given.docs):
            print(path)
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
