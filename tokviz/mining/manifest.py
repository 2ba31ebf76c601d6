"""The receipt of a mined run, ``manifest.json``: what was asked of which model by which code; which parts there are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from ..errors import BadInput
from ..files import open_file
from ..names import BudgetMeaning
from ..records import Many, Record
from ..short import passed
from .schema import FORMAT

MANIFEST = "manifest.json"
MAX_BYTES = 64_000_000
_NOT_ASKED = ("format", "created", "command", "problems", "status", "parts", "map")
"""What may differ between the first command on a folder and one that goes on."""


class MinedFile(Record):
    """The case file. count: cases in it; asked: how many of them are mined, evenly spaced where it is not all."""

    name: str
    digest: str
    layout: str
    count: int
    asked: int


class MinedModel(Record):
    """The model. weights: SHA-256 of all its weights; settings: of its configuration, template and preprocessing."""

    id: str
    revision: str | None
    family: str
    weights_sha256: str
    settings_sha256: str


class MinedMethod(Record):
    """A method with all its parameters. code_sha256: of the files that its code is made of."""

    key: str
    id: str
    label: str
    kind: str
    params: dict[str, Any]
    code_sha256: str


class Part(Record):
    """A part of both tables. sha256: of ``rows/NAME.parquet``; cases_sha256: of ``cases/NAME.parquet``.

    cases, rows: how many it holds. seconds: what mining them took, added up over all workers.
    """

    name: Annotated[str, Field(pattern=r"^part-\d{5,9}$")]
    cases: int
    rows: int
    sha256: str
    cases_sha256: str
    seconds: float


class MapRecord(Record):
    """How ``map.parquet`` was made of the cases' features."""

    method: Literal["pca", "umap"]
    cases: int
    sha256: str


class Manifest(Record):
    """Everything that decides what the tables hold, and what there is of them so far.

    Attributes:
        created: When mining began, UTC, as ISO 8601.
        command: The command line, or the call, that began it.
        seeds: Every seed. Methods that draw no random numbers have rows of the first only.
        part_cases: How many cases a part holds; the last one may hold fewer.
        problems: How many entries of the case file could not be used.
    """

    format: int = FORMAT
    created: str
    command: str
    cases: MinedFile
    model: MinedModel
    methods: Many[MinedMethod]
    budgets: Many[int]
    budget_as: BudgetMeaning
    seeds: Many[int]
    seed: int
    max_new_tokens: int
    frames: int | None
    device: str
    dtype: str
    kernel: str
    versions: dict[str, str]
    part_cases: int
    problems: int = 0
    status: Literal["running", "done"] = "running"
    parts: Many[Part] = Field(default_factory=list)
    map: MapRecord | None = None

    def to_bytes(self) -> bytes:
        """Return the file's content."""
        return (self.model_dump_json(indent=1) + "\n").encode()


def read_manifest(folder: str | Path) -> Manifest:
    """Read the receipt of a run folder.

    Raises:
        BadInput: If there is none, it is damaged, or of another version.
    """
    path = Path(folder) / MANIFEST
    with open_file(path, "manifest") as file:
        data = file.read(MAX_BYTES + 1)
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, found["loc"]))
        raise BadInput(
            f"{MANIFEST} is damaged, or of another version of tokviz ({where}: {found['msg'].lower()}); restore it, or "
            "mine into another folder."
        ) from error


def differences(there: Manifest, asked: Manifest) -> list[str]:
    """Name what the command that began a folder asked for otherwise, one sentence each; none if it may go on."""
    found = []
    before, now = (each.model_dump(exclude=set(_NOT_ASKED)) for each in (there, asked))
    for name in before:
        found += _differences(name, before[name], now[name])
    if there.format != asked.format:
        found.append(f"format: {there.format} there, {asked.format} now")
    return found


def _differences(name: str, before: Any, now: Any) -> list[str]:
    if before == now:
        return []
    if name == "methods":
        return _method_differences(before, now)
    if isinstance(before, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*before, *now])
        return [line for key in keys for line in _differences(f"{name}.{key}", before.get(key), now.get(key))]
    return [f"{name}: {_shown(before)} there, {_shown(now)} now"]


def _method_differences(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> list[str]:
    old, new = ({method["key"]: method for method in methods} for methods in (before, now))
    if list(old) != list(new):
        return [f"methods: {', '.join(old)} there, {', '.join(new)} now"]
    return [
        line
        for key, method in old.items()
        for field in method
        for line in _differences(f"method {key}, {field}", method[field], new[key][field])
    ]


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else passed(value)
