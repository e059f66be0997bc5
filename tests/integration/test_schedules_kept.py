"""Schedules that are written again, fired by hand, or that this release cannot read; on every database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from iaflow.data.status import FireStatus, RunStatus
from iaflow.database.statements import POSTGRES
from iaflow.errors import Conflict, DefinitionRefused, ScheduleRefused
from iaflow.pipeline.graph import Graph
from iaflow.scheduling import Schedules
from tests.integration.houses import House, document

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
STARTED, MISSED, REFUSED = FireStatus.STARTED, FireStatus.MISSED, FireStatus.REFUSED


@pytest.fixture
def desk(house: House) -> Iterator[Schedules]:
    """The desk of a house in virtual time; its schedules are gone after the test."""
    house.publish(document({"only": {}}, name="report", parameters={"n": 0}))
    desk = Schedules(house.engine, lambda tasks: None)
    yield desk
    for schedule in desk.all():
        house.started += [f.run_id for f in desk.fires(schedule.name) if f.run_id is not None]
        desk.delete(schedule.name)


def statuses(desk: Schedules, name: str) -> list[FireStatus]:
    return [fire.status for fire in reversed(desk.fires(name, limit=1000))]


def started_runs(house: House) -> int:
    """Count the runs themselves, whatever the history says."""
    return int(house.ask("SELECT count(*) FROM {}runs WHERE started_by LIKE 'schedule:%'")[0][0])


# --- written again


def test_deployments_that_put_it_each_time_do_not_keep_it_from_firing(
    house: House, desk: Schedules
) -> None:
    """An hourly interval, put anew each half hour: it keeps its anchor, and fires each hour."""
    begun = house.clock.now()
    desk.put("hourly", "report", every=HOUR)
    for _ in range(8):
        house.pass_time(1800)
        desk.put("hourly", "report", every=HOUR)
        house.sweep()
    fired = [fire.fire_at for fire in reversed(desk.fires("hourly"))]
    assert fired == [begun + k * HOUR for k in range(1, 5)]


@pytest.mark.parametrize("times", ({"cron": "* * * * *"}, {"every": MINUTE}), ids=str)
def test_an_instant_that_has_come_outlives_a_put(
    house: House, desk: Schedules, times: dict[str, Any]
) -> None:
    begun = house.clock.now()
    desk.put("minutes", "report", **times)
    house.pass_time(60.5)
    again = desk.put("minutes", "report", {"n": 2}, **times)
    assert (again.starts_at, again.next_at, again.created_at) == (begun, begun + MINUTE, begun)
    house.sweep()
    (fire,) = desk.fires("minutes")
    assert fire.run_id is not None
    assert (fire.fire_at, house.read(fire.run_id).parameters) == (begun + MINUTE, {"n": 2})


def test_other_times_count_from_now(house: House, desk: Schedules) -> None:
    desk.put("beat", "report", every=MINUTE, misfire="all")
    house.pass_time(90)
    moved = desk.put("beat", "report", every=2 * MINUTE)
    assert moved.next_at == house.clock.now() + 2 * MINUTE
    house.sweep()
    assert desk.fires("beat") == []


def test_a_new_end_counts_at_once(house: House, desk: Schedules) -> None:
    begun = house.clock.now()
    desk.put("beat", "report", every=MINUTE)
    desk.put("beat", "report", every=MINUTE, ends_at=begun + 90 * timedelta(seconds=1))
    house.pass_time(80)
    house.sweep()
    house.pass_time(120)
    house.sweep()
    assert (statuses(desk, "beat"), desk.get("beat").next_at) == ([STARTED], None)
    longer = desk.put("beat", "report", every=MINUTE, ends_at=begun + HOUR)
    assert longer.next_at == begun + 4 * MINUTE


def test_what_is_put_again_still_rests(house: House, desk: Schedules) -> None:
    desk.put("daily", "report", cron="@daily", created_by="ann")
    desk.pause("daily")
    house.pass_time(10)
    again = desk.put("daily", "report", cron="@daily", created_by="bob")
    assert (again.is_paused, again.created_by) == (True, "ann")
    assert again == desk.get("daily")


def test_a_pause_goes_by_the_times_as_they_are(
    house: House, desk: Schedules, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at a schedule and its change somebody else may write other times."""
    begun = house.clock.now()
    desk.put("daily", "report", every=HOUR)
    seen = desk.get("daily")
    desk.put("daily", "report", cron="0 3 * * *")
    with monkeypatch.context() as patched:
        patched.setattr(desk, "get", lambda name, **_: seen)
        desk.pause("daily")
        assert desk.resume("daily").next_at == begun + 3 * HOUR
    assert desk.get("daily").next_at == begun + 3 * HOUR


