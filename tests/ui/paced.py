"""A runner without a model: replays a synthetic comparison, answers letter by letter, and can be stopped."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from synthetic import comparison


@dataclass(frozen=True)
class Event:
    """The same fields as ``tokviz.runs.events.Event``, without importing torch."""

    kind: str
    lane: int
    text: str
    comparison: Any


class PacedRunner:
    """Call it like ``run_request``. ``requests`` keeps what was asked, ``stops`` the flags, ``ended`` counts.

    ``hold(lane)`` makes the next runs wait inside that lane, after its first letter, until ``release()`` or Stop: a
    test sees the page in the middle of a run without a race.
    """

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.stops: list[Any] = []
        self.ended = 0
        self._held_lane: int | None = None

    def hold(self, lane: int) -> None:
        self._held_lane = lane

    def release(self) -> None:
        self._held_lane = None

    def __call__(self, request: Any, stop: Any):
        self.requests.append(request)
        self.stops.append(stop)
        try:
            yield from self._events(request, stop)
        finally:
            self.ended += 1

    def _events(self, request: Any, stop: Any):
        whole = comparison(question=request.question, expected=request.expected)
        partial = whole.model_copy(update={"runs": []})
        yield Event("encoded", -1, "", partial)
        for lane, run in enumerate(whole.runs):
            yield Event("lane", lane, "", partial)
            for end in range(1, len(run.answer) + 1):
                if lane == self._held_lane:
                    time.sleep(0.15)  # longer than the page's throttle of streamed text
                while lane == self._held_lane and end > 1 and not stop.is_set():
                    time.sleep(0.02)
                if stop.is_set():
                    yield Event("done", lane - 1, "", partial)
                    return
                yield Event("text", lane, run.answer[:end], partial)
            partial = whole.model_copy(update={"runs": whole.runs[: lane + 1]})
            yield Event("run", lane, run.answer, partial)
        yield Event("done", len(whole.runs) - 1, "", partial)
