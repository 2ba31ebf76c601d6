"""Measure the house: lines and files per room, what the wheel carries, and which room imports which.

    python -m scripts.house                  # the table of rooms, and imports that go the wrong way
    python -m scripts.house --draw graph.png # the import graph, rooms on their floors

Everything is read from the source (AST), nothing is imported. ``tests/test_layers.py`` uses the same functions.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "tokviz"

FLOORS: tuple[tuple[str, ...], ...] = (
    ("base",),
    ("media",),
    ("pruners",),
    ("models",),
    ("engine",),
    ("runs",),
    ("cases",),
    ("mining",),
    ("tables",),
    ("viz", "serving"),
    ("workbench",),
    ("ui",),
    ("api", "cli"),
)
"""From the ground up: a room imports from its own floor and those below, never from above and never a neighbour."""

Kind = Literal["import", "typing", "lazy"]


@dataclass(frozen=True)
class Import:
    """One module that imports another. kind: when the file is read, for annotations only, or when a function runs."""

    source: str
    target: str
    kind: Kind


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room_of(module: str) -> str:
    """The room of a module: its folder; top-level files are ``base``, but for the public ``api`` on top."""
    parts = module.split(".")
    if parts[-1] == "__main__":
        return "cli"
    if len(parts) == 1 or parts[1] == "api":
        return "api"
    return parts[1] if (ROOT / PACKAGE / parts[1]).is_dir() else "base"


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text())


@cache
def imports_of(module: str) -> tuple[Import, ...]:
    """What a module imports from the package."""
    path = modules()[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]

    def visit(node: ast.AST, kind: Kind) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            inner = kind
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                inner = "lazy"
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                inner = "typing"
            if isinstance(child, ast.ImportFrom):
                yield from (Import(module, target, kind) for target in _targets(child, package))
            elif isinstance(child, ast.Import):
                names = (alias.name for alias in child.names)
                yield from (Import(module, name, kind) for name in names if name.split(".")[0] == PACKAGE)
            else:
                yield from visit(child, inner)

    return tuple(visit(_tree(module), "import"))


def _targets(node: ast.ImportFrom, package: str) -> Iterator[str]:
    base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
    origin = ".".join([*base, *([node.module] if node.module else [])])
    if origin.split(".")[0] != PACKAGE:
        return
    for alias in node.names:
        submodule = f"{origin}.{alias.name}"
        yield submodule if submodule in modules() else origin


@cache
def all_imports() -> tuple[Import, ...]:
    """Every import within the package."""
    return tuple(found for module in modules() for found in imports_of(module))


def floor_of(room: str) -> int:
    """The number of a room's floor. Raises KeyError for a room that has none."""
    for number, rooms in enumerate(FLOORS):
        if room in rooms:
            return number
    raise KeyError(f"{room} has no floor; add it to FLOORS in {Path(__file__).name}")


def upward() -> list[Import]:
    """Imports that go up, or to a neighbour on the same floor."""
    found = []
    for entry in all_imports():
        source, target = room_of(entry.source), room_of(entry.target)
        if entry.target == PACKAGE:  # its __init__ resolves names lazily and holds the version
            continue
        if source != target and floor_of(target) >= floor_of(source):
            found.append(entry)
    return found


def libraries_of(module: str) -> set[str]:
    """Libraries that are imported when a module is, by itself or by what it imports. The standard library included."""
    return {library for name in _loaded_with(module) for library in _own_libraries(name)} - {PACKAGE}


@cache
def _own_libraries(module: str) -> frozenset[str]:
    found: set[str] = set()
    for node in _executed(_tree(module).body):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif not node.level and node.module:
            found.add(node.module.split(".")[0])
    return frozenset(found)


def loads(module: str, other: str) -> bool:
    """Whether importing ``module`` imports ``other`` or anything in it."""
    return any(name == other or name.startswith(f"{other}.") for name in _loaded_with(module))


