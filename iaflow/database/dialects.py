"""The database that a process works on: who connects, what a transaction is, when to try again.

Decides how SQLite and Postgres are opened and what is repeated; never what statements say
nor how they travel. Opened by the composition root, used by the stores.
"""

from __future__ import annotations

import itertools
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, cast

import psycopg2
import sqlalchemy as sa
from psycopg2 import extras
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import QueuePool, StaticPool

from iaflow import failpoints
from iaflow.database.connections import (
    BUSY_SECONDS,
    Connection,
    PostgresConnection,
    Row,
    SqliteConnection,
    Tally,
)
from iaflow.database.statements import POSTGRES, SQLITE, Statement, read_instant
from iaflow.database.tables import Tables, build_tables
from iaflow.errors import NotReachable, SettingsRefused

__all__ = [
    "Database",
    "is_contention",
    "is_database_error",
    "is_duplicate_key",
    "is_outage",
    "normalise_url",
]

T = TypeVar("T")

CONTENTION_TURNS = 8


def normalise_url(url: str) -> URL:
    """
    Return `url` with the driver that iaflow uses named in it.

    SQLAlchemy 2.1 reads a bare ``postgresql://`` as psycopg 3, which is not installed.

    Raises:
        SettingsRefused: the URL cannot be read, or names another database.
    """
    try:
        parsed = make_url(url)
    except sa.exc.ArgumentError:
        raise SettingsRefused(
            "the database URL cannot be read; write sqlite:///path or "
            "postgresql://user:password@host/name"
        ) from None
    match parsed.get_backend_name():
        case "sqlite":
            return parsed.set(drivername="sqlite")
        case "postgresql" | "postgres":
            return parsed.set(drivername="postgresql+psycopg2")
        case other:
            raise SettingsRefused(
                f"the database {other!r} is not supported: use sqlite or postgresql"
            )


_AnyConnection = SqliteConnection | PostgresConnection


