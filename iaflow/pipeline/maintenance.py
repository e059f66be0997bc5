"""The sweep: what time alone brings about, and what got lost.

Decides which rows are overdue and which verb of the engine each needs; never plans and
never publishes: it returns the tasks to be published. Called on a timer by every worker
and by the embedded executor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from iaflow.data.records import StepTask
from iaflow.database.run_store.claims import LostClaim
from iaflow.pipeline.engine import Engine
from iaflow.telemetry import get_logger

__all__ = ["Swept", "sweep", "sweep_run"]

T = TypeVar("T")

_log = get_logger(__name__)

BATCH = 1000


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep found: counts, and the tasks that want a message."""

    tasks: tuple[StepTask, ...]
    rescued: int = 0
    staged: int = 0
    expired: int = 0
    resumed: int = 0
    overdue: int = 0
    republished: int = 0


def sweep(
    engine: Engine,
    *,
    republish_seconds: float,
    depth: Callable[[], int | None] = lambda: None,
) -> Swept:
    """
    Rescue lost claims, stage due retries, end overdue runs, expire and resume pauses, republish.

    Safe from any number of processes at once: each change is guarded, and a second
    sweeper finds nothing to do. It is an ordinary sweep after a crash too.

    Args:
        republish_seconds: a ready step unclaimed for so long gets a new message.
        depth: how many messages wait in the broker, None if unknown. While as many wait as
            there are stale steps, none was lost: a deep backlog is not sent once more.
    """
    now = engine.clock.now()
    rescued = _each(engine.claims.find_lost(now=now), lambda lost: _rescue(engine, lost))
    staged = engine.claims.stage_due(now=now)
    late = engine.reads.find_overdue(now=now)
    overdue = _each(late, lambda run_id: engine.end_overdue(run_id).tasks)
    expired = engine.pauses.mark_expired(now=now)
    unsettled = engine.pauses.find_unsettled()
    resumed = _each(unsettled, lambda pause: engine.resume(pause.pause_id).tasks)
    republished = _republish(engine, now - timedelta(seconds=republish_seconds), depth)
    return Swept(
        tasks=engine.name_tasks((*rescued, *staged, *overdue, *resumed, *republished)),
        rescued=len(rescued),
        staged=len(staged),
        expired=len(expired),
        resumed=len(unsettled),
        overdue=len(late),
        republished=len(republished),
    )


def sweep_run(engine: Engine, run_id: str) -> list[StepTask]:
    """Do the same for one run, for an executor that drives it alone; nothing is republished."""
    now = engine.clock.now()
    lost = engine.claims.find_lost(now=now, run_id=run_id)
    tasks = _each(lost, lambda claim: _rescue(engine, claim))
    tasks += engine.claims.stage_due(now=now, run_id=run_id)
    if engine.reads.is_overdue(run_id, now=now):
        engine.end_overdue(run_id)
    engine.pauses.mark_expired(now=now, run_id=run_id)
    unsettled = engine.pauses.find_unsettled(run_id=run_id)
    tasks += _each(unsettled, lambda pause: engine.resume(pause.pause_id).tasks)
    return tasks


def _republish(engine: Engine, before: datetime, depth: Callable[[], int | None]) -> list[StepTask]:
    stale = engine.claims.count_stale(before=before)
    lost = stale - (depth() or 0) if stale else 0
    if lost <= 0:
        return []
    now = engine.clock.now()
    return engine.claims.mark_republished(now=now, before=before, limit=min(lost, BATCH))


def _each(found: Iterable[T], mend: Callable[[T], Iterable[StepTask]]) -> list[StepTask]:
    """Mend what was found, one by one: a row that resists must not keep the others waiting."""
    tasks: list[StepTask] = []
    for item in found:
        try:
            tasks.extend(mend(item))
        except Exception as error:  # noqa: BLE001  said, and tried again by the next sweep
            _log.error("sweep left a row", row=repr(item), error=repr(error))
    return tasks


def _rescue(engine: Engine, lost: LostClaim) -> tuple[StepTask, ...]:
    task = lost.task
    graph = engine.graph_of(task.run_id)
    if graph is None:
        return ()
    losses = lost.worker_losses + 1
    _log.warning(
        "worker lost", run_id=task.run_id, step_id=task.step_id, worker=lost.worker, losses=losses
    )
    if losses > graph.nodes[task.step_id].step.policy.max_worker_losses:
        return engine.fail_lost(lost).tasks
    return (task,) if engine.claims.mark_rescued(lost, now=engine.clock.now()) else ()
