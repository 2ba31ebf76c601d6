"""gradio's Blocks with what a server for strangers needs: clients' values are checked, what it remembers is bounded."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import gradio as gr

from ..errors import BadInput
from ..serving.callers import address_of
from ..serving.listeners import LISTENERS
from ..serving.storage import on_behalf_of
from .client_files import check_client_value, refusal
from .failures import log_failure

TIDY_EVERY_S = 5.0
SESSIONS = 500
"""Visitors whose settings are remembered; of a visitor only small values are."""


class PageBlocks(gr.Blocks):
    """``heavy`` are components whose values this server forgets once they are sent: browsers hold them. ``act``: the
    handlers.
    """

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

    def forget(self) -> None:
        """Drop the heavy values that gradio keeps of every visitor, and results that nobody came for."""
        heavy = {component._id for component in self.heavy}
        for session in list(self.state_holder.session_data.values()):
            for key in heavy:
                props = (session.config_values.get(key) or {}).get("props")
                if props and props.get("value") is not None:
                    props["value"] = None
        messages = self._queue.pending_messages_per_session
        for key in [key for key in list(messages) if LISTENERS.is_gone(key)]:
            messages.pop(key, None)
            self._queue.pending_event_ids_session.pop(key, None)


class EventQueue:
    """What the doors ask gradio's queue of a page: whose events wait or run, and where their results go."""

    def __init__(self, app: Any):
        self._queue = app.get_blocks()._queue

    def addresses(self) -> list[str]:
        """The caller of every event that waits or runs."""
        waiting = [event for queue in self._queue.event_queue_per_concurrency_id.values() for event in queue.queue]
        running = [event for events in self._queue.active_jobs if events for event in events]
        return [address_of(event.request.client, event.request.headers) for event in (*waiting, *running)]

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
                app.get_blocks().forget()

        task = asyncio.create_task(tidy())
        try:
            yield
        finally:
            task.cancel()
            on_stop()

    return lifespan
