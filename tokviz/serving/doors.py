"""Who may come in: an ASGI middleware that looks at every request before the page does."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from ..errors import BadInput
from .callers import LISTENERS, Listeners, address_of, is_loopback, parsed
from .storage import FILES_OF_REQUEST, TOO_MANY_FILES, storage

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

API = "/gradio_api"
LARGEST_UPLOAD = 101_000_000
"""Bytes of a request that uploads: the largest file, and what multipart writes around it."""
LARGEST_BODY = 4_000_000
"""Bytes of any other request: a form with every method and its settings has a few thousand."""
EVENTS_OF_ONE = 64
"""Events of one caller that are not answered, or whose answers it has not fetched; cheap ones with runs."""
_CLOSED = re.compile(
    rf"^(?:{API})?/(?:proxy=|component_server|deep_link|process_recording|vibe-|undo-vibe|stream/|custom_component/"
    r"|monitoring|dev/|run-history|runs(?:/|$)|token/?$"
    r"|pwa_icon/(?!(?:192|512)/?$))|^/(?:openapi\.json|docs|redoc)(?:/|$)"
)
"""Routes that this page has no use for: they fetch, hold or reveal things, or draw icons of any size."""
_FILE = re.compile(rf"^{API}/file[=/](.*)$", re.DOTALL)
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?")
_STREAM = re.compile(rf"^{API}/call/(?:v2/)?[^/]+/([^/]+)/?$")
_JOIN = re.compile(rf"^{API}/(?:queue/join|call/(?:v2/)?[^/]+)/?$")


def named_hosts() -> set[str]:
    """Host names under which this server may be asked, beside its own addresses.

    ``TOKVIZ_HOSTS`` (separated by commas), the host of the Space, and the name that it was told to serve on.
    """
    names = [*os.environ.get("TOKVIZ_HOSTS", "").split(","), *os.environ.get("SPACE_HOST", "").split(",")]
    names += [os.environ.get("HOST", ""), os.environ.get("GRADIO_SERVER_NAME", "")]
    return {name.strip().lower().rstrip(".") for name in names if name.strip()}


def host_is_ours(host: str, server: str) -> bool:
    """Whether a ``Host`` header names this server.

    A page of another site can make a browser ask us under its own name (DNS rebinding), but not under an address.

    Args: host: the header. server: the address that the connection came in on.
    """
    if _HOST.fullmatch(host) is None:
        return False
    if os.environ.get("SPACE_ID"):  # public anyway, and behind proxies that may ask under names of their own
        return True
    name, _ = _name_and_port(host)
    if name in named_hosts() or name == "localhost":
        return True
    address, own = parsed(name), parsed(server)
    # From outside the machine the address may be another one than ours: ports are mapped, into containers for one.
    return address is not None and (address.is_loopback or own is None or not own.is_loopback)


def origin_is_ours(origin: str, host: str) -> bool:
    """Whether the page that asks is this server's own: its ``Origin`` is the host that is asked, or one by name."""
    if origin in {entry.strip() for entry in os.environ.get("TOKVIZ_ORIGINS", "").split(",")}:
        return True
    try:
        parts = urlsplit(origin)
        name, port = parts.hostname or "", parts.port
    except ValueError:
        return False
    if parts.scheme not in ("http", "https") or _HOST.fullmatch(parts.netloc) is None:
        return False
    if parts.netloc.lower() == host.lower() or name.lower() in named_hosts() - {"0.0.0.0", "::"}:
        return True
    asked, its_port = _name_and_port(host)
    return port == its_port and is_loopback(name) and is_loopback(asked)


def _name_and_port(host: str) -> tuple[str, int | None]:
    """Of a ``Host`` header; port None where it names none, -1 where it is no number that a port can have."""
    try:
        parts = urlsplit(f"//{host}")
    except ValueError:
        return "", -1
    name = (parts.hostname or "").rstrip(".")
    try:
        return name, parts.port
    except ValueError:
        return name, -1


