"""Instants of schedules against a scan of every minute around every change of the clocks.

The scan reads the clock on the wall minute by minute and knows nothing of the product's way.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import pytest

from iaflow.pipeline.schedules import read_timetable

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

ZONES = (
    "America/New_York",
    "America/Santiago",
    "America/St_Johns",
    "Africa/Casablanca",
    "Africa/Cairo",
    "Asia/Beirut",
    "Asia/Kathmandu",
    "Asia/Tehran",
    "Australia/Lord_Howe",
    "Europe/Dublin",
    "Pacific/Chatham",
    "UTC",
)
EXPRESSIONS = (
    "* * * * *",
    "*/15 * * * *",
    "7,37 * * * *",
    "0 * * * *",
    "15 */2 * * *",
    "* 2 * * *",
    "*/10 0 * * *",
    "*/7 1-3 * * *",
    "0 0 * * *",
    "30 0 * * *",
    "30 1 * * *",
    "0 2 * * *",
    "30 2 * * *",
    "0,30 1,2 * * *",
    "15,45 0-4 * * *",
    "59 23 * * *",
    "0 3 * * *",
    "5 4 * * SUN",
    "30 2 * * MON-FRI",
    "0 2 * * SUN#1",
    "30 1 * * 0L",
    "0 0 1 * *",
    "0 12 L * *",
    "0 9 LW * *",
    "30 2 8-14 3 *",
    "0 6 1,15 * 5",
    "0 0 29 2 *",
    "45 1,2,3 * 3,4,9,10,11 *",
    "0-5 2 * * *",
    "20 2/6 * * *",
)
YEARS = range(2023, 2027)


# --- the oracle: every minute, looked at


def fields_of(cron: str) -> list[str]:
    return cron.upper().split()


def numbers_of(text: str, low: int, high: int, names: str = "") -> set[int]:
    """Return what a field of numbers lists; written apart from what it judges."""
    words = names.split()
    found: set[int] = set()
    for part in text.split(","):
        body, _, step = part.partition("/")
        first, _, last = body.partition("-")
        begin = low if first == "*" else words.index(first) if first in words else int(first)
        if last:
            end = words.index(last) if last in words else int(last)
        else:
            end = high if first == "*" or step else begin
        found |= set(range(begin, end + 1, int(step or 1)))
    return found


def is_day(cron: str, day: datetime) -> bool:
    _, _, of_month, month, of_week = fields_of(cron)
    if day.month not in numbers_of(month, 1, 12):
        return False
    last = (day.replace(day=28) + 4 * DAY).replace(day=1) - DAY
    sunday_is_0 = (day.weekday() + 1) % 7
    if of_month == "L":
        in_month = day.day == last.day
    elif of_month == "LW":
        work = last
        while work.weekday() > 4:
            work -= DAY
        in_month = day.day == work.day
    else:
        in_month = day.day in numbers_of(of_month, 1, 31)
    if "#" in of_week:
        name, _, which = of_week.partition("#")
        in_week = name == f"{day:%a}".upper() and (day.day + 6) // 7 == int(which)
    elif of_week.endswith("L"):
        in_week = int(of_week[:-1]) == sunday_is_0 and day.day + 7 > last.day
    else:
        in_week = sunday_is_0 in numbers_of(of_week, 0, 6, "SUN MON TUE WED THU FRI SAT")
    either = not of_month.startswith("*") and not of_week.startswith("*")
    return in_month or in_week if either else in_month and in_week


@cache
def scan(zone: str, begin: datetime, days: int) -> list[tuple[datetime, datetime]]:
    """Return every minute from an instant on: when it is, and what the clock on the wall shows."""
    place = ZoneInfo(zone)
    minutes = (begin + n * MINUTE for n in range(days * 1440))
    return [(one, one.astimezone(place).replace(tzinfo=None)) for one in minutes]


def expected(cron: str, zone: str, begin: datetime, days: int) -> list[datetime]:
    """Return the instants of the days in the middle: at the rim the scan sees too little."""
    minutes = numbers_of(fields_of(cron)[0], 0, 59)
    hours = numbers_of(fields_of(cron)[1], 0, 23)
    walls = scan(zone, begin, days)
    if fields_of(cron)[0].startswith("*") or fields_of(cron)[1].startswith("*"):
        found = {
            at
            for at, wall in walls
            if wall.minute in minutes and wall.hour in hours and is_day(cron, wall)
        }
    else:
        found = set()
        first: dict[datetime, datetime] = {}
        for at, wall in walls:
            first.setdefault(wall, at)
        for day in sorted({wall.replace(hour=0, minute=0) for wall in first} | missing(walls)):
            if not is_day(cron, day):
                continue
            for hour, minute in itertools.product(hours, minutes):
                wanted = day.replace(hour=hour, minute=minute)
                if wanted < walls[0][1] or wanted > walls[-1][1]:
                    continue
                if wanted in first:
                    found.add(first[wanted])
                else:
                    # The clock jumps over it: at the first minute behind it.
                    found.add(next(at for at, wall in walls if wall > wanted))
    return sorted(one for one in found if begin + DAY <= one < begin + (days - 1) * DAY)


def missing(walls: list[tuple[datetime, datetime]]) -> set[datetime]:
    """Return days that no clock on the wall shows."""
    shown = {wall.date() for _, wall in walls}
    days = (walls[0][1].replace(hour=0, minute=0) + n * DAY for n in range(len(walls) // 1440))
    return {day for day in days if day.date() not in shown}


def changes(zone: str) -> Iterator[datetime]:
    """Give the days on which a zone's clocks change, and one on which they do not."""
    place = ZoneInfo(zone)
    at = datetime(YEARS.start, 1, 1, tzinfo=UTC)
    yield at + 40 * DAY
    offset = at.astimezone(place).utcoffset()
    while at.year in YEARS:
        at += HOUR
        if at.astimezone(place).utcoffset() != offset:
            offset = at.astimezone(place).utcoffset()
            yield at.replace(hour=0)


