"""What people and other systems are to be told: kept with its cause, delivered after it.

Decides which guarded statement each change of a notice is; never how it is delivered. Written
by the settler, the engine and maintenance, delivered by whoever has the notifier service.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from iaflow.data.records import NoticeRecord
from iaflow.data.status import NoticeKind, StepStatus
from iaflow.database.connections import Connection, Row
from iaflow.database.dialects import Database
from iaflow.database.statements import (
    POSTGRES,
    Statement,
    dump_json,
    literal_word,
    read_instant,
)

__all__ = ["NoticeStore", "StuckStep"]


@dataclass(frozen=True, slots=True)
class StuckStep:
    """A step that is ready, and that nobody takes up or can execute."""

    run_id: str
    slug: str
    step_id: str
    ready_seq: int
    queue: str | None
    hindrance: str | None


class NoticeStore:
    """The notices of all runs."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = _Statements(database)

    def insert(
        self,
        tx: Connection,
        *,
        notice_id: str,
        run_id: str,
        kind: NoticeKind,
        cause: str,
        body: Mapping[str, Any],
        now: datetime,
        step_id: str | None = None,
        pause_id: str | None = None,
        is_of_family: bool = False,
    ) -> None:
        """
        nothing -> due, unless the same has been told before.

        Args:
            cause: what makes it one of its kind in its run.
            is_of_family: only if no other run waits for this one.
        """
        tx.queue(
            self._sql.insert_of_family if is_of_family else self._sql.insert,
            notice_id=notice_id,
            run_id=run_id,
            kind=kind.value,
            cause=cause,
            body=dump_json(body),
            created_at=now,
            due_at=now,
            step_id=step_id,
            pause_id=pause_id,
        )

    def claim_due(
        self, *, now: datetime, until: datetime, run_id: str | None = None, limit: int = 100
    ) -> list[NoticeRecord]:
        """
        due -> due later: take what is to be delivered now, in the order it was caused.

        Args:
            until: when others may take it, should nothing be heard of this delivery.
        """
        statement = self._sql.claim_due if run_id is None else self._sql.claim_due_of_run
        given: dict[str, Any] = {} if run_id is None else {"run_id": run_id}
        rows = self._database.fetch(statement, now=now, until=until, limit=limit, **given)
        return sorted((_record(row) for row in rows), key=lambda notice: notice.notice_id)

    def mark_delivered(self, notice_id: str, *, now: datetime) -> None:
        """due -> delivered."""
        self._database.fetch(self._sql.mark_delivered, notice_id=notice_id, delivered_at=now)

    def mark_failed(self, notice_id: str, *, error: str, due_at: datetime | None) -> None:
        """due -> due later, or given up; `error` says why."""
        self._database.fetch(self._sql.mark_failed, notice_id=notice_id, error=error, due_at=due_at)

    def next_due(self, run_id: str | None = None) -> datetime | None:
        """Return when the next notice is due; None if none is."""
        statement = self._sql.next_due if run_id is None else self._sql.next_due_of_run
        given: dict[str, Any] = {} if run_id is None else {"run_id": run_id}
        return read_instant(self._database.fetch(statement, **given)[0][0])

    def of_run(self, run_id: str) -> list[NoticeRecord]:
        """Return what was told of a run, the first first."""
        rows = self._database.fetch(self._sql.of_run, run_id=run_id)
        # Sorted here: in the order of their ids, all notices there ever were would be read.
        return sorted((_record(row) for row in rows), key=lambda notice: notice.notice_id)

    def find_stuck(self, *, before: datetime, limit: int = 20) -> list[StuckStep]:
        """
        Return steps that became ready before an instant, and that nobody can or does take up.

        Either the last worker that took it up gave it back, or no step of its queue is being
        executed: nobody reads it. Of each pipeline's step the oldest.
        """
        rows = self._database.fetch(self._sql.stuck, before=before, limit=limit)
        oldest: dict[tuple[str, str], StuckStep] = {}
        for row in rows:
            step = StuckStep(str(row[0]), row[1], row[2], row[3], row[4], row[5])
            oldest.setdefault((step.slug, step.step_id), step)
        return list(oldest.values())


def _record(row: Row) -> NoticeRecord:
    created_at = read_instant(row[6])
    assert created_at is not None
    return NoticeRecord(
        notice_id=str(row[0]),
        run_id=str(row[1]),
        kind=NoticeKind(row[2]),
        step_id=row[3],
        pause_id=None if row[4] is None else str(row[4]),
        body=json.loads(row[5]),
        created_at=created_at,
        tries=row[7],
        due_at=read_instant(row[8]),
        delivered_at=read_instant(row[9]),
        error=row[10],
    )


