"""What all pages have in common: how they are rendered, and what is shown in the place of one.

Decides that who has not signed in is sent to do so, and that refusals are pages too; never what a
page shows. The class of every page's route, and the one way to render a template.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from importlib.metadata import version
from typing import Any, Final
from urllib.parse import quote, urlsplit

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, RedirectResponse, Response

from iaflow.data.accounts import Permission, Principal
from iaflow.telemetry import get_logger
from iaflow.web.places import find_root
from iaflow.web.policies import Caller, PermissionMissing
from iaflow.web.problems import CODES, describe_error, reply_of
from iaflow.web.ui.environment import build_environment

__all__ = ["MOST_COUNTED", "PageRoute", "find_next", "render", "render_message", "send_to_sign_in"]

_log = get_logger(__name__)

MOST_COUNTED: Final = 100
"""How far the questions beside `Inbox` are counted."""

_SECTIONS: Final = (
    ("inbox", "Inbox", Permission.PAUSES_ANSWER),
    ("runs", "Runs", Permission.RUNS_READ),
    ("pipelines", "Pipelines", Permission.PIPELINES_READ),
    ("schedules", "Schedules", Permission.SCHEDULES_READ),
    ("workers", "Workers", Permission.METRICS_READ),
    ("users", "Users", Permission.USERS_MANAGE),
)


class PageRoute(APIRoute):
    """The route of a page: whatever goes wrong is shown as a page, and said with its status."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_as_page(request: Request) -> Response:
            try:
                return await handle(request)
            except Exception as error:  # noqa: BLE001  it is shown, and logged if it is ours
                return await run_in_threadpool(_show_error, request, error)

        return handle_as_page


def render(
    caller: Caller,
    request: Request,
    template: str,
    *,
    section: str = "",
    status: int = 200,
    **context: Any,
) -> HTMLResponse:
    """
    Return a page.

    Args:
        section: which entry of the navigation it belongs to.
        context: what the template names, besides `me`, `may(permission)`, `root` (before every
            path: `{{ root }}/runs`), `csrf_token`, `sections`, `inbox_count`, `version`.
    """
    count = None
    if caller.principal is not None and caller.may(Permission.PAUSES_ANSWER):
        count = len(caller.client.inbox(asked=caller.asked, limit=MOST_COUNTED))
    text = _render(
        request,
        template,
        me=caller.principal,
        csrf_token=_csrf_token(caller),
        is_development=caller.parts.is_development and caller.credentials is not None,
        inbox_count=count,
        section=section,
        **context,
    )
    return HTMLResponse(text, status_code=status)


def render_message(
    request: Request, title: str, text: str, *, status: int, me: Principal | None = None
) -> HTMLResponse:
    """Return a page that tells why there is no other."""
    page = _render(
        request,
        "message.html",
        me=me,
        csrf_token=None,
        is_development=False,
        inbox_count=None,
        section="",
        title=title,
        text=text,
        status=status,
    )
    return HTMLResponse(page, status_code=status)


def find_next(given: str | None) -> str:
    """Return where a sign-in leads: a path of this host and nothing else; `/` for anything odd."""
    if not given or not given.startswith("/") or len(given) > 2000:
        return "/"
    if given.startswith(("//", "/\\")) or any(ord(char) < 33 or char == "\\" for char in given):
        return "/"
    try:
        parts = urlsplit(given)
    except ValueError:
        return "/"
    return "/" if parts.scheme or parts.netloc else given


def send_to_sign_in(request: Request) -> Response:
    """Return the way to the sign-in, and from there back to what was asked for."""
    path = request.url.path
    root = find_root(request)
    wanted = path if not request.url.query else f"{path}?{request.url.query}"
    if path in (root, f"{root}/"):
        return RedirectResponse(f"{root}/sign-in", status_code=303)
    return RedirectResponse(f"{root}/sign-in?next={quote(wanted, safe='/')}", status_code=303)


def _render(request: Request, template: str, *, me: Principal | None, **context: Any) -> str:
    def may(permission: str) -> bool:
        return me is not None and me.may(Permission(permission))

    sections = [(key, name) for key, name, needed in _SECTIONS if may(needed)]
    return (
        build_environment()
        .get_template(template)
        .render(
            me=me,
            may=may,
            root=find_root(request),
            path=request.url.path,
            sections=sections,
            version=version("iaflow-pipelines"),
            request_id=str(request.scope.get("iaflow.request_id", "")),
            **context,
        )
    )


def _csrf_token(caller: Caller) -> str | None:
    token = caller.credentials.token if caller.credentials is not None else None
    return None if token is None else caller.sessions.csrf_token(token)


def _show_error(request: Request, error: Exception) -> Response:
    user = request.scope.get("user")
    me = user if isinstance(user, Principal) else None
    if isinstance(error, PermissionMissing):
        place = str(getattr(request.scope.get("route"), "path", ""))
        error.caller.record("permission.refused", place, {"permission": error.permission.value})
        text = (
            f"This page needs the permission {error.permission}, which {error.caller.me.name} does "
            "not have. An administrator can give you a role that has it."
        )
        return render_message(request, "This is not yours to see", text, status=403, me=me)
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        place = ".".join(str(part) for part in first.get("loc", ())[1:])
        text = f"{place}: {first.get('msg', 'it is refused')}"
        return render_message(request, "This address does not fit", text, status=422, me=me)
    known = reply_of(error)
    if known is None:
        request_id = str(request.scope.get("iaflow.request_id", ""))
        _log.error("web.error", request_id=request_id, method="GET", exc_info=error)
        known = describe_error(error)
    if known.code == "not_signed_in":
        return send_to_sign_in(request)
    title, text = CODES[known.code][1], known.detail
    if known.code == "not_found":
        title, text = (
            "There is nothing here",
            "It may have been removed, or was never yours to see.",
        )
    page = render_message(request, title, text, status=known.status, me=me)
    page.headers.update(dict(known.headers))
    return page
