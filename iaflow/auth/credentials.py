"""Credentials: what of a request's headers says who sends it.

Decides that one kind counts and that two are refused; never whether they are good ones: pure.
Called by sessions and the middleware.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from iaflow.auth.surroundings import read_headers
from iaflow.data.accounts import Principal, SessionRecord
from iaflow.errors import CredentialsRefused

__all__ = ["COOKIE", "DEVELOPMENT_COOKIE", "Credentials", "Given", "read_credentials"]

COOKIE: Final = "__Host-iaflow"
"""Browsers keep it only with Secure, Path=/ and no Domain: no other host can set it."""
DEVELOPMENT_COOKIE: Final = "iaflow-dev"


@dataclass(frozen=True, slots=True)
class Credentials:
    """
    Who sends a request, and by what; as `scope["auth"]`.

    Attributes:
        token: the session's, if it came by the cookie; never to be shown.
        session: the session; None for an API token and for the development mode.
    """

    principal: Principal
    token: str | None = field(default=None, repr=False)
    session: SessionRecord | None = None

    @property
    def scopes(self) -> list[str]:
        """What the principal may: frameworks of the ASGI family ask for it by this name."""
        return sorted(self.principal.permissions)


@dataclass(frozen=True, slots=True)
class Given:
    """The one credential of a request, if it has any."""

    cookie: str | None = field(default=None, repr=False)
    bearer: str | None = field(default=None, repr=False)


def read_credentials(headers: Iterable[tuple[bytes, bytes]], cookie_name: str) -> Given:
    """
    Return a session's token or an API token, whichever a request has.

    Raises:
        CredentialsRefused: it has both, or one of them twice.
    """
    known = read_headers(headers)
    bearers = [
        value.partition(" ")[2].strip()
        for value in known.get("authorization", [])
        if value.partition(" ")[0].lower() == "bearer"
    ]
    cookies = [
        value.strip().strip('"')
        for line in known.get("cookie", [])
        for name, equals, value in (part.partition("=") for part in line.split(";"))
        if equals and name.strip() == cookie_name
    ]
    # An emptied cookie is none.
    cookies = [value for value in cookies if value]
    if cookies and bearers:
        raise CredentialsRefused(
            "the request has a session cookie and an Authorization header: send one of them"
        )
    if len(cookies) > 1 or len(bearers) > 1:
        raise CredentialsRefused("the request has the same kind of credentials twice")
    return Given(cookies[0] if cookies else None, bearers[0] if bearers else None)
