"""The life of a claim: take it, keep it, give it back, lose it.

Decides which guarded statement each change is; never what a step's end means. Called by
the engine (claim, heartbeat, release) and by maintenance (rescue, stage, republish).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from iaflow.data.records import NO_INDEX, StepTask
from iaflow.data.status import StepStatus
from iaflow.database.columns import INSTANT
from iaflow.database.connections import Connection, Row
from iaflow.database.dialects import Database
from iaflow.database.run_store.readable import is_readable
from iaflow.database.statements import (
    POSTGRES,
    WANTED,
    Statement,
    dump_json,
    is_now,
    json_row,
    literal_word,
    look_up_each,
    read_instant,
)

__all__ = ["ClaimRow", "ClaimStore", "HandedBack", "LostClaim", "read_task"]

DOUBLINGS = 6
"""After so many messages that led nowhere, the pause before the next one grows no more."""


@dataclass(frozen=True, slots=True)
class ClaimRow:
    """
    What a successful claim brings back.

    Attributes:
        inputs: JSON text of inputs resolved by an earlier attempt; None if there are none.
        outputs: step id to output, of those asked for that references may read.
        item: JSON text of the item that it is about; None outside of a foreach.
        published_at: since when it could have been taken.
    """

    attempt: int
    worker_losses: int
    ready_seq: int
    inputs: str | None
    outputs: dict[str, Any]
    item: str | None = None
    earlier_attempts: int = 0
    published_at: datetime | None = None


class ClaimStore:
    """Claims on steps; every method is one short transaction of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = _Statements(database)

    def mark_running(
        self,
        task: StepTask,
        *,
        token: str,
        worker: str,
        now: datetime,
        lease_until: datetime,
        reads: tuple[str, ...] = (),
    ) -> ClaimRow | None:
        """
        ready -> running. None: a duplicate or stale message, to be dropped quietly.

        A step that is held back, by a key or a rate, is not taken before it is published. The
        commit is not flushed: a claim that a crash loses is only a step that is ready again,
        and its token is never seen again. The outputs in `reads` come with it.
        """
        given: dict[str, Any] = {
            "run_id": task.run_id,
            "step_id": task.step_id,
            "item_index": task.index,
        }
        claim: dict[str, Any] = {
            "token": token,
            "worker": worker,
            "started_at": now,
            "lease_until": lease_until,
        }
        asked: dict[str, Any] = {"reads": dump_json(reads)}
        if self._database.dialect == POSTGRES:
            is_item = task.index != NO_INDEX
            statement = self._sql.mark_item_running if is_item else self._sql.mark_running
            rows = self._database.fetch(statement, **given, **claim, **asked)
        else:
            # SQLite's RETURNING knows the changed table alone, and here a second statement
            # costs no round trip.
            with self._database.transaction(durable=False) as tx:
                rows = tx.fetch(self._sql.mark_running, **given, **claim)
                if rows:
                    rows = [(*rows[0], *tx.fetch(self._sql.payloads, **given, **asked)[0])]
        if not rows:
            return None
        attempt, losses, ready_seq, earlier, published_at, inputs, outputs, item = rows[0][:8]
        return ClaimRow(
            attempt,
            losses,
            ready_seq,
            inputs,
            _parse(outputs),
            item,
            earlier,
            read_instant(published_at),
        )

    def extend_lease(
        self, run_id: str, step_id: str, index: int, *, token: str, lease_until: datetime
    ) -> bool:
        """running -> running with a later lease. False: the claim is lost or cancelled."""
        rows = self._database.fetch(
            self._sql.extend_lease,
            durable=False,
            run_id=run_id,
            step_id=step_id,
            item_index=index,
            token=token,
            lease_until=lease_until,
        )
        return bool(rows)

    def mark_released(
        self,
        run_id: str,
        step_id: str,
        index: int,
        *,
        token: str,
        now: datetime,
        is_loss: bool = False,
    ) -> bool:
        """
        running -> ready, the attempt not counted: the worker stops in good order.

        Args:
            is_loss: it is counted as the loss of a worker instead.
        """
        rows = self._database.fetch(
            self._sql.mark_given_up if is_loss else self._sql.mark_released,
            run_id=run_id,
            step_id=step_id,
            item_index=index,
            token=token,
            published_at=now,
        )
        return bool(rows)

    def mark_handed_back(
        self, tx: Connection, task: StepTask, *, hindrance: str, delays: Callable[[int], datetime]
    ) -> HandedBack | None:
        """
        ready -> ready: the worker that took it up cannot execute it.

        The first message after it goes out at once, since another worker may be listening;
        later ones when they are due. None: the step is not ready any more.

        Args:
            hindrance: why it cannot, for people.
            delays: returns when the next message is due, by a factor that each one doubles.
        """
        rows = tx.fetch(
            self._sql.mark_handed_back,
            run_id=task.run_id,
            step_id=task.step_id,
            item_index=task.index,
            hindrance=hindrance,
            **_doubling(delays),
        )
        return HandedBack(read_instant(rows[0][0]), read_task(rows[0][1:])) if rows else None

    def mark_rescued(self, row: LostClaim, *, now: datetime, is_held: bool = False) -> bool:
        """
        running -> ready after a lost worker; guarded by the token that was seen.

        Args:
            is_held: something must be free before it may be published again.
        """
        rows = self._database.fetch(
            self._sql.mark_rescued,
            run_id=row.task.run_id,
            step_id=row.task.step_id,
            item_index=row.task.index,
            token=row.token,
            now=now,
            published_at=None if is_held else now,
        )
        return bool(rows)

    def find_lost_holders(self, *, now: datetime, run_id: str) -> list[LostClaim]:
        """Return lost claims, of whatever run, on keys that steps of a run wait for."""
        rows = self._database.fetch(self._sql.find_lost_holders, now=now, run_id=run_id, limit=100)
        return [_lost(row) for row in rows]

    def find_lost(
        self, *, now: datetime, run_id: str | None = None, limit: int = 100
    ) -> list[LostClaim]:
        """Return running steps whose lease is over, the longest lost first; of one run if given."""
        if run_id is None:
            rows = self._database.fetch(self._sql.find_lost, now=now, limit=limit)
        else:
            rows = self._database.fetch(
                self._sql.find_lost_of_run, now=now, run_id=run_id, limit=limit
            )
        return [_lost(row) for row in rows]

    def stage_due(
        self, *, now: datetime, run_id: str | None = None
    ) -> tuple[list[StepTask], list[str]]:
        """
        retrying -> ready for all whose delay is over; of one run if `run_id` is given.

        Returns:
            The tasks to publish, and the keys that the others must be given first.
        """
        if run_id is None:
            rows = self._database.fetch(self._sql.stage_due, now=now, published_at=now)
        else:
            rows = self._database.fetch(
                self._sql.stage_due_of_run, now=now, published_at=now, run_id=run_id
            )
        tasks = [read_task(row) for row in rows if row[6] is None]
        return tasks, list(dict.fromkeys(row[6] for row in rows if row[6] is not None))

    def count_stale(self, *, before: datetime, limit: int = 100_000) -> int:
        """Return how many ready steps were first published before an instant, at most `limit`."""
        count: int = self._database.fetch(self._sql.count_stale, before=before, limit=limit)[0][0]
        return count

    def mark_republished(
        self, *, now: datetime, pause_seconds: float, most_seconds: float, limit: int
    ) -> list[StepTask]:
        """
        ready -> ready: note that a new message goes out for steps nobody claimed.

        Args:
            pause_seconds: after the first message; doubled after each later one.
            most_seconds: the longest that it grows to.
            limit: at most so many in one sweep.
        """

        def before(factor: int) -> datetime:
            return now - timedelta(seconds=min(pause_seconds * factor, most_seconds))

        rows = self._database.fetch(
            self._sql.mark_republished,
            now=now,
            before=now - timedelta(seconds=pause_seconds),
            limit=limit,
            **_doubling(before),
        )
        return [read_task(row) for row in rows]

    def ready_of_run(self, run_id: str) -> list[StepTask]:
        """Return the published steps of a run, for an executor that has no messages."""
        return [
            read_task(row) for row in self._database.fetch(self._sql.ready_of_run, run_id=run_id)
        ]

    def next_due(self, run_id: str | None = None) -> datetime | None:
        """
        Return when something is due next (a retry, a timer, a rate), of all runs or of one.

        None if nothing is.
        """
        if run_id is None:
            rows = self._database.fetch(self._sql.next_due)
        else:
            rows = self._database.fetch(self._sql.next_due_of_run, run_id=run_id)
        return read_instant(rows[0][0])


