"""How the fidelity tables write numbers: one place, so that text rebuilt from the JSON file is the same text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MISSING = "–"


def number(value: float | None, digits: int = 1, sign: bool = False) -> str:
    """A number with fixed digits; a dash for what is undefined."""
    if value is None or value != value:
        return MISSING
    return f"{value:{'+' if sign else ''}.{digits}f}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share as a number of percent, without the sign."""
    return MISSING if share is None else number(100 * share, digits)


def span(estimated: Mapping[str, Any], sign: bool = False) -> str:
    """The interval of an estimate, "[94.0, 97.1]"."""
    return f"[{number(estimated['low'], sign=sign)}, {number(estimated['high'], sign=sign)}]"


def points(estimated: Mapping[str, Any]) -> str:
    """A difference in points with its interval, "+3.1 points [+1.0, +5.2]"."""
    return f"{number(estimated['value'], sign=True)} points {span(estimated, sign=True)}"


def p_value(p: float | None) -> str:
    """A p value with three digits, or as less than 0.001."""
    if p is None:
        return MISSING
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def names(labels: Sequence[str]) -> str:
    """Labels in a row, or "none"."""
    return ", ".join(labels) or "none"


def verdict(holds: bool) -> str:
    """Whether a demand holds."""
    return "holds" if holds else "does not hold"


def cell(text: object) -> str:
    """Untrusted text as one cell of a Markdown table: no line breaks, no columns, no HTML, no emphasis."""
    plain = " ".join(str(text).split())
    for mark, written in (
        ("&", "&amp;"),
        ("<", "&lt;"),
        (">", "&gt;"),
        ("|", "\\|"),
        ("*", "\\*"),
        ("_", "\\_"),
        ("`", "\\`"),
    ):
        plain = plain.replace(mark, written)
    return plain
