"""Instants of schedules: named changes of the clocks, intervals, what was missed, what is refused."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iaflow.data.status import Misfire
from iaflow.errors import ScheduleRefused
from iaflow.pipeline.schedules import GRACE, Timetable, find_due, read_timetable

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

ZONES = ("America/New_York", "America/Santiago", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC")
EXPRESSIONS = (
    "* * * * *",
    "*/15 0 * * *",
    "30 2 * * *",
    "0 0 * * 0L",
    "0 9 LW * *",
    "5 4 * * SUN#1",
)


# --- named cases, written out


def locally(cron: str, zone: str, after: str, count: int) -> list[str]:
    """Return the next instants as the clock on the wall shows them, with its offset."""
    start = datetime.fromisoformat(after).replace(tzinfo=ZoneInfo(zone))
    timetable = read_timetable(cron=cron, zone=zone, starts_at=start)
    found = itertools.islice(timetable.instants(start.astimezone(UTC)), count)
    return [f"{one.astimezone(ZoneInfo(zone)):%m-%d %H:%M %z}" for one in found]


@pytest.mark.parametrize(
    ("cron", "zone", "after", "wanted"),
    (
        # 02:30 is skipped on 8 March: at 03:00, where the gap ends.
        (
            "30 2 * * *",
            "America/New_York",
            "2026-03-07T00:00",
            ["03-07 02:30 -0500", "03-08 03:00 -0400", "03-09 02:30 -0400"],
        ),
        # 01:30 comes twice on 1 November: once, the first time.
        (
            "30 1 * * *",
            "America/New_York",
            "2026-10-31T12:00",
            ["11-01 01:30 -0400", "11-02 01:30 -0500"],
        ),
        # By the time that passes: both passes of the hour, and no 02:00 in the gap.
        (
            "0 * * * *",
            "America/New_York",
            "2026-11-01T00:30",
            ["11-01 01:00 -0400", "11-01 01:00 -0500", "11-01 02:00 -0500"],
        ),
        (
            "0 * * * *",
            "America/New_York",
            "2026-03-08T00:30",
            ["03-08 01:00 -0500", "03-08 03:00 -0400"],
        ),
        # There is no midnight on 6 September in Santiago.
        (
            "0 0 * * *",
            "America/Santiago",
            "2026-09-05T12:00",
            ["09-06 01:00 -0300", "09-07 00:00 -0300"],
        ),
        # Half an hour: 02:00 to 02:30.
        (
            "15 2 * * *",
            "Australia/Lord_Howe",
            "2026-10-03T12:00",
            ["10-04 02:30 +1100", "10-05 02:15 +1100"],
        ),
        (
            "*/15 2 * * *",
            "Australia/Lord_Howe",
            "2026-10-03T12:00",
            ["10-04 02:30 +1100", "10-04 02:45 +1100", "10-05 02:00 +1100"],
        ),
        ("30 9 * * *", "Asia/Kathmandu", "2026-01-01T00:00", ["01-01 09:30 +0545"]),
        # Casablanca goes back for Ramadan: 03:00 to 02:00 on 15 February 2026, forth on 22 March.
        (
            "30 2 * * *",
            "Africa/Casablanca",
            "2026-02-14T12:00",
            ["02-15 02:30 +0100", "02-16 02:30 +0000"],
        ),
        # A day that Samoa never had: at the instant at which it would have begun.
        (
            "0 12 * * *",
            "Pacific/Apia",
            "2011-12-29T00:00",
            ["12-29 12:00 -1000", "12-31 00:00 +1400", "12-31 12:00 +1400"],
        ),
    ),
)
def test_named_changes(cron: str, zone: str, after: str, wanted: list[str]) -> None:
    assert locally(cron, zone, after, len(wanted)) == wanted


@settings(max_examples=150, deadline=None)
@given(
    cron=st.sampled_from(EXPRESSIONS),
    zone=st.sampled_from((*ZONES, "Pacific/Apia", "Pacific/Kwajalein", "Antarctica/Troll")),
    after=st.datetimes(datetime(1990, 1, 1), datetime(2060, 1, 1)),  # noqa: DTZ001
)
def test_instants_increase_and_end(cron: str, zone: str, after: datetime) -> None:
    start = after.replace(tzinfo=UTC)
    found = list(itertools.islice(Timetable(cron, zone, None, start).instants(start), 5))
    assert len(found) == 5
    assert all(one < other for one, other in itertools.pairwise([start, *found]))
    assert all(one.second == 0 and one.microsecond == 0 for one in found)


# --- intervals


def test_an_interval_is_counted_from_its_start_whatever_the_clocks_do() -> None:
    start = datetime(2026, 3, 7, 12, 0, 1, tzinfo=UTC)
    timetable = read_timetable(every=timedelta(hours=7), zone="America/New_York", starts_at=start)
    assert timetable.next_after(start - DAY) == start
    assert timetable.next_after(start) == start + 7 * HOUR
    assert timetable.next_after(start + 1000 * DAY) == start + 7 * HOUR * (1000 * 24 // 7 + 1)
    assert timetable.last_until(start + 15 * HOUR) == start + 14 * HOUR
    assert timetable.last_until(start - MINUTE) is None


def test_nothing_lies_outside_of_start_and_end() -> None:
    start = datetime(2026, 1, 1, 10, 0, tzinfo=UTC)
    timetable = read_timetable(cron="0 * * * *", starts_at=start, ends_at=start + 2 * HOUR)
    assert list(timetable.instants(start - DAY)) == [start + n * HOUR for n in range(3)]
    assert timetable.last_until(start + DAY) == start + 2 * HOUR
    assert timetable.last_until(start - MINUTE) is None


# --- what was missed


NOON = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
HOURLY = read_timetable(cron="0 * * * *", starts_at=NOON)


def play(
    timetable: Timetable, next_at: datetime, now: datetime, misfire: Misfire
) -> tuple[list[datetime], list[datetime], datetime | None]:
    """Do all that is due; return what fired, what was missed, and what comes next."""
    fired: list[datetime] = []
    missed: list[datetime] = []
    place: datetime | None = next_at
    while place is not None and (due := find_due(timetable, place, now, misfire)) is not None:
        assert due.next_at is None or due.next_at > place
        fired += [] if due.fire is None else [due.fire]
        missed += due.missed
        place = due.next_at
    return fired, missed, place


@pytest.mark.parametrize(
    ("misfire", "fires", "misses"),
    ((Misfire.ALL, [0, 1, 2], []), (Misfire.LATEST, [2], [0, 1]), (Misfire.SKIP, [], [0, 1, 2])),
)
def test_an_outage_of_two_hours(misfire: Misfire, fires: list[int], misses: list[int]) -> None:
    now = NOON + 2 * HOUR + 10 * MINUTE
    fired, missed, next_at = play(HOURLY, NOON, now, misfire)
    assert fired == [NOON + n * HOUR for n in fires]
    assert missed == [NOON + n * HOUR for n in misses]
    assert next_at == NOON + 3 * HOUR


@pytest.mark.parametrize("misfire", Misfire)
def test_what_is_late_by_less_than_the_grace_fires(misfire: Misfire) -> None:
    fired, missed, next_at = play(HOURLY, NOON, NOON + GRACE, misfire)
    assert (fired, missed, next_at) == ([NOON], [], NOON + HOUR)


@settings(max_examples=100, deadline=None)
@given(
    misfire=st.sampled_from(Misfire),
    seconds=st.integers(1, 4000),
    late=st.integers(0, 20_000),
)
def test_no_instant_is_forgotten_and_none_comes_twice(
    misfire: Misfire, seconds: int, late: int
) -> None:
    timetable = read_timetable(every=timedelta(seconds=seconds), starts_at=NOON)
    now = NOON + timedelta(seconds=late)
    fired, missed, next_at = play(timetable, NOON, now, misfire)
    passed = [NOON + n * timedelta(seconds=seconds) for n in range(late // seconds + 1)]
    assert next_at == passed[-1] + timedelta(seconds=seconds)
    assert fired == sorted(set(fired))
    assert not set(fired) & set(missed)
    recent = [one for one in passed if one >= now - GRACE]
    if misfire is Misfire.ALL:
        assert fired == passed
    else:
        assert fired == (recent or (passed[-1:] if misfire is Misfire.LATEST else []))
        # Of many the last hundred are told of.
        assert missed == [one for one in passed if one not in fired][-100:]


def test_looking_far_ahead_ends_with_the_calendar() -> None:
    decade = read_timetable(every=timedelta(days=3660), starts_at=NOON)
    assert len(list(decade.instants(NOON))) == 47


def test_a_range_of_one_is_one_value() -> None:
    """cronsim reads `18-18/2` as `18/2`: the 18th, the 20th, and so on."""
    only = read_timetable(cron="30 12 18-18/2 * *", starts_at=NOON)
    assert {one.day for one in itertools.islice(only.instants(NOON), 5)} == {18}


def test_the_clock_may_turn_back_over_midnight() -> None:
    """St. John's did until 2011, at one minute past midnight: a date was left and came again."""
    quarters = read_timetable(
        cron="*/15 * * * *",
        zone="America/St_Johns",
        starts_at=datetime(2010, 11, 7, 2, 15, tzinfo=UTC),
    )
    found = list(itertools.islice(quarters.instants(quarters.starts_at), 8))
    assert found == [quarters.starts_at + timedelta(minutes=15 * k) for k in range(1, 9)]
    assert quarters.last_until(found[0]) == found[0]


