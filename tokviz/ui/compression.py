"""The page's document compressed: it holds the scripts, the first case and the forms, five times as large as need be.

Gradio compresses its own scripts and styles, not the document. Everything else passes as it is: streams must not wait
in a compressor, and images gain nothing.
"""

from __future__ import annotations

from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

_LEVEL = 6
"""Level 9 takes three times as long for two percent."""


class CompressedPage:
    """ASGI middleware that compresses the answer to ``GET /`` and ``GET /config`` for browsers that take it."""

    def __init__(self, app: ASGIApp):
        self.app = app
        self.compressing = GZipMiddleware(app, compresslevel=_LEVEL)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        is_page = scope["type"] == "http" and scope["method"] == "GET" and scope["path"] in ("/", "/config")
        await (self.compressing if is_page else self.app)(scope, receive, send)
