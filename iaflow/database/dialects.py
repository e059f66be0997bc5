"""Connections and statements on SQLite and Postgres, one way for both.

Decides how a statement is compiled, sent and grouped into round trips, and what a
transaction is on each dialect; never what the statements say. Used by the stores.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

import psycopg2
import sqlalchemy as sa
from psycopg2 import extras
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.pool import NullPool, StaticPool
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ColumnElement

from iaflow.database.tables import Tables, build_tables
from iaflow.errors import NotReachable, SettingsRefused

__all__ = [
    "Connection",
    "Database",
    "Statement",
    "json_rows",
    "among",
    "literal_word",
    "normalise_url",
    "read_instant",
]

Row = Sequence[Any]
T = TypeVar("T")

SQLITE = "sqlite"
POSTGRES = "postgresql"
BUSY_SECONDS = 15.0
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


# --- SQL that the dialects spell differently


class _JsonStrings(ColumnElement[str]):
    """The strings of a JSON array in a parameter, as a subquery."""

    inherit_cache = False
    type = sa.Text()

    def __init__(self, parameter: str) -> None:
        self.parameter: sa.BindParameter[str] = sa.bindparam(parameter, type_=postgresql.JSON())


@compiles(_JsonStrings, SQLITE)
def _json_strings_sqlite(element: _JsonStrings, compiler: SQLCompiler, **kw: Any) -> str:
    bind = compiler.process(element.parameter, **kw)
    return f"(SELECT value FROM json_each({bind}))"  # noqa: S608  a placeholder of ours


@compiles(_JsonStrings, POSTGRES)
def _json_strings_postgres(element: _JsonStrings, compiler: SQLCompiler, **kw: Any) -> str:
    bind = compiler.process(element.parameter, **kw)
    return f"(SELECT json_array_elements_text({bind}))"


def among(column: ColumnElement[Any], parameter: str) -> ColumnElement[bool]:
    """Return ``column IN`` the strings of a JSON array, which travels as one parameter."""
    listed: ColumnElement[bool] = column.op("IN", is_comparison=True)(_JsonStrings(parameter))
    return listed


class json_rows(sa.sql.functions.FunctionElement[str]):  # noqa: N801
    """An aggregate: all rows as one JSON array of arrays, so that one round trip brings lists."""

    inherit_cache = True
    type = sa.Text()


@compiles(json_rows, SQLITE)
def _json_rows_sqlite(element: json_rows, compiler: SQLCompiler, **kw: Any) -> str:
    return f"json_group_array(json_array({compiler.process(element.clauses, **kw)}))"


@compiles(json_rows, POSTGRES)
def _json_rows_postgres(element: json_rows, compiler: SQLCompiler, **kw: Any) -> str:
    return f"json_agg(json_build_array({compiler.process(element.clauses, **kw)}))::text"


def literal_word(word: str) -> ColumnElement[str]:
    """
    Return a constant of ours (a status) as a literal, not as a parameter.

    A prepared statement can then still use the partial indexes, whose predicate names it.
    """
    if not word.replace("_", "").isalnum():
        raise ValueError(f"{word!r} is no constant of iaflow")
    return sa.literal_column(f"'{word}'", sa.Text())


def read_instant(value: Any) -> datetime | None:
    """Return a stored instant as an aware datetime in UTC; None stays None."""
    if value is None:
        return None
    if isinstance(value, str):
        return datetime.fromisoformat(value)
    instant: datetime = value.astimezone(UTC)
    return instant


class Statement:
    """
    A statement written in SQLAlchemy Core and compiled once per dialect.

    The compiled text runs on the DBAPI cursor: SQLAlchemy's own execute costs ten times the
    statement in memory. Parameters are given by name; those with a value in the statement
    need not be given.
    """

    def __init__(self, name: str, core: sa.sql.expression.ClauseElement) -> None:
        self.name = name
        self._core = core
        self._compiled: dict[str, tuple[str, tuple[tuple[str, Any], ...]]] = {}

    def text(self, dialect: str) -> str:
        """Return the SQL for `dialect`, with ``?`` or ``$1`` for its parameters."""
        return self._compile(dialect)[0]

    def values(self, dialect: str, given: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the parameters in the order of the text."""
        return tuple(given.get(name, default) for name, default in self._compile(dialect)[1])

    def _compile(self, dialect: str) -> tuple[str, tuple[tuple[str, Any], ...]]:
        done = self._compiled.get(dialect)
        if done is None:
            spoken: sa.Dialect = (
                sqlite.dialect(paramstyle="qmark")
                if dialect == SQLITE
                else postgresql.dialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
            )
            compiled = self._core.compile(dialect=spoken)
            assert isinstance(compiled, SQLCompiler)
            order = compiled.positiontup or []
            done = (str(compiled), tuple((name, compiled.params[name]) for name in order))
            self._compiled[dialect] = done
        return done


# --- connections


class Connection(Protocol):
    """A connection inside a transaction; from `Database.transaction`."""

    dialect: str

    def queue(self, statement: Statement, **params: Any) -> None:
        """Send a statement whose rows nobody reads; on Postgres together with the next one."""
        ...

    def fetch(self, statement: Statement, **params: Any) -> list[Row]:
        """Send what is queued and this statement, and return its rows."""
        ...


