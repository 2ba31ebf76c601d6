"""The page's endpoints as tools for agents (MCP): served where the ``mcp`` package is installed.

gradio's own server would fetch any address that an agent names, keep what it sends outside the counted storage, and
answer with the picture's bytes in the notation of Python.
"""

from __future__ import annotations

import binascii
import importlib.util
import json
import os
import re
from functools import cache
from typing import Any
from urllib.parse import unquote

from ..errors import BadInput
from ..serving.callers import address_of
from ..serving.storage import caller, on_behalf_of, storage

_OWN_ADDRESS = re.compile(r"https?://[^/]+/(?:[^?#]*/)?gradio_api/file=([^?#]+)")
_NO_FILE = (
    "The file must be given as a data: URI (base64), or as the address that this server serves an upload under; "
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


def given_file(named: str) -> str:
    """The path, in this server's storage, of a file that an agent gives. Raises BadInput."""
    from gradio import processing_utils

    if named.startswith("data:"):
        storage().make_room(len(named), caller())
        try:
            path = str(processing_utils.save_base64_to_cache(named, str(storage().folder)))
            storage().uploaded(caller(), [path])
            return path
        except (ValueError, IndexError, KeyError, binascii.Error) as error:
            raise BadInput("The data: URI is damaged: it must be data:image/png;base64,... or alike.") from error
    address = _OWN_ADDRESS.fullmatch(named)
    if address is None:
        raise BadInput(_NO_FILE)
    return storage().own_file(unquote(address[1]))


def told_agent(value: Any) -> str:
    """An answer as JSON without the bytes of pictures, which an agent has or cannot read."""
    return json.dumps(_without_bytes(value), ensure_ascii=False, separators=(",", ":"))


def _without_bytes(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_bytes(inner) for key, inner in value.items() if key != "base64"}
    return [_without_bytes(inner) for inner in value] if isinstance(value, list) else value


@cache
def _agent_server() -> type:
    from gradio.mcp import GradioMCPServer
    from gradio_client import handle_file

    class AgentServer(GradioMCPServer):
        """gradio's server of tools; files come from this server alone, answers are JSON."""

        def convert_strings_to_filedata(self, value: Any, filedata_positions: list[list[str | int]]) -> Any:
            """Strings at the positions become files; see ``given_file``."""

            def converted(node: Any, path: list[str | int]) -> Any:
                if isinstance(node, dict):
                    if "path" in node or "meta" in node:  # gradio's client would read that file of this machine
                        raise BadInput(_NO_FILE)
                    return {key: converted(inner, [*path, key]) for key, inner in node.items()}
                if isinstance(node, list):
                    return [converted(inner, [*path, index]) for index, inner in enumerate(node)]
                return handle_file(given_file(node)) if isinstance(node, str) and path in filedata_positions else node

            request = self.mcp_server.request_context.request
            with on_behalf_of("" if request is None else address_of(request.client, request.headers)):
                return converted(value, [])

        def postprocess_output_data(self, data: Any, root_url: str) -> list[Any]:
            """Each answer as one text."""
            return [self.types.TextContent(type="text", text=told_agent(output)) for output in data]

    return AgentServer
