"""What the page does when something is pressed. Each handler is a method of ``Handlers``, without layout."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from ..comparison import Comparison
from ..errors import BadInput
from ..pruners.pruner import Pruner
from ..runs.examples import Example
from ..serving.callers import LISTENERS, address_of
from ..serving.kept_runs import KeptRuns
from ..serving.model_cache import is_loaded, loading_notices, model_facts, planning
from ..serving.model_menu import check_may_load, model_option, model_options
from ..serving.queue import RunQueue, Shares, StopFlags, Waiting, Working, in_turn
from ..serving.running import PACE, Loader, Runner, RunSize, is_zero_gpu
from ..serving.storage import storage
from . import text
from .components import notice
from .exports import Exports
from .failures import UNEXPECTED, log_failure
from .files import VIDEOS, fitting_model, key_of, of_session, read_session, session_file, shown_files
from .form import INPUTS, RequestForm, is_whole, missing_by_method, read_menu
from .known import KnownQuestions
from .memory import Memory, remembered
from .outcomes import outcomes
from .payload import to_payload
from .streaming import streamed

_SKIP = gr.skip()


def _outputs(view: Any = _SKIP, told: Any = _SKIP, key: Any = _SKIP, totals: Sequence[Any] = (_SKIP,) * 4) -> list[Any]:
    """What a run sends: view, notice, key of what is shown, ``form.totals``.

    Nothing else: of objects in a stream gradio sends what changed, and an output that leaves a component as it is
    empties in the browser the object that it holds. Only our own components, which copy their values, stand that.
    """
    return [view, told, key, *totals]


class Handlers:
    """Everything the page's events call.

    ``load`` makes a model ready, ``run`` does the work with it (it may be a ZeroGPU wrapper).
    """

    def __init__(self, run: Runner, load: Loader, pruners: Sequence[Pruner], examples: Sequence[Example]):
        self.run = run
        self.load = load
        self.pruners = tuple(pruners)
        self.examples = tuple(examples)
        self.flags = StopFlags()
        self.line = RunQueue()
        self.checks = Shares(at_once=3, most=12)
        self.openings = Shares(at_once=1, most=4)
        self.exports = Exports(self.shown_file)
        self.known = KnownQuestions([example.comparison for example in self.examples])
        if isinstance(run, KeptRuns):
            run.share(self.known.has_file)

    # --- showing -----------------------------------------------------------------------------------------------------

    def example_payload(self, index: int) -> dict[str, Any]:
        """The patch view's value for an example."""
        example = self.examples[index]
        return to_payload(
            example.comparison,
            title=example.title,
            why=example.why,
            origin=f"Example · stored result of {example.comparison.model.name}, not computed now",
            **shown_files(example.comparison),
        ) | {"example": index, "example_name": example.id, "outcomes": outcomes(example, self.pruners)}

    def show_example(self, form: RequestForm, index: int, model: str) -> list[Any]:
        """Outputs: view, notice, key of what is shown, then the form's inputs and total.

        ``model``: the one that is chosen.
        """
        example = self.examples[index]
        comparison = example.comparison
        filled = form.filled_from(comparison, example.clip, fitting_model(model, comparison), is_known=True)
        return [self.example_payload(index), None, f"example-{index}", *filled]

    def choose_example(self, form: RequestForm, index: int, values: Sequence[Any]) -> list[Any]:
        """``show_example``; when it replaces settings of the form, the notice says which.

        values: those of ``form.inputs``.
        """
        before = dict(zip(INPUTS, values, strict=True))
        view, _, key, *filled = self.show_example(form, index, before["model"])
        request = self.examples[index].comparison.request
        changed = [
            (label, str(before[name]), str(getattr(request, name)))
            for name, label in text.EXAMPLE_SETTINGS.items()
            if before[name] != getattr(request, name)
        ]
        told = notice("info", text.set_by_example(changed)) if changed else None
        return [view, told, key, *filled]

    def missing(self, model: str) -> dict[str, str]:
        """What each method lacks on a model, as sentences; empty while nothing is known of the model."""
        return missing_by_method(self.pruners, planning(model))

    def model_chosen(self, model: str) -> list[Any]:
        """Outputs: the menu of methods, the line about the model."""
        return [{"missing": self.missing(model)}, model_facts(model)]

    # --- running -----------------------------------------------------------------------------------------------------

    async def compare_in_turn(
        self, form: RequestForm, values: Sequence[Any], request: gr.Request
    ) -> AsyncIterator[list[Any]]:
        """Run a request when it is its turn; a run of the same tab that is under way is stopped.

        Outputs: those of ``compare``, then the Stop button.
        """
        session, address = request.session_hash or "", address_of(request.client, request.headers)
        stop = self.flags.renew(session)
        on, off = gr.update(interactive=True), gr.update(interactive=False)
        beat, said = 0, text.QUEUED
        yield [*_outputs(told=notice("busy", said)), on]
        try:
            form.request(values)  # what cannot be asked need not wait
            work = functools.partial(self.compare, form, values, request, stop)
            is_gone = functools.partial(LISTENERS.is_gone, session)
            turn = in_turn(self.line, f"page {address}", work, stop, is_gone, address)
            async with contextlib.aclosing(turn) as outputs:
                async for output in outputs:
                    if self.flags.of(session) is not stop:
                        break
                    if isinstance(output, Waiting | Working):
                        beat += 1
                        said = text.queued(output.before) if isinstance(output, Waiting) else said
                        yield [*_outputs(told={**notice("busy", said), "beat": beat}), on]
                        continue
                    if isinstance(output[1], dict):
                        said = output[1]["text"]
                    yield [*output, on]
            if self.flags.of(session) is None:  # something stored was opened: nothing runs in this tab
                yield [*_outputs(), off]
            if self.flags.of(session) is stop:
                waited = stop.is_set() and said.startswith(text.QUEUED)
                yield [*_outputs(told=notice("info", text.STOPPED_WAITING) if waited else _SKIP), off]
        except BadInput as error:
            if self.flags.of(session) is stop:
                yield [*_outputs(told=notice("error", str(error))), off]

    def compare(
        self, form: RequestForm, values: Sequence[Any], request: gr.Request, stop: threading.Event
    ) -> Iterator[list[Any]]:
        """Run a request and stream what ``_outputs`` says."""
        session = request.session_hash or ""
        last: Comparison | None = None
        try:
            asked = self.known.with_truth(form.request(values))
            if not is_loaded(asked.spec):
                check_may_load(asked.model, address_of(request.client, request.headers))
                for words in self.load(asked.spec):
                    yield _outputs(told=notice("busy", f"{asked.model}: {words}"))
                    if stop.is_set():  # what has begun to load is loaded, for the next question
                        raise BadInput(text.STOPPED_LOADING)
            notices = loading_notices(asked.model)
            served = form.serves(self.missing(asked.model), model_facts(asked.model))
            yield _outputs(told=notice("busy", "Encoding …"), totals=served)
            for view, words, comparison in streamed(self.run, asked, stop, self.pruners):
                if self.flags.of(session) is not stop:  # an example or a session was opened meanwhile: it is shown now
                    return
                last = comparison
                yield _outputs(view, notice("busy", words), totals=form.total_is(comparison.grid.n_tokens))
            if last is not None and self.flags.of(session) is stop:
                words = text.STOPPED if stop.is_set() else notices
                yield _outputs(self._final(last), notice("info", words) if words else None, key_of(last))
        except BadInput as error:
            if self.flags.of(session) is stop:
                yield self._broken_off(last, notice("info" if stop.is_set() else "error", str(error)))
        except Exception:  # the boundary to the visitor: the log gets the traceback, the page a sentence
            log_failure("a comparison failed")
            if self.flags.of(session) is stop:
                yield self._broken_off(last, notice("error", UNEXPECTED))

    def _broken_off(self, last: Comparison | None, told: dict[str, str]) -> list[Any]:
        """Outputs of a run that ends early: no lane waits any more, and older lanes are not taken for its answer."""
        if last is not None:
            return _outputs(self._final(last), told)
        return _outputs(told=told if told["kind"] == "info" else {**told, "stale": text.STALE})

    @staticmethod
    def _final(comparison: Comparison) -> dict[str, Any]:
        return to_payload(comparison, **shown_files(comparison))

    def stop(self, request: gr.Request) -> Any:
        """Ask the tab's run to stop; the run itself says when it has. Output: Stop button."""
        self.flags.stop(request.session_hash or "")
        return gr.update(interactive=False)

    def leave(self, request: gr.Request) -> None:
        """The tab was closed or shows something else now: its run must not go on."""
        self.flags.forget(request.session_hash or "")

    def cost(self, model: str, menu: Any, max_new_tokens: Any, repeats: Any) -> str:
        """What a run with these settings will cost, in a line; empty while it is not known. Output: the line."""
        if not (is_whole(max_new_tokens) and is_whole(repeats) and max_new_tokens > 0 and repeats > 0):
            return ""
        try:
            chosen = read_menu(self.pruners, menu)
            parameters = model_option(model).parameters
        except BadInput:  # said when it is asked
            return ""
        size = RunSize.of(len(chosen), int(repeats), int(max_new_tokens))
        declared = PACE.declared(model, parameters, size) if is_zero_gpu() else None
        return text.cost_line(PACE.seconds(model, parameters, size), declared, PACE.n_measured(model))

    # --- files -------------------------------------------------------------------------------------------------------

    async def check_media(self, path: str | None, request: gr.Request) -> list[Any]:
        """Refuse an uploaded image or video at once when it cannot be read. Outputs: image, notice."""
        try:
            async with self.checks.turn(address_of(request.client, request.headers)):
                return await asyncio.to_thread(self._checked, path)
        except BadInput as error:
            return [None, notice("error", str(error))]

    @staticmethod
    def _checked(path: str | None) -> list[Any]:
        from ..media.images import checked_image
        from ..media.video import checked_probe, is_video

        if path is None:
            return [gr.skip(), None]
        if is_video(path) or Path(path).suffix.lower() in VIDEOS:
            return [gr.skip(), notice("info", text.video_facts(checked_probe(path)))]
        notices = checked_image(path).notices
        return [gr.skip(), notice("info", " ".join(notices)) if notices else None]

    async def open_session(self, form: RequestForm, path: str | None, model: str, request: gr.Request) -> list[Any]:
        """``opened_session`` when it is the caller's turn; what is wrong with the file is a notice."""
        try:
            async with self.openings.turn(address_of(request.client, request.headers)):
                return await asyncio.to_thread(self.opened_session, form, path, model)
        except BadInput as error:
            return [gr.skip(), notice("error", str(error)), *self.kept(form)]

    def opened_session(self, form: RequestForm, path: str | None, model: str) -> list[Any]:
        """Show an uploaded session file. Outputs and ``model`` as of ``show_example``. Raises BadInput."""
        if path is None:
            return [gr.skip(), None, *self.kept(form)]
        comparison = read_session(path)
        words = text.SESSION_OPEN if comparison.video is None else text.VIDEO_SESSION_OPEN
        return self.reopened(form, comparison, "Opened session · numbers as they were stored", words, model)

    def show_again(self, form: RequestForm, memory: str, model: str) -> list[Any]:
        """What a page showed before it was loaded anew, or what a link asks for. Outputs as of ``show_example``.

        ``memory`` comes from the browser, see ``memory.remembered``; what is not known, or no longer, leaves the first
        screen as it is. The form gets back what was in it; whose lanes are shown does not change that.
        """
        known = remembered(memory, self.pruners)
        chosen = known.form.get("model", model)
        if chosen not in {option.shown for option in model_options()}:
            chosen = model
        outputs = self._shown_again(form, known, chosen)
        n_shown = len(outputs) - len(INPUTS) - 1
        for at, name in enumerate(INPUTS, n_shown):
            if name == "model":
                outputs[at] = chosen if chosen != model else outputs[at]
            elif name == "budget" and name in known.form:
                outputs[at] = self._budget(known.form[name], outputs[at])
            elif name in known.form:
                outputs[at] = known.form[name]
        if known.file is not None:
            self._chosen_again(known.file, outputs, n_shown + INPUTS.index("image"))
        return outputs

    @staticmethod
    def _chosen_again(file: tuple[str, str, str], outputs: list[Any], at: int) -> None:
        """Put a file that was uploaded and not asked about back into the form, or say that it is gone."""
        path, name, mime = file
        try:
            real = storage().own_file(path)
        except BadInput:
            outputs[1] = notice("info", text.FILE_GONE)
            return
        outputs[at] = FileData(path=real, orig_name=name or Path(real).name, mime_type=mime or None)
        outputs[at + INPUTS.index("evidence") - INPUTS.index("image")] = []

    def _shown_again(self, form: RequestForm, known: Memory, model: str) -> list[Any]:
        example = next((i for i, one in enumerate(self.examples) if one.id == known.example), None)
        if example is None and not known.example:
            example = self._example_of(known.shown)
        if example:  # the first is on the first screen
            return self.show_example(form, example, model)
        path = None if example == 0 else self.shown_file(known.shown)
        if path is None:
            return [gr.skip(), None, *self.kept(form)]
        return self.reopened(form, read_session(path), "Shown again after the page was reloaded", None, model)

    @staticmethod
    def _budget(tokens: int, shown: Any) -> Any:
        """The budget field's update: not beyond what the model makes of the image, where that is known."""
        most = shown.get("maximum") if isinstance(shown, dict) else None
        return gr.update(value=min(tokens, most)) | {"maximum": most} if most else gr.update(value=tokens)

    def _example_of(self, key: str) -> int | None:
        found = re.fullmatch(r"example-(\d{1,4})", key)
        return int(found[1]) if found and int(found[1]) < len(self.examples) else None

    def shown_file(self, key: str) -> str | None:
        """The session file of what a browser shows; its key is the digest of the content, which others cannot guess."""
        example = self._example_of(key)
        if example is not None:
            return session_file(self.examples[example].comparison)
        if not re.fullmatch(r"[0-9a-f]{64}", key):
            return None
        return next(map(str, (storage().folder / "tokviz" / key).glob("tokviz-*.json")), None)

    def reopened(
        self,
        form: RequestForm,
        comparison: Comparison,
        origin: str,
        words: str | None,
        model: str,
        *,
        is_known: bool = False,
        clip: Path | None = None,
    ) -> list[Any]:
        """A stored comparison with its form. origin: where it comes from; words: for the notice; is_known: ``know`` was
        called with it; clip: the file of its video.

        Outputs and ``model`` as of ``show_example``. Raises BadInput.
        """
        view = to_payload(comparison, origin=origin, **shown_files(comparison, from_stranger=True))
        filled = form.filled_from(comparison, clip, fitting_model(model, comparison), is_known=is_known)
        return [view, notice("info", words) if words else None, key_of(comparison), *filled]

    @staticmethod
    def kept(form: RequestForm) -> list[Any]:
        """Everything behind view and notice stays as it is."""
        return [gr.skip()] * (2 + len(form.inputs))

    def tabs(self, key: str) -> list[Any]:
        """What the tabs hold of what is shown.

        Outputs: session button, table, costs, what asks again, the figure's level and frames.
        """
        session = self.shown_file(key)
        if session is None:
            return [gr.skip()] * 6
        table, cost, again, *choices = of_session(session)
        return [session, table, cost, again, *(gr.update(**choice) for choice in choices)]