def _doubling(instant: Callable[[int], datetime]) -> dict[str, Any]:
    """Return the instants that belong to 0, 1, 2, … messages: `after_1` for factor 2, and so on."""
    return {f"after_{turn}": instant(2**turn) for turn in range(DOUBLINGS + 1)}


def _by_messages(publishes: sa.ColumnElement[int]) -> sa.Case[Any]:
    """Return SQL for the one of these instants that a row's count of messages wants."""
    slots = [sa.cast(sa.bindparam(f"after_{turn}"), INSTANT) for turn in range(DOUBLINGS + 1)]
    return sa.case(
        *((publishes == sa.literal_column(str(turn)), slots[turn]) for turn in range(DOUBLINGS)),
        else_=slots[DOUBLINGS],
    )


@dataclass(frozen=True, slots=True)
class HandedBack:
    """A step that was handed back; `due_at` is when its next message is due, None: now."""

    due_at: datetime | None
    task: StepTask


@dataclass(frozen=True, slots=True)
class LostClaim:
    """A running step whose worker has not been heard of for longer than its lease."""

    task: StepTask
    token: str
    worker_losses: int
    worker: str | None


def _lost(row: Row) -> LostClaim:
    return LostClaim(read_task(row), token=str(row[6]), worker_losses=row[7], worker=row[8])


