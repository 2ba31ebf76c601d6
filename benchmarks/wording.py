"""The words of our reports are templates; how they are filled, and how numbers are written. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

MISSING = "–"


def number(value: float | None, digits: int = 1, sign: bool = False) -> str:
    """A number with fixed digits; a dash for what is undefined."""
    if value is None or value != value:
        return MISSING
    return f"{value:{'+' if sign else ''}.{digits}f}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share as a number of percent, without the sign."""
    return MISSING if share is None else number(100 * share, digits)


def span(estimated: Mapping[str, Any], digits: int = 1, sign: bool = False) -> str:
    """The interval of an estimate, "[94.0, 97.1]"."""
    return f"[{number(estimated['low'], digits, sign)}, {number(estimated['high'], digits, sign)}]"


def with_span(estimated: Mapping[str, Any], digits: int = 1, sign: bool = False) -> str:
    """A number and its interval, "94.1 [92.0, 96.3]"."""
    return f"{number(estimated['value'], digits, sign)} {span(estimated, digits, sign)}"


def points(estimated: Mapping[str, Any]) -> str:
    """A difference in points with its interval, "+3.1 points [+1.0, +5.2]"."""
    return f"{number(estimated['value'], sign=True)} points {span(estimated, sign=True)}"


def p_value(p: float | None) -> str:
    """A p value with three digits, or as less than 0.001."""
    if p is None:
        return MISSING
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def names(labels: Iterable[str]) -> str:
    """Labels in a row, or "none"."""
    return ", ".join(labels) or "none"


def verdict(holds: bool) -> str:
    """Whether a demand holds."""
    return "holds" if holds else "does not hold"


def cell(text: object) -> str:
    """Untrusted text as one cell of a Markdown table: no line breaks, no columns, no HTML, no emphasis."""
    plain = " ".join(str(text).split())
    for mark, written in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        plain = plain.replace(mark, written)
    return re.sub(r"([|*_`])", r"\\\1", plain)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A Markdown table; the first ``left`` columns are text, the others numbers."""
    rule = ["---"] * left + ["---:"] * (len(heads) - left)
    return "\n".join("| " + " | ".join(row) + " |" for row in (heads, rule, *rows))


def filled(template: Path, **values: Any) -> str:
    """A template with its values, as it is laid out. A value that it names and does not get is an error."""
    environment = Environment(
        loader=FileSystemLoader(template.parent),
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    words = (number, percent, span, with_span, points, p_value, names, verdict, cell)
    environment.filters |= {function.__name__: function for function in words}
    environment.globals |= {"table": table, "MISSING": MISSING}
    return environment.get_template(template.name).render(**values)


def render(template: Path, **values: Any) -> str:
    """A template as Markdown, every paragraph and list item on one line; the template breaks lines where it likes."""
    blocks = re.split(r"\n\s*\n", filled(template, **values).strip())
    return "\n\n".join(_joined(block) for block in blocks) + "\n"


def by_hand(path: Path, weights: str) -> str:
    """A text about a model, without its first line, which names the weights (``weights: 9bd21dfb2699``).

    Empty where that names others: what was learnt of a model is not true of the next one.
    """
    first, _, text = path.read_text(encoding="utf-8").partition("\n")
    if first.split() != ["weights:", weights]:
        return ""
    return re.sub(r"^(#.*)\n(?=[^\n])", r"\1\n\n", text.strip(), flags=re.MULTILINE)  # ``render`` joins lines


def _joined(block: str) -> str:
    """Lines that begin no heading, list item or row of a table go on the line before."""
    lines: list[str] = []
    for line in map(str.strip, block.splitlines()):
        if lines and not line.startswith(("|", "- ", "#")):
            lines[-1] += f" {line}"
        else:
            lines.append(line)
    return "\n".join(lines)
