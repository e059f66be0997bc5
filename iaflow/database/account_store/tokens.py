"""How API tokens are kept: found by their id, proven by the hash of their secret.

Decides which guarded statement each change is; never what a token may. Called by `auth.tokens`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from iaflow.data.accounts import TokenRecord, UserRecord
from iaflow.database.account_store.reading import (
    USER_COLUMNS,
    instant_of,
    is_id,
    read_user,
    read_words,
)
from iaflow.database.connections import Connection, Row
from iaflow.database.dialects import Database
from iaflow.database.statements import Statement, dump_json, read_instant

__all__ = ["TokenStore"]


class TokenStore:
    """The API tokens of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = _Statements(database)

    def insert(self, tx: Connection, token: TokenRecord, *, secret_hash: str) -> None:
        """Keep a new token."""
        tx.queue(
            self._sql.insert,
            token_id=token.token_id,
            user_id=token.user_id,
            name=token.name,
            secret_hash=secret_hash,
            scopes=dump_json(list(token.scopes)),
            created_at=token.created_at,
            expires_at=token.expires_at,
            last_used_at=None,
        )

    def find(self, token_id: str, *, now: datetime) -> tuple[TokenRecord, UserRecord, str] | None:
        """
        Return a token, its user and the hash of its secret, in one statement.

        None: there is none, it is over, or its user is disabled.
        """
        rows = self._database.fetch(self._sql.find, token_id=token_id, now=now)
        if not rows:
            return None
        row = rows[0]
        return _token(row), read_user(row[8:]), row[7]

    def touch(self, token_id: str, *, now: datetime, before: datetime) -> bool:
        """last_used_at -> now, unless that was written after `before`: once, however many ask."""
        return bool(
            self._database.fetch(
                self._sql.touch, durable=False, token_id=token_id, now=now, before=before
            )
        )

    def page(self, *, user_id: str | None, before: str | None, limit: int) -> list[TokenRecord]:
        """Return tokens, the newest first; `before` is the last id of the page before."""
        if user_id is not None and not is_id(user_id):
            return []
        given: dict[str, Any] = {"limit": limit, "before": before or "~"}
        if user_id is None:
            rows = self._database.fetch(self._sql.page, **given)
        else:
            rows = self._database.fetch(self._sql.page_of_user, user_id=user_id, **given)
        return [_token(row) for row in rows]

    def count(self, tx: Connection, user_id: str) -> int:
        """Return how many tokens a user has."""
        return int(tx.fetch(self._sql.count, user_id=user_id)[0][0])

    def delete(self, tx: Connection, token_id: str, *, user_id: str | None) -> str | None:
        """End a token, of that user alone if one is given; return its name, or None."""
        if user_id is None:
            rows = tx.fetch(self._sql.delete, token_id=token_id)
        elif is_id(user_id):
            rows = tx.fetch(self._sql.delete_of_user, token_id=token_id, user_id=user_id)
        else:
            rows = []
        return str(rows[0][0]) if rows else None


def _token(row: Row) -> TokenRecord:
    return TokenRecord(
        token_id=row[0],
        user_id=str(row[1]),
        name=row[2],
        scopes=read_words(row[3]),
        created_at=instant_of(row[4]),
        expires_at=instant_of(row[5]),
        last_used_at=read_instant(row[6]),
    )


class _Statements:
    def __init__(self, database: Database) -> None:
        tokens, users = database.tables.api_tokens, database.tables.users
        bind = sa.bindparam
        columns = [
            tokens.c[name]
            for name in (
                *("token_id", "user_id", "name", "scopes", "created_at", "expires_at"),
                "last_used_at",
            )
        ]
        this = tokens.c.token_id == bind("token_id")
        of_user = tokens.c.user_id == bind("user_id")
        self.insert = Statement(
            "iaflow_insert_token",
            sa.insert(tokens).values({column.name: bind(column.name) for column in tokens.c}),
        )
        self.find = Statement(
            "iaflow_token",
            sa.select(
                *columns,
                tokens.c.secret_hash,
                *(users.c[name] for name in USER_COLUMNS),
                users.c.password_hash.is_not(None),
            )
            .select_from(tokens.join(users, users.c.user_id == tokens.c.user_id))
            .where(this, tokens.c.expires_at > bind("now"), sa.not_(users.c.is_disabled)),
        )
        self.touch = Statement(
            "iaflow_touch_token",
            sa.update(tokens)
            .where(
                this,
                sa.or_(tokens.c.last_used_at.is_(None), tokens.c.last_used_at < bind("before")),
            )
            .values(last_used_at=bind("now"))
            .returning(tokens.c.token_id),
        )
        # Ids begin with the instant, so their order is that of time.
        page = (
            sa.select(*columns)
            .where(tokens.c.token_id < bind("before"))
            .order_by(tokens.c.token_id.desc())
            .limit(bind("limit"))
        )
        self.page = Statement("iaflow_tokens", page)
        self.page_of_user = Statement("iaflow_tokens_of_user", page.where(of_user))
        self.count = Statement(
            "iaflow_count_tokens", sa.select(sa.func.count()).select_from(tokens).where(of_user)
        )
        deleted = sa.delete(tokens).where(this)
        self.delete = Statement("iaflow_delete_token", deleted.returning(tokens.c.name))
        self.delete_of_user = Statement(
            "iaflow_delete_token_of_user", deleted.where(of_user).returning(tokens.c.name)
        )
