"""The database as steps and applications are given it: awaitable SQL, with parameters only.

Decides how statements of others are checked, sent and grouped into transactions; never
what they say, and never how iaflow keeps its own facts. Called by steps, hosts and the importer.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any, Self, TypeVar

import sqlalchemy as sa

from iaflow.concurrency import run_blocking
from iaflow.database import migrator
from iaflow.database.dialects import SQLITE, Database
from iaflow.database.foreign_sql import ForeignStatement, read_statement
from iaflow.errors import NotReachable
from iaflow.settings import hide_password

__all__ = ["DatabaseManager", "Transaction"]

T = TypeVar("T")
Params = Mapping[str, Any] | None

WAIT_SECONDS = 30.0
CONNECT_SECONDS = 5


class Transaction:
    """
    Statements on one connection that are kept together or not at all.

    From `DatabaseManager.transaction`. Once a statement has failed or was cancelled, the
    transaction cannot be kept any more, on either dialect. Tasks may share it; their
    statements run one after the other.
    """

    def __init__(self, manager: DatabaseManager, lane: _Lane, session: _Session) -> None:
        self.manager = manager
        self.is_open = True
        self._lane = lane
        self._session = session
        self._has_failed = False

    async def fetch_all(self, sql: str, params: Params = None) -> list[dict[str, Any]]:
        """Run one statement and return its rows; as `DatabaseManager.fetch_all`."""
        return await self._run(self.manager._read(sql, params), _all_rows)

    async def fetch_one(self, sql: str, params: Params = None) -> dict[str, Any] | None:
        """Run one statement and return its first row; as `DatabaseManager.fetch_one`."""
        return await self._run(self.manager._read(sql, params), _first_row)

    async def execute(self, sql: str, params: Params = None) -> int:
        """Run one statement and return how many rows it touched; as `DatabaseManager.execute`."""
        return await self._run(self.manager._read(sql, params), _count_rows)

    async def _run(
        self, statement: ForeignStatement, read: Callable[[sa.CursorResult[Any]], T]
    ) -> T:
        if not self.is_open:
            raise RuntimeError("this transaction has ended; open another one")
        if self._has_failed:
            raise RuntimeError(
                "a statement of this transaction failed; leave it and open another one"
            )
        try:
            return await self._lane.run(
                lambda: self._session.run(statement, read), interrupt=self._session.interrupt
            )
        except BaseException:
            self._has_failed = True
            raise

    async def _keep(self) -> None:
        if self._has_failed:
            # Postgres would answer such a COMMIT with a silent ROLLBACK.
            raise RuntimeError("a statement of this transaction failed, so nothing of it was kept")
        await self._lane.run(self._session.commit)


class DatabaseManager:
    """
    A database for steps and applications: what a step gets from ``self.get_db()``.

    Values travel only as parameters (``:name``, on both dialects); ``IN :names`` takes a
    list. Objects and lists are sent as JSON text, instants on SQLite as ISO 8601 in UTC.
    Statements run in threads of their own, so that an event loop is never blocked; a
    statement whose task is cancelled is interrupted and has ended when the task goes on.
    On SQLite one connection serves all tasks in turn. Safe in any number of tasks, loops
    and threads; after a fork, the child opens its own connections.

    Args:
        url: ``sqlite:///path``, ``sqlite://`` (in memory) or ``postgresql://…``.
        schema: the Postgres schema of iaflow's own tables, for `database` and `migrate`.
        connections: how many connections there are at most, on Postgres.
        read_only: refuse every write, by the database itself.
        statement_seconds: Postgres ends a statement that takes longer, in seconds.

    Raises:
        SettingsRefused: the URL cannot be read, or names another database.
    """

    def __init__(
        self,
        url: str,
        *,
        schema: str = "iaflow",
        connections: int = 8,
        read_only: bool = False,
        statement_seconds: float = 60.0,
    ) -> None:
        self.url = url
        self.database = Database(url, schema=schema)
        self._connections = 1 if self.database.dialect == SQLITE else connections
        self._read_only = read_only
        self._statement_seconds = statement_seconds
        self._guard = threading.Lock()
        self._lanes: _Lanes | None = None

    def __repr__(self) -> str:
        return f"DatabaseManager({hide_password(self.url)!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def fetch_all(self, sql: str, params: Params = None) -> list[dict[str, Any]]:
        """
        Run one statement, as a transaction of its own, and return its rows.

        Args:
            sql: one statement; a colon in front of a name makes it a parameter.
            params: a value for each name in `sql`, neither more nor fewer.

        Returns:
            one dict per row, by column name; empty for a statement that has no rows.

        Raises:
            ValueError: several statements, or parameters that do not match.
            RuntimeError: used inside a transaction of the same task: use the transaction.
            NotReachable: the database cannot be connected to.
            sqlalchemy.exc.DBAPIError: the database refuses the statement.
        """
        return await self._run_alone(sql, params, _all_rows)

    async def fetch_one(self, sql: str, params: Params = None) -> dict[str, Any] | None:
        """Run one statement and return its first row, or None; else as `fetch_all`."""
        return await self._run_alone(sql, params, _first_row)

    async def execute(self, sql: str, params: Params = None) -> int:
        """Run one statement and return how many rows it touched; else as `fetch_all`."""
        return await self._run_alone(sql, params, _count_rows)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """
        Give a transaction on one connection: kept at the end, undone on any exception.

        Inside it, the task uses what it is given; the manager itself is refused there,
        because on SQLite it would wait for its own transaction for ever.

        Raises:
            RuntimeError: opened inside another transaction of the same task and manager, or
                a statement failed and its exception was caught inside.
            NotReachable: the database cannot be connected to.
            TimeoutError: all connections were busy for 30 s.
        """
        async with self._opened(in_transaction=True) as transaction:
            _OPEN.set((*(one for one in _OPEN.get() if one.is_open), transaction))
            yield transaction

    def quote_identifier(self, name: str) -> str:
        """
        Return a table's or column's name quoted, for names that cannot be parameters.

        Raises:
            ValueError: the name is empty or holds a NUL.
        """
        if not isinstance(name, str) or not name or "\x00" in name:
            raise ValueError("an identifier is a string of at least one character, without NUL")
        return '"' + name.replace('"', '""') + '"'

    async def migrate(self) -> None:
        """Bring iaflow's own tables in this database to the newest revision; see `migrator`."""
        await run_blocking(self.migrate_now)

    def migrate_now(self) -> None:
        """Do what `migrate` does, from code without an event loop."""
        migrator.upgrade(self.database)

    async def close(self) -> None:
        """Close all connections; a database in memory is gone. May be called twice."""
        await run_blocking(self._close)

    def _close(self) -> None:
        with self._guard:
            lanes, self._lanes = self._lanes, None
        if lanes is not None and lanes.pid == os.getpid():
            lanes.close()
        self.database.close()

    # -- one statement, one transaction

    async def _run_alone(
        self, sql: str, params: Params, read: Callable[[sa.CursorResult[Any]], T]
    ) -> T:
        statement = self._read(sql, params)
        async with self._opened(in_transaction=False) as transaction:
            return await transaction._run(statement, read)

    @asynccontextmanager
    async def _opened(self, *, in_transaction: bool) -> AsyncIterator[Transaction]:
        if any(one.manager is self and one.is_open for one in _OPEN.get()):
            raise RuntimeError(
                "this task is inside a transaction of the same database: use what "
                "`async with db.transaction() as tx` gave it (tx.fetch_all, …), not the database"
            )
        async with self._take_lanes().taken() as lane:
            session = _Session(self, lane.engine, in_transaction=in_transaction)
            transaction = Transaction(self, lane, session)
            try:
                await lane.run(session.open)
                yield transaction
                await transaction._keep()
            finally:
                transaction.is_open = False
                await lane.run(session.close)

    def _read(self, sql: str, params: Params) -> ForeignStatement:
        return read_statement(self.database.dialect, sql, params)

    # -- connecting

    def _take_lanes(self) -> _Lanes:
        lanes = self._lanes
        if lanes is None or lanes.pid != os.getpid():
            with self._guard:
                lanes = self._lanes
                # Threads and sockets stay behind in the parent of a fork.
                if lanes is None or lanes.pid != os.getpid():
                    lanes = self._lanes = _Lanes(self._build_engine(), self._connections)
        return lanes

    def _build_engine(self) -> sa.Engine:
        if self.database.dialect == SQLITE:
            return self.database.engine
        milliseconds = round(self._statement_seconds * 1000)
        return sa.create_engine(
            self.database.url,
            hide_parameters=True,
            pool_pre_ping=True,
            pool_size=self._connections,
            max_overflow=0,
            connect_args={
                "connect_timeout": CONNECT_SECONDS,
                "application_name": "iaflow-db",
                "options": f"-c timezone=UTC -c statement_timeout={milliseconds} "
                f"-c default_transaction_read_only={'on' if self._read_only else 'off'}",
            },
        )


