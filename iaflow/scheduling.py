"""Schedules as services and commands ask for them: written, read, stopped, looked ahead.

Decides how a request becomes a row and what is refused before it does; never fires (any worker's
sweep does). Held by the client.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final

from iaflow.data.accounts import EVERYTHING, Sight
from iaflow.data.records import StepTask
from iaflow.data.schedules import FireRecord, ScheduleRecord
from iaflow.data.status import Misfire
from iaflow.errors import InputRefused, NotFound, Problem, ScheduleRefused
from iaflow.pipeline.check import merge_parameters
from iaflow.pipeline.core import is_storable
from iaflow.pipeline.engine import Engine, Started
from iaflow.pipeline.firing import parameters_of, timetable_of
from iaflow.pipeline.schedules import read_timetable
from iaflow.pipeline.strict_json import JsonRefused, dump_json, read_json

__all__ = ["Schedules"]

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Schedules:
    """
    The schedules of one database; `Client.schedules`.

    Args:
        publish: sends what a start by hand made ready.
    """

    def __init__(self, engine: Engine, publish: Callable[[Iterable[StepTask]], object]) -> None:
        self._engine = engine
        self._publish = publish

    def put(
        self,
        name: str,
        slug: str,
        given: Mapping[str, Any] | None = None,
        *,
        cron: str | None = None,
        every: timedelta | None = None,
        zone: str = "UTC",
        misfire: Misfire | str = Misfire.LATEST,
        starts_at: datetime | None = None,
        ends_at: datetime | None = None,
        instant_as: str | None = None,
        created_by: str | None = None,
        sight: Sight = EVERYTHING,
    ) -> ScheduleRecord:
        """
        Keep a schedule, in the place of any of that name; one that was paused stays so.

        No instant before now fires, and none that this schedule has fired before. Put again with
        the same times it goes on where it was, so a deployment may put its schedules each time.

        Args:
            slug: an imported pipeline; each instant runs the version that is current then.
            given: the input of each run, laid over the definition's parameters.
            cron: five fields in `zone`, or ``@daily`` and the like; or else
            every: an interval of whole seconds, from `starts_at` on.
            misfire: what becomes of instants that passed more than a minute ago while nobody
                could fire them: the ``latest`` of them fires, ``all`` do, or ``skip`` leaves
                them out.
            starts_at, ends_at: no instant before and after these; by default from now on.
            instant_as: an input of the pipeline that is given the instant, as
                ``2026-03-08T07:00:00Z``.

        Raises:
            ScheduleRefused: with every problem found; nothing was kept.
            NotFound: there is no pipeline of that slug in sight, or another schedule of that
                name is out of sight.
        """
        now = self._engine.clock.now()
        if not _NAME.fullmatch(name):
            message = "a name has up to 100 letters, digits, dots, dashes and underscores"
            raise ScheduleRefused((Problem("name_invalid", "/name", message),))
        try:
            policy = Misfire(misfire)
        except ValueError:
            known = ", ".join(Misfire)
            problem = Problem("misfire_unknown", "/misfire", f"there are {known}, not {misfire!r}")
            raise ScheduleRefused((problem,)) from None
        timetable = read_timetable(
            cron=cron,
            every=every,
            zone=zone,
            starts_at=(starts_at or now).replace(microsecond=0),
            ends_at=ends_at,
        )
        next_at = timetable.next_after(now)
        if next_at is None:
            message = "it names no instant any more: its end has passed"
            raise ScheduleRefused((Problem("schedule_empty", "/ends_at", message),))
        record = ScheduleRecord(
            name=name,
            slug=slug,
            parameters=_read_given(given),
            cron=timetable.cron,
            zone=timetable.zone,
            interval_seconds=None if every is None else int(every.total_seconds()),
            misfire=policy,
            is_paused=False,
            starts_at=timetable.starts_at,
            ends_at=timetable.ends_at,
            instant_as=instant_as,
            next_at=next_at,
            created_by=created_by,
            created_at=now,
            updated_at=now,
        )
        self._check_input(record, now, sight)
        return self._engine.put_schedule(record, has_start=starts_at is not None, sight=sight)

    def all(self, *, sight: Sight = EVERYTHING) -> list[ScheduleRecord]:
        """Return all schedules of pipelines in sight, by name."""
        return self._engine.schedules.list_all(sight)

    def get(self, name: str, *, sight: Sight = EVERYTHING) -> ScheduleRecord:
        """
        Return a schedule.

        Raises:
            NotFound: naming the nearest names; of a pipeline out of sight, as if it were not there.
        """
        found = None
        if _NAME.fullmatch(name):
            found = self._engine.schedules.find(name, sight)
        if found is None:
            near = difflib.get_close_matches(name, [one.name for one in self.all(sight=sight)], n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise NotFound(f"there is no schedule {name!r}{hint}")
        return found

    def pause(self, name: str, *, sight: Sight = EVERYTHING) -> ScheduleRecord:
        """Let a schedule rest: its instants pass, and are not missed."""
        return self._set_paused(name, sight, is_paused=True)

    def resume(self, name: str, *, sight: Sight = EVERYTHING) -> ScheduleRecord:
        """Let a paused schedule go on with its next instant from now."""
        return self._set_paused(name, sight, is_paused=False)

    def delete(self, name: str, *, sight: Sight = EVERYTHING) -> None:
        """Remove a schedule and its history; its runs stay. Raises NotFound."""
        self.get(name, sight=sight)
        self._engine.delete_schedule(name, sight=sight)

    def next(self, name: str, count: int = 10, *, sight: Sight = EVERYTHING) -> list[datetime]:
        """Return the next instants of a schedule, in UTC; it may be paused. Raises NotFound."""
        after = self._engine.clock.now()
        return [*islice(timetable_of(self.get(name, sight=sight)).instants(after), count)]

    def fires(
        self,
        name: str,
        *,
        before: datetime | None = None,
        limit: int = 50,
        sight: Sight = EVERYTHING,
    ) -> list[FireRecord]:
        """Return what became of a schedule's instants, the newest first. Raises NotFound."""
        self.get(name, sight=sight)
        return self._engine.schedules.fires(name, before=before, limit=limit)

    def fire(self, name: str, *, sight: Sight = EVERYTHING) -> Started:
        """
        Start a run as an instant would, now and beside them, paused or not.

        Raises:
            NotFound: no such schedule or pipeline.
            InputRefused: the input does not fit any more.
            Conflict: an instant of it was fired this very moment, or its pipeline is paused.
        """
        settled = self._engine.fire_by_hand(self.get(name, sight=sight))
        self._publish(settled.tasks)
        return Started(settled.run_id, True, settled.tasks)

    def _set_paused(self, name: str, sight: Sight, *, is_paused: bool) -> ScheduleRecord:
        # It knows which names are near, and what is out of sight.
        self.get(name, sight=sight)
        return self._engine.set_schedule_paused(name, is_paused=is_paused, sight=sight)

    def _check_input(self, record: ScheduleRecord, now: datetime, sight: Sight) -> None:
        pipeline = None
        if is_storable(record.slug):
            pipeline = self._engine.pipelines.find(record.slug, sight)
        if pipeline is None:
            raise NotFound(f"there is no pipeline {record.slug!r}: import it first")
        graph = self._engine.library.graph(pipeline.content_hash)
        try:
            merge_parameters(graph.definition, parameters_of(record, now))
        except InputRefused as error:
            raise ScheduleRefused(
                tuple(
                    Problem(p.code, f"/given{p.pointer}", p.message, p.hint) for p in error.problems
                )
            ) from None


def _read_given(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the input as it will be read back, or refuse what JSON cannot carry."""
    try:
        value = read_json(dump_json(dict(given or {})))
    except (JsonRefused, TypeError, ValueError) as error:
        message = f"the input is no JSON object: {error}"
        raise ScheduleRefused((Problem("type_wrong", "/given", message),)) from None
    assert isinstance(value, dict)
    return value
