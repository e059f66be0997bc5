"""Sign-ins, users, tokens and the audit, as the API takes and tells them.

Decides which fields there are; never shows a hash, and a secret only in the reply that makes it.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Self

from pydantic import Field, StrictBool

from iaflow.data.accounts import (
    AuditRecord,
    Permission,
    Principal,
    SessionRecord,
    TokenRecord,
    UserRecord,
)
from iaflow.web.schemas.base import Body, Instant, Object, Reply, Whole

__all__ = [
    "AuditEvent",
    "NAME_PATTERN",
    "MadeToken",
    "Me",
    "NewPassword",
    "NewToken",
    "NewUser",
    "Session",
    "Setup",
    "SetupToken",
    "SignIn",
    "Token",
    "User",
    "UserChange",
]

NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}$"

Name = Annotated[
    str,
    Field(
        pattern=NAME_PATTERN,
        description="Unique, whatever the case of its letters; a mail address is one.",
        examples=["ann@example.org"],
    ),
]
Password = Annotated[str, Field(min_length=1, max_length=1024, examples=["lamp violin harbour 7"])]
Roles = Annotated[
    list[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]],
    Field(
        max_length=50,
        description="viewer, operator, author, approver, admin; or words of your own, for the "
        "`assignees` of questions.",
        examples=[["operator", "finance"]],
    ),
]
Patterns = Annotated[
    list[Annotated[str, Field(pattern=r"^(\*|[a-z0-9][a-z0-9_-]{0,199}\*?)$")]],
    Field(
        max_length=50,
        description="Which pipelines are seen: slugs, beginnings of slugs and `*`, or `*`.",
        examples=[["invoice-*"]],
    ),
]
Words = Annotated[list[str], Field(examples=[["runs:read"]])]


class SignIn(Body):
    """A name and a password."""

    name: str = Field(min_length=1, max_length=128, examples=["ann"])
    password: Password


class NewPassword(Body):
    """Another password for oneself."""

    old: Password
    new: Password


class Setup(Body):
    """The first password, or one in the place of a forgotten one."""

    token: str = Field(
        min_length=1, max_length=200, description="That an administrator was given for the user."
    )
    password: Password


class Me(Reply):
    """Who asks, and what that may be."""

    name: str
    roles: Words
    permissions: Words = Field(description="Of the roles; of a token, those in its scopes.")
    pipelines: Words = Field(description="Patterns of the slugs that are seen.")
    csrf_token: str | None = Field(
        description="What pages send back as `X-CSRF-Token` with every change. Null: the request "
        "did not come by a cookie, and needs none."
    )
    session_id: str | None
    expires_at: Instant | None = Field(description="When the session ends in any case.")

    @classmethod
    def from_principal(
        cls, me: Principal, *, csrf_token: str | None, session: SessionRecord | None
    ) -> Self:
        """Return what is told of who asks."""
        return cls(
            name=me.name,
            roles=list(me.roles),
            permissions=sorted(me.permissions),
            pipelines=list(me.sight.patterns or ("*",)),
            csrf_token=csrf_token,
            session_id=session.session_id if session is not None else None,
            expires_at=session.expires_at if session is not None else None,
        )


class Session(Reply):
    """A sign-in of one's own that goes on."""

    session_id: str
    created_at: Instant
    seen_at: Instant
    expires_at: Instant
    address: str
    user_agent: str
    is_current: bool = Field(description="It is the one that this request came by.")

    @classmethod
    def from_record(cls, record: SessionRecord, *, current: str | None) -> Self:
        """Return what is told of a session."""
        return cls(
            session_id=record.session_id,
            created_at=record.created_at,
            seen_at=record.seen_at,
            expires_at=record.expires_at,
            address=record.address,
            user_agent=record.user_agent,
            is_current=record.session_id == current,
        )


class NewUser(Body):
    """A new account, whose password its person sets by a token."""

    name: Name
    roles: Roles = ["viewer"]  # noqa: RUF012  pydantic copies it
    pipelines: Patterns = ["*"]  # noqa: RUF012  pydantic copies it


class UserChange(Body):
    """What of an account becomes another; what is absent or null stays."""

    roles: Roles | None = None
    pipelines: Patterns | None = None
    is_disabled: StrictBool | None = None


class User(Reply):
    """An account."""

    name: str
    roles: Words
    pipelines: Words
    is_disabled: bool
    has_password: bool
    created_at: Instant
    updated_at: Instant
    password_changed_at: Instant | None

    @classmethod
    def from_record(cls, record: UserRecord) -> Self:
        """Return what is told of an account."""
        return cls(
            name=record.name,
            roles=list(record.roles),
            pipelines=list(record.pipelines),
            is_disabled=record.is_disabled,
            has_password=record.has_password,
            created_at=record.created_at,
            updated_at=record.updated_at,
            password_changed_at=record.password_changed_at,
        )


class SetupToken(Reply):
    """With which a user sets a password, once, within a day: shown this once."""

    name: str
    setup_token: str
    expires_in: int = Field(description="Seconds.")


class NewToken(Body):
    """A key for a program, in one's own name."""

    name: str = Field(
        min_length=1,
        max_length=100,
        pattern=r"^[!-~][ -~]{0,99}$",
        description="What it is for.",
        examples=["billing service"],
    )
    scopes: list[Permission] = Field(
        min_length=1,
        max_length=50,
        description="What it may; beyond what its user may they have no effect.",
        examples=[["runs:start", "runs:read"]],
    )
    days: Whole = Field(default=90, ge=1, le=365, description="Until it ends.")


class Token(Reply):
    """A program's key; its secret is not told again."""

    token_id: str
    user: str | None = Field(description="Whose it is; null: the account is gone.")
    name: str
    scopes: Words
    created_at: Instant
    expires_at: Instant
    last_used_at: Instant | None = Field(description="To the minute.")

    @classmethod
    def from_record(cls, record: TokenRecord, user: str | None) -> Self:
        """Return what is told of a token."""
        return cls(**_of_token(record, user))


class MadeToken(Token):
    """A key that was made now, with its text: that is shown this once."""

    token: str = Field(examples=["iaf_…"])

    @classmethod
    def from_made(cls, record: TokenRecord, user: str, text: str) -> Self:
        """Return what is told of a new token."""
        return cls(**_of_token(record, user), token=text)


class AuditEvent(Reply):
    """Something that somebody did, or was refused."""

    event_id: str
    at: Instant
    actor: str | None = Field(description="Null: nobody had signed in.")
    action: str = Field(examples=["sign_in.refused"])
    target: str
    address: str
    request_id: str
    detail: Object

    @classmethod
    def from_record(cls, record: AuditRecord) -> Self:
        """Return what is told of an event."""
        return cls(
            event_id=record.event_id,
            at=record.at,
            actor=record.actor,
            action=record.action,
            target=record.target,
            address=record.address,
            request_id=record.request_id,
            detail=dict(record.detail),
        )


def _of_token(record: TokenRecord, user: str | None) -> dict[str, Any]:
    return {
        "token_id": record.token_id,
        "user": user,
        "name": record.name,
        "scopes": list(record.scopes),
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "last_used_at": record.last_used_at,
    }
