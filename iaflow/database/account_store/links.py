"""How one-time links are kept: each is used by one guarded UPDATE.

Decides which link can be used; never what its use does. Called by `auth.links`.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from iaflow.data.accounts import LinkRecord
from iaflow.data.status import PauseStatus
from iaflow.database.account_store.reading import instant_of, is_id
from iaflow.database.connections import Connection, Row
from iaflow.database.dialects import Database
from iaflow.database.statements import Statement, dump_json, literal_word, read_instant

__all__ = ["LinkStore"]


class LinkStore:
    """The one-time links of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = _Statements(database)

    def insert(self, tx: Connection, link: LinkRecord, *, token_hash: str) -> LinkRecord | None:
        """
        Keep a new link to an open question, which lives no longer than that.

        Returns:
            The link as it was kept; None: no such question is open.
        """
        if not is_id(link.pause_id):
            return None
        rows = tx.fetch(
            self._sql.insert,
            token_hash=token_hash,
            link_id=link.link_id,
            pause_id=link.pause_id,
            person=link.person,
            action=dump_json(dict(link.action)),
            created_by=link.created_by,
            created_at=link.created_at,
            expires_at=link.expires_at,
        )
        return _link(rows[0]) if rows else None

    def find(self, token_hash: str) -> LinkRecord | None:
        """Return the link of a token, used, over or not; None: none, or its person is disabled."""
        rows = self._database.fetch(self._sql.find, token_hash=token_hash)
        return _link(rows[0]) if rows else None

    def use(self, tx: Connection, token_hash: str, *, now: datetime) -> LinkRecord | None:
        """
        used_at: none -> now, if the link is not over.

        Of any number who use it at once one gets it; the others get None.
        """
        rows = tx.fetch(self._sql.use, token_hash=token_hash, now=now)
        return _link(rows[0]) if rows else None

    def give_back(self, tx: Connection, link_id: str, *, used_at: datetime) -> bool:
        """used_at -> none, for whoever used it at that instant and could do nothing with it."""
        return bool(tx.fetch(self._sql.give_back, link_id=link_id, seen_at=used_at))

    def of_pause(self, pause_id: str) -> list[LinkRecord]:
        """Return the links to a question, the newest first."""
        if not is_id(pause_id):
            return []
        return [_link(row) for row in self._database.fetch(self._sql.of_pause, pause_id=pause_id)]

    def delete(self, tx: Connection, link_id: str, *, pause_id: str) -> bool:
        """Take a link to that question back."""
        if not is_id(link_id) or not is_id(pause_id):
            return False
        return bool(tx.fetch(self._sql.delete, link_id=link_id, pause_id=pause_id))


def _link(row: Row) -> LinkRecord:
    return LinkRecord(
        link_id=str(row[0]),
        pause_id=str(row[1]),
        person=row[2],
        action=json.loads(row[3]) if isinstance(row[3], str) else row[3],
        created_by=row[4],
        created_at=instant_of(row[5]),
        expires_at=instant_of(row[6]),
        used_at=read_instant(row[7]),
    )


class _Statements:
    def __init__(self, database: Database) -> None:
        links, pauses = database.tables.answer_links, database.tables.pauses
        users = database.tables.users
        bind = sa.bindparam
        columns = [
            links.c[name]
            for name in (
                *("link_id", "pause_id", "person", "action", "created_by", "created_at"),
                *("expires_at", "used_at"),
            )
        ]

        def given(name: str) -> sa.ColumnElement[Any]:
            # Selected, a parameter has no column whose type it could have.
            kind = links.c[name].type
            return sa.cast(bind(name, type_=kind), kind)

        wanted, ends = given("expires_at"), pauses.c.expires_at
        instant = links.c.expires_at.type
        new = sa.select(
            given("token_hash"),
            given("link_id"),
            pauses.c.pause_id,
            given("person"),
            given("action"),
            given("created_by"),
            given("created_at"),
            sa.case((sa.and_(ends.is_not(None), ends < wanted), ends), else_=wanted),
            sa.cast(sa.null(), instant),
        ).where(
            pauses.c.pause_id == bind("pause_id"),
            sa.func.coalesce(pauses.c.status, "") == literal_word(PauseStatus.OPEN.value),
            # An event asks nobody.
            pauses.c.event.is_(None),
        )
        self.insert = Statement(
            "iaflow_insert_link",
            sa.insert(links)
            .from_select([column.name for column in links.c], new)
            .returning(*columns),
        )
        by_token = links.c.token_hash == bind("token_hash")
        is_barred = sa.exists().where(users.c.name == links.c.person, users.c.is_disabled)
        self.find = Statement(
            "iaflow_link", sa.select(*columns).where(by_token, sa.not_(is_barred))
        )
        self.use = Statement(
            "iaflow_use_link",
            sa.update(links)
            .where(
                by_token,
                links.c.used_at.is_(None),
                links.c.expires_at > bind("now", type_=instant),
                sa.not_(is_barred),
            )
            .values(used_at=bind("now", type_=instant))
            .returning(*columns),
        )
        this = links.c.link_id == bind("link_id")
        self.give_back = Statement(
            "iaflow_give_back_link",
            sa.update(links)
            .where(this, links.c.used_at == bind("seen_at"))
            .values(used_at=None)
            .returning(links.c.link_id),
        )
        of_pause = links.c.pause_id == bind("pause_id")
        self.of_pause = Statement(
            "iaflow_links_of_pause",
            sa.select(*columns).where(of_pause).order_by(links.c.link_id.desc()).limit(1000),
        )
        self.delete = Statement(
            "iaflow_delete_link",
            sa.delete(links).where(this, of_pause).returning(links.c.link_id),
        )
