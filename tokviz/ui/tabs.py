"""The tabs below the lanes: numbers, cost, methods, export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ..comparison import Comparison
from ..pruners.pruner import Pruner
from . import numbers, text
from .components import CostPanel, FileButton, Notice, NumbersTable, RunAgain
from .exports import Exports
from .failures import with_sentences
from .files import figure_choices, session_file
from .method_notes import method_page

_QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_SHOWN = """(...values) => {
  const seen = window.tokvizLanes;
  if (!seen?.state.payload) return values;
  const { view, settings } = seen.state;
  const lanes = seen.seenLanes().filter(({ data }) => data.status === 'done' || data.status === 'error');
  const staged = lanes.filter(({ data }) => data.stages.length);
  const of = (value) => Object.fromEntries(staged.map((lane) => [lane.data.key, value(lane)]));
  const shown = {
    view, reach: settings.reach, lanes: lanes.map(({ data }) => data.key), stages: of((lane) => lane.stageAt),
    maps: of((lane) => lane.data.stages[lane.stageAt].maps[lane.mapAt]?.label ?? null),
    a: seen.laneA()?.data.key, b: seen.laneB()?.data.key ?? null,
  };
  return [...values.slice(0, -1), JSON.stringify(shown)];
}"""
"""Asked when a figure is made: which lanes are there, at which stage and map; see ``files.shown_options``."""
_FILES: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": 2, "concurrency_id": "files"}
"""Figures and archives take memory and time: two at once, whoever asks."""


@dataclass
class Tabs:
    """Components of the tabs below the lanes that events need."""

    table: NumbersTable
    costs: CostPanel
    again: RunAgain
    session: gr.DownloadButton
    opener: FileButton
    figure: gr.Button
    figure_fields: list[Any]
    """View, level, frames, title, columns, what the lanes show."""
    page: gr.Button
    everything: gr.Button
    files: gr.File

    def wire_exports(self, exports: Exports, key: gr.Textbox, told: Notice) -> None:
        """What the buttons of the export do. key: of what is shown; told: where the page says what went wrong."""
        drawn, made = [key, *self.figure_fields], [self.files, told]
        self.figure.click(with_sentences(exports.figure), drawn, made, js=_SHOWN, **_FILES)
        self.everything.click(with_sentences(exports.everything), drawn, made, js=_SHOWN, **_FILES)
        self.page.click(with_sentences(exports.saved_page), key, made, **_FILES)


def build_tabs(pruners: Sequence[Pruner], first: Comparison | None) -> Tabs:
    """The tabs, filled with the comparison that is shown first."""
    with gr.Tabs(elem_id="tokviz-tabs"):
        with gr.Tab("Numbers"):
            table = NumbersTable(numbers.table(first) if first else None, elem_id="tokviz-table")
        with gr.Tab("Cost"):
            cost = CostPanel(elem_id="tokviz-costs")  # filled once the page is there, as are all
        with gr.Tab("Methods") as methods_tab:
            notes = gr.HTML(elem_id="tokviz-method-notes")
            # Long, and seldom read: it comes when it is asked for.
            methods_tab.select(lambda: method_page(pruners), None, notes, queue=False, **_QUIET)
        with gr.Tab("Export"), gr.Row(elem_id="tokviz-export"):
            with gr.Column(min_width=220):
                make, fields = _figure_fields(first)
            with gr.Column(min_width=220):
                value = session_file(first) if first else None
                session = gr.DownloadButton("Download the session (JSON)", value, elem_id="tokviz-session")
                saved = gr.Button("Save as a page that opens offline (HTML)", elem_id="tokviz-saved-page")
                everything = gr.Button("Pack everything (ZIP)", elem_id="tokviz-everything")
                files = gr.File(label="Files", interactive=False, visible=False, elem_id="tokviz-figure-files")
                opener = FileButton("Open a session file", file_types=[".json"], elem_id="tokviz-open")
            with gr.Column(min_width=260, scale=2):
                again = RunAgain(elem_id="tokviz-again")
    return Tabs(table, cost, again, session, opener, make, fields, saved, everything, files)


def _figure_fields(first: Comparison | None) -> tuple[gr.Button, list[Any]]:
    """The button that makes a figure, and the fields that say which."""
    view = gr.Dropdown(text.FIGURE_VIEWS, value="shown", label="View of the figure", filterable=False)
    level_choices, frames_choice = figure_choices(first)
    level = gr.Dropdown(label="Tokens of", filterable=False, **level_choices)
    frames = gr.Textbox(label="Frames", placeholder="up to 8, evenly spaced", info="Such as 1, 4, 9", **frames_choice)
    title = gr.Textbox(label="Title", placeholder="the question", max_lines=1)
    counts: list[tuple[str, int]] = [("automatic", 0), *((str(n), n) for n in range(1, 9))]
    columns = gr.Dropdown(counts, value=0, label="Columns", filterable=False)
    shown = gr.Textbox("", visible="hidden", label="What the lanes show")
    make = gr.Button("Make a figure (PNG, SVG, PDF)", elem_id="tokviz-figure")
    return make, [view, level, frames, title, columns, shown]
