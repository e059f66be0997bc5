"""The database as steps and applications are given it: awaitable SQL, with parameters only.

Decides what a task may do with it and what it gets back; never what the statements say,
and never how iaflow keeps its own facts. Called by steps, hosts and the importer.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, Self, TypeVar

import sqlalchemy as sa

from iaflow.concurrency import run_blocking
from iaflow.database import migrator
from iaflow.database.dialects import Database
from iaflow.database.foreign_sql import read_statement
from iaflow.database.lanes import Lane, Lanes, Reader, Session, Source
from iaflow.database.rows import all_rows, count_rows, first_row
from iaflow.database.statements import SQLITE
from iaflow.settings import hide_password

__all__ = ["DatabaseManager", "Transaction"]

T = TypeVar("T")
Params = Mapping[str, Any] | None

CONNECT_SECONDS = 5


class Transaction:
    """
    Statements on one connection that are kept together or not at all.

    From `DatabaseManager.transaction`. Once a statement has failed or was cancelled, the
    transaction cannot be kept any more, on either dialect. Tasks may share it; their
    statements run one after the other.
    """

    def __init__(self, manager: DatabaseManager, lane: Lane, session: Session) -> None:
        self.manager = manager
        self.is_open = True
        self.has_failed = False
        self._lane = lane
        self._session = session

    async def fetch_all(self, sql: str, params: Params = None) -> list[dict[str, Any]]:
        """Run one statement and return its rows; as `DatabaseManager.fetch_all`."""
        return await self._run(sql, params, all_rows)

    async def fetch_one(self, sql: str, params: Params = None) -> dict[str, Any] | None:
        """Run one statement and return its first row; as `DatabaseManager.fetch_one`."""
        return await self._run(sql, params, first_row)

    async def execute(self, sql: str, params: Params = None) -> int:
        """Run one statement and return how many rows it touched; as `DatabaseManager.execute`."""
        return await self._run(sql, params, count_rows)

    async def _run(self, sql: str, params: Params, read: Reader[T]) -> T:
        statement = read_statement(self.manager.database.dialect, sql, params)
        if not self.is_open:
            raise RuntimeError("this transaction has ended: open another one")
        if self.has_failed:
            raise RuntimeError("a statement of this transaction failed: open another one")
        try:
            return await self._lane.run(
                lambda: self._session.run(statement, read), interrupt=self._session.interrupt
            )
        except BaseException:
            self.has_failed = True
            raise


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
        self._lanes: Lanes | None = None

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
        return await self._run_alone(sql, params, all_rows)

    async def fetch_one(self, sql: str, params: Params = None) -> dict[str, Any] | None:
        """Run one statement and return its first row, or None; else as `fetch_all`."""
        return await self._run_alone(sql, params, first_row)

    async def execute(self, sql: str, params: Params = None) -> int:
        """Run one statement and return how many rows it touched; else as `fetch_all`."""
        return await self._run_alone(sql, params, count_rows)

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
        self._refuse_nesting()
        lanes = self._take_lanes()
        async with lanes.taken() as lane:
            session = Session(lanes.source)
            transaction = Transaction(self, lane, session)
            try:
                await lane.run(session.begin)
                _OPEN.set((*(one for one in _OPEN.get() if one.is_open), transaction))
                yield transaction
                if transaction.has_failed:
                    # Postgres would answer the COMMIT with a silent ROLLBACK.
                    raise RuntimeError(
                        "a statement of this transaction failed, so nothing of it was kept"
                    )
                await lane.run(session.commit)
            finally:
                transaction.is_open = False
                await lane.run(session.close)

    def quote_identifier(self, name: str) -> str:
        """
        Return a table's or column's name quoted, for names that cannot be parameters.

        Raises:
            ValueError: the name is empty or holds a NUL.
        """
        if not name or "\x00" in name:
            raise ValueError("an identifier has at least one character, and no NUL")
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
        if lanes is not None and lanes.is_of_this_process:
            lanes.close()
        self.database.close()

    async def _run_alone(self, sql: str, params: Params, read: Reader[T]) -> T:
        statement = read_statement(self.database.dialect, sql, params)
        self._refuse_nesting()
        lanes = self._take_lanes()
        async with lanes.taken() as lane:
            session = Session(lanes.source)
            return await lane.run(
                lambda: session.run_alone(statement, read), interrupt=session.interrupt
            )

    def _refuse_nesting(self) -> None:
        if any(one.manager is self and one.is_open for one in _OPEN.get()):
            raise RuntimeError(
                "this task is inside a transaction of the same database: use what "
                "`async with db.transaction() as tx` gave it (tx.fetch_all, …), not the database"
            )

    def _take_lanes(self) -> Lanes:
        with self._guard:
            # Threads and sockets stay behind in the parent of a fork.
            if self._lanes is None or not self._lanes.is_of_this_process:
                source = Source(
                    self._build_engine(),
                    self.database.alone,
                    self._read_only,
                    hide_password(self.url),
                )
                self._lanes = Lanes(source, self._connections)
            return self._lanes

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
