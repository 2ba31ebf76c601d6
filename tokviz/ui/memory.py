"""What a browser remembers of a page, in an address or in its storage. It comes back checked, not trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import BadInput
from ..pruners.pruner import Pruner
from . import text
from .form import is_whole, method_entries, read_menu

LONGEST = 40_000
"""Characters of a memory: every method with its settings and a long question have a fifth of that."""
_LONGEST_QUESTION = 4_000
_WHOLE = {"budget": 1, "seed": 0, "max_new_tokens": 1, "repeats": 1, "frames": 1}
"""Fields that hold whole numbers, and the least of each."""
_MOST = 1_000_000
_CHOICES = {
    "budget_as": {value for _, value in text.BUDGET_MEANINGS},
    "precision": {value for _, value in text.PRECISIONS},
    "kernel": {value for _, value in text.KERNELS},
}


@dataclass(frozen=True)
class Memory:
    """What to come back to.

    Attributes:
        shown: Key of what was shown, as of ``files.key_of``; empty when there is none.
        example: Name of an example, as a link carries it.
        form: Values of fields of the form by name, as each takes them.
        file: Path on the server, name and type of a file that was chosen and not asked about yet; nobody has looked
            whether it is there.
    """

    shown: str = ""
    example: str = ""
    form: Mapping[str, Any] = field(default_factory=dict)
    file: tuple[str, str, str] | None = None


def remembered(words: Any, pruners: tuple[Pruner, ...]) -> Memory:
    """The memory in a text from a browser; what cannot be read is left out.

    Args:
        words: JSON text, or an empty one.
        pruners: The methods that are offered; others are left out.
    """
    given = _object(words)
    fields: dict[str, Any] = {}
    asked = given.get("form")
    for name, value in (asked if isinstance(asked, dict) else {}).items():
        taken = _field(name, value, pruners)
        if taken is not None:
            fields[name if name != "methods" else "menu"] = taken
    shown, example = (value if isinstance(value, str) else "" for value in (given.get("shown"), given.get("example")))
    return Memory(shown[:80], example[:200], fields, _file(given.get("file")))


def _file(value: Any) -> tuple[str, str, str] | None:
    given = value if isinstance(value, dict) else {}
    path, name, mime = (given.get(name) for name in ("path", "name", "mime"))
    if not isinstance(path, str) or not path:
        return None
    return path, name[:200] if isinstance(name, str) else "", mime[:80] if isinstance(mime, str) else ""


def _object(words: Any) -> dict[str, Any]:
    if not isinstance(words, str) or not 0 < len(words) <= LONGEST:
        return {}
    try:
        value = json.loads(words)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _field(name: str, value: Any, pruners: tuple[Pruner, ...]) -> Any:
    """A value that the field of the form takes; None: it keeps its own."""
    if name in _WHOLE:
        return int(value) if is_whole(value) and _WHOLE[name] <= value <= _MOST else None
    if name in _CHOICES:
        return value if isinstance(value, str) and value in _CHOICES[name] else None
    if name == "question":
        return value[:_LONGEST_QUESTION] if isinstance(value, str) else None
    if name == "expected":
        return value[:_LONGEST_QUESTION] if isinstance(value, str) else None
    if name == "model":
        return value[:300] if isinstance(value, str) else None
    if name == "methods":
        return _chosen(value, pruners)
    return None


def _chosen(value: Any, pruners: tuple[Pruner, ...]) -> dict[str, Any] | None:
    """A value of the menu of methods, with what was given of their parameters and no more."""
    try:
        known = {method for method, _ in read_menu(pruners, {"chosen": value})}
        return {"chosen": [[id, params] for id, params in method_entries(value, "") if id in known]}
    except BadInput:
        return None
