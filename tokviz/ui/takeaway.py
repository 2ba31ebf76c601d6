"""Everything of a comparison in one ZIP file. No gradio: the library packs it just as the page does."""

from __future__ import annotations

import base64
import io
import re
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

from ..comparison import Comparison
from ..files import shown_name
from ..media.images import rgb_digest, stored_image
from ..records import Run
from ..runs.reproduce import example_of
from ..viz.figures import figure_bytes, figure_files
from ..viz.overlays import merge_stage, score_stage
from ..viz.patches import csv_text
from . import numbers, text
from .offline import page

_WHEN = (1980, 1, 1, 0, 0, 0)
"""Of every file in it: the same comparison gives the same bytes."""


def bundle(comparison: Comparison, view: str, views: Sequence[str], figure: Mapping[str, Any]) -> bytes:
    """See ``Comparison.to_zip``. Raises BadInput as ``figure`` does."""
    stem = text.file_stem(comparison.request.question, comparison.request.budget)
    files: dict[str, bytes] = {f"{stem}.json": comparison.to_json().encode(), f"{stem}.html": page(comparison).encode()}
    for file_format, content in figure_files(comparison, view=view, **figure).items():
        files[f"{stem}-{view}.{file_format}"] = content
    for other in views:
        if other != view and _shows_something(comparison, other):
            files[f"{stem}-{other}.pdf"] = figure_bytes(comparison, "pdf", view=other, **figure)
    table = numbers.table(comparison)
    rows = [dict(zip(table["headers"], row, strict=True)) for row in table["data"]]
    files[f"{stem}-numbers.csv"] = csv_text(rows).encode()
    for run in comparison.runs:
        if run.error is None:
            files[f"{stem}-patches-{_name_of(run)}.csv"] = csv_text(comparison.patches(run.key)).encode()
    image, source = _image(comparison)
    if image is not None:
        files[image[0]] = image[1]
    files["run-again.py"] = comparison.to_python(source).encode()
    files["run-again.txt"] = f"{comparison.to_command(source)}\n{comparison.to_link()}\n".encode()
    files["README.txt"] = _read_me(comparison, list(files)).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(zipfile.ZipInfo(f"{stem}/{name}", _WHEN), content, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def run_again(comparison: Comparison) -> dict[str, Any]:
    """What ``assets/run_again.js`` shows. hash: the link without the page's address; own: whether its image is."""
    return {
        "python": comparison.to_python(),
        "command": comparison.to_command(),
        "hash": comparison.to_link(""),
        "own": example_of(comparison) is None,
    }


def _shows_something(comparison: Comparison, view: str) -> bool:
    """Whether a view has more to show than kept tokens."""
    pruned = [run for run in comparison.runs if run.error is None and run.stages]
    return {
        "score": any(score_stage(run) is not None for run in pruned),
        "clusters": any(merge_stage(run) is not None for run in pruned),
        "order": any(stage.order is not None for run in pruned for stage in run.stages),
        "dropped": any(len(run.stages) > 1 for run in pruned),
        "ab": len(pruned) > 1,
    }.get(view, bool(pruned))


def _name_of(run: Run) -> str:
    return re.sub(r"[^a-z0-9]+", "-", run.key.lower()).strip("-")[:60] or "run"


def _image(comparison: Comparison) -> tuple[tuple[str, bytes] | None, str | None]:
    """The image as a file, and what the code calls it; a stored example is called by its name, and is not in there.

    Of a large image, or a video, the session holds less than was asked about: the code names the visitor's own file.
    """
    if example_of(comparison) is not None or comparison.video is not None:
        return None, None
    record = comparison.image
    if rgb_digest(stored_image(record)) != record.sha256:
        return None, None
    name = f"image.{'jpg' if record.mime == 'image/jpeg' else 'png'}"
    return (name, base64.b64decode(record.base64)), name


def _read_me(comparison: Comparison, names: Sequence[str]) -> str:
    asked = " ".join(comparison.request.question.split())
    kinds = {
        ".json": "the session: tokviz.Comparison.load(...), or Open a session file on the page",
        ".html": "the lanes, to open in any browser, offline too",
        ".png": "figure, or the image that was asked about",
        ".svg": "figure whose text can be edited",
        ".pdf": "figure",
        ".csv": "numbers of every run, or what became of each visual token in one",
        ".py": "asks the same again",
        ".txt": "the same as a command and as a link",
    }
    lines = [f"{name}: {kinds.get('.' + name.rsplit('.', 1)[-1], '')}" for name in map(shown_name, names)]
    return "\n".join([f"tokviz: {asked}", "", *lines, ""])
