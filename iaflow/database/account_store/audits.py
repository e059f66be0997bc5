"""How it is kept who did what: rows that are added, read, and never changed.

Decides which index a list is read by; never what is worth a row. Called by `auth.audit`.
"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from iaflow.data.accounts import AuditRecord
from iaflow.database.account_store.reading import instant_of, is_id
from iaflow.database.connections import Connection, Row
from iaflow.database.dialects import Database
from iaflow.database.statements import Statement, dump_json

__all__ = ["AuditStore"]

_LAST = "ffffffff-ffff-ffff-ffff-ffffffffffff"


class AuditStore:
    """What was done on one database, and by whom."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = _Statements(database)

    def insert(self, event: AuditRecord, tx: Connection | None = None) -> None:
        """Keep an event: in the transaction of what it tells of, or alone."""
        given: dict[str, Any] = {
            "event_id": event.event_id,
            "at": event.at,
            "actor": event.actor,
            "action": event.action,
            "target": event.target,
            "address": event.address,
            "request_id": event.request_id,
            "detail": dump_json(dict(event.detail)),
        }
        if tx is None:
            self._database.fetch(self._sql.insert, **given)
        else:
            tx.queue(self._sql.insert, **given)

    def page(
        self,
        *,
        actor: str | None,
        target: str | None,
        action: str | None,
        before: str | None,
        limit: int,
    ) -> list[AuditRecord]:
        """Return events, the newest first; `before` is the last id of the page before."""
        if before is not None and not is_id(before):
            return []
        asked = {"actor": actor, "target": target, "action": action}
        given: dict[str, Any] = {name: one for name, one in asked.items() if one is not None}
        statement = self._sql.page(frozenset(given))
        rows = self._database.fetch(statement, before=before or _LAST, limit=limit, **given)
        return [_event(row) for row in rows]


def _event(row: Row) -> AuditRecord:
    return AuditRecord(
        event_id=str(row[0]),
        at=instant_of(row[1]),
        actor=row[2],
        action=row[3],
        target=row[4],
        address=row[5],
        request_id=row[6],
        detail=json.loads(row[7]) if isinstance(row[7], str) else row[7],
    )


class _Statements:
    def __init__(self, database: Database) -> None:
        events = database.tables.audit_events
        bind = sa.bindparam
        self._columns = [
            events.c[name]
            for name in (
                *("event_id", "at", "actor", "action", "target", "address", "request_id"),
                "detail",
            )
        ]
        self._events = events
        self._pages: dict[frozenset[str], Statement] = {}
        self.insert = Statement(
            "iaflow_insert_audit",
            sa.insert(events).values({column.name: bind(column.name) for column in events.c}),
        )

    def page(self, asked: frozenset[str]) -> Statement:
        """Return the statement for a list by these columns."""
        done = self._pages.get(asked)
        if done is None:
            events, bind = self._events, sa.bindparam
            where = [events.c[name] == bind(name) for name in sorted(asked)]
            done = self._pages[asked] = Statement(
                "_".join(["iaflow_audit", *sorted(asked)]),
                sa.select(*self._columns)
                .where(events.c.event_id < bind("before"), *where)
                .order_by(events.c.event_id.desc())
                .limit(bind("limit")),
            )
        return done
