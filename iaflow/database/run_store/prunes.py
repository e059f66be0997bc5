"""Removing what ended long ago: runs with all that is theirs, old fires, delivered notices.

Decides which rows one short transaction takes away and in which order, so that nobody ever reads
half a run; never how old is old. Called by maintenance, in workers and for `iaflow db prune`.

A run without its row in `run_payloads` is no run to whoever reads: that row goes first, the
run's own row last, in the same transaction if all between fits into it. So a run of a million
rows goes in many short transactions, and whatever is cut off is found and gone on with.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from iaflow.data.status import NoticeKind
from iaflow.database.connections import Connection
from iaflow.database.dialects import Database
from iaflow.database.statements import (
    POSTGRES,
    Statement,
    among_ids,
    literal_word,
    read_instant,
)

__all__ = ["FIRST", "ROWS_AT_ONCE", "EndedFamily", "Place", "PruneStore", "Removal"]

ROWS_AT_ONCE = 1000
"""Rows that one transaction removes at most, children of `pauses` apart."""

RUNS_AT_ONCE = 200
"""Child runs of a large family that one transaction looks at."""


@dataclass(frozen=True, slots=True)
class Place:
    """How far a pass has come through the runs that ended, by when they did."""

    finished_at: datetime
    run_id: str


FIRST = Place(datetime(1, 1, 1, tzinfo=UTC), str(UUID(int=0)))


@dataclass(frozen=True, slots=True)
class EndedFamily:
    """
    A run that ended and that no step runs, with all runs below it.

    Attributes:
        runs: how many there are.
        ended: how many of them have ended.
        changes: how often any of them changed, which tells how many rows they have.
        last_finished: when the last of them ended.
        last_bound: when the last one ended that has an idempotency key, or something that people
            are still to be told; None: none has.
    """

    place: Place
    runs: int
    ended: int
    changes: int
    last_finished: datetime
    last_bound: datetime | None

    @property
    def run_id(self) -> str:
        """The run at the top."""
        return self.place.run_id

    @property
    def rows(self) -> int:
        """About how many rows are theirs: steps and decisions are fewer than changes."""
        return 3 * self.changes + 3 * self.runs

    def may_go(self, before: datetime, bound_before: datetime) -> bool:
        """
        Tell whether all of them ended before an instant, and those bound before another.

        Only together: a run that is shown with its children is never shown without them.
        """
        return (
            self.ended == self.runs
            and self.last_finished < before
            and (self.last_bound is None or self.last_bound < bound_before)
        )


@dataclass(frozen=True, slots=True)
class Removal:
    """
    What one transaction took away.

    Attributes:
        rows: of all tables together.
        is_done: nothing of these families is left for this pass to remove.
    """

    runs: int
    rows: int
    is_done: bool


class PruneStore:
    """Removes from one database; each call is one transaction, or one read."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = _Statements(database)

    def find_ended(
        self, *, before: datetime, after: Place = FIRST, limit: int = 50
    ) -> list[EndedFamily]:
        """Return families whose topmost run ended before an instant, the oldest first."""
        rows = self._database.fetch(
            self._sql.ended,
            before=before,
            after=after.finished_at,
            after_id=after.run_id,
            limit=limit,
        )
        return [
            EndedFamily(
                Place(_instant(row[1]), str(row[0])),
                row[2],
                row[3],
                int(row[4]),
                _instant(row[5]),
                read_instant(row[6]),
            )
            for row in rows
        ]

    def remove(
        self, run_ids: Sequence[str], *, before: datetime, most_rows: int = ROWS_AT_ONCE
    ) -> Removal:
        """
        Remove families, or as much of them as one transaction may.

        A family that is being removed elsewhere, or whose run was reopened since it was found,
        is left alone.

        Args:
            run_ids: their topmost runs.
            before: what has not ended before this instant stays.
        """

        def remove(tx: Connection) -> Removal:
            tops = self._lock(tx, run_ids, before)
            if not tops:
                return Removal(0, 0, is_done=True)
            # From here on nobody reads them, whatever else fits into this transaction.
            left = most_rows - len(tx.fetch(self._sql.hide, ids=_dump(tops)))
            runs = 0
            while left > 0:
                lowest = self._find_lowest(tx, tops, before, min(RUNS_AT_ONCE, most_rows))
                if not lowest:
                    return Removal(runs, most_rows - left, is_done=True)
                left -= self._empty(tx, lowest, left)
                if left < len(lowest):
                    break
                gone = len(tx.fetch(self._sql.delete_runs, ids=_dump(lowest)))
                runs, left = runs + gone, left - gone
                if lowest == tops:
                    return Removal(runs, most_rows - left, is_done=True)
            # Whoever starts with the key of a run that nobody can read gets a new one.
            tx.queue(self._sql.free_keys, ids=_dump(tops))
            return Removal(runs, most_rows - left, is_done=False)

        # A removal that a crash of the server undoes is done again by the next pass.
        return self._database.perform(remove, durable=False)

    def remove_fires(self, *, before: datetime, limit: int = ROWS_AT_ONCE) -> int:
        """Remove what became of instants of schedules; return how many, at most `limit`."""
        gone = 0
        for (name,) in self._database.fetch(self._sql.schedules_with_fires, before=before):
            if gone < limit:
                found = self._database.fetch(
                    self._sql.delete_fires, name=name, before=before, limit=limit - gone
                )
                gone += len(found)
        return gone

    def remove_notices(self, *, before: datetime, limit: int = ROWS_AT_ONCE) -> int:
        """
        Remove notices that were delivered, of runs that are still there; return how many.

        One that a run is stuck stays, or it would be told once more.
        """
        rows = self._database.fetch(
            self._sql.delete_notices, before=before, below=_least_id_of(before), limit=limit
        )
        return len(rows)

    def _lock(self, tx: Connection, run_ids: Sequence[str], before: datetime) -> list[str]:
        rows = tx.fetch(self._sql.lock, ids=_dump(run_ids), before=before)
        return sorted(str(row[0]) for row in rows)

    def _find_lowest(
        self, tx: Connection, tops: list[str], before: datetime, most: int
    ) -> list[str]:
        """Lock and return runs of these families that no run is below; none if one lives."""
        level = tops
        while below := tx.fetch(self._sql.below, ids=_dump(level), limit=most):
            level = sorted(str(row[0]) for row in below)
        if level is not tops and self._lock(tx, level, before) != level:
            return []
        return level

    def _empty(self, tx: Connection, run_ids: list[str], most: int) -> int:
        """Remove rows of runs from every table but their own; return how many."""
        gone = 0
        for statement in self._sql.empty:
            if gone < most:
                gone += len(tx.fetch(statement, ids=_dump(run_ids), limit=most - gone))
        return gone


