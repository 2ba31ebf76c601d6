"""The base of everything that is stored: immutable records of plain numbers and text. No torch, no gradio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast

from .short import short

T = TypeVar("T")


class FailFastMark(FailFast):
    """A hashable version of pydantic's marker, so that a list that has it can be part of a union."""

    __hash__ = object.__hash__


Many = Annotated[list[T], FailFastMark()]
"""A list that is rejected at its first invalid entry: one message for each of millions would take gigabytes."""

if TYPE_CHECKING:  # a method fills these with tensors
    Numbers = Any
    Flags = Any
else:
    Numbers = Many[float | None]
    Flags = Many[bool]


class Record(BaseModel):
    """Base of everything that is written to JSON: immutable, unknown keys rejected, NaN written as null."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """What ``repr``, ``str`` and rich show: long texts and lists are abbreviated."""
        return [(name, short(value)) for name, value in self]
