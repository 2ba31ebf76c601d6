"""The layout of the page and its wiring. ``build_page`` makes it, ``launch_settings`` says how it must be served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.themes.utils.fonts import LocalFont
from starlette.middleware import Middleware

from ..comparison import Comparison
from ..names import DEFAULT_METHODS
from ..pruners.pruner import Pruner
from ..runs.examples import Example, load_examples
from ..serving.callers import distrust_forwarded
from ..serving.doors import Doors
from ..serving.kept_runs import KeptRuns
from ..serving.model_cache import load_steps
from ..serving.model_menu import model_options
from ..serving.queue import stop_all
from ..serving.running import Loader, Runner, run_request
from ..serving.storage import storage
from ..workbench.service import Workbench
from . import numbers, text
from .api import add_endpoints
from .api_looks import add_look_endpoints
from .api_studies import add_study_endpoints
from .blocks import SESSIONS, EventQueue, PageBlocks, tidied
from .components import (
    MAX_UPLOAD_MB,
    AboutPage,
    CostPanel,
    ExampleCards,
    FileButton,
    Notice,
    NumbersTable,
    PageHead,
    PatchView,
    RunAgain,
    StudyPanel,
    WorkbenchView,
)
from .compression import CompressedPage
from .failures import with_sentences
from .files import figure_choices, request_file, session_file
from .form import INPUTS, RequestForm, build_form, read_only, stored_methods
from .handlers import Handlers
from .late_scripts import late_scripts
from .link_preview import LinkPreview
from .method_notes import method_page
from .outcomes import cards
from .scripts import ASSETS, script, styles
from .studies import add_studies
from .workbench_page import CaseHandlers
from .workbench_routes import workbench_routes

_TO_ANSWERS = """(...values) => {
  document.dispatchEvent(new CustomEvent('tokviz:asked'));
  if (innerWidth <= 900) document.querySelector('#tokviz-view').scrollIntoView();
  return values;
}"""
"""A run's lanes belong to the file that is in the form now. Narrow screens have them above the form: take the reader
there."""
_RECALL = "(key, model) => [window.tokvizMemory?.recall() ?? '', model]"
_RECALLED = "(model) => { window.tokvizMemory?.chosen(model); window.tokvizMemory?.recalled(); }"
"""What a tab shows and asks is there again when it is loaded anew: the browser remembers it, see page_memory.js."""
_BUDGET = """(budget, as) => {
  document.dispatchEvent(new CustomEvent('tokviz:budget', { detail: { budget: Number(budget), as } }));
}"""
"""The lanes preview another budget at once, see preview.js."""
_QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_CHEAP: dict[str, Any] = {**_QUIET, "concurrency_limit": 8}
"""Events without a model have places of their own, whoever waits for one."""
_EVENTS = 400
"""Most events that wait at all; runs have a line of their own, see ``serving.queue``."""


def build_page(
    run: Runner | None = None,
    *,
    load: Loader = load_steps,
    pruners: Sequence[Pruner] | None = None,
    examples: Sequence[Example] | None = None,
    workbench: Workbench | None = None,
) -> gr.Blocks:
    """The whole page. No model is loaded here.

    Args: run does the model's work (``serve`` wraps it for ZeroGPU), by default ``run_request``, of which finished runs
    are kept; load makes a model ready. pruners: default every
    method. examples: default the stored ones; the first is open when the page appears. workbench: runs that can be
    browsed; ``launch_settings`` must be given the same.
    """
    if pruners is None:
        import tokviz

        pruners = tokviz.methods()
    storage()  # before gradio asks where its files belong
    examples = load_examples() if examples is None else examples
    run = KeptRuns(run_request) if run is None else run
    act = Handlers(run, load, pruners, examples)
    models = [(option.label, option.shown) for option in model_options()]
    with PageBlocks(title=text.TITLE, analytics_enabled=False, delete_cache=(86400, 86400), fill_width=True) as page:
        PageHead(has_failures=workbench is not None, elem_id="tokviz-head")
        AboutPage(elem_id="tokviz-about")
        failures = None if workbench is None else WorkbenchView(elem_id="tokviz-workbench")
        with gr.Row(elem_id="tokviz-page"):
            with gr.Column(elem_id="tokviz-request", min_width=280):
                form = build_form(pruners, models, *_start(act), act.missing(models[0][1]))
                with gr.Column(elem_id="tokviz-actions"):
                    with gr.Row(elem_classes="tokviz-buttons"):
                        compare = gr.Button("Compare", variant="primary", elem_id="tokviz-compare")
                        stop = gr.Button("Stop", variant="secondary", interactive=False, elem_id="tokviz-stop")
                    notice = Notice(elem_id="tokviz-notice")
                    start = [form.menu.value, form.max_new_tokens.value, form.repeats.value]
                    cost = read_only(
                        act.cost(models[0][1], *start),
                        label="Estimated cost of the run",
                        lines=1,
                        max_lines=2,
                        elem_id="tokviz-cost",
                    )
            with gr.Column(elem_id="tokviz-main", min_width=280):
                chooser = _example_chooser(examples, pruners)
                view = PatchView(act.example_payload(0) if examples else None, elem_id="tokviz-view")
                panel = StudyPanel(elem_id="tokviz-studies")
                first = examples[0].comparison if examples else None
                tabs = _tabs(pruners, first)
        budget: list[Any] = [form.budget, form.budget_as]
        gr.on([field.change for field in budget], None, budget, None, js=_BUDGET, **_QUIET)
        # What a page shows is known to the browser, by a key: this server remembers nothing of a visitor.
        key = gr.Textbox(
            "example-0" if examples else "", visible="hidden", label="Key of what is shown", elem_id="tokviz-shown"
        )
        for add in (add_endpoints, add_look_endpoints, add_study_endpoints):
            add(run, pruners, models, act.line)

        results = [view, notice, key]
        run_form = _run_of(act, form)
        changes = [_wire_run(act, form, run_form, compare, stop, results)]
        studies, closer = add_studies(act, form, panel, results, run_form, [*form.totals, stop], _TO_ANSWERS)
        changes += closer
        sized: list[Any] = [form.model, form.menu, form.max_new_tokens, form.repeats]
        weigh = with_sentences(act.cost)
        sizing = [form.menu.input, *(field.change for field in sized)]
        gr.on(sizing, weigh, sized, cost, queue=False, trigger_mode="always_last", **_QUIET)
        changes[0].then(weigh, sized, cost, queue=False, **_QUIET)
        shown = [*results, *form.inputs, form.total]
        if chooser is not None:
            chooser.select(with_sentences(act.leave), None, None, queue=False, **_QUIET)
            show = with_sentences(lambda index, *values: act.choose_example(form, index, values))
            changes.append(chooser.select(show, [chooser, *form.inputs], shown, **_CHEAP))
        if failures is not None and workbench is not None:
            failures.select(with_sentences(act.leave), None, None, queue=False, **_QUIET)
            open_case = with_sentences(CaseHandlers(act, workbench, form).open)
            changes.append(failures.select(open_case, [failures, form.model], shown, **_CHEAP))
        tabs.opener.upload(with_sentences(act.leave), None, None, queue=False, **_QUIET)

        async def open_file(path: str | None, name: str, request: gr.Request) -> list[Any]:
            return await act.open_session(form, path, name, request)

        few = {**_CHEAP, "concurrency_limit": 2}  # the largest session takes 500 MB while it is read
        opening = [tabs.opener, form.model]
        changes.append(tabs.opener.upload(with_sentences(open_file), opening, shown, **few))
        check = with_sentences(act.check_media)
        form.image.upload(check, form.image, [form.image, notice], **{**_CHEAP, "concurrency_limit": None})
        choose = with_sentences(act.model_chosen)
        form.model.change(choose, form.model, [form.menu, form.facts], queue=False, **_QUIET)
        drawn, made = [key, *tabs.figure_fields], [tabs.files, notice]
        heavy: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": 2, "concurrency_id": "files"}
        tabs.figure.click(with_sentences(act.figure), drawn, made, js=_SHOWN, **heavy)
        tabs.everything.click(with_sentences(act.everything), drawn, made, js=_SHOWN, **heavy)
        tabs.page.click(with_sentences(act.saved_page), key, made, **heavy)
        again = with_sentences(lambda key, name: act.show_again(form, key, name))
        recalled = page.load(again, [key, form.model], shown, js=_RECALL, **_CHEAP)
        recalled.then(None, form.model, None, js=_RECALLED, **_QUIET)
        changes.append(recalled)
        _remember(form, key)
        for change in changes:
            change.then(
                with_sentences(act.tabs),
                key,
                [tabs.session, tabs.table, tabs.costs, tabs.again, *tabs.figure_fields[1:3]],
                queue=False,
                **_QUIET,
            )
        page.unload(act.leave)
        page.unload(studies.leave)
    page.heavy = [view, panel, tabs.table, tabs.costs, tabs.again, form.menu]
    page.act = act
    page.queue(max_size=_EVENTS, default_concurrency_limit=4, api_open=False)
    storage().keep_all()
    return page


def _remember(form: RequestForm, key: gr.Textbox) -> None:
    """Whatever changes in the form or the lanes is kept in the browser and in the address; the server is not asked."""
    names = [name for name in INPUTS if name not in ("image", "evidence")]  # boxes belong to one image
    fields = [getattr(form, name) for name in names]
    js = f"""(key, ...values) => {{
      const {{ menu, ...form }} = Object.fromEntries({names}.map((name, i) => [name, values[i]]));
      window.tokvizMemory?.chosen(form.model);
      window.tokvizMemory?.remember(key, {{ ...form, methods: menu?.chosen ?? [] }});
    }}"""
    gr.on(
        [key.change, form.menu.input, *(field.change for field in fields)], None, [key, *fields], None, js=js, **_QUIET
    )


def _early() -> str:
    """Markup for the head: fonts and scripts that the first lane waits for, and the page's memory.

    Without it the browser learns of the fonts when it draws the words, and of Gradio's scripts one after another.
    """
    scripts = sorted(path.name for path in (Path(gr.__file__).parent / _SCRIPTS).glob("*.js"))
    needed = [name for name in scripts if name.split("-")[0] in ("Blocks", "HTML", "statustracker", "core")]
    modules = (f'<link rel="modulepreload" href="assets/{name}" crossorigin>' for name in needed)
    fonts = (
        f'<link rel="preload" as="font" type="font/woff2" href="static/fonts/IBMPlexSans/IBMPlexSans-{weight}.woff2" '
        "crossorigin>"
        for weight in ("Regular", "Bold")
    )
    return "".join((*fonts, *modules, f"<script>{script('page_memory.js')}</script>"))


_SCRIPTS = "templates/frontend/assets"
"""Of gradio's package. Where it is laid out otherwise nothing is loaded early, and all the same."""