# Those that the current task has opened, or was started in.
_OPEN: ContextVar[tuple[Transaction, ...]] = ContextVar("iaflow_open_transactions", default=())


# --- reading results, in the thread of the connection


def _all_rows(result: sa.CursorResult[Any]) -> list[dict[str, Any]]:
    if not result.returns_rows:
        return []
    columns = _columns(result)
    return [_as_dict(columns, row) for row in result]


def _first_row(result: sa.CursorResult[Any]) -> dict[str, Any] | None:
    if not result.returns_rows:
        return None
    columns = _columns(result)
    row = result.first()
    return None if row is None else _as_dict(columns, row)


def _count_rows(result: sa.CursorResult[Any]) -> int:
    # SQLite knows the count of a RETURNING only when its rows are read.
    return len(result.all()) if result.returns_rows else max(result.rowcount, 0)


def _columns(result: sa.CursorResult[Any]) -> Sequence[str]:
    columns = list(result.keys())
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise ValueError(f"several columns are named {', '.join(twice)}: name them apart with AS")
    return columns


def _as_dict(columns: Sequence[str], row: sa.Row[Any]) -> dict[str, Any]:
    return {
        name: bytes(value) if isinstance(value, memoryview) else value
        for name, value in zip(columns, row, strict=True)
    }


