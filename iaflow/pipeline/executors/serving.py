"""A process that fires schedules and executes their runs itself, where no worker does.

Decides when to look at the schedules and which runs are driven here; never which instants fire,
nor how a run is driven (the embedded executor does). Called by the command line.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from iaflow.data.status import RunStatus
from iaflow.pipeline.executors.local import LocalExecutor
from iaflow.pipeline.plans import Judged
from iaflow.pipeline.settler import Settled
from iaflow.telemetry import get_logger

__all__ = ["serve_schedules"]

_log = get_logger(__name__)

LOOK_SECONDS = 1.0
"""How often the schedules are looked at at least: other processes put and resume them."""
LEAST_SECONDS = 0.02


async def serve_schedules(
    executor: LocalExecutor,
    *,
    tell_start: Callable[[str, str], None] = lambda name, run_id: None,
    tell_rest: Callable[[str, RunStatus], None] = lambda run_id, status: None,
) -> None:
    """
    Fire what is due and drive the runs, until this is cancelled; unfinished runs first.

    Any number of processes may do so at once, workers beside them: each instant fires once. Runs
    that are cut off go on with the next one, or by `iaflow resume`.

    Args:
        tell_start: is told of a schedule and the run that an instant of it has started here.
        tell_rest: is told of a run that has ended, or waits for somebody.
    """
    engine = executor.engine
    places = asyncio.Semaphore(executor.max_parallel)
    driven: set[asyncio.Task[None]] = set()

    async def drive(run_id: str) -> None:
        try:
            async with places:
                tell_rest(run_id, await executor.drive(run_id))
        except Exception as error:  # noqa: BLE001  one run that resists keeps no other waiting
            _log.error("run left", run_id=run_id, error=repr(error))

    try:
        for run_id in engine.reads.unfinished():
            driven.add(asyncio.create_task(drive(run_id)))
        while True:
            await executor.clear()
            for name in engine.schedules.find_due(now=engine.clock.now()):
                for run_id in _fire_all(executor, name):
                    tell_start(name, run_id)
                    driven.add(asyncio.create_task(drive(run_id)))
            await asyncio.sleep(_until_next(executor))
            driven = {one for one in driven if not one.done()}
    finally:
        for one in driven:
            one.cancel()
        await asyncio.gather(*driven, return_exceptions=True)


def _fire_all(executor: LocalExecutor, name: str) -> list[str]:
    """Deal with what has come of a schedule, and return the runs that it started."""
    started: list[str] = []
    left: list[Callable[[Judged], Settled]] = [partial(executor.engine.fire_schedule, name)]
    while left:
        settled = left.pop(0)({})
        left += settled.follow_ups
        if not settled.is_stale:
            started.append(settled.run_id)
    return started


def _until_next(executor: LocalExecutor) -> float:
    engine = executor.engine
    due = engine.schedules.next_due()
    if due is None:
        return LOOK_SECONDS
    return max(LEAST_SECONDS, min((due - engine.clock.now()).total_seconds(), LOOK_SECONDS))
