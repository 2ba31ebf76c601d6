"""A filtered set as one HTML file: it opens offline, holds no script, and everything in it that came from elsewhere is
escaped.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import BadInput
from ..files import resource
from ..tables import Cell, ResultTable
from .cards import cards
from .columns import case_columns
from .kept import kept_boxes
from .manifest import shown_method
from .media import media_file
from .queries import Found
from .requests import View
from .run import OpenRun
from .stored import case_row
from .tabled import result_table
from .tags import Given, TagStore
from .words import filter_words

MOST_CASES = 500
LARGE_CASES = 200
"""Up to so many cases have an image of ``SIDE`` px; more have the thumbnails of the grid."""
SIDE = 340
LARGEST = 20_000_000
"""Bytes of a report of ``LARGE_CASES``; images are made smaller until it is."""
_SIGNS = {
    "kept": "✓",
    "lost": "✗",
    "rescued": "✓",
    "changed": "✗",
    "wrong": "✗",
    "same": "=",
    "differs": "≠",
    "error": "!",
}
_QUALITIES = ((SIDE, 80), (SIDE, 60), (240, 55), (160, 50))


def report_html(
    run: OpenRun, view: View, found: Found, tags: TagStore | None = None, media: Sequence[Path] = ()
) -> str:
    """The report of a view's cases, in its order, the first ``MOST_CASES``.

    view: its methods are drawn, at its budget; every other method is named with its outcome. media: as of
    ``media_file``; where an image is gone, the thumbnail is shown.
    """
    some = found.ordinals(view.sort)[:MOST_CASES].tolist()
    shown = cards(run, some, view.methods, view.budget, view.seed)
    given = {} if tags is None else tags.given([card["id"] for card in shown])
    images = _images(run, some, media)
    blocks = [_case(run, view, card, images[card["ordinal"]], given.get(card["id"])) for card in shown]
    tables = [result_table(run, found, kind, view.budget) for kind in ("budget", "slice")]
    title = f"{run.manifest.cases.name or run.name}: {filter_words(view.filter, _labels(run))}"
    body = "\n".join(
        [_head(run, view, found, len(shown)), *map(_table, tables), '<ol class="cases">', *blocks, "</ol>"]
    )
    return _PAGE.format(title=escape(title[:200]), style=_style(), body=body)


def _style() -> str:
    return resource("assets/report.css").read_text(encoding="utf-8")


# The policy: no script, nothing from anywhere, whatever an answer says.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


def _labels(run: OpenRun) -> dict[str, str]:
    return {method.key: shown_method(method) for method in run.manifest.methods}


def _head(run: OpenRun, view: View, found: Found, n_shown: int) -> str:
    manifest, total = run.manifest, len(case_columns(run).ordinal)
    count = f"{len(found):,} of {total:,} cases" if len(found) < total else f"{total:,} cases"
    first = "" if n_shown == len(found) else f", the first {n_shown:,} of them below"
    facts = {
        "Filter": filter_words(view.filter, _labels(run)),
        "Budget": f"{view.budget} visual tokens, {manifest.budget_as}",
        "Model": f"{manifest.model.id} ({manifest.model.revision or manifest.model.weights_sha256[:12]})",
        "Mined": f"{manifest.created}, {manifest.device}, {manifest.dtype}, {manifest.kernel}",
        "Command": manifest.command,
        "Versions": ", ".join(f"{name} {version}" for name, version in manifest.versions.items()),
    }
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    return (
        f"<header><p class=made>tokviz · failures of visual-token pruning</p>"
        f"<h1>{escape(manifest.cases.name or run.name)}</h1><p class=count>{count}{first}</p><dl>{rows}</dl></header>"
    )


def _table(table: ResultTable) -> str:
    heads = "".join(f"<th scope=col>{escape(name)}</th>" for name in table.columns)
    lines = []
    for row in table.rows:
        cells = "".join(f"<td>{_numbers(cell)}</td>" for cell in row.cells)
        lines.append(f"<tr><th scope=row>{escape(row.label)}</th>{cells}</tr>")
    notes = "".join(f"<p class=facts>{escape(note)}</p>" for note in table.notes)
    return (
        f"<section><h2>{escape(table.title)}</h2><div class=frame><table><thead><tr><th scope=col>{escape(table.head)}"
        f"</th>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>{notes}</section>"
    )


def _numbers(cell: Cell) -> str:
    if cell.value is None:
        return escape(cell.text or "–")
    ends = "" if cell.low is None or cell.high is None else f"<small>{cell.low:.1f} – {cell.high:.1f}</small>"
    return f"{cell.value:.{cell.digits}f}{ends}"


def _case(run: OpenRun, view: View, card: Mapping[str, Any], image: str, given: Given | None) -> str:
    labels, number = _labels(run), card["ordinal"]
    verdict = "" if card["right"] is None else ("✓ " if card["right"] else "✗ ")
    facts = [f"unpruned {verdict}{card['answer'] if card['answer'] is not None else '–'}"]
    if card["expected"]:
        facts.insert(0, f"expected {' or '.join(card['expected'])}")
    if card["family"]:
        facts.append(str(card["family"]))
    lanes = "".join(
        _lane(run, card, lane, method, labels) for lane, method in zip(card["lanes"], view.methods, strict=True)
    )
    others = "".join(
        f'<li class="o-{outcome}">{escape(labels.get(key, key))} {_SIGNS[outcome]}</li>'
        for key, outcome in card["outcomes"].items()
    )
    review = "" if given is None else _review(given)
    return (
        f'<li><svg class=defs aria-hidden=true><defs><image id="i{number}" href="{image}" width="1000" height="1000" '
        f'preserveAspectRatio="none"/></defs></svg><p class=id>{escape(card["id"] or "")}</p>'
        f"<h3>{escape(card['question'] or '')}</h3><p class=facts>{escape(' · '.join(facts))}</p>{review}"
        f"<div class=lanes>{lanes}</div><ul class=others>{others}</ul></li>"
    )


def _review(given: Given) -> str:
    words = [given.status] if given.status != "unreviewed" else []
    tags = "".join(f"<span>{escape(word)}</span>" for word in [*words, *given.tags])
    note = f"<p class=note>{escape(given.note)}</p>" if given.note else ""
    return f"<p class=tags>{tags}</p>{note}"


def _lane(
    run: OpenRun, card: Mapping[str, Any], lane: Mapping[str, Any] | None, method: str, labels: Mapping[str, str]
) -> str:
    name = escape(labels.get(method, method))
    if lane is None:
        return f"<figure><figcaption>{name}<br>not mined</figcaption></figure>"
    width, height = card["size"]
    veil = "" if lane["mask"] is None else _veil(lane["mask"])
    boxes = "".join(
        f'<rect class={look} x="{x0}" y="{y0}" width="{x1 - x0}" height="{y1 - y0}"/>'
        for x0, y0, x1, y1 in card["evidence"]
        for look in ("case", "dash")
    )
    said = lane["error"] or lane["answer"] or "(no answer)"
    kept = f"{lane['kept']} tokens" if lane["kept"] is not None else ""
    return (
        f'<figure><svg viewBox="0 0 1000 1000" preserveAspectRatio="none" style="aspect-ratio:{width}/{height}" '
        f'role=img aria-label="{name}: {escape(lane["outcome"])}"><use href="#i{card["ordinal"]}"/>{veil}{boxes}</svg>'
        f'<figcaption>{name} <small>{kept}</small><br><b class="o-{lane["outcome"]}">{_SIGNS[lane["outcome"]]} '
        f"{escape(said)}</b></figcaption></figure>"
    )


def _veil(mask: Mapping[str, Any]) -> str:
    """The dropped part: the whole image with a hole for every kept patch."""
    holes = "".join(f"M{x0} {y0}H{x1}V{y1}H{x0}z" for x0, y0, x1, y1 in kept_boxes(mask))
    return f'<path class=veil d="M0 0H1000V1000H0z{holes}"/>'


def _images(run: OpenRun, ordinals: Sequence[int], media: Sequence[Path]) -> dict[int, str]:
    """Every image as a data address, by case; made smaller until all of them fit."""
    whole = {ordinal: _opened(run, ordinal, media if len(ordinals) <= LARGE_CASES else None) for ordinal in ordinals}
    found: dict[int, str] = {}
    for side, quality in _QUALITIES:
        found = {ordinal: _address(image, side, quality) for ordinal, image in whole.items()}
        if sum(map(len, found.values())) < 0.7 * LARGEST:
            break
    return found


def _opened(run: OpenRun, ordinal: int, media: Sequence[Path] | None) -> Image.Image | None:
    from ..media.images import checked_image, read_image

    case = case_row(run, ordinal)
    if media is not None and case["image"] is not None:
        try:
            image = checked_image(media_file(run, case, media)).image
            image.thumbnail((SIDE, SIDE))
            return image
        except BadInput:  # the small one is shown instead
            pass
    try:
        return read_image(bytes(case["thumbnail"])).image if case["thumbnail"] else None
    except BadInput:
        return None


def _address(image: Image.Image | None, side: int, quality: int) -> str:
    if image is None:
        return ""
    shown = image.convert("RGB").copy()
    shown.thumbnail((side, side))
    out = io.BytesIO()
    shown.save(out, "JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
