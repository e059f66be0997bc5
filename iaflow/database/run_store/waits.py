"""Steps that wait without a worker for time or for another run; runs that wait for their turn.

Decides which of them are due; never what then follows. Called by the engine and maintenance.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement

from iaflow.data.status import END_OF_RUN, PauseStatus, RunStatus, StepStatus, WaitsFor
from iaflow.database.connections import Connection, Row
from iaflow.database.dialects import Database
from iaflow.database.statements import POSTGRES, Statement, literal_word, read_instant

__all__ = ["WaitStore", "WaitingStep", "select_family", "select_of_family"]


@dataclass(frozen=True, slots=True)
class WaitingStep:
    """A step, or an item of it, that waits without a worker."""

    run_id: str
    step_id: str
    index: int


class WaitStore:
    """What waits, in all runs."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = _Statements(database)

    def find_due(
        self, *, now: datetime, run_id: str | None = None, limit: int = 1000
    ) -> list[WaitingStep]:
        """Return waiting steps whose time is over, the most overdue first; of one run if given."""
        statement = self._sql.due if run_id is None else self._sql.due_of_run
        given: dict[str, Any] = {} if run_id is None else {"run_id": run_id}
        return [
            _step(row) for row in self._database.fetch(statement, now=now, limit=limit, **given)
        ]

    def next_limit(self, run_id: str | None = None) -> datetime | None:
        """
        Return when the next `run_timeout` or expiry of a question is, of all runs or of one.

        None if there is none.
        """
        statement = self._sql.next_limit if run_id is None else self._sql.next_limit_of_run
        given: dict[str, Any] = {} if run_id is None else {"run_id": run_id}
        rows = self._database.fetch(statement, **given)
        limits = [read_instant(value) for value in rows[0]]
        return min((limit for limit in limits if limit is not None), default=None)

    def find_unfollowed(self, *, run_id: str | None = None, limit: int = 100) -> list[str]:
        """
        Return child runs whose end, or waiting, the step above does not know yet.

        Args:
            run_id: only those of this run's steps.
        """
        statement = self._sql.unfollowed if run_id is None else self._sql.unfollowed_of_run
        given: dict[str, Any] = {} if run_id is None else {"run_id": run_id}
        return [str(row[0]) for row in self._database.fetch(statement, limit=limit, **given)]

    def find_orphans(self, *, run_id: str | None = None, limit: int = 100) -> list[str]:
        """Return unfinished child runs whose step waits for them no more; of one run if given."""
        statement = self._sql.orphans if run_id is None else self._sql.orphans_of_run
        given: dict[str, Any] = {} if run_id is None else {"run_id": run_id}
        return [str(row[0]) for row in self._database.fetch(statement, limit=limit, **given)]

    def family(self, run_id: str) -> list[str]:
        """Return a run and all unfinished runs below it."""
        return [str(row[0]) for row in self._database.fetch(self._sql.family, run_id=run_id)]

    # -- turns

    def count_running(self, tx: Connection, slug: str) -> int:
        """Return how many runs of a pipeline are on their way; nobody else counts meanwhile."""
        if tx.dialect == POSTGRES:
            tx.queue(self._sql.lock_slug, slug=slug)
        count: int = tx.fetch(self._sql.count_running, slug=slug)[0][0]
        return count

    def find_pending(self, slug: str) -> str | None:
        """Return the run of a pipeline that has waited longest for its turn."""
        rows = self._database.fetch(self._sql.pending, slug=slug)
        return str(rows[0][0]) if rows else None

    def find_slugs_with_pending(self) -> list[str]:
        """Return the pipelines that have runs which wait for their turn."""
        return [row[0] for row in self._database.fetch(self._sql.slugs)]

    def mark_begun(
        self, tx: Connection, run_id: str, *, now: datetime, deadline_at: datetime | None
    ) -> None:
        """A pending run begins: its time counts from now."""
        tx.queue(self._sql.begun, run_id=run_id, started_at=now, deadline_at=deadline_at)


def select_family(database: Database) -> sa.Select[Any]:
    """Return the select of the ids of the run `run_id` and of all unfinished runs below it."""
    runs = database.tables.runs
    tree = (
        sa.select(runs.c.run_id)
        .where(runs.c.run_id == sa.bindparam("run_id"))
        .cte("tree", recursive=True)
    )
    child = runs.alias("child")
    below = sa.select(child.c.run_id).where(
        child.c.parent_run_id == tree.c.run_id,
        child.c.status.in_(
            [literal_word(status) for status in RunStatus if status not in END_OF_RUN]
        ),
    )
    if database.dialect == POSTGRES:
        # Each run's by itself: a join, planned while there are few runs, reads them all.
        each = below.offset(sa.literal_column("0")).lateral("each")
        below = sa.select(each.c.run_id).select_from(tree.join(each, sa.true()))
    return sa.select(tree.union_all(below).c.run_id)


def select_of_family(
    database: Database, pauses: sa.Select[Any], run_id: ColumnElement[str], *, limit: str
) -> sa.Select[Any]:
    """
    Return a select of pauses, ordered by when they were opened, for a whole family.

    Args:
        pauses: the columns and conditions for one run or for all.
        run_id: of the pauses.
        limit: the parameter that says how many at most.
    """
    opened = [database.tables.pauses.c[name] for name in ("created_at", "pause_id")]
    family = select_family(database)
    if database.dialect != POSTGRES:
        listed = pauses.where(run_id.in_(family))
        return listed.order_by(*opened).limit(sa.bindparam(limit))
    tree = family.subquery("family")
    columns = [column.label(f"c{n}") for n, column in enumerate(pauses.selected_columns)]
    order = [column.label(column.name) for column in opened]
    each = (
        pauses.with_only_columns(*columns, *order)
        .where(run_id == tree.c.run_id)
        .order_by(*opened)
        .limit(sa.bindparam(limit))
        .lateral("each")
    )
    return (
        sa.select(*(each.c[column.name] for column in columns))
        .select_from(tree.join(each, sa.true()))
        .order_by(each.c.created_at, each.c.pause_id)
        .limit(sa.bindparam(limit))
    )


