"""A comparison as one HTML file: the lanes and what belongs to them, as on the page, without server and network."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from html import escape
from typing import Any

from ..comparison import Comparison
from ..records import ImageRecord
from . import numbers, text
from .costs import costs
from .payload import packed, to_payload
from .scripts import COST_SCRIPTS, VIEW_SCRIPTS, VIEW_STYLES, asset, script, styles

_SIDE, _FRAME_SIDE = 1200, 720
"""Longest side in px of an image, and of a frame; the patches are drawn from the session's own numbers."""
_DARK = "document.body.classList.toggle('dark', matchMedia('(prefers-color-scheme: dark)').matches);"
_START = """
const given = JSON.parse(document.querySelector('#data').textContent);
const part = (name) => [document.querySelector(`#${name}`), { value: given[name] }, () => {}, () => {}];
"""


def page(comparison: Comparison) -> str:
    """The whole file. Raises BadInput for a damaged session.

    Texts of the session are JSON that the scripts write as text, or escaped. By its own policy the file runs these
    scripts and no others, and fetches nothing.
    """
    given = {"view": _view(comparison), "costs": costs(comparison), "numbers": numbers.table(comparison)}
    # Whatever a question or an answer says, it cannot end the element that it travels in.
    data = json.dumps(given, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c").replace("\u2028", " ")
    code = _code()
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    request = comparison.request
    again = {"Python": comparison.to_python(), "Command": comparison.to_command()}
    blocks = "".join(f"<h3>{name}</h3><pre tabindex=0>{escape(words)}</pre>" for name, words in again.items())
    answers = "".join(f"<li>{escape(run.label)}: {escape(run.error or run.answer)}</li>" for run in comparison)
    return _PAGE.format(
        digest=digest,
        title=escape(f"{request.question[:120]} · tokviz"),
        style="\n".join(
            (asset("colours.css"), styles(VIEW_STYLES), asset("cost_panel.css"), asset("numbers_table.css"), _STYLE)
        ),
        setting=escape(_setting(comparison)),
        view=asset("patch_view.html"),
        costs=asset("cost_panel.html"),
        numbers=asset("numbers_table.html"),
        again=blocks,
        answers=answers,
        data=data,
        code=code,
    )


def _view(comparison: Comparison) -> dict[str, Any]:
    if comparison.video is None:
        return packed(to_payload(comparison, image=_file(comparison.image, _SIDE)))
    frames = [_file(frame.image, _FRAME_SIDE) for frame in comparison.video.frames]
    return packed(to_payload(comparison, frames=frames))


def _file(record: ImageRecord, side: int) -> dict[str, str]:
    """An image as a data address, decoded and encoded anew: a session may hold anything under its name."""
    from ..media.images import stored_image

    shown = stored_image(record)
    shown.thumbnail((side, side))
    out = io.BytesIO()
    if record.mime == "image/jpeg":
        shown.save(out, "JPEG", quality=88)
    else:
        shown.save(out, "PNG", optimize=True)
    kind = record.mime if record.mime == "image/jpeg" else "image/png"
    return {"url": f"data:{kind};base64,{base64.b64encode(out.getvalue()).decode()}"}


def _code() -> str:
    """The scripts, each part in a function of its own, as on the page."""
    parts = {"view": VIEW_SCRIPTS, "costs": COST_SCRIPTS, "numbers": ("numbers_table.js",)}
    bodies = (
        "((element, props, trigger, watch) => {{{}\n}})(...part('{}'));".format("\n".join(map(script, scripts)), name)
        for name, scripts in parts.items()
    )
    code = "\n".join((_DARK, f"(() => {{{script('hints.js')}\n}})();", _START, *bodies))
    return code.replace("</", "<\\/")


def _setting(comparison: Comparison) -> str:
    model, grid = comparison.model, comparison.grid
    counted = next(label for label, value in text.BUDGET_MEANINGS if value == comparison.request.budget_as)
    version = comparison.versions.get("tokviz", "")
    return (
        f"{model.name} · {model.device} · {model.attention} · budget {comparison.request.budget} of {grid.n_tokens} "
        f"visual tokens, {counted} · tokviz {version}"
    )


_STYLE = """
body { --body-text-color: #15181c; --body-background-fill: #f6f6f4; --button-primary-background-fill: #0072b2;
  --button-primary-text-color: #fff; --font: system-ui, sans-serif; --font-mono: ui-monospace, Consolas, monospace;
  margin: 0; padding: 14px 20px 30px; background: var(--body-background-fill); color: var(--body-text-color);
  font: 14px/1.45 var(--font); }
body.dark { --body-text-color: #f1f3f5; --body-background-fill: #121316; --button-primary-background-fill: #56b4e9;
  --button-primary-text-color: #101216; color-scheme: dark; }
main > section { margin-top: 16px; }
h2 { margin: 0 0 8px; font-size: 16px; }
h3 { margin: 10px 0 4px; font-size: 13px; }
.made { margin: 0 0 10px; color: var(--tv-muted); font-size: 12.5px; overflow-wrap: anywhere; }
pre { margin: 0; padding: 10px 12px; border: 1px solid var(--tv-line); border-radius: 8px; background: var(--tv-card);
  overflow: auto; font: 12.5px/1.5 var(--font-mono); }
#costs { container-type: inline-size; }
.tv-copy-link { display: none; }
@media (max-width: 500px) { body { padding: 10px; } }
@media print { .tv-bar, .tv-lane-bar, .nt-copy { display: none; } }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
<p class="made">{setting}</p>
<noscript><p>The pictures need JavaScript. The answers:</p><ul>{answers}</ul></noscript>
<div id="view">{view}</div>
<section><h2>Cost</h2><div id="costs">{costs}</div></section>
<section><h2>Numbers</h2><div id="numbers">{numbers}</div></section>
<section><h2>Run it again</h2>{again}</section>
</main>
<script type="application/json" id="data">{data}</script>
<script>{code}</script>
</body>
</html>
"""
