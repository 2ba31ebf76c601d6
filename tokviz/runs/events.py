"""Progress of a run, and how it comes from the thread that works to whoever listens."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

from ..comparison import Comparison
from ..short import short_repr

_E = TypeVar("_E")


@dataclass(frozen=True)
class Event:
    """Progress of a comparison. ``comparison`` holds the runs finished so far.

    kind: ``encoded`` (vision done), ``lane`` (lane number ``lane`` starts), ``text`` (its answer so far is ``text``),
    ``run`` (it is finished), ``done``.
    """

    kind: Literal["encoded", "lane", "text", "run", "done"]
    lane: int
    text: str
    comparison: Comparison

    def __repr__(self) -> str:
        return short_repr(self, kind=self.kind, lane=self.lane, text=self.text, comparison=self.comparison)


def relayed(run: Callable[[Callable[[_E], None]], None], stop: threading.Event) -> Iterator[_E]:
    """Run a job in a worker thread and hand its events on, so that text streams while ``generate`` is running.

    A consumer that leaves early stops it.
    """
    events: queue.Queue[_E | BaseException | None] = queue.Queue()

    def work() -> None:
        try:
            run(events.put)
            events.put(None)
        except BaseException as error:
            events.put(error)

    worker = threading.Thread(target=work, name="tokviz-compare", daemon=True)
    worker.start()
    try:
        while (event := events.get()) is not None:
            if isinstance(event, BaseException):
                raise event
            yield event
    finally:
        # The consumer may leave early (a closed browser tab): the model must be free when this generator is gone.
        if worker.is_alive():
            stop.set()
            worker.join()
