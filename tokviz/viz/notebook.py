"""A comparison as HTML for a notebook: one image per run with what it kept, and the answers. Self-contained."""

from __future__ import annotations

import base64
import io
from html import escape

from PIL import Image

from ..comparison import Comparison
from ..records import Run
from ..runs.metrics import Tone, judge
from .overlays import kept_overlay, kept_stage
from .raster import Canvas, open_canvas

MAX_BYTES = 280_000
"""Of all images together: what a notebook stores with every cell that shows a comparison."""
_SIDES = (256, 192, 144, 112, 80, 56)
_LONGEST = 300
# Readable on white and on black alike; text has the notebook's own colour.
_COLORS: dict[Tone, str] = {"good": "#1a9850", "bad": "#e0503c", "different": "#c98a00", "same": "inherit"}
_STRIP = "display:flex;flex-wrap:wrap;gap:12px;font:13px/1.35 sans-serif"
_FIGURE = "margin:0;overflow-wrap:anywhere"


def to_html(comparison: Comparison) -> str:
    """What a notebook shows of a comparison; texts are escaped, images made smaller until they are within a limit.

    Of a video the frame with evidence is drawn, else the first. Raises BadInput for a damaged session.
    """
    for side in _SIDES:
        canvas = open_canvas(comparison, long_side=side)
        images = [_image(canvas, run) for run in comparison]
        if sum(map(len, images)) <= MAX_BYTES:
            break
    width = max(side, 112)
    figures = "".join(
        f'<figure style="{_FIGURE};width:{width}px">{image}'
        f"<figcaption>{_caption(comparison, run)}</figcaption></figure>"
        for run, image in zip(comparison, images, strict=True)
    )
    request, model = comparison.request, comparison.model
    known = f" (expected: {_text(request.expected_answer)})" if request.expected_answer else ""
    head = f"<b>{_text(request.question)}</b>{known}"
    setting = f"{_text(model.name)} · budget {request.budget} of {comparison.grid.n_tokens} visual tokens"
    notes = "".join(f'<div style="opacity:.75">{_text(warning)}</div>' for warning in comparison.warnings[:5])
    muted = "opacity:.75"
    return (
        f'<div><div>{head}</div><div style="{muted}">{setting}</div><div style="{_STRIP}">{figures}</div>{notes}</div>'
    )


def _image(canvas: Canvas, run: Run) -> str:
    buffer = io.BytesIO()
    Image.fromarray(kept_overlay(canvas, run, kept_stage(run) or 0)).save(buffer, "JPEG", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    dim = ";opacity:.35" if run.error else ""
    return f'<img alt="" style="max-width:100%;display:block{dim}" src="data:image/jpeg;base64,{data}">'


def _caption(comparison: Comparison, run: Run) -> str:
    lines = [f"<b>{_text(run.label)}</b>"]
    if run.error is not None:
        return "<br>".join([*lines, f'<span style="opacity:.75">not run: {_text(run.error)}</span>'])
    lines.append(_text(run.answer) or '<i style="opacity:.75">(no answer)</i>')
    judged = judge(comparison, run)
    if judged is not None:
        lines.append(f'<span style="color:{_COLORS[judged.tone]}">{_text(str(judged))}</span>')
    if run.actual is not None and run.stages:
        lines.append(f'<span style="opacity:.75">{run.actual.final} tokens left</span>')
    return "<br>".join(lines)


def _text(text: str) -> str:
    return escape(text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…")
