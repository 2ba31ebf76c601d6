"""Reading case files that strangers wrote: line by line, within limits, with the place of everything that is wrong."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from ..errors import BadInput
from ..files import open_file, shown_name
from ..short import passed
from .case import BrokenLine

MAX_LINE_BYTES = 4_000_000
"""Of one line; a case with 1,024 boxes and 256 answers is far shorter."""
MAX_DOCUMENT_BYTES = 2_000_000_000
"""Of a file that is one JSON document and must be held as a whole; GQA's largest has 1.3 GB."""
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Entry:
    """One raw entry.

    file: its name without the folder. line: from 1; None within a file that is one JSON document, where number counts.
    broken: why ``value`` cannot be used.
    """

    file: str
    line: int | None
    value: Any = None
    broken: str | None = None
    number: int | None = None


def json_lines(path: Path) -> Iterator[Entry]:
    """Every line of a JSONL file as an object; empty lines are left out, broken ones say why. Raises BadInput."""
    for number, text in _lines(path):
        if isinstance(text, BrokenLine):
            yield Entry(path.name, number, broken=str(text))
            continue
        if not text.strip():
            continue
        try:
            value = json.loads(text, parse_constant=_refuse_constant)
        except json.JSONDecodeError as error:
            yield Entry(path.name, number, broken=f"not JSON: {error.msg.lower()} at column {error.colno}")
        except (BrokenLine, RecursionError, ValueError) as error:
            reason = str(error) if isinstance(error, BrokenLine) else "not JSON that can be read: nested or too long"
            yield Entry(path.name, number, broken=reason)
        else:
            if isinstance(value, dict):
                yield Entry(path.name, number, value)
            else:
                yield Entry(path.name, number, broken='expected a JSON object, as in {"id": "1", "image": "1.png", …}')


def text_lines(path: Path) -> Iterator[Entry]:
    """Every line of a text file without its end; empty ones are left out. Raises BadInput."""
    for number, text in _lines(path):
        if isinstance(text, BrokenLine):
            yield Entry(path.name, number, broken=str(text))
        elif text.strip():
            yield Entry(path.name, number, text)


def _lines(path: Path) -> Iterator[tuple[int, str | BrokenLine]]:
    number = 0
    with open_file(path, "case") as file:
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE_BYTES)
                yield number, BrokenLine(f"the line has more than {MAX_LINE_BYTES:,} bytes")
                continue
            if number == 1:
                line = line.removeprefix(_BOM)
            try:
                yield number, line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                yield number, BrokenLine("the line is not UTF-8 text")


def document(path: Path) -> Any:
    """A file that is one JSON document.

    Raises:
        BadInput: If it is missing, too large, or no JSON; with the line.
    """
    with open_file(path, "case") as file:
        if os.fstat(file.fileno()).st_size > MAX_DOCUMENT_BYTES:
            limit = MAX_DOCUMENT_BYTES // 1_000_000_000
            raise BadInput(f"{shown_name(path)!r} has more than {limit} GB; write its cases as JSON lines instead.")
        data = file.read(MAX_DOCUMENT_BYTES + 1)
    try:
        return json.loads(data.removeprefix(_BOM).decode("utf-8"), parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise BadInput(f"{shown_name(path)!r} is no JSON file: {error.msg.lower()} in {where}.") from error
    except BrokenLine as error:
        raise BadInput(f"{shown_name(path)!r} cannot be used: {error}.") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{shown_name(path)!r} is no JSON file that can be read.") from error


def _refuse_constant(name: str) -> float:
    raise BrokenLine(f"{name} is no number in JSON")


def digest(paths: Sequence[Path], folder: Path) -> str:
    """SHA-256 of a file; of several, of the lines ``sha256sum`` prints for them in ``folder``, sorted by name."""
    sums = []
    for path in paths:
        with open_file(path, "case") as file:
            sums.append((_below(path, folder), hashlib.file_digest(file, "sha256").hexdigest()))
    if len(sums) == 1:
        return sums[0][1]
    return hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in sorted(sums)).encode()).hexdigest()


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


def head(path: Path, size: int = 65_536) -> bytes:
    """The first bytes of a file; nothing of a folder or of what cannot be read."""
    try:
        with open_file(path, "case") as file:
            return file.read(size)
    except (BadInput, OSError):
        return b""


def first_object(path: Path) -> dict[str, Any]:
    """The first line that is a JSON object, among the first few; empty when there is none."""
    for line in head(path, 1_000_000).splitlines()[:20]:
        try:
            value = json.loads(line.removeprefix(_BOM))
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            return value
    return {}


def entries_of(path: Path, values: Any) -> Iterator[Entry]:
    """The entries of a document's list, or of its object as pairs of key and value; each says its number, from 1."""
    if isinstance(values, dict):
        values = values.items()
    elif not isinstance(values, list):
        raise BadInput(f"{shown_name(path)!r} holds no list of entries where its layout has one.")
    for number, value in enumerate(values, start=1):
        yield Entry(path.name, None, value, number=number)


def confined(base: Path, written: str) -> Path:
    """Where a path from a case file leads: inside of ``base``, links followed. It need not exist.

    base: a folder that is resolved already.

    Raises:
        BrokenLine: If it leads anywhere else, or cannot be a path.
    """
    shown = passed(written)
    if "://" in written or written.startswith("data:"):
        raise BrokenLine(f"{shown} is an address; only files on this machine are read, download it first")
    if "\0" in written:
        raise BrokenLine(f"{shown} cannot be the name of a file")
    if ".." in (*PurePosixPath(written).parts, *PureWindowsPath(written).parts):
        raise BrokenLine(f"{shown} leads out of its folder with '..'; name the media folder (media=, --media) instead")
    try:
        path = (base / written).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise BrokenLine(f"{shown} cannot be followed to a file") from error
    if not path.is_relative_to(base):
        kind = "is an absolute path outside" if Path(written).is_absolute() else "is a link that leads out"
        raise BrokenLine(f"{shown} {kind} of the media folder")
    return path