def _step(row: Row) -> WaitingStep:
    return WaitingStep(str(row[0]), row[1], row[2])


class _Statements:
    def __init__(self, database: Database) -> None:
        t = database.tables
        runs, steps = t.runs, t.steps
        bind = sa.bindparam
        waiting = steps.c.status == literal_word(StepStatus.WAITING)
        due = (
            sa.select(steps.c.run_id, steps.c.step_id, steps.c.item_index)
            .where(waiting, steps.c.due_at <= bind("now"))
            .order_by(steps.c.due_at)
            .limit(bind("limit"))
        )
        self.due = Statement("iaflow_due", due)
        self.due_of_run = Statement(
            "iaflow_due_of_run", due.where(steps.c.run_id == bind("run_id"))
        )
        pauses = t.pauses
        is_open = pauses.c.status == literal_word(PauseStatus.OPEN)
        not_ended = runs.c.status.in_(
            [literal_word(status) for status in RunStatus if status not in END_OF_RUN]
        )
        deadline = sa.select(sa.func.min(runs.c.deadline_at)).where(not_ended)
        expiry = sa.select(sa.func.min(pauses.c.expires_at)).where(is_open)
        self.next_limit = Statement(
            "iaflow_next_limit",
            sa.select(deadline.scalar_subquery(), expiry.scalar_subquery()),
        )
        self.next_limit_of_run = Statement(
            "iaflow_next_limit_of_run",
            sa.select(
                deadline.where(runs.c.run_id == bind("run_id")).scalar_subquery(),
                expiry.where(pauses.c.run_id == bind("run_id")).scalar_subquery(),
            ),
        )
        above = sa.and_(
            steps.c.run_id == runs.c.parent_run_id,
            steps.c.step_id == runs.c.parent_step_id,
            steps.c.item_index == runs.c.parent_index,
        )
        # An earlier attempt's run is of no concern to the step any more.
        is_latest = steps.c.attempt == runs.c.parent_attempt
        for_run = steps.c.waits_for == literal_word(WaitsFor.RUN)
        outside = steps.c.waits_for == literal_word(WaitsFor.RUN_OUTSIDE)
        ended = runs.c.status.in_([literal_word(status) for status in END_OF_RUN])
        rests = runs.c.status == literal_word(RunStatus.WAITING)
        # One look-up by the parent's key per waiting step: as a join, planned while there are
        # few runs, it would read all child runs there ever were.
        child = (
            sa.select(runs.c.run_id)
            .where(
                above,
                is_latest,
                sa.or_(
                    ended,
                    sa.and_(for_run, rests),
                    sa.and_(outside, sa.not_(rests)),
                ),
            )
            .correlate(steps)
            .limit(1)
            .scalar_subquery()
        )
        followed = sa.select(child.label("run_id")).where(waiting, sa.or_(for_run, outside))
        of_run = followed.where(steps.c.run_id == bind("run_id"))
        self.unfollowed, self.unfollowed_of_run = (
            Statement(
                name,
                sa.select(found.c.run_id).where(found.c.run_id.is_not(None)).limit(bind("limit")),
            )
            for name, found in (
                ("iaflow_unfollowed", followed.subquery()),
                ("iaflow_unfollowed_of_run", of_run.subquery()),
            )
        )
        orphans = (
            sa.select(runs.c.run_id)
            .select_from(runs.join(steps, above))
            .where(
                not_ended, runs.c.parent_attempt.is_not(None), sa.not_(sa.and_(waiting, is_latest))
            )
            .limit(bind("limit"))
        )
        self.orphans = Statement("iaflow_orphans", orphans)
        self.orphans_of_run = Statement(
            "iaflow_orphans_of_run", orphans.where(runs.c.parent_run_id == bind("run_id"))
        )
        self.family = Statement("iaflow_family", select_family(database))
        of_slug = runs.c.slug == bind("slug")
        begun = [literal_word(RunStatus.RUNNING), literal_word(RunStatus.WAITING)]
        self.count_running = Statement(
            "iaflow_count_running",
            sa.select(sa.func.count()).select_from(runs).where(of_slug, runs.c.status.in_(begun)),
        )
        number: Any = sa.func.hashtextextended(bind("slug"), sa.literal_column("7"))
        self.lock_slug = Statement(
            "iaflow_lock_slug", sa.select(sa.func.pg_advisory_xact_lock(number))
        )
        pending = runs.c.status == literal_word(RunStatus.PENDING)
        self.pending = Statement(
            "iaflow_pending",
            sa.select(runs.c.run_id).where(of_slug, pending).order_by(runs.c.run_id).limit(1),
        )
        self.slugs = Statement(
            "iaflow_slugs_with_pending", sa.select(runs.c.slug).distinct().where(pending)
        )
        self.begun = Statement(
            "iaflow_mark_begun",
            sa.update(runs)
            .where(runs.c.run_id == bind("run_id"), pending)
            .values(started_at=bind("started_at"), deadline_at=bind("deadline_at")),
        )