def _dump(run_ids: Sequence[str]) -> str:
    return json.dumps(list(run_ids))


def _instant(value: Any) -> datetime:
    instant = read_instant(value)
    assert instant is not None
    return instant


def _least_id_of(instant: datetime) -> str:
    """Return the least id that can have been made at an instant: ids begin with the millisecond."""
    return str(UUID(int=max(0, int(instant.timestamp() * 1000)) << 80))


class _Statements:
    def __init__(self, database: Database) -> None:
        t = database.tables
        bind = sa.bindparam
        runs = t.runs
        self.ended = _ended(runs, t.notices)
        self.lock = Statement(
            "iaflow_prune_lock",
            sa.select(runs.c.run_id)
            .where(among_ids(runs.c.run_id, "ids"), runs.c.finished_at < bind("before"))
            .with_for_update(skip_locked=True),
        )
        self.below = Statement(
            "iaflow_prune_below",
            sa.select(runs.c.run_id)
            .where(among_ids(runs.c.parent_run_id, "ids"))
            .limit(bind("limit")),
        )
        self.hide = Statement(
            "iaflow_prune_hide",
            sa.delete(t.run_payloads)
            .where(among_ids(t.run_payloads.c.run_id, "ids"))
            .returning(t.run_payloads.c.run_id),
        )
        self.free_keys = Statement(
            "iaflow_prune_free_keys",
            sa.update(runs)
            .where(among_ids(runs.c.run_id, "ids"), runs.c.idempotency_key.is_not(None))
            .values(idempotency_key=sa.null()),
        )
        self.delete_runs = Statement(
            "iaflow_prune_runs",
            sa.delete(runs).where(among_ids(runs.c.run_id, "ids")).returning(runs.c.run_id),
        )
        # Whatever table names a run is emptied, so that a new one is not forgotten; but a fire
        # is its schedule's. The payload goes first: without it nobody reads the rest.
        children_first = reversed(t.metadata.sorted_tables)
        named = [table for table in children_first if "run_id" in table.c]
        parts = [one for one in named if one not in (runs, t.run_payloads, t.schedule_fires)]
        self.empty = [
            _delete_some(
                database,
                f"iaflow_prune_{table.name}",
                table,
                among_ids(table.c.run_id, "ids"),
            )
            for table in (t.run_payloads, *parts)
        ]
        fires = t.schedule_fires
        # Of instants that were made up for late, what was told of them is as old as that.
        is_old = sa.and_(fires.c.fire_at < bind("before"), fires.c.fired_at < bind("before"))
        self.schedules_with_fires = Statement(
            "iaflow_prune_schedules",
            sa.select(t.schedules.c.name).where(
                sa.exists().where(fires.c.name == t.schedules.c.name, is_old)
            ),
        )
        self.delete_fires = _delete_some(
            database,
            "iaflow_prune_fires",
            fires,
            sa.and_(fires.c.name == bind("name"), is_old),
        )
        notices = t.notices
        self.delete_notices = _delete_some(
            database,
            "iaflow_prune_old_notices",
            notices,
            sa.and_(
                # By the key, which is in the order of time: no index has `delivered_at`.
                notices.c.notice_id < bind("below"),
                notices.c.delivered_at < bind("before"),
                notices.c.kind != literal_word(NoticeKind.RUN_STUCK),
            ),
        )


