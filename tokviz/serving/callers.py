"""Who sent a request, as far as a server can tell: the address it came from."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from typing import Any


def behind_proxy() -> bool:
    """Whether a proxy that we trust hands requests on: on a Space, or where ``TOKVIZ_TRUST_PROXY`` is set."""
    return bool(os.environ.get("SPACE_ID") or os.environ.get("TOKVIZ_TRUST_PROXY"))


def distrust_forwarded() -> None:
    """Tell uvicorn, before it starts, to believe no ``X-Forwarded-*`` header unless a proxy is trusted.

    By itself it believes them of every caller on this machine. An operator's ``FORWARDED_ALLOW_IPS`` stands.
    """
    if not behind_proxy():
        os.environ.setdefault("FORWARDED_ALLOW_IPS", "")


def is_loopback(address: str) -> bool:
    """Whether an address or host name is this machine's own, which nobody else can come from; no address at all is
    a call in process.
    """
    try:
        return address in ("", "localhost") or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def address_of(client: Any, headers: Mapping[str, str]) -> str:
    """The address of the caller.

    Args: client: ``(host, port)``, an object with ``host``, or None. headers: of the request, lower-case names. Behind
    a trusted proxy the last public address of ``X-Forwarded-For`` counts: a client can write what it likes, but only
    before what the proxies append.
    """
    host = getattr(client, "host", None) or (client[0] if isinstance(client, tuple | list) and client else "")
    if behind_proxy():
        for part in reversed(headers.get("x-forwarded-for", "").split(",")):
            address = _public(part.strip())
            if address:
                return _network(address)
    return _network(str(host))


def _network(host: str) -> str:
    """An IPv4 address; of a public IPv6 one its network of 64 bits, all of whose addresses are one customer's."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address) or not address.is_global:
        return host
    return str(ipaddress.ip_network(f"{address}/64", strict=False).network_address)


def _public(text: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return ""
    return str(address) if address.is_global else ""
