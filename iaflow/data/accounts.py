"""Who may do what: the words of permissions and roles, and the rows of accounts.

Decides which permissions there are and what each role has; never who somebody is (auth does).
Built by the account store and auth, read by the stores (what may be seen) and the faces.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

__all__ = [
    "EVERYTHING",
    "NAME",
    "PATTERN",
    "ROLE",
    "ROLES",
    "Asked",
    "AuditRecord",
    "LinkRecord",
    "Permission",
    "Principal",
    "SessionRecord",
    "Sight",
    "TokenRecord",
    "UserRecord",
    "permissions_of",
]

NAME: Final = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,127}")
"""A user's name, as it is kept: in small letters; a mail address is one."""

PATTERN: Final = re.compile(r"\*|[a-z0-9][a-z0-9_-]{0,199}\*?")
"""A pattern of slugs: one slug, the beginning of some and `*`, or `*` for all."""

ROLE: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}")
"""A role: one of `ROLES`, or a word of one's own for the `assignees` of questions."""


class Permission(StrEnum):
    """What a request may need. A route names one; a token's scopes are some of them."""

    PIPELINES_READ = "pipelines:read"
    """Pipelines, their versions and definitions."""
    PIPELINES_WRITE = "pipelines:write"
    """Import and validate definitions."""
    PIPELINES_PAUSE = "pipelines:pause"
    """Let a pipeline rest, so that nothing starts it, and go on."""
    RUNS_READ = "runs:read"
    """Runs, their steps, events, decisions and reasons, but for the data in them."""
    PAYLOADS_READ = "payloads:read"
    """What runs carry: parameters, inputs, outputs, error texts, operands of conditions."""
    RUNS_START = "runs:start"
    RUNS_CONTROL = "runs:control"
    """Cancel, retry and rerun."""
    SIGNALS_SEND = "signals:send"
    PAUSES_ANSWER = "pauses:answer"
    """See and answer the questions that are asked of oneself."""
    PAUSES_ASSIGN = "pauses:assign"
    """Ask others; list one-time links and take them back."""
    LINKS_MAKE = "links:make"
    """Make one-time links: whoever makes one can answer in the name of its person."""
    SCHEDULES_READ = "schedules:read"
    SCHEDULES_WRITE = "schedules:write"
    METRICS_READ = "metrics:read"
    USERS_MANAGE = "users:manage"
    AUDIT_READ = "audit:read"


_VIEWER: Final = frozenset(
    {
        Permission.PIPELINES_READ,
        Permission.RUNS_READ,
        Permission.PAYLOADS_READ,
        Permission.SCHEDULES_READ,
    }
)

ROLES: Final[Mapping[str, frozenset[Permission]]] = {
    "viewer": _VIEWER,
    "operator": _VIEWER
    | {
        Permission.PIPELINES_PAUSE,
        Permission.RUNS_START,
        Permission.RUNS_CONTROL,
        Permission.SIGNALS_SEND,
        Permission.PAUSES_ASSIGN,
        Permission.SCHEDULES_WRITE,
        Permission.METRICS_READ,
    },
    "author": _VIEWER | {Permission.PIPELINES_WRITE, Permission.RUNS_START},
    "approver": frozenset({Permission.PAUSES_ANSWER}),
    "admin": frozenset(Permission),
}
"""What each role may; a user has what any of the user's roles has."""


def permissions_of(roles: Collection[str]) -> frozenset[Permission]:
    """Return what these roles may together; roles of one's own may nothing by themselves."""
    return frozenset().union(*(ROLES.get(role, frozenset()) for role in roles))


@dataclass(frozen=True, slots=True)
class Sight:
    """
    Which pipelines somebody sees, with their runs, schedules and questions.

    Attributes:
        patterns: slugs, or beginnings of slugs and `*`; None: all.
    """

    patterns: tuple[str, ...] | None = None

    def sees(self, slug: str) -> bool:
        """Tell whether a pipeline is seen; the statements ask the same (`is_seen`)."""
        return self.patterns is None or any(
            slug.startswith(pattern[:-1]) if pattern.endswith("*") else slug == pattern
            for pattern in self.patterns
        )

    def as_likes(self) -> str | None:
        r"""Return the patterns for SQL: a JSON array for ``LIKE … ESCAPE '\'``; None: all."""
        if self.patterns is None:
            return None
        escaped = (pattern.replace("_", r"\_").replace("*", "%") for pattern in self.patterns)
        return json.dumps(list(escaped))


