"""The client for code on an event loop: the same verbs, each in a thread.

Decides nothing: it is the client, awaited. Used by asynchronous services.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from iaflow.client import Client
from iaflow.concurrency import run_blocking
from iaflow.data.accounts import Asked
from iaflow.data.filters import EVERY_RUN, RunFilter
from iaflow.data.records import PauseRecord, RunRecord, StepRecord
from iaflow.pipeline.engine import Settled, Started
from iaflow.settings import Settings

__all__ = ["AsyncClient"]

P = ParamSpec("P")
T = TypeVar("T")


class AsyncClient:
    """
    `Client` for asyncio; arguments, results and errors are those of its methods.

    Use it in an `async with`, or call `close`. Starting inside a caller's transaction is for
    synchronous drivers: with SQLAlchemy's `AsyncSession` call the `client` inside `run_sync`.

    Args:
        database_url, broker_url, settings: as for `Client`.
    """

    def __init__(
        self,
        database_url: str | None = None,
        *,
        broker_url: str | None = None,
        settings: Settings | None = None,
    ) -> None:
        self._open: tuple[str | None, str | None, Settings | None] = (
            database_url,
            broker_url,
            settings,
        )
        self._client: Client | None = None
        self._lock = threading.Lock()

    async def __aenter__(self) -> Self:
        await run_blocking(self._connect)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def client(self) -> Client:
        """The synchronous client behind this one."""
        return self._connect()

    async def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            await run_blocking(self._client.close)

    async def start(
        self,
        slug: str,
        given: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        started_by: str | None = None,
    ) -> Started:
        """Start a run; see `Client.start`."""
        return await self._call(Client.start, slug, given, key=key, started_by=started_by)

    async def wait(self, run_id: str, *, timeout: float | None = None) -> RunRecord:  # noqa: ASYNC109
        """Wait until a run rests; see `Client.wait`."""
        return await self._call(Client.wait, run_id, timeout=timeout)

    async def run(self, run_id: str) -> RunRecord:
        """Return a run; see `Client.run`."""
        return await self._call(Client.run, run_id)

    async def runs(
        self, wanted: RunFilter = EVERY_RUN, *, before: str | None = None, limit: int = 50
    ) -> list[RunRecord]:
        """Return runs, the newest first; see `Client.runs`."""
        return await self._call(Client.runs, wanted, before=before, limit=limit)

    async def steps(self, run_id: str) -> list[StepRecord]:
        """Return the steps of a run; see `Client.steps`."""
        return await self._call(Client.steps, run_id)

    async def inbox(
        self,
        run_id: str | None = None,
        *,
        asked: Asked | None = None,
        after: str | None = None,
        limit: int = 200,
    ) -> list[PauseRecord]:
        """Return the open questions; see `Client.inbox`."""
        return await self._call(Client.inbox, run_id, asked=asked, after=after, limit=limit)

    async def reassign(
        self, pause_id: str, assignees: Mapping[str, Any], *, by: str, asked: Asked | None = None
    ) -> PauseRecord:
        """Ask others; see `Client.reassign`."""
        return await self._call(Client.reassign, pause_id, assignees, by=by, asked=asked)

    async def answer(
        self,
        pause_id: str,
        answer: Mapping[str, Any],
        *,
        answered_by: str,
        roles: Collection[str] = (),
        is_admin: bool = False,
        key: str | None = None,
        digest: str | None = None,
        asked: Asked | None = None,
    ) -> PauseRecord:
        """Accept an answer; see `Client.answer`."""
        return await self._call(
            Client.answer,
            pause_id,
            answer,
            answered_by=answered_by,
            roles=roles,
            is_admin=is_admin,
            key=key,
            digest=digest,
            asked=asked,
        )

    async def signal(
        self,
        run_id: str,
        name: str,
        payload: Mapping[str, Any] | None = None,
        *,
        sent_by: str,
        key: str | None = None,
    ) -> tuple[PauseRecord, ...]:
        """Give a signal to a run; see `Client.signal`."""
        return await self._call(Client.signal, run_id, name, payload, sent_by=sent_by, key=key)

    async def cancel(
        self, run_id: str, *, step_id: str | None = None, reason: str = "", by: str | None = None
    ) -> Settled:
        """Cancel a run, or one step of it; see `Client.cancel`."""
        return await self._call(Client.cancel, run_id, step_id=step_id, reason=reason, by=by)

    async def retry(self, run_id: str, *, by: str | None = None) -> Settled:
        """Reopen a failed run; see `Client.retry`."""
        return await self._call(Client.retry, run_id, by=by)

    async def rerun(
        self,
        run_id: str,
        step_id: str,
        *,
        inputs: Mapping[str, Any] | None = None,
        started_by: str | None = None,
    ) -> Settled:
        """Make a new run from a step on; see `Client.rerun`."""
        return await self._call(Client.rerun, run_id, step_id, inputs=inputs, started_by=started_by)

    async def _call(
        self,
        method: Callable[Concatenate[Client, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        return await run_blocking(lambda: method(self._connect(), *args, **kwargs))

    def _connect(self) -> Client:
        with self._lock:
            if self._client is None:
                database_url, broker_url, settings = self._open
                self._client = Client(database_url, broker_url=broker_url, settings=settings)
            return self._client
