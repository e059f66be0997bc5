"""How sessions are kept: found by the hash of their token, never by anything that is shown.

Decides which guarded statement each change is; never how long a session lives. Called by
`auth.sessions` and `auth.accounts`.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from iaflow.data.accounts import SessionRecord, UserRecord
from iaflow.database.account_store.reading import USER_COLUMNS, instant_of, is_id, read_user
from iaflow.database.connections import Connection, Row
from iaflow.database.dialects import Database
from iaflow.database.statements import Statement

__all__ = ["SessionStore"]


class SessionStore:
    """The sessions of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = _Statements(database)

    def insert(
        self, tx: Connection, session: SessionRecord, *, token_hash: str, at_most: int
    ) -> None:
        """Keep a new session of a locked user, whose oldest ones go beyond `at_most`."""
        tx.queue(
            self._sql.insert,
            token_hash=token_hash,
            session_id=session.session_id,
            user_id=session.user_id,
            created_at=session.created_at,
            seen_at=session.seen_at,
            expires_at=session.expires_at,
            address=session.address,
            user_agent=session.user_agent,
        )
        tx.queue(self._sql.delete_oldest, user_id=session.user_id, at_most=at_most)

    def find(
        self, token_hash: str, *, now: datetime, idle_since: datetime
    ) -> tuple[SessionRecord, UserRecord] | None:
        """
        Return a session that goes on and its user, in one statement.

        None: there is none; it was idle since before `idle_since`; it is over; or its user is
        disabled.
        """
        rows = self._database.fetch(
            self._sql.find, token_hash=token_hash, now=now, idle_since=idle_since
        )
        return (_session(rows[0]), read_user(rows[0][7:])) if rows else None

    def touch(self, token_hash: str, *, now: datetime, before: datetime) -> bool:
        """seen_at -> now, unless that was written after `before`: once, however many ask."""
        # Harmless to lose: the session ends a minute earlier.
        return bool(
            self._database.fetch(
                self._sql.touch, durable=False, token_hash=token_hash, now=now, before=before
            )
        )

    def of_user(self, user_id: str, *, now: datetime, idle_since: datetime) -> list[SessionRecord]:
        """Return the sessions of a user that go on, the newest first."""
        if not is_id(user_id):
            return []
        rows = self._database.fetch(
            self._sql.of_user, user_id=user_id, now=now, idle_since=idle_since
        )
        return [_session(row) for row in rows]

    def delete(self, tx: Connection, session_id: str, *, user_id: str | None = None) -> str | None:
        """End a session, of that user alone if one is given; return whose it was, or None."""
        if not is_id(session_id) or (user_id is not None and not is_id(user_id)):
            return None
        if user_id is None:
            rows = tx.fetch(self._sql.delete, session_id=session_id)
        else:
            rows = tx.fetch(self._sql.delete_of_user, session_id=session_id, user_id=user_id)
        return str(rows[0][0]) if rows else None

    def delete_by_token(self, tx: Connection, token_hash: str) -> None:
        """End the session of a token, if there is one."""
        tx.queue(self._sql.delete_by_token, token_hash=token_hash)

    def delete_all(self, tx: Connection, user_id: str) -> int:
        """End all sessions of a user; return how many there were."""
        return len(tx.fetch(self._sql.delete_all, user_id=user_id))

    def prune(self, *, now: datetime) -> None:
        """Remove what is over."""
        self._database.fetch(self._sql.prune, durable=False, now=now)


def _session(row: Row) -> SessionRecord:
    return SessionRecord(
        session_id=str(row[0]),
        user_id=str(row[1]),
        created_at=instant_of(row[2]),
        seen_at=instant_of(row[3]),
        expires_at=instant_of(row[4]),
        address=row[5],
        user_agent=row[6],
    )


class _Statements:
    def __init__(self, database: Database) -> None:
        sessions, users = database.tables.sessions, database.tables.users
        bind = sa.bindparam
        columns = [
            sessions.c[name]
            for name in (
                *("session_id", "user_id", "created_at", "seen_at", "expires_at"),
                *("address", "user_agent"),
            )
        ]
        by_token = sessions.c.token_hash == bind("token_hash")
        of_user = sessions.c.user_id == bind("user_id")
        goes_on = (sessions.c.expires_at > bind("now"), sessions.c.seen_at > bind("idle_since"))
        self.insert = Statement(
            "iaflow_insert_session",
            sa.insert(sessions).values({column.name: bind(column.name) for column in sessions.c}),
        )
        newest = (
            sa.select(sessions.c.token_hash)
            .where(of_user)
            .order_by(sessions.c.created_at.desc(), sessions.c.session_id.desc())
            .limit(bind("at_most"))
        )
        self.delete_oldest = Statement(
            "iaflow_delete_oldest_sessions",
            sa.delete(sessions).where(of_user, sessions.c.token_hash.not_in(newest)),
        )
        self.find = Statement(
            "iaflow_session",
            sa.select(
                *columns,
                *(users.c[name] for name in USER_COLUMNS),
                users.c.password_hash.is_not(None),
            )
            .select_from(sessions.join(users, users.c.user_id == sessions.c.user_id))
            .where(by_token, *goes_on, sa.not_(users.c.is_disabled)),
        )
        self.touch = Statement(
            "iaflow_touch_session",
            sa.update(sessions)
            .where(by_token, sessions.c.seen_at < bind("before"))
            .values(seen_at=bind("now"))
            .returning(sessions.c.session_id),
        )
        self.of_user = Statement(
            "iaflow_sessions_of_user",
            sa.select(*columns)
            .where(of_user, *goes_on)
            .order_by(sessions.c.created_at.desc(), sessions.c.session_id.desc()),
        )
        this = sessions.c.session_id == bind("session_id")
        whose = sessions.c.user_id
        self.delete = Statement(
            "iaflow_delete_session", sa.delete(sessions).where(this).returning(whose)
        )
        self.delete_of_user = Statement(
            "iaflow_delete_session_of_user",
            sa.delete(sessions).where(this, of_user).returning(whose),
        )
        self.delete_by_token = Statement(
            "iaflow_delete_session_by_token", sa.delete(sessions).where(by_token)
        )
        self.delete_all = Statement(
            "iaflow_delete_sessions", sa.delete(sessions).where(of_user).returning(whose)
        )
        self.prune = Statement(
            "iaflow_prune_sessions", sa.delete(sessions).where(sessions.c.expires_at <= bind("now"))
        )
