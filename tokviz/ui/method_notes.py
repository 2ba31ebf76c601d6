"""The tab "Methods" as HTML of our own constants: what each method claims, its paper, where paper and code differ."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from ..pruners.pruner import Pruner
from . import text
from .api import method_notes


def method_page(pruners: Sequence[Pruner]) -> str:
    """A table of the methods and, folded, their notes."""
    rows = "".join(map(_row, pruners))
    notes = "".join(_notes(pruner.label, found) for pruner in pruners if (found := method_notes(pruner.id)))
    return (
        "<table><thead><tr><th>method</th><th>family</th><th>what it does</th><th>source</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
        "<details><summary>Where paper and code differ or say nothing, and what tokviz does</summary>"
        f"{notes}</details>"
    )


def _row(pruner: Pruner) -> str:
    paper, source = pruner.paper, "control"
    if paper:
        words = escape(f"{paper.authors}, {paper.year}")
        source = f'<a href="{escape(paper.url)}" target="_blank" rel="noopener noreferrer">{words}</a>'
    cells = (f"<b>{escape(pruner.label)}</b>", text.FAMILY_LABELS[pruner.family], escape(pruner.claim), source)
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _notes(label: str, notes: Sequence[str]) -> str:
    items = "".join(f"<li>{_with_code(note)}</li>" for note in notes)
    return f"<h3>{escape(label)}</h3><ul>{items}</ul>"


def _with_code(note: str) -> str:
    """Escaped, with what stands between backticks as code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(note))
