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

from .chart import FORMATS, chart_bytes
from .pages import written
from .retained import Outcomes
from .summary import FORMAT, summarise


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
    contents = {page: written("fidelity", document, short=False).encode()}
    contents |= {folder / f"fidelity.{file_format}": chart_bytes(document, file_format) for file_format in FORMATS}
    if docs is not None:
        docs.mkdir(parents=True, exist_ok=True)
        seen_from_docs = Path(os.path.relpath(folder, docs)).as_posix()
        contents[docs / page.name] = written("fidelity_short", document, short=True, folder=seen_from_docs).encode()
    for path, content in contents.items():
        write_whole(path, content)
    return list(contents)


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
