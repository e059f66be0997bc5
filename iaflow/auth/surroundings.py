"""Where a request comes from: the client's address behind proxies, and the page that sent it.

Decides from headers and settings alone, which of them is believed: pure. Called by the
middleware.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, Final
from urllib.parse import urlsplit

__all__ = [
    "Client",
    "Headers",
    "is_loopback_host",
    "is_own_page",
    "read_client",
    "read_headers",
    "read_networks",
]

Headers = Mapping[str, list[str]]
Networks = tuple[IPv4Network | IPv6Network, ...]

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Client:
    """
    Who is at the other end, as far as the proxies that are trusted say.

    Attributes:
        address: of the network; empty if there is none, as on a Unix socket.
        scheme: `http` or `https`, as the client wrote it.
    """

    address: str
    scheme: str


def read_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, list[str]]:
    """Return an ASGI scope's headers by small name; what comes several times stays so."""
    headers: dict[str, list[str]] = {}
    for name, value in raw:
        headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return headers


def read_networks(texts: Iterable[str]) -> Networks:
    """Return the networks of `IAFLOW_TRUSTED_PROXIES`."""
    return tuple(ip_network(text) for text in texts)


def read_client(scope: Mapping[str, Any], trusted: Networks = ()) -> Client:
    """
    Return the client of an ASGI scope.

    What a proxy adds is believed only if it comes from one that is trusted: `X-Forwarded-For` is
    read from its end, up to the first address that is none of ours; what stands before it,
    anybody may have written.
    """
    peer = (scope.get("client") or ("",))[0]
    scheme = {"wss": "https", "ws": "http"}.get(scope.get("scheme", ""), scope.get("scheme", ""))
    if not trusted or not _is_in(peer, trusted):
        return Client(peer, scheme)
    headers = read_headers(scope.get("headers", ()))
    hops = [hop.strip() for line in headers.get("x-forwarded-for", []) for hop in line.split(",")]
    address = peer
    for hop in reversed(hops):
        bare = _strip_port(hop)
        if bare is None:
            break
        address = bare
        if not _is_in(address, trusted):
            break
    schemes = [
        part.strip() for line in headers.get("x-forwarded-proto", []) for part in line.split(",")
    ]
    if schemes and schemes[-1].lower() in ("http", "https", "ws", "wss"):
        scheme = {"wss": "https", "ws": "http"}.get(schemes[-1].lower(), schemes[-1].lower())
    return Client(address, scheme)


def is_own_page(headers: Headers, public_url: str | None = None, *, if_silent: bool) -> bool:
    """
    Tell whether a page of this host sent a request, as the browser says it.

    Every browser of these years sends `Origin` with whatever may change something, and
    `Sec-Fetch-Site` where the way is encrypted; no page can write either.

    Args:
        public_url: the origin under which people reach the web; None: that of `Host`.
        if_silent: what is answered if there is neither, so that no browser sent it.
    """
    sites, origins = headers.get("sec-fetch-site", []), headers.get("origin", [])
    if len(sites) > 1 or len(origins) > 1:
        return False
    if sites and sites[0] not in ("same-origin", "none"):
        return False
    if not origins:
        return bool(sites) or if_silent
    if origins[0] == "null":
        # A form of a page without referrers; Sec-Fetch-Site alone can vouch for it.
        return sites == ["same-origin"]
    if public_url is not None:
        return origins[0].lower() == public_url.lower()
    hosts = headers.get("host", [])
    # Not the scheme: who decrypts in front of us is not always in our settings.
    return len(hosts) == 1 and _host_of(origins[0]) == hosts[0].lower()


def is_loopback_host(headers: Headers) -> bool:
    """Tell whether `Host` names this machine: a foreign name that leads here does not."""
    hosts = headers.get("host", [])
    if len(hosts) != 1:
        return False
    try:
        return urlsplit(f"//{hosts[0]}").hostname in _LOOPBACK
    except ValueError:
        return False


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def _is_in(address: str, networks: Networks) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return any((mapped or parsed) in network for network in networks)


def _strip_port(hop: str) -> str | None:
    """Return the address of a hop, which some proxies write with a port; None: it is none."""
    if hop.startswith("["):
        hop = hop[1:].partition("]")[0]
    elif hop.count(":") == 1:
        hop = hop.partition(":")[0]
    try:
        return str(ip_address(hop))
    except ValueError:
        return None
