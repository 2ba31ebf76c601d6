"""tokviz's own case file: one JSON object per line, images and videos beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...errors import BadInput
from ..case import BrokenLine, Case, needed, text_of, texts_of
from ..reading import Entry, first_object, json_lines
from .layout import Layout

CASE_FILE = "cases.jsonl"
_KEYS = Case.model_fields.keys() | {"answer"}


class JsonLines(Layout):
    """``{"id", "image" | "video", "question", "answer" | "answers", …}`` per line; of a folder, its cases.jsonl."""

    name = "jsonl"
    title = "tokviz's own: one JSON object per line"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """A folder with cases.jsonl, or lines with id, question, and image or video."""
        if path.is_dir():
            return (path / CASE_FILE).is_file()
        keys = first_object(path).keys()
        return {"id", "question"} <= keys and bool(keys & {"image", "video"})

    def files(self) -> Sequence[Path]:
        """The one file."""
        if not self.path.is_dir():
            return (self.path,)
        if not (self.path / CASE_FILE).is_file():
            raise BadInput(f"The folder {self.path.name!r} has no {CASE_FILE}; name the case file itself.")
        return (self.path / CASE_FILE,)

    def entries(self) -> Iterator[Entry]:
        """One per line."""
        yield from json_lines(self.files()[0])

    def fields(self, value: Any) -> dict[str, Any]:
        """The keys are those of ``Case``, but for ``answer``."""
        self.unused.update(value.keys() - _KEYS)
        if "answer" in value and "answers" in value:
            raise BrokenLine("has answer and answers; write one of them")
        fields = {name: value[name] for name in value.keys() & _KEYS - {"answer", "answers"} if value[name] is not None}
        fields["id"] = text_of(needed(value, "id"), "id")
        fields["question"] = text_of(needed(value, "question"), "question")
        fields["answers"] = texts_of(value.get("answers", value.get("answer")), "answer")
        return fields
