"""Schedules: which instants a cron expression in a zone, or an interval, names.

Decides the instants, and what becomes of those that passed while nobody could fire them; never
what time it is, and never starts a run. Asked by the verbs of schedules and by whoever shows them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property, lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from iaflow.data.status import Misfire
from iaflow.errors import Problem, ScheduleRefused

__all__ = ["GRACE", "Due", "Timetable", "find_due", "read_timetable"]

GRACE: Final = timedelta(seconds=60)
"""An instant that passed no longer ago is late, not missed: it fires whatever the policy."""

MOST_AT_ONCE: Final = 100
"""Of instants that are due together so many are looked at at a time, the earliest first."""

MOST_YEARS: Final = 50
"""A cron expression that names no instant for so long names none: 29 February on a Monday comes
every 28 years, and after 40 where a century leaves a leap year out."""

MOST_INTERVAL: Final = timedelta(days=3660)

_DAY: Final = timedelta(days=1)
_NAMED: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_FIELDS: Final = ("minute", "hour", "day of the month", "month", "day of the week")


@dataclass(frozen=True)
class Timetable:
    """
    The instants of one schedule, in UTC and strictly increasing; `read_timetable` makes one.

    What daylight saving does to a cron expression is what Debian's cron does:

    - One that names hours and minutes (``30 2 * * *``) means that time of day, once a day. Where
      the clock skips it, it fires at the instant the gap ends; where the clock repeats it, at the
      first of the two.
    - One whose minutes or hours begin with a star (``*/15 * * * *``, ``0 * * * *``) goes by the
      time that passes: it fires in both passes of a repeated hour, and a skipped one has none.

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
            yield instant

    def last_until(self, instant: datetime) -> datetime | None:
        """Return the last instant that is not after this one; None if there is none."""
        if self.ends_at is not None:
            instant = min(instant, self.ends_at)
        if instant < self.starts_at:
            return None
        if self.interval is not None:
            return self.starts_at + (instant - self.starts_at) // self.interval * self.interval
        day = instant.astimezone(self._place).date() + _DAY
        first = self.starts_at.astimezone(self._place).date() - _DAY
        while day >= first:
            if self._is_day(day):
                found = [one for one in self._of_day(day) if self.starts_at <= one <= instant]
                if found:
                    return found[-1]
            day -= _DAY
        return None

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
        # A day before: where a whole day is skipped or repeated, dates and instants part company.
        day = last.astimezone(self._place).date() - _DAY
        stop = day.year + MOST_YEARS
        while day.year <= stop:
            if day.month not in self._fields.months:
                day = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
                continue
            if self._is_day(day):
                for instant in self._of_day(day):
                    if instant > last:
                        yield instant
                        last = instant
                        stop = day.year + MOST_YEARS
            day += _DAY

    def _is_day(self, day: date) -> bool:
        return day.month in self._fields.months and self._fields.match_day(day)

    def _of_day(self, day: date) -> list[datetime]:
        """Return the instants that belong to a local date, in order."""
        if day not in self._days:
            self._days.clear()
            self._days[day] = self._find_of_day(day)
        return self._days[day]

    def _find_of_day(self, day: date) -> list[datetime]:
        times = [time(hour, minute) for hour in self._hours for minute in self._minutes]
        if self._goes_by_clock:
            found = {self._resolve(datetime.combine(day, one)) for one in times}
        else:
            found = {
                instant
                for one in times
                for fold in (0, 1)
                if (instant := self._at(datetime.combine(day, one), fold)) is not None
            }
        return sorted(found)

    def _at(self, local: datetime, fold: int) -> datetime | None:
        """Return the instant of a local time; None if the clock skips it."""
        instant = local.replace(tzinfo=self._place, fold=fold).astimezone(UTC)
        return instant if instant.astimezone(self._place).replace(tzinfo=None) == local else None

    def _resolve(self, local: datetime) -> datetime:
        """Return the first instant of a local time, or the one at which the gap over it ends."""
        instant = self._at(local, 0)
        if instant is not None:
            return instant
        # Read with the offset before the gap it lies behind the gap, with the one after it
        # before the gap: the offset changes in between.
        early = local.replace(tzinfo=self._place, fold=1).astimezone(UTC)
        late = local.replace(tzinfo=self._place, fold=0).astimezone(UTC)
        offset = early.astimezone(self._place).utcoffset()
        while late - early > timedelta(seconds=1):
            middle = early + (late - early) // 2
            if middle.astimezone(self._place).utcoffset() == offset:
                early = middle
            else:
                late = middle
        return late.replace(microsecond=0)

    @cached_property
    def _days(self) -> dict[date, list[datetime]]:
        # The day that was looked at last: whoever asks for one instant asks for the next.
        return {}

    @cached_property
    def _place(self) -> ZoneInfo:
        return ZoneInfo(self.zone)

    @cached_property
    def _fields(self) -> CronSim:
        assert self.cron is not None
        return _parse(self.cron)

    @cached_property
    def _minutes(self) -> list[int]:
        return sorted(self._fields.minutes)

    @cached_property
    def _hours(self) -> list[int]:
        return sorted(self._fields.hours)

    @cached_property
    def _goes_by_clock(self) -> bool:
        minute, hour = self._fields.parts[1:3]
        return not minute.startswith("*") and not hour.startswith("*")


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
    elif ends_at is not None and ends_at <= starts_at:
        problems.append(Problem("instant_invalid", "/ends_at", "it ends before it starts"))
    if every is not None:
        problems += _find_interval_problems(every)
    is_zone = _is_zone(zone)
    if not is_zone:
        problems.append(
            Problem("zone_unknown", "/zone", f"there is no zone {zone!r}", "such as Europe/Berlin")
        )
    if cron is not None:
        problem = _find_cron_problem(cron)
        if problem is not None:
            problems.append(problem)
    if problems:
        raise ScheduleRefused(tuple(problems))
    start = starts_at.astimezone(UTC)
    end = None if ends_at is None else ends_at.astimezone(UTC)
    timetable = Timetable(cron, zone, every, start, end)
    if timetable.next_after(start - timedelta(microseconds=1)) is None:
        until = f"before it ends at {end:%Y-%m-%d %H:%M}Z" if end else f"in {MOST_YEARS} years"
        raise ScheduleRefused((Problem("schedule_empty", "/cron", f"it names no instant {until}"),))
    return timetable