class _SqliteConnection:
    """One sqlite3 connection; statements run at once, since there is no round trip to save."""

    dialect = SQLITE

    def __init__(self, raw: sqlite3.Connection, lock: threading.RLock | None, tally: Tally) -> None:
        self.raw = raw
        self._cursor = raw.cursor()
        self._lock = lock
        self._tally = tally
        self._depth = 0
        self._durable = True

    def begin(self, *, durable: bool, write: bool) -> None:
        if self._lock is not None:
            self._lock.acquire()
        try:
            if durable is not self._durable and self._lock is None:
                # WAL with NORMAL leaves the commit to the next FULL one's flush.
                self._cursor.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                self._durable = durable
            self._cursor.execute("BEGIN IMMEDIATE" if write else "BEGIN")
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
        self._tally.commits += 1
        if self._lock is not None:
            self._lock.release()

    def rollback(self) -> None:
        try:
            with suppress(sqlite3.Error):
                self._cursor.execute("ROLLBACK")
        finally:
            if self._lock is not None:
                self._lock.release()

    @property
    def usable(self) -> bool:
        return True

    def close(self) -> None:
        self.raw.close()


class _PostgresConnection:
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
        self._open = False
        self._tally = tally

    def begin(self, *, durable: bool, write: bool) -> None:
        self._queued = [b"BEGIN"]
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

    def fetch_alone(self, statement: Statement, params: Mapping[str, Any]) -> list[Row]:
        """Run one statement as a transaction of its own, in one round trip."""
        self._tally.statements += 1
        self._queued = [self._spell(statement, params)]
        self._send()
        self._tally.commits += 1
        rows: list[Row] = self._cursor.fetchall() if self._cursor.description else []
        return rows

    def commit(self) -> None:
        if not self._open and self._queued and self._queued[-1] == b"BEGIN":
            self._queued = []
            return
        self._queued.append(b"COMMIT")
        self._send()
        self._open = False
        self._tally.commits += 1

    def rollback(self) -> None:
        self._queued = []
        with suppress(psycopg2.Error):
            self._cursor.execute("ROLLBACK")
        self._open = False

    @property
    def usable(self) -> bool:
        return not self._raw.closed

    def close(self) -> None:
        with suppress(psycopg2.Error):
            self._raw.close()

    def _send(self) -> None:
        text, self._queued = b";".join(self._queued), []
        self._open = True
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


_AnyConnection = _SqliteConnection | _PostgresConnection


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
        self._memory: _SqliteConnection | None = None
        self._engine: sa.Engine | None = None

    @property
    def engine(self) -> sa.Engine:
        """The SQLAlchemy engine on the same database, for migrations and the manager."""
        if self._engine is None:
            if self.is_memory:
                self._connection()
                memory = self._memory
                assert memory is not None
                self._engine = sa.create_engine(
                    "sqlite://", creator=lambda: memory.raw, poolclass=StaticPool
                )
            elif self.dialect == SQLITE:
                self._engine = sa.create_engine(
                    "sqlite://", creator=self._open_sqlite, poolclass=NullPool
                )
            else:
                self._engine = sa.create_engine(
                    self.url, hide_parameters=True, pool_pre_ping=True, pool_size=2
                )
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
            write: False for reads alone, so that SQLite takes no write lock.

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
                again = _is_contention(error) and turn < CONTENTION_TURNS
                if not again and not (_is_outage(error) and time.monotonic() < deadline):
                    raise
                time.sleep(min(0.01 * 2**turn, 1.0) * (0.5 + random.random()))  # noqa: S311
        raise AssertionError("unreachable")

    def fetch(self, statement: Statement, *, durable: bool = True, **params: Any) -> list[Row]:
        """Run one statement as a transaction of its own and return its rows."""
        connection = self._connection()
        if isinstance(connection, _PostgresConnection):
            try:
                return connection.fetch_alone(statement, params)
            except psycopg2.Error:
                if not connection.usable:
                    self._forget()
                raise
        with self.transaction(durable=durable) as opened:
            return opened.fetch(statement, **params)

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
                        self._memory = _SqliteConnection(raw, self._memory_lock, self.tally)
            return self._memory
        connection: _AnyConnection | None = getattr(self._local, "connection", None)
        # A connection must never cross a fork: two processes would speak on one socket.
        if connection is None or self._local.pid != os.getpid():
            connection = (
                _SqliteConnection(self._open_sqlite(), None, self.tally)
                if self.dialect == SQLITE
                else _PostgresConnection(
                    self._open_postgres(), prepare=self._prepare, tally=self.tally
                )
            )
            self._local.connection = connection
            self._local.pid = os.getpid()
        return connection

    def _forget(self) -> None:
        connection: _AnyConnection | None = getattr(self._local, "connection", None)
        if connection is not None and self._local.pid == os.getpid():
            connection.close()
        self._local.connection = None

    def _open_sqlite(self) -> sqlite3.Connection:
        path = Path(self.url.database or "")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            raw = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
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
                "-c idle_in_transaction_session_timeout=60000",
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


def _is_contention(error: Exception) -> bool:
    return isinstance(error, psycopg2.Error) and error.pgcode in ("40001", "40P01", "55P03")


def _is_outage(error: Exception) -> bool:
    """Tell whether the server is gone (or going), so that trying again later can help."""
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


def _sqlite_values(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        value.isoformat(timespec="microseconds") if isinstance(value, datetime) else value
        for value in values
    )


def _inline(cursor: Any, text: str, values: tuple[Any, ...]) -> bytes:
    """Return `text` with its ``$n`` replaced by literals, for servers that cannot prepare."""
    spelled = [cursor.mogrify("%s", (value,)).decode() for value in values]
    return re.sub(r"\$(\d+)", lambda slot: spelled[int(slot[1]) - 1], text).encode()


_CLOCK = Statement("iaflow_clock", sa.select(sa.func.clock_timestamp()))


def dump_json(value: Any) -> str:
    """Return `value` as compact JSON text, as it is stored."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
