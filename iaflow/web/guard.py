"""The outermost layer: headers of every reply, and the last word on what nobody caught.

Decides which headers guard a page or a reply; never what is in it. Put around every app of the
web, so that errors, redirects and refusals have them too.
"""

from __future__ import annotations

from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from iaflow.telemetry import get_logger
from iaflow.web.problems import describe_error

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
    """Pure ASGI; nothing of a request is read here."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

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
                if scope.get("scheme") == "https":
                    headers.setdefault("Strict-Transport-Security", HSTS)
            await send(message)

        try:
            await self._app(scope, receive, send_guarded)
        except Exception as error:
            request_id = str(scope.get("iaflow.request_id", ""))
            _log.exception("web.error", request_id=request_id, method=scope["method"])
            if has_begun:
                raise
            reply = describe_error(error).as_response(request_id)
            await reply(scope, receive, send_guarded)