@cache
def _loaded_with(module: str) -> frozenset[str]:
    """Modules of the package that are read when ``module`` is imported, the packages around each included."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        parents = [name[:at] for at, character in enumerate(name) if character == "."]
        for known in (name, *parents):
            if known in modules() and known not in seen:
                seen.add(known)
                waiting += [entry.target for entry in imports_of(known) if entry.kind == "import"]
    return frozenset(seen)


def _executed(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements that run when a file is read."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            yield from _executed([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            yield from _executed([*node.body, *node.orelse, *node.finalbody])
        elif isinstance(node, ast.With | ast.ClassDef):
            yield from _executed(node.body)


def lines(path: Path) -> int:
    """Lines of a file, as ``wc -l`` counts them."""
    return path.read_bytes().count(b"\n")


def sizes() -> dict[str, tuple[int, int]]:
    """Files and lines of every room of the package."""
    files, total = Counter[str](), Counter[str]()
    for module, path in modules().items():
        files[room_of(module)] += 1
        total[room_of(module)] += lines(path)
    return {room: (files[room], total[room]) for rooms in FLOORS for room in rooms if files[room]}


def beside() -> dict[str, tuple[int, int]]:
    """Files and lines of what lives beside the package."""
    found = {}
    for name in ("scenes", "benchmarks", "training", "scripts", "tests"):
        paths = list((ROOT / name).rglob("*.py"))
        found[name] = (len(paths), sum(map(lines, paths)))
    return found


def table() -> str:
    """The sizes as text."""
    rooms = sizes()
    whole = (sum(files for files, _ in rooms.values()), sum(count for _, count in rooms.values()))
    rows = [*rooms.items(), ("in the wheel", whole), *beside().items()]
    return "\n".join(f"{name:14} {files:4} files {count:7,} lines" for name, (files, count) in rows)


def draw(path: Path) -> None:
    """Draw the rooms on their floors, an arrow for every pair that imports; the wrong ways in red."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 11))
    axes = figure.add_subplot()
    axes.set_axis_off()
    place = {room: (at + 1) / (len(rooms) + 1) for rooms in FLOORS for at, room in enumerate(rooms)}
    present = sizes()
    wrong = {(room_of(entry.source), room_of(entry.target)) for entry in upward() if entry.kind != "lazy"}
    pairs = Counter(
        (room_of(entry.source), room_of(entry.target)) for entry in all_imports() if entry.target != PACKAGE
    )
    for (source, target), count in pairs.items():
        if source == target:
            continue
        start, end = (place[source], floor_of(source)), (place[target], floor_of(target))
        bend = 0.12 * (floor_of(source) - floor_of(target) - 1)
        axes.annotate(
            "", xy=end, xytext=start,
            arrowprops={
                "arrowstyle": "-|>", "color": "crimson" if (source, target) in wrong else "0.55",
                "linewidth": 0.5 + count / 20, "shrinkA": 16, "shrinkB": 16, "connectionstyle": f"arc3,rad={bend:.2f}",
            },
        )  # fmt: skip
    for room, (files, count) in present.items():
        box = {"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": "0.2"}
        label = f"{room}\n{files} files, {count:,} lines"
        axes.text(place[room], floor_of(room), label, ha="center", va="center", bbox=box, fontsize=9)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.6, len(FLOORS) - 0.4)
    figure.savefig(path, dpi=110, bbox_inches="tight")


def main() -> None:
    """Print the table and the wrong ways; draw the graph where asked."""
    parser = argparse.ArgumentParser(prog="python -m scripts.house", description="Sizes and imports of the rooms.")
    parser.add_argument("--draw", type=Path, metavar="FILE", help="write the import graph as a PNG, SVG or PDF")
    arguments = parser.parse_args()
    print(table())
    for entry in upward():
        print(f"{entry.kind}: {entry.source} -> {entry.target}")
    if arguments.draw:
        draw(arguments.draw)


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()