def launch_settings(workbench: Workbench | None = None) -> dict[str, Any]:
    """Arguments of ``launch`` that are part of the design: look, limits, privacy. Host and port are the caller's."""
    distrust_forwarded()
    routes = [*late_scripts(), *([] if workbench is None else workbench_routes(workbench))]
    return {
        "theme": theme(),
        "css": styles(("colours.css", "page.css")),
        "favicon_path": ASSETS / "favicon.png",
        "footer_links": ["api"],
        "run_history": False,
        "ssr_mode": False,
        "enable_monitoring": False,
        "max_file_size": f"{MAX_UPLOAD_MB}mb",
        "show_error": False,
        "share": False,
        # Gradio dies when its own first page takes longer than three seconds, as it does on a busy machine.
        "_frontend": False,
        "state_session_capacity": SESSIONS,
        "app_kwargs": {
            "middleware": [
                Middleware(Doors, queue_of=EventQueue),
                Middleware(CompressedPage),
                Middleware(LinkPreview, more=_early()),
            ],
            "lifespan": tidied(stop_all),
            "routes": routes,
        },
    }


_COLOURS = {
    "body_background_fill": ("#f6f6f4", "#121316"),
    "block_background_fill": ("#ffffff", "#1c1e22"),
    "block_label_background_fill": ("transparent", "transparent"),
    "block_label_text_color": ("#62676e", "#a0a6ad"),
    "block_title_text_color": ("#62676e", "#a0a6ad"),
    "block_title_background_fill": ("transparent", "transparent"),
    "block_info_text_color": ("#62676e", "#a0a6ad"),
    "input_background_fill": ("#f3f4f2", "#141519"),
    "input_border_color": ("#e2e3e1", "#2e3137"),
    "border_color_primary": ("#e2e3e1", "#2e3137"),
    "button_primary_background_fill": ("#0072b2", "#56b4e9"),
    "button_primary_background_fill_hover": ("#00649c", "#84c1e4"),
    "button_primary_text_color": ("#ffffff", "#101216"),
    "slider_color": ("#0072b2", "#56b4e9"),
    "block_shadow": ("none", "none"),
}
"""Of the theme, light and dark."""
_BLUES = ["eef6fb", "d7eaf5", "b0d6ec", "84c1e4", "56b4e9", "0072b2", "00649c", "005686", "004870", "003a5a", "002c44"]
"""Okabe and Ito's blue, from light to dark."""


