"""How users are kept, and that the last who may manage them stays.

Decides which guarded statement each change is; never which names, roles or passwords are good
ones. Called by `auth.accounts` and, at a sign-in, by `auth.sessions`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from iaflow.data.accounts import UserRecord
from iaflow.database.account_store.reading import USER_COLUMNS, is_id, read_user
from iaflow.database.connections import Connection
from iaflow.database.dialects import Database
from iaflow.database.statements import POSTGRES, Statement, dump_json

__all__ = ["SigningUser", "UserStore"]


@dataclass(frozen=True, slots=True)
class SigningUser:
    """A user with what a password is compared with; None: there is none yet."""

    user: UserRecord
    password_hash: str | None = field(repr=False)


class UserStore:
    """The users of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = _Statements(database)

    def insert(self, tx: Connection, user: UserRecord, *, password_hash: str | None) -> bool:
        """Keep a new user. False: there is one of that name."""
        return bool(
            tx.fetch(
                self._sql.insert,
                user_id=user.user_id,
                name=user.name,
                password_hash=password_hash,
                password_changed_at=user.password_changed_at,
                roles=dump_json(list(user.roles)),
                pipelines=dump_json(list(user.pipelines)),
                is_disabled=user.is_disabled,
                setup_hash=None,
                setup_expires_at=None,
                created_at=user.created_at,
                updated_at=user.updated_at,
            )
        )

    def find(self, user_id: str) -> UserRecord | None:
        """Return a user, or None if there is none of that id."""
        if not is_id(user_id):
            return None
        rows = self._database.fetch(self._sql.find, user_id=user_id)
        return read_user(rows[0]) if rows else None

    def find_signing(self, name: str) -> SigningUser | None:
        """Return a user by name, disabled or not, with what a password is compared with."""
        rows = self._database.fetch(self._sql.find_signing, name=name)
        return SigningUser(read_user(rows[0]), rows[0][9]) if rows else None

    def page(self, *, after: str | None, limit: int) -> list[UserRecord]:
        """Return users by name; `after` is the last name of the page before."""
        rows = self._database.fetch(self._sql.page, after=after or "", limit=limit)
        return [read_user(row) for row in rows]

    def lock(self, tx: Connection, user_id: str) -> UserRecord | None:
        """Return a user that nobody else changes before this transaction's end."""
        if not is_id(user_id):
            return None
        rows = tx.fetch(self._sql.lock, user_id=user_id)
        return read_user(rows[0]) if rows else None

    def lock_admins(self, tx: Connection) -> set[str]:
        """
        Return the ids of the admins who are not disabled, none of whom changes meanwhile.

        Two admins who take each other's role at once therefore come one after the other, and the
        second finds that it would be the last that goes.
        """
        return {str(row[0]) for row in tx.fetch(self._sql.lock_admins)}

    def lock_signing(self, tx: Connection, user_id: str, password_hash: str | None) -> bool:
        """
        Hold a user who signs in. False: disabled or gone, or the password was changed meanwhile.
        """
        return bool(
            tx.fetch(self._sql.lock_signing, user_id=user_id, seen_hash=password_hash or "")
        )

    def set_rights(self, tx: Connection, user: UserRecord) -> None:
        """Give a locked user the roles, the pipelines and the state of the record."""
        tx.queue(
            self._sql.set_rights,
            user_id=user.user_id,
            roles=dump_json(list(user.roles)),
            pipelines=dump_json(list(user.pipelines)),
            is_disabled=user.is_disabled,
            updated_at=user.updated_at,
        )

    def set_password(
        self, tx: Connection, user_id: str, password_hash: str, *, now: datetime
    ) -> bool:
        """Give a user another password; a setup token that is open ends. False: no such user."""
        return bool(
            tx.fetch(self._sql.set_password, user_id=user_id, password_hash=password_hash, now=now)
        )

    def set_rehashed(self, tx: Connection, user_id: str, *, seen: str, password_hash: str) -> bool:
        """Keep the same password under other costs, if it is still the same."""
        return bool(
            tx.fetch(
                self._sql.set_rehashed, user_id=user_id, seen_hash=seen, password_hash=password_hash
            )
        )

    def set_setup(
        self, tx: Connection, user_id: str, setup_hash: str, *, expires_at: datetime, now: datetime
    ) -> bool:
        """Let a user set a password once, by another token than any before. False: no such user."""
        return bool(
            tx.fetch(
                self._sql.set_setup,
                user_id=user_id,
                setup_hash=setup_hash,
                setup_expires_at=expires_at,
                now=now,
            )
        )

    def find_by_setup(self, setup_hash: str, *, now: datetime) -> UserRecord | None:
        """Return whose setup token this is, while it can be used."""
        rows = self._database.fetch(self._sql.find_by_setup, setup_hash=setup_hash, now=now)
        return read_user(rows[0]) if rows else None

    def use_setup(
        self, tx: Connection, setup_hash: str, password_hash: str, *, now: datetime
    ) -> str | None:
        """Set the password that a setup token allows, once; return the user's id, or None."""
        rows = tx.fetch(
            self._sql.use_setup, seen_setup=setup_hash, password_hash=password_hash, now=now
        )
        return str(rows[0][0]) if rows else None

    def delete(self, tx: Connection, user_id: str) -> bool:
        """Remove a locked user with sessions and tokens. False: there is none."""
        return bool(tx.fetch(self._sql.delete, user_id=user_id))


