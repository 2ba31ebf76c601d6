"""The part of the page beneath the lanes that looks closer at what they show: sweep, inside, hand-edit, rescue.

Every study is about the comparison that the lanes show, which the browser names by its key; it waits in the same line
as every run, is bounded in time, and ends when it is stopped or its tab is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any

import gradio as gr

from ..comparison import Comparison
from ..errors import BadInput
from ..serving.callers import LISTENERS, address_of
from ..serving.model_cache import is_loaded
from ..serving.model_menu import check_may_load, model_options
from ..serving.queue import StopFlags, Waiting, Working, in_turn
from ..serving.running import Kind, RunRequest
from ..serving.studies import Progress
from . import text
from .components import StudyPanel
from .failures import UNEXPECTED, log_failure, with_sentences
from .files import evidence_in_file, key_of, read_session, request_file, shown_files
from .form import RequestForm, whole_number
from .handlers import Handlers
from .payload import to_payload
from .study_payload import horizon_payload, inside_payload, rescue_payload, sweep_payload

SECONDS = 90
"""The longest that a sweep or a rescue measures."""
_DRAWN_EVERY_S = 0.25
_MOST_BLOCK = 16
_KINDS: dict[str, Kind] = {
    "sweep": "sweep",
    "inside": "inside",
    "horizon": "horizon",
    "edit": "ask_with",
    "rescue": "rescue",
}
_PAYLOADS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "sweep": sweep_payload,
    "inside": inside_payload,
    "horizon": horizon_payload,
    "rescue": rescue_payload,
}
Methods = tuple[tuple[str, Mapping[str, Any]], ...]
_RANDOM = "random"
_GONE = "What the lanes show is no longer on the server: press Compare, then ask again."


class Studies:
    """What the events of ``StudyPanel`` call. ``act``: the page's handlers, whose line and models are used."""

    def __init__(self, act: Handlers, form: RequestForm):
        self.act, self.form = act, form
        self.flags = StopFlags()

    @property
    def inputs(self) -> list[Any]:
        """Components behind the panel and the key that ``study`` takes."""
        return [self.form.image, self.form.model, self.form.precision, self.form.kernel]

    async def study(
        self, asked: Mapping[str, Any], key: str, *rest: Any, request: gr.Request
    ) -> AsyncIterator[list[Any]]:
        """Carry a study out when it is its turn. Outputs: the panel, the lanes, their key."""
        session, address = request.session_hash or "", address_of(request.client, request.headers)
        stop = self.flags.renew(session)
        lanes_of = self.act.flags.of(session)
        tell = functools.partial(_told, asked)
        try:
            yield tell("busy", text.QUEUED)
            work = functools.partial(self._work, asked, key, rest, stop, address)
            is_gone = functools.partial(LISTENERS.is_gone, session)
            turn = in_turn(self.act.line, f"page {address}", work, stop, is_gone, address)
            drawn, last, beat = 0.0, None, 0
            async with contextlib.aclosing(turn) as outputs:
                async for output in outputs:
                    if self.flags.of(session) is not stop:  # the tab asks for something else now, or is gone
                        return
                    if isinstance(output, Waiting | Working):
                        beat += 1
                        words = text.queued(output.before) if isinstance(output, Waiting) else ""
                        yield tell("busy", words, beat=beat)
                    elif isinstance(output, str):
                        yield tell("busy", output)
                    elif isinstance(output, Progress):
                        last = output.record if output.record is not None else last
                        if time.monotonic() - drawn > _DRAWN_EVERY_S:
                            drawn = time.monotonic()
                            data = await asyncio.to_thread(_data, asked, output.record)
                            yield tell("busy", "", share=output.share, data=data)
                    elif output is not None:
                        last = output
            if last is None or (stop.is_set() and asked["study"] == "edit"):
                yield tell("stopped", text.STOPPED_STUDY)
            elif asked["study"] != "edit":
                words = text.STOPPED_STUDY if stop.is_set() else ""
                data = await asyncio.to_thread(_data, asked, last)
                yield tell("stopped" if stop.is_set() else "done", words, data=data)
            elif self.act.flags.of(session) is lanes_of:  # no other run was begun in the lanes meanwhile
                yield await asyncio.to_thread(self._added, asked, last)
            else:
                yield tell("stopped", text.OTHER_LANES)
        except BadInput as error:
            yield tell("stopped" if stop.is_set() else "error", str(error))
        except Exception:  # the boundary to the visitor: the log gets the traceback, the page a sentence
            log_failure("a study failed")
            yield tell("error", UNEXPECTED)

    def _work(
        self, asked: Mapping[str, Any], key: str, rest: Sequence[Any], stop: threading.Event, address: str
    ) -> Iterator[Any]:
        """What the model's work yields, after sentences about the loading of the model.

        The session is read when it is its turn: the largest take much memory.
        """
        wanted = self._request(asked, key, *rest)
        if not is_loaded(wanted.spec):
            check_may_load(wanted.model, address)
            for words in self.act.load(wanted.spec):
                yield f"{wanted.model}: {words}"
                if stop.is_set():
                    raise BadInput(text.STOPPED_LOADING)
        yield from self.act.run(wanted, stop)

    def _added(self, asked: Mapping[str, Any], comparison: Comparison) -> list[Any]:
        """The lanes with one more."""
        view = to_payload(comparison, **shown_files(comparison))
        panel, *_ = _told(asked, "done", text.added_lane(comparison.runs[-1].label, comparison.runs[-1].answer))
        return [panel, view, key_of(comparison)]

    def _request(
        self, asked: Mapping[str, Any], key: str, image: str | None, model: str, precision: str, kernel: str
    ) -> RunRequest:
        """What a browser asks for, checked. Raises BadInput."""
        study = asked.get("study")
        if study not in _KINDS:
            raise BadInput("The page sent a request that cannot be read; please reload it.")
        comparison = self._shown(key)
        stored, name = comparison.request, comparison.model.name
        if name not in {option.shown for option in model_options()}:
            raise BadInput(f"These answers are {name}’s, which this server does not offer: press Compare first.")
        if image is None:
            file = request_file(comparison)
            image = None if file is None else file.path
        methods, options = _wanted(study, asked, comparison)
        evidence, evidence_at = evidence_in_file(comparison)
        return RunRequest(
            model=name,
            image=image,
            question=stored.question,
            methods=methods,
            budget=stored.budget,
            budget_as=stored.budget_as,
            seed=stored.seed,
            max_new_tokens=stored.max_new_tokens,
            expected=stored.expected_answer,
            evidence=evidence,
            evidence_at=evidence_at,
            frames=None if comparison.video is None else len(comparison.video.frames),
            precision=precision if name == model else "auto",
            kernel=kernel if name == model else "auto",
            kind=_KINDS[study],
            options={"comparison": comparison, **options},
        )

    def _shown(self, key: str) -> Comparison:
        """The comparison that the lanes show: its key is a digest of the content, which others cannot guess."""
        path = self.act.shown_file(key) if isinstance(key, str) else None
        if path is None:
            raise BadInput(_GONE)
        return read_session(path)

    def load(self, asked: Mapping[str, Any], key: str) -> list[Any]:
        """The form as a sweep's point was asked. Outputs: ``form.inputs``. Raises BadInput."""
        comparison = self._shown(key)
        budget = whole_number("The budget", asked.get("budget"))
        if not 1 <= budget <= comparison.grid.n_tokens:
            raise BadInput(f"There are {comparison.grid.n_tokens} visual tokens; a budget of {budget} cannot be kept.")
        seed = whole_number("The seed", asked.get("seed", 0))
        request = comparison.request.model_copy(update={"budget": budget, "seed": seed})
        filled = self.form.filled_from(comparison.model_copy(update={"request": request}))
        return [gr.skip(), *filled[1:-1]]  # the file of the form is the one that the lanes are about

    def halt(self, request: gr.Request) -> None:
        """Stop the tab's study; what there is of it comes as its result."""
        self.flags.stop(request.session_hash or "")

    def leave(self, request: gr.Request) -> None:
        """The tab was closed, or its lanes are about something else."""
        self.flags.forget(request.session_hash or "")


