"""One's own account: what one may, the password, sign-ins and tokens.

Decides what is shown of it; every change is the API's. Part of the pages.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from starlette.responses import Response

from iaflow.data.accounts import Permission
from iaflow.web.pages.frame import PageRoute, render
from iaflow.web.policies import Caller, signed_in
from iaflow.web.schemas.accounts import Session, Token

__all__ = ["router"]

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.api_route("/account", methods=["GET", "HEAD"])
def show_account(caller: Annotated[Caller, signed_in()], request: Request) -> Response:
    """Show the caller's own account; a program that came by a token sees what it may, no more."""
    me = caller.me
    sessions, tokens = [], []
    has_session = me.user_id is not None and me.session_id is not None
    if has_session and me.user_id is not None:
        found = caller.sessions.sessions_of(me.user_id)
        sessions = [Session.from_record(one, current=me.session_id) for one in found]
        listed = caller.sessions.tokens.list(user_id=me.user_id, limit=200)
        tokens = [Token.from_record(one, me.name) for one in listed]
    return render(
        caller,
        request,
        "account.html",
        section="account",
        has_session=has_session,
        permissions=[str(one) for one in Permission if me.may(one)],
        pipelines=list(me.sight.patterns or ("*",)),
        sessions=sessions,
        tokens=tokens,
    )
