"""One question about one image or video, and what is known about its answer. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from ..names import Box
from ..records import Record
from ..session_limits import MAX_EVIDENCE, MAX_TEXT

Metric = Literal["exact", "vqa", "pope", "mme", "choice", "anls", "box"]
METRICS: tuple[Metric, ...] = get_args(Metric)

_Name = Annotated[str, Field(min_length=1, max_length=512)]
_Path = Annotated[str, Field(min_length=1, max_length=4_096)]
_Text = Annotated[str, Field(max_length=20_000)]
_Answer = Annotated[str, Field(max_length=MAX_TEXT)]
MAX_ANSWERS = 256


class Case(Record):
    """One question about one image or video.

    Attributes:
        id: Unique in its file.
        image: Path of the image, relative to the media folder (``CaseFile.root``) or absolute; None for a video. Opened
            through ``CaseFile.media_path``.
        video: The same of a video; None for an image.
        question: The prompt's text.
        answers: The right answers, any of which counts (VQA score: the ten people's). Empty: nothing can be judged.
        family: What kind of question it is, as the data set calls it.
        evidence: Boxes in pixels of the image (after EXIF rotation) that one must see to answer.
        evidence_frames: For a video, the sampled frame (from 0) of each box.
        split: Part of the data set, e.g. ``"adversarial"``.
        metric: How the data set judges an answer; see ``judge``.
        others: Answers of other models or runs that a sample log holds, by their name.
    """

    id: _Name
    image: _Path | None = None
    video: _Path | None = None
    question: Annotated[_Text, Field(min_length=1)]
    answers: Annotated[tuple[_Text, ...], Field(max_length=MAX_ANSWERS)] = ()
    family: _Name | None = None
    evidence: Annotated[tuple[Box, ...], Field(max_length=MAX_EVIDENCE)] = ()
    evidence_frames: Annotated[tuple[int, ...], Field(max_length=MAX_EVIDENCE)] = ()
    split: _Name | None = None
    metric: Metric = "exact"
    others: dict[_Name, _Answer] = Field(default_factory=dict)

    @property
    def media(self) -> str:
        """The path of the image or video."""
        return self.image or self.video or ""

    @field_validator("question")
    @classmethod
    def _asks_something(cls, question: str) -> str:
        if not question.strip():
            raise ValueError("is empty")
        return question

    @field_validator("evidence")
    @classmethod
    def _boxes_have_area(cls, boxes: tuple[Box, ...]) -> tuple[Box, ...]:
        for x0, y0, x1, y1 in boxes:
            if not all(map(math.isfinite, (x0, y0, x1, y1))) or x0 >= x1 or y0 >= y1:
                raise ValueError("needs boxes x0, y0, x1, y1 with x0 < x1 and y0 < y1")
        return boxes

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.image is None) == (self.video is None):
            raise ValueError("a case needs an image or a video, and only one of them")
        if self.video is not None and len(self.evidence_frames) != len(self.evidence):
            raise ValueError("evidence of a video needs evidence_frames, one sampled frame (from 0) for each box")
        if self.image is not None and self.evidence_frames:
            raise ValueError("evidence_frames is only for videos")
        if any(frame < 0 for frame in self.evidence_frames):
            raise ValueError("evidence_frames counts from 0")
        return self


@dataclass(frozen=True)
class Problem:
    """Something in a case file that cannot be used. file: without its folder. line: from 1; None: the whole file."""

    file: str
    line: int | None
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}" if self.line is not None else f"{self.file}: {self.reason}"


class BrokenLine(ValueError):
    """What is wrong with one line or entry; the reader skips it and goes on."""


class LeftOut(Exception):
    """An entry that is in order, but no case, as a question without an image. Its message says which kind."""


def text_of(value: Any, name: str) -> str:
    """A text, or a number as text. Raises BrokenLine for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise BrokenLine(f"{name} must be a text, not {_json_kind(value)}")


def texts_of(value: Any, name: str) -> tuple[str, ...]:
    """Texts from a text, a number, a list of them, or null. Raises BrokenLine."""
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        return (text_of(value, name),)
    if len(value) > MAX_ANSWERS:
        raise BrokenLine(f"{name} has {len(value):,} entries; {MAX_ANSWERS} are allowed")
    return tuple(text_of(entry, name) for entry in value)


def needed(entry: dict[str, Any], *names: str) -> Any:
    """The value of the first of these keys that an entry has. Raises BrokenLine when it has none."""
    for name in names:
        if entry.get(name) is not None:
            return entry[name]
    raise BrokenLine(f"{' or '.join(names)} is missing")


def _json_kind(value: Any) -> str:
    """How JSON calls a value's kind, with an article."""
    if value is None:
        return "null"
    kinds = {bool: "true or false", dict: "an object", list: "a list", str: "a text"}
    return kinds.get(type(value), "a number")