def _data(asked: Mapping[str, Any], record: Any) -> str:
    """What there is of a result, as JSON text."""
    if record is None:
        return ""
    return json.dumps(_PAYLOADS[asked["study"]](record), ensure_ascii=False, allow_nan=False)


def _told(
    asked: Mapping[str, Any], state: str, words: str, *, share: float | None = None, data: str = "", beat: int = 0
) -> list[Any]:
    """Outputs of ``study``; data: the result as JSON text, which gradio's page copies at once."""
    told = {"study": asked.get("study"), "id": asked.get("id"), "state": state, "words": words}
    return [{**told, "share": share, "data": data, "beat": beat}, gr.skip(), gr.skip()]


def _wanted(study: str, asked: Mapping[str, Any], comparison: Comparison) -> tuple[Methods, dict[str, Any]]:
    """Methods and options of a study, from what a browser sent. Raises BadInput."""
    stored = comparison.request
    methods: Methods = tuple((one.method, one.params) for one in stored.methods if not _is_edited(one.method))
    if study == "sweep":
        has_random = _RANDOM in [method for method, _ in methods]
        return methods if has_random else (*methods, (_RANDOM, {})), {"live": True, "seeds": 5, "seconds": SECONDS}
    if study == "horizon":
        return (), {"block": _block(asked), "seconds": SECONDS}
    run = _run(comparison, asked.get("run"))
    if study == "inside":
        named = next((one for one in stored.methods if one.key == run), None)
        if named is not None and _is_edited(named.method):
            raise BadInput("A look inside an edited lane is not possible yet; choose the lane that was edited.")
        return () if named is None else ((named.method, named.params),), {}
    if study == "rescue":
        return methods, {"run": run, "block": _block(asked), "seconds": SECONDS}
    tokens = asked.get("kept")
    if not isinstance(tokens, list):
        raise BadInput("The page sent no tokens; please reload it.")
    return methods, {"run": run, "kept": [whole_number("A token", token) for token in tokens]}


