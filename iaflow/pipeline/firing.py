"""What a schedule does when one of its instants has come.

Decides that an instant, the run that it starts and the instant after it are one transaction;
never which instants there are (the timetable does). Part of the engine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from iaflow.data.accounts import EVERYTHING, Sight
from iaflow.data.schedules import FireRecord, ScheduleRecord
from iaflow.data.status import FireStatus, RunStatus
from iaflow.database.connections import Connection
from iaflow.errors import Conflict, DefinitionRefused, InputRefused, NotFound
from iaflow.pipeline.check import merge_parameters
from iaflow.pipeline.core import Core, refuse_paused
from iaflow.pipeline.endings import MESSAGE_KEPT
from iaflow.pipeline.graph import Graph
from iaflow.pipeline.plans import Judged
from iaflow.pipeline.schedules import GRACE, MOST_AT_ONCE, Due, Timetable, find_due
from iaflow.pipeline.settler import Settled

__all__ = ["ScheduleVerbs", "parameters_of", "starter_of", "timetable_of"]


class ScheduleVerbs(Core):
    """Verbs on schedules."""

    def put_schedule(
        self, schedule: ScheduleRecord, *, has_start: bool, sight: Sight = EVERYTHING
    ) -> ScheduleRecord:
        """
        Keep a schedule in the place of any other of its name, and return it as it is kept.

        One whose times stay goes on where it was: its interval keeps its anchor, and an instant
        that has come this moment is not lost.

        Args:
            has_start: False: nobody asked for its `starts_at`.
            sight: of who keeps it.

        Raises:
            NotFound: the name is that of a schedule out of sight.
        """

        def put(tx: Connection) -> ScheduleRecord:
            known = self.schedules.lock(tx, schedule.name)
            if known is not None and not sight.sees(known.slug):
                raise NotFound(f"there is no schedule {schedule.name!r}")
            kept = schedule if known is None else _carry_on(known, schedule, has_start=has_start)
            self.schedules.put(tx, kept)
            return kept

        return self.database.perform(put)

    def delete_schedule(self, name: str, *, sight: Sight = EVERYTHING) -> None:
        """Remove a schedule in sight with its history; one that is gone already stays so."""

        def delete(tx: Connection) -> None:
            known = self.schedules.lock(tx, name)
            if known is not None and sight.sees(known.slug):
                self.schedules.delete(tx, name)

        self.database.perform(delete)

    def set_schedule_paused(
        self, name: str, *, is_paused: bool, sight: Sight = EVERYTHING
    ) -> ScheduleRecord:
        """Let a schedule in sight rest, or go on with its next instant from now; raises NotFound."""

        def change(tx: Connection) -> ScheduleRecord:
            known = self.schedules.lock(tx, name)
            if known is None or not sight.sees(known.slug):
                raise NotFound(f"there is no schedule {name!r}")
            if known.is_paused is is_paused:
                return known
            now = self.clock.now()
            next_at = timetable_of(known).next_after(now)
            kept = replace(known, is_paused=is_paused, next_at=next_at, updated_at=now)
            self.schedules.set_paused(tx, kept)
            return kept

        return self.database.perform(change)

    def fire_by_hand(self, schedule: ScheduleRecord) -> Settled:
        """
        Start a run of a schedule now, beside its instants; its history has it.

        Raises:
            NotFound, InputRefused, DefinitionRefused: it cannot start; nothing was kept.
            Conflict: an instant of it was fired this very moment, or its pipeline is paused.
        """
        now = self.clock.now()
        start = self._find_start(schedule, now)

        def fire(tx: Connection) -> Settled:
            begun = self._begin_instant(tx, schedule.name, now, start, now)
            if begun is None:
                raise Conflict(f"schedule {schedule.name!r} was fired this very moment")
            return begun

        return self.follow_up(self.database.perform(fire))

    def fire_schedule(
        self, name: str, _judged: Judged | None = None, *, left: int = MOST_AT_ONCE
    ) -> Settled:
        """
        Deal with the next instant of a schedule that has come, and then with those behind it.

        Safe from any number of processes at once. A start that is refused (no such pipeline, one
        that is paused, an input that does not fit any more) is written down, and the schedule
        goes on.

        Args:
            left: how many instants may follow this one; what is left then is for the next sweep.
        """
        nothing = Settled(name, RunStatus.PENDING, is_stale=True)
        now = self.clock.now()
        seen = self.schedules.find(name)
        if seen is None or seen.is_paused or seen.next_at is None:
            return nothing
        due = find_due(timetable_of(seen), seen.next_at, now, seen.misfire)
        if due is None:
            return nothing
        try:
            start = None if due.fire is None else self._prepare(seen, due.fire)
        except DefinitionRefused as refusal:
            if now - seen.next_at <= GRACE:
                # A worker of a newer release may read it. Nobody's for longer, it is refused.
                return nothing
            start = f"its definition cannot be read: {refusal}"
        settled = self.database.perform(partial(self._fire, seen, due, start, now))
        if settled is None:
            return nothing
        if not settled.is_stale:
            settled = self.follow_up(settled)
        if due.next_at is not None and due.next_at <= now and left > 1:
            again = partial(self.fire_schedule, name, left=left - 1)
            settled = replace(settled, follow_ups=(*settled.follow_ups, again))
        return settled

    def _prepare(self, schedule: ScheduleRecord, instant: datetime) -> _Start | str:
        """Return what would be started, or why it cannot be."""
        try:
            return self._find_start(schedule, instant)
        except (NotFound, Conflict) as error:
            return str(error)
        except InputRefused as error:
            return f"its input does not fit: {error}"

    def _find_start(self, schedule: ScheduleRecord, instant: datetime) -> _Start:
        pipeline = self.pipelines.find(schedule.slug)
        if pipeline is None:
            raise NotFound(f"there is no pipeline {schedule.slug!r}")
        if pipeline.is_paused:
            raise refuse_paused(schedule.slug)
        graph = self.library.graph(pipeline.content_hash)
        return _Start(graph, merge_parameters(graph.definition, parameters_of(schedule, instant)))

    def _fire(
        self,
        seen: ScheduleRecord,
        due: Due,
        start: _Start | str | None,
        now: datetime,
        tx: Connection,
    ) -> Settled | None:
        if not self.schedules.advance(tx, seen, next_at=due.next_at):
            return None
        for missed in due.missed:
            why = "nobody could fire it in time"
            self.schedules.insert_fire(
                tx, FireRecord(seen.name, missed, FireStatus.MISSED, None, why, now)
            )
        nothing = Settled(seen.name, RunStatus.PENDING, is_stale=True)
        if due.fire is None or start is None:
            return nothing
        if isinstance(start, str):
            refused = FireRecord(
                seen.name, due.fire, FireStatus.REFUSED, None, start[:MESSAGE_KEPT], now
            )
            self.schedules.insert_fire(tx, refused)
            return nothing
        # A schedule that was written anew may come to an instant that it has had before.
        return self._begin_instant(tx, seen.name, due.fire, start, now) or nothing

    def _begin_instant(
        self, tx: Connection, name: str, instant: datetime, start: _Start, now: datetime
    ) -> Settled | None:
        """Begin the run of an instant and write both down; None if it has been dealt with."""
        new = self.make_run(
            start.graph, start.parameters, started_by=starter_of(name), source_folder=None
        )
        fire = FireRecord(name, instant, FireStatus.STARTED, new.run_id, None, now)
        if not self.schedules.insert_fire(tx, fire):
            return None
        return self.begin(tx, start.graph, new, start.parameters)


@dataclass(frozen=True, slots=True)
class _Start:
    graph: Graph
    parameters: dict[str, Any]


def _carry_on(known: ScheduleRecord, new: ScheduleRecord, *, has_start: bool) -> ScheduleRecord:
    """Return a schedule that was written anew, gone on with where its times are those of before."""
    kept = replace(
        new, is_paused=known.is_paused, created_by=known.created_by, created_at=known.created_at
    )
    times, before = (
        (one.cron, one.zone, one.interval_seconds, one.starts_at if has_start else None)
        for one in (new, known)
    )
    if times != before:
        return kept
    kept = replace(kept, starts_at=known.starts_at, next_at=known.next_at)
    is_over = kept.next_at is None or (kept.ends_at is not None and kept.next_at > kept.ends_at)
    if is_over:
        # Its end is another now.
        return replace(kept, next_at=timetable_of(kept).next_after(new.updated_at))
    return kept


def timetable_of(schedule: ScheduleRecord) -> Timetable:
    """Return the instants of a schedule."""
    seconds = schedule.interval_seconds
    return Timetable(
        schedule.cron,
        schedule.zone,
        None if seconds is None else timedelta(seconds=seconds),
        schedule.starts_at,
        schedule.ends_at,
    )


def parameters_of(schedule: ScheduleRecord, instant: datetime) -> dict[str, Any]:
    """Return the input of the run that an instant starts."""
    given = dict(schedule.parameters)
    if schedule.instant_as is not None:
        given[schedule.instant_as] = instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return given


def starter_of(name: str) -> str:
    """Return who has started a run of a schedule, as the run says it."""
    return f"schedule:{name}"
