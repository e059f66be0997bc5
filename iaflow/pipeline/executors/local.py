"""The embedded executor: asyncio, in the calling process, no broker.

Decides how many steps work at once and when to look again (retries, leases, expiries);
never what follows from an end. Called by the runner and the command line.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Self

from iaflow.concurrency import run_blocking
from iaflow.data.records import Failed, Fanned, Outcome, Released, StepTask
from iaflow.data.status import END_OF_RUN, RunStatus, StepStatus
from iaflow.database.statements import POSTGRES
from iaflow.errors import NotFound
from iaflow.pipeline.attempt import Attempt, Heartbeat, Progress
from iaflow.pipeline.engine import Engine, Settled
from iaflow.pipeline.judging import Concluding, Judge, Verb
from iaflow.pipeline.loader import StepLoader
from iaflow.pipeline.maintenance import sweep_run
from iaflow.pipeline.notifying import Courier
from iaflow.pipeline.services import ServiceRegistry

__all__ = ["LocalExecutor", "Observation"]

POLL_SECONDS = 0.5
"""How often a run is looked at: others may work on it or cancel it, and time passes."""


@dataclass(frozen=True, slots=True)
class Observation:
    """
    Something that happened to a step, for a live view.

    Attributes:
        kind: started, progress, retrying, waiting, skipped, fanned or ended.
        seconds: since the attempt began.
        items: how many a foreach has, once it has them (`fanned`).
    """

    kind: str
    run_id: str
    step_id: str
    index: int
    attempt: int
    status: str
    seconds: float | None = None
    message: str | None = None
    fraction: float | None = None
    items: int | None = None


class LocalExecutor:
    """
    Executes the steps of runs in this process until they end or wait for a person.

    Use it as an async context manager; it closes services that it built and its heartbeat.

    Args:
        engine: claims and settles.
        loader: finds step classes.
        services: what steps are given; closed at the end.
        max_parallel: steps at once.
        worker: the name that claims carry.
        observe: is told what happens, on this thread.
    """

    def __init__(
        self,
        engine: Engine,
        loader: StepLoader,
        services: ServiceRegistry,
        *,
        max_parallel: int = 16,
        worker: str = "embedded",
        observe: Callable[[Observation], None] | None = None,
    ) -> None:
        self.engine = engine
        self._loader = loader
        self._services = services
        self._worker = worker
        self._observe = observe
        self._judge = Judge(engine, loader, services)
        self.courier = Courier(engine, services)
        self.max_parallel = max_parallel
        self._heartbeat = Heartbeat(engine, engine.lease.total_seconds() / 3)
        self._attempts: set[Attempt] = set()
        # On SQLite our own loop would else wait for a step that waits for the loop.
        self._gate = None if engine.database.dialect == POSTGRES else asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop the heartbeat and close the services that were built here."""
        await run_blocking(self._heartbeat.close)
        await self._services.close()

    async def drive(self, run_id: str, tasks: Iterable[StepTask] = ()) -> RunStatus:
        """
        Execute a run's ready steps, and what becomes ready, until it ends or waits.

        A step that another process holds is left to it, and taken up when its lease is over.

        Args:
            tasks: the ready steps, if known; else they are looked up.

        Returns:
            The run's status: an end, or `waiting`.

        Raises:
            NotFound: there is no such run.
        """
        status = await _Drive(self, run_id).run(list(tasks))
        for one in self.engine.waits.family(run_id):
            await self.courier.deliver(one)
        return status

    async def execute(self, task: StepTask) -> Settled | None:
        """Claim, work and settle one step; None if it was not there to be claimed."""
        await self.clear()
        claimed = self.engine.claim(task, self._worker)
        if claimed is None:
            return None
        attempt = Attempt(
            claimed,
            self.engine,
            self._loader,
            self._services,
            report=lambda progress: self._report(task, claimed.claim.try_number, progress),
            gate=self._gate,
        )
        number = claimed.claim.try_number
        self._tell(Observation("started", task.run_id, task.step_id, task.index, number, "running"))
        began = time.monotonic()
        self._attempts.add(attempt)
        self._heartbeat.watch(attempt)
        try:
            outcome = await attempt.run()
            if outcome is None:
                return None
            effects = attempt.effects
            if effects is None or not effects.is_begun:
                await self.clear()
            settle = partial(self.engine.settle, claimed, outcome, effects=effects)
            settled = await self.conclude(settle)
        except asyncio.CancelledError:
            attempt.close()
            # This process stops in good order: the step goes back, no attempt is burned.
            self.engine.settle(claimed, Released("the process was stopped"))
            raise
        finally:
            attempt.close()
            self._attempts.discard(attempt)
            self._heartbeat.forget(attempt)
        seconds = time.monotonic() - began
        self._tell(_observe_end(task, number, outcome, settled, seconds))
        return settled

    async def clear(self) -> None:
        """Wait while a step has a transaction on a database that has one writer."""
        while self._gate is not None and self._gate.locked():
            async with self._gate:
                continue

    async def conclude(self, verb: Verb) -> Settled:
        """Do a verb of the engine, judge what needs code, and stop what was cancelled by it."""
        steps = Concluding(verb)
        while (wanted := steps.wanted) is not None:
            steps.send(await self._judge.answer(wanted))
        settled = steps.settled
        if settled.run_status in END_OF_RUN:
            self.stop(settled.run_id)
        elif settled.cancelled:
            self.stop(settled.run_id, settled.cancelled)
        return settled

    def runs_at_work(self) -> set[str]:
        """Return the ids of the runs of which steps work here now."""
        return {attempt.claimed.claim.run_id for attempt in self._attempts}

    def stop(self, run_id: str, steps: Collection[str] | None = None) -> None:
        """Stop the attempts of a run, or of some steps of it: they were cancelled."""
        for attempt in list(self._attempts):
            claim = attempt.claimed.claim
            if claim.run_id == run_id and (steps is None or claim.step_id in steps):
                self._heartbeat.forget(attempt)
                attempt.cancel()

    def _report(self, task: StepTask, number: int, progress: Progress) -> None:
        self._tell(
            Observation(
                "progress",
                task.run_id,
                task.step_id,
                task.index,
                number,
                "running",
                message=progress.message,
                fraction=progress.fraction,
            )
        )

    def _tell(self, observation: Observation) -> None:
        if self._observe is not None:
            self._observe(observation)


