"""Cron expressions in the zones of the world: which instants their local times come to.

Decides what an expression means, also where a zone moves its clock; never when a schedule fires,
nor what was missed. Called by `schedules`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from cronsim.cronsim import Field

from iaflow.errors import Problem

__all__ = ["Cron", "find_cron_problems", "read_cron"]

MOST_LETTERS: Final = 200
LOOK_DAYS: Final = 50 * 366
"""How far an instant is looked for: 29 February on a Monday comes every 28 years, or 40."""
SPREAD: Final = timedelta(hours=16)
"""No zone is farther from UTC: an instant of a local date lies at most so far outside of the
same date in UTC, also where its clock is changed."""
DAY: Final = timedelta(days=1)
HOUR: Final = timedelta(hours=1)

_FIELDS: Final = (
    (Field.MINUTE, "minute", "0-59"),
    (Field.HOUR, "hour", "0-23"),
    (Field.DAY, "day of the month", "1-31, or L for the last"),
    (Field.MONTH, "month", "1-12 or JAN-DEC"),
    (Field.DOW, "day of the week", "0-7 or SUN-SAT (0 and 7 are Sunday), 5L for the last Friday"),
)
_NAMED: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_RANGE_OF_ONE: Final = re.compile(r"\b(\w+)-\1/\d+")


class Cron:
    """
    A cron expression, read: the parsing is cronsim's, what the clock's changes do is ours.

    Where daylight saving moves the clock:

    - If its minute or hour begins with ``*`` it means real time that elapses: every instant
      whose local time fits, in both passes of an hour that is repeated, and none that the clock
      leaves out.
    - Else it means a time of day. One that the clock leaves out is once, at the instant the gap
      ends; one that is repeated is once, in the first pass.

    Several local times that come to one instant are one instant. If both days are restricted,
    the day of month and the day of week, either fits.
    """

    def __init__(self, expression: str) -> None:
        minute, hour, *_ = words = _words_of(expression)
        # cronsim reads the range as its first value alone, and steps on from there.
        plain = _RANGE_OF_ONE.sub(r"\1", " ".join(words))
        self._read = CronSim(plain, datetime(2000, 1, 1))  # noqa: DTZ001  local times
        self._minutes = sorted(self._read.minutes)
        self._hours = sorted(self._read.hours)
        self._is_time_of_day = not (minute.startswith("*") or hour.startswith("*"))

    def forward(self, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
        """Yield the instants later than `after`, strictly increasing, in UTC."""
        found: set[datetime] = set()
        first = (after - SPREAD - DAY).date()
        for turn in range(LOOK_DAYS):
            day = first + timedelta(days=turn)
            found |= {one for one in self._instants(zone, day, after=after) if one > after}
            # What later dates bring comes after these: the clock may turn back over midnight.
            is_safe = _midnight(day) + DAY - SPREAD
            ready = sorted(one for one in found if one < is_safe)
            found.difference_update(ready)
            yield from ready

    def backward(self, zone: ZoneInfo, until: datetime) -> Iterator[datetime]:
        """Yield the instants at `until` and before, strictly decreasing, in UTC."""
        found: set[datetime] = set()
        first = (until + SPREAD).date()
        for turn in range(LOOK_DAYS):
            day = first - timedelta(days=turn)
            found |= {one for one in self._instants(zone, day, until=until) if one <= until}
            is_safe = _midnight(day) + SPREAD
            ready = sorted((one for one in found if one > is_safe), reverse=True)
            found.difference_update(ready)
            yield from ready

    def _instants(
        self,
        zone: ZoneInfo,
        day: date,
        *,
        after: datetime | None = None,
        until: datetime | None = None,
    ) -> Iterator[datetime]:
        """
        Yield the instants that the local times of a date come to, in no order.

        Args:
            after, until: spare the work for whole hours outside.
        """
        if day.month not in self._read.months or not self._read.match_day(day):
            return
        for hour in self._hours:
            begin = datetime.combine(day, time(hour))
            offset = _offset_all_along(begin, zone)
            if offset is None:
                for minute in self._minutes:
                    yield from self._resolve(begin.replace(minute=minute), zone)
                continue
            first = (begin - offset).replace(tzinfo=UTC)
            if after is not None and first + HOUR <= after:
                continue
            if until is not None and first > until:
                continue
            for minute in self._minutes:
                yield first + timedelta(minutes=minute)

    def _resolve(self, local: datetime, zone: ZoneInfo) -> list[datetime]:
        """Return the instants of a local time near a change of the clock."""
        passes = sorted(local.replace(tzinfo=zone, fold=f).astimezone(UTC) for f in (0, 1))
        real = [one for one in passes if one.astimezone(zone).replace(tzinfo=None) == local]
        if not self._is_time_of_day:
            return real
        return real[:1] or [_end_of_gap(passes[0], passes[1], zone)]


def find_cron_problems(cron: object) -> list[Problem]:
    """Return what is wrong with an expression, field by field."""
    if not isinstance(cron, str) or len(cron) > MOST_LETTERS:
        message = f"a cron expression is text of at most {MOST_LETTERS} letters"
        return [Problem("cron_invalid", "/cron", message)]
    words = _words_of(cron)
    if cron.strip().startswith("@") and len(words) == 1:
        message = f"there is no {cron.strip()!r}; there are {', '.join(_NAMED)}"
        return [Problem("cron_invalid", "/cron", message)]
    if len(words) != len(_FIELDS):
        names = ", ".join(name for _, name, _ in _FIELDS)
        message = f"{cron!r} has {len(words)} fields, not {len(_FIELDS)}: {names}"
        return [Problem("cron_invalid", "/cron", message, 'such as "30 7 * * MON-FRI"')]
    problems = []
    for word, (field, name, values) in zip(words, _FIELDS, strict=True):
        try:
            field.parse(word)
        except (CronSimError, ValueError):
            hint = f"{values}; lists by comma, ranges by -, steps by /, * for all"
            problems.append(Problem("cron_invalid", "/cron", f"{word!r} is no {name}", hint))
    if not problems:
        try:
            read_cron(" ".join(words))
        except CronSimError:
            message = f"no month has such a day: {cron!r}"
            problems.append(Problem("cron_invalid", "/cron", message))
    return problems


@lru_cache(maxsize=256)
def read_cron(expression: str) -> Cron:
    """Return the reading of an expression that `find_cron_problems` has nothing to say of."""
    return Cron(expression)


def _offset_all_along(begin: datetime, zone: ZoneInfo) -> timedelta | None:
    """Return the offset that holds for an hour of local time; None if the clock changes there."""
    ends = (begin, begin.replace(minute=59))
    offsets = {one.replace(tzinfo=zone, fold=f).utcoffset() for one in ends for f in (0, 1)}
    return offsets.pop() if len(offsets) == 1 else None


def _end_of_gap(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """Return the first instant with the new offset; `before` has the old one, `after` the new."""
    offset = after.astimezone(zone).utcoffset()
    while after - before > timedelta(seconds=1):
        middle = before + (after - before) // 2
        middle = middle.replace(microsecond=0)
        if middle.astimezone(zone).utcoffset() == offset:
            after = middle
        else:
            before = middle
    return after


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), tzinfo=UTC)


def _words_of(expression: str) -> list[str]:
    """Return the fields of an expression, or of what its name stands for."""
    return _NAMED.get(expression.strip().lower(), expression).upper().split()
