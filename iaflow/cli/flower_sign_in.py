"""Flower behind the sign-in of the web: the same people, passwords, delays and sessions.

Decides who may look at Flower, anew at each request, so that whoever signs out, is disabled or
whose time is over sees nothing more; never what Flower shows. Run by `iaflow flower --sign-in` in
the place of Celery's own program (`flower_program`), around which it stands.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from html import escape
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode

from flower.api import BaseApiHandler
from flower.views import BaseHandler
from flower.views.auth import LogoutHandler, get_next_url
from flower.views.monitor import Healthcheck, Metrics

from iaflow.auth import SessionManager
from iaflow.auth.audit import Caller
from iaflow.auth.credentials import COOKIE, Credentials
from iaflow.auth.surroundings import read_client, read_networks
from iaflow.data.accounts import Permission
from iaflow.database.dialects import is_database_error
from iaflow.errors import CredentialsRefused, NotReachable, SignInRefused, TooMany
from iaflow.settings import load_settings
from iaflow.telemetry import configure_logs

__all__ = ["Door", "SignInHandler", "guard", "main"]

PLAIN_COOKIE: Final = "iaflow-flower"
"""Where Flower is reached without encryption, browsers keep no `__Host-` cookie."""

LONGEST_PASSWORD: Final = 1_024
THREADS: Final = 2
"""Requests whose session is looked up at once; each has a database connection."""

_POLICY: Final = (
    "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)


def main() -> None:
    """Run Celery's command line with Flower guarded; arguments are those of `celery`."""
    settings = load_settings()
    configure_logs(settings.log_level)
    guard(Door(SessionManager(settings.database_url, settings=settings)))
    from celery.__main__ import main as run_celery

    run_celery()


class Door:
    """Lets people in, and looks at each request whether they still may be; never blocks Flower."""

    def __init__(self, sessions: SessionManager) -> None:
        self.sessions = sessions
        self._proxies = read_networks(sessions.settings.trusted_proxies)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="sign-in")

    async def run(self, function: Any, *args: Any, **more: Any) -> Any:
        """Run what waits for the database in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(function, *args, **more))

    def find(self, request: Any) -> Credentials | None:
        """Return by whom a request comes: by a cookie of the web or of Flower, or by a token."""
        headers = _headers_of(request)
        # What a page fetches by itself does not keep a session from being idle.
        is_use = request.headers.get("X-Requested-With") != "XMLHttpRequest"
        found = self.sessions.authenticate(headers, is_use=is_use)
        if found is None and PLAIN_COOKIE in request.cookies:
            token = request.cookies[PLAIN_COOKIE].value
            session = self.sessions.find(token, is_use=is_use)
            if session is not None:
                found = Credentials(session[1], token, session[0])
        return found

    def caller(self, request: Any, name: str | None = None) -> Caller:
        """Return what is kept of who asks."""
        peer = request.connection.context.address
        scope = {
            "client": peer if isinstance(peer, tuple) else None,
            "scheme": request.protocol,
            "headers": _headers_of(request),
        }
        return Caller(name, read_client(scope, self._proxies).address)


def guard(door: Door) -> None:
    """
    Put the door before every page of Flower in this process.

    Flower by itself believes a cookie that it signed, for thirty days, whatever has become of the
    person, and has no place to say otherwise: so its handlers get another look at who asks.
    """

    async def prepare(handler: Any) -> None:
        await _admit(door, handler)

    async def leave(handler: Any) -> None:
        await _leave(door, handler)

    for kind in (BaseHandler, BaseApiHandler):
        kind.prepare = prepare
    # Nobody, but for whom the door has let in.
    BaseHandler.get_current_user = _find_nobody
    LogoutHandler.get = _ask_to_leave
    LogoutHandler.post = leave
    SignInHandler.door = door


class SignInHandler(BaseHandler):  # type: ignore[misc]  # Flower has no types
    """Flower's `/login`: a name and a password, as for the web."""

    door: Door

    def get(self) -> None:
        """Ask who it is."""
        self._show()

    async def post(self) -> None:
        """Let in whoever may see how the workers do."""
        name = self.get_body_argument("name", "")
        password = self.get_body_argument("password", "", strip=False)
        caller = self.door.caller(self.request)
        # What is longer is nobody's, and not worth a hash of megabytes.
        password = password if len(password) <= LONGEST_PASSWORD else ""
        try:
            signed = await self.door.run(
                self.door.sessions.sign_in,
                name,
                password,
                address=caller.address,
                user_agent=self.request.headers.get("User-Agent", ""),
            )
        except SignInRefused as error:
            self._show(HTTPStatus.UNAUTHORIZED, str(error))
            return
        except TooMany as error:
            self.set_header("Retry-After", str(max(1, round(error.after_seconds))))
            self._show(HTTPStatus.TOO_MANY_REQUESTS, str(error))
            return
        except Exception as error:
            if not _is_away(error):
                raise
            _say(self, HTTPStatus.SERVICE_UNAVAILABLE, "the database does not answer")
            return
        if not signed.principal.may(Permission.METRICS_READ):
            await self.door.run(self.door.sessions.sign_out, signed.session.session_id)
            self._show(HTTPStatus.FORBIDDEN, f"{signed.principal.name} may not see Flower")
            return
        _set_cookie(self, signed.token)
        self.redirect(get_next_url(self))

    def _show(self, status: HTTPStatus = HTTPStatus.OK, fault: str = "") -> None:
        told = f'<p role="alert">{escape(fault)}</p>' if fault else ""
        fields = (
            '<p><label>Name <input class="form-control" name="name" autocomplete="username" '
            'required autofocus></label></p><p><label>Password <input class="form-control" '
            'name="password" type="password" autocomplete="current-password" required></label></p>'
        )
        _show_form(self, "Sign in to Flower", told + fields, "Sign in", status)