def _is_edited(method: str) -> bool:
    """Whether it is a lane of tokens chosen by hand, which no other run can repeat by its name."""
    return method == "edited" or method.startswith("edited-")


def _block(asked: Mapping[str, Any]) -> int:
    block = whole_number("The side of a block", asked.get("block", 2))
    if not 1 <= block <= _MOST_BLOCK:
        raise BadInput(f"The side of a block is a number from 1 to {_MOST_BLOCK}, not {block}.")
    return block


def _run(comparison: Comparison, key: Any) -> str:
    """The key of a run that has an answer. Raises BadInput."""
    run = next((run for run in comparison.runs if run.key == key), None)
    if run is None:
        raise BadInput("There is no such lane any more; choose another one.")
    if run.error is not None:
        raise BadInput(run.error)
    return run.key


def add_studies(
    act: Handlers,
    form: RequestForm,
    panel: StudyPanel,
    shown: Sequence[Any],
    run: Callable[..., Any],
    totals: Sequence[Any],
    to_answers: str,
) -> tuple[Studies, list[Any]]:
    """Wire the panel; returns its handlers, and the events that change the lanes.

    shown: lanes, notice, key. run: the event of Compare, with ``totals`` as its other outputs and ``to_answers`` as its
    script.
    """
    studies = Studies(act, form)
    view, _, key = shown
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    free = {**quiet, "concurrency_limit": None}

    async def study(request: gr.Request, asked: Any, key: str, *rest: Any) -> Any:
        async for output in studies.study(asked, key, *rest, request=request):
            yield output

    inputs = [panel, key, *studies.inputs]
    ran = panel.study(study, inputs, [panel, view, key], trigger_mode="multiple", **free)
    panel.halt(studies.halt, None, None, queue=False, **quiet)
    panel.leave(studies.leave, None, None, queue=False, **quiet)
    fill = with_sentences(studies.load)
    filled = panel.load_run(fill, [panel, key], form.inputs, **{**quiet, "concurrency_limit": 8})
    loaded = filled.success(run, form.inputs, [*shown, *totals], js=to_answers, **free)
    return studies, [ran, loaded]
