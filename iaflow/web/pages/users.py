"""Accounts, for who manages them.

Decides what is shown of an account; every change is the API's. Part of the pages.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from iaflow.data.accounts import ROLES, Permission
from iaflow.web.cursors import cut_page, read_cursor
from iaflow.web.pages.frame import PageRoute, render
from iaflow.web.policies import Caller, needs
from iaflow.web.schemas.accounts import Session, Token, User
from iaflow.web.schemas.base import Named

__all__ = ["router"]

router = APIRouter(route_class=PageRoute, include_in_schema=False)

Manager = Annotated[Caller, needs(Permission.USERS_MANAGE)]

PAGE = 50

ROLE_WORDS = {
    "viewer": "sees pipelines and runs, with their data",
    "operator": "starts, cancels, retries; schedules; asks others",
    "author": "imports pipelines and starts them",
    "approver": "answers questions",
    "admin": "all of it, and accounts",
}


@router.api_route("/users", methods=["GET", "HEAD"])
def list_users(
    caller: Manager, request: Request, cursor: Annotated[str, Query(max_length=1000)] = ""
) -> Response:
    """List the accounts, by name."""
    after = read_cursor("users", cursor or None)
    found = caller.sessions.accounts.list(after=after, limit=PAGE + 1)
    page, following = cut_page(found, PAGE, "users", lambda one: one.name)
    return render(
        caller,
        request,
        "users.html",
        section="users",
        users=[User.from_record(one) for one in page],
        roles=_describe_roles(),
        next_query=urlencode({"cursor": following}) if following else None,
        is_first=not cursor,
    )


@router.api_route("/users/{name}", methods=["GET", "HEAD"])
def show_user(caller: Manager, request: Request, name: Named) -> Response:
    """Show an account, with its sign-ins and tokens."""
    record = caller.sessions.accounts.get_by_name(name)
    sessions = caller.sessions.sessions_of(record.user_id)
    tokens = caller.sessions.tokens.list(user_id=record.user_id, limit=200)
    return render(
        caller,
        request,
        "user.html",
        section="users",
        user=User.from_record(record),
        own_words=[role for role in record.roles if role not in ROLES],
        is_oneself=record.user_id == caller.me.user_id,
        sessions=[Session.from_record(one, current=None) for one in sessions],
        tokens=[Token.from_record(one, record.name) for one in tokens],
        roles=_describe_roles(),
    )


def _describe_roles() -> list[tuple[str, str]]:
    return [(role, ROLE_WORDS.get(role, "")) for role in ROLES]