EVERYTHING: Final = Sight()


@dataclass(frozen=True, slots=True)
class Asked:
    """
    Who asks for questions: what decides which of them are seen and answered.

    A question is seen by whom it names, by user or by role, wherever they look; one that names
    nobody by all whose sight has its pipeline; and every one of that sight by administrators.
    """

    name: str
    roles: tuple[str, ...] = ()
    is_admin: bool = False
    sight: Sight = EVERYTHING

    def is_asked(self, slug: str, assignees: Mapping[str, Any]) -> bool:
        """Tell whether a question is seen; the statements ask the same (`is_asked`)."""
        users, roles = (assignees.get(key) or () for key in ("users", "roles"))
        if self.name in users or set(self.roles) & set(roles):
            return True
        return (self.is_admin or not (users or roles)) and self.sight.sees(slug)


@dataclass(frozen=True, slots=True)
class Principal:
    """
    Who a request comes from, and what that may be: what the credentials were found to stand for.

    Attributes:
        name: of the user; it signs starts and answers.
        user_id: None for the sign-in of a development mode, which has no account.
        roles: of the user, for `assignees`.
        permissions: of the roles; of a token, those of them that are in its scopes.
        sight: which pipelines.
        session_id, token_id: what it came by; both None for the development mode.
    """

    name: str
    user_id: str | None
    roles: tuple[str, ...]
    permissions: frozenset[Permission]
    sight: Sight = EVERYTHING
    session_id: str | None = None
    token_id: str | None = None

    # What frameworks of the ASGI family ask of a `scope["user"]`.
    @property
    def is_authenticated(self) -> bool:
        return True

    @property
    def display_name(self) -> str:
        return self.name

    @property
    def identity(self) -> str:
        return self.name

    @property
    def is_admin(self) -> bool:
        """May answer in anybody's place, and see every question of a pipeline in sight."""
        return "admin" in self.roles and Permission.PAUSES_ANSWER in self.permissions

    @property
    def asked(self) -> Asked:
        """What the client is given to find the questions that this principal may answer."""
        return Asked(self.name, self.roles, self.is_admin, self.sight)

    def may(self, permission: Permission) -> bool:
        """Tell whether a request of this kind is allowed, whatever it is about."""
        return permission in self.permissions


# --- rows, as read


@dataclass(frozen=True, slots=True)
class UserRecord:
    """
    An account. Its name is unique, whatever the case of its letters.

    Attributes:
        has_password: False until the person has set one.
        pipelines: patterns of the slugs that the user sees; ``("*",)`` is all.
    """

    user_id: str
    name: str
    roles: tuple[str, ...]
    pipelines: tuple[str, ...]
    is_disabled: bool
    has_password: bool
    created_at: datetime
    updated_at: datetime
    password_changed_at: datetime | None = None

    @property
    def sight(self) -> Sight:
        return EVERYTHING if "*" in self.pipelines else Sight(self.pipelines)


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A sign-in of a user that goes on; its secret is kept as a hash alone."""

    session_id: str
    user_id: str
    created_at: datetime
    seen_at: datetime
    expires_at: datetime
    address: str = ""
    user_agent: str = ""


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A program's key to the API, in the name of a user; its secret is kept as a hash alone."""

    token_id: str
    user_id: str
    name: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class LinkRecord:
    """
    The right of one person to answer one question once, without signing in.

    Attributes:
        person: in whose name the answer is given.
        action: fields and the values that the answer must give them; empty: any answer.
        used_at: when it was; None: it can still be.
    """

    link_id: str
    pause_id: str
    person: str
    action: Mapping[str, Any]
    created_by: str
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """
    Something that somebody did, or was refused.

    Attributes:
        actor: the user's name; None: nobody had signed in.
        action: such as `sign_in.refused`, `run.cancel`.
        target: what it was done to: an id, a slug or a name.
        detail: never a secret, never a run's data.
    """

    event_id: str
    at: datetime
    actor: str | None
    action: str
    target: str = ""
    address: str = ""
    request_id: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)