async def _admit(door: Door, handler: Any) -> None:
    """Let a request pass, or answer it: whoever is not known to be somebody sees nothing."""
    handler.set_header("Cache-Control", "no-store")
    if isinstance(handler, SignInHandler | Healthcheck):
        return
    try:
        credentials = await door.run(door.find, handler.request)
    except CredentialsRefused as error:
        _say(handler, HTTPStatus.BAD_REQUEST, str(error))
        return
    except Exception as error:
        if not _is_away(error):
            raise
        _say(handler, HTTPStatus.SERVICE_UNAVAILABLE, "the database does not answer")
        return
    if credentials is None:
        _send_to_sign_in(handler)
    elif not credentials.principal.may(Permission.METRICS_READ):
        needed = f"this needs the permission {Permission.METRICS_READ.value}"
        _say(handler, HTTPStatus.FORBIDDEN, needed)
    else:
        handler.current_user = credentials.principal.name


def _send_to_sign_in(handler: Any) -> None:
    is_page = not isinstance(handler, BaseApiHandler | Metrics)
    if is_page and handler.request.method in ("GET", "HEAD"):
        target = urlencode({"next": handler.request.uri})
        handler.redirect(f"{handler.get_login_url()}?{target}")
        return
    handler.set_header("WWW-Authenticate", "Bearer")
    _say(handler, HTTPStatus.UNAUTHORIZED, "sign in, or send a token: Authorization: Bearer ...")


def _find_nobody(handler: Any) -> None:
    return None


def _ask_to_leave(handler: Any) -> None:
    # A link alone, such as on a foreign page, signs nobody out.
    _show_form(handler, "Sign out of Flower", "", "Sign out")


async def _leave(door: Door, handler: Any) -> None:
    credentials = await door.run(door.find, handler.request)
    if credentials is not None and credentials.session is not None:
        caller = door.caller(handler.request, credentials.principal.name)
        ending = door.sessions.sign_out
        await door.run(ending, credentials.session.session_id, caller=caller)
    _clear_cookies(handler)
    handler.redirect(handler.get_login_url())


# --- writing


def _set_cookie(handler: Any, token: str) -> None:
    is_encrypted = handler.request.protocol == "https"
    handler.set_cookie(
        COOKIE if is_encrypted else PLAIN_COOKIE,
        token,
        path="/",
        httponly=True,
        samesite="Lax",
        secure=is_encrypted,
    )


def _clear_cookies(handler: Any) -> None:
    for name in (COOKIE, PLAIN_COOKIE):
        is_hosts = name == COOKIE
        handler.set_cookie(
            name, "", path="/", max_age=0, httponly=True, samesite="Lax", secure=is_hosts
        )


def _show_form(
    handler: Any, title: str, inside: str, button: str, status: HTTPStatus = HTTPStatus.OK
) -> None:
    """Reply a page with one form; all of `inside` that is not ours is escaped already."""
    handler.set_status(status)
    handler.set_header("Content-Security-Policy", _POLICY)
    handler.set_header("Referrer-Policy", "no-referrer")
    style = escape(handler.static_url("css/bootstrap.min.css"))
    handler.finish(
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width">'
        f'<link rel="stylesheet" href="{style}"></head>\n<body class="container py-5">'
        f'<h1 class="h4">{title}</h1><form method="post">{handler.xsrf_form_html()}{inside}'
        f'<button class="btn btn-primary">{button}</button></form></body></html>\n'
    )


def _say(handler: Any, status: HTTPStatus, text: str) -> None:
    handler.set_status(status)
    handler.set_header("Content-Type", "text/plain; charset=UTF-8")
    handler.finish(text)


def _headers_of(request: Any) -> list[tuple[bytes, bytes]]:
    return [
        (name.lower().encode("latin-1", "replace"), value.encode("latin-1", "replace"))
        for name, value in request.headers.get_all()
    ]


def _is_away(error: Exception) -> bool:
    return isinstance(error, NotReachable) or is_database_error(error)