class _Drive:
    """One run, and the runs below it, on their way: what works now, and when to look again."""

    def __init__(self, executor: LocalExecutor, run_id: str) -> None:
        self._executor = executor
        self._engine = executor.engine
        self._run_id = run_id
        self._family = {run_id}
        self._slots = executor.max_parallel
        self._queue: deque[StepTask] = deque()
        self._working: set[asyncio.Task[Settled | None]] = set()
        self._due_at: datetime | None = None
        # The loop's own time, so that a loop with another time (a rehearsal's) is followed.
        self._time = asyncio.get_running_loop().time
        self._looked_at = self._time()

    async def run(self, tasks: list[StepTask]) -> RunStatus:
        self._take(tasks)
        if not tasks:
            await self._look_again()
        try:
            while True:
                self._fill()
                if self._working:
                    await self._wait_for_one()
                elif self._queue:
                    continue
                elif (status := await self._rest()) is not None:
                    return status
        finally:
            await self._stop()

    def _take(self, tasks: Iterable[StepTask]) -> None:
        """Queue what is of this family: a key that became free may start a step of another."""
        for task in tasks:
            if task.run_id not in self._family:
                header = self._engine.find_header(task.run_id)
                if header is None or header.parent is None:
                    continue
                if header.parent[0] not in self._family:
                    continue
                self._family.add(task.run_id)
            self._queue.append(task)

    def _fill(self) -> None:
        while self._queue and len(self._working) < self._slots:
            task = self._queue.popleft()
            self._working.add(asyncio.ensure_future(self._executor.execute(task)))

    async def _wait_for_one(self) -> None:
        wait = POLL_SECONDS
        if self._due_at is not None:
            wait = min(wait, self._seconds_to(self._due_at))
        done, self._working = await asyncio.wait(
            self._working, timeout=wait, return_when=asyncio.FIRST_COMPLETED
        )
        for finished in done:
            settled = finished.result()
            if settled is not None:
                self._note(settled)
        is_due = self._due_at is not None and self._seconds_to(self._due_at) <= 0
        await self._executor.clear()
        if is_due or self._time() - self._looked_at >= POLL_SECONDS:
            # What time brings about (a timer, an expiry, a lost claim) does not wait for the
            # steps that work here. It finds all that is ready: what was queued is among it.
            await self._look_again()
            if self._engine.reads.run_status(self._run_id) in END_OF_RUN:
                self._executor.stop(self._run_id)

    def _note(self, settled: Settled) -> None:
        self._take(settled.tasks)
        if settled.due_at is not None:
            self._due_at = min(self._due_at or settled.due_at, settled.due_at)

    async def _rest(self) -> RunStatus | None:
        """Nothing works here: return the run's status if it rests, or wait and look again."""
        await self._executor.clear()
        status = self._engine.reads.run_status(self._run_id)
        if status is None:
            raise NotFound(f"there is no run {self._run_id}")
        if status in END_OF_RUN and not self._has_others():
            return status
        await self._look_again()
        if self._queue:
            return None
        status = self._engine.reads.run_status(self._run_id) or status
        if (status in END_OF_RUN or status is RunStatus.WAITING) and not self._has_others():
            return status
        wait = POLL_SECONDS
        if self._due_at is not None:
            wait = min(wait, self._seconds_to(self._due_at))
        await self._engine.clock.sleep(max(wait, 0.0))
        return None

    def _has_others(self) -> bool:
        """Tell whether a run below, that nobody waits for, is still on its way."""
        below = self._engine.waits.family(self._run_id)[1:]
        resting = (RunStatus.WAITING, RunStatus.PENDING, *END_OF_RUN)
        return any(self._engine.reads.run_status(run_id) not in resting for run_id in below)

    async def _look_again(self) -> None:
        """Do what is due in the family, and queue what is ready in it."""
        self._looked_at = self._time()
        self._family = {self._run_id, *self._engine.waits.family(self._run_id)}
        for run_id in list(self._family):
            swept = sweep_run(self._engine, run_id)
            self._take(swept.tasks)
            for duty in swept.duties:
                await self._executor.clear()
                self._note(await self._executor.conclude(duty.verb))
        for run_id in self._family:
            await self._executor.courier.deliver(run_id)
        due = [self._engine.next_due(run_id) for run_id in self._family]
        self._due_at = min((instant for instant in due if instant is not None), default=None)
        if len(self._queue) >= self._slots:
            return  # enough to do: a long queue is not read anew at every look
        ready = {(task.run_id, task.step_id, task.index): task for task in self._queue}
        for run_id in self._family:
            for task in self._engine.claims.ready_of_run(run_id):
                ready[task.run_id, task.step_id, task.index] = task
        self._queue = deque(ready.values())

    def _seconds_to(self, instant: datetime) -> float:
        return max(0.0, (instant - self._engine.clock.now()).total_seconds())

    async def _stop(self) -> None:
        for task in self._working:
            task.cancel()
        await asyncio.gather(*self._working, return_exceptions=True)


def _observe_end(
    task: StepTask, number: int, outcome: Outcome, settled: Settled, seconds: float
) -> Observation:
    """Say how the attempt ended by what was recorded: a condition's fault fails a step too."""
    status, message = settled.step_status, None
    if isinstance(outcome, Failed):
        message = f"{outcome.code}: {outcome.message}"
    if settled.is_stale or status is None:
        status, message = StepStatus.CANCELLED, "its result came too late"
    elif status is StepStatus.FAILED and message is None:
        message = "a condition on a transition out of it could not be judged"
    items = len(outcome.items) if isinstance(outcome, Fanned) else None
    return Observation(
        "fanned" if items and status is StepStatus.RUNNING else _KINDS.get(status, "ended"),
        task.run_id,
        task.step_id,
        task.index,
        number,
        status.value,
        seconds,
        message,
        items=items,
    )


_KINDS = {
    StepStatus.RETRYING: "retrying",
    StepStatus.WAITING: "waiting",
    StepStatus.SKIPPED: "skipped",
}
