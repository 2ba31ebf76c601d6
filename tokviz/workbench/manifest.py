"""What of a run folder counts: the parts that its receipt names, and nothing that a link leads out to."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import BadInput
from ..files import shown_name
from ..mining.manifest import MANIFEST, Manifest, MinedMethod, Part, read_manifest

__all__ = ["MANIFEST", "Manifest", "checked_manifest", "is_run", "part_file", "shown_method"]
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")


def checked_manifest(folder: Path) -> Manifest:
    """Read the receipt of a run whose parts can be opened. Raises BadInput with a sentence that names no folder."""
    manifest = read_manifest(folder)
    named = shown_name(folder)
    if not manifest.methods or not manifest.budgets:
        raise BadInput(f"The manifest of the run {named!r} names no methods or no budgets.")
    for part in manifest.parts:
        if _PART.fullmatch(part.name) is None:
            raise BadInput(f"The manifest of the run {named!r} names a part {part.name[:40]!r}, which is no file name.")
    return manifest


def shown_method(method: MinedMethod) -> str:
    """What a method is called on the page: its label, and what distinguishes it from its siblings."""
    if not method.key.startswith(method.id):
        return method.label or method.key
    variant = method.key[len(method.id) :]
    return (method.label or method.id) + ("" if method.label.endswith(variant) else variant)


def part_file(folder: Path, table: str, part: Part) -> Path:
    """The file of a part, which lies in the run: no link leads out. table: "rows" or "cases". Raises BadInput."""
    path = folder / table / f"{part.name}.parquet"
    if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
        raise BadInput(
            f"The run {shown_name(folder)!r} lacks its file {table}/{path.name}: run the same tokviz mine command "
            "again, which makes what is missing."
        )
    return path


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run."""
    return (folder / MANIFEST).is_file()
