"""What may be asked beside a comparison: selections alone, a sweep, a rescue, a look inside the model and the like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import BadInput
from ..short import passed

if TYPE_CHECKING:
    from ..models.loading import VisionLanguageModel
    from .running import RunRequest


@dataclass(frozen=True)
class Progress:
    """A study is under way. share: of its work, 0 to 1. record: what there is of its result; None for nothing yet."""

    share: float
    record: Any = None


def outputs(request: RunRequest, vlm: VisionLanguageModel, media: Any, shared: Mapping[str, Any]) -> Iterator[Any]:
    """Carry a study out: ``Progress``, or None as a sign of life, and last its result, a record.

    The last is None when it was stopped before. shared: arguments that all of them take. An option ``comparison`` is
    what the study is about. Raises BadInput, also when image, question or model are not those of the comparison.
    """
    comparison = request.options.get("comparison")
    if comparison is not None:
        from ..runs.edits import media_of

        media = media_of(vlm, media, None, comparison, request.frames)
    studies = {
        "select_only": _select_only,
        "sweep": _sweep,
        "rescue": _rescue,
        "inside": _inside,
        "horizon": _horizon,
        "ask_with": _ask_with,
    }
    return studies[request.kind](request, vlm, media, shared)


def _options(request: RunRequest) -> dict[str, Any]:
    return {name: value for name, value in request.options.items() if name not in ("comparison", "live")}


def _select_only(request: RunRequest, vlm: VisionLanguageModel, media: Any, shared: Mapping[str, Any]) -> Iterator[Any]:
    import tokviz

    taken = {name: shared[name] for name in ("seed", "evidence", "evidence_frames", "stop")}
    choice: dict[str, Any] = {"budget_as": request.budget_as, "params": request.params, **taken}
    yield tokviz.select_only(vlm, media, request.question, request.methods, request.budget, **choice)


def _sweep(request: RunRequest, vlm: VisionLanguageModel, media: Any, shared: Mapping[str, Any]) -> Iterator[Any]:
    import tokviz

    choice = {"budget_as": request.budget_as, "params": request.params, **_options(request)}
    live = request.options.get("live", False)
    for event in tokviz.sweep_events(vlm, media, request.question, request.methods, **choice, **shared):
        # Where nobody looks at them, points cross once, at the end.
        yield event.sweep if event.kind == "done" else Progress(event.share, event.sweep) if live else None


def _rescue(request: RunRequest, vlm: VisionLanguageModel, media: Any, shared: Mapping[str, Any]) -> Iterator[Any]:
    import tokviz

    from ..runs.events import relayed

    comparison, options = request.options.get("comparison"), _options(request)

    def work(emit: Any) -> None:
        options["on_progress"] = lambda share: emit(Progress(share))
        if comparison is not None:
            mine = {name: shared[name] for name in ("seed", "stop")}
            method = options.pop("run")
            emit(tokviz.rescue(vlm, media, None, method, comparison=comparison, **options, **mine))
            return
        choice = {"budget_as": request.budget_as, "params": request.params, **options}
        emit(tokviz.rescue(vlm, media, request.question, request.methods[0], request.budget, **choice, **shared))

    yield from relayed(work, shared["stop"])


def _inside(request: RunRequest, vlm: VisionLanguageModel, media: Any, shared: Mapping[str, Any]) -> Iterator[Any]:
    import tokviz

    from ..runs.events import relayed
    from ..runs.requests import method_entry

    choice: dict[str, Any] = {"budget_as": request.budget_as}
    method, *_ = map(method_entry, request.methods) if request.methods else (None,)
    if others := sorted(set(request.params) - ({method[0].id} if method else set())):
        raise BadInput(f"There are parameters for {passed(others[0])}, which is not the method to look inside.")
    if method is not None:
        pruner, own = method
        values = {**request.params.get(pruner.id, {}), **own}
        choice |= {"method": (pruner, values), "budget": request.budget}

    def work(emit: Any) -> None:
        choice["on_progress"] = lambda share: emit(Progress(share))
        emit(tokviz.inside(vlm, media, request.question, **choice, **_options(request), **shared))

    yield from relayed(work, shared["stop"])


def _horizon(request: RunRequest, vlm: VisionLanguageModel, media: Any, shared: Mapping[str, Any]) -> Iterator[Any]:
    import tokviz

    from ..runs.events import relayed

    choice = _options(request)

    def work(emit: Any) -> None:
        choice["on_progress"] = lambda share: emit(Progress(share))
        emit(tokviz.information_horizon(vlm, media, request.question, **choice, **shared))

    yield from relayed(work, shared["stop"])


def _ask_with(request: RunRequest, vlm: VisionLanguageModel, media: Any, shared: Mapping[str, Any]) -> Iterator[Any]:
    import tokviz

    comparison, options = request.options.get("comparison"), _options(request)
    if comparison is not None:
        stop = shared["stop"]
        yield tokviz.ask_with(vlm, media, None, options["kept"], of=options["run"], into=comparison, stop=stop)
        return
    kept, added, removed = (options.pop(name) for name in ("kept", "added", "removed"))
    if not request.methods:
        if kept is None:
            raise BadInput("Name the tokens to keep (kept), or a method whose choice is to be changed.")
        tokens = {*kept, *added} - {*removed}
        yield tokviz.ask_with(vlm, media, request.question, tokens, **options, **shared)
        return
    choice: dict[str, Any] = {"budget": request.budget, "budget_as": request.budget_as, "params": request.params}
    comparison = tokviz.compare(vlm, media, request.question, request.methods, **choice, **shared)
    yield comparison
    if len(comparison.runs) < 2:
        raise BadInput("Stopped before the answers were there, or the method prunes nothing.")
    run = comparison.runs[1]
    own = range(comparison.grid.n_tokens) if run.kept is None else run.kept
    tokens = {*(own if kept is None else kept), *added} - {*removed}
    yield tokviz.ask_with(
        vlm, media, None, tokens, of=run, positions=options["positions"], into=comparison, stop=shared["stop"]
    )
