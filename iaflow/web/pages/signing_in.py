"""Signing in, and setting a password by a one-time token, as pages.

Decides where a sign-in leads; never whether it is good (the API does, which the pages ask). Part
of the pages.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from iaflow.web.pages.frame import PageRoute, find_next, render
from iaflow.web.places import find_root
from iaflow.web.policies import Caller, anybody

__all__ = ["router"]

router = APIRouter(route_class=PageRoute, include_in_schema=False)

Anybody = Annotated[Caller, anybody()]


@router.api_route("/sign-in", methods=["GET", "HEAD"])
def show_sign_in(
    caller: Anybody, request: Request, next: Annotated[str | None, Query()] = None
) -> Response:
    """Show the form of a sign-in; who has signed in is sent on."""
    root = find_root(request)
    target = find_next(next)
    if target == "/":
        target = f"{root}/"
    if caller.principal is not None:
        return RedirectResponse(target, status_code=303)
    return render(caller, request, "sign_in.html", target=target)


@router.api_route("/setup", methods=["GET", "HEAD"])
def show_setup(caller: Anybody, request: Request) -> Response:
    """Show the form that sets a password; its token is behind `#`, which no server is told."""
    return render(caller, request, "setup.html")
