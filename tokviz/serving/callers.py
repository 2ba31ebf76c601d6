"""Who sent a request, as far as a server can tell: the address it came from, and whether it still waits."""

from __future__ import annotations

import contextlib
import contextvars
import ipaddress
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

RETURN_S = 5.0
"""How long a listener may be gone before its work is given up."""
ARRIVE_S = 30.0
"""How long a caller may take to begin listening."""
_MOST_LISTENERS = 5000


def behind_proxy() -> bool:
    """Whether a proxy that we trust hands requests on: on a Space, or where ``TOKVIZ_TRUST_PROXY`` is set."""
    return bool(os.environ.get("SPACE_ID") or os.environ.get("TOKVIZ_TRUST_PROXY"))


def distrust_forwarded() -> None:
    """Tell uvicorn, before it starts, to believe no ``X-Forwarded-*`` header unless a proxy is trusted.

    By itself it believes them of every caller on this machine. An operator's ``FORWARDED_ALLOW_IPS`` stands.
    """
    if not behind_proxy():
        os.environ.setdefault("FORWARDED_ALLOW_IPS", "")


def parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An IP address, None for anything else."""
    try:
        return ipaddress.ip_address(address)
    except ValueError:
        return None


def is_loopback(address: str) -> bool:
    """Whether an address or host name is this machine's own, which nobody else can come from.

    No address at all is a call in process.
    """
    ip = parsed(address)
    return address in ("", "localhost") or (ip is not None and ip.is_loopback)


def address_of(client: Any, headers: Mapping[str, str]) -> str:
    """The address of the caller.

    Args: client: ``(host, port)``, an object with ``host``, or None. headers: of the request, lower-case names. Behind
    a trusted proxy the last public address of ``X-Forwarded-For`` counts: a client can write what it likes, but only
    before what the proxies append.
    """
    host = getattr(client, "host", None) or (client[0] if isinstance(client, tuple | list) and client else "")
    if behind_proxy():
        for part in reversed(headers.get("x-forwarded-for", "").split(",")):
            ip = parsed(part.strip())
            if ip is not None and ip.is_global:
                return _network(str(ip))
    return _network(str(host))


def _network(host: str) -> str:
    """An IPv4 address; of a public IPv6 one its network of 64 bits, all of whose addresses are one customer's."""
    ip = parsed(host)
    if not isinstance(ip, ipaddress.IPv6Address) or not ip.is_global:
        return host
    return str(ipaddress.ip_network(f"{ip}/64", strict=False).network_address)


CALLER: contextvars.ContextVar[str | None] = contextvars.ContextVar("tokviz_caller", default=None)
"""The visitor for whom the server works just now; None: for itself."""


@contextlib.contextmanager
def on_behalf_of(address: str) -> Iterator[None]:
    """What is made inside is made for the visitor at ``address``, also in threads that copy the context."""
    token = CALLER.set(address)
    try:
        yield
    finally:
        CALLER.reset(token)


@dataclass
class _Ear:
    open: int
    deadline: float
    expected: bool = False


class Listeners:
    """Streams by key, which is the session (or the event of a plain call) that results are sent to. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ears: OrderedDict[str, _Ear] = OrderedDict()
        self._lock = threading.Lock()

    def expect(self, key: str) -> None:
        """Something was asked for: a listener has ``ARRIVE_S`` seconds to come. Asking again gives no more time."""
        with self._lock:
            ear = self._ear(key)
            if not ear.expected:
                ear.expected = True
                ear.deadline = max(ear.deadline, self._clock() + ARRIVE_S)

    def arrived(self, key: str) -> None:
        """A stream of results was opened."""
        with self._lock:
            ear = self._ear(key)
            ear.open += 1
            ear.expected = False

    def left(self, key: str) -> None:
        """It was closed, by whichever side."""
        with self._lock:
            ear = self._ear(key)
            ear.open = max(0, ear.open - 1)
            ear.deadline = self._clock() + RETURN_S

    def is_gone(self, key: str) -> bool:
        """Whether nobody listens any more. False for a key that never had to do with streams (calls in process)."""
        with self._lock:
            ear = self._ears.get(key)
            return ear is not None and not ear.open and self._clock() > ear.deadline

    def _ear(self, key: str) -> _Ear:
        ear = self._ears.pop(key, None) or _Ear(0, 0.0)
        self._ears[key] = ear
        if len(self._ears) > _MOST_LISTENERS:
            closed = next((old for old, candidate in self._ears.items() if not candidate.open and old != key), None)
            if closed is not None:
                del self._ears[closed]
        return ear


LISTENERS = Listeners()
"""Those of this process: session ids are unique, whichever page they belong to."""
