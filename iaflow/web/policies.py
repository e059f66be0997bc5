"""Who may ask a route: each names one policy, and without one the app does not start.

Decides whether a request may go on, by the permission that its route names; never which rows it
may see (the statements do). Every route's parameter `caller` is one of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Depends, Request
from starlette.routing import BaseRoute

from iaflow.auth import SessionManager
from iaflow.auth.audit import Caller as Signature
from iaflow.auth.credentials import Credentials
from iaflow.client import Client
from iaflow.data.accounts import Asked, Permission, Principal, Sight
from iaflow.errors import NotAllowed
from iaflow.settings import Settings
from iaflow.web.problems import Refused
from iaflow.web.tracking import Tracker

__all__ = ["Caller", "Parts", "Policy", "anybody", "needs", "policy_of", "signed_in"]


@dataclass(frozen=True, slots=True)
class Parts:
    """What an app stands on; its routes find it in `app.state.parts`."""

    client: Client
    sessions: SessionManager
    settings: Settings
    tracker: Tracker
    is_development: bool = False


@dataclass(frozen=True, slots=True)
class Caller:
    """
    Who asks, and of what: all that a route needs besides its own parameters.

    Attributes:
        principal: None on a public route, if nobody has signed in.
        signature: what of the caller is kept with what is done.
        credentials: by what the request came; None as for `principal`.
    """

    parts: Parts
    principal: Principal | None
    signature: Signature
    credentials: Credentials | None = None

    @property
    def address(self) -> str:
        """Of the machine that asks."""
        return self.signature.address

    @property
    def request_id(self) -> str:
        return self.signature.request_id

    @property
    def client(self) -> Client:
        return self.parts.client

    @property
    def sessions(self) -> SessionManager:
        return self.parts.sessions

    @property
    def me(self) -> Principal:
        """Who has signed in; there is somebody wherever the policy is not `anybody`."""
        assert self.principal is not None
        return self.principal

    @property
    def sight(self) -> Sight:
        return self.me.sight

    @property
    def asked(self) -> Asked:
        """What decides which questions the caller sees."""
        return self.me.asked

    def may(self, permission: Permission) -> bool:
        return self.me.may(permission)

    def record(
        self, action: str, target: str = "", detail: Mapping[str, Any] | None = None
    ) -> None:
        """Keep what was done in the audit; after it was done, and never with data in it."""
        self.sessions.audit.record(action, target, caller=self.signature, detail=detail)


@dataclass(frozen=True, slots=True)
class Policy:
    """
    Who may ask a route.

    Attributes:
        permission: what is needed; None: to have signed in.
        is_public: not even that.
    """

    permission: Permission | None = None
    is_public: bool = False

    async def __call__(self, request: Request) -> Caller:
        caller = _caller_of(request)
        if self.is_public:
            return caller
        if caller.principal is None:
            raise Refused("not_signed_in", "sign in, or send a token: Authorization: Bearer …")
        if self.permission is not None and not caller.principal.may(self.permission):
            raise PermissionMissing(caller, self.permission)
        return caller


class PermissionMissing(NotAllowed):
    """The principal has not the permission that the route names; it is kept in the audit."""

    def __init__(self, caller: Caller, permission: Permission) -> None:
        self.caller = caller
        self.permission = permission
        super().__init__(f"this needs the permission {permission}, which {caller.me.name} lacks")


def needs(permission: Permission) -> Any:
    """Return the policy of a route that needs a permission, as a parameter's default."""
    return Depends(Policy(permission))


def signed_in() -> Any:
    """Return the policy of a route that everybody may ask who has signed in."""
    return Depends(Policy())


def anybody() -> Any:
    """Return the policy of a route that needs no sign-in; few are."""
    return Depends(Policy(is_public=True))


def policy_of(route: BaseRoute) -> Policy | None:
    """Return a route's policy; None: it has none, and must not be served."""
    dependant = getattr(route, "dependant", None)
    for one in getattr(dependant, "dependencies", ()):
        if isinstance(one.call, Policy):
            return one.call
    return None


def _caller_of(request: Request) -> Caller:
    """Return who asks, as the layer of the sign-in has found it."""
    scope = request.scope
    user, credentials = scope.get("user"), scope.get("auth")
    return Caller(
        parts=request.app.state.parts,
        principal=user if isinstance(user, Principal) else None,
        signature=scope["iaflow.caller"],
        credentials=credentials if isinstance(credentials, Credentials) else None,
    )