def _parse(outputs: str | None) -> dict[str, Any]:
    found = json.loads(outputs or "[]")
    return {step_id: json.loads(row[0]) for step_id, row in found if row is not None}


def read_task(row: Row) -> StepTask:
    """Return the task of a row that begins with ids, attempts begun, queue and priority."""
    run_id, step_id, index, attempt, queue, priority = row[:6]
    return StepTask(str(run_id), step_id, index, attempt + 1, "", queue, priority)


class _Statements:
    """The statements on claims, for one database's tables."""

    def __init__(self, database: Database) -> None:
        t = database.tables
        steps, payloads = t.steps, t.step_payloads
        bind = sa.bindparam
        this = sa.and_(
            steps.c.run_id == bind("run_id"),
            steps.c.step_id == bind("step_id"),
            steps.c.item_index == bind("item_index"),
        )
        is_published = steps.c.published_at.is_not(None)
        ready, running = literal_word(StepStatus.READY), literal_word(StepStatus.RUNNING)
        mine = sa.and_(
            this, is_now(steps.c.status, StepStatus.RUNNING), steps.c.token == bind("token")
        )
        task = (
            steps.c.run_id,
            steps.c.step_id,
            steps.c.item_index,
            steps.c.attempt,
            steps.c.queue,
            steps.c.priority,
        )
        other = steps.alias("other")
        outputs = look_up_each(
            "reads",
            sa.select(json_row(sa.cast(payloads.c.output, sa.Text)))
            .where(
                payloads.c.run_id == bind("run_id"),
                payloads.c.step_id == WANTED,
                payloads.c.item_index == NO_INDEX,
                sa.exists()
                .where(
                    other.c.run_id == bind("run_id"),
                    other.c.step_id == WANTED,
                    other.c.item_index == NO_INDEX,
                    is_readable(other),
                )
                .correlate_except(other),
            )
            .scalar_subquery(),
        )
        inputs, item = (
            sa.select(sa.cast(column, sa.Text))
            .where(
                payloads.c.run_id == bind("run_id"),
                payloads.c.step_id == bind("step_id"),
                payloads.c.item_index == bind("item_index"),
            )
            .scalar_subquery()
            for column in (payloads.c.inputs, payloads.c.item)
        )
        returned: list[Any] = [
            steps.c.attempt,
            steps.c.worker_losses,
            steps.c.ready_seq,
            steps.c.earlier_attempts,
            steps.c.published_at,
        ]
        of_item = returned
        if database.dialect == POSTGRES:
            # The commit's flush is put off for this one statement's transaction alone.
            put_off = sa.func.set_config(
                sa.literal_column("'synchronous_commit'"),
                sa.literal_column("'off'"),
                sa.literal_column("true"),
            )
            returned += [inputs, outputs]
            # Of one whole step there is no item to look for.
            of_item = [*returned, item, put_off]
            returned += [sa.null(), put_off]
        self.payloads = Statement("iaflow_claim_payloads", sa.select(inputs, outputs, item))
        claim = (
            sa.update(steps)
            .where(this, is_now(steps.c.status, StepStatus.READY), is_published)
            .values(
                status=running,
                attempt=steps.c.attempt + 1,
                token=bind("token"),
                worker=bind("worker"),
                started_at=bind("started_at"),
                lease_until=bind("lease_until"),
                hindrance=sa.null(),
            )
        )
        self.mark_running = Statement("iaflow_mark_running", claim.returning(*returned))
        self.mark_item_running = Statement("iaflow_mark_item_running", claim.returning(*of_item))
        self.extend_lease = Statement(
            "iaflow_extend_lease",
            sa.update(steps)
            .where(mine)
            .values(lease_until=bind("lease_until"))
            .returning(steps.c.attempt),
        )
        back = {
            "status": ready,
            "token": sa.null(),
            "worker": sa.null(),
            "lease_until": sa.null(),
            "published_at": bind("published_at"),
            "publishes": sa.literal_column("0"),
        }
        self.mark_released = Statement(
            "iaflow_mark_released",
            sa.update(steps)
            .where(mine)
            .values(**back, attempt=steps.c.attempt - 1)
            .returning(steps.c.attempt),
        )
        is_first = steps.c.publishes == sa.literal_column("0")
        self.mark_given_up = Statement(
            "iaflow_mark_given_up",
            sa.update(steps)
            .where(mine)
            .values(**back, worker_losses=steps.c.worker_losses + 1)
            .returning(steps.c.attempt),
        )
        self.mark_handed_back = Statement(
            "iaflow_mark_handed_back",
            sa.update(steps)
            .where(this, is_now(steps.c.status, StepStatus.READY), is_published)
            .values(
                published_at=sa.case((is_first, steps.c.published_at), else_=sa.null()),
                due_at=sa.case((is_first, sa.null()), else_=_by_messages(steps.c.publishes)),
                publishes=steps.c.publishes + 1,
                hindrance=bind("hindrance"),
            )
            .returning(steps.c.due_at, *task),
        )
        self.mark_rescued = Statement(
            "iaflow_mark_rescued",
            sa.update(steps)
            .where(mine, steps.c.lease_until < bind("now"))
            .values(**back, worker_losses=steps.c.worker_losses + 1)
            .returning(steps.c.attempt),
        )
        lost = (
            sa.select(*task, steps.c.token, steps.c.worker_losses, steps.c.worker)
            .where(steps.c.status == running, steps.c.lease_until < bind("now"))
            .order_by(steps.c.lease_until)
            .limit(bind("limit"))
        )
        self.find_lost = Statement("iaflow_find_lost", lost)
        self.find_lost_of_run = Statement(
            "iaflow_find_lost_of_run", lost.where(steps.c.run_id == bind("run_id"))
        )
        waiter, holds = steps.alias("waiter"), t.key_holds
        is_wanted = (
            sa.exists()
            .where(
                waiter.c.run_id == bind("run_id"),
                waiter.c.status == ready,
                waiter.c.published_at.is_(None),
                holds.c.concurrency_key == waiter.c.concurrency_key,
                holds.c.run_id == steps.c.run_id,
                holds.c.step_id == steps.c.step_id,
                holds.c.item_index == steps.c.item_index,
            )
            .correlate(steps)
        )
        self.find_lost_holders = Statement("iaflow_find_lost_holders", lost.where(is_wanted))
        self.stage_due = _stage(database, task, "iaflow_stage_due")
        self.stage_due_of_run = _stage(database, task, "iaflow_stage_due_of_run", of_run=True)
        self.mark_republished = _republish(database, task)
        stale: sa.Select[Any] = (
            sa.select(sa.literal_column("1"))
            .where(steps.c.status == ready, steps.c.published_at < bind("before"))
            .limit(bind("limit"))
        )
        self.count_stale = Statement(
            "iaflow_count_stale", sa.select(sa.func.count()).select_from(stale.subquery())
        )
        self.ready_of_run = Statement(
            "iaflow_ready_of_run",
            sa.select(*task).where(
                steps.c.run_id == bind("run_id"), steps.c.status == ready, is_published
            ),
        )
        resting = [literal_word(StepStatus.RETRYING), literal_word(StepStatus.WAITING)]
        next_due = sa.select(sa.func.min(steps.c.due_at)).where(
            sa.or_(
                steps.c.status.in_(resting),
                sa.and_(steps.c.status == ready, steps.c.published_at.is_(None)),
            )
        )
        self.next_due = Statement("iaflow_next_due", next_due)
        self.next_due_of_run = Statement(
            "iaflow_next_due_of_run", next_due.where(steps.c.run_id == bind("run_id"))
        )


