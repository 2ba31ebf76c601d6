"""Images and videos that were encoded lately: another question about one need not run the vision tower again.

What the model's own encoder gave for the same pixels is given once more in its place, so that the prompt is the same to
the bit; only the words around the image are embedded anew.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..types import Need
from .capture import Active, watched_encoding
from .vision import VisionSignals

_T = TypeVar("_T")
_TEXT = ("input_ids", "attention_mask")


@dataclass
class _Encoded:
    """What was put in, what the model's encoders made of it in the order of their calls, and what was seen of them."""

    inputs: dict[str, Tensor]
    needs: frozenset[Need] | None
    made: list[Any] = field(default_factory=list)
    vision: list[VisionSignals] | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    is_whole: bool = False

    def is_of(self, inputs: Mapping[str, Tensor], needs: frozenset[Need] | None) -> bool:
        return (
            self.needs == needs
            and self.inputs.keys() == inputs.keys()
            and all(_same(self.inputs[name], value) for name, value in inputs.items())
        )


def _same(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return bool(one == other)
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)


class EncodedMedia:
    """What one thread's last few encodings on one model made; give it to ``encode``."""

    def __init__(self, most: int = 1) -> None:
        """most: how many are remembered."""
        self._most = most
        self._entries: OrderedDict[int, _Encoded] = OrderedDict()
        self._last: _Encoded | None = None
        self._count = 0

    def entry(self, inputs: Mapping[str, Any], needs: Sequence[Need] | None) -> Entry:
        """What is known of the images of these inputs, or what is to be filled by encoding them."""
        ids = inputs["input_ids"]
        about = {name: value for name, value in inputs.items() if name not in _TEXT and not _beside(value, ids)}
        wanted = None if needs is None else frozenset(needs)
        for key, entry in self._entries.items():
            if entry.is_whole and entry.is_of(about, wanted):
                self._entries.move_to_end(key)
                self._last = entry
                return Entry(entry)
        self._last = made = _Encoded(about, wanted)
        self._count += 1
        self._entries[self._count] = made
        while len(self._entries) > self._most:
            self._entries.popitem(last=False)
        return Entry(made)

    def noted(self, name: str, make: Callable[[], _T]) -> _T:
        """What ``make`` gives of the images that were encoded last, computed when they were encoded first."""
        if self._last is None:
            return make()
        if name not in self._last.notes:
            self._last.notes[name] = make()
        found: _T = self._last.notes[name]
        return found


def _beside(value: Any, ids: Tensor) -> bool:
    """Whether it says something of every token of the text, rather than of the images."""
    return isinstance(value, Tensor) and value.shape == ids.shape


class Entry:
    """One encoding that runs now, or that is given once more."""

    def __init__(self, encoded: _Encoded) -> None:
        self._encoded = encoded
        self.is_known = encoded.is_whole
        self._left = list(encoded.made) if encoded.is_whole else []

    @property
    def vision(self) -> list[VisionSignals] | None:
        """What was seen of the tower, where it is known and somebody looked."""
        return self._encoded.vision if self.is_known else None

    @contextmanager
    def used(self, base: Any, active: Active) -> Iterator[None]:
        """While the model runs up to its LLM: what is known stands in for its encoders, what is new is noted."""
        note = None if self.is_known else self._encoded.made.append
        with watched_encoding(base, lambda _: self._left.pop(0) if self._left else None, active, note):
            yield

    def keep(self, vision: list[VisionSignals] | None) -> None:
        """Remember an encoding that went through. vision: None where nobody looked at the tower."""
        self._encoded.vision, self._encoded.is_whole = vision, True