def _last_of(
    timetable: Timetable, first: datetime, until: datetime, *, is_open: bool = False
) -> tuple[datetime, ...]:
    """Return the last `MOST_AT_ONCE` instants from `first` to `until` (`is_open`: before it)."""
    if is_open:
        until -= timedelta(microseconds=1)
    found: list[datetime] = []
    instant = timetable.last_until(until)
    while instant is not None and instant >= first and len(found) < MOST_AT_ONCE:
        found.append(instant)
        instant = timetable.last_until(instant - timedelta(microseconds=1))
    return tuple(reversed(found))


def _find_interval_problems(every: timedelta) -> Iterator[Problem]:
    if every < timedelta(seconds=1) or every > MOST_INTERVAL or every.microseconds:
        yield Problem(
            "interval_invalid",
            "/every",
            f"an interval has 1 second to {MOST_INTERVAL.days} days, in whole seconds",
        )


def _find_cron_problem(text: str) -> Problem | None:
    hint = "minute hour day-of-month month day-of-week, such as 30 2 * * MON-FRI"
    if not text.startswith("@") and len(text.split()) != len(_FIELDS):
        message = f"{text!r} has {len(text.split())} fields, not {len(_FIELDS)}"
        return Problem("cron_invalid", "/cron", message, hint)
    if text.startswith("@") and text.lower() not in _NAMED:
        message = f"there is no {text!r}; there are {', '.join(_NAMED)}"
        return Problem("cron_invalid", "/cron", message, hint)
    try:
        _parse(text)
    except CronSimError:
        for place, name in enumerate(_FIELDS):
            alone = ["*"] * len(_FIELDS)
            alone[place] = text.split()[place]
            try:
                _parse(" ".join(alone))
            except CronSimError:
                message = f"{alone[place]!r} is no {name}"
                return Problem("cron_invalid", "/cron", message, hint)
        return Problem("cron_invalid", "/cron", "no month has such a day", hint)
    return None


@lru_cache(maxsize=256)
def _parse(cron: str) -> CronSim:
    # Its fields and days alone are used. Its instants are not: with a zone that is shifted by
    # half an hour it leaves some out, and from within a repeated hour it goes back.
    return CronSim(_NAMED.get(cron.lower(), cron), datetime(2000, 1, 1))  # noqa: DTZ001


def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return False
    return True