class Refused(Exception):
    """The request ends here, with a status and a sentence."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


class Doors:
    """The middleware. What it lets in is bounded: the size of a request, files on the disk, events per caller.

    queue_of: of an app, its queue of events: ``pending()``, the events that are not answered or whose answers were not
    fetched, and ``key(event)``, what their results are sent to.
    """

    def __init__(self, app: App, queue_of: Callable[[Any], Any] | None = None, listeners: Listeners = LISTENERS):
        self.app = app
        self._queue_of = queue_of
        self._listeners = listeners
        self._asked: dict[str, str] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve, or refuse with a sentence as JSON."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        guarded = _with_nosniff(send)
        try:
            self._check(scope, headers)
            await self._serve(scope, headers, receive, guarded)
        except Refused as refusal:
            await _answer(guarded, refusal.status, refusal.sentence)

    def _check(self, scope: Scope, headers: Mapping[str, str]) -> None:
        path, host = scope["path"], headers.get("host", "")
        server = str((scope.get("server") or ("",))[0] or "")
        if "host" in headers and not host_is_ours(host, server):
            raise Refused(403, "This server is not asked under that name. If it should be, set TOKVIZ_HOSTS.")
        origin = headers.get("origin")
        if origin is not None and not origin_is_ours(origin, host):
            raise Refused(403, "Requests from pages of other sites are refused. To allow one, set TOKVIZ_ORIGINS.")
        file = _FILE.match(path)
        if _CLOSED.match(path) or (file and re.match(r"\s*[A-Za-z][A-Za-z0-9+.-]*:", file[1]) is not None):
            raise Refused(404, "There is nothing here.")
        _check_length(_length(headers) or 0, LARGEST_UPLOAD if _is_upload(scope) else LARGEST_BODY)

    async def _serve(self, scope: Scope, headers: Mapping[str, str], receive: Receive, send: Send) -> None:
        caller = address_of(scope.get("client"), headers)
        if _is_upload(scope):
            await self._upload(scope, headers, caller, _bounded(receive, LARGEST_UPLOAD), send)
            return
        receive = _bounded(receive, LARGEST_BODY)
        if scope["method"] == "POST" and _JOIN.match(scope["path"]):
            await self._join(scope, caller, receive, send)
            return
        key = self._stream_key(scope)
        if key is None:
            await self.app(scope, receive, send)
            return
        self._listeners.arrived(key)
        try:
            await self.app(scope, receive, send)
        finally:
            self._listeners.left(key)

    async def _upload(
        self, scope: Scope, headers: Mapping[str, str], caller: str, receive: Receive, send: Send
    ) -> None:
        kept = storage()
        try:
            await asyncio.to_thread(kept.make_room, _length(headers) or LARGEST_UPLOAD, caller)
        except BadInput as error:
            raise Refused(507, str(error)) from error
        answer: list[Message] = []  # held back until the files are counted: it may become a refusal

        async def hold(message: Message) -> None:
            answer.append(message)

        body, read = _overheard(hold)
        async with kept.uploading():
            await self.app(scope, _of_few_parts(receive, headers), body)
        paths = read()
        if isinstance(paths, list):
            try:
                await asyncio.to_thread(kept.uploaded, caller, [path for path in paths if isinstance(path, str)])
            except BadInput as error:
                raise Refused(413, str(error)) from error
        for message in answer:
            await send(message)

    async def _join(self, scope: Scope, caller: str, receive: Receive, send: Send) -> None:
        queue = None if self._queue_of is None else self._queue_of(scope.get("app"))
        if queue is not None:
            pending = queue.pending()
            self._asked = {event: asker for event, asker in self._asked.items() if event in pending}
            if sum(asker == caller for asker in self._asked.values()) >= EVENTS_OF_ONE:
                raise Refused(429, f"{EVENTS_OF_ONE} of your requests are waiting; please wait for one of them.")
        body, read = _overheard(send)
        try:
            await self.app(scope, receive, body)
        except KeyError as error:  # gradio's, for the number of an event that there is not
            raise Refused(404, "There is no such event.") from error
        answer = read()
        event = answer.get("event_id") if isinstance(answer, dict) else None
        if isinstance(event, str) and queue is not None:
            self._asked[event] = caller
            self._listeners.expect(queue.key(event))

    def _stream_key(self, scope: Scope) -> str | None:
        """The key of the results that a request wants to listen to, if it does."""
        if scope["method"] != "GET":
            return None
        if scope["path"].rstrip("/") == f"{API}/queue/data":
            query = scope.get("query_string", b"").decode("latin-1")
            found = re.search(r"(?:^|&)session_hash=([^&]+)", query)
            return found[1] if found else None
        stream = _STREAM.match(scope["path"])
        if stream is None:
            return None
        queue = None if self._queue_of is None else self._queue_of(scope.get("app"))
        return stream[1] if queue is None else str(queue.key(stream[1]))


def _is_upload(scope: Scope) -> bool:
    return scope["method"] == "POST" and scope["path"].rstrip("/") == f"{API}/upload"


def _length(headers: Mapping[str, str]) -> int | None:
    value = headers.get("content-length", "")
    return int(value) if value.isdigit() else None


def _check_length(length: int, most: int) -> None:
    if length > most:
        raise Refused(413, f"The request is larger than {most // 1_000_000} MB.")


def _bounded(receive: Receive, most: int) -> Receive:
    """A body without a length in its head is counted while it comes."""
    received = 0

    async def counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        _check_length(received, most)
        return message

    return counted


def _of_few_parts(receive: Receive, headers: Mapping[str, str]) -> Receive:
    """An upload's parts are counted while they come: each one costs the page a file before it can say no."""
    found = re.search(r"boundary=(?:\"([^\"]+)\"|([^;\s]+))", headers.get("content-type", ""), re.I | re.A)
    if found is None:  # no form: the page refuses it
        return receive
    delimiter = f"--{found[1] or found[2]}".encode("latin-1")
    parts, rest = 0, b""

    async def counted() -> Message:
        nonlocal parts, rest
        message = await receive()
        seen = rest + message.get("body", b"")
        parts += seen.count(delimiter)
        after = seen.rfind(delimiter) + len(delimiter) if delimiter in seen else 0
        rest = seen[max(after, len(seen) - len(delimiter) + 1) :]
        if parts > FILES_OF_REQUEST + 1:  # the last one ends the form
            raise Refused(413, TOO_MANY_FILES)
        return message

    return counted


def _with_nosniff(send: Send) -> Send:
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), (b"x-content-type-options", b"nosniff")]
        await send(message)

    return guarded


def _overheard(send: Send) -> tuple[Send, Callable[[], Any]]:
    """``send`` that keeps a small JSON body, and what reads it: None for anything that is no JSON of a success."""
    parts: list[bytes] = []
    status = 0

    async def overheard(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        elif sum(map(len, parts)) < 1_000_000:
            parts.append(message.get("body", b""))
        await send(message)

    def read() -> Any:
        if status != 200:
            return None
        try:
            return json.loads(b"".join(parts))
        except ValueError:
            return None

    return overheard, read


async def _answer(send: Send, status: int, sentence: str) -> None:
    body = json.dumps({"detail": sentence, "error": sentence}).encode()
    length = (b"content-length", str(len(body)).encode())
    headers = [(b"content-type", b"application/json"), length, (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
