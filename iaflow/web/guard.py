"""The outermost layer: headers of every reply, and the last word on what nobody caught.

Decides which headers guard a page or a reply; never what is in it. Put around every app of the
web, so that errors, redirects and refusals have them too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import uuid_utils
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from iaflow.auth.surroundings import read_client, read_networks
from iaflow.telemetry import get_logger
from iaflow.web.problems import ProblemReply, describe_error

__all__ = ["Guard"]

_log = get_logger(__name__)

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; object-src 'none'; "
    "frame-ancestors 'none'; form-action 'self'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of every reply (RELIABILITY S44); one that a reply has already stays."""

HSTS: Final = "max-age=31536000; includeSubDomains"


class Guard:
    """
    Pure ASGI; of a request only its head is read here.

    Args:
        trusted_proxies: networks of those who are believed that a request came encrypted.
    """

    def __init__(self, app: ASGIApp, trusted_proxies: Iterable[str] = ()) -> None:
        self._app = app
        self._proxies = read_networks(trusted_proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def send_guarded(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
                if read_client(scope, self._proxies).scheme == "https":
                    headers.setdefault("Strict-Transport-Security", HSTS)
            await send(message)

        if (told := _find_doubt(scope)) is not None:
            request_id = str(uuid_utils.uuid7())
            headers = {"Connection": "close", "X-Request-Id": request_id}
            refusal = ProblemReply("request_refused", told, headers=headers)
            await refusal.as_response(request_id)(scope, receive, send_guarded)
            return
        try:
            await self._app(scope, receive, send_guarded)
        except ClientDisconnect:
            # In the middle of its body: nothing was done, and nobody is there to be told.
            _log.debug("web.client_gone")
        except Exception as error:
            request_id = str(scope.get("iaflow.request_id", ""))
            _log.exception("web.error", request_id=request_id, method=scope["method"])
            if has_begun:
                raise
            reply = describe_error(error).as_response(request_id)
            reply.headers["X-Request-Id"] = request_id
            await reply(scope, receive, send_guarded)


def _find_doubt(scope: Scope) -> str | None:
    """Return why others may have read a request differently, and so where the next one begins."""
    if scope.get("http_version", "1.1") not in ("1.0", "1.1", "2", "3"):
        return "this is read as HTTP/1.1 alone"
    names = [name for name, _ in scope["headers"]]
    if names.count(b"content-length") + names.count(b"transfer-encoding") > 1:
        return "send Content-Length or Transfer-Encoding, once"
    return None