def theme() -> gr.themes.Base:
    """Quiet frames, one accent; only fonts that come with gradio, in the weights that it ships whole."""
    blue = gr.themes.Color(*(f"#{shade}" for shade in _BLUES), name="okabe-ito-blue")  # type: ignore[misc]  # eleven, and the name
    dark = {f"{name}_dark": colour for name, (_, colour) in _COLOURS.items()}
    return gr.themes.Base(
        primary_hue=blue,
        secondary_hue=blue,
        neutral_hue="zinc",
        radius_size="md",
        text_size="md",
        spacing_size="sm",
        font=[LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"],
    ).set(
        block_border_width="0px",
        block_label_border_width="0px",
        block_title_text_weight="700",
        block_title_text_size="13px",
        block_info_text_size="12px",
        checkbox_background_color_selected="#0072b2",
        checkbox_border_color_selected="#0072b2",
        **{name: colour for name, (colour, _) in _COLOURS.items()},
        **dark,
    )


def _start(act: Handlers) -> tuple[dict[str, Any], int | None]:
    """First values of the form, from the example that is open; and N if it is known."""
    if not act.examples:
        return {"methods": DEFAULT_METHODS}, None
    comparison = act.examples[0].comparison
    request = comparison.request
    start = {
        "image": request_file(comparison, act.examples[0].clip),
        "question": request.question,
        "methods": stored_methods(comparison),
        "budget": request.budget,
        "budget_as": request.budget_as,
        "seed": request.seed,
        "frames": None if comparison.video is None else len(comparison.video.frames),
    }
    return start, comparison.grid.n_tokens


def _example_chooser(examples: Sequence[Example], pruners: Sequence[Pruner]) -> ExampleCards | None:
    if not examples:
        return None
    return ExampleCards(cards(examples, pruners), label="Examples", elem_id="tokviz-examples")


@dataclass
class _Tabs:
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


def _tabs(pruners: Sequence[Pruner], first: Comparison | None) -> _Tabs:
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
    return _Tabs(table, cost, again, session, opener, make, fields, saved, everything, files)


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


def _run_of(act: Handlers, form: RequestForm) -> Any:
    """The event of Compare: asks what is in the form."""

    async def run(request: gr.Request, *values: Any) -> Any:
        async for output in act.compare_in_turn(form, values, request):
            yield output

    return run


def _wire_run(
    act: Handlers, form: RequestForm, run: Any, compare: gr.Button, stop: gr.Button, outputs: list[Any]
) -> Any:
    """The events of a run; returns the one after which another comparison is shown.

    A press during a run is a new request: it stops the old one and takes its place. Runs are let in by ``act.line``, so
    that one who waits does not hold what others need.
    """
    ran = gr.on(
        [compare.click, form.question.submit],
        run,
        form.inputs,
        [*outputs, *form.totals, stop],
        js=_TO_ANSWERS,
        trigger_mode="multiple",
        concurrency_limit=None,
        **_QUIET,
    )
    for given_up in (stop.click, outputs[1].lost):
        given_up(act.stop, None, stop, queue=False, **_QUIET)
    return ran