class Database:
    """
    One database: its tables, and a connection per thread and process.

    Args:
        url: ``sqlite:///path``, ``sqlite://`` (in memory) or ``postgresql://…``.
        schema: the Postgres schema of the tables; SQLite has none.
        prepare: prepare statements on the server; off behind a transaction pooler.
        patience_seconds: how long `perform` tries again while the server is gone.
    """

    def __init__(
        self,
        url: str,
        *,
        schema: str = "iaflow",
        prepare: bool = True,
        patience_seconds: float = 0.0,
    ) -> None:
        self.url = normalise_url(url)
        self.dialect = SQLITE if self.url.get_backend_name() == SQLITE else POSTGRES
        self.schema = None if self.dialect == SQLITE else schema
        self.tables: Tables = build_tables(self.schema)
        self.is_memory = self.dialect == SQLITE and self.url.database in (None, "", ":memory:")
        self.tally = Tally()
        self._prepare = prepare
        self._patience = patience_seconds
        self._local = threading.local()
        self._memory_lock = threading.RLock()
        self._memory: SqliteConnection | None = None
        self._engine: sa.Engine | None = None
        self._engine_pid = 0

    @property
    def engine(self) -> sa.Engine:
        """The SQLAlchemy engine on the same database, for migrations and the manager."""
        # As with connections: what a fork inherits belongs to its parent.
        if self._engine is None or self._engine_pid != os.getpid():
            self._engine, self._engine_pid = self._build_engine(), os.getpid()
        return self._engine

    def alone(self) -> AbstractContextManager[object]:
        """Keep other threads off the one connection in memory; elsewhere there is nothing to keep."""
        return self._memory_lock if self.is_memory else nullcontext()

    @contextmanager
    def transaction(self, *, durable: bool = True, write: bool = True) -> Iterator[Connection]:
        """
        Give this thread's connection inside a transaction; commit at the end, or roll back.

        Args:
            durable: False lets the commit be flushed later: only for what is harmless to lose.
            write: False for reads alone, which then all see one moment, and lock nothing.

        Raises:
            NotReachable: the server cannot be connected to.
        """
        connection = self._connection()
        connection.begin(durable=durable, write=write)
        try:
            yield connection
            connection.commit()
        except BaseException:
            connection.rollback()
            if not connection.usable:
                self._forget()
            raise

    def perform(self, work: Callable[[Connection], T], *, durable: bool = True) -> T:
        """
        Run `work` in a transaction, and again from its start where the server asks for it.

        A deadlock or a serialisation failure is repeated at once; a server that is gone is
        tried again for `patience_seconds`. `work` must therefore decide from what it reads:
        if a commit was lost on the way, its second run finds the first one's rows.
        """
        deadline = time.monotonic() + self._patience
        for turn in itertools.count():
            try:
                with self.transaction(durable=durable) as tx:
                    return work(tx)
            except (psycopg2.Error, NotReachable, sqlite3.OperationalError) as error:
                # The next turn finds the row of who wrote the same key first.
                meets = is_contention(error) or is_duplicate_key(error)
                again = meets and turn < CONTENTION_TURNS
                if not again and not (is_outage(error) and time.monotonic() < deadline):
                    raise
                # Jitter, so that two which met do not meet again; no secret hangs on it.
                time.sleep(min(0.01 * 2**turn, 1.0) * (0.5 + random.random()))  # noqa: S311
        raise AssertionError("unreachable")

    def fetch(self, statement: Statement, *, durable: bool = True, **params: Any) -> list[Row]:
        """
        Run one statement as a transaction of its own and return its rows.

        Inside this thread's open transaction it is a part of that: the clock or a run's
        header may be asked for at any time. What only reads is sent once more if the connection
        turns out to be gone: it may have been since somebody restarted the server.
        """
        connection = self._connection()
        if connection.is_open and not self.is_memory:
            return connection.fetch(statement, **params)
        try:
            return connection.fetch_alone(statement, params, durable=durable)
        except psycopg2.Error:
            if connection.usable:
                raise
            self._forget()
            if not statement.is_read:
                raise
        return self._connection().fetch_alone(statement, params, durable=durable)

    @contextmanager
    def holding(self, number: int, *, seconds: float) -> Iterator[bool]:
        """
        Hold an advisory lock of Postgres meanwhile, and tell whether it was to be had.

        Args:
            seconds: after so long it is given up by the server, whatever its holder does.
        """
        raw = self._open_postgres()
        try:
            cursor = raw.cursor()
            cursor.execute(
                "BEGIN; SELECT set_config('idle_in_transaction_session_timeout', %s, true); "
                "SELECT pg_try_advisory_xact_lock(%s)",
                (str(int(seconds * 1000)), number),
            )
            yield bool(cursor.fetchone()[0])
        finally:
            with suppress(psycopg2.Error):
                # Closing alone would tell the server, and not wait until it has heard.
                raw.cursor().execute("ROLLBACK")
                raw.close()

    def release_thread(self) -> None:
        """Close this thread's connection; the next use opens another."""
        if not self.is_memory:
            self._forget()

    def read_clock(self) -> datetime:
        """Return the database server's present instant; on SQLite the machine's."""
        if self.dialect == SQLITE:
            return datetime.now(UTC)
        now = read_instant(self.fetch(_CLOCK)[0][0])
        assert now is not None
        return now

    def close(self) -> None:
        """Close this thread's connection and the engine's; others close with their threads."""
        self._forget()
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    # -- connecting

    def _connection(self) -> _AnyConnection:
        if self.is_memory:
            if self._memory is None:
                with self._memory_lock:
                    if self._memory is None:
                        raw = _open_memory()
                        self._memory = SqliteConnection(raw, self._memory_lock, self.tally)
            return self._memory
        connection: _AnyConnection | None = getattr(self._local, "connection", None)
        # A connection must never cross a fork: two processes would speak on one socket.
        if connection is None or self._local.pid != os.getpid():
            connection = (
                SqliteConnection(self._open_sqlite(), None, self.tally)
                if self.dialect == SQLITE
                else PostgresConnection(
                    self._open_postgres(), prepare=self._prepare, tally=self.tally
                )
            )
            if failpoints.ACTIVE:
                connection = cast(
                    "_AnyConnection", failpoints.WatchedConnection(connection, self._raise_outage)
                )
            self._local.connection = connection
            self._local.pid = os.getpid()
        return connection

    def _build_engine(self) -> sa.Engine:
        if self.dialect == POSTGRES:
            return sa.create_engine(self.url, hide_parameters=True, pool_pre_ping=True, pool_size=2)
        if self.is_memory:
            self._connection()
            memory = self._memory
            assert memory is not None
            return sa.create_engine(
                "sqlite://", creator=lambda: memory.raw, poolclass=StaticPool, hide_parameters=True
            )
        # Kept open: the last connection that is closed writes all of the WAL back, and waits.
        return sa.create_engine(
            "sqlite://",
            creator=lambda: self._open_sqlite(is_shared=True),
            poolclass=QueuePool,
            pool_size=2,
            hide_parameters=True,
        )

    def _raise_outage(self) -> None:
        """Raise what the driver raises when the server is gone; for failpoints."""
        if self.dialect == SQLITE:
            raise sqlite3.OperationalError("disk I/O error")
        raise psycopg2.OperationalError("server closed the connection unexpectedly")

    def _forget(self) -> None:
        connection: _AnyConnection | None = getattr(self._local, "connection", None)
        if connection is not None and self._local.pid == os.getpid():
            connection.close()
        self._local.connection = None

    def _open_sqlite(self, *, is_shared: bool = False) -> sqlite3.Connection:
        path = Path(self.url.database or "")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            raw = sqlite3.connect(
                path,
                timeout=BUSY_SECONDS,
                isolation_level=None,
                # The engine's pool lends a connection to one thread after the other.
                check_same_thread=not is_shared,
            )
            raw.execute("PRAGMA journal_mode=WAL")
            raw.execute("PRAGMA synchronous=FULL")
            raw.execute("PRAGMA foreign_keys=ON")
        except (OSError, sqlite3.Error) as error:
            raise NotReachable(f"the database file {path} cannot be opened: {error}") from error
        return raw

    def _open_postgres(self) -> Any:
        dsn = self.url.set(drivername="postgresql").render_as_string(hide_password=False)
        try:
            raw = psycopg2.connect(
                dsn,
                connect_timeout=5,
                application_name="iaflow",
                keepalives_idle=30,
                tcp_user_timeout=10_000,
                options="-c timezone=UTC -c statement_timeout=60000 "
                "-c idle_in_transaction_session_timeout=60000 "
                # A plan is made once and kept: it must not fit the table as small as it was.
                "-c enable_seqscan=off -c jit=off",
            )
        except psycopg2.OperationalError as error:
            shown = self.url.render_as_string(hide_password=True)
            raise NotReachable(
                f"the database {shown} cannot be reached: {error}".strip()
            ) from error
        raw.autocommit = True
        # JSON stays text: the rooms above parse it themselves, and numbers stay as written.
        extras.register_default_json(raw, loads=_as_is, globally=False)
        return raw


