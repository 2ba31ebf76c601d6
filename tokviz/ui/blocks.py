"""gradio's Blocks with what a server for strangers needs: clients' values are checked, what it remembers is bounded."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import gradio as gr
from gradio.utils import LRUCache

from ..errors import BadInput
from ..serving.callers import LISTENERS, address_of, on_behalf_of
from .failures import log_failure, refusal
from .files import check_client_value

TIDY_EVERY_S = 5.0
FETCH_S = 60.0
"""How long results may lie until somebody fetches the next."""
SESSIONS = 500
"""Visitors whose settings are remembered; of a visitor only small values are."""


class PageBlocks(gr.Blocks):
    """``heavy`` are components whose values this server forgets once they are sent; ``act``: the page's handlers."""

    heavy: Sequence[gr.components.Component] = ()
    act: Any = None

    async def process_api(  # type: ignore[override]
        self, block_fn: Any, inputs: list[Any], state: Any = None, request: Any = None, *rest: Any, **named: Any
    ) -> dict[str, Any]:
        """Files that an event makes count as those of the visitor who sent it."""
        one = request[0] if isinstance(request, list) and request else request
        if getattr(one, "headers", None) is None:  # called in process
            return await super().process_api(block_fn, inputs, state, request, *rest, **named)
        with on_behalf_of(address_of(one.client, one.headers)):
            return await super().process_api(block_fn, inputs, state, request, *rest, **named)

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], state: Any, explicit_call: bool = False) -> Any:
        """Before gradio touches them: it would fetch addresses and read files of objects that look like uploads."""
        if not explicit_call:
            try:
                for block, value in zip(block_fn.inputs, inputs, strict=False):
                    if not block.stateful:
                        check_client_value(value)
            except BadInput as error:
                raise refusal(error) from error
        try:
            return await super().preprocess_data(block_fn, inputs, state, explicit_call)
        except gr.Error as error:  # gradio would print it, with the client's words
            error.print_exception = False
            raise
        except Exception as error:
            log_failure("a client's values could not be read")
            raise gr.Error("The request holds values of a wrong kind.", print_exception=False) from error

    def queue(self, *arguments: Any, **options: Any) -> PageBlocks:
        """As gradio's, with results that are bounded."""
        super().queue(*arguments, **options)
        self._queue.pending_messages_per_session = Results()
        return self

    async def forget(self) -> None:
        """Drop the heavy values that gradio keeps of every visitor, and results that nobody comes for."""
        heavy = {component._id for component in self.heavy}
        for session in list(self.state_holder.session_data.values()):
            for key in heavy:
                props = (session.config_values.get(key) or {}).get("props")
                if props and props.get("value") is not None:
                    props["value"] = None
        messages: Any = self._queue.pending_messages_per_session
        for key in list(messages):
            if LISTENERS.is_gone(key) or messages[key].is_stale():
                await self._queue.clean_events(session_hash=key)
                messages.pop(key, None)
                self._queue.pending_event_ids_session.pop(key, None)


class Mailbox(asyncio.Queue[Any]):
    """Results for one session, and when one was fetched last."""

    def __init__(self) -> None:
        super().__init__()
        self._fetched = time.monotonic()

    def put_nowait(self, item: Any) -> None:
        """As of a queue; the clock of a box that was empty begins anew."""
        if self.empty():
            self._fetched = time.monotonic()
        super().put_nowait(item)

    def get_nowait(self) -> Any:
        """As of a queue."""
        self._fetched = time.monotonic()
        return super().get_nowait()

    def is_stale(self) -> bool:
        """Whether results lie here that nobody has fetched for a while: a connection may be open and not be read."""
        return not self.empty() and time.monotonic() - self._fetched > FETCH_S


class Results(LRUCache[str, Any]):
    """The boxes of all sessions. What is sent to a session that is gone is nobody's, and no reason for the queue, which
    serves everybody, to stop.
    """

    def __init__(self) -> None:
        super().__init__(2000)

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value if isinstance(value, Mailbox) else Mailbox())

    def __missing__(self, key: str) -> Mailbox:
        return Mailbox()

    def __delitem__(self, key: str) -> None:
        if key in self:
            super().__delitem__(key)


class EventQueue:
    """What the doors ask gradio's queue of a page."""

    def __init__(self, app: Any):
        self._queue = app.get_blocks()._queue

    def pending(self) -> set[str]:
        """The events that are not answered, or whose answers were not fetched."""
        return {event for events in self._queue.pending_event_ids_session.values() for event in events}

    def key(self, event_id: str) -> str:
        """The session that an event's results are sent to."""
        event = self._queue.event_ids_to_events.get(event_id)
        return event_id if event is None else event.session_hash


def tidied(on_stop: Callable[[], None]) -> Callable[[Any], contextlib.AbstractAsyncContextManager[None]]:
    """A lifespan for the server: tidies up now and then; ``on_stop`` is called when the server stops."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        async def tidy() -> None:
            while True:
                await asyncio.sleep(TIDY_EVERY_S)
                await app.get_blocks().forget()

        task = asyncio.create_task(tidy())
        try:
            yield
        finally:
            task.cancel()
            on_stop()

    return lifespan
