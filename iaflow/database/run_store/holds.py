"""Steps that are ready but held back: behind a concurrency key, or a rate.

Decides which guarded statement takes, passes on and frees a key, and which instant is the next
free one of a rate; never which step has one. Called by the settler, the engine and maintenance.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from iaflow.data.records import StepTask
from iaflow.data.status import StepStatus
from iaflow.database.connections import Connection
from iaflow.database.dialects import Database
from iaflow.database.run_store.claims import read_task
from iaflow.database.statements import POSTGRES, Statement, literal_word, read_instant

__all__ = ["HoldStore"]


class HoldStore:
    """Keys and rates of all runs."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = _Statements(database)

    def grant(self, key: str, *, now: datetime, but: StepTask | None = None) -> StepTask | None:
        """
        ready -> ready with a message: give a free key to the longest waiting step.

        None: somebody holds it, or nobody waits for it.

        Args:
            but: gets it only if nobody else waits.
        """

        def give(tx: Connection) -> StepTask | None:
            rows = tx.fetch(self._sql.next_waiting, concurrency_key=key, now=now)
            if not rows:
                return None
            task = read_task(rows[0])
            if but is not None and len(rows) > 1 and _is_same(task, but):
                task = read_task(rows[1])
            given: dict[str, Any] = {
                "run_id": task.run_id,
                "step_id": task.step_id,
                "item_index": task.index,
            }
            if not tx.fetch(self._sql.take_key, concurrency_key=key, held_since=now, **given):
                return None
            if not tx.fetch(self._sql.publish, published_at=now, **given):
                tx.queue(self._sql.free_key_of, **given)
                return None
            return task

        return self._database.perform(give)

    def find_due(
        self, *, now: datetime, run_id: str | None = None, limit: int = 1000
    ) -> list[StepTask]:
        """Return steps whose rate lets them start by now, and that no key holds; in that order."""
        statement = self._sql.due if run_id is None else self._sql.due_of_run
        given: dict[str, Any] = {} if run_id is None else {"run_id": run_id}
        rows = self._database.fetch(statement, now=now, limit=limit, **given)
        return [read_task(row) for row in rows]

    def release(self, tx: Connection, task: StepTask, *, now: datetime) -> bool:
        """ready -> ready with a message. False: somebody else was first."""
        rows = tx.fetch(
            self._sql.release,
            run_id=task.run_id,
            step_id=task.step_id,
            item_index=task.index,
            now=now,
            published_at=now,
        )
        return bool(rows)

    def put_off(self, tx: Connection, task: StepTask, *, now: datetime, until: datetime) -> None:
        """ready -> ready, to be published later than it was to be: the others go first."""
        tx.queue(
            self._sql.put_off,
            run_id=task.run_id,
            step_id=task.step_id,
            item_index=task.index,
            now=now,
            due_at=until,
        )

    def find_free(self, *, now: datetime, limit: int = 100) -> list[str]:
        """Return keys that nobody holds and somebody waits for."""
        return [row[0] for row in self._database.fetch(self._sql.free_keys, now=now, limit=limit)]

    def read_holder(self, key: str) -> tuple[str, str] | None:
        """Return who holds a key, as (run id, step id); None if nobody does."""
        rows = self._database.fetch(self._sql.holder, concurrency_key=key)
        return (str(rows[0][0]), rows[0][1]) if rows else None

    def find_idle(self, run_id: str, *, before: datetime) -> list[StepTask]:
        """
        Return steps of other runs that hold a key which this run waits for, and do not begin.

        Args:
            before: instant; who was published after it may still be taken up.
        """
        rows = self._database.fetch(self._sql.idle, run_id=run_id, before=before)
        return [read_task(row) for row in rows]

    def take_back(self, idle: StepTask, *, before: datetime) -> list[str]:
        """ready -> ready, held back once more; return the key that is free by it."""
        given = {"run_id": idle.run_id, "step_id": idle.step_id, "item_index": idle.index}

        def take(tx: Connection) -> list[str]:
            if not tx.fetch(self._sql.unpublish, before=before, **given):
                return []
            return self.free(tx, idle.run_id, idle.step_id, idle.index)

        return self._database.perform(take)

    def free(self, tx: Connection, run_id: str, step_id: str, index: int) -> list[str]:
        """Free the key that an attempt holds; return it, if there was one."""
        rows = tx.fetch(self._sql.free_key_of, run_id=run_id, step_id=step_id, item_index=index)
        return [row[0] for row in rows]

    def free_all(self, tx: Connection, run_id: str, step_id: str | None = None) -> list[str]:
        """Free every key that a run holds, or a step of it with its items; return them."""
        if step_id is None:
            return [row[0] for row in tx.fetch(self._sql.free_keys_of_run, run_id=run_id)]
        rows = tx.fetch(self._sql.free_keys_of_step, run_id=run_id, step_id=step_id)
        return [row[0] for row in rows]

    def reserve(
        self, tx: Connection, name: str, *, spacing: timedelta, not_before: datetime, count: int = 1
    ) -> list[datetime]:
        """
        Return the next free instants of a rate, and take them.

        Args:
            name: of the rate; one for all runs.
            spacing: between two starts.
        """
        # Of two that are the first ever, one waits here for the other's row.
        rows = tx.fetch(self._sql.lock_slot, name=name, next_at=not_before)
        next_at = read_instant(rows[0][0])
        first = not_before if next_at is None else max(next_at, not_before)
        slots = [first + spacing * place for place in range(count)]
        tx.queue(self._sql.put_slot, name=name, next_at=slots[-1] + spacing)
        return slots


def _is_same(one: StepTask, other: StepTask) -> bool:
    return (one.run_id, one.step_id, one.index) == (other.run_id, other.step_id, other.index)


