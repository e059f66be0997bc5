"""One open connection of each dialect, and how statements travel over it.

Decides how statements are grouped into round trips and transactions; never what they say
nor who connects. Opened by `Database`, handed to the stores inside a transaction.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, Protocol

import psycopg2

from iaflow.database.statements import POSTGRES, SQLITE, Statement

__all__ = ["BUSY_SECONDS", "Connection", "PostgresConnection", "Row", "SqliteConnection", "Tally"]

Row = Sequence[Any]

BUSY_SECONDS: Final = 15.0
"""How long a write waits for another connection of the same SQLite database."""


class Connection(Protocol):
    """A connection inside a transaction; from `Database.transaction`."""

    dialect: str

    def queue(self, statement: Statement, **params: Any) -> None:
        """Send a statement whose rows nobody reads; on Postgres together with the next one."""
        ...

    def fetch(self, statement: Statement, **params: Any) -> list[Row]:
        """Send what is queued and this statement, and return its rows."""
        ...


class SqliteConnection:
    """One sqlite3 connection; statements run at once, since there is no round trip to save."""

    dialect = SQLITE

    def __init__(self, raw: sqlite3.Connection, lock: threading.RLock | None, tally: Tally) -> None:
        self.raw = raw
        self._cursor = raw.cursor()
        self._lock = lock
        self._tally = tally
        self.is_open = False
        self._durable = True

    def fetch_alone(
        self, statement: Statement, params: Mapping[str, Any], *, durable: bool
    ) -> list[Row]:
        """Run one statement, which SQLite makes a transaction of its own."""
        self._acquire()
        try:
            self._set_durable(durable)
            self._tally.commits += 1
            return self.fetch(statement, **params)
        finally:
            if self._lock is not None:
                self._lock.release()

    def _acquire(self) -> None:
        # A bounded wait, as a file's: an event loop that waited here for its own thread's
        # other transaction would wait for ever.
        if self._lock is not None and not self._lock.acquire(timeout=BUSY_SECONDS):
            raise sqlite3.OperationalError("database is locked")

    def _set_durable(self, durable: bool) -> None:
        if durable is not self._durable and self._lock is None:
            # WAL with NORMAL leaves the commit to the next FULL one's flush.
            self._cursor.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._durable = durable

    def begin(self, *, durable: bool, write: bool) -> None:
        self._acquire()
        try:
            self._set_durable(durable)
            self._cursor.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            self.is_open = True
        except BaseException:
            if self._lock is not None:
                self._lock.release()
            raise

    def queue(self, statement: Statement, **params: Any) -> None:
        self._tally.statements += 1
        self._cursor.execute(
            statement.text(SQLITE), _sqlite_values(statement.values(SQLITE, params))
        )

    def fetch(self, statement: Statement, **params: Any) -> list[Row]:
        self.queue(statement, **params)
        return self._cursor.fetchall()

    def commit(self) -> None:
        self._cursor.execute("COMMIT")
        self.is_open = False
        self._tally.commits += 1
        if self._lock is not None:
            self._lock.release()

    def rollback(self) -> None:
        try:
            with suppress(sqlite3.Error):
                self._cursor.execute("ROLLBACK")
        finally:
            self.is_open = False
            if self._lock is not None:
                self._lock.release()

    @property
    def usable(self) -> bool:
        return True

    def close(self) -> None:
        self.raw.close()


class PostgresConnection:
    """
    One psycopg2 connection; queued statements travel together, BEGIN and COMMIT with them.

    Several statements in one string are one round trip (the simple query protocol); only
    the last one's rows come back.
    """

    dialect = POSTGRES

    def __init__(self, raw: Any, *, prepare: bool, tally: Tally) -> None:
        self._raw = raw
        self._cursor = raw.cursor()
        self._prepare = prepare
        self._prepared: set[str] = set()
        self._queued: list[bytes] = []
        self._begun = False
        self.is_open = False
        self._tally = tally

    def begin(self, *, durable: bool, write: bool) -> None:
        self._queued = [b"BEGIN" if write else b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"]
        self.is_open = True
        if not durable:
            self._queued.append(b"SET LOCAL synchronous_commit TO off")

    def queue(self, statement: Statement, **params: Any) -> None:
        self._tally.statements += 1
        self._queued.append(self._spell(statement, params))

    def fetch(self, statement: Statement, **params: Any) -> list[Row]:
        self.queue(statement, **params)
        self._send()
        rows: list[Row] = self._cursor.fetchall() if self._cursor.description else []
        return rows

    def fetch_alone(
        self, statement: Statement, params: Mapping[str, Any], *, durable: bool
    ) -> list[Row]:
        """
        Run one statement as a transaction of its own, in one round trip.

        What may be lost says so in the statement itself (`set_config`): a SET of its own
        would make it two.
        """
        self._tally.statements += 1
        self._queued = [self._spell(statement, params)]
        self._send()
        self._begun = False
        self._tally.commits += 1
        rows: list[Row] = self._cursor.fetchall() if self._cursor.description else []
        return rows

    def commit(self) -> None:
        if not self._begun and len(self._queued) == 1:
            # Nothing but its beginning, which needs not be sent.
            self._queued, self.is_open = [], False
            return
        self._queued.append(b"COMMIT")
        self._send()
        self._begun = self.is_open = False
        self._tally.commits += 1

    def rollback(self) -> None:
        self._queued = []
        with suppress(psycopg2.Error):
            self._cursor.execute("ROLLBACK")
        self._begun = self.is_open = False

    @property
    def usable(self) -> bool:
        return not self._raw.closed

    def close(self) -> None:
        with suppress(psycopg2.Error):
            self._raw.close()

    def _send(self) -> None:
        text, self._queued = b";".join(self._queued), []
        self._begun = True
        self._tally.round_trips += 1
        self._cursor.execute(text)

    def _spell(self, statement: Statement, params: Mapping[str, Any]) -> bytes:
        values = statement.values(POSTGRES, params)
        if not self._prepare:
            return _inline(self._cursor, statement.text(POSTGRES), values)
        if statement.name not in self._prepared:
            # On its own, so that a failing neighbour in the string cannot leave it unmade.
            # If the transaction is rolled back, the prepared statement stays.
            text = statement.text(POSTGRES)
            self._cursor.execute(f"PREPARE {statement.name} AS {text}".encode())
            self._prepared.add(statement.name)
        if not values:
            return f"EXECUTE {statement.name}".encode()
        slots = ",".join(["%s"] * len(values))
        spelled: bytes = self._cursor.mogrify(f"EXECUTE {statement.name}({slots})", values)
        return spelled


class Tally:
    """Counts what was sent: the tests' proof of what a step costs."""

    __slots__ = ("commits", "round_trips", "statements")

    def __init__(self) -> None:
        self.statements = 0
        self.round_trips = 0
        self.commits = 0


def _sqlite_values(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        value.isoformat(timespec="microseconds") if isinstance(value, datetime) else value
        for value in values
    )


def _inline(cursor: Any, text: str, values: tuple[Any, ...]) -> bytes:
    """Return `text` with its ``$n`` replaced by literals, for servers that cannot prepare."""
    spelled = [cursor.mogrify("%s", (value,)).decode() for value in values]
    return re.sub(r"\$(\d+)", lambda slot: spelled[int(slot[1]) - 1], text).encode()