class _Statements:
    def __init__(self, database: Database) -> None:
        users = database.tables.users
        insert = postgresql.insert if database.dialect == POSTGRES else sqlite.insert
        bind = sa.bindparam
        this = users.c.user_id == bind("user_id")
        columns: list[Any] = [
            *(users.c[name] for name in USER_COLUMNS),
            users.c.password_hash.is_not(None),
        ]
        is_awake = sa.not_(users.c.is_disabled)
        self.insert = Statement(
            "iaflow_insert_user",
            insert(users)
            .values({column.name: bind(column.name) for column in users.c})
            .on_conflict_do_nothing()
            .returning(users.c.user_id),
        )
        self.find = Statement("iaflow_user", sa.select(*columns).where(this))
        self.lock = Statement("iaflow_lock_user", sa.select(*columns).where(this).with_for_update())
        self.find_signing = Statement(
            "iaflow_signing_user",
            sa.select(*columns, users.c.password_hash).where(users.c.name == bind("name")),
        )
        self.page = Statement(
            "iaflow_users",
            sa.select(*columns)
            .where(users.c.name > bind("after"))
            .order_by(users.c.name)
            .limit(bind("limit")),
        )
        # Roles are words without quotes, so their text is found in the array's as it stands.
        self.lock_admins = Statement(
            "iaflow_lock_admins",
            sa.select(users.c.user_id)
            .where(is_awake, sa.cast(users.c.roles, sa.Text()).like('%"admin"%'))
            .order_by(users.c.user_id)
            .with_for_update(),
        )
        self.lock_signing = Statement(
            "iaflow_lock_signing",
            sa.select(users.c.user_id)
            .where(this, is_awake, sa.func.coalesce(users.c.password_hash, "") == bind("seen_hash"))
            .with_for_update(),
        )
        self.set_rights = Statement(
            "iaflow_set_rights",
            sa.update(users)
            .where(this)
            .values({name: bind(name) for name in ("roles", "pipelines", "is_disabled")})
            .values(updated_at=bind("updated_at")),
        )
        changed = {
            "password_hash": bind("password_hash"),
            "password_changed_at": bind("now", type_=users.c.updated_at.type),
            "updated_at": bind("now", type_=users.c.updated_at.type),
            "setup_hash": None,
            "setup_expires_at": None,
        }
        self.set_password = Statement(
            "iaflow_set_password",
            sa.update(users).where(this).values(changed).returning(users.c.user_id),
        )
        self.set_rehashed = Statement(
            "iaflow_set_rehashed",
            sa.update(users)
            .where(this, users.c.password_hash == bind("seen_hash"))
            .values(password_hash=bind("password_hash"))
            .returning(users.c.user_id),
        )
        self.set_setup = Statement(
            "iaflow_set_setup",
            sa.update(users)
            .where(this)
            .values(
                setup_hash=bind("setup_hash"),
                setup_expires_at=bind("setup_expires_at"),
                updated_at=bind("now", type_=users.c.updated_at.type),
            )
            .returning(users.c.user_id),
        )
        can_be_used = (
            users.c.setup_hash == bind("seen_setup"),
            users.c.setup_expires_at > bind("now", type_=users.c.updated_at.type),
            is_awake,
        )
        self.find_by_setup = Statement(
            "iaflow_user_by_setup",
            sa.select(*columns).where(users.c.setup_hash == bind("setup_hash"), *can_be_used[1:]),
        )
        self.use_setup = Statement(
            "iaflow_use_setup",
            sa.update(users).where(*can_be_used).values(changed).returning(users.c.user_id),
        )
        self.delete = Statement(
            "iaflow_delete_user", sa.delete(users).where(this).returning(users.c.user_id)
        )