class _Statements:
    def __init__(self, database: Database) -> None:
        t = database.tables
        steps, holds, slots = t.steps, t.key_holds, t.rate_slots
        bind = sa.bindparam
        ready = literal_word(StepStatus.READY)
        held = sa.and_(steps.c.status == ready, steps.c.published_at.is_(None))
        is_due = sa.or_(steps.c.due_at.is_(None), steps.c.due_at <= bind("now"))
        task = (
            steps.c.run_id,
            steps.c.step_id,
            steps.c.item_index,
            steps.c.attempt,
            steps.c.queue,
            steps.c.priority,
        )
        self.next_waiting = Statement(
            "iaflow_next_waiting",
            sa.select(*task)
            .where(held, is_due, steps.c.concurrency_key == bind("concurrency_key"))
            .order_by(steps.c.run_id, steps.c.ready_seq, steps.c.item_index)
            .limit(2),
        )
        insert = postgresql.insert if database.dialect == POSTGRES else sqlite.insert
        names = ("concurrency_key", "run_id", "step_id", "item_index", "held_since")
        self.take_key = Statement(
            "iaflow_take_key",
            insert(holds)
            .values({name: bind(name) for name in names})
            .on_conflict_do_nothing()
            .returning(holds.c.concurrency_key),
        )
        this = sa.and_(
            steps.c.run_id == bind("run_id"),
            steps.c.step_id == bind("step_id"),
            steps.c.item_index == bind("item_index"),
        )
        published = {"published_at": bind("published_at"), "due_at": sa.null()}
        self.publish = Statement(
            "iaflow_publish_held",
            sa.update(steps).where(this, held).values(published).returning(steps.c.run_id),
        )
        self._idle(database)
        is_over = sa.and_(held, steps.c.concurrency_key.is_(None), steps.c.due_at <= bind("now"))
        due = (
            sa.select(*task)
            .where(is_over)
            .order_by(steps.c.due_at, steps.c.run_id, steps.c.ready_seq, steps.c.item_index)
            .limit(bind("limit"))
        )
        self.due = Statement("iaflow_due_by_rate", due)
        self.due_of_run = Statement(
            "iaflow_due_by_rate_of_run", due.where(steps.c.run_id == bind("run_id"))
        )
        self.release = Statement(
            "iaflow_release",
            sa.update(steps).where(this, is_over).values(published).returning(steps.c.run_id),
        )
        self.put_off = Statement(
            "iaflow_put_off", sa.update(steps).where(this, is_over).values(due_at=bind("due_at"))
        )
        is_free = ~sa.exists().where(holds.c.concurrency_key == steps.c.concurrency_key)
        self.free_keys = Statement(
            "iaflow_free_keys",
            sa.select(steps.c.concurrency_key)
            .distinct()
            .where(held, is_due, steps.c.concurrency_key.is_not(None), is_free)
            .limit(bind("limit")),
        )
        self.holder = Statement(
            "iaflow_key_holder",
            sa.select(holds.c.run_id, holds.c.step_id).where(
                holds.c.concurrency_key == bind("concurrency_key")
            ),
        )
        free = sa.delete(holds).returning(holds.c.concurrency_key)
        of_run = holds.c.run_id == bind("run_id")
        of_step = holds.c.step_id == bind("step_id")
        self.free_key_of = Statement(
            "iaflow_free_key_of",
            free.where(of_run, of_step, holds.c.item_index == bind("item_index")),
        )
        self.free_keys_of_step = Statement("iaflow_free_keys_of_step", free.where(of_run, of_step))
        self.free_keys_of_run = Statement("iaflow_free_keys_of_run", free.where(of_run))
        put = insert(slots).values(name=bind("name"), next_at=bind("next_at"))
        self.lock_slot = Statement(
            "iaflow_lock_slot",
            put.on_conflict_do_update(
                index_elements=["name"], set_={"next_at": slots.c.next_at}
            ).returning(slots.c.next_at),
        )
        self.put_slot = Statement(
            "iaflow_put_slot",
            put.on_conflict_do_update(
                index_elements=["name"], set_={"next_at": put.excluded.next_at}
            ),
        )

    def _idle(self, database: Database) -> None:
        steps, holds = database.tables.steps, database.tables.key_holds
        waiting = steps.alias("waiting")
        bind = sa.bindparam
        ready = literal_word(StepStatus.READY)
        holds_it = (
            sa.exists()
            .where(
                holds.c.concurrency_key == steps.c.concurrency_key,
                holds.c.run_id == steps.c.run_id,
                holds.c.step_id == steps.c.step_id,
                holds.c.item_index == steps.c.item_index,
            )
            .correlate(steps)
        )
        is_wanted = (
            sa.exists()
            .where(
                waiting.c.run_id == bind("run_id"),
                waiting.c.status == ready,
                waiting.c.published_at.is_(None),
                waiting.c.concurrency_key == steps.c.concurrency_key,
            )
            .correlate(steps)
        )
        is_idle = sa.and_(steps.c.status == ready, steps.c.published_at < bind("before"))
        self.idle = Statement(
            "iaflow_idle_holders",
            sa.select(
                steps.c.run_id,
                steps.c.step_id,
                steps.c.item_index,
                steps.c.attempt,
                steps.c.queue,
                steps.c.priority,
            ).where(is_idle, steps.c.run_id != bind("run_id"), is_wanted, holds_it),
        )
        self.unpublish = Statement(
            "iaflow_unpublish",
            sa.update(steps)
            .where(
                steps.c.run_id == bind("run_id"),
                steps.c.step_id == bind("step_id"),
                steps.c.item_index == bind("item_index"),
                is_idle,
            )
            .values(published_at=sa.null())
            .returning(steps.c.run_id),
        )
