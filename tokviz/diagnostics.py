"""What a method tells about a selection: maps, charts, readings and scores of words. Tensors until it is stored."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal

from pydantic import ConfigDict

from .names import ChartKind
from .record_base import Flags, Many, Numbers
from .short import short_repr


@dataclass(frozen=True, repr=False)
class _Diagnostic:
    """Base of what a stage leaves for the views: built from tensors by a method, from plain lists in a record."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", ser_json_inf_nan="null")

    def __repr__(self) -> str:
        return short_repr(self, **{entry.name: getattr(self, entry.name) for entry in fields(self)})


@dataclass(frozen=True, repr=False)
class TokenMap(_Diagnostic):
    """A named number for each visual token.

    Attributes:
        values: ``(N,)``. In a record, one for each of the original N tokens; None if the token had already been dropped
            or the value is not finite.
        direction: What a high value means, in words.
    """

    name: str
    label: str
    values: Numbers
    unit: str = ""
    direction: str = "high is kept first"
    scale: Literal["linear", "log"] = "linear"


@dataclass(frozen=True, repr=False)
class Chart(_Diagnostic):
    """A small chart, which views can draw without knowing the method.

    Tokens are rows of the stage; in a record, they are original indices.

    Attributes:
        kind: ``line`` (y over x), ``scatter`` (points) or ``bars`` (y for each entry of ``names``).
        line: A threshold to draw across the chart.
        tokens: For a scatter or bars, the visual token of each point, so that views can link points and patches.
        marked: Positions in ``y`` that the method picked.
        about: A token of the image, tile or frame that the chart is about; None if it is about all of them.
    """

    name: str
    label: str
    kind: ChartKind
    y: Numbers
    x: Numbers = field(default_factory=list)
    names: Many[str] = field(default_factory=list)
    x_label: str = ""
    y_label: str = ""
    line: float | None = None
    tokens: Many[int] = field(default_factory=list)
    marked: Many[int] = field(default_factory=list)
    about: int | None = None


@dataclass(frozen=True, repr=False)
class Reading(_Diagnostic):
    """A number that a stage measured, and the threshold it was compared with; views draw it over the stages."""

    name: str
    label: str
    value: float | None
    line: float | None = None
    unit: str = ""


@dataclass(frozen=True, repr=False)
class TextScores(_Diagnostic):
    """A number for each text token after the last visual token, and which of them the method used as raters.

    Attributes:
        values: ``(M,)``.
        chosen: ``(M,)`` bool, True for the raters.
        line: The threshold that decided; None if there was none.
    """

    name: str
    label: str
    values: Numbers
    chosen: Flags
    line: float | None = None
