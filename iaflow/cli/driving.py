"""A run on its way: driven by this process, or watched while workers drive it.

Decides who does the work and what happens on Ctrl-C; never shows a result. Called by the
commands that start a run or take one up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from iaflow.cli.results import finish, quote_db
from iaflow.cli.terminal import errors, guard_stdout, hint, line
from iaflow.cli.watching import open_watch
from iaflow.concurrency import run_async
from iaflow.data.status import RunStatus

if TYPE_CHECKING:
    from iaflow.bootstrap import Application
    from iaflow.data.records import StepRecord, StepTask
    from iaflow.pipeline.executors.local import Observation

__all__ = ["Interrupted", "announce", "drive", "drive_and_finish", "wait_and_finish"]

FIRST_POLL_SECONDS: Final = 0.05
LAST_POLL_SECONDS: Final = 1.0


class Interrupted(Exception):
    """Ctrl-C while a run was on its way; the run is kept. `advice` says how to go on."""

    def __init__(self, run_id: str, advice: str) -> None:
        self.run_id = run_id
        self.advice = advice
        super().__init__(f"interrupted; run {run_id} is kept")


def drive_and_finish(
    app: Application,
    run_id: str,
    tasks: Iterable[StepTask] = (),
    *,
    folders: Sequence[Path],
    as_json: bool,
    db: str | None,
) -> int:
    """Drive a run in this process until it ends or waits, show the result, return the exit code."""
    seconds = drive(app, run_id, tasks, folders=folders, as_json=as_json, db=db)
    return finish(app, run_id, as_json=as_json, db=db, seconds=seconds)


def drive(
    app: Application,
    run_id: str,
    tasks: Iterable[StepTask] = (),
    *,
    folders: Sequence[Path],
    as_json: bool,
    db: str | None,
) -> float:
    """
    Drive a run in this process until it ends or waits for a person.

    Returns:
        How many seconds it took.

    Raises:
        Interrupted: by Ctrl-C; steps that were at work go back and burn no attempt.
    """
    watch = open_watch(app.client.graph_of(run_id).nodes, as_json=as_json, run_id=run_id)
    try:
        with guard_stdout(as_json), watch:
            run_async(_drive(app, run_id, tasks, folders, watch.observe))
    except KeyboardInterrupt:
        advice = f"go on with:  iaflow resume {run_id}{quote_db(db)}"
        raise Interrupted(run_id, advice) from None
    return watch.seconds


def wait_and_finish(app: Application, run_id: str, *, as_json: bool, db: str | None) -> int:
    """Watch a run that workers drive until it ends or waits, show the result, return the exit code."""
    watch = open_watch(app.client.graph_of(run_id).nodes, as_json=as_json, run_id=run_id)
    try:
        with watch:
            _poll(app, run_id, watch.observe_records)
    except KeyboardInterrupt:
        advice = f"the workers go on with it; look with:  iaflow show {run_id}{quote_db(db)}"
        raise Interrupted(run_id, advice) from None
    return finish(app, run_id, as_json=as_json, db=db, seconds=watch.seconds)


def announce(app: Application, run_id: str, *, is_new: bool, quiet: bool) -> None:
    """Say on stderr which run this is."""
    if quiet:
        return
    definition = app.client.graph_of(run_id).definition
    console = errors()
    console.print(
        line(("▶ ", "cyan"), (definition.name, "bold"), ("  run ", "dim"), run_id), soft_wrap=True
    )
    if not is_new:
        console.print(hint("this key was used before: it is the same run"), soft_wrap=True)


async def _drive(
    app: Application,
    run_id: str,
    tasks: Iterable[StepTask],
    folders: Sequence[Path],
    observe: Callable[[Observation], None],
) -> RunStatus:
    from iaflow.bootstrap import open_local_executor

    async with open_local_executor(app, folders=folders, observe=observe) as executor:
        return await executor.drive(run_id, tasks)


def _poll(
    app: Application,
    run_id: str,
    observe: Callable[[Iterable[StepRecord]], None],
) -> None:
    wait = FIRST_POLL_SECONDS
    while True:
        is_at_rest = app.client.is_at_rest(run_id)
        observe(app.client.steps(run_id, items=False, payloads=False))
        if is_at_rest:
            return
        time.sleep(wait)
        wait = min(wait * 1.5, LAST_POLL_SECONDS)