def _stage(
    database: Database, task: tuple[Any, ...], name: str, *, of_run: bool = False
) -> Statement:
    steps = database.tables.steps
    due = steps.alias("due")
    retrying = literal_word(StepStatus.RETRYING)
    chosen = (
        sa.select(due.c.run_id, due.c.step_id, due.c.item_index)
        .where(due.c.status == retrying, due.c.due_at <= sa.bindparam("now"))
        .order_by(due.c.due_at)
        .limit(1000)
        .with_for_update(skip_locked=True)
    )
    if of_run:
        chosen = chosen.where(due.c.run_id == sa.bindparam("run_id"))
    return Statement(
        name,
        sa.update(steps)
        .where(
            sa.tuple_(steps.c.run_id, steps.c.step_id, steps.c.item_index).in_(chosen),
            steps.c.status == retrying,
        )
        .values(
            status=literal_word(StepStatus.READY),
            due_at=sa.null(),
            # With a key it waits for that once more.
            published_at=sa.case(
                (
                    steps.c.concurrency_key.is_(None),
                    sa.cast(sa.bindparam("published_at"), INSTANT),
                ),
                else_=sa.null(),
            ),
            publishes=sa.literal_column("0"),
        )
        .returning(*task, steps.c.concurrency_key),
    )


def _republish(database: Database, task: tuple[Any, ...]) -> Statement:
    steps = database.tables.steps
    stale = steps.alias("stale")
    chosen = (
        sa.select(stale.c.run_id, stale.c.step_id, stale.c.item_index)
        .where(
            stale.c.status == literal_word(StepStatus.READY),
            stale.c.published_at < sa.bindparam("before"),
            sa.or_(
                stale.c.publishes == sa.literal_column("0"),
                stale.c.republished_at.is_(None),
                stale.c.republished_at < _by_messages(stale.c.publishes),
            ),
        )
        .order_by(stale.c.published_at)
        .limit(sa.bindparam("limit"))
        .with_for_update(skip_locked=True)
    )
    return Statement(
        "iaflow_mark_republished",
        sa.update(steps)
        .where(
            sa.tuple_(steps.c.run_id, steps.c.step_id, steps.c.item_index).in_(chosen),
            steps.c.status == literal_word(StepStatus.READY),
        )
        .values(republished_at=sa.bindparam("now"), publishes=steps.c.publishes + 1)
        .returning(*task),
    )
