"""What the Export tab makes of what is shown: figures, a page that opens offline, everything in one file."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from ..comparison import Comparison
from ..errors import BadInput
from ..serving.storage import temporary_file
from . import text
from .components import notice
from .files import figure_options, read_session, shown_options
from .form import is_whole

FIGURE_FORMATS = ("png", "svg", "pdf")


class Exports:
    """Handlers of the tab's buttons. ``shown_file`` gives the session file of what a browser shows, by its key."""

    def __init__(self, shown_file: Callable[[str], str | None]):
        self.shown_file = shown_file

    def figure(self, key: str, *asked: Any) -> list[Any]:
        """What is shown as a figure. asked: as of ``_figure_asked``. Outputs: files, notice."""

        def make(comparison: Comparison, session: str) -> list[str]:
            from ..viz.figures import save_figure

            options = _figure_asked(comparison, *asked)
            draw = functools.partial(save_figure, comparison, **options)
            stem = text.file_stem(comparison.request.question, comparison.request.budget, options["view"])
            names = [f"{stem}.{kind}" for kind in FIGURE_FORMATS]
            folder = _folder("figure", session, options)
            return [str(temporary_file(f"{folder}/{name}", draw)) for name in names]

        return self._made(key, make)

    def everything(self, key: str, *asked: Any) -> list[Any]:
        """All that can be taken away, in one ZIP file; arguments and outputs as of ``figure``."""

        def make(comparison: Comparison, session: str) -> list[str]:
            options = _figure_asked(comparison, *asked)
            name = f"{text.file_stem(comparison.request.question, comparison.request.budget)}.zip"
            path = f"{_folder('everything', session, options)}/{name}"
            return [str(temporary_file(path, lambda path: comparison.to_zip(path, **options)))]

        return self._made(key, make)

    def saved_page(self, key: str) -> list[Any]:
        """What is shown as an HTML file that opens offline. Outputs as of ``figure``."""

        def make(comparison: Comparison, session: str) -> list[str]:
            name = f"{text.file_stem(comparison.request.question, comparison.request.budget)}.html"
            path = f"{_folder('page', session, {})}/{name}"
            return [str(temporary_file(path, lambda path: comparison.to_html(path)))]

        return self._made(key, make)

    def _made(self, key: str, make: Callable[[Comparison, str], list[str]]) -> list[Any]:
        """Files of what is shown, or a sentence why there are none."""
        session = self.shown_file(key)
        if session is None:
            return [gr.skip(), notice("error", text.NOTHING_TO_DRAW)]
        try:
            return [gr.update(value=make(read_session(session), session), visible=True), None]
        except BadInput as error:
            return [gr.skip(), notice("error", str(error))]


def _figure_asked(
    comparison: Comparison,
    view: str,
    level: str | None,
    frames: str,
    title: Any = "",
    columns: Any = None,
    shown: Any = "",
) -> dict[str, Any]:
    """The export's fields as arguments of ``Comparison.figure``. Raises BadInput."""
    options = {**shown_options(comparison, view, shown), **figure_options(comparison, level, frames)}
    if isinstance(title, str) and title.strip():
        options["title"] = title.strip()[:300]
    if columns not in (None, "", 0):
        if not is_whole(columns):
            raise BadInput("The number of columns is a whole number.")
        options["columns"] = int(columns)
    return options


def _folder(kind: str, session: str, options: Mapping[str, Any]) -> str:
    """Asked for again it is the same file: the session's name, too, follows from its content."""
    digest = hashlib.sha256(repr((session, sorted(options.items()))).encode()).hexdigest()
    return f"{kind}-{digest}"
