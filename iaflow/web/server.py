"""Serving the app: which address, how patient with a client, and what must hold before.

Decides where it listens and that nobody can keep a connection for nothing; never what is
replied. Called by `python -m iaflow.web`.
"""

from __future__ import annotations

import asyncio
import http
import ipaddress
import socket
from collections.abc import Callable
from typing import Any, Final

import h11
import uuid_utils
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from iaflow.errors import SettingsRefused
from iaflow.web.guard import HEADERS, Guard
from iaflow.web.problems import ProblemReply

__all__ = ["PatientProtocol", "is_loopback", "make_server", "require_loopback", "serve"]

HEAD_SECONDS: Final = 10.0
"""The head of a request must have come by then, from when the connection was free for it."""

SLOW_SECONDS: Final = 30.0
"""Who takes nothing of a reply for so long is given up."""

MOST_HEAD_BYTES: Final = 32 * 1024
MOST_CONNECTIONS: Final = 2_000

MOST_UNREAD: Final = 16 * 1024 * 1024
"""So much more of a refused body is taken and thrown away, for a client that reads its reply last."""

BACKLOG: Final = 2_048
GRACE_SECONDS: Final = 5
"""A stop waits so long for replies that have begun; streams of events end at once."""


class PatientProtocol(H11Protocol):
    """Closes a connection whose next request does not arrive: slowly, or not at all."""

    _waiting: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None
    _unread = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            self.app = _refuse_for_now
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # Typed as if it were always there; it is with the first request.
        cycle: Any = self.cycle
        if cycle is not None and not cycle.response_complete:
            self._unread = 0
            self._stop_waiting()
            return
        if self.conn.their_state is h11.SEND_BODY:
            self._unread += len(data)
            if self._unread > MOST_UNREAD:
                self.transport.close()
        if self._waiting is None:
            self._wait()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP as any other request is refused: with a problem and headers."""
        reply = ProblemReply("request_refused", "this is no HTTP that is read here")
        request_id = str(uuid_utils.uuid7())
        response = reply.as_response(request_id)
        headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
        headers += [*response.raw_headers, (b"cache-control", b"no-store")]
        headers += [(b"connection", b"close"), (b"x-request-id", request_id.encode())]
        for event in (
            h11.Response(
                status_code=response.status_code,
                headers=headers,
                reason=http.HTTPStatus(response.status_code).phrase,
            ),
            h11.Data(data=bytes(response.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._go_on()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        # What has been written for it cannot be taken back: only the connection can be.
        self._stuck = self.loop.call_later(SLOW_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        self._go_on()
        super().resume_writing()

    def _go_on(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        self._waiting = None
        cycle: Any = self.cycle
        if cycle is None or cycle.response_complete:
            self.transport.close()


def serve(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    tell: Callable[[int], object] = lambda port: None,
    **options: Any,
) -> None:
    """
    Serve the app until SIGTERM or SIGINT.

    Args:
        host, port: where it listens; port 0 is any that is free.
        tell: is given the port once it listens.
        options: more of uvicorn's, such as `ssl_certfile`.

    Raises:
        OSError: it cannot listen there.
    """
    listener = _listen(host, port)
    tell(listener.getsockname()[1])
    make_server(app, host=host, port=port, **options).run(sockets=[listener])


def make_server(app: ASGIApp, *, host: str, port: int, **options: Any) -> uvicorn.Server:
    """Return a server that has not begun; see `serve`."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=PatientProtocol,
        ws="none",
        # Which proxies are trusted is a setting of ours, and read by ourselves.
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        h11_max_incomplete_event_size=MOST_HEAD_BYTES,
        timeout_graceful_shutdown=GRACE_SECONDS,
        **options,
    )
    return _Server(config)


async def _reply_full(scope: Scope, receive: Receive, send: Send) -> None:
    told = f"there are {MOST_CONNECTIONS:,} connections already; come again"
    request_id = str(uuid_utils.uuid7())
    headers = {"Retry-After": "5", "Connection": "close", "X-Request-Id": request_id}
    response = ProblemReply("overloaded", told, headers=headers).as_response(request_id)
    await response(scope, receive, send)


_refuse_for_now: Final = Guard(_reply_full)
"""In the place of the app, for connections beyond those that there may be."""


class _Server(uvicorn.Server):
    """Ends the app's event streams before it waits for replies to be over: these never are."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        parts = getattr(getattr(self.config.app, "state", None), "parts", None)
        if parts is not None:
            parts.tracker.stop()
        await super().shutdown(sockets)


def _listen(host: str, port: int) -> socket.socket:
    # Here and not by uvicorn, which would end the process where a port is taken.
    [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach a server that listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_loopback(host: str) -> None:
    """
    Refuse a development sign-in that others could use.

    Raises:
        SettingsRefused: `host` is not a loopback address.
    """
    if not is_loopback(host):
        raise SettingsRefused(
            f"--dev signs everybody in, so it listens on 127.0.0.1 alone, not on {host}"
        )
