"""The models that a server offers, and what it says about each before and after it is loaded."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInput
from ..models import catalog
from .callers import is_loopback

if TYPE_CHECKING:
    from ..records import ModelRecord

TAKES: dict[tuple[str, ...], str] = {("image",): "images", ("video",): "videos"}


@dataclass(frozen=True, kw_only=True)
class ModelOption:
    """A model of the menu.

    memory_gb: estimated, in bfloat16 and with 4-bit weights; None where it is not known before loading.
    """

    id: str
    name: str
    family: str
    parameters: int | None
    memory_gb: float | None = None
    memory_gb_4bit: float | None = None
    licence: str | None = None
    takes: tuple[str, ...]
    revision: str | None = None
    note: str = ""

    @property
    def label(self) -> str:
        """What the menu says: name with family and size, and memory (or the number of parameters of small models)."""
        if self.memory_gb and self.memory_gb >= 1:
            return f"{self.name} · ≈ {self.memory_gb:.0f} GB"
        return f"{self.name} · {catalog.size_words(self.parameters)}" if self.parameters else self.name

    def facts(self) -> str:
        """One line about it before it is loaded."""
        said = [self.family]
        if self.parameters:
            said.append(f"{catalog.size_words(self.parameters)} parameters")
        if self.memory_gb:
            four = f", {self.memory_gb_4bit:g} GB with 4-bit weights" if self.memory_gb_4bit else ""
            said.append(f"≈ {self.memory_gb:g} GB in bfloat16{four} (estimated)")
        return " · ".join([*said, TAKES.get(self.takes, "images and videos")])

    @property
    def shown(self) -> str:
        """What clients call it: its id, but of a folder the name, where it lies is the operator's business.

        Of two folders with one name each says so much of its path that they can be told apart.
        """
        if not Path(self.id).expanduser().is_dir():
            return self.id
        parts = Path(self.id).expanduser().parts
        others = [Path(name).expanduser().parts for name in named_by_operator() if name != self.id]
        depth = next((n for n in range(1, len(parts)) if all(other[-n:] != parts[-n:] for other in others)), len(parts))
        return "/".join(parts[-depth:])

    def as_data(self) -> dict[str, Any]:
        """For programs."""
        return {**vars(self), "id": self.shown, "takes": list(self.takes)}


def loaded_facts(record: ModelRecord) -> str:
    """One line about a model that is loaded: what is measured or read, nothing estimated."""
    where = " + ".join(record.devices) or record.device
    precision = {"8bit": "8-bit weights", "4bit": "4-bit weights"}.get(record.quantization or "", record.dtype)
    tower = f" (vision tower: {record.tower_attention})" if record.tower_attention else ""
    return f"Loaded · {where} · {precision} · attention {record.attention}{tower}"


def model_options() -> list[ModelOption]:
    """What this server offers, the default first.

    ``TOKVIZ_MODEL`` lists ids or folders, separated by commas. Unset: the whole catalog, but on a public server only
    what is on its disk (a visitor must not start a download of 16 GB).
    """
    named = named_by_operator()
    if not named:
        public = is_public()
        return [_of_catalog(entry) for entry in catalog.CATALOG if not public or is_local(entry.id)]
    return [_elsewhere(name) if (entry := catalog.find(name)) is None else _of_catalog(entry) for name in named]


def model_option(name: str) -> ModelOption:
    """The option that a client names. Raises BadInput for a model that is not offered."""
    options = model_options()
    for option in options:
        if name in (option.id, option.shown):
            return option
    names = ", ".join(option.shown for option in options)
    raise BadInput(f"This page does not offer a model named {name[:200]!r}; it offers {names}.")


def id_of(name: str) -> str:
    """The id that a client's name of a model stands for; the name itself where it is not offered."""
    return next((option.id for option in model_options() if name == option.shown), name)


def named_by_operator() -> list[str]:
    """The models of ``TOKVIZ_MODEL``: ids or folders."""
    return [name.strip() for name in os.environ.get("TOKVIZ_MODEL", "").split(",") if name.strip()]


def is_public() -> bool:
    """Whether strangers can reach the page: on a Space, served on more than this machine, or ``TOKVIZ_PUBLIC``."""
    if os.environ.get("SPACE_ID") or os.environ.get("TOKVIZ_PUBLIC"):
        return True
    return not is_loopback(os.environ.get("HOST") or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1")


def is_local(name: str) -> bool:
    """Whether a model is on this server's disk: embedded, a folder, or in the hub's cache."""
    if name in catalog.EMBEDDED or Path(name).expanduser().is_dir():
        return True
    from huggingface_hub import try_to_load_from_cache

    entry = catalog.find(name)
    revision = None if entry is None else entry.revision
    weights = ("model.safetensors", "model.safetensors.index.json")
    return any(isinstance(try_to_load_from_cache(name, file, revision=revision), str) for file in weights)


def check_may_load(name: str, address: str) -> None:
    """Raises BadInput when a caller from elsewhere asks for a model that would have to be downloaded first."""
    name = id_of(name)
    if name in named_by_operator() or (is_loopback(address) and not is_public()) or is_local(name):
        return
    raise BadInput(
        f"{name} is not on this server, and only who runs it can have it downloaded (TOKVIZ_MODEL). "
        "Choose another model."
    )


def _of_catalog(entry: catalog.CatalogEntry) -> ModelOption:
    known = {name: getattr(entry, name) for name in ("id", "family", "licence", "takes", "note")}
    if entry.id in catalog.EMBEDDED:
        return ModelOption(name=entry.label, parameters=_count(catalog.embedded_folder(entry.id)), **known)
    size = {name: getattr(entry, name) for name in ("memory_gb", "memory_gb_4bit", "revision")}
    parameters = None if entry.parameters is None else entry.parameters.total  # a family of others may not say
    return ModelOption(name=entry.label, parameters=parameters, **size, **known)


def _elsewhere(name: str) -> ModelOption:
    """A folder, or a hub id that is not on the menu: what its files say, if they are at hand."""
    from ..models.families import FAMILIES

    folder = Path(name).expanduser()
    family = _model_type(folder / "config.json")
    parameters = _count(folder)
    return ModelOption(
        id=name,
        name=os.path.basename(name.rstrip("/")),
        family=family,
        parameters=parameters,
        memory_gb=round(parameters * 2 / 1e9, 1) if parameters else None,
        takes=FAMILIES[family].takes if family in FAMILIES else ("image",),
    )


def _model_type(config: Path) -> str:
    """What a model's config says it is; loading will say what is wrong with a damaged one."""
    try:
        data = json.loads(config.read_bytes())
    except (OSError, ValueError):  # no file, no JSON, or not in Unicode
        data = None
    kind = data.get("model_type") if isinstance(data, dict) else None
    return kind if isinstance(kind, str) else "architecture unknown"


def _count(folder: Path) -> int | None:
    from ..models.checkpoint import count_parameters

    try:
        counted = count_parameters(folder.name, folder)
    except BadInput:  # loading will say what is wrong with it
        return None
    return None if counted is None else counted.total
