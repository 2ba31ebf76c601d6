"""A run as it reaches the page: after each event the lanes as they are by then."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from ..comparison import Comparison
from ..pruners.pruner import Pruner
from ..serving.running import PACE, Runner, RunRequest
from .files import shown_files
from .payload import Live, to_payload

_TEXT_EVERY_S = 0.12
"""Streamed text is sent on at most this often, in seconds: the eye needs no more."""


def streamed(
    run: Runner, asked: RunRequest, stop: threading.Event, pruners: Sequence[Pruner]
) -> Iterator[tuple[dict[str, Any], str, Comparison]]:
    """What a run yields as values of the patch view, each with words for the notice and what there is of the result.

    pruners: for the heads of lanes that have no run yet.
    """
    answers: dict[int, str] = {}
    running: int | None = None
    files: dict[str, Any] | None = None
    last_text, began = 0.0, 0.0
    for event in run(asked, stop):
        began = began or time.monotonic()  # from here on the model works; a GPU may have been waited for before
        if event.kind in ("lane", "text"):
            running = event.lane
        if event.kind == "text":
            answers[event.lane] = event.text
            if time.monotonic() - last_text < _TEXT_EVERY_S:
                continue
            last_text = time.monotonic()
        if event.kind == "run":
            running = None
        if event.kind != "done":
            files = files or shown_files(event.comparison)
            live = Live(running, dict(answers), pruners)
            view = to_payload(event.comparison, live=live, **files)
            yield view, _progress(event.comparison, running), event.comparison
        else:
            if not stop.is_set() and files is not None:  # else it is the only event: of a run that was kept
                PACE.record(asked.model, asked.size, time.monotonic() - began)
            files = files or shown_files(event.comparison)
            yield to_payload(event.comparison, **files), "Finished.", event.comparison
        if stop.is_set() and event.kind == "run":
            break


def _progress(comparison: Comparison, running: int | None) -> str:
    done = len(comparison.runs)
    total = max(len(comparison.request.methods), done)
    lane = running if running is not None else done
    return f"Answering: run {min(lane + 1, total)} of {total} …"
