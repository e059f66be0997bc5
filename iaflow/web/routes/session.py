"""Signing in and out over HTTP, one's own sessions and password.

Decides what a browser is given and told to forget; never whether a password is right. Part of the
app.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request, Response

from iaflow.auth.credentials import Credentials
from iaflow.errors import NotAllowed, NotFound
from iaflow.web.limits import LimitedRoute
from iaflow.web.policies import Caller, anybody, signed_in
from iaflow.web.schemas.accounts import Me, NewPassword, Session, Setup, SignIn, User
from iaflow.web.schemas.base import Named, Page

__all__ = ["router"]

router = APIRouter(prefix="/api/v1", tags=["session"], route_class=LimitedRoute)

Anybody = Annotated[Caller, anybody()]
SignedIn = Annotated[Caller, signed_in()]

FORGET = '"cache", "cookies", "storage"'
"""What a browser forgets of us at sign-out."""


@router.post("/session", status_code=201, responses={401: {}})
def sign_in(caller: Anybody, body: SignIn, request: Request, response: Response) -> Me:
    """
    Sign in: the session comes as a cookie, and its `csrf_token` goes with every change.

    Who is unknown, whose password is wrong and who is disabled get the same reply. After some
    wrong tries the next one has to wait (429, Retry-After).
    """
    credentials = caller.credentials
    signed = caller.sessions.sign_in(
        body.name,
        body.password,
        address=caller.address,
        user_agent=request.headers.get("user-agent", ""),
        request_id=caller.request_id,
        replaces=credentials.token if credentials is not None else None,
    )
    response.headers["Set-Cookie"] = caller.sessions.set_cookie(signed.token)
    return Me.from_principal(signed.principal, csrf_token=signed.csrf_token, session=signed.session)


@router.get("/session")
def show_session(caller: SignedIn) -> Me:
    """Tell who asks, what that may be, and the `csrf_token` of the session."""
    credentials = caller.credentials
    token = credentials.token if credentials is not None else None
    return Me.from_principal(
        caller.me,
        csrf_token=caller.sessions.csrf_token(token) if token is not None else None,
        session=credentials.session if credentials is not None else None,
    )


@router.delete("/session", status_code=204)
def sign_out(caller: SignedIn) -> Response:
    """Sign out: the session is over at once, whoever still has its cookie."""
    credentials = _require_session(caller)
    assert credentials.session is not None
    caller.sessions.sign_out(credentials.session.session_id, caller=caller.signature)
    return Response(
        status_code=204,
        headers={"Set-Cookie": caller.sessions.clear_cookie(), "Clear-Site-Data": FORGET},
    )


@router.get("/sessions")
def list_sessions(caller: SignedIn) -> Page[Session]:
    """List one's own sessions that go on, the newest first."""
    _require_session(caller)
    found = caller.sessions.sessions_of(_user_id(caller))
    current = caller.me.session_id
    return Page(items=[Session.from_record(one, current=current) for one in found])


@router.delete("/sessions/{session_id}", status_code=204)
def end_session(caller: SignedIn, session_id: Named) -> Response:
    """End one of one's own sessions, wherever it is used."""
    _require_session(caller)
    ended = caller.sessions.end_session(_user_id(caller), session_id, caller=caller.signature)
    if not ended:
        raise NotFound(f"there is no session {session_id}")
    return Response(status_code=204)


@router.put("/password")
def change_password(
    caller: SignedIn, body: NewPassword, request: Request, response: Response
) -> Me:
    """Change one's own password; all sessions end, and a new one begins."""
    credentials = _require_session(caller)
    assert credentials.token is not None
    signed = caller.sessions.change_password(
        caller.me,
        credentials.token,
        body.old,
        body.new,
        address=caller.address,
        user_agent=request.headers.get("user-agent", ""),
        request_id=caller.request_id,
    )
    response.headers["Set-Cookie"] = caller.sessions.set_cookie(signed.token)
    return Me.from_principal(signed.principal, csrf_token=signed.csrf_token, session=signed.session)


@router.post("/setup", responses={404: {}})
def use_setup_token(caller: Anybody, body: Setup) -> User:
    """Set a first password, or one in the place of a forgotten one, by a one-time token."""
    user = caller.sessions.accounts.use_setup(body.token, body.password, caller=caller.signature)
    return User.from_record(user)


def _require_session(caller: Caller) -> Credentials:
    credentials = caller.credentials
    if credentials is None or credentials.session is None:
        raise NotAllowed("this is for who has signed in with a password; a token cannot do it")
    return credentials


def _user_id(caller: Caller) -> str:
    if caller.me.user_id is None:
        raise NotAllowed(f"{caller.me.name} has no account: the development mode signs in anybody")
    return caller.me.user_id
