"""Accounts: who may sign in, with which roles, and that somebody can always manage them.

Decides what a name, a role and a pattern may be, and what ends sessions; never who is signed in.
Called by the faces.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import timedelta
from typing import Final, TypeVar

import uuid_utils

from iaflow.auth.audit import Audit, Caller
from iaflow.auth.passwords import Passwords, require_good_password
from iaflow.auth.secrets_kept import draw_token, hash_token
from iaflow.clock import Clock
from iaflow.data.accounts import (
    NAME,
    PATTERN,
    ROLE,
    ROLES,
    Principal,
    UserRecord,
    permissions_of,
)
from iaflow.database.account_store import SessionStore, UserStore
from iaflow.database.connections import Connection
from iaflow.database.dialects import Database
from iaflow.errors import AccountRefused, Conflict, NotFound, Problem

__all__ = ["Accounts", "principal_of"]

T = TypeVar("T")

SETUP_LIFETIME: Final = timedelta(hours=24)
MOST_WORDS: Final = 50


def principal_of(user: UserRecord) -> Principal:
    """Return what a user may be, with all that the roles give."""
    return Principal(
        name=user.name,
        user_id=user.user_id,
        roles=user.roles,
        permissions=permissions_of(user.roles),
        sight=user.sight,
    )


class Accounts:
    """The users of one database."""

    def __init__(
        self, database: Database, clock: Clock, passwords: Passwords, audit: Audit
    ) -> None:
        self._database = database
        self._clock = clock
        self._passwords = passwords
        self._audit = audit
        self._users = UserStore(database)
        self._sessions = SessionStore(database)

    # -- reading

    def list(self, *, after: str | None = None, limit: int = 50) -> Sequence[UserRecord]:
        """Return users by name; `after` is the last name of a page, which makes a next one."""
        return self._users.page(after=after, limit=limit)

    def get(self, user_id: str) -> UserRecord:
        """
        Return a user.

        Raises:
            NotFound: there is none of that id.
        """
        user = self._users.find(user_id)
        if user is None:
            raise _unknown(user_id)
        return user

    def get_by_name(self, name: str) -> UserRecord:
        """
        Return a user by name, whatever the case of its letters.

        Raises:
            NotFound: there is none of that name.
        """
        small = name.strip().lower()
        found = self._users.find_signing(small) if NAME.fullmatch(small) else None
        if found is None:
            raise _unknown(name)
        return found.user

    def has_any(self) -> bool:
        """Tell whether there is any account yet."""
        return bool(self.list(limit=1))

    # -- changing

    def create(
        self,
        name: str,
        *,
        roles: Collection[str] = ("viewer",),
        pipelines: Collection[str] = ("*",),
        password: str | None = None,
        caller: Caller,
    ) -> UserRecord:
        """
        Make a user.

        Args:
            name: unique, whatever the case of its letters, which become small.
            roles: of `ROLES`, or words of one's own for the `assignees` of questions.
            pipelines: which slugs the user sees: `billing-v1`, `invoice-*`, `*`.
            password: None: the user sets it by a setup token; see `make_setup`.

        Raises:
            AccountRefused: a name, role, pattern or password cannot be used.
            Conflict: there is a user of that name.
        """
        small = name.strip().lower()
        problems = [*_check_name(small), *_check_roles(roles), *_check_pipelines(pipelines)]
        if problems:
            raise AccountRefused(tuple(problems))
        if password is not None:
            require_good_password(password, (small,))
        now = self._clock.now()
        user = UserRecord(
            user_id=str(uuid_utils.uuid7()),
            name=small,
            roles=_tidy(roles),
            pipelines=_tidy(pipelines),
            is_disabled=False,
            has_password=password is not None,
            created_at=now,
            updated_at=now,
            password_changed_at=None if password is None else now,
        )
        password_hash = None if password is None else self._passwords.hash(password)

        def create(tx: Connection) -> bool:
            if not self._users.insert(tx, user, password_hash=password_hash):
                return False
            detail = {"roles": user.roles, "pipelines": user.pipelines}
            self._audit.record("user.create", user.name, caller=caller, detail=detail, tx=tx)
            return True

        if not self._database.perform(create):
            raise Conflict(f"there is a user {small!r} already")
        return user

    def set(
        self,
        user_id: str,
        *,
        roles: Collection[str] | None = None,
        pipelines: Collection[str] | None = None,
        is_disabled: bool | None = None,
        caller: Caller,
    ) -> UserRecord:
        """
        Change what a user may; None leaves as it is. Other roles, or none of it all, end sessions.

        Raises:
            NotFound: there is none of that id.
            AccountRefused: a role or pattern cannot be used.
            Conflict: nobody else could manage users.
        """
        problems = [
            *(() if roles is None else _check_roles(roles)),
            *(() if pipelines is None else _check_pipelines(pipelines)),
        ]
        if problems:
            raise AccountRefused(tuple(problems))

        def change(tx: Connection) -> UserRecord:
            # Admins before the user: everybody takes these locks in this order.
            admins = self._users.lock_admins(tx)
            before = self._users.lock(tx, user_id)
            if before is None:
                raise _unknown(user_id)
            after = dataclasses.replace(
                before,
                roles=before.roles if roles is None else _tidy(roles),
                pipelines=before.pipelines if pipelines is None else _tidy(pipelines),
                is_disabled=before.is_disabled if is_disabled is None else is_disabled,
            )
            if after == before:
                return before
            after = dataclasses.replace(after, updated_at=self._clock.now())
            if after.is_disabled or "admin" not in after.roles:
                _keep_an_admin(admins, before)
            self._users.set_rights(tx, after)
            if after.is_disabled or set(after.roles) != set(before.roles):
                self._sessions.delete_all(tx, user_id)
            detail = {
                name: getattr(after, name)
                for name in ("roles", "pipelines", "is_disabled")
                if getattr(after, name) != getattr(before, name)
            }
            self._audit.record("user.set", after.name, caller=caller, detail=detail, tx=tx)
            return after

        return self._database.perform(change)

    def set_password(self, user_id: str, password: str, *, caller: Caller) -> None:
        """
        Give a user another password, and end all sessions.

        Raises:
            NotFound: there is none of that id.
            AccountRefused: the password is too easily guessed.
            TooMany: too many are being hashed.
        """
        user = self.get(user_id)
        require_good_password(password, (user.name,))
        password_hash = self._passwords.hash(password)

        def change(tx: Connection) -> None:
            if not self._users.set_password(tx, user_id, password_hash, now=self._clock.now()):
                raise _unknown(user_id)
            self._sessions.delete_all(tx, user_id)
            self._audit.record("user.set_password", user.name, caller=caller, tx=tx)

        self._database.perform(change)

    def delete(self, user_id: str, *, caller: Caller) -> None:
        """
        Remove a user with sessions and tokens. What the user did stays signed with the name.

        Raises:
            NotFound: there is none of that id.
            Conflict: nobody else could manage users.
        """

        def delete(tx: Connection) -> None:
            admins = self._users.lock_admins(tx)
            user = self._users.lock(tx, user_id)
            if user is None:
                raise _unknown(user_id)
            _keep_an_admin(admins, user)
            self._users.delete(tx, user_id)
            self._audit.record("user.delete", user.name, caller=caller, tx=tx)

        self._database.perform(delete)

    # -- the first password, and one that was forgotten

    def make_setup(self, user_id: str, *, caller: Caller) -> str:
        """
        Return a one-time token with which a user sets a password within a day.

        A token from before ends. The password that is there, if any, stays until it is used.

        Raises:
            NotFound: there is none of that id.
        """
        user = self.get(user_id)
        token, now = draw_token(), self._clock.now()

        def keep(tx: Connection) -> None:
            if not self._users.set_setup(
                tx, user_id, hash_token(token), expires_at=now + SETUP_LIFETIME, now=now
            ):
                raise _unknown(user_id)
            self._audit.record("user.make_setup", user.name, caller=caller, tx=tx)

        self._database.perform(keep)
        return token

    def find_by_setup(self, token: str) -> UserRecord | None:
        """Return whose setup token this is, while it can be used; None: it cannot."""
        return self._users.find_by_setup(hash_token(token), now=self._clock.now())

    def use_setup(self, token: str, password: str, *, caller: Caller) -> UserRecord:
        """
        Set the password that a setup token allows, once, and end all sessions.

        Raises:
            NotFound: the token is unknown, used or over, or its user is disabled.
            AccountRefused: the password is too easily guessed; the token can still be used.
            TooMany: too many are being hashed.
        """
        # Nobody without a token makes us hash.
        user = self.find_by_setup(token)
        if user is None:
            raise NotFound(_NO_SETUP)
        require_good_password(password, (user.name,))
        password_hash = self._passwords.hash(password)

        def use(tx: Connection) -> None:
            now = self._clock.now()
            user_id = self._users.use_setup(tx, hash_token(token), password_hash, now=now)
            if user_id is None:
                raise NotFound(_NO_SETUP)
            self._sessions.delete_all(tx, user_id)
            whose = Caller(user.name, caller.address, caller.request_id)
            self._audit.record("user.use_setup", user.name, caller=whose, tx=tx)

        self._database.perform(use)
        return self.get(user.user_id)


_NO_SETUP: Final = "this token is unknown, was used before, or its day is over: ask for another"


def _keep_an_admin(admins: Collection[str], leaving: UserRecord) -> None:
    if set(admins) == {leaving.user_id}:
        raise Conflict(
            f"{leaving.name} is the last admin: give somebody else the role before it ends"
        )


def _unknown(whom: str) -> NotFound:
    return NotFound(f"there is no user {whom}")


def _tidy(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(words)))


def _check_name(name: str) -> list[Problem]:
    if NAME.fullmatch(name):
        return []
    hint = "letters, digits and . _ @ + - such as in a mail address, at most 128"
    return [Problem("name_invalid", "/name", "this is no name of a user", hint)]


def _check_roles(roles: Collection[str]) -> list[Problem]:
    hint = f"one of {', '.join(ROLES)}, or a word of your own: small letters, digits, _ and -"
    return _check_words("roles", "role", roles, lambda w: ROLE.fullmatch(w) is not None, hint)


def _check_pipelines(patterns: Collection[str]) -> list[Problem]:
    hint = "a slug, the beginning of some and *, or * for all"
    return _check_words(
        "pipelines", "pattern", patterns, lambda w: PATTERN.fullmatch(w) is not None, hint
    )


def _check_words(
    key: str, what: str, words: Collection[str], fits: Callable[[str], bool], hint: str
) -> list[Problem]:
    if len(words) > MOST_WORDS:
        return [Problem("too_many", f"/{key}", f"there are more than {MOST_WORDS}")]
    return [
        Problem(f"{what}_invalid", f"/{key}/{at}", f"this is no {what}", hint)
        for at, word in enumerate(words)
        if not fits(word)
    ]
