"""The sweep: what time alone brings about, and what got lost.

Decides which rows are overdue and which verb of the engine each needs; never plans, never
publishes, never judges: it returns the tasks to be published, and the verbs to be concluded.
And what is old enough to be removed. Called on a timer by every worker and by the embedded
executor; pruning by `iaflow db prune` too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial

from iaflow.data.records import StepTask
from iaflow.data.status import NoticeKind
from iaflow.database.run_store.claims import LostClaim
from iaflow.database.run_store.prunes import FIRST, ROWS_AT_ONCE, EndedFamily
from iaflow.pipeline.engine import Engine
from iaflow.pipeline.judging import Verb
from iaflow.pipeline.plans import Judged
from iaflow.pipeline.settler import Settled
from iaflow.telemetry import get_logger

__all__ = ["Duty", "Pruned", "Swept", "prune", "stage", "sweep", "sweep_run"]

_log = get_logger(__name__)

BATCH = 1000

MOST_REPUBLISH_SECONDS = 60.0
"""What the pause between two messages for one step grows to, unless the first is longer."""


BOUND = timedelta(hours=24)
"""How long after its end a run stays at least that an idempotency key stands for, or of which
people are still to be told: by then that was delivered or given up."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """
    What has been removed so far, or would be.

    Attributes:
        rows: of the runs, in all tables; about how many, where nothing is removed.
        fires: what became of instants of schedules.
        notices: delivered ones of runs that stay.
    """

    runs: int = 0
    rows: int = 0
    fires: int = 0
    notices: int = 0


@dataclass(frozen=True, slots=True)
class Duty:
    """A verb that a row needs: `name` and `row` say which, should it resist."""

    name: str
    row: str
    verb: Verb


@dataclass(frozen=True, slots=True)
class Swept:
    """
    What one sweep found.

    Attributes:
        tasks: what wants a message.
        duties: what is still to be concluded, each on its own.
        counts: how many rows of each kind there were.
    """

    tasks: tuple[StepTask, ...]
    duties: tuple[Duty, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)


def sweep(
    engine: Engine,
    *,
    republish_seconds: float,
    depth: Callable[[], int | None] = lambda: None,
    stuck_seconds: float | None = None,
) -> Swept:
    """
    Find lost claims, what is due, what is overdue, what a crash left undone; republish.

    Safe from any number of processes at once: each change is guarded, and a second
    sweeper finds nothing to do. It is an ordinary sweep after a crash too.

    Args:
        republish_seconds: a ready step unclaimed for so long gets a new message.
        depth: how many messages wait in the broker, None if unknown. While as many wait as
            there are stale steps, none was lost: a deep backlog is not sent once more.
        stuck_seconds: people are told of a step that nobody takes up for so long; None: never.
    """
    now = engine.clock.now()
    staged = stage(engine)
    duties = [*staged.duties]
    duties += (
        Duty("lost", lost.task.step_id, partial(_rescue, engine, lost))
        for lost in engine.claims.find_lost(now=now)
    )
    duties += (
        Duty("unfollowed", run_id, partial(engine.follow, run_id))
        for run_id in engine.waits.find_unfollowed()
    )
    duties += (
        Duty("orphan", run_id, partial(engine.cancel_orphan, run_id))
        for run_id in engine.waits.find_orphans()
    )
    turns: list[StepTask] = []
    for slug in engine.waits.find_slugs_with_pending():
        turns += engine.give_turns(slug)
        pending = engine.waits.find_pending(slug)
        if pending is not None:
            duties.append(Duty("turn", pending, partial(engine.take_turn, pending)))
    if stuck_seconds is not None and NoticeKind.RUN_STUCK in engine.told:
        for stuck in engine.notices.find_stuck(before=now - timedelta(seconds=stuck_seconds)):
            engine.tell_stuck(stuck)
    republished = _republish(engine, republish_seconds, depth)
    tasks = engine.name_tasks((*staged.tasks, *turns, *republished))
    counts = {**staged.counts, "republished": len(republished)}
    return Swept(tasks, tuple(duties), counts)


def stage(engine: Engine, run_id: str | None = None) -> Swept:
    """
    Find what is due by the clock alone: retries, timers, rates, expiries, schedules.

    Args:
        run_id: of one run alone, to which no schedule belongs.
    """
    now = engine.clock.now()
    tasks, keys = engine.claims.stage_due(now=now, run_id=run_id)
    tasks += engine.release_due(now, run_id)
    keys += engine.holds.find_free(now=now)
    tasks += engine.grant(tuple(keys))
    expired = engine.pauses.mark_expired(now=now, run_id=run_id)
    # A run whose time is over is ended before what else is due in it.
    duties = [
        Duty("overdue", late, partial(_without_code, partial(engine.end_overdue, late)))
        for late in _find_overdue(engine, run_id, now)
    ]
    duties += (
        Duty("due", waiting.step_id, partial(engine.ring, waiting))
        for waiting in engine.waits.find_due(now=now, run_id=run_id)
    )
    duties += (
        Duty("reminder", pause_id, partial(_without_code, partial(engine.remind, pause_id)))
        for pause_id in engine.pauses.find_to_remind(now=now, run_id=run_id)
    )
    duties += (
        Duty("answered", pause.pause_id, partial(engine.resume, pause.pause_id))
        for pause in engine.pauses.find_unsettled(run_id=run_id)
    )
    if run_id is None:
        duties += (
            Duty("schedule", name, partial(engine.fire_schedule, name))
            for name in engine.schedules.find_due(now=now)
        )
    counts = {"staged": len(tasks), "expired": len(expired)}
    return Swept(engine.name_tasks(tasks), tuple(duties), counts)


def sweep_run(engine: Engine, run_id: str) -> Swept:
    """Do the same for one run, for an executor that drives it alone; nothing is republished."""
    now = engine.clock.now()
    staged = stage(engine, run_id)
    header = engine.pinned(run_id)[0]
    # It waits for its turn, which the process of an earlier run may not have lived to give.
    turns = engine.give_turns(header.slug) if header.began_at is None else []
    before = now - engine.lease
    for idle in engine.holds.find_idle(run_id, before=before):
        # Nobody may be there to carry that run on; it gets the key back after those who wait.
        turns += engine.grant(tuple(engine.holds.take_back(idle, before=before)), but=idle)
    duties = [*staged.duties, *_duties_of(engine, run_id, now)]
    if header.began_at is None:
        duties.append(Duty("turn", run_id, partial(engine.take_turn, run_id)))
    return Swept((*staged.tasks, *turns), tuple(duties), staged.counts)


def prune(engine: Engine, *, older_than: timedelta, is_dry: bool = False) -> Iterator[Pruned]:
    """
    Remove what ended long ago, oldest first, in short transactions; yield after each.

    A run goes with the runs below it, once all of them are old enough; as long as one of them
    lives, all stay. Definitions stay. Whoever iterates may stop, and go on, at any time: nobody
    reads half a run. Safe from any number of processes, beside running runs.

    Args:
        older_than: how long ago a run must have ended. Idempotency keys stand for their runs,
            and notices that are due keep theirs, for a day in any case.
        is_dry: only count; fires and notices are not.
    """
    now = engine.clock.now()
    # No calendar goes further back than that.
    older_than = min(older_than, now - FIRST.finished_at)
    before, bound_before = now - older_than, now - max(older_than, BOUND)
    sofar, place = Pruned(), FIRST
    while page := engine.prunes.find_ended(before=before, after=place):
        place = page[-1].place
        old = [family for family in page if family.may_go(before, bound_before)]
        if is_dry:
            runs, rows = sum(one.runs for one in old), sum(one.rows for one in old)
            sofar = replace(sofar, runs=sofar.runs + runs, rows=sofar.rows + rows)
        for tops in () if is_dry else _batches(old):
            is_done = False
            while not is_done:
                removal = engine.prunes.remove(tops, before=before)
                is_done = removal.is_done
                sofar = replace(
                    sofar, runs=sofar.runs + removal.runs, rows=sofar.rows + removal.rows
                )
                yield sofar
        yield sofar
    if is_dry:
        return
    while fires := engine.prunes.remove_fires(before=before):
        sofar = replace(sofar, fires=sofar.fires + fires)
        yield sofar
    while notices := engine.prunes.remove_notices(before=before):
        sofar = replace(sofar, notices=sofar.notices + notices)
        yield sofar


def _batches(families: list[EndedFamily]) -> Iterator[list[str]]:
    """Return their topmost runs, as many together as one transaction removes."""
    tops: list[str] = []
    rows = 0
    for family in families:
        if tops and rows + family.rows > ROWS_AT_ONCE:
            yield tops
            tops, rows = [], 0
        tops.append(family.run_id)
        rows += family.rows
    if tops:
        yield tops


def _duties_of(engine: Engine, run_id: str, now: datetime) -> Iterator[Duty]:
    for lost in engine.claims.find_lost(now=now, run_id=run_id):
        yield Duty("lost", lost.task.step_id, partial(_rescue, engine, lost))
    for lost in engine.claims.find_lost_holders(now=now, run_id=run_id):
        # Of another run, whose own process may be gone for good: its key must not be.
        yield Duty("lost", lost.task.step_id, partial(_without_code, partial(engine.rescue, lost)))
    if engine.pinned(run_id)[1].has_children:
        for child in engine.waits.find_unfollowed(run_id=run_id):
            yield Duty("unfollowed", child, partial(engine.follow, child))
        for child in engine.waits.find_orphans(run_id=run_id):
            yield Duty("orphan", child, partial(engine.cancel_orphan, child))


def _find_overdue(engine: Engine, run_id: str | None, now: datetime) -> list[str]:
    if run_id is None:
        return engine.reads.find_overdue(now=now)
    return [run_id] if engine.reads.is_overdue(run_id, now=now) else []


def _republish(engine: Engine, seconds: float, depth: Callable[[], int | None]) -> list[StepTask]:
    now = engine.clock.now()
    stale = engine.claims.count_stale(before=now - timedelta(seconds=seconds))
    lost = stale - (depth() or 0) if stale else 0
    if lost <= 0:
        return []
    return engine.claims.mark_republished(
        now=now,
        pause_seconds=seconds,
        most_seconds=max(seconds, MOST_REPUBLISH_SECONDS),
        limit=min(lost, BATCH),
    )


def _without_code(verb: Callable[[], Settled], _judged: object) -> Settled:
    """A run that is ended from outside judges no condition."""
    return verb()


def _rescue(engine: Engine, lost: LostClaim, judged: Judged) -> Settled:
    task = lost.task
    graph = engine.pinned(task.run_id)[1]
    losses = lost.worker_losses + 1
    _log.warning(
        "worker lost", run_id=task.run_id, step_id=task.step_id, worker=lost.worker, losses=losses
    )
    if losses > graph.nodes[task.step_id].step.policy.max_worker_losses:
        return engine.fail_lost(lost, judged)
    return engine.rescue(lost)