def _open_memory() -> sqlite3.Connection:
    raw = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    raw.execute("PRAGMA foreign_keys=ON")
    return raw


def is_contention(error: BaseException) -> bool:
    """Tell whether the server undid a transaction because of another, so that it may be repeated."""
    error = _cause(error)
    return isinstance(error, psycopg2.Error) and error.pgcode in ("40001", "40P01", "55P03")


def is_duplicate_key(error: BaseException) -> bool:
    """Tell whether a row of that key was there before: another transaction may have been first."""
    error = _cause(error)
    return isinstance(error, psycopg2.errors.UniqueViolation | sqlite3.IntegrityError)


def is_database_error(error: BaseException) -> bool:
    """Tell whether the server, or the way to it, is what failed."""
    return isinstance(_cause(error), psycopg2.Error | sqlite3.Error | NotReachable)


def _cause(error: BaseException) -> BaseException:
    """Return the driver's own error, where SQLAlchemy has wrapped it."""
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else None
    return error if cause is None else cause


def is_outage(error: BaseException) -> bool:
    """Tell whether the server is gone (or going), so that trying again later can help."""
    error = _cause(error)
    if isinstance(error, NotReachable):
        return True
    if not isinstance(error, psycopg2.Error):
        return False
    code = error.pgcode
    if code is None:
        return isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError)
    return code[:2] == "08" or code in ("57P01", "57P02", "57P03", "53300")


def _as_is(text: str) -> str:
    return text


_CLOCK = Statement("iaflow_clock", sa.select(sa.func.clock_timestamp()))
