"""What a program may ask beside a comparison: a sweep over budgets, a rescue, a run with the tokens that it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import BadInput

if TYPE_CHECKING:
    from ..models.loading import VisionLanguageModel
    from .running import RunRequest


def outputs(request: RunRequest, vlm: VisionLanguageModel, media: Any, shared: Mapping[str, Any]) -> Iterator[Any]:
    """Carry a study out; the last thing that comes is its result, a record, or None when it was stopped before.

    shared: arguments that all of them take. Raises BadInput.
    """
    if request.kind == "sweep":
        return _sweep(request, vlm, media, shared)
    if request.kind == "rescue":
        return _rescue(request, vlm, media, shared)
    return _ask_with(request, vlm, media, shared)


def _sweep(request: RunRequest, vlm: VisionLanguageModel, media: Any, shared: Mapping[str, Any]) -> Iterator[Any]:
    import tokviz

    choice = {"budget_as": request.budget_as, "params": request.params, **request.options}
    for event in tokviz.sweep_events(vlm, media, request.question, request.methods, **choice, **shared):
        yield event.sweep if event.kind == "done" else None  # a sign of life; all points cross once


def _rescue(request: RunRequest, vlm: VisionLanguageModel, media: Any, shared: Mapping[str, Any]) -> Iterator[Any]:
    import tokviz

    choice = {"budget_as": request.budget_as, "params": request.params, **request.options}
    yield tokviz.rescue(vlm, media, request.question, request.methods[0], request.budget, **choice, **shared)


def _ask_with(request: RunRequest, vlm: VisionLanguageModel, media: Any, shared: Mapping[str, Any]) -> Iterator[Any]:
    import tokviz

    options = dict(request.options)
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