def test_an_end_that_has_passed_is_refused(house: House, desk: Schedules) -> None:
    now = house.clock.now()
    with pytest.raises(ScheduleRefused, match="its end has passed"):
        desk.put("late", "report", cron="@hourly", starts_at=now - 9 * HOUR, ends_at=now - HOUR)
    assert desk.all() == []


# --- fired by hand, and again


def test_a_run_that_is_started_by_hand_stands_in_the_history(house: House, desk: Schedules) -> None:
    begun = house.clock.now()
    desk.put("daily", "report", {"n": 3}, cron="0 3 * * *", instant_as="at")
    desk.pause("daily")
    started = desk.fire("daily")
    run = house.read(started.run_id)
    assert run.status is RunStatus.RUNNING
    assert run.parameters == {"n": 3, "at": begun.strftime("%Y-%m-%dT%H:%M:%SZ")}
    (fire,) = desk.fires("daily")
    assert (fire.fire_at, fire.status, fire.run_id) == (begun, STARTED, started.run_id)
    with pytest.raises(Conflict, match="this very moment"):
        desk.fire("daily")
    desk.resume("daily")
    assert desk.get("daily").next_at == begun + 3 * HOUR


def test_a_next_instant_that_is_set_back_fires_nothing_twice(house: House, desk: Schedules) -> None:
    """As after a row that was restored: the fires are what counts."""
    before = started_runs(house)
    desk.put("minutes", "report", every=MINUTE, misfire="all")
    for _ in range(3):
        house.pass_time(60)
        house.sweep()
    known = desk.get("minutes")
    with house.database.transaction() as tx:
        first = known.starts_at + MINUTE
        assert house.engine.schedules.advance(tx, known, next_at=first)
    house.sweep()
    assert statuses(desk, "minutes") == [STARTED] * 3
    assert started_runs(house) - before == 3
    assert desk.get("minutes").next_at == known.next_at


# --- what this release cannot read


@contextmanager
def unreadable(house: House) -> Iterator[None]:
    """This process is of a release that knows less than the one that imported the definition."""
    library: Any = house.engine.library

    def refuse(_content_hash: str) -> Graph:
        raise DefinitionRefused(())

    library.graph = refuse
    try:
        yield
    finally:
        del library.graph


def test_a_definition_that_one_worker_cannot_read_is_left_to_others(
    house: House, desk: Schedules
) -> None:
    desk.put("daily", "report", cron="@daily")
    house.pass_time(24 * 3600)
    with unreadable(house):
        house.sweep()
    assert desk.fires("daily") == []
    house.sweep()
    assert statuses(desk, "daily") == [STARTED]


def test_a_definition_that_nobody_reads_does_not_hold_the_schedule_up(
    house: House, desk: Schedules
) -> None:
    begun = house.clock.now()
    desk.put("hourly", "report", every=HOUR)
    house.pass_time(3600 + 61)
    with unreadable(house):
        house.sweep()
    assert statuses(desk, "hourly") == [REFUSED]
    assert "cannot be read" in str(desk.fires("hourly")[0].error)
    assert desk.get("hourly").next_at == begun + 2 * HOUR


# --- what it costs


def test_what_is_due_is_found_by_its_index(house: House, desk: Schedules) -> None:
    desk.put("daily", "report", cron="0 3 * * *")
    store, now = house.engine.schedules, house.clock.now()
    store.find_due(now=now)
    store.next_due()
    for statement in (store._sql.due, store._sql.next_due):
        values = statement.values(house.database.dialect, {"now": now, "limit": 100})
        with house.database.alone():
            cursor = house.database._connection()._cursor
            if house.database.dialect == POSTGRES:
                slots = f"({','.join(['%s'] * len(values))})" if values else ""
                cursor.execute(f"EXPLAIN EXECUTE {statement.name}{slots}", values)
            else:
                text = statement.text(house.database.dialect)
                cursor.execute(f"EXPLAIN QUERY PLAN {text}", [str(one) for one in values])
            plan = str(cursor.fetchall())
        assert "schedules_due" in plan, plan