# --- what is refused


@pytest.mark.parametrize(
    ("written", "pointer", "words"),
    (
        ({}, "/cron", "either a cron or an interval"),
        ({"cron": "0 0 * * *", "every": HOUR}, "/cron", "either a cron or an interval"),
        ({"cron": "0 0 * *"}, "/cron", "has 4 fields, not 5"),
        ({"cron": "0 0 0 * * *"}, "/cron", "has 6 fields, not 5"),
        ({"cron": "60 0 * * *"}, "/cron", "'60' is no minute"),
        ({"cron": "0 24 * * *"}, "/cron", "'24' is no hour"),
        ({"cron": "0 0 32 * *"}, "/cron", "'32' is no day of the month"),
        ({"cron": "0 0 * FOO *"}, "/cron", "'FOO' is no month"),
        ({"cron": "0 0 * * 9"}, "/cron", "'9' is no day of the week"),
        ({"cron": "0 0 31 2 *"}, "/cron", "no month has such a day"),
        ({"cron": "*/0 * * * *"}, "/cron", "'*/0' is no minute"),
        ({"cron": "@often"}, "/cron", "there is no '@often'"),
        ({"cron": "9" * 5000 + " * * * *"}, "/cron", "at most 200 letters"),
        ({"cron": "9" * 150 + " * * * *"}, "/cron", "is no minute"),
        ({"cron": 5}, "/cron", "is text"),
        ({"cron": "0 0 * 2 1#5"}, "/cron", "no instant within ten years"),
        ({"cron": "@daily", "zone": "localtime"}, "/zone", "there is no zone"),
        ({"cron": "@daily", "starts_at": NOON.replace(year=9999)}, "/starts_at", "the years"),
        ({"cron": "@daily", "zone": "Europe/Atlantis"}, "/zone", "there is no zone"),
        ({"cron": "@daily", "zone": "../etc/passwd"}, "/zone", "there is no zone"),
        ({"every": timedelta(0)}, "/every", "1 second"),
        ({"every": timedelta(seconds=1.5)}, "/every", "whole seconds"),
        ({"every": timedelta(days=4000)}, "/every", "3660 days"),
        ({"cron": "@daily", "ends_at": NOON - DAY}, "/ends_at", "ends before it starts"),
        ({"cron": "@yearly", "ends_at": NOON + DAY}, "/cron", "names no instant before it ends"),
        ({"cron": "@daily", "starts_at": NOON.replace(tzinfo=None)}, "/starts_at", "its offset"),
    ),
)
def test_what_names_no_instants_is_refused(
    written: dict[str, object], pointer: str, words: str
) -> None:
    with pytest.raises(ScheduleRefused) as refused:
        read_timetable(**{"starts_at": NOON, **written})  # type: ignore[arg-type]
    [problem] = refused.value.problems
    assert problem.pointer == pointer
    assert words in problem.message
