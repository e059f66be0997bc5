"""The transaction that the effects of a step's code share with the record of its completion.

Decides how a step's statements are kept open until its end is known; never what that end is
(the engine settles inside this transaction, then commits it). Opened by a step's context.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from types import TracebackType
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa

from iaflow.database.dialects import Database, is_outage
from iaflow.database.foreign_sql import read_statement
from iaflow.database.lanes import Lane, Reader, Session, Source
from iaflow.database.rows import all_rows, count_rows, first_row

__all__ = ["AsyncTransaction", "Effects", "Gate", "StepTransaction", "TransactionBlock"]

T = TypeVar("T")
Params = Mapping[str, Any] | None

_SAVEPOINT = "iaflow_block"


class Gate(Protocol):
    """What keeps others off a database that has one writer, while a transaction is open."""

    async def acquire(self) -> Any:
        """Wait until nobody else has it."""
        ...

    def release(self) -> None:
        """Let the others go on."""
        ...


class Effects:
    """
    One attempt's transaction: begun by the first block, committed with the step's completion.

    Args:
        database: iaflow's own, where the completion is recorded.
        loop: where the attempt runs.
        gate: see `Gate`; None: the database takes many writers.

    Attributes:
        was_lost: the connection was lost while statements ran: nothing of it will happen.
    """

    def __init__(
        self, database: Database, loop: asyncio.AbstractEventLoop, gate: Gate | None = None
    ) -> None:
        self._database = database
        self._loop = loop
        self._gate = gate
        self._holds_gate = False
        self._session: Session | None = None
        self._lane: Lane | None = None
        self._depth = 0
        self.was_lost = False

    @property
    def is_begun(self) -> bool:
        """Tell whether there is a transaction."""
        return self._session is not None

    @property
    def connection(self) -> sa.Connection:
        """The open connection, for what is to be committed with it."""
        assert self._session is not None
        return self._session.connection

    def commit(self) -> None:
        """Keep everything that was done; the connection goes back."""
        assert self._session is not None
        self._session.commit()
        self.close()

    def close(self) -> None:
        """Undo what was not committed, and give the connection back; may be called twice."""
        session, self._session = self._session, None
        lane, self._lane = self._lane, None
        try:
            if session is not None:
                # Of a connection that is gone there is nothing left to undo.
                with suppress(sa.exc.DBAPIError):
                    session.close()
            if lane is not None:
                lane.close()
        finally:
            if self._holds_gate and self._gate is not None:
                self._holds_gate = False
                self._call_on_loop(self._gate.release)

    # -- for blocks

    async def begin_block(self) -> None:
        """Begin the transaction if there is none, and mark where the block begins."""
        if self._depth:
            raise RuntimeError("a block of this step's transaction is open: end it first")
        if self._session is None:
            if self._gate is not None:
                await self._gate.acquire()
                self._holds_gate = True
            self._lane = Lane()
            session = Session(
                Source(
                    self._database.engine,
                    nullcontext,
                    is_read_only=False,
                    shown=self._database.url.render_as_string(hide_password=True),
                )
            )
            await self._send(self._lane, session.begin)
            self._session = session
        await self._execute(f"SAVEPOINT {_SAVEPOINT}")
        self._depth = 1

    async def end_block(self, *, keep: bool) -> None:
        """End the block: what it did stays in the transaction, or is undone."""
        self._depth = 0
        if not keep:
            await self._execute(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
        await self._execute(f"RELEASE SAVEPOINT {_SAVEPOINT}")

    async def run(self, sql: str, params: Params, read: Reader[T]) -> T:
        """Run one statement of the step's code and return what `read` makes of its result."""
        session, lane = self._session, self._lane
        if session is None or lane is None or not self._depth:
            raise RuntimeError("this transaction has ended: open it in a `with` block")
        statement = read_statement(self._database.dialect, sql, params)
        return await self._send(
            lane, lambda: session.run(statement, read), interrupt=session.interrupt
        )

    def wait(self, coroutine: Any) -> Any:
        """Run a coroutine of this class from the thread of a plain `def work`."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _execute(self, sql: str) -> None:
        assert self._lane is not None
        assert self._session is not None
        connection = self._session.connection
        await self._send(self._lane, lambda: connection.exec_driver_sql(sql).close())

    async def _send(
        self,
        lane: Lane,
        call: Callable[[], T],
        interrupt: Callable[[], None] | None = None,
    ) -> T:
        try:
            return await lane.run(call, interrupt=interrupt)
        except Exception as error:
            self.was_lost = self.was_lost or is_outage(error)
            raise

    def _call_on_loop(self, call: Callable[[], None]) -> None:
        try:
            is_here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            is_here = False
        if is_here:
            call()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call)


class AsyncTransaction:
    """Statements of an `async def work`; parameters are ``:name``, as in `DatabaseManager`."""

    def __init__(self, effects: Effects) -> None:
        self._effects = effects

    async def fetch_all(self, sql: str, params: Params = None) -> list[dict[str, Any]]:
        """Run one statement and return its rows."""
        return await self._effects.run(sql, params, all_rows)

    async def fetch_one(self, sql: str, params: Params = None) -> dict[str, Any] | None:
        """Run one statement and return its first row, or None."""
        return await self._effects.run(sql, params, first_row)

    async def execute(self, sql: str, params: Params = None) -> int:
        """Run one statement and return how many rows it touched."""
        return await self._effects.run(sql, params, count_rows)


class StepTransaction:
    """Statements of a plain `def work`, which waits for them."""

    def __init__(self, effects: Effects) -> None:
        self._effects = effects

    def fetch_all(self, sql: str, params: Params = None) -> list[dict[str, Any]]:
        """Run one statement and return its rows."""
        rows: list[dict[str, Any]] = self._effects.wait(self._effects.run(sql, params, all_rows))
        return rows

    def fetch_one(self, sql: str, params: Params = None) -> dict[str, Any] | None:
        """Run one statement and return its first row, or None."""
        row: dict[str, Any] | None = self._effects.wait(self._effects.run(sql, params, first_row))
        return row

    def execute(self, sql: str, params: Params = None) -> int:
        """Run one statement and return how many rows it touched."""
        count: int = self._effects.wait(self._effects.run(sql, params, count_rows))
        return count


class TransactionBlock:
    """
    What `self.context.transaction()` returns: for ``async with``, or ``with`` in a plain `def`.

    What is done inside is kept when the step's completion is recorded, in the same commit:
    both happen, or neither. If the block is left by an exception, what it did is undone.
    """

    def __init__(self, effects: Effects) -> None:
        self._effects = effects

    async def __aenter__(self) -> AsyncTransaction:
        await self._effects.begin_block()
        return AsyncTransaction(self._effects)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._effects.end_block(keep=error is None)

    def __enter__(self) -> StepTransaction:
        self._effects.wait(self._effects.begin_block())
        return StepTransaction(self._effects)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._effects.wait(self._effects.end_block(keep=error is None))