class _Statements:
    def __init__(self, database: Database) -> None:
        t = database.tables
        notices, runs = t.notices, t.runs
        bind = sa.bindparam
        text = sa.Text()
        columns = (
            notices.c.notice_id,
            notices.c.run_id,
            notices.c.kind,
            notices.c.step_id,
            notices.c.pause_id,
            sa.cast(notices.c.body, text),
            notices.c.created_at,
            notices.c.tries,
            notices.c.due_at,
            notices.c.delivered_at,
            notices.c.error,
        )
        insert = postgresql.insert if database.dialect == POSTGRES else sqlite.insert
        names = (
            *("notice_id", "run_id", "kind", "step_id", "pause_id"),
            *("cause", "body", "created_at", "due_at"),
        )
        self.insert = Statement(
            "iaflow_insert_notice",
            insert(notices).values({name: bind(name) for name in names}).on_conflict_do_nothing(),
        )
        of_family = sa.select(
            *(sa.cast(bind(name), notices.c[name].type).label(name) for name in names)
        ).where(sa.exists().where(runs.c.run_id == bind("run_id"), runs.c.parent_run_id.is_(None)))
        self.insert_of_family = Statement(
            "iaflow_insert_notice_of_family",
            insert(notices).from_select(list(names), of_family).on_conflict_do_nothing(),
        )
        due = notices.alias("due")
        chosen = (
            sa.select(due.c.notice_id)
            .where(due.c.due_at <= bind("now"))
            .order_by(due.c.due_at)
            .limit(bind("limit"))
            .with_for_update(skip_locked=True)
        )

        def claim(name: str, ids: sa.Select[Any]) -> Statement:
            taken = sa.update(notices).where(notices.c.notice_id.in_(ids))
            later = taken.values(due_at=bind("until"), tries=notices.c.tries + 1)
            return Statement(name, later.returning(*columns))

        self.claim_due = claim("iaflow_claim_notices", chosen)
        self.claim_due_of_run = claim(
            "iaflow_claim_notices_of_run", chosen.where(due.c.run_id == bind("run_id"))
        )
        this = notices.c.notice_id == bind("notice_id")
        self.mark_delivered = Statement(
            "iaflow_mark_delivered",
            sa.update(notices)
            .where(this)
            .values(due_at=sa.null(), delivered_at=bind("delivered_at"), error=sa.null()),
        )
        self.mark_failed = Statement(
            "iaflow_mark_undelivered",
            sa.update(notices)
            .where(this, notices.c.delivered_at.is_(None))
            .values(due_at=bind("due_at"), error=bind("error")),
        )
        of_run = notices.c.run_id == bind("run_id")
        self.of_run = Statement("iaflow_notices_of_run", sa.select(*columns).where(of_run))
        next_due = sa.select(sa.func.min(notices.c.due_at)).where(notices.c.due_at.is_not(None))
        self.next_due = Statement("iaflow_next_notice", next_due)
        self.next_due_of_run = Statement("iaflow_next_notice_of_run", next_due.where(of_run))
        self.stuck = _stuck(database)


def _stuck(database: Database) -> Statement:
    t = database.tables
    steps, runs, events = t.steps, t.runs, t.events
    at_work = steps.alias("at_work")
    bind = sa.bindparam
    ready = literal_word(StepStatus.READY)
    is_served = (
        sa.exists()
        .where(
            at_work.c.status == literal_word(StepStatus.RUNNING),
            at_work.c.queue.is_not_distinct_from(steps.c.queue),
        )
        .correlate(steps)
    )
    is_unread = sa.and_(steps.c.published_at < bind("before"), sa.not_(is_served))
    # It became ready with that event; its messages are younger.
    is_old = (
        sa.exists()
        .where(
            events.c.run_id == steps.c.run_id,
            events.c.seq == steps.c.ready_seq,
            events.c.at < bind("before"),
        )
        .correlate(steps)
    )
    is_hindered = sa.and_(steps.c.hindrance.is_not(None), is_old)
    return Statement(
        "iaflow_stuck",
        sa.select(
            steps.c.run_id,
            runs.c.slug,
            steps.c.step_id,
            steps.c.ready_seq,
            steps.c.queue,
            steps.c.hindrance,
        )
        .select_from(steps.join(runs, runs.c.run_id == steps.c.run_id))
        .where(steps.c.status == ready, sa.or_(is_unread, is_hindered))
        .order_by(steps.c.run_id)
        .limit(bind("limit")),
    )
