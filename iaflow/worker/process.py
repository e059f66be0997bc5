"""What one worker process holds: engine, event loop, services, heartbeat, sweep, warden.

Decides when these are built (in the process that uses them, never before a fork) and
closed; never what a step's end means. Called by the tasks.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from iaflow import failpoints, metrics
from iaflow.client import Client
from iaflow.concurrency import LoopThread, run_async
from iaflow.data.records import Outcome, Released, StepTask
from iaflow.database.locks import try_exclusively
from iaflow.errors import DefinitionRefused, InputRefused, Problem
from iaflow.pipeline.attempt import Attempt, Heartbeat
from iaflow.pipeline.engine import Engine, Started
from iaflow.pipeline.executors.base import Executor
from iaflow.pipeline.judging import Concluding, Judge, Verb
from iaflow.pipeline.loader import StepLoader, StepNotLoadable
from iaflow.pipeline.maintenance import Swept, prune, stage, sweep
from iaflow.pipeline.notifying import Courier
from iaflow.pipeline.plans import Judged
from iaflow.pipeline.runner import build_services, open_database, open_engine
from iaflow.pipeline.services import ServiceRegistry
from iaflow.pipeline.strict_json import JsonRefused, read_json
from iaflow.settings import Settings
from iaflow.telemetry import get_logger
from iaflow.worker.pruner import Pruner
from iaflow.worker.stopping import StopFlag
from iaflow.worker.sweeper import Sweeper
from iaflow.worker.warden import Warden

__all__ = ["WorkerProcess"]

_log = get_logger(__name__)

Wait = Callable[[Coroutine[Any, Any, Judged]], Judged]

PATIENCE_SECONDS = 30.0
"""How long a settle waits for a database that is away, before its work is given up."""


class WorkerProcess:
    """
    The parts of one worker process, built once, used by any number of pool threads.

    Args:
        settings: the process's settings.
        executor: publishes what becomes ready.
        services: returns what steps are given; by default by ``IAFLOW_SERVICES``.
        stop: says that the worker is stopping.
        leave: ends this process at once, told why: a step's code could not be stopped. The
            worker's head, or whoever looks after it, starts another.
        is_child: only one step at a time is executed here, so that leaving harms no other.
    """

    def __init__(
        self,
        settings: Settings,
        executor: Executor,
        services: Callable[[Settings], ServiceRegistry] = build_services,
        *,
        stop: StopFlag | None = None,
        leave: Callable[[str], None] = lambda why: None,
        is_child: bool = False,
    ) -> None:
        self._settings = settings
        self._leave = leave
        self._is_child = is_child
        self._executor = executor
        self._database = open_database(settings, patience_seconds=PATIENCE_SECONDS)
        self.engine: Engine = open_engine(self._database, settings)
        self._client = Client(engine=self.engine, executor=executor)
        self._loop = LoopThread()
        self._loader = StepLoader(settings.step_modules)
        self._services = services(settings)
        self._heartbeat = Heartbeat(self.engine, settings.lease_seconds / 3)
        self._judge = Judge(self.engine, self._loader, self._services, is_alone=False)
        self._courier = Courier(self.engine, self._services)
        self._delivering = threading.Lock()
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._warden = Warden(stop or StopFlag(), self._end)
        self._pruner = _make_pruner(self.engine, settings.retention_days)
        self._sweeper = Sweeper(self.engine, self.stage, self.sweep, settings.sweep_seconds)

    def run_step(self, run_id: str, step_id: str, index: int, attempt: int) -> None:
        """Claim, work, settle, publish: what one message leads to."""
        if failpoints.ACTIVE:
            failpoints.reach("message.received")
        task = StepTask(run_id, step_id, index, attempt)
        obstacle = self._find_obstacle(task)
        if obstacle is not None:
            self._hand_back(task, obstacle)
            return
        claimed = self.engine.claim(task, self._name)
        if claimed is None:
            return
        metrics.count_claim()
        metrics.observe_queue_wait(claimed.claim.waited_seconds)
        running = Attempt(claimed, self.engine, self._loader, self._services)
        self._heartbeat.watch(running)
        self._warden.watch(running)
        try:
            outcome = self._loop.run(running.run())
        finally:
            self._heartbeat.forget(running)
            is_ours = self._warden.forget(running)
        if not is_ours:
            running.close()
            return
        _count_end(running, outcome)
        if outcome is None:
            running.close()
            return
        if failpoints.ACTIVE:
            failpoints.reach("settle.before")
        self._conclude(partial(self.engine.settle, claimed, outcome, effects=running.effects))
        if running.has_left_thread:
            self._report_thread(running)

    def start_run(self, slug: str, given: Any, *, key: str, started_by: Any = None) -> Started:
        """
        Start a run for a producer that has only the broker.

        Args:
            given: the input, as JSON text: a message must never carry a user's values by itself,
                since what reads messages gives some of them a meaning.

        Raises:
            InputRefused: it is no JSON object, or does not fit; the pipeline's other errors.
        """
        if not isinstance(given, str):
            raise _refuse("the input travels as JSON text: json.dumps(…)")
        try:
            value = read_json(given)
        except JsonRefused as error:
            raise InputRefused(error.problems) from None
        if not isinstance(value, dict):
            raise _refuse("the input is a JSON object")
        by = None if started_by is None else str(started_by)
        return self._client.start(slug, value, key=key, started_by=by)

    def resume_run(self, pause_id: str) -> None:
        """Let a run go on from an answered question."""
        try:
            self._conclude(partial(self.engine.resume, pause_id))
            metrics.count_answer()
        except StepNotLoadable as error:
            # The sweep of a worker that has the module takes the answer up.
            _log.warning("answer left to others", pause_id=pause_id, obstacle=str(error))

    def sweep(self) -> Swept | None:
        """Sweep and publish, unless another process is at it; None then."""
        began = time.monotonic()
        swept = try_exclusively(self._database, "sweep", self._sweep)
        if swept is not None:
            metrics.observe_sweep(time.monotonic() - began)
        return swept

    def stage(self) -> None:
        """Do what is due by the clock, and publish it."""
        self._carry_out(stage(self.engine))

    def close(self) -> None:
        """Stop the threads, close the services on their loop, close the database."""
        self._sweeper.close()
        if self._pruner is not None:
            self._pruner.close()
        self._warden.close()
        self._heartbeat.close()
        self._loop.run(self._services.close())
        self._loop.close()
        self._database.close()

    def _find_obstacle(self, task: StepTask) -> str | None:
        """Return why this process cannot execute a step, asked before it is claimed."""
        try:
            graph = self.engine.graph_of(task.run_id)
        except DefinitionRefused as error:
            return f"definition_refused: this release cannot read its definition: {error}"
        node = None if graph is None else graph.nodes.get(task.step_id)
        return None if node is None else self._loader.find_obstacle(node)

    def _hand_back(self, task: StepTask, obstacle: str) -> None:
        _log.warning(
            "step handed back", run_id=task.run_id, step_id=task.step_id, obstacle=obstacle
        )
        settled = self.engine.hand_back(task, f"{self._name}: {obstacle}")
        metrics.count_released(is_stopped=False)
        self._publish(settled.tasks)
        if settled.due_at is not None:
            self._sweeper.expect(settled.due_at)

    def _end(self, attempt: Attempt, outcome: Outcome) -> None:
        """Settle for an attempt that nothing stops, give back the others, and leave."""
        claim = attempt.claimed.claim
        self._heartbeat.forget(attempt)
        _count_end(attempt, outcome)
        self._conclude(partial(self.engine.settle, attempt.claimed, outcome), judge=run_async)
        # Their event loop is blocked, or ends with this process.
        for other in self._warden.watched():
            if self._warden.forget(other):
                self._heartbeat.forget(other)
                released = Released("the worker's process had to be ended")
                _count_end(other, released)
                self._conclude(partial(self.engine.settle, other.claimed, released))
        self._leave(
            f"the code of step {claim.step_id} of run {claim.run_id} could not be stopped: it "
            "blocks the event loop, or catches its cancellation"
        )

    def _report_thread(self, attempt: Attempt) -> None:
        claim = attempt.claimed.claim
        why = (
            f"the plain `def work` of step {claim.step_id} of run {claim.run_id} goes on in its "
            "thread, where nothing stops it"
        )
        if self._is_child:
            self._leave(why)
        else:
            _log.warning("thread left", reason=why)

    def _sweep(self) -> Swept:
        swept = sweep(
            self.engine,
            republish_seconds=self._settings.republish_seconds,
            depth=self._executor.depth,
            stuck_seconds=self._settings.stuck_seconds,
        )
        metrics.count_republished(swept.counts["republished"])
        self._carry_out(swept)
        self._deliver_notices()
        if self._pruner is not None:
            self._pruner.take_turn()
        return swept

    def _deliver_notices(self) -> None:
        """Deliver what is due in a thread: a slow receiver must not keep the sweep waiting."""
        due_at = self.engine.notices.next_due()
        is_due = due_at is not None and due_at <= self.engine.clock.now()
        if is_due and self._delivering.acquire(blocking=False):
            threading.Thread(target=self._deliver, name="iaflow-notices", daemon=True).start()

    def _deliver(self) -> None:
        try:
            while self._courier.deliver_by(self._loop.run):
                continue
        except Exception as error:  # noqa: BLE001  the next sweep tries again
            _log.warning("notices not delivered", error=repr(error))
        finally:
            self.engine.database.release_thread()
            self._delivering.release()

    def _carry_out(self, swept: Swept) -> None:
        """Publish what was found, and do each duty: one that resists keeps no other waiting."""
        self._publish(swept.tasks)
        for duty in swept.duties:
            try:
                self._conclude(duty.verb)
                _COUNTS.get(duty.name, _count_nothing)()
            except Exception as error:  # noqa: BLE001  said, and tried again by the next sweep
                _log.error("sweep left a row", duty=duty.name, row=duty.row, error=repr(error))

    def _conclude(self, verb: Verb, judge: Wait | None = None) -> None:
        """
        Do a verb of the engine, judge what needs code, publish what came of it.

        Args:
            judge: waits for a verdict; by default on this process's loop.
        """
        wait = judge or self._loop.run
        steps = Concluding(verb)
        while (wanted := steps.wanted) is not None:
            steps.send(wait(self._judge.answer(wanted)))
        settled = steps.settled
        for status in settled.ended:
            metrics.count_run_end(status)
        self._publish(settled.tasks)
        if settled.due_at is not None:
            self._sweeper.expect(settled.due_at)

    def _publish(self, tasks: Sequence[StepTask]) -> None:
        failed = len(tasks) - self._executor.submit(tasks)
        if failed:
            metrics.count_publish_failure(failed)


_COUNTS: Mapping[str, Callable[[], None]] = {
    "lost": metrics.count_rescue,
    "answered": metrics.count_answer,
}


def _make_pruner(engine: Engine, days: float | None) -> Pruner | None:
    if days is None:
        return None
    return Pruner(engine.database, lambda: prune(engine, older_than=timedelta(days=days)))


def _count_nothing() -> None:
    pass


def _count_end(attempt: Attempt, outcome: Outcome | None) -> None:
    metrics.observe_attempt(outcome, attempt.seconds)
    if isinstance(outcome, Released):
        metrics.count_released(is_stopped=not outcome.is_loss)


def _refuse(message: str) -> InputRefused:
    return InputRefused((Problem("type_wrong", "", message),))
