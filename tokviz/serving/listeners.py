"""Whether somebody still waits for a result: which streams of results are open, and since when one is not."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

RETURN_S = 5.0
"""How long a listener may be gone before its work is given up."""
ARRIVE_S = 30.0
"""How long a caller may take to begin listening."""
_MOST = 5000


@dataclass
class _Ear:
    open: int
    deadline: float
    expected: bool = False


class Listeners:
    """Streams by key, which is the session (or the event of a plain call) that results are sent to. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ears: OrderedDict[str, _Ear] = OrderedDict()
        self._lock = threading.Lock()

    def expect(self, key: str) -> None:
        """Something was asked for: a listener has ``ARRIVE_S`` seconds to come. Asking again gives no more time."""
        with self._lock:
            ear = self._ear(key)
            if not ear.expected:
                ear.expected = True
                ear.deadline = max(ear.deadline, self._clock() + ARRIVE_S)

    def arrived(self, key: str) -> None:
        """A stream of results was opened."""
        with self._lock:
            ear = self._ear(key)
            ear.open += 1
            ear.expected = False

    def left(self, key: str) -> None:
        """It was closed, by whichever side."""
        with self._lock:
            ear = self._ear(key)
            ear.open = max(0, ear.open - 1)
            ear.deadline = self._clock() + RETURN_S

    def is_gone(self, key: str) -> bool:
        """Whether nobody listens any more. False for a key that never had to do with streams (calls in process)."""
        with self._lock:
            ear = self._ears.get(key)
            return ear is not None and not ear.open and self._clock() > ear.deadline

    def _ear(self, key: str) -> _Ear:
        ear = self._ears.pop(key, None) or _Ear(0, 0.0)
        self._ears[key] = ear
        if len(self._ears) > _MOST:
            closed = next((old for old, candidate in self._ears.items() if not candidate.open and old != key), None)
            if closed is not None:
                del self._ears[closed]
        return ear


LISTENERS = Listeners()
"""Those of this process: session ids are unique, whichever page they belong to."""
