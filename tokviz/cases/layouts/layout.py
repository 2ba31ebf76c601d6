"""What a layout is: it recognises its files, walks their entries, and says what each means as a case."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

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
        """The fields of ``Case`` that an entry means. Raises BrokenLine."""

    def media_names(self, written: str) -> Sequence[str]:
        """Where under the media folder the file may lie that an entry means, most likely first."""
        return (written,)

    @property
    def folder(self) -> Path:
        """The folder that paths are relative to where no media folder is named."""
        return self.path if self.path.is_dir() else self.path.parent
