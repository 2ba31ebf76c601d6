"""Cases handed to workers a few at a time, and what comes back; a worker that dies loses no case.

What the workers are (processes here, actors on a Ray cluster) is the crew's own affair.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterator
from typing import Protocol

from .plan import Plan
from .tasks import Mined, Task, refused

MOST_LOSSES = 3
"""How often a case may be in a worker that dies, before it is taken for the reason."""
DIED = (
    "This case was in a worker process that was ended, {} times: it probably needs more memory than there is. Mine it "
    "alone, with fewer workers."
)


class Crew(Protocol):
    """Workers that mine cases."""

    @property
    def most(self) -> int:
        """How many cases they are given at the same time: one each to work on, one each to go on with."""

    def submit(self, task: Task) -> None:
        """Give a case to a worker."""

    def wait(self) -> list[tuple[Task, Mined | None]]:
        """Wait for at least one case that was submitted; None for each whose worker died. Raises what workers raise."""

    def close(self) -> None:
        """End the workers."""


def mined_by(crew: Crew, plan: Plan, tasks: Iterator[Task], stop: threading.Event) -> Iterator[Mined]:
    """Yield the cases as they are finished, with at most ``crew.most`` in flight. None is begun once ``stop`` is set.

    Cases that were in flight when a worker died are run again, one after the other, so that one which always ends its
    worker is told apart from those that were beside it; it becomes a case with an error.
    """
    losses: Counter[int] = Counter()
    suspects: deque[Task] = deque()
    in_flight, there_are_more = 0, True
    while True:
        while not stop.is_set() and in_flight < (1 if suspects else crew.most):
            task = suspects.popleft() if suspects else next(tasks, None) if there_are_more else None
            if task is None:
                there_are_more = False
                break
            crew.submit(task)
            in_flight += 1
            if losses[task.position]:
                break  # alone
        if not in_flight:
            return
        for task, mined in crew.wait():
            in_flight -= 1
            if mined is not None:
                yield mined
                continue
            losses[task.position] += 1
            if losses[task.position] < MOST_LOSSES:
                suspects.append(task)
            else:
                yield refused(plan, task, DIED.format(MOST_LOSSES))