def _ended(runs: sa.Table, notices: sa.Table) -> Statement:
    """Return the statement that counts ended families, by their topmost runs."""
    bind = sa.bindparam
    top = runs.alias("top")
    after: sa.BindParameter[Any] = bind("after", type_=top.c.finished_at.type)
    after_id: sa.BindParameter[Any] = bind("after_id", type_=top.c.run_id.type)
    page = (
        sa.select(top.c.run_id, top.c.finished_at)
        .where(
            # As the partial index has it.
            top.c.finished_at.is_not(None),
            top.c.parent_run_id.is_(None),
            top.c.finished_at < bind("before"),
            top.c.finished_at >= after,
            sa.not_(sa.and_(top.c.finished_at == after, top.c.run_id <= after_id)),
        )
        .order_by(top.c.finished_at, top.c.run_id)
        .limit(bind("limit"))
        .cte("page")
    )
    family = (
        sa.select(page.c.run_id.label("top_id"), page.c.finished_at.label("top_at"), page.c.run_id)
        .select_from(page)
        .cte("family", recursive=True)
    )
    child = runs.alias("child")
    family = family.union_all(
        sa.select(family.c.top_id, family.c.top_at, child.c.run_id).where(
            child.c.parent_run_id == family.c.run_id
        )
    )
    is_to_be_told = (
        sa.exists()
        .where(notices.c.run_id == runs.c.run_id, notices.c.due_at.is_not(None))
        .correlate(runs)
    )
    is_bound = sa.or_(runs.c.idempotency_key.is_not(None), is_to_be_told)
    bound_at = sa.case((is_bound, runs.c.finished_at))
    return Statement(
        "iaflow_prune_ended",
        sa.select(
            family.c.top_id,
            family.c.top_at,
            sa.func.count(),
            sa.func.count(runs.c.finished_at),
            sa.func.sum(runs.c.seq),
            sa.func.max(runs.c.finished_at),
            sa.func.max(bound_at),
        )
        .select_from(family.join(runs, runs.c.run_id == family.c.run_id))
        .group_by(family.c.top_id, family.c.top_at)
        .order_by(family.c.top_at, family.c.top_id),
    )


def _delete_some(
    database: Database, name: str, table: sa.Table, which: sa.ColumnElement[bool]
) -> Statement:
    """Return a statement that deletes at most `limit` rows, by where they lie."""
    # No dialect deletes with a LIMIT; both know a row by its place while nobody else moves it.
    place: sa.ColumnElement[Any]
    chosen: Any
    if database.dialect == POSTGRES:
        place = sa.literal_column("ctid")
        some = sa.select(place).select_from(table).where(which).limit(sa.bindparam("limit"))
        chosen = place == sa.func.any(sa.func.array(some.scalar_subquery()))
    else:
        place = sa.literal_column("rowid")
        some = sa.select(place).select_from(table).where(which).limit(sa.bindparam("limit"))
        chosen = place.in_(some)
    one: sa.ColumnElement[int] = sa.literal_column("1")
    return Statement(name, sa.delete(table).where(chosen).returning(one))
