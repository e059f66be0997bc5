"""How schedules are kept, and that each of their instants is dealt with once.

Decides which guarded statement each change is; never which instants there are. Called by the
engine's verbs, the client and maintenance.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from iaflow.data.accounts import EVERYTHING, Sight
from iaflow.data.schedules import FireRecord, ScheduleRecord
from iaflow.data.status import FireStatus, Misfire
from iaflow.database.connections import Connection, Row
from iaflow.database.dialects import Database
from iaflow.database.statements import POSTGRES, Statement, dump_json, is_seen, read_instant
from iaflow.database.tables import TO_BE_FIRED

__all__ = ["ScheduleStore"]


class ScheduleStore:
    """The schedules of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = _Statements(database)

    def put(self, tx: Connection, record: ScheduleRecord) -> None:
        """Keep a schedule in the place of any other of its name, which stays paused if it was."""
        tx.queue(
            self._sql.put,
            name=record.name,
            slug=record.slug,
            parameters=dump_json(dict(record.parameters)),
            cron=record.cron,
            zone=record.zone,
            interval_seconds=record.interval_seconds,
            misfire=record.misfire.value,
            is_paused=record.is_paused,
            starts_at=record.starts_at,
            ends_at=record.ends_at,
            instant_as=record.instant_as,
            next_at=record.next_at,
            created_by=record.created_by,
            created_at=record.created_at,
            updated_at=record.updated_at,
        )

    def lock(self, tx: Connection, name: str) -> ScheduleRecord | None:
        """Return a schedule that nobody else changes before this transaction's end."""
        rows = tx.fetch(self._sql.lock, name=name)
        return _schedule(rows[0]) if rows else None

    def find(self, name: str, sight: Sight = EVERYTHING) -> ScheduleRecord | None:
        """Return a schedule; None: there is none of that name whose pipeline is in sight."""
        likes = sight.as_likes()
        if likes is None:
            rows = self._database.fetch(self._sql.find, name=name)
        else:
            rows = self._database.fetch(self._sql.find_seen, name=name, likes=likes)
        return _schedule(rows[0]) if rows else None

    def list_all(self, sight: Sight = EVERYTHING) -> list[ScheduleRecord]:
        """Return all schedules of pipelines in sight, by name."""
        likes = sight.as_likes()
        if likes is None:
            rows = self._database.fetch(self._sql.listed)
        else:
            rows = self._database.fetch(self._sql.listed_seen, likes=likes)
        return [_schedule(row) for row in rows]

    def set_paused(self, tx: Connection, schedule: ScheduleRecord) -> None:
        """Let a locked schedule rest or go on, as the record says, with its `next_at`."""
        tx.queue(
            self._sql.set_paused,
            name=schedule.name,
            is_paused=schedule.is_paused,
            next_at=schedule.next_at,
            updated_at=schedule.updated_at,
        )

    def delete(self, tx: Connection, name: str) -> None:
        """Remove a locked schedule with its history."""
        tx.queue(self._sql.delete_fires, name=name)
        tx.queue(self._sql.delete, name=name)

    def find_due(self, *, now: datetime, limit: int = 100) -> list[str]:
        """Return the names of schedules of which an instant has come, the most overdue first."""
        return [row[0] for row in self._database.fetch(self._sql.due, now=now, limit=limit)]

    def next_due(self) -> datetime | None:
        """Return when the next instant comes; None if there is none."""
        return read_instant(self._database.fetch(self._sql.next_due)[0][0])

    def advance(self, tx: Connection, seen: ScheduleRecord, *, next_at: datetime | None) -> bool:
        """
        next_at -> the one after it. False: the schedule is not as it was seen any more.

        Of any number of processes that do it at once one succeeds: it holds the row until it
        commits, and finds what the others wait for changed.
        """
        return bool(
            tx.fetch(
                self._sql.advance,
                name=seen.name,
                seen_at=seen.next_at,
                seen_update=seen.updated_at,
                next_at=next_at,
            )
        )

    def insert_fire(self, tx: Connection, fire: FireRecord) -> bool:
        """Keep what becomes of an instant. False: that has been decided before."""
        return bool(
            tx.fetch(
                self._sql.insert_fire,
                name=fire.name,
                fire_at=fire.fire_at,
                status=fire.status.value,
                run_id=fire.run_id,
                error=fire.error,
                fired_at=fire.fired_at,
            )
        )

    def fires(
        self, name: str, *, before: datetime | None = None, limit: int = 50
    ) -> list[FireRecord]:
        """Return what became of a schedule's instants, the newest first."""
        statement = self._sql.fires if before is None else self._sql.fires_before
        given: dict[str, Any] = {} if before is None else {"before": before}
        rows = self._database.fetch(statement, name=name, limit=limit, **given)
        return [_fire(row) for row in rows]


