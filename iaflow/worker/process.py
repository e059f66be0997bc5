"""What one worker process holds: engine, event loop, services, heartbeat, sweep.

Decides when these are built (in the process that uses them, never before a fork) and
closed; never what a step's end means. Called by the tasks.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import partial

from iaflow.concurrency import LoopThread
from iaflow.data.records import StepTask
from iaflow.database.locks import try_exclusively
from iaflow.pipeline.attempt import Attempt, Heartbeat
from iaflow.pipeline.engine import Engine
from iaflow.pipeline.executors.base import Executor
from iaflow.pipeline.judging import Concluding, Judge, Verb
from iaflow.pipeline.loader import StepLoader
from iaflow.pipeline.maintenance import Swept, stage, sweep
from iaflow.pipeline.runner import build_services, open_database, open_engine
from iaflow.pipeline.services import ServiceRegistry
from iaflow.settings import Settings
from iaflow.telemetry import get_logger
from iaflow.worker.sweeper import Sweeper

__all__ = ["WorkerProcess"]

_log = get_logger(__name__)

PATIENCE_SECONDS = 30.0
"""How long a settle waits for a database that is away, before its work is given up."""


class WorkerProcess:
    """
    The parts of one worker process, built once, used by any number of pool threads.

    Args:
        settings: the process's settings.
        executor: publishes what becomes ready.
        services: returns what steps are given; by default by ``IAFLOW_SERVICES``.
    """

    def __init__(
        self,
        settings: Settings,
        executor: Executor,
        services: Callable[[Settings], ServiceRegistry] = build_services,
    ) -> None:
        self._settings = settings
        self._executor = executor
        self._database = open_database(settings, patience_seconds=PATIENCE_SECONDS)
        self.engine: Engine = open_engine(self._database, settings)
        self._loop = LoopThread()
        self._loader = StepLoader(settings.step_modules)
        self._services = services(settings)
        self._heartbeat = Heartbeat(self.engine, settings.lease_seconds / 3)
        self._judge = Judge(self.engine, self._loader, self._services)
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._sweeper = Sweeper(self.engine, self.stage, self.sweep, settings.sweep_seconds)

    def run_step(self, run_id: str, step_id: str, index: int, attempt: int) -> None:
        """Claim, work, settle, publish: what one message leads to."""
        task = StepTask(run_id, step_id, index, attempt)
        claimed = self.engine.claim(task, self._name)
        if claimed is None:
            return
        running = Attempt(claimed, self.engine, self._loader, self._services)
        self._heartbeat.watch(running)
        try:
            outcome = self._loop.run(running.run())
        finally:
            self._heartbeat.forget(running)
        if outcome is None:
            return
        self._conclude(partial(self.engine.settle, claimed, outcome))

    def resume_run(self, pause_id: str) -> None:
        """Let a run go on from an answered question."""
        self._conclude(partial(self.engine.resume, pause_id))

    def sweep(self) -> Swept | None:
        """Sweep and publish, unless another process is at it; None then."""
        return try_exclusively(self._database, "sweep", self._sweep)

    def stage(self) -> None:
        """Do what is due by the clock, and publish it."""
        self._carry_out(stage(self.engine))

    def close(self) -> None:
        """Stop the threads, close the services on their loop, close the database."""
        self._sweeper.close()
        self._heartbeat.close()
        self._loop.run(self._services.close())
        self._loop.close()
        self._database.close()

    def _sweep(self) -> Swept:
        swept = sweep(
            self.engine,
            republish_seconds=self._settings.republish_seconds,
            depth=self._executor.depth,
        )
        self._carry_out(swept)
        return swept

    def _carry_out(self, swept: Swept) -> None:
        """Publish what was found, and do each duty: one that resists keeps no other waiting."""
        self._executor.submit(swept.tasks)
        for duty in swept.duties:
            try:
                self._conclude(duty.verb)
            except Exception as error:  # noqa: BLE001  said, and tried again by the next sweep
                _log.error("sweep left a row", duty=duty.name, row=duty.row, error=repr(error))

    def _conclude(self, verb: Verb) -> None:
        """Do a verb of the engine, judge what needs code on the loop, publish what came of it."""
        steps = Concluding(verb)
        while (wanted := steps.wanted) is not None:
            steps.send(self._loop.run(self._judge.answer(wanted)))
        settled = steps.settled
        self._executor.submit(settled.tasks)
        if settled.due_at is not None:
            self._sweeper.expect(settled.due_at)
