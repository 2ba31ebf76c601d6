"""The head of the page's document: what a link to it looks like where it is pasted, and what must be there first.

Gradio's template names itself in the preview tags, twice, and no argument of ``launch`` reaches them; a crawler runs no
script. So the head of the page is rewritten on its way out.
"""

from __future__ import annotations

import re
from html import escape

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TITLE = "tokviz: what visual-token pruners keep"
DESCRIPTION = (
    "One image or video, one question, many visual-token pruning methods side by side: which patches each one keeps, "
    "why, what it merges, and how that changes the answer of a vision-language model."
)
_PREVIEW_TAG = re.compile(rb"""\s*<meta\s+(?:property|name)=["'](?:og|twitter):[^>]*>""")
_CONFIG = b"window.gradio_config"
"""From here on the document holds the page's data, which no rewriting may touch."""


class LinkPreview:
    """ASGI middleware that puts our preview tags in the place of Gradio's; every other response passes untouched.

    ``more``: further markup for the head. What ``launch`` is given for it comes only when Gradio's scripts run.
    """

    def __init__(self, app: ASGIApp, title: str = TITLE, description: str = DESCRIPTION, more: str = ""):
        self.app = app
        self.tags = (preview_tags(title, description) + more).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; the HTML of the page itself is sent with other preview tags."""
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            return await self.app(scope, receive, send)
        start: Message | None = None
        body = bytearray()

        async def send_on(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and _is_page(message):
                start = message
            elif start is not None and message["type"] == "http.response.body":
                body.extend(message.get("body", b""))
                if not message.get("more_body"):
                    page = with_tags(bytes(body), self.tags)
                    MutableHeaders(scope=start)["content-length"] = str(len(page))
                    await send(start)
                    await send({"type": "http.response.body", "body": page})
            else:
                await send(message)

        await self.app(scope, receive, send_on)


def preview_tags(title: str, description: str) -> str:
    """A title and the tags that messengers, networks and search engines read, as HTML."""
    title, description = escape(title), escape(description)
    lines = [
        f"<title>{title}</title>",
        f'<meta name="description" content="{description}">',
        '<meta property="og:type" content="website">',
        '<meta property="og:site_name" content="tokviz">',
        f'<meta property="og:title" content="{title}">',
        f'<meta property="og:description" content="{description}">',
        '<meta name="twitter:card" content="summary">',
        f'<meta name="twitter:title" content="{title}">',
        f'<meta name="twitter:description" content="{description}">',
    ]
    return "".join(f"\n\t\t{line}" for line in lines)


def with_tags(page: bytes, tags: bytes) -> bytes:
    """The document with ``tags`` where its first preview tag was; what is no page of Gradio's stays as it is."""
    at = page.find(_CONFIG)
    first = _PREVIEW_TAG.search(page, 0, max(at, 0))
    if first is None:
        return page
    return page[: first.start()] + tags + _PREVIEW_TAG.sub(b"", page[first.end() : at]) + page[at:]


def _is_page(start: Message) -> bool:
    headers = Headers(raw=start["headers"])
    is_plain = "content-encoding" not in headers
    return start["status"] == 200 and is_plain and headers.get("content-type", "").startswith("text/html")