def _schedule(row: Row) -> ScheduleRecord:
    starts_at, created_at, updated_at = (read_instant(row[place]) for place in (8, 13, 14))
    assert starts_at is not None
    assert created_at is not None
    assert updated_at is not None
    return ScheduleRecord(
        name=row[0],
        slug=row[1],
        parameters=json.loads(row[2]) if isinstance(row[2], str) else row[2],
        cron=row[3],
        zone=row[4],
        interval_seconds=row[5],
        misfire=Misfire(row[6]),
        is_paused=bool(row[7]),
        starts_at=starts_at,
        ends_at=read_instant(row[9]),
        instant_as=row[10],
        next_at=read_instant(row[11]),
        created_by=row[12],
        created_at=created_at,
        updated_at=updated_at,
    )


def _fire(row: Row) -> FireRecord:
    fire_at, fired_at = read_instant(row[1]), read_instant(row[5])
    assert fire_at is not None
    assert fired_at is not None
    run_id = None if row[3] is None else str(row[3])
    return FireRecord(row[0], fire_at, FireStatus(row[2]), run_id, row[4], fired_at)


class _Statements:
    def __init__(self, database: Database) -> None:
        schedules, fires = database.tables.schedules, database.tables.schedule_fires
        insert = postgresql.insert if database.dialect == POSTGRES else sqlite.insert
        bind = sa.bindparam
        this = schedules.c.name == bind("name")
        columns = [
            schedules.c[name]
            for name in (
                *("name", "slug", "parameters", "cron", "zone", "interval_seconds", "misfire"),
                *("is_paused", "starts_at", "ends_at", "instant_as", "next_at", "created_by"),
                *("created_at", "updated_at"),
            )
        ]
        new = insert(schedules).values({column.name: bind(column.name) for column in columns})
        kept = {"name", "is_paused", "created_at", "created_by"}
        self.put = Statement(
            "iaflow_put_schedule",
            new.on_conflict_do_update(
                index_elements=[schedules.c.name],
                set_={
                    column.name: new.excluded[column.name]
                    for column in columns
                    if column.name not in kept
                },
            ),
        )
        found = sa.select(*columns).where(this)
        in_sight = is_seen(schedules.c.slug, "likes")
        self.find = Statement("iaflow_schedule", found)
        self.find_seen = Statement("iaflow_seen_schedule", found.where(in_sight))
        self.lock = Statement(
            "iaflow_lock_schedule", sa.select(*columns).where(this).with_for_update()
        )
        listed = sa.select(*columns).order_by(schedules.c.name)
        self.listed = Statement("iaflow_schedules", listed)
        self.listed_seen = Statement("iaflow_seen_schedules", listed.where(in_sight))
        self.set_paused = Statement(
            "iaflow_set_schedule_paused",
            sa.update(schedules)
            .where(this)
            .values(
                is_paused=bind("is_paused"),
                next_at=bind("next_at"),
                updated_at=bind("updated_at"),
            ),
        )
        self.delete_fires = Statement(
            "iaflow_delete_fires", sa.delete(fires).where(fires.c.name == bind("name"))
        )
        self.delete = Statement(
            "iaflow_delete_schedule",
            sa.delete(schedules).where(this),
        )
        # As the partial index has it, so that the index is what is read.
        is_awake = sa.text(TO_BE_FIRED)
        self.due = Statement(
            "iaflow_due_schedules",
            sa.select(schedules.c.name)
            .where(is_awake, schedules.c.next_at <= bind("now"))
            .order_by(schedules.c.next_at)
            .limit(bind("limit")),
        )
        self.next_due = Statement(
            "iaflow_next_schedule", sa.select(sa.func.min(schedules.c.next_at)).where(is_awake)
        )
        self.advance = Statement(
            "iaflow_advance_schedule",
            sa.update(schedules)
            .where(
                this,
                sa.not_(schedules.c.is_paused),
                schedules.c.next_at == bind("seen_at"),
                schedules.c.updated_at == bind("seen_update"),
            )
            .values(next_at=bind("next_at"))
            .returning(schedules.c.name),
        )
        self.insert_fire = Statement(
            "iaflow_insert_fire",
            insert(fires)
            .values({column.name: bind(column.name) for column in fires.c})
            .on_conflict_do_nothing()
            .returning(fires.c.name),
        )
        of_schedule = (
            sa.select(*(fires.c[one] for one in _FIRE))
            .where(fires.c.name == bind("name"))
            .order_by(fires.c.fire_at.desc())
            .limit(bind("limit"))
        )
        self.fires = Statement("iaflow_fires", of_schedule)
        self.fires_before = Statement(
            "iaflow_fires_before", of_schedule.where(fires.c.fire_at < bind("before"))
        )


_FIRE = ("name", "fire_at", "status", "run_id", "error", "fired_at")
