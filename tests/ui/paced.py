"""A runner without a model: replays a synthetic comparison, answers letter by letter, and can be stopped."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from synthetic import comparison


@dataclass(frozen=True)
class Event:
    """The same fields as ``tokviz.comparing.Event``, without importing torch."""

    kind: str
    lane: int
    text: str
    comparison: Any


class PacedRunner:
    """Call it like ``run_request``. ``requests`` keeps what was asked; ``pause_s`` is the time between two events."""

    def __init__(self, pause_s: float = 0.0):
        self.pause_s = pause_s
        self.requests: list[Any] = []

    def __call__(self, request: Any, stop: Any):
        self.requests.append(request)
        whole = comparison(question=request.question, expected=request.expected)
        partial = whole.model_copy(update={"runs": []})
        yield Event("encoded", -1, "", partial)
        for lane, run in enumerate(whole.runs):
            yield Event("lane", lane, "", partial)
            for end in range(1, len(run.answer) + 1):
                time.sleep(self.pause_s)
                if stop.is_set():
                    yield Event("done", lane - 1, "", partial)
                    return
                yield Event("text", lane, run.answer[:end], partial)
            partial = whole.model_copy(update={"runs": whole.runs[: lane + 1]})
            yield Event("run", lane, run.answer, partial)
        yield Event("done", len(whole.runs) - 1, "", partial)
