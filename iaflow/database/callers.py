"""A transaction that an application has opened on its own connection, to take part in.

Decides what such a connection is and how our statements travel over it; never begins, commits
or rolls back what is not ours (only to a savepoint of our own). Called by the client.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import psycopg2.extensions
import sqlalchemy as sa
from psycopg2 import extras
from sqlalchemy.orm import Session

from iaflow.database.connections import Connection, PostgresConnection, SqliteConnection
from iaflow.database.dialects import Database
from iaflow.database.statements import POSTGRES, SQLITE
from iaflow.errors import SchemaOutdated, SettingsRefused

__all__ = ["call_at_commit", "joined"]

_SAVEPOINT = "iaflow_start"


@contextmanager
def joined(caller: Any, database: Database) -> Iterator[Connection]:
    """
    Give the caller's open transaction for statements of ours.

    If anything fails, what was written here is taken back, by a savepoint, and the caller's
    transaction goes on as it was.

    Args:
        caller: a SQLAlchemy `Connection` or `Session`, a psycopg2 connection, or a sqlite3 one.
        database: ours, on the same server: its tables are meant.

    Raises:
        SettingsRefused: it is none of these, of another kind than our database, or commits
            each statement by itself.
        SchemaOutdated: our tables are not where it leads.
    """
    raw = _raw_connection(caller)
    tx: _JoinedPostgres | _JoinedSqlite
    if database.dialect == POSTGRES and isinstance(raw, psycopg2.extensions.connection):
        _refuse_autocommit(raw)
        # Not prepared: a statement of ours should not be left behind on a connection of theirs.
        tx = _JoinedPostgres(raw, database)
    elif database.dialect == SQLITE and isinstance(raw, sqlite3.Connection):
        if not raw.in_transaction:
            raw.execute("BEGIN IMMEDIATE")
        tx = _JoinedSqlite(raw, None, database.tally)
    else:
        raise SettingsRefused(
            f"{type(caller).__name__} cannot be used with a database of {database.dialect}: give a "
            "SQLAlchemy Connection or Session (by psycopg2), a psycopg2 connection, or on SQLite a "
            "sqlite3 one"
        )
    cursor = raw.cursor()
    cursor.execute(f"SAVEPOINT {_SAVEPOINT}")
    try:
        yield tx
        tx.flush()
    except BaseException as error:
        cursor.execute(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
        if isinstance(error, psycopg2.errors.UndefinedTable):
            place = f" in the schema {database.schema}" if database.schema else ""
            raise SchemaOutdated(
                f"the caller's connection leads to a database without iaflow's tables{place}: "
                "use a connection to the database that IAFLOW_DATABASE_URL names"
            ) from error
        raise
    finally:
        cursor.execute(f"RELEASE SAVEPOINT {_SAVEPOINT}")
        cursor.close()


def call_at_commit(caller: Any, call: Callable[[], None]) -> bool:
    """
    Call `call` when the caller's transaction is being committed, maybe shortly before it is.

    Returns:
        False if nobody tells of that: a bare connection of a driver does not.
    """
    if isinstance(caller, Session):
        _once(caller, "after_commit", call)
        return True
    if isinstance(caller, sa.Connection):
        _once(caller, "commit", call)
        return True
    return False


class _JoinedPostgres(PostgresConnection):
    """Our statements on somebody else's connection."""

    def __init__(self, raw: psycopg2.extensions.connection, database: Database) -> None:
        super().__init__(raw, prepare=False, tally=database.tally)
        # Whatever rows the caller's own cursors give.
        self._cursor = raw.cursor(cursor_factory=psycopg2.extensions.cursor)
        # JSON stays text, as on connections of ours.
        extras.register_default_json(self._cursor, loads=str, globally=False)

    def flush(self) -> None:
        """Send what is queued."""
        if self._queued:
            self._send()


class _JoinedSqlite(SqliteConnection):
    """Our statements on somebody else's connection."""

    def flush(self) -> None:
        """Everything was sent at once."""


def _once(caller: Any, name: str, call: Callable[[], None]) -> None:
    def tell(_: Any) -> None:
        call()

    sa.event.listen(caller, name, tell, once=True)


def _raw_connection(caller: Any) -> Any:
    if isinstance(caller, Session):
        caller = caller.connection()
    if isinstance(caller, sa.Connection):
        if not caller.in_transaction():
            # As SQLAlchemy itself does at a statement: the caller's commit ends it.
            caller.begin()
        return caller.connection.dbapi_connection
    return caller


def _refuse_autocommit(raw: psycopg2.extensions.connection) -> None:
    # psycopg2 begins by itself, with the first statement, unless it is told not to.
    idle = raw.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_IDLE
    if raw.autocommit and idle:
        raise SettingsRefused(
            "the connection is in autocommit mode, and no transaction is open: the run would not "
            "be undone with your changes; begin a transaction first"
        )
