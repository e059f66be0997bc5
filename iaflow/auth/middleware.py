"""The middleware: every request is somebody's, or public, or refused.

Decides who a request comes from and whether a page of this host sent it; never what a route
allows (routes do). Wraps any application of the ASGI family.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from functools import partial
from typing import Any, Final, NoReturn, TypeVar

import anyio
import anyio.to_thread
import uuid_utils
from anyio.lowlevel import RunVar

from iaflow.auth.audit import Caller
from iaflow.auth.credentials import Credentials, read_credentials
from iaflow.auth.sessions import SessionManager
from iaflow.auth.surroundings import (
    Headers,
    is_loopback_host,
    is_own_page,
    read_client,
    read_headers,
    read_networks,
)
from iaflow.data.accounts import Principal
from iaflow.database.dialects import is_database_error
from iaflow.errors import CredentialsRefused
from iaflow.telemetry import get_logger

__all__ = ["REFUSALS", "AuthMiddleware"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

T = TypeVar("T")

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
THREADS: Final = 8

_log = get_logger(__name__)
_limiters: RunVar[anyio.CapacityLimiter] = RunVar("iaflow_auth_threads")


class AuthMiddleware:
    """
    Tells an application who sends each request, and sends away who may not come in.

    Every scope gets `user` (a Principal; None on a public route without good credentials),
    `auth` (Credentials or None), `iaflow.request_id` and `iaflow.caller` (for what is audited).

    Args:
        app: the application.
        sessions: where credentials are looked up.
        public: paths that need no credentials: exact ones (`POST /in` for one method alone),
            beginnings that end in `/*`, or a function of the scope. Everything else does.
        development_user: who sends requests without credentials, in a mode for loopback alone:
            `Host` must name this machine.
    """

    def __init__(
        self,
        app: App,
        sessions: SessionManager,
        *,
        public: Iterable[str] | Callable[[Scope], bool] = (),
        development_user: Principal | None = None,
    ) -> None:
        self._app = app
        self._sessions = sessions
        self._is_public = public if callable(public) else _match_paths(public)
        self._development_user = development_user
        self._proxies = read_networks(sessions.settings.trusted_proxies)
        self._public_url = sessions.settings.public_url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as the ASGI specification has it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        request_id = str(uuid_utils.uuid7())
        scope["iaflow.request_id"] = request_id
        sending = partial(_send_with_id, send, request_id.encode())
        try:
            credentials = await self._admit(scope)
        except _Refused as refused:
            await _refuse(refused, scope, receive, sending)
            return
        user = None if credentials is None else credentials.principal
        scope["user"], scope["auth"] = user, credentials
        scope["iaflow.caller"] = Caller(
            None if user is None else user.name,
            read_client(scope, self._proxies).address,
            request_id,
        )
        await self._app(scope, receive, sending)

    async def _admit(self, scope: Scope) -> Credentials | None:
        """Return who sends a request; None on a public route; raise what it is refused with."""
        headers = read_headers(scope["headers"])
        is_public = bool(self._is_public(scope))
        if self._development_user is not None and not is_loopback_host(headers):
            _refuse_with("host_refused", "in this mode only this machine may ask, by its name")
        try:
            given = read_credentials(scope["headers"], self._sessions.cookie_name)
        except CredentialsRefused as error:
            _refuse_with("credentials_refused", str(error))
        # A program with a token is no browser that a foreign page could have sent.
        if given.bearer is None:
            self._require_own_page(scope, headers, has_cookie=given.cookie is not None)
        credentials = None
        if given.bearer is not None or given.cookie is not None:
            credentials = await self._look_up(scope)
        if credentials is None and self._development_user is not None and given.bearer is None:
            return Credentials(self._development_user)
        if credentials is not None and not self._has_csrf_token(scope, headers, credentials):
            if not is_public:
                _refuse_with("csrf_refused", "send the session's X-CSRF-Token")
            # Nobody's request, then: a sign-in from a page that knows of no session.
            credentials = None
        if credentials is None and not is_public:
            _refuse_with("not_signed_in", "sign in, or send a token that is good")
        return credentials

    async def _look_up(self, scope: Scope) -> Credentials | None:
        try:
            return await _run(self._sessions.authenticate, scope["headers"])
        except Exception as error:
            if not is_database_error(error):
                raise
            _log.warning("auth.not_reachable", error=str(error))
            _refuse_with("not_reachable", "the database does not answer")

    def _require_own_page(self, scope: Scope, headers: Headers, *, has_cookie: bool) -> None:
        if scope["type"] == "http" and scope["method"] in SAFE_METHODS:
            return
        # A browser says where it comes from; what says nothing is none, and has no cookie.
        if not is_own_page(headers, self._public_url, if_silent=not has_cookie):
            _refuse_with("origin_refused", "a page of another host sent this request")

    def _has_csrf_token(self, scope: Scope, headers: Headers, credentials: Credentials) -> bool:
        if credentials.token is None or scope["type"] == "websocket":
            return True
        if scope["method"] in SAFE_METHODS:
            return True
        given = headers.get("x-csrf-token", [])
        return len(given) == 1 and self._sessions.is_csrf_token(credentials.token, given[0])


class _Refused(Exception):
    def __init__(self, code: str, detail: str) -> None:
        self.status, self.title = REFUSALS[code]
        self.code = code
        self.detail = detail
        super().__init__(detail)


REFUSALS: Final[Mapping[str, tuple[int, str]]] = {
    "credentials_refused": (400, "The request has two kinds of credentials, or one twice"),
    "csrf_refused": (403, "The request may have come from another site"),
    "host_refused": (403, "In this mode only this machine may ask"),
    "not_reachable": (503, "The database or the broker cannot be reached"),
    "not_signed_in": (401, "Sign in first"),
    "origin_refused": (403, "The request comes from a page of another host"),
}
"""Codes of what is refused here, with status and title; the web has them among its own."""


def _refuse_with(code: str, detail: str) -> NoReturn:
    raise _Refused(code, detail)


async def _refuse(refused: _Refused, scope: Scope, receive: Receive, send: Send) -> None:
    prefix = ""
    if scope["type"] == "websocket":
        await receive()
        if "websocket.http.response" not in scope.get("extensions", {}):
            # Before it is accepted, a server says 403 for this.
            await send({"type": "websocket.close", "code": 1008, "reason": refused.code})
            return
        prefix = "websocket."
    body = json.dumps(
        {
            "type": f"/problems/{refused.code}",
            "title": refused.title,
            "status": refused.status,
            "detail": refused.detail,
            "code": refused.code,
            "request_id": scope["iaflow.request_id"],
            "problems": [],
        }
    ).encode()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
    if refused.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if refused.status == 503:
        headers.append((b"retry-after", b"5"))
    start = {"type": f"{prefix}http.response.start", "status": refused.status, "headers": headers}
    await send(start)
    is_head = scope.get("method") == "HEAD"
    await send({"type": f"{prefix}http.response.body", "body": b"" if is_head else body})


async def _send_with_id(send: Send, request_id: bytes, message: Message) -> None:
    if message["type"] in ("http.response.start", "websocket.http.response.start"):
        kept = [(k, v) for k, v in message.get("headers", ()) if k.lower() != b"x-request-id"]
        message = {**message, "headers": [*kept, (b"x-request-id", request_id)]}
    await send(message)


async def _run(function: Callable[..., T], *args: Any) -> T:
    """
    Run what waits for the database in a thread.

    Frameworks run their own in the same threads, so that no further connections are opened; but
    as many as are here are never all taken by others.
    """
    try:
        limiter = _limiters.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(THREADS)
        _limiters.set(limiter)
    return await anyio.to_thread.run_sync(function, *args, limiter=limiter)


def _match_paths(paths: Iterable[str]) -> Callable[[Scope], bool]:
    listed = tuple(paths)
    exact = frozenset(path for path in listed if not path.endswith("/*"))
    beginnings = tuple(path[:-1] for path in listed if path.endswith("/*"))

    def is_public(scope: Scope) -> bool:
        path, root = scope["path"], scope.get("root_path", "")
        if root and path.startswith(f"{root}/"):
            path = path[len(root) :]
        if path in exact or f"{scope.get('method', '')} {path}" in exact:
            return True
        # What steps out of a beginning does not begin with it.
        steps = set(path.replace("\\", "/").split("/"))
        return path.startswith(beginnings) and not steps & {"..", "."}

    return is_public
