"""A run in its turn: wait in the line without a thread, do the work in one, and say now and then that it goes on."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ..serving.run_queue import RunQueue, Ticket

BEAT_S = 3.0
"""The page hears something at least this often, in seconds, or it takes the run for lost."""
_LOOK_S = 0.1


_threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
_stops: set[threading.Event] = set()


def stop_all() -> None:
    """End every run, of the page and of programs, at its next token, and what waits for its turn."""
    for stop in list(_stops):
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
