"""A file or folder of cases, read lazily: every broken entry is counted with its place, and skipped."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..errors import BadInput, nearest
from ..files import is_file, shown_name
from .case import BrokenLine, Case, LeftOut, Problem
from .layouts import LAYOUTS, JsonLines
from .layouts.layout import Layout
from .reading import Entry, confined, digest

QUESTION = "{question}"
MAX_PROBLEMS = 100_000
"""Problems that are kept with their places; all are counted."""


class CaseFile:
    """The cases of a file or folder. Iterating reads it anew, in file order.

    Attributes:
        name: Of the file or folder, without where it lies.
        layout: Name of the layout that reads it.
        root: The folder that images and videos lie in; nothing outside of it is opened.
        problems: What could not be used so far, in file order; of the latest iteration only.
        n_problems: How many there were; ``problems`` has at most 100,000.
        left_out: Entries that are in order but no cases, such as questions without an image: which kind, and how many.
        unused_keys: Keys of entries that have no meaning here, with how many entries have them.
    """

    def __init__(self, path: Path, layout: type[Layout], media: Path | None = None, prompt: str = "{question}") -> None:
        self._path, self._layout, self._prompt = path, layout, prompt
        self.name = path.name
        self.layout = layout.name
        reader = layout(path)
        self.root = (reader.folder if media is None else media).resolve()
        self._files = tuple(reader.files())
        self.problems: list[Problem] = []
        self.n_problems = 0
        self.left_out: Counter[str] = Counter()
        self.unused_keys: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"CaseFile({self.name!r}, layout={self.layout!r})"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file, or of the names and digests of several; with a prompt, of that too. Not of media."""
        files = digest(self._files, self._path)
        if self._prompt == QUESTION:
            return files
        return hashlib.sha256(f"{files}\n{self._prompt}".encode()).hexdigest()

    def __iter__(self) -> Iterator[Case]:
        reader = self._layout(self._path)
        self.problems, self.n_problems = [], 0
        self.left_out, self.unused_keys = Counter(), reader.unused
        seen: dict[str, Entry] = {}
        for entry in reader.entries():
            try:
                case = self._case(reader, entry)
                if case.id in seen:
                    raise BrokenLine(f"the id {case.id[:80]!r} is taken by {_place(seen[case.id])}")
            except BrokenLine as error:
                counted = f"entry {entry.number:,}: " if entry.number is not None else ""
                self._add(Problem(entry.file, entry.line, f"{counted}{error}"))
            except LeftOut as error:
                self.left_out[str(error)] += 1
            else:
                seen[case.id] = replace(entry, value=None)
                yield case

    def media_path(self, case: Case) -> Path:
        """Where the image or video of a case lies; links are followed and stay inside of ``root``.

        Raises:
            BadInput: If it leads out of the folder or there is no such file.
        """
        try:
            path = confined(self.root, case.media)
        except BrokenLine as error:
            raise BadInput(f"The case {case.id[:80]!r} cannot be used: {error}.") from error
        if not is_file(path):
            what = "image" if case.image is not None else "video"
            raise BadInput(f"There is no {what} file named {shown_name(case.media)!r} in the media folder.")
        return path

    def _case(self, reader: Layout, entry: Entry) -> Case:
        """Raises BrokenLine."""
        if entry.broken is not None:
            raise BrokenLine(entry.broken)
        try:
            fields = reader.fields(entry.value)
        except (AttributeError, TypeError, KeyError, IndexError) as error:  # JSON of another form, at any depth
            raise BrokenLine(f"the entry has not the form that the layout {reader.name} says") from error
        for name in ("image", "video"):
            if fields.get(name) is not None:
                fields[name] = self._found(fields[name])
        if isinstance(fields.get("question"), str):
            fields["question"] = self._prompt.replace(QUESTION, fields["question"])
        try:
            return Case(**fields)
        except ValidationError as error:
            raise BrokenLine(_sentence(error)) from error

    def _found(self, names: Any) -> str:
        """Of the names that a file may have, the first that there is, else the first. Raises BrokenLine."""
        written = (names,) if isinstance(names, str) else names
        if not isinstance(written, tuple):
            raise BrokenLine("the path of an image or video must be a text")
        paths = [confined(self.root, name) for name in written]
        return next((name for name, path in zip(written, paths, strict=True) if os.path.isfile(path)), written[0])

    def _add(self, problem: Problem) -> None:
        self.n_problems += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)


def open_cases(
    path: str | Path,
    layout: str | None = None,
    media: str | Path | None = None,
    prompt: str | None = None,
) -> CaseFile:
    """Open a case file, or a folder that holds one.

    Args:
        path: The file or folder; docs/cases.md lists the layouts.
        layout: Name of the layout; recognised from the content where it is None.
        media: The folder that images and videos lie in, if it is not the file's.
        prompt: What each question becomes, with ``{question}`` in it, such as LLaVA's
            ``"{question}\\nAnswer the question using a single word or phrase."``. As it is written where it is None.

    Raises:
        BadInput: If there is no such file, its layout is unknown or not recognised, or a file that it needs is missing.

    Example:
        >>> cases = tokviz.open_cases("pope/coco_pope_adversarial.json", media="val2014")
        >>> len(list(cases)), cases.problems
    """
    path = Path(path)
    if not path.is_dir() and not is_file(path):
        raise BadInput(f"There is no case file or folder named {shown_name(path)!r}.")
    if media is not None and not Path(media).is_dir():
        raise BadInput(f"There is no media folder named {shown_name(media)!r}.")
    if prompt is not None and QUESTION not in prompt:
        raise BadInput("The prompt needs {question} in it, where the question of each case goes.")
    return CaseFile(path, _layout_of(path, layout), None if media is None else Path(media), prompt or QUESTION)


def _layout_of(path: Path, name: str | None) -> type[Layout]:
    names = [layout.name for layout in LAYOUTS]
    if name is not None:
        found = next((layout for layout in LAYOUTS if layout.name == name), None)
        if found is None:
            near = nearest(name, names)
            advice = f"did you mean {near!r}?" if near else f"there are {', '.join(names)}."
            raise BadInput(f"There is no layout named {name[:80]!r}; {advice}")
        return found
    found = next((layout for layout in LAYOUTS if layout.recognises(path)), None)
    if found is None and path.suffix.lower() in (".jsonl", ".ndjson") and not path.is_dir():
        return JsonLines  # so that what is wrong with its lines is told
    if found is None:
        options = ", ".join(names)
        raise BadInput(f"The layout of {shown_name(path)!r} is not recognised; name it (layout=, --layout): {options}.")
    return found


def _place(entry: Entry) -> str:
    return f"{entry.file}, line {entry.line}" if entry.line is not None else f"{entry.file}, entry {entry.number:,}"


def _sentence(error: ValidationError) -> str:
    """The first thing that pydantic found, in a few words and without the value."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = str(first["loc"][0]) if first["loc"] else ""
    if where == "evidence" and first["type"] not in ("value_error", "too_long"):
        return "evidence: needs a list of boxes [x0, y0, x1, y1]"
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return f"{where}: {message}" if where else message
