"""The models that the page offers, and what it says about each before and after it is loaded."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInput

if TYPE_CHECKING:
    from ..records import ModelRecord

TAKES: dict[tuple[str, ...], str] = {("picture",): "pictures", ("video",): "videos"}


@dataclass(frozen=True)
class Offer:
    """A model of the page's menu.

    memory_gb: estimated, in bfloat16 and with 4-bit weights; None where it is not known before loading.
    """

    id: str
    name: str
    family: str
    parameters: int | None
    memory_gb: float | None
    memory_gb_4bit: float | None
    licence: str | None
    takes: tuple[str, ...]
    revision: str | None = None
    note: str = ""

    @property
    def label(self) -> str:
        """What the menu says: name with family and size, and memory (or the number of parameters of small models)."""
        from ..models.entries import size_words

        if self.memory_gb and self.memory_gb >= 1:
            return f"{self.name} · ≈ {self.memory_gb:.0f} GB"
        return f"{self.name} · {size_words(self.parameters)}" if self.parameters else self.name

    def facts(self) -> str:
        """One line about it before it is loaded."""
        from ..models.entries import size_words

        said = [self.family]
        if self.parameters:
            said.append(f"{size_words(self.parameters)} parameters")
        if self.memory_gb:
            four = f", {self.memory_gb_4bit:g} GB with 4-bit weights" if self.memory_gb_4bit else ""
            said.append(f"≈ {self.memory_gb:g} GB in bfloat16{four} (estimated)")
        return " · ".join([*said, TAKES.get(self.takes, "pictures and videos")])

    def as_data(self) -> dict[str, Any]:
        """For programs."""
        return {**vars(self), "takes": list(self.takes)}


def loaded_facts(record: ModelRecord) -> str:
    """One line about a model that is loaded: what is measured or read, nothing estimated."""
    where = " + ".join(record.devices) or record.device
    precision = {"8bit": "8-bit weights", "4bit": "4-bit weights"}.get(record.quantization or "", record.dtype)
    tower = f" (vision tower: {record.tower_attention})" if record.tower_attention else ""
    return f"Loaded · {where} · {precision} · attention {record.attention}{tower}"


def offers() -> list[Offer]:
    """What this page offers, the default first.

    ``TOKVIZ_MODEL`` lists ids or folders, separated by commas. Unset: the whole catalog, but on a Space only the
    embedded models (a visitor must not start a download of 16 GB).
    """
    from ..models.catalog import CATALOG, EMBEDDED, find

    wanted = [name.strip() for name in os.environ.get("TOKVIZ_MODEL", "").split(",") if name.strip()]
    if not wanted:
        return [_of_catalog(entry) for entry in (CATALOG[: len(EMBEDDED)] if os.environ.get("SPACE_ID") else CATALOG)]
    return [_elsewhere(name) if (entry := find(name)) is None else _of_catalog(entry) for name in wanted]


def offer(name: str) -> Offer:
    """The offer with this id. Raises BadInput for a name that is not offered."""
    known = offers()
    for one in known:
        if one.id == name:
            return one
    names = ", ".join(one.id for one in known)
    raise BadInput(f"This page does not offer a model named {name!r}; it offers {names}.")


def _of_catalog(entry: Any) -> Offer:
    from ..models.catalog import EMBEDDED, embedded_folder

    if entry.id in EMBEDDED:
        counted = _count(embedded_folder(entry.id))
        return Offer(entry.id, entry.label, entry.family, counted, None, None, entry.licence, entry.takes,
                     note=entry.note)  # fmt: skip
    return Offer(
        entry.id, entry.label, entry.family, entry.parameters.total, entry.memory_gb, entry.memory_gb_4bit,
        entry.licence, entry.takes, entry.revision, entry.note,
    )  # fmt: skip


def _elsewhere(name: str) -> Offer:
    """A folder, or a hub id that is not on the menu: what its files say, if they are at hand."""
    from ..models.families import FAMILIES

    folder = Path(name).expanduser()
    try:
        kind = str(json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"])
    except (OSError, ValueError, KeyError, TypeError):
        kind = "architecture unknown"
    takes = FAMILIES[kind].takes if kind in FAMILIES else ("picture",)
    counted = _count(folder)
    memory = round(counted * 2 / 1e9, 1) if counted else None
    return Offer(name, os.path.basename(name.rstrip("/")), kind, counted, memory, None, None, takes)


def _count(folder: Path) -> int | None:
    from ..models.checkpoint import count_parameters

    try:
        counted = count_parameters(folder.name, folder)
    except BadInput:  # loading will say what is wrong with it
        return None
    return None if counted is None else counted.total