def compare(cron: str, zone: str, begin: datetime, days: int = 6) -> int:
    wanted = expected(cron, zone, begin, days)
    early, late = begin + DAY, begin + (days - 1) * DAY
    timetable = read_timetable(cron=cron, zone=zone, starts_at=early)
    found = list(itertools.takewhile(lambda one: one < late, timetable.instants(early - MINUTE)))
    assert found == wanted, (cron, zone, begin)
    # From anywhere in between, forwards and backwards, it is the same list.
    for place in range(0, len(wanted), max(1, len(wanted) // 7)):
        assert timetable.next_after(wanted[place] - timedelta(seconds=1)) == wanted[place]
        assert timetable.last_until(wanted[place] + timedelta(seconds=1)) == wanted[place]
    return len(wanted)


@pytest.mark.parametrize("zone", ZONES)
def test_the_instants_are_those_of_a_scan_of_every_minute(zone: str) -> None:
    """RELIABILITY F18: around every change of the clocks in four years, all expressions in turn."""
    rng = random.Random(zone)
    judged, instants = 0, 0
    for at in changes(zone):
        for cron in rng.sample(EXPRESSIONS, 5):
            instants += compare(cron, zone, at - 3 * DAY)
            judged += 1
    print(f"{zone}: {judged} windows, {instants} instants")
    assert judged >= 5
    assert instants > 0


@pytest.mark.parametrize("cron", EXPRESSIONS)
def test_every_expression_at_the_hardest_changes(cron: str) -> None:
    for zone, at in (
        ("America/New_York", datetime(2026, 3, 8, tzinfo=UTC)),
        ("America/New_York", datetime(2026, 11, 1, tzinfo=UTC)),
        ("America/Santiago", datetime(2026, 9, 6, tzinfo=UTC)),
        ("America/Santiago", datetime(2026, 4, 5, tzinfo=UTC)),
        ("Australia/Lord_Howe", datetime(2026, 10, 4, tzinfo=UTC)),
        ("Australia/Lord_Howe", datetime(2026, 4, 5, tzinfo=UTC)),
        ("Pacific/Apia", datetime(2011, 12, 30, tzinfo=UTC)),
    ):
        compare(cron, zone, at - 3 * DAY)
