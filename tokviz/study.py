"""What everything that is measured around one comparison has in common: it is written to a file and read again."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from .comparison import Comparison
from .errors import BadInput
from .files import open_file, write_or_refuse
from .records import Record
from .session_limits import MAX_BYTES, check_contents, check_text


class Study(Record):
    """A result around a comparison.

    Attributes:
        kind: What its file is called in messages that it cannot be read.
        refusal: The sentence for a file that is none.
        comparison: What it was measured on.
    """

    kind: ClassVar[str]
    refusal: ClassVar[str]
    comparison: Comparison

    def save(self, path: str | Path) -> None:
        """Write everything to a JSON file, completely or not at all.

        Raises:
            BadInput: If the file cannot be written.
        """
        write_or_refuse(path, self.to_json().encode())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file written by ``save``.

        Raises:
            BadInput: If the file cannot be read or is none; the message is one sentence.
        """
        with open_file(path, cls.kind) as file:
            return cls.from_json(file.read(MAX_BYTES + 1))

    def to_json(self) -> str:
        """Return everything as JSON text."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read the output of ``to_json``.

        Raises:
            BadInput: If the text is none; the message is one sentence.
        """
        data = text.encode() if isinstance(text, str) else text
        check_text(data)
        try:
            found = cls.model_validate_json(data)
        except ValueError as error:
            raise BadInput(cls.refusal) from error
        check_contents(found.comparison)
        return found