# --- connections and their threads


class _Session:
    """One connection for one transaction; all but `interrupt` runs in the lane's thread."""

    def __init__(
        self, manager: DatabaseManager, engine: sa.Engine, *, in_transaction: bool
    ) -> None:
        self._manager = manager
        self._engine = engine
        self._in_transaction = in_transaction
        self._held = ExitStack()
        self._connection: sa.Connection | None = None
        self._raw: Any = None
        self._was_interrupted = False

    def open(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(self._manager.database.alone())
            with self._reaching():
                connection = stack.enter_context(self._engine.connect())
            if self._engine.dialect.name == SQLITE:
                self._begin_sqlite(connection, stack)
            elif not self._in_transaction:
                connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            self._raw = connection.connection.dbapi_connection
            self._connection = connection
            self._held = stack.pop_all()

    def run(self, statement: ForeignStatement, read: Callable[[sa.CursorResult[Any]], T]) -> T:
        assert self._connection is not None
        with self._connection.execute(statement.clause, statement.values) as result:
            return read(result)

    def commit(self) -> None:
        assert self._connection is not None
        self._connection.commit()

    def close(self) -> None:
        """Undo what was not committed and give the connection back; nothing if never opened."""
        connection, self._connection, self._raw = self._connection, None, None
        if connection is not None and self._was_interrupted and self._manager.database.schema:
            # A late cancel request must not meet the connection's next user.
            connection.invalidate()
        elif connection is not None:
            connection.rollback()
        self._held.close()

    def interrupt(self) -> None:
        """End the running statement, from another thread; a statement that ended is no harm."""
        raw = self._raw
        if raw is None:
            return
        self._was_interrupted = True
        if self._engine.dialect.name == SQLITE:
            raw.interrupt()
        else:
            # Speaks with the server, on a connection of its own.
            threading.Thread(target=raw.cancel, name="iaflow-db-cancel", daemon=True).start()

    def _begin_sqlite(self, connection: sa.Connection, stack: ExitStack) -> None:
        if self._manager._read_only:
            connection.exec_driver_sql("PRAGMA query_only=ON")
            stack.callback(connection.exec_driver_sql, "PRAGMA query_only=OFF")
        if self._in_transaction:
            # At once for writing: a reader that becomes a writer can be refused halfway.
            connection.exec_driver_sql("BEGIN" if self._manager._read_only else "BEGIN IMMEDIATE")

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.OperationalError as error:
            shown = hide_password(self._manager.url)
            raise NotReachable(
                f"the database {shown} cannot be reached: {error.orig}".strip()
            ) from error


class _Lane:
    """
    A thread that serves one session at a time.

    Why not the loop's own threads: tasks that wait for a lock of the database could take
    all of them, and the transaction that holds the lock would find none to go on.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="iaflow-db")

    async def run(
        self, function: Callable[[], T], *, interrupt: Callable[[], None] | None = None
    ) -> T:
        """Run `function` in the thread; if the task is cancelled, interrupt it and wait for its end."""
        running = asyncio.wrap_future(self._thread.submit(function))
        cancelled: asyncio.CancelledError | None = None
        while not running.done():
            try:
                await asyncio.wait([running])
            except asyncio.CancelledError as error:
                if cancelled is None and interrupt is not None:
                    interrupt()
                cancelled = error
        if cancelled is not None:
            running.exception()
            raise cancelled
        return running.result()

    def close(self) -> None:
        self._thread.shutdown()


class _Lanes:
    """The lanes of one process, lent to tasks of any event loop in the order of asking."""

    def __init__(self, engine: sa.Engine, number: int) -> None:
        self.pid = os.getpid()
        self._engine = engine
        self._all = [_Lane(engine) for _ in range(number)]
        self._idle = list(self._all)
        self._waiting: deque[Future[_Lane]] = deque()
        self._guard = threading.Lock()

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[_Lane]:
        lane = await self._take()
        try:
            yield lane
        finally:
            self._give_back(lane)

    def close(self) -> None:
        for lane in self._all:
            lane.close()
        self._engine.dispose()

    async def _take(self) -> _Lane:
        with self._guard:
            if self._idle:
                return self._idle.pop()
            turn: Future[_Lane] = Future()
            self._waiting.append(turn)
        try:
            await asyncio.wait([asyncio.wrap_future(turn)], timeout=WAIT_SECONDS)
        except asyncio.CancelledError:
            self._give_up(turn)
            raise
        if not turn.done():
            self._give_up(turn)
            raise TimeoutError(
                f"all connections to the database were busy for {WAIT_SECONDS:g} s: "
                "is a transaction kept open while it waits for something else?"
            )
        return turn.result()

    def _give_up(self, turn: Future[_Lane]) -> None:
        if not turn.cancel():
            self._give_back(turn.result())

    def _give_back(self, lane: _Lane) -> None:
        with self._guard:
            while self._waiting:
                turn = self._waiting.popleft()
                if turn.set_running_or_notify_cancel():
                    turn.set_result(lane)
                    return
            self._idle.append(lane)
