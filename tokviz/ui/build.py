"""The layout of the page and its wiring. ``build_page`` makes it, ``launch_settings`` says how it must be served."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

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
from . import text
from .api import add_endpoints
from .api_looks import add_look_endpoints
from .api_studies import add_study_endpoints
from .blocks import SESSIONS, EventQueue, PageBlocks, tidied
from .components import (
    MAX_UPLOAD_MB,
    AboutPage,
    ExampleCards,
    FileButton,
    Notice,
    PageHead,
    PatchView,
    StudyPanel,
    WorkbenchView,
)
from .compression import CompressedPage
from .failures import with_sentences
from .files import request_file
from .form import INPUTS, RequestForm, build_form, read_only, stored_methods
from .handlers import Handlers
from .late_scripts import late_scripts
from .link_preview import LinkPreview
from .outcomes import cards
from .scripts import ASSETS, script, styles
from .studies import add_studies
from .tabs import build_tabs
from .theme import theme
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
    are kept; load makes a model ready. pruners: default every method. examples: default the stored ones; the first is
    open when the page appears. workbench: runs that can be browsed; ``launch_settings`` must be given the same.
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
                tabs = build_tabs(pruners, first)
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
        _wire_cost(act, form, cost, changes[0])
        if chooser is not None:
            changes.append(_wire_examples(act, form, chooser, results))
        if failures is not None and workbench is not None:
            changes.append(_wire_failures(act, form, failures, workbench, results))
        changes.append(_wire_opener(act, form, tabs.opener, results))
        check = with_sentences(act.check_media)
        form.image.upload(check, form.image, [form.image, notice], **{**_CHEAP, "concurrency_limit": None})
        choose = with_sentences(act.model_chosen)
        form.model.change(choose, form.model, [form.menu, form.facts], queue=False, **_QUIET)
        tabs.wire_exports(act.exports, key, notice)
        again = with_sentences(lambda key, name: act.show_again(form, key, name))
        recalled = page.load(again, [key, form.model], _shown(form, results), js=_RECALL, **_CHEAP)
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


def _wire_cost(act: Handlers, form: RequestForm, cost: gr.Textbox, ran: Any) -> None:
    """The line about what a run costs follows the form; after a run it knows this machine better."""
    sized: list[Any] = [form.model, form.menu, form.max_new_tokens, form.repeats]
    weigh = with_sentences(act.cost)
    sizing = [form.menu.input, *(field.change for field in sized)]
    gr.on(sizing, weigh, sized, cost, queue=False, trigger_mode="always_last", **_QUIET)
    ran.then(weigh, sized, cost, queue=False, **_QUIET)


def _shown(form: RequestForm, results: list[Any]) -> list[Any]:
    """Outputs of whatever shows something stored: the lanes, and the form that asked for them."""
    return [*results, *form.inputs, form.total]


def _wire_examples(act: Handlers, form: RequestForm, chooser: ExampleCards, results: list[Any]) -> Any:
    """The event that opens an example."""
    chooser.select(with_sentences(act.leave), None, None, queue=False, **_QUIET)
    show = with_sentences(lambda index, *values: act.choose_example(form, index, values))
    return chooser.select(show, [chooser, *form.inputs], _shown(form, results), **_CHEAP)


def _wire_failures(
    act: Handlers, form: RequestForm, failures: WorkbenchView, workbench: Workbench, results: list[Any]
) -> Any:
    """The event that opens a mined case in the lanes."""
    failures.select(with_sentences(act.leave), None, None, queue=False, **_QUIET)
    open_case = with_sentences(CaseHandlers(act, workbench, form).open)
    return failures.select(open_case, [failures, form.model], _shown(form, results), **_CHEAP)


def _wire_opener(act: Handlers, form: RequestForm, opener: FileButton, results: list[Any]) -> Any:
    """The event that opens a session file."""
    opener.upload(with_sentences(act.leave), None, None, queue=False, **_QUIET)

    async def open_file(path: str | None, name: str, request: gr.Request) -> list[Any]:
        return await act.open_session(form, path, name, request)

    few = {**_CHEAP, "concurrency_limit": 2}  # the largest session takes 500 MB while it is read
    return opener.upload(with_sentences(open_file), [opener, form.model], _shown(form, results), **few)
