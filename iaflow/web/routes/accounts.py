"""Users, API tokens and the audit over HTTP.

Decides that users are named and that whoever manages them signs in for it; never what a name or
role may be. Part of the app.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from iaflow.auth.accounts import SETUP_LIFETIME
from iaflow.data.accounts import Permission
from iaflow.errors import NotAllowed, NotFound
from iaflow.web.cursors import cut_page, read_cursor
from iaflow.web.limits import LimitedRoute
from iaflow.web.policies import Caller, needs, signed_in
from iaflow.web.schemas.accounts import (
    AuditEvent,
    MadeToken,
    NewToken,
    NewUser,
    SetupToken,
    Token,
    User,
    UserChange,
)
from iaflow.web.schemas.base import Cursor, Limit, Named, Page

__all__ = ["router"]

router = APIRouter(prefix="/api/v1", tags=["accounts"], route_class=LimitedRoute)

Manager = Annotated[Caller, needs(Permission.USERS_MANAGE)]
SignedIn = Annotated[Caller, signed_in()]
Auditor = Annotated[Caller, needs(Permission.AUDIT_READ)]

Word = Annotated[
    str | None,
    Query(min_length=1, max_length=400, pattern=r"^[^\x00-\x1f\x7f]+$", description="Only these."),
]


# --- users


@router.get("/users")
def list_users(caller: Manager, limit: Limit = 50, cursor: Cursor = None) -> Page[User]:
    """List the accounts, by name."""
    after = read_cursor("users", cursor)
    found = caller.sessions.accounts.list(after=after, limit=limit + 1)
    page, following = cut_page(found, limit, "users", lambda one: one.name)
    return Page(items=[User.from_record(one) for one in page], next=following)


@router.post("/users", status_code=201)
def create_user(caller: Manager, body: NewUser) -> User:
    """Make an account. Its person sets the password: see `setup` of the user."""
    user = caller.sessions.accounts.create(
        body.name, roles=body.roles, pipelines=body.pipelines, caller=caller.signature
    )
    return User.from_record(user)


@router.get("/users/{name}")
def show_user(caller: Manager, name: Named) -> User:
    """Show an account."""
    return User.from_record(caller.sessions.accounts.get_by_name(name))


@router.patch("/users/{name}")
def change_user(caller: Manager, name: Named, body: UserChange) -> User:
    """
    Change what a user may, or disable the account. Other roles, or none of it all, end sessions.

    The last administrator stays one: a change that would leave none is a conflict.
    """
    accounts = caller.sessions.accounts
    user = accounts.set(
        accounts.get_by_name(name).user_id,
        roles=body.roles,
        pipelines=body.pipelines,
        is_disabled=body.is_disabled,
        caller=caller.signature,
    )
    return User.from_record(user)


@router.delete("/users/{name}", status_code=204)
def delete_user(caller: Manager, name: Named) -> Response:
    """Remove an account with its sessions and tokens; what it did stays signed with its name."""
    accounts = caller.sessions.accounts
    accounts.delete(accounts.get_by_name(name).user_id, caller=caller.signature)
    return Response(status_code=204)


@router.post("/users/{name}/setup", status_code=201)
def make_setup_token(caller: Manager, name: Named) -> SetupToken:
    """Make the token with which a user sets a password, once; one from before ends."""
    accounts = caller.sessions.accounts
    user = accounts.get_by_name(name)
    token = accounts.make_setup(user.user_id, caller=caller.signature)
    seconds = int(SETUP_LIFETIME.total_seconds())
    return SetupToken(name=user.name, setup_token=token, expires_in=seconds)


@router.delete("/users/{name}/sessions", status_code=204)
def end_sessions(caller: Manager, name: Named) -> Response:
    """End all sessions of a user."""
    user = caller.sessions.accounts.get_by_name(name)
    for session in caller.sessions.sessions_of(user.user_id):
        caller.sessions.end_session(user.user_id, session.session_id, caller=caller.signature)
    return Response(status_code=204)


# --- tokens


@router.get("/tokens", responses={404: {}})
def list_tokens(
    caller: SignedIn,
    limit: Limit = 50,
    cursor: Cursor = None,
    user: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=128,
            pattern=r"^[!-~]+$",
            description="Whose; administrators alone may ask for those of others.",
        ),
    ] = None,
) -> Page[Token]:
    """List API tokens, one's own by default, the newest first; those that are over too."""
    before = read_cursor("tokens", cursor)
    name, user_id = _whose(caller, user)
    found = caller.sessions.tokens.list(user_id=user_id, before=before, limit=limit + 1)
    page, following = cut_page(found, limit, "tokens", lambda one: one.token_id)
    return Page(items=[Token.from_record(one, name) for one in page], next=following)


@router.post("/tokens", status_code=201)
def create_token(caller: SignedIn, body: NewToken) -> MadeToken:
    """Make an API token in one's own name. Its text is shown this once."""
    record, text = caller.sessions.tokens.create(
        caller.me,
        body.name,
        [scope.value for scope in body.scopes],
        body.days,
        caller=caller.signature,
    )
    return MadeToken.from_made(record, caller.me.name, text)


@router.delete("/tokens/{token_id}", status_code=204)
def revoke_token(caller: SignedIn, token_id: Named) -> Response:
    """
    End an API token at once: one's own; administrators may end anybody's.

    A program may end the token that it came by, and no other.
    """
    may_end_any = caller.may(Permission.USERS_MANAGE)
    if not may_end_any and caller.me.token_id not in (None, token_id):
        raise NotFound(f"there is no token {token_id}")
    caller.sessions.tokens.revoke(
        token_id, user_id=None if may_end_any else _own_id(caller), caller=caller.signature
    )
    return Response(status_code=204)


# --- the audit


@router.get("/audit")
def list_audit(
    caller: Auditor,
    limit: Limit = 50,
    cursor: Cursor = None,
    actor: Word = None,
    action: Word = None,
    target: Word = None,
) -> Page[AuditEvent]:
    """List what was done, by whom and to what, the newest first; refusals too."""
    before = read_cursor("audit", cursor)
    found = caller.sessions.audit.list(
        actor=actor, action=action, target=target, before=before, limit=limit + 1
    )
    page, following = cut_page(found, limit, "audit", lambda one: one.event_id)
    return Page(items=[AuditEvent.from_record(one) for one in page], next=following)


def _whose(caller: Caller, name: str | None) -> tuple[str, str]:
    """Return the name and the id of whose tokens are asked for."""
    if caller.me.token_id is not None and not caller.may(Permission.USERS_MANAGE):
        raise NotAllowed("a token does not tell of other tokens: sign in for that")
    if name is None or name.lower() == caller.me.name:
        return caller.me.name, _own_id(caller)
    if not caller.may(Permission.USERS_MANAGE):
        raise NotAllowed("tokens of others are for administrators: leave `user` away")
    user = caller.sessions.accounts.get_by_name(name)
    return user.name, user.user_id


def _own_id(caller: Caller) -> str:
    if caller.me.user_id is None:
        raise NotAllowed(f"{caller.me.name} has no account, and so no tokens")
    return caller.me.user_id
