"""Work that is not quite cheap: of one caller only so much at a time, so that nobody keeps the others waiting."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ..errors import BadInput

_LOOK_S = 0.05


class Shares:
    """at_once: of one caller that work; most: with those of the same caller that wait. Thread-safe."""

    def __init__(self, at_once: int, most: int) -> None:
        self.at_once, self.most = at_once, most
        self._here: Counter[str] = Counter()
        self._working: Counter[str] = Counter()
        self._lock = threading.Lock()

    @asynccontextmanager
    async def turn(self, caller: str) -> AsyncIterator[None]:
        """While the caller's work is done; waits for earlier work of the same caller. Raises BadInput when that is too
        much.
        """
        self._enter(caller)
        try:
            while not self._begin(caller):
                await asyncio.sleep(_LOOK_S)
            try:
                yield
            finally:
                self._drop(self._working, caller)
        finally:
            self._drop(self._here, caller)

    def _enter(self, caller: str) -> None:
        with self._lock:
            if self._here[caller] >= self.most:
                raise BadInput("Too many of your files are being looked at; please try this one again in a moment.")
            self._here[caller] += 1

    def _begin(self, caller: str) -> bool:
        with self._lock:
            if self._working[caller] >= self.at_once:
                return False
            self._working[caller] += 1
            return True

    def _drop(self, counts: Counter[str], caller: str) -> None:
        with self._lock:
            counts[caller] -= 1
            if not counts[caller]:
                del counts[caller]
