"""Threads that each serve one connection at a time, lent to tasks of any event loop.

Decides who waits for a connection, what a cancelled statement leaves behind, and when a
connection goes back; never what is sent. Called by the database manager only.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa

from iaflow.database.foreign_sql import ForeignStatement
from iaflow.database.statements import SQLITE
from iaflow.errors import NotReachable

__all__ = ["Lane", "Lanes", "Reader", "Session", "Source"]

T = TypeVar("T")
Reader = Callable[[sa.CursorResult[Any]], T]

WAIT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Source:
    """
    Where sessions get their connections.

    Attributes:
        engine: opens them; of one process.
        alone: keeps other threads off a connection that all share; held by a session.
        is_read_only: whether SQLite must refuse writes; on Postgres the engine sees to it.
        shown: the URL without its password, for messages.
    """

    engine: sa.Engine
    alone: Callable[[], AbstractContextManager[object]]
    is_read_only: bool
    shown: str

    @property
    def is_sqlite(self) -> bool:
        """Tell whether the connections are SQLite's."""
        return self.engine.dialect.name == SQLITE


class Session:
    """
    One connection for one transaction, or for one statement outside any.

    All but `interrupt` runs in the thread of one lane.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._held = ExitStack()
        self._connection: sa.Connection | None = None
        self._raw: Any = None
        self._was_interrupted = False

    @property
    def connection(self) -> sa.Connection:
        """The connection that is taken."""
        assert self._connection is not None
        return self._connection

    def begin(self) -> None:
        """
        Take a connection and begin a transaction on it.

        Raises:
            NotReachable: the database cannot be connected to.
        """
        self._open(in_transaction=True)

    def run(self, statement: ForeignStatement, read: Reader[T]) -> T:
        """Run one statement and return what `read` makes of its result."""
        assert self._connection is not None
        with self._connection.execute(statement.clause, statement.values) as result:
            return read(result)

    def run_alone(self, statement: ForeignStatement, read: Reader[T]) -> T:
        """Take a connection, run one statement as a transaction of its own, and give it back."""
        try:
            self._open(in_transaction=False)
            return self.run(statement, read)
        finally:
            self.close()

    def commit(self) -> None:
        """Keep what was done since `begin`."""
        assert self._connection is not None
        self._connection.commit()

    def close(self) -> None:
        """Undo what was not committed and give the connection back; nothing if never opened."""
        connection, self._connection, self._raw = self._connection, None, None
        try:
            if connection is None:
                return
            if self._was_interrupted and not self._source.is_sqlite:
                # A late request to cancel must not meet the connection's next user.
                connection.invalidate()
            else:
                connection.rollback()
        finally:
            self._held.close()

    def interrupt(self) -> None:
        """End the running statement, from another thread; harmless if it has just ended."""
        raw = self._raw
        if raw is None:
            return
        self._was_interrupted = True
        if self._source.is_sqlite:
            raw.interrupt()
        else:
            # Speaks with the server on a connection of its own, so it may take a while.
            threading.Thread(target=raw.cancel, name="iaflow-db-cancel", daemon=True).start()

    def _open(self, *, in_transaction: bool) -> None:
        with ExitStack() as stack:
            stack.enter_context(self._source.alone())
            with self._reaching():
                connection = stack.enter_context(self._source.engine.connect())
            if self._source.is_sqlite:
                self._begin_sqlite(connection, stack, in_transaction=in_transaction)
            elif self._source.is_read_only:
                # With each transaction: a pooler drops what a connection asks for at its start.
                connection = connection.execution_options(postgresql_readonly=True)
            elif not in_transaction:
                connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            self._raw = connection.connection.dbapi_connection
            self._connection = connection
            self._held = stack.pop_all()

    def _begin_sqlite(
        self, connection: sa.Connection, stack: ExitStack, *, in_transaction: bool
    ) -> None:
        if self._source.is_read_only:
            connection.exec_driver_sql("PRAGMA query_only=ON")
            stack.callback(connection.exec_driver_sql, "PRAGMA query_only=OFF")
        if in_transaction:
            # At once for writing: a reader that becomes a writer can be refused halfway.
            connection.exec_driver_sql("BEGIN" if self._source.is_read_only else "BEGIN IMMEDIATE")

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.OperationalError as error:
            raise NotReachable(
                f"the database {self._source.shown} cannot be reached: {error.orig}".strip()
            ) from error


class Lane:
    """
    A thread that serves one session at a time.

    Why not the loop's own threads: tasks that wait for a lock of the database could take
    all of them, and the transaction that holds the lock would find none to go on.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="iaflow-db")

    async def run(
        self, function: Callable[[], T], *, interrupt: Callable[[], None] | None = None
    ) -> T:
        """
        Run `function` in the thread and return its result.

        If the task is cancelled, `interrupt` is called, and the task goes on only when
        `function` has ended: nothing of it happens later.
        """
        running = asyncio.get_running_loop().run_in_executor(self._thread, function)
        cancelled: asyncio.CancelledError | None = None
        while not running.done():
            try:
                await asyncio.wait([running])
            except asyncio.CancelledError as error:
                if cancelled is None and interrupt is not None:
                    interrupt()
                cancelled = error
        if cancelled is not None:
            running.exception()  # looked at, so that asyncio does not report it as forgotten
            raise cancelled
        return running.result()

    def close(self) -> None:
        """End the thread when it has done what it was given."""
        self._thread.shutdown()


class Lanes:
    """
    The lanes of one process, lent in the order of asking.

    Args:
        source: where the sessions on these lanes get their connections.
        number: how many there are, and so how many connections at most.
    """

    def __init__(self, source: Source, number: int) -> None:
        self.source = source
        self._pid = os.getpid()
        self._all = [Lane() for _ in range(number)]
        self._idle = list(self._all)
        self._waiting: deque[Future[Lane]] = deque()
        self._guard = threading.Lock()

    @property
    def is_of_this_process(self) -> bool:
        """Tell whether the threads and connections are here, not in the parent of a fork."""
        return self._pid == os.getpid()

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[Lane]:
        """
        Lend a lane, after those who asked before.

        Raises:
            TimeoutError: none came free for 30 s.
        """
        lane = await self._take()
        try:
            yield lane
        finally:
            self._give_back(lane)

    def close(self) -> None:
        """End the threads and close the connections; waits for what is running."""
        for lane in self._all:
            lane.close()
        self.source.engine.dispose()

    async def _take(self) -> Lane:
        with self._guard:
            if self._idle:
                return self._idle.pop()
            turn: Future[Lane] = Future()
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

    def _give_up(self, turn: Future[Lane]) -> None:
        if not turn.cancel():
            # It came in the same instant.
            self._give_back(turn.result())

    def _give_back(self, lane: Lane) -> None:
        with self._guard:
            while self._waiting:
                turn = self._waiting.popleft()
                if turn.set_running_or_notify_cancel():
                    turn.set_result(lane)
                    return
            self._idle.append(lane)
