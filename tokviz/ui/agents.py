"""The page's endpoints as tools for agents (MCP): served where the ``mcp`` package is installed.

gradio's own server would fetch any address that an agent names, keep what it sends outside the counted storage, and
answer with the image's bytes in the notation of Python. It would also ask this server over HTTP on behalf of agents:
all of them would then share one address, which their own headers could forge, and their runs would go on without them.
"""

from __future__ import annotations

import asyncio
import binascii
import contextlib
import importlib.util
import itertools
import json
import os
import re
from collections.abc import AsyncIterator
from functools import cache
from typing import Any
from urllib.parse import unquote

import anyio
from pydantic_core import to_jsonable_python

from ..errors import BadInput
from ..serving.callers import address_of
from ..serving.queue import BEAT_S
from ..serving.storage import storage
from .failures import UNEXPECTED, log_failure

_OWN_ADDRESS = re.compile(r"https?://[^/]+/(?:[^?#]*/)?gradio_api/file=([^?#]+)")
_NO_FILE = (
    "Give the file as a data: URI (base64), or as the URL of a file that was uploaded to this server; "
    "nothing is fetched from elsewhere."
)


def serve_agents() -> bool:
    """Whether to launch with ``mcp_server=True``: where ``mcp`` is there, unless ``GRADIO_MCP_SERVER`` is false."""
    wanted = os.environ.get("GRADIO_MCP_SERVER", "true").strip().lower() not in ("false", "0", "no", "off")
    if not wanted or importlib.util.find_spec("mcp") is None:
        return False
    import gradio.mcp

    gradio.mcp.GradioMCPServer = _agent_server()  # type: ignore[assignment,misc]  # the name gradio takes it by
    return True


def given_file(named: str, giver: str) -> str:
    """The path, in this server's storage, of a file that an agent gives; giver: its address. Raises BadInput."""
    from gradio import processing_utils

    if named.startswith("data:"):
        storage().make_room(len(named), giver)
        try:
            path = str(processing_utils.save_base64_to_cache(named, str(storage().folder)))
        except (ValueError, IndexError, KeyError, binascii.Error) as error:
            raise BadInput("The data: URI is malformed: it must look like data:image/png;base64,...") from error
        storage().uploaded(giver, [path])
        return path
    address = _OWN_ADDRESS.fullmatch(named)
    if address is None:
        raise BadInput(_NO_FILE)
    return storage().own_file(unquote(address[1]))


def told_agent(value: Any) -> str:
    """An answer as JSON without the bytes of images, which an agent has or cannot read."""
    return json.dumps(_without_bytes(to_jsonable_python(value)), ensure_ascii=False, separators=(",", ":"))


def _without_bytes(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_bytes(inner) for key, inner in value.items() if key != "base64"}
    return [_without_bytes(inner) for inner in value] if isinstance(value, list) else value


@cache
def _agent_server() -> type:
    import gradio as gr
    from gradio.mcp import GradioMCPServer
    from gradio.state_holder import SessionState
    from gradio_client import handle_file

    class AgentServer(GradioMCPServer):
        """gradio's server of tools; files come from this server alone, answers are JSON, calls stay in this process."""

        def create_mcp_server(self) -> Any:
            """A call is the agent's own request: it has the agent's address, and is cancelled when the agent leaves."""
            server = super().create_mcp_server()

            @server.call_tool()
            async def call_tool(name: str, arguments: dict[str, Any]) -> list[Any]:
                # Files are written: not in the loop that serves everybody.
                _, values, _, endpoint = await asyncio.to_thread(self._prepare_tool_call_args, name, arguments)
                try:
                    async with _sign_of_life(server.request_context):
                        answer = await self.blocks.process_api(
                            block_fn=endpoint,
                            inputs=self.insert_empty_state(endpoint.inputs, values),
                            state=SessionState(self.blocks),
                            request=gr.Request(server.request_context.request),
                        )
                except gr.Error as error:  # as text it would be in quotation marks
                    raise BadInput(error.message) from error
                except Exception as error:  # the boundary to the agent: the log gets the traceback
                    log_failure("an agent's call failed")
                    raise RuntimeError(UNEXPECTED) from error
                return self.postprocess_output_data(self.pop_returned_state(endpoint.outputs, answer["data"]), "")

            return server

        def convert_strings_to_filedata(self, value: Any, filedata_positions: list[list[str | int]]) -> Any:
            """Strings at the positions become files; see ``given_file``."""
            asked = self.mcp_server.request_context.request
            giver = "" if asked is None else address_of(asked.client, asked.headers)

            def converted(node: Any, path: list[str | int]) -> Any:
                if isinstance(node, dict):
                    if "path" in node or "meta" in node:  # gradio's client would read that file of this machine
                        raise BadInput(_NO_FILE)
                    return {key: converted(inner, [*path, key]) for key, inner in node.items()}
                if isinstance(node, list):
                    return [converted(inner, [*path, index]) for index, inner in enumerate(node)]
                is_file = isinstance(node, str) and path in filedata_positions
                return handle_file(given_file(node, giver)) if is_file else node

            return converted(value, [])

        def postprocess_output_data(self, data: Any, root_url: str) -> list[Any]:
            """Each answer as one text."""
            return [self.types.TextContent(type="text", text=told_agent(output)) for output in data]

    return AgentServer


@contextlib.asynccontextmanager
async def _sign_of_life(context: Any) -> AsyncIterator[None]:
    """Meanwhile an agent that asked for progress hears now and then that its call goes on."""
    token = None if context.meta is None else context.meta.progressToken

    async def tell() -> None:
        with contextlib.suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):  # the agent is leaving
            for step in itertools.count():
                await context.session.send_progress_notification(
                    progress_token=token, progress=step, message="Working", related_request_id=str(context.request_id)
                )
                await asyncio.sleep(BEAT_S)

    task = None if token is None else asyncio.create_task(tell())
    try:
        yield
    finally:
        if task is not None:
            task.cancel()
