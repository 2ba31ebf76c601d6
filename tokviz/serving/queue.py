"""Whose turn it is on the one model: a bounded line in which callers take turns, and the work of a run in its turn.

The page has other queues for what is cheap; this one is for runs alone. Waiting takes no thread, working takes one.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import time
import weakref
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..errors import BadInput

BEAT_S = 3.0
"""The page hears something at least this often, in seconds, or it takes the run for lost."""
_LOOK_S = 0.05
PLACES = 24
"""Runs that may wait, with the one that has its turn."""
PLACES_OF_ONE = 12
"""Of these, places that one caller may hold."""
PLACES_OF_ADDRESS = 18
"""Places that the callers of one address (its pages and its programs) may hold together."""
_REMEMBERED = 1000


@dataclass(eq=False)
class Ticket:
    """A place in the line. Give it back with ``leave`` (twice does no harm), whatever happened."""

    caller: str
    address: str
    _queue: RunQueue = field(repr=False)

    @property
    def before(self) -> int:
        """Runs that come first, the one that has its turn included; 0: it is this one's turn."""
        return self._queue.before(self)

    def leave(self) -> None:
        """The run is over, or nobody waits for it."""
        self._queue.leave(self)


class RunQueue:
    """The line. The caller that was served longest ago is next; one caller's runs stay in order. Thread-safe."""

    def __init__(
        self, places: int = PLACES, places_of_one: int = PLACES_OF_ONE, places_of_address: int = PLACES_OF_ADDRESS
    ) -> None:
        self.places = places
        self.places_of_one = places_of_one
        self.places_of_address = places_of_address
        self._waiting: list[Ticket] = []
        self._turn: Ticket | None = None
        self._served: dict[str, None] = {}
        self._lock = threading.Lock()

    def enter(self, caller: str, address: str | None = None) -> Ticket:
        """A place at the end of the caller's line; ``address``: where the caller is, by default the caller itself.

        Raises BadInput when there is none.
        """
        address = caller if address is None else address
        with self._lock:
            here = [*self._waiting, *filter(None, [self._turn])]
            mine = sum(ticket.caller == caller for ticket in here)
            if mine >= self.places_of_one or sum(t.address == address for t in here) >= self.places_of_address:
                raise BadInput(f"{mine} runs of yours are waiting already; please ask again when one is answered.")
            if len(here) >= self.places:
                raise BadInput(
                    f"The server is busy: {self.places} runs are waiting. Please try again in a minute; the examples "
                    "stay open meanwhile."
                )
            ticket = Ticket(caller, address, self)
            self._waiting.append(ticket)
            self._advance()
            return ticket

    def leave(self, ticket: Ticket) -> None:
        """Take a ticket out."""
        with self._lock:
            if ticket is self._turn:
                self._turn = None
                self._advance()
            elif ticket in self._waiting:
                self._waiting.remove(ticket)

    def before(self, ticket: Ticket) -> int:
        """See ``Ticket.before``."""
        with self._lock:
            if ticket is self._turn or ticket not in self._waiting:
                return 0
            return self._order().index(ticket) + 1

    def _advance(self) -> None:
        if self._turn is None and self._waiting:
            self._turn = self._order()[0]
            self._waiting.remove(self._turn)
            self._served.pop(self._turn.caller, None)
            self._served[self._turn.caller] = None
            if len(self._served) > _REMEMBERED:
                del self._served[next(iter(self._served))]

    def _order(self) -> list[Ticket]:
        """Everybody's first run before anybody's second; within a round who was served longest ago."""
        runs = Counter(ticket.caller for ticket in (self._turn,) if ticket is not None)
        served = {caller: place for place, caller in enumerate(self._served, 1)}
        rounds = []
        for place, ticket in enumerate(self._waiting):
            rounds.append((runs[ticket.caller], served.get(ticket.caller, 0), place))
            runs[ticket.caller] += 1
        return [self._waiting[place] for *_, place in sorted(rounds)]


class Shares:
    """at_once: of one caller that work; most: with those of the same caller that wait. Thread-safe."""

    def __init__(self, at_once: int, most: int) -> None:
        self.at_once, self.most = at_once, most
        self._here: Counter[str] = Counter()
        self._working: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextlib.asynccontextmanager
    async def turn(self, caller: str) -> AsyncIterator[None]:
        """While the caller's work is done; waits for earlier work of the same caller.

        Raises BadInput when that is too much.
        """
        with self._lock:
            if self._here[caller] >= self.most:
                raise BadInput("Too many of your files are being looked at; please try this one again in a moment.")
            self._here[caller] += 1
        works = False
        try:
            while not works:
                with self._lock:
                    works = self._working[caller] < self.at_once
                    self._working[caller] += works
                if not works:
                    await asyncio.sleep(_LOOK_S)
            yield
        finally:
            with self._lock:
                for counts, mine in ((self._working, int(works)), (self._here, 1)):
                    counts[caller] -= mine
                    if not counts[caller]:
                        del counts[caller]


