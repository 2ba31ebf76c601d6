"""What a layout is: it recognises its files, walks their entries, and says what each means as a case."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ...errors import BadInput
from ...names import Box
from ..case import BrokenLine
from ..reading import Entry


class Layout(ABC):
    """One way to write cases; an instance reads one file or folder.

    Attributes:
        name: Its id, as ``--layout`` takes it.
        title: What it is, for help and documentation.
        path: The file or folder that was named.
        unused: Keys of entries that mean nothing here, with how many entries have them.
    """

    name: ClassVar[str]
    title: ClassVar[str]

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unused: Counter[str] = Counter()

    @classmethod
    @abstractmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a file or folder that exists looks like this layout; reads little of it and never raises."""

    @abstractmethod
    def files(self) -> Sequence[Path]:
        """Every file whose content makes the cases, media aside. Raises BadInput where one is missing."""

    @abstractmethod
    def entries(self) -> Iterator[Entry]:
        """The raw entries in file order; broken ones say why."""

    @abstractmethod
    def fields(self, value: Any) -> dict[str, Any]:
        """The fields of ``Case`` that an entry means; ``image`` may be a tuple of the names that its file may have.

        Raises BrokenLine, and LeftOut for an entry that is no question about an image.
        """

    @property
    def folder(self) -> Path:
        """The folder that paths are relative to where no media folder is named."""
        return self.path if self.path.is_dir() else self.path.parent


def only(folder: Path, pattern: str, what: str) -> Path:
    """The one file of a folder that matches; ``what`` it is said to be. Raises BadInput for none and for several."""
    found = sorted(path for path in folder.glob(pattern) if path.is_file())
    if not found:
        raise BadInput(f"The folder {folder.name!r} has no {what} ({pattern}).")
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:6])
        raise BadInput(f"The folder {folder.name!r} has {len(found)} files of {what} ({names}); name one of them.")
    return found[0]


def indexed(values: Any, key: str) -> dict[str | int, dict[str, Any]]:
    """Objects of a list by the text or number they have at ``key``; others are left out."""
    entries = [entry for entry in values if isinstance(entry, dict)] if isinstance(values, list) else []
    return {entry[key]: entry for entry in entries if isinstance(entry.get(key), str | int)}


def at(index: dict[str | int, dict[str, Any]], key: Any) -> dict[str, Any] | None:
    """What an index has at a key that a file gave, whatever it is."""
    return index.get(key) if isinstance(key, str | int) else None


def is_entry(value: Any) -> dict[str, Any]:
    """An entry that is an object. Raises BrokenLine."""
    if not isinstance(value, dict):
        raise BrokenLine("expected an object")
    return value


def corners(x: Any, y: Any, width: Any, height: Any) -> Box:
    """The box of a corner and a size. Raises BrokenLine."""
    try:
        x, y, width, height = (float(number) for number in (x, y, width, height))
    except (TypeError, ValueError, OverflowError) as error:
        raise BrokenLine("a box is not made of four numbers") from error
    return (x, y, x + width, y + height)


def coco_names(image_id: Any, subset: str) -> tuple[str, ...]:
    """Where the image of a COCO id may lie: ``COCO_val2014_000000000042.jpg``, in a folder of its subset or not."""
    try:
        name = f"COCO_{subset}_{int(image_id):012d}.jpg"
    except (TypeError, ValueError, OverflowError) as error:
        raise BrokenLine("image_id is no number") from error
    return (f"{subset}/{name}", name, f"images/{name}")
