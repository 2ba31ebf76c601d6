"""Large values in a line: what ``repr`` shows of records, and sentences of what somebody passed by mistake."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TEXT = 60
_ENTRIES = 4


class _Words:
    """Text that ``repr`` shows as it is."""

    def __init__(self, words: str) -> None:
        self._words = words

    def __repr__(self) -> str:
        return self._words


def short(value: Any) -> Any:
    """``value`` where it is small, else what stands for it: the start of a text, the number of entries of a list."""
    if isinstance(value, str):
        return value if len(value) <= _TEXT else value[: _TEXT - 1] + "…"
    if isinstance(value, int) and value.bit_length() > 200:  # Python refuses to write out thousands of digits
        return _Words("a number of more than 60 digits")
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, Mapping):
        if len(value) <= _ENTRIES and all(map(_is_simple, value.values())):
            return {short(name): short(entry) for name, entry in value.items()}
        return _Words(f"<{len(value)} entries>")
    if isinstance(value, list | tuple):
        if len(value) <= _ENTRIES and all(map(_is_simple, value)):
            return type(value)(map(short, value))
        return _Words(f"<{len(value)} entries>")
    return _Words(f"<{type(value).__name__}>")


def _is_simple(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def passed(value: Any) -> str:
    """A value that somebody passed, for a sentence that refuses it: of any size, on one line."""
    return repr(short(value))


def kind_of(value: Any) -> str:
    """What somebody passed instead of something else: ``None``, ``a LlavaForConditionalGeneration``, ``an int``."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def short_repr(instance: object, **fields: Any) -> str:
    """``Name(field=value, …)`` with every value short."""
    return f"{type(instance).__name__}({', '.join(f'{name}={short(value)!r}' for name, value in fields.items())})"
