"""What a run folder says about itself, and which of its files count."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import BadInput
from ..files import open_file, shown_name

MANIFEST = "manifest.json"
_LARGEST = 50_000_000
"""Bytes of a manifest; one that names 100,000 parts has 20 MB."""
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")


class _Read(BaseModel):
    """Base: newer runs may say more than is needed here."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Part(_Read):
    """A Parquet file of ``rows/`` and the one of the same name in ``cases/``."""

    name: str


class MinedMethod(_Read):
    """A method as it was mined. key: its name in the rows."""

    key: str
    id: str
    label: str = ""
    family: str = ""
    params: dict[str, Any] = {}

    @property
    def shown(self) -> str:
        """What the method is called on the page: its label, and what distinguishes it from its siblings."""
        if not self.label:
            return self.key
        return f"{self.label}{self.key[len(self.id) :]}" if self.key.startswith(self.id) else self.label


class MinedModel(_Read):
    """The model that answered."""

    id: str = ""
    family: str = ""


class CaseSource(_Read):
    """The case file that was mined."""

    name: str = ""
    count: int = 0


class Manifest(_Read):
    """The facts of a run that the workbench needs."""

    created: str = ""
    cases: CaseSource = CaseSource()
    model: MinedModel = MinedModel()
    media_root: str | None = None
    methods: list[MinedMethod]
    budgets: list[int]
    budget_as: str = "published"
    max_new_tokens: int = 32
    seed: int = 0
    parts: list[Part] = []
    status: str = "done"


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of a run. Raises BadInput with a sentence that names no folder."""
    with open_file(folder / MANIFEST, "run") as file:
        data = file.read(_LARGEST + 1)
    named = shown_name(folder)
    if len(data) > _LARGEST:
        raise BadInput(f"The manifest of the run {named!r} is larger than {_LARGEST // 1_000_000} MB.")
    try:
        manifest = Manifest.model_validate(_aligned(json.loads(data)))
    except (ValueError, RecursionError, ValidationError) as error:
        raise BadInput(f"The manifest of the run {named!r} cannot be read: mine it again.") from error
    if not manifest.methods or not manifest.budgets:
        raise BadInput(f"The manifest of the run {named!r} names no methods or no budgets.")
    for part in manifest.parts:
        if _PART.fullmatch(part.name) is None:
            raise BadInput(f"The manifest of the run {named!r} names a part {part.name[:40]!r}, which is no file name.")
    return manifest


def _aligned(said: Any) -> Any:
    """Names of parts without the suffix, whichever way they were written."""
    if isinstance(said, dict) and isinstance(said.get("parts"), list):
        for part in said["parts"]:
            if isinstance(part, dict) and isinstance(part.get("name"), str):
                part["name"] = part["name"].removesuffix(".parquet")
    return said


def part_file(folder: Path, kind: str, part: Part) -> Path:
    """The file of a part, which lies in the run: no link leads out. kind: "rows" or "cases". Raises BadInput."""
    path = folder / kind / f"{part.name}.parquet"
    if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
        raise BadInput(
            f"The run {shown_name(folder)!r} lacks its file {kind}/{path.name}: run the same tokviz mine command again, "
            "which makes what is missing."
        )
    return path


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run."""
    return (folder / MANIFEST).is_file()
