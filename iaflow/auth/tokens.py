"""API tokens: how a program signs in, in the name of a user and with no more than its scopes.

Decides what a token is and when it counts; never what a request may do with it. Called by the
middleware (through sessions) and the faces.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Final

import uuid_utils

from iaflow.auth.audit import Audit, Caller
from iaflow.auth.secrets_kept import draw_token, hash_token
from iaflow.clock import Clock
from iaflow.data.accounts import Permission, Principal, TokenRecord, permissions_of
from iaflow.database.account_store import TokenStore
from iaflow.database.connections import Connection
from iaflow.database.dialects import Database
from iaflow.errors import AccountRefused, Conflict, NotAllowed, NotFound, Problem

__all__ = ["MOST_DAYS", "ApiTokens"]

MOST_DAYS: Final = 365
MOST_PER_USER: Final = 100
TOUCHED_EVERY: Final = timedelta(minutes=1)

_TOKEN: Final = re.compile(r"iaf_([0-9a-f]{32})_([A-Za-z0-9_-]{43})")


class ApiTokens:
    """The API tokens of one database."""

    def __init__(self, database: Database, clock: Clock, audit: Audit) -> None:
        self._database = database
        self._clock = clock
        self._audit = audit
        self._store = TokenStore(database)

    def create(
        self,
        principal: Principal,
        name: str,
        scopes: Collection[str],
        days: int,
        *,
        caller: Caller,
    ) -> tuple[TokenRecord, str]:
        """
        Make a token for a user.

        Args:
            name: what it is for, for people who look at the list.
            scopes: permissions; beyond those that the user has, they have no effect.
            days: until it ends, 1 to 365.

        Returns:
            The token as it is kept, and its text, which is shown this once.

        Raises:
            NotAllowed: who asks came by a token, or has no account.
            AccountRefused: a name, scope or number of days cannot be used.
            Conflict: the user has too many.
        """
        if principal.token_id is not None:
            raise NotAllowed("a token makes no other token: sign in for that")
        user_id = principal.user_id
        if user_id is None:
            raise NotAllowed("a token belongs to an account, and there is none for who asks")
        problems = _check(name, scopes, days)
        if problems:
            raise AccountRefused(problems)
        now = self._clock.now()
        token = TokenRecord(
            token_id=uuid_utils.uuid7().hex,
            user_id=user_id,
            name=name.strip(),
            scopes=tuple(sorted(set(scopes))),
            created_at=now,
            expires_at=now + timedelta(days=days),
        )
        secret = draw_token()

        def keep(tx: Connection) -> None:
            if self._store.count(tx, user_id) >= MOST_PER_USER:
                raise Conflict(f"{principal.name} has {MOST_PER_USER} tokens: revoke some first")
            self._store.insert(tx, token, secret_hash=hash_token(secret))
            detail = {"name": token.name, "scopes": token.scopes, "user": principal.name}
            self._audit.record("token.create", token.token_id, caller=caller, detail=detail, tx=tx)

        self._database.perform(keep)
        return token, f"iaf_{token.token_id}_{secret}"

    def find(self, text: str) -> Principal | None:
        """Return whom a token stands for; None: it is unknown or over, or the user is disabled."""
        parts = _TOKEN.fullmatch(text)
        if parts is None:
            return None
        now = self._clock.now()
        found = self._store.find(parts[1], now=now)
        if found is None:
            return None
        token, user, secret_hash = found
        if not hmac.compare_digest(hash_token(parts[2]), secret_hash):
            return None
        before = now - TOUCHED_EVERY
        if token.last_used_at is None or token.last_used_at < before:
            self._store.touch(token.token_id, now=now, before=before)
        return Principal(
            name=user.name,
            user_id=user.user_id,
            roles=user.roles,
            permissions=frozenset(
                one for one in permissions_of(user.roles) if one.value in token.scopes
            ),
            sight=user.sight,
            token_id=token.token_id,
        )

    def list(
        self, *, user_id: str | None = None, before: str | None = None, limit: int = 50
    ) -> Sequence[TokenRecord]:
        """
        Return tokens, the newest first, those that are over too.

        Args:
            user_id: of this user alone.
            before: the last id of a page, which makes a next one.
        """
        return self._store.page(user_id=user_id, before=before, limit=limit)

    def revoke(self, token_id: str, *, user_id: str | None = None, caller: Caller) -> None:
        """
        End a token at once.

        Args:
            user_id: only if it is this user's.

        Raises:
            NotFound: there is no such token, or it is another user's.
        """

        def revoke(tx: Connection) -> None:
            name = self._store.delete(tx, token_id, user_id=user_id) if _is_id(token_id) else None
            if name is None:
                raise NotFound(f"there is no token {token_id}")
            self._audit.record(
                "token.revoke", token_id, caller=caller, detail={"name": name}, tx=tx
            )

        self._database.perform(revoke)


def _is_id(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{32}", text) is not None


def _check(name: str, scopes: Collection[str], days: int) -> tuple[Problem, ...]:
    problems = []
    if not 1 <= len(name.strip()) <= 100 or not name.isprintable():
        problems.append(Problem("name_invalid", "/name", "write 1 to 100 characters on one line"))
    if not scopes:
        problems.append(Problem("scopes_missing", "/scopes", "name at least one permission"))
    known = ", ".join(Permission)
    for at, scope in enumerate(scopes):
        if scope not in set(Permission):
            message = "this is no permission"
            problems.append(Problem("scope_invalid", f"/scopes/{at}", message, f"one of {known}"))
    if not 1 <= days <= MOST_DAYS:
        problems.append(Problem("days_invalid", "/days", f"write 1 to {MOST_DAYS}"))
    return tuple(problems)
