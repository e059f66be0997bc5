"""Schedules on every database: each instant starts one run, whoever fires it and whoever dies.

Time is virtual where an outage is told; the processes that race and are killed are real.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from iaflow.bootstrap import Application
from iaflow.client import Client
from iaflow.data.status import FireStatus, Misfire, RunStatus
from iaflow.database.schedule_store import ScheduleStore
from iaflow.database.statements import POSTGRES, Statement
from iaflow.errors import NotFound, ScheduleRefused
from iaflow.pipeline.check import compile_definition
from iaflow.pipeline.maintenance import stage
from iaflow.scheduling import Schedules
from tests.integration.houses import House, VirtualClock
from tests.integration.houses import race as release
from tests.limits.test_schedule_instants import expected
from tests.servers import wait_until
from tests.servers.fixtures import StartWorker

HOUR = timedelta(hours=1)

NIGHTLY = {
    "name": "Nightly",
    "slug": "nightly",
    "parameters": {"region": "all"},
    "input_schema": {
        "type": "object",
        "properties": {"region": {"type": "string"}, "at": {"type": "string"}},
        "additionalProperties": False,
    },
    "steps": [{"id": "pause", "type": "wait", "config": {"seconds": 1_000_000}}],
    "flow": {"start_at": "pause"},
}
STRICTER = {
    **NIGHTLY,
    "version": "2",
    "input_schema": {
        "type": "object",
        "properties": {"region": {"enum": ["north", "south"]}},
    },
}


@pytest.fixture
def desk(house: House) -> Schedules:
    """The schedules of a house in virtual time, which has a pipeline to start."""
    house.publish(NIGHTLY)
    desk = Schedules(house.engine, lambda tasks: None)
    for other in desk.all():
        # The tests of this file share one Postgres.
        desk.delete(other.name)
    return desk


def clock_of(house: House) -> VirtualClock:
    assert isinstance(house.clock, VirtualClock)
    return house.clock


def started(house: House, name: str) -> list[datetime]:
    """Return the instants that have started a run, the first first; each run is there."""
    fires = house.engine.schedules.fires(name, limit=1000)
    for fire in fires:
        if fire.status is FireStatus.STARTED:
            assert fire.run_id is not None
            assert house.read(fire.run_id).started_by == f"schedule:{name}"
    return sorted(fire.fire_at for fire in fires if fire.status is FireStatus.STARTED)


def others(house: House, name: str) -> dict[datetime, FireStatus]:
    fires = house.engine.schedules.fires(name, limit=1000)
    return {fire.fire_at: fire.status for fire in fires if fire.status is not FireStatus.STARTED}


# --- in virtual time


def test_an_instant_starts_one_run_with_its_input(house: House, desk: Schedules) -> None:
    begun = house.clock.now()
    desk.put("hourly", "nightly", {"region": "north"}, cron="0 * * * *", instant_as="at")
    assert house.engine.next_due() == begun + HOUR
    house.sweep()
    assert started(house, "hourly") == []
    clock_of(house).move(3600)
    for _ in range(3):
        house.sweep()
    assert started(house, "hourly") == [begun + HOUR]
    [fire] = desk.fires("hourly")
    assert fire.run_id is not None
    run = house.read(fire.run_id)
    assert run.parameters == {"region": "north", "at": "2030-01-01T01:00:00Z"}
    assert run.status is RunStatus.RUNNING
    assert desk.get("hourly").next_at == begun + 2 * HOUR


@pytest.mark.parametrize(
    ("misfire", "fired", "missed"),
    ((Misfire.LATEST, [3], [1, 2]), (Misfire.ALL, [1, 2, 3], []), (Misfire.SKIP, [], [1, 2, 3])),
)
def test_an_outage(
    house: House, desk: Schedules, misfire: Misfire, fired: list[int], missed: list[int]
) -> None:
    """Nobody sweeps for a bit more than three hours."""
    begun = house.clock.now()
    desk.put("hourly", "nightly", cron="0 * * * *", misfire=misfire)
    clock_of(house).move(3 * 3600 + 600)
    house.sweep()
    assert started(house, "hourly") == [begun + n * HOUR for n in fired]
    assert others(house, "hourly") == {begun + n * HOUR: FireStatus.MISSED for n in missed}
    clock_of(house).move(3000)
    house.sweep()
    assert started(house, "hourly")[-1] == begun + 4 * HOUR


def test_many_missed_instants_start_in_portions(house: House, desk: Schedules) -> None:
    begun = house.clock.now()
    desk.put("often", "nightly", every=timedelta(minutes=1), misfire="all")
    clock_of(house).move(250 * 60)
    expected = [begun + timedelta(minutes=n) for n in range(1, 251)]
    for sweeps in (100, 200, 250):
        stage_all(house)
        assert started(house, "often") == expected[:sweeps]


def stage_all(house: House) -> None:
    """Do once what is due by the clock."""
    for duty in stage(house.engine).duties:
        if duty.name == "schedule":
            work = [duty.verb]
            while work:
                work += work.pop(0)({}).follow_ups


def test_a_paused_schedule_misses_nothing(house: House, desk: Schedules) -> None:
    begun = house.clock.now()
    desk.put("hourly", "nightly", cron="0 * * * *", misfire="all")
    assert desk.pause("hourly").is_paused
    assert house.engine.next_due() is None
    clock_of(house).move(5 * 3600 + 60)
    house.sweep()
    # Written anew it still rests.
    assert desk.put("hourly", "nightly", cron="30 * * * *", misfire="all").is_paused
    resumed = desk.resume("hourly")
    assert resumed.next_at == begun + 5.5 * HOUR
    house.sweep()
    assert started(house, "hourly") == []
    clock_of(house).move(1800)
    house.sweep()
    assert started(house, "hourly") == [begun + 5.5 * HOUR]


def test_a_start_that_is_refused_is_written_down(house: House, desk: Schedules) -> None:
    """The schedule goes on, and starts again once the input fits."""
    begun = house.clock.now()
    desk.put("hourly", "nightly", {"region": "all"}, cron="0 * * * *")
    house.publish(STRICTER)
    clock_of(house).move(3600)
    house.sweep()
    [fire] = desk.fires("hourly")
    assert (fire.status, fire.run_id) == (FireStatus.REFUSED, None)
    assert fire.error is not None
    assert "region" in fire.error
    house.publish({**NIGHTLY, "version": "3"})
    clock_of(house).move(3600)
    house.sweep()
    assert started(house, "hourly") == [begun + 2 * HOUR]


def test_the_version_of_the_instant_is_run(house: House, desk: Schedules) -> None:
    desk.put("hourly", "nightly", {"region": "north"}, cron="0 * * * *")
    house.publish(STRICTER)
    clock_of(house).move(3600)
    house.sweep()
    [fire] = desk.fires("hourly")
    assert fire.run_id is not None
    expected = compile_definition(STRICTER).definition.content_hash
    assert house.read(fire.run_id).content_hash == expected


def test_an_instant_that_was_fired_is_not_fired_again(house: House, desk: Schedules) -> None:
    """The clock is set back, and the schedule written anew: the instant is known already."""
    begun = house.clock.now()
    desk.put("hourly", "nightly", cron="0 * * * *")
    clock_of(house).move(3600)
    house.sweep()
    clock_of(house).instant = begun + timedelta(minutes=30)
    desk.put("hourly", "nightly", cron="0 * * * *", misfire="all")
    clock_of(house).move(1800)
    house.sweep()
    assert started(house, "hourly") == [begun + HOUR]
    assert desk.get("hourly").next_at == begun + 2 * HOUR


def test_a_schedule_that_is_deleted_leaves_its_runs(house: House, desk: Schedules) -> None:
    desk.put("hourly", "nightly", cron="0 * * * *")
    clock_of(house).move(3600)
    house.sweep()
    [fire] = desk.fires("hourly")
    desk.delete("hourly")
    assert fire.run_id is not None
    assert house.read(fire.run_id).status is RunStatus.RUNNING
    with pytest.raises(NotFound, match="there is no schedule 'hourly'"):
        desk.fires("hourly")
    assert house.engine.schedules.fires("hourly") == []


def test_what_cannot_start_is_refused_at_once(house: House, desk: Schedules) -> None:
    for given, pointer in (({"region": 1}, "/given/region"), ({"nosuch": 1}, "/given")):
        with pytest.raises(ScheduleRefused) as refused:
            desk.put("hourly", "nightly", given, cron="0 * * * *")
        assert [problem.pointer for problem in refused.value.problems] == [pointer]
    with pytest.raises(ScheduleRefused, match="/name"):
        desk.put("../x", "nightly", cron="0 * * * *")
    with pytest.raises(ScheduleRefused, match="/misfire"):
        desk.put("hourly", "nightly", cron="0 * * * *", misfire="sometimes")
    with pytest.raises(ScheduleRefused, match="/given"):
        desk.put("hourly", "nightly", {"region": object()}, cron="0 * * * *")
    with pytest.raises(NotFound, match="no pipeline 'nightlyy'"):
        desk.put("hourly", "nightlyy", cron="0 * * * *")
    assert desk.all() == []
    desk.put("hourly", "nightly", cron="0 * * * *")
    with pytest.raises(NotFound, match="did you mean hourly"):
        desk.get("hourli")


def test_a_sweep_asks_once_for_schedules(house: House, desk: Schedules) -> None:
    """A thousand schedules that are not due cost one statement of an index."""
    for number in range(20):
        desk.put(f"s{number}", "nightly", cron="0 * * * *")
    tally = house.database.tally
    before = tally.statements
    house.engine.schedules.find_due(now=house.clock.now())
    assert tally.statements - before == 1
    if house.database.dialect == POSTGRES:
        text = house.engine.schedules._sql.due.text(POSTGRES).replace("$1", "now()")
        with house.database.engine.begin() as connection:
            connection.execute(sa.text("SET LOCAL enable_seqscan = off"))
            plan = connection.execute(sa.text(f"EXPLAIN {text.replace('$2', '10')}")).scalars()
            assert any("schedules_due" in line for line in plan)


# --- changes of the clocks


CHANGES = (
    ("America/New_York", datetime(2026, 3, 8, 7, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 11, 1, 6, tzinfo=UTC)),
    ("America/Santiago", datetime(2026, 9, 6, 4, tzinfo=UTC)),
    ("America/Santiago", datetime(2026, 4, 5, 3, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 10, 3, 15, 30, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 4, 4, 15, tzinfo=UTC)),
    ("Asia/Kathmandu", datetime(2026, 5, 1, 20, 15, tzinfo=UTC)),
)
"""Gaps, repeats, and midnight where no clock changes."""

CRONS = {"star": "*/15 * * * *", "hours": "0,30 0-4 * * *", "twice": "30 1,2 * * *"}


@pytest.mark.parametrize(("zone", "change"), CHANGES)
def test_three_at_once_over_a_change_of_the_clocks_and_an_outage(
    postgres_url: str, zone: str, change: datetime
) -> None:
    """RELIABILITY F18: nobody sweeps for two hours around it; each instant starts one run."""
    clock = VirtualClock()
    begun = clock.instant = change - 3 * HOUR
    houses = [House(postgres_url, clock) for _ in range(3)]
    first = houses[0]
    first.publish(NIGHTLY)
    desk = Schedules(first.engine, lambda tasks: None)
    for name, cron in CRONS.items():
        desk.put(name, "nightly", cron=cron, zone=zone, misfire=Misfire.ALL)

    def sweep_in_a_thread(house: House) -> None:
        house.sweep()
        house.database.release_thread()

    # Every ten minutes; from an hour before the change until an hour after it not at all.
    for minutes in [*range(10, 121, 10), *range(240, 421, 10)]:
        clock.instant = begun + timedelta(minutes=minutes)
        release([partial(sweep_in_a_thread, house) for house in houses], first)
    fired = {name: started(first, name) for name in CRONS}
    midnight = begun.replace(hour=0, minute=0) - timedelta(days=2)
    for name, cron in CRONS.items():
        wanted = [one for one in expected(cron, zone, midnight, 6) if begun < one <= clock.instant]
        assert fired[name] == wanted, cron
        assert others(first, name) == {}
    print(f"{zone} {change:%F}: {sum(map(len, fired.values()))} instants, one run each")
    assert len(fired["star"]) >= 20
    for house in houses:
        house.database.close()


# --- real processes


STARTS = 2_000
PROCESSES = 3


class Race:
    """Processes that do what is due, over and over; and what is found once nothing is."""

    def __init__(self, open_app: Callable[..., Application], url: str) -> None:
        self._open_app = open_app
        self.url = url
        self.app = open_app(url)
        self._context = multiprocessing.get_context("fork")
        graph = compile_definition(NIGHTLY)
        self.app.pipelines.publish(
            content_hash=graph.definition.content_hash,
            slug="nightly",
            version=graph.definition.version,
            name="Nightly",
            description="",
            document=graph.definition.text,
            now=datetime.now(UTC),
        )
        self.begun = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=STARTS)
        self.app.client.schedules.put(
            "race", "nightly", every=timedelta(seconds=1), starts_at=self.begun, misfire="all"
        )
        # As if nobody had swept since it began.
        with self.app.database.engine.begin() as connection:
            connection.execute(
                sa.text("UPDATE iaflow.schedules SET next_at = starts_at, ends_at = :end"),
                {"end": self.begun + timedelta(seconds=STARTS - 1)},
            )
        self.app.database.release_thread()

    def spawn(self) -> Any:
        process = self._context.Process(target=sweep_for_ever, args=(self.url,), daemon=True)
        process.start()
        return process

    def is_over(self) -> bool:
        return self.app.client.schedules.get("race").next_at is None

    def judge(self) -> list[str]:
        """Return what is wrong: instants without their one run, runs without their one instant."""
        fires = self.app.client.schedules.fires("race", limit=STARTS * 3)
        expected = {self.begun + timedelta(seconds=n) for n in range(STARTS)}
        count = Counter(fire.fire_at for fire in fires)
        with self.app.database.engine.connect() as connection:
            runs = connection.execute(
                sa.text("SELECT run_id::text FROM iaflow.runs WHERE started_by = 'schedule:race'")
            ).scalars()
            found = Counter(runs)
        named = Counter(fire.run_id for fire in fires)
        return [
            *(f"never: {instant}" for instant in sorted(expected - count.keys())),
            *(f"{n} times: {instant}" for instant, n in count.items() if n > 1),
            *(f"unknown: {instant}" for instant in count.keys() - expected),
            *(f"a run without an instant: {run_id}" for run_id in found - named),
            *(f"an instant without its run: {run_id}" for run_id in named - found),
        ]


def sweep_for_ever(url: str) -> None:
    # A fork has nothing of its parent's connections: it opens its own.
    os.environ["IAFLOW_DATABASE_URL"] = url
    client = Client(url)
    while True:
        for duty in stage(client._engine).duties:
            work = [duty.verb] if duty.name == "schedule" else []
            while work:
                work += work.pop(0)({}).follow_ups
        time.sleep(0.01)


@pytest.fixture
def race(open_app: Callable[..., Application], postgres_url: str) -> Iterator[Race]:
    return Race(open_app, postgres_url)


@pytest.mark.timeout(180)
def test_each_instant_fires_once_from_processes_that_are_killed(race: Race) -> None:
    """RELIABILITY F18: three processes at once, thirty kills."""
    rng = random.Random(18)
    family = [race.spawn() for _ in range(PROCESSES)]
    kills = 0
    while not race.is_over():
        time.sleep(rng.uniform(0.02, 0.12))
        if kills < 30:
            victim = rng.randrange(PROCESSES)
            os.kill(family[victim].pid, signal.SIGKILL)
            family[victim].join()
            family[victim] = race.spawn()
            kills += 1
    fired = len(race.app.client.schedules.fires("race", limit=STARTS * 3))
    for process in family:
        process.kill()
        process.join()
    print(f"{STARTS} instants, {fired} fires, {PROCESSES} processes, {kills} kills amid them")
    assert kills == 30, "the faults did not hit"
    assert race.judge() == []


@pytest.mark.timeout(180)
def test_without_its_guards_the_race_is_seen(race: Race, monkeypatch: pytest.MonkeyPatch) -> None:
    """A seeded bug: no unique instant, and a schedule that is advanced by its name alone."""
    with race.app.database.engine.begin() as connection:
        connection.execute(
            sa.text("ALTER TABLE iaflow.schedule_fires DROP CONSTRAINT schedule_fires_pkey")
        )
    race.app.database.release_thread()
    schedules = race.app.database.tables.schedules
    careless = Statement(
        "iaflow_careless",
        sa.update(schedules)
        .where(schedules.c.name == sa.bindparam("name"))
        .values(next_at=sa.bindparam("next_at"))
        .returning(schedules.c.name),
    )
    made = ScheduleStore.__init__

    def make(self: ScheduleStore, *args: Any) -> None:
        made(self, *args)
        self._sql.advance = careless

    monkeypatch.setattr(ScheduleStore, "__init__", make)
    family = [race.spawn() for _ in range(PROCESSES)]
    try:
        wait_until(lambda: any("times" in one for one in race.judge()), 60, "an instant twice")
    finally:
        for process in family:
            process.kill()
            process.join()


@pytest.mark.timeout(120)
def test_a_worker_fires_schedules(
    open_app: Callable[..., Application],
    postgres_url: str,
    redis_url: str,
    start_worker: StartWorker,
    tmp_path: Path,
) -> None:
    """Nobody asks it to: it wakes at each instant, and its runs are executed."""
    (tmp_path / "clock_steps.py").write_text(
        "from iaflow.pipeline import Step\n\n\n"
        "class Tick(Step):\n"
        "    async def work(self, data):\n"
        '        return {"tick": data["at"]}\n'
    )
    app = open_app(postgres_url, redis_url)
    ticks = compile_definition(
        {
            "name": "Ticks",
            "slug": "ticks",
            "parameters": {"at": ""},
            "steps": [{"id": "tick", "module": "clock_steps", "step_class": "Tick"}],
            "flow": {"start_at": "tick"},
            "outputs": {"tick": "{{ tick.tick }}"},
        }
    )
    app.pipelines.publish(
        content_hash=ticks.definition.content_hash,
        slug="ticks",
        version=ticks.definition.version,
        name="Ticks",
        description="",
        document=ticks.definition.text,
        now=datetime.now(UTC),
    )
    # The sweep alone would come too seldom.
    start_worker(
        database_url=postgres_url,
        redis_url=redis_url,
        modules="clock_steps",
        pythonpath=[tmp_path],
        concurrency=2,
        env={"IAFLOW_SWEEP_SECONDS": "2"},
    )
    app.client.schedules.put("ticks", "ticks", every=timedelta(seconds=1), instant_as="at")

    def ended() -> list[str]:
        fires = app.client.schedules.fires("ticks")
        runs = [app.client.run(fire.run_id) for fire in fires if fire.run_id is not None]
        return [str(run.outputs) for run in runs if run.status is RunStatus.SUCCEEDED]

    wait_until(lambda: len(ended()) >= 4, 60, "four instants")
    app.client.schedules.pause("ticks")
    fires = app.client.schedules.fires("ticks")
    assert {fire.status for fire in fires} == {FireStatus.STARTED}
    late = [(fire.fired_at - fire.fire_at).total_seconds() for fire in fires]
    print(f"{len(fires)} instants, late by at most {max(late):.3f} s")
    assert len({fire.fire_at for fire in fires}) == len(fires)
