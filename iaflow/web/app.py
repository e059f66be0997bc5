"""The app: routes, who may ask them, and how errors become replies, put together.

Decides which routers and layers there are and in which order; never what a route does. Called by
`iaflow web`, or by a host that mounts it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Final

import anyio.to_thread
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match, Route

from iaflow.auth import AuthMiddleware, SessionManager
from iaflow.client import Client
from iaflow.data.accounts import Principal
from iaflow.errors import IaflowError, Problem
from iaflow.pipeline.strict_json import join_pointer
from iaflow.settings import Settings, load_settings
from iaflow.web import pages, routes
from iaflow.web.guard import Guard
from iaflow.web.openapi import describe_app
from iaflow.web.pages.frame import render_message
from iaflow.web.places import find_root
from iaflow.web.policies import Parts, PermissionMissing, policy_of
from iaflow.web.problems import ProblemReply, Refused, describe_error
from iaflow.web.tracking import Tracker

__all__ = ["PUBLIC", "create_app", "open_app"]

PUBLIC: Final = (
    *("/healthz", "/readyz", "POST /api/v1/session", "/api/v1/setup", "/l/*"),
    *pages.PLACES,
)
"""Where nobody needs to have signed in to be heard; their routes say what that is good for."""

THREADS: Final = 16
"""Requests at work at once in one process; each has a database connection of its own."""


def create_app(
    client: Client,
    sessions: SessionManager,
    settings: Settings,
    *,
    development_user: Principal | None = None,
    tracker: Tracker | None = None,
) -> FastAPI:
    """
    Return the web as an ASGI app: to be served, or mounted in an app of yours.

    Mounted, it keeps its own sign-in: layers of the host are around it, not inside.

    Args:
        client: what its routes ask; who opened it closes it, as with `sessions`.
        development_user: signs in whoever asks; only for a server on a loopback address.
        tracker: what wakes event streams; None: one of its own.

    Raises:
        AssertionError: a route names no policy.
    """
    app = FastAPI(
        title="iaflow",
        version=version("iaflow-pipelines"),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        lifespan=_live,
        redirect_slashes=False,
    )
    tracker = Tracker(client) if tracker is None else tracker
    app.state.parts = Parts(client, sessions, settings, tracker, development_user is not None)
    _add_routes(app, (*routes.ROUTERS, *pages.ROUTERS))
    app.openapi = lambda: describe_app(app)  # type: ignore[method-assign]
    for kind in (IaflowError, Refused):
        app.add_exception_handler(kind, _reply)
    app.add_exception_handler(PermissionMissing, _reply_to_missing)
    app.add_exception_handler(RequestValidationError, _reply_to_invalid)
    app.add_exception_handler(HTTPException, _reply_to_http)
    # The last one added is the outermost.
    app.add_middleware(
        AuthMiddleware, sessions=sessions, public=PUBLIC, development_user=development_user
    )
    app.add_middleware(Guard, trusted_proxies=settings.trusted_proxies)
    return app


def open_app(
    settings: Settings | None = None, *, development_user: Principal | None = None
) -> FastAPI:
    """
    Return the web on the database and broker that the settings name; its server closes them.

    Args:
        development_user: signs in whoever asks; only for a server on a loopback address.

    Raises:
        NotReachable, SchemaOutdated, SettingsRefused: it cannot work; without a secret key of
            at least 32 bytes in `IAFLOW_SECRET_KEY`, above all.
    """
    settings = settings or load_settings()
    client = Client(settings=settings)
    try:
        sessions = SessionManager(
            settings.database_url,
            settings=settings,
            is_development=development_user is not None,
        )
    except BaseException:
        client.close()
        raise
    app = create_app(client, sessions, settings, development_user=development_user)
    app.state.owned = (sessions, client)
    return app


@asynccontextmanager
async def _live(app: FastAPI) -> AsyncIterator[None]:
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    yield
    await run_in_threadpool(app.state.parts.tracker.close)
    for part in getattr(app.state, "owned", ()):
        await run_in_threadpool(part.close)


def _add_routes(app: FastAPI, routers: Iterable[APIRouter]) -> None:
    for router in routers:
        for route in router.routes:
            assert policy_of(route) is not None, f"{route!r} names no policy"
            app.router.routes.append(route)


# --- replies


def _request_id(request: Request) -> str:
    return str(request.scope.get("iaflow.request_id", ""))


async def _reply(request: Request, error: Exception) -> Response:
    return describe_error(error).as_response(_request_id(request))


def _reply_to_missing(request: Request, error: Exception) -> Response:
    # Not a coroutine: it writes, so it belongs in a thread.
    assert isinstance(error, PermissionMissing)
    route = request.scope.get("route")
    place = str(getattr(route, "path", ""))
    error.caller.record("permission.refused", place, {"permission": error.permission.value})
    return describe_error(error).as_response(_request_id(request))


async def _reply_to_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = tuple(_problem_of(one) for one in error.errors())
    in_body = all(problem.pointer.startswith("/body") for problem in problems)
    code = "body_refused" if in_body else "parameters_refused"
    first = problems[0]
    reply = ProblemReply(code, f"{first.pointer}: {first.message}", problems)
    return reply.as_response(_request_id(request))


async def _reply_to_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    match error.status_code:
        case 405:
            allowed = headers["Allow"] = ", ".join(_methods_at(request))
            reply = ProblemReply(
                "method_not_allowed", f"here there is only {allowed}", headers=headers
            )
        case 404 if request.method in ("GET", "HEAD") and not _is_for_programs(request):
            user = request.scope.get("user")
            me = user if isinstance(user, Principal) else None
            return render_message(
                request, "There is nothing here", "No page has this address.", status=404, me=me
            )
        case 404:
            reply = ProblemReply("not_found", "there is no such place in this API")
        case _:
            reply = ProblemReply("body_refused", "the body cannot be read")
    return reply.as_response(_request_id(request))


def _is_for_programs(request: Request) -> bool:
    """Tell whether a place where nothing is would be the API's: all others would be pages."""
    path = request.scope["path"].removeprefix(find_root(request))
    # A link that is none is told of as ever, however it is spoilt.
    return bool(path.startswith(("/api/", "/l/")))


def _methods_at(request: Request) -> list[str]:
    """Return the methods of a place; the framework names those of its first route alone."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    found = (one for one in routes if one.matches(request.scope)[0] is not Match.NONE)
    first = next(found, None)
    # What a later template would match as well, such as a name, is another place.
    here = (one for one in routes if first is not None and one.path == first.path)
    return sorted(method for one in here for method in one.methods or ())


def _problem_of(one: dict[str, object]) -> Problem:
    place = one.get("loc")
    parts = place if isinstance(place, tuple | list) else ()
    return Problem(
        code=str(one.get("type", "invalid")),
        pointer=join_pointer("", *(part for part in parts if isinstance(part, str | int))),
        message=str(one.get("msg", "it is refused")),
    )
