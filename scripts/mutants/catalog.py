"""The mutants as they stand in the ``*.toml`` beside this file, one file per room, and how one is applied."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).resolve().parent
FIELDS = {"id", "breaks", "file", "find", "replace", "tests"}


class Stale(ValueError):
    """A mutant that no longer fits the code; the text says which and why."""


@dataclass(frozen=True)
class Mutant:
    """One defect: in ``file``, ``find`` becomes ``replace``, and one of ``tests`` (paths, cheapest first) must fail."""

    room: str
    id: str
    breaks: str
    file: str
    find: str
    replace: str
    tests: tuple[str, ...]


def load(folder: Path = FOLDER) -> list[Mutant]:
    """All mutants, room by room in the order of the files. Raises Stale for a malformed entry or an id given twice."""
    mutants: list[Mutant] = []
    for path in sorted(folder.glob("*.toml")):
        for entry in tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]:
            if entry.keys() != FIELDS:
                raise Stale(f"stale mutant: {path.name} {entry.get('id')}: fields {sorted(entry.keys() ^ FIELDS)}")
            mutants.append(Mutant(room=path.stem, **{**entry, "tests": tuple(entry["tests"])}))
    ids = [mutant.id for mutant in mutants]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise Stale(f"stale mutant: given twice: {', '.join(twice)}")
    return mutants


def mutated(mutant: Mutant, root: Path = ROOT) -> str:
    """The text of the mutant's file with the defect in it.

    Raises Stale when the file or a test is gone, when ``find`` does not occur exactly once, or when the result is no
    Python or does the same as before.
    """
    path = root / mutant.file
    if not path.is_file():
        raise Stale(f"stale mutant: {mutant.id}: there is no {mutant.file}")
    for test in mutant.tests:
        if not (root / test).exists():
            raise Stale(f"stale mutant: {mutant.id}: there is no {test}")
    if not mutant.tests:
        raise Stale(f"stale mutant: {mutant.id}: names no test")
    before = path.read_text(encoding="utf-8")
    times = before.count(mutant.find)
    if times != 1:
        raise Stale(f"stale mutant: {mutant.id}: its text occurs {times} times in {mutant.file}, not once")
    after = before.replace(mutant.find, mutant.replace)
    if path.suffix == ".py":
        _check_python(mutant, before, after)
    elif after == before:
        raise Stale(f"stale mutant: {mutant.id}: changes nothing")
    return after


def _check_python(mutant: Mutant, before: str, after: str) -> None:
    try:
        tree = ast.parse(after, mutant.file)
        compile(after, mutant.file, "exec")
    except SyntaxError as error:
        raise Stale(f"stale mutant: {mutant.id}: the result is no Python ({error})") from error
    if ast.dump(tree) == ast.dump(ast.parse(before)):
        raise Stale(f"stale mutant: {mutant.id}: changes nothing")


def complaints(mutants: Iterable[Mutant], root: Path = ROOT) -> list[str]:
    """What ``mutated`` says of those that do not apply; empty when all do."""
    found = []
    for mutant in mutants:
        try:
            mutated(mutant, root)
        except Stale as error:
            found.append(str(error))
    return found
