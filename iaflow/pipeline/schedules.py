"""Schedules: which instants a cron expression in a zone, or an interval, names.

Decides the instants, and what becomes of those that passed while nobody could fire them; never
what time it is, and never starts a run. Asked by the verbs of schedules and by whoever shows them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

from iaflow.data.status import Misfire
from iaflow.errors import Problem, ScheduleRefused
from iaflow.pipeline.cron import Cron, find_cron_problems, read_cron

__all__ = ["GRACE", "Due", "Timetable", "find_due", "read_timetable"]

GRACE: Final = timedelta(seconds=60)
"""An instant that passed no longer ago is late, not missed: it fires whatever the policy."""

MOST_AT_ONCE: Final = 100
"""Of instants that are due together so many are looked at at a time, the earliest first."""

MOST_INTERVAL: Final = timedelta(days=3660)

FIRES_WITHIN: Final = timedelta(days=3653)
"""A cron expression that names no instant for ten years is a mistake."""
YEARS: Final = range(1970, 2501)
"""Instants lie in these, so that looking ahead never leaves the calendar."""

# They are files of the machine, another zone on each.
_NO_ZONES: Final = frozenset({"localtime", "posixrules", "Factory"})


@dataclass(frozen=True, slots=True)
class Timetable:
    """
    The instants of one schedule, in UTC and strictly increasing; `read_timetable` makes one.

    `Cron` says what daylight saving does to a cron expression.

    An interval is counted from `starts_at` in seconds that pass, and knows no zone.

    Attributes:
        cron: five fields; None for an interval.
        zone: an IANA name; what the fields of `cron` mean.
        interval: between two instants; None for a cron expression.
        starts_at: no instant before it; where an interval begins.
        ends_at: no instant after it; None: it goes on for ever.
    """

    cron: str | None
    zone: str
    interval: timedelta | None
    starts_at: datetime
    ends_at: datetime | None = None

    def next_after(self, instant: datetime) -> datetime | None:
        """Return the first instant after this one; None if there is none any more."""
        return next(self.instants(instant), None)

    def instants(self, after: datetime) -> Iterator[datetime]:
        """Give every instant after this one, in order."""
        found = self._intervals(after) if self.interval is not None else self._matches(after)
        for instant in found:
            if self.ends_at is not None and instant > self.ends_at:
                return
            if instant.year not in YEARS:
                return
            yield instant

    def instants_until(self, instant: datetime) -> Iterator[datetime]:
        """Give every instant that is not after this one, the last one first."""
        if self.ends_at is not None:
            instant = min(instant, self.ends_at)
        if self.interval is not None:
            for turn in range((instant - self.starts_at) // self.interval, -1, -1):
                yield self.starts_at + turn * self.interval
            return
        for found in self._cron.backward(ZoneInfo(self.zone), instant):
            if found < self.starts_at:
                return
            yield found

    def last_until(self, instant: datetime) -> datetime | None:
        """Return the last instant that is not after this one; None if there is none."""
        return next(self.instants_until(instant), None)

    def _intervals(self, after: datetime) -> Iterator[datetime]:
        assert self.interval is not None
        instant = self.starts_at
        if after >= instant:
            instant += ((after - instant) // self.interval + 1) * self.interval
        while True:
            yield instant
            instant += self.interval

    def _matches(self, after: datetime) -> Iterator[datetime]:
        last = max(after, self.starts_at - timedelta(microseconds=1))
        return self._cron.forward(ZoneInfo(self.zone), last)

    @property
    def _cron(self) -> Cron:
        assert self.cron is not None
        return read_cron(self.cron)


@dataclass(frozen=True, slots=True)
class Due:
    """
    What has become of a schedule's instants.

    Attributes:
        fire: the instant to start a run for; None if none is.
        missed: instants that passed and are not fired, in order.
        next_at: the instant to look at next, which may have passed too; None if there is none.
    """

    fire: datetime | None
    missed: tuple[datetime, ...]
    next_at: datetime | None


def find_due(
    timetable: Timetable, next_at: datetime, now: datetime, misfire: Misfire
) -> Due | None:
    """
    Return what is to be done about the instants from `next_at` on; None: it has not come yet.

    An instant that passed longer than `GRACE` ago was missed. ``all`` fires it nevertheless, one
    after the other; ``skip`` never; ``latest`` fires the newest instant of all that have passed,
    if no other is fired anyway.

    Of a thousand missed instants the last hundred are told of: the others lie before them.
    """
    if next_at > now:
        return None
    if misfire is Misfire.ALL or next_at >= now - GRACE:
        return Due(next_at, (), timetable.next_after(next_at))
    last = timetable.last_until(now)
    newest = next_at if last is None else max(next_at, last)
    recent = timetable.next_after(now - GRACE - timedelta(microseconds=1))
    if newest < now - GRACE and misfire is Misfire.LATEST:
        missed = _last_of(timetable, next_at, newest - timedelta(microseconds=1))
        return Due(newest, missed, timetable.next_after(newest))
    return Due(None, _last_of(timetable, next_at, now - GRACE, is_open=True), recent)


def read_timetable(
    *,
    cron: str | None = None,
    every: timedelta | None = None,
    zone: str = "UTC",
    starts_at: datetime,
    ends_at: datetime | None = None,
) -> Timetable:
    """
    Return the timetable of a schedule that somebody wrote.

    Args:
        cron: five fields, such as ``30 2 * * MON-FRI``, or a name such as ``@daily``. If both days
            are given, either is enough.
        every: an interval of whole seconds, in the place of `cron`.
        zone: an IANA name, such as ``America/New_York``.

    Raises:
        ScheduleRefused: with every problem found.
    """
    problems: list[Problem] = []
    if (cron is None) == (every is None):
        problems.append(
            Problem("schedule_invalid", "/cron", "a schedule has either a cron or an interval")
        )
    if starts_at.tzinfo is None or (ends_at is not None and ends_at.tzinfo is None):
        problems.append(
            Problem("instant_invalid", "/starts_at", "an instant needs its offset", "append Z")
        )
    elif any(one.year not in YEARS for one in (starts_at, ends_at or starts_at)):
        message = f"instants lie in the years {YEARS[0]} to {YEARS[-1]}"
        problems.append(Problem("instant_invalid", "/starts_at", message))
    elif ends_at is not None and ends_at <= starts_at:
        problems.append(Problem("instant_invalid", "/ends_at", "it ends before it starts"))
    if every is not None:
        problems += _find_interval_problems(every)
    if not _is_zone(zone):
        near = difflib.get_close_matches(str(zone), available_timezones() - _NO_ZONES, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "such as Europe/Berlin"
        problems.append(Problem("zone_unknown", "/zone", f"there is no zone {zone!r}", hint))
    if cron is not None:
        problems += find_cron_problems(cron)
    if problems:
        raise ScheduleRefused(tuple(problems))
    start = starts_at.astimezone(UTC)
    end = None if ends_at is None else ends_at.astimezone(UTC)
    timetable = Timetable(cron, zone, every, start, end)
    first = timetable.next_after(start - timedelta(microseconds=1))
    if first is None or first - start > FIRES_WITHIN:
        until = f"before it ends at {end:%Y-%m-%d %H:%M}Z" if end else "within ten years"
        raise ScheduleRefused((Problem("schedule_empty", "/cron", f"it names no instant {until}"),))
    return timetable


def _last_of(
    timetable: Timetable, first: datetime, until: datetime, *, is_open: bool = False
) -> tuple[datetime, ...]:
    """Return the last `MOST_AT_ONCE` instants from `first` to `until` (`is_open`: before it)."""
    if is_open:
        until -= timedelta(microseconds=1)
    passed = takewhile(lambda instant: instant >= first, timetable.instants_until(until))
    return tuple(reversed([*islice(passed, MOST_AT_ONCE)]))


def _find_interval_problems(every: timedelta) -> Iterator[Problem]:
    if every < timedelta(seconds=1) or every > MOST_INTERVAL or every.microseconds:
        yield Problem(
            "interval_invalid",
            "/every",
            f"an interval has 1 second to {MOST_INTERVAL.days} days, in whole seconds",
        )


def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return False
    return name not in _NO_ZONES
