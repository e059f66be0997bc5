"""An executor that stays: whatever a process starts, it executes, in a thread of its own.

Decides when it looks at what time brings about, and how much works at once; never what a step's
end means. Given to a client in the place of a broker and workers, by a process that is all of it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from iaflow.data.records import StepTask
from iaflow.data.status import END_OF_RUN
from iaflow.pipeline.executors.local import LocalExecutor
from iaflow.pipeline.judging import Verb
from iaflow.pipeline.maintenance import Swept, stage, sweep, sweep_run
from iaflow.pipeline.settler import Settled
from iaflow.telemetry import get_logger

__all__ = ["ResidentExecutor"]

_log = get_logger(__name__)

LOOK_SECONDS: Final = 0.5
"""How often it looks at what others did to its runs, and at what is due, at least."""
LEAST_SECONDS: Final = 0.02
START_SECONDS: Final = 30.0


class ResidentExecutor:
    """
    Executes steps in this process until it is closed; an `Executor` for the client.

    What it is given it begins at once; what others left, timers, expiries and schedules it finds
    by looking, as workers do. Use it in a `with`.

    Args:
        local: executes; closed with this.
        sweep_seconds: between two looks at everything.
        republish_seconds: a ready step that nobody took up for so long is taken up anew.
        grace_seconds: how long steps that do not let themselves be stopped are waited for.
    """

    def __init__(
        self,
        local: LocalExecutor,
        *,
        sweep_seconds: float,
        republish_seconds: float,
        grace_seconds: float,
    ) -> None:
        self._local = local
        self._engine = local.engine
        self._sweep_seconds = sweep_seconds
        self._republish_seconds = republish_seconds
        self._grace_seconds = grace_seconds
        self._loop = asyncio.new_event_loop()
        self._queue: deque[StepTask] = deque()
        self._stepping: set[asyncio.Task[None]] = set()
        self._concluding: set[asyncio.Task[None]] = set()
        self._due_at: datetime | None = None
        self._woken = asyncio.Event()
        self._is_over = False
        self._has_begun = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="iaflow-resident", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Begin, with what an earlier process left; return once it takes steps."""
        self._thread.start()
        self._has_begun.wait(START_SECONDS)

    def close(self) -> None:
        """Stop; steps at work go back and burn no attempt."""
        if self._thread.is_alive():
            self._call(self._stop)
            self._thread.join(self._grace_seconds)

    # -- for the client, from any thread

    def submit(self, tasks: Iterable[StepTask]) -> int:
        """Take steps; return how many."""
        listed = list(tasks)
        return len(listed) if self._call(self._take, listed) else 0

    def submit_resume(self, pause_id: str, slug: str) -> bool:
        """Let a run go on from an accepted answer."""
        return self._call(self._conclude_soon, partial(self._engine.resume, pause_id))

    def depth(self) -> int | None:
        """Return how many steps wait for their turn here."""
        return len(self._queue)

    def _call(self, function: Callable[..., object], *args: Any) -> bool:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            # It was closed: the rows stay, and the next process finds them.
            return False
        return True

    # -- the thread

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._live())
        finally:
            self._engine.database.release_thread()
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    def _stop(self) -> None:
        self._is_over = True
        self._woken.set()

    async def _live(self) -> None:
        async with self._local:
            await self._try(self._take_up)
            self._has_begun.set()
            swept_at = float("-inf")
            while not self._is_over:
                await self._local.clear()
                if time.monotonic() - swept_at >= self._sweep_seconds:
                    await self._try(self._sweep)
                    swept_at = time.monotonic()
                else:
                    await self._try(self._stage)
                await self._try(self._stop_cancelled)
                await self._rest()
            working = [*self._stepping, *self._concluding]
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)

    async def _rest(self) -> None:
        wait = LOOK_SECONDS
        if self._due_at is not None:
            until = (self._due_at - self._engine.clock.now()).total_seconds()
            wait = max(LEAST_SECONDS, min(wait, until))
            if until <= 0:
                self._due_at = None
        try:
            async with asyncio.timeout(wait):
                await self._woken.wait()
        except TimeoutError:
            return
        self._woken.clear()

    async def _take_up(self) -> None:
        """Go on with the runs that an earlier process did not end."""
        for run_id in self._engine.reads.unfinished():
            await self._carry_out(sweep_run(self._engine, run_id))

    async def _stage(self) -> None:
        await self._carry_out(stage(self._engine))

    async def _sweep(self) -> None:
        republish = self._republish_seconds
        await self._carry_out(sweep(self._engine, republish_seconds=republish, depth=self.depth))
        while await self._local.courier.deliver():
            continue

    async def _stop_cancelled(self) -> None:
        """Stop steps whose run others have ended."""
        for run_id in self._local.runs_at_work():
            if self._engine.reads.run_status(run_id) in END_OF_RUN:
                self._local.stop(run_id)

    async def _carry_out(self, swept: Swept) -> None:
        self._take(swept.tasks)
        for duty in swept.duties:
            await self._local.clear()
            try:
                self._note(await self._local.conclude(duty.verb))
            except Exception as error:  # noqa: BLE001  one row that resists keeps no other waiting
                _log.error("sweep left a row", duty=duty.name, row=duty.row, error=repr(error))

    async def _try(self, work: Callable[[], Any]) -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001  the next look does it all again
            _log.warning("look failed", error=repr(error))

    # -- on the loop

    def _take(self, tasks: Iterable[StepTask]) -> None:
        self._queue.extend(tasks)
        self._fill()

    def _fill(self) -> None:
        while self._queue and len(self._stepping) < self._local.max_parallel and not self._is_over:
            task = self._loop.create_task(self._execute(self._queue.popleft()))
            self._stepping.add(task)
            task.add_done_callback(self._go_on)

    def _go_on(self, done: asyncio.Task[None]) -> None:
        self._stepping.discard(done)
        self._fill()

    async def _execute(self, task: StepTask) -> None:
        try:
            settled = await self._local.execute(task)
        except Exception as error:  # noqa: BLE001  its claim ends with its lease, and is taken up
            _log.error("step left", run_id=task.run_id, step_id=task.step_id, error=repr(error))
            return
        if settled is not None:
            self._note(settled)

    def _conclude_soon(self, verb: Verb) -> None:
        task = self._loop.create_task(self._conclude(verb))
        self._concluding.add(task)
        task.add_done_callback(self._concluding.discard)

    async def _conclude(self, verb: Verb) -> None:
        await self._local.clear()
        try:
            self._note(await self._local.conclude(verb))
        except Exception as error:  # noqa: BLE001  the answer is kept, and the next look finds it
            _log.error("answer left", error=repr(error))

    def _note(self, settled: Settled) -> None:
        self._take(settled.tasks)
        if settled.due_at is not None:
            self._due_at = min(self._due_at or settled.due_at, settled.due_at)
            self._woken.set()