class StopFlags:
    """One stop flag per browser tab. A flag is set by Stop (or a closed tab) and renewed by the next Compare."""

    def __init__(self) -> None:
        self._flags: dict[str, threading.Event] = {}
        self._lock = threading.Lock()
        _tabs.add(self)

    def renew(self, session: str) -> threading.Event:
        """A fresh flag for the tab's next run; the one before is stopped."""
        with self._lock:
            former, fresh = self._flags.get(session), threading.Event()
            self._flags[session] = fresh
        if former is not None:
            former.set()
        return fresh

    def of(self, session: str) -> threading.Event | None:
        """The flag of the tab's latest run; None when there is none, or what it shows now is not a run's."""
        with self._lock:
            return self._flags.get(session)

    def stop(self, session: str) -> None:
        """Ask the tab's run to stop."""
        flag = self.of(session)
        if flag is not None:
            flag.set()

    def forget(self, session: str) -> None:
        """Stop the tab's run and drop its flag (the tab was closed)."""
        with self._lock:
            flag = self._flags.pop(session, None)
        if flag is not None:
            flag.set()

    def all(self) -> list[threading.Event]:
        """The flags of every tab."""
        with self._lock:
            return [*self._flags.values()]


_tabs: weakref.WeakSet[StopFlags] = weakref.WeakSet()
_threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
_stops: set[threading.Event] = set()


def stop_all() -> None:
    """End every run, of the page and of programs, at its next token, and what waits for its turn."""
    for stop in [*_stops, *(flag for tabs in list(_tabs) for flag in tabs.all())]:
        stop.set()


def all_over(seconds: float) -> bool:
    """Wait for the work of every run to end; whether it did. An interpreter must not end while torch computes."""
    deadline = time.monotonic() + seconds
    for thread in list(_threads):
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in list(_threads))


@dataclass(frozen=True)
class Waiting:
    """So many runs come first."""

    before: int


@dataclass(frozen=True)
class Working:
    """The work has been silent for a while."""


@dataclass(frozen=True)
class _End:
    trouble: BaseException | None


async def in_turn(
    line: RunQueue,
    caller: str,
    work: Callable[[], Iterator[Any]],
    stop: threading.Event,
    is_gone: Callable[[], bool],
    address: str | None = None,
) -> AsyncGenerator[Any, None]:
    """What ``work`` yields, once it is the caller's turn; before and between ``Waiting`` and ``Working``.

    Ends early when ``stop`` is set while it waits. When nobody listens any more (``is_gone``) or the iterator is given
    up, ``stop`` is set, and the turn ends as soon as the work does. Raises BadInput when there is no place in the line,
    and what the work raises.
    """
    ticket = line.enter(caller, address)
    working = False
    _stops.add(stop)
    try:
        told, said_at = -1, 0.0
        while (before := ticket.before) and not stop.is_set():
            if is_gone():
                stop.set()
                return
            if before != told or time.monotonic() - said_at > BEAT_S:
                told, said_at = before, time.monotonic()
                yield Waiting(before)
            await asyncio.sleep(_LOOK_S)
        if not stop.is_set():
            working = True
            async with contextlib.aclosing(_worked(work, ticket, stop, is_gone)) as outputs:
                async for output in outputs:
                    yield output
    finally:
        _stops.discard(stop)
        if not working:
            ticket.leave()


async def _worked(
    work: Callable[[], Iterator[Any]], ticket: Ticket, stop: threading.Event, is_gone: Callable[[], bool]
) -> AsyncGenerator[Any, None]:
    """The turn belongs to the thread: the model is free when the work is over, not when nobody looks any more."""
    loop = asyncio.get_running_loop()
    outputs: asyncio.Queue[Any] = asyncio.Queue()

    def hand_on(output: Any) -> None:
        try:
            loop.call_soon_threadsafe(outputs.put_nowait, output)
        except RuntimeError:  # the server is closing
            stop.set()

    def run() -> None:
        trouble: BaseException | None = None
        try:
            for output in work():
                hand_on(output)
        except BaseException as error:
            trouble = error
        finally:
            ticket.leave()
            hand_on(_End(trouble))

    # ZeroGPU finds the visitor's token in a context variable of the request.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), name="tokviz-run", daemon=True)
    _threads.add(thread)
    thread.start()
    ended, heard_at = False, time.monotonic()
    try:
        while not ended:
            try:
                output = await asyncio.wait_for(outputs.get(), BEAT_S)
            except TimeoutError:
                output = Working()
            if time.monotonic() - heard_at > BEAT_S:
                heard_at = time.monotonic()
                if is_gone():
                    stop.set()
            if isinstance(output, _End):
                ended = True
                if output.trouble is not None:
                    raise output.trouble
            else:
                yield output
    finally:
        if not ended:
            stop.set()
