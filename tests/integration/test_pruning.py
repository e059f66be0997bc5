"""What ended long ago goes, whole families at a time, and nobody ever reads half a run.

Rows are counted in every table of the schema that names a run, so that a new table is noticed.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from benchmarks.history import copy_run
from iaflow.client import Client
from iaflow.data.records import RunRecord
from iaflow.data.schedules import FireRecord, ScheduleRecord
from iaflow.data.status import END_OF_RUN, FireStatus, Misfire, NoticeKind, RunStatus
from iaflow.database.run_store import prunes
from iaflow.database.statements import POSTGRES, Statement
from iaflow.errors import Conflict, NotFound
from iaflow.pipeline.maintenance import Pruned, prune
from tests.integration.houses import (
    House,
    Journal,
    VirtualClock,
    child,
    document,
    each,
    question,
    race,
)

DAY = 86_400.0
MONTH = timedelta(days=30)
CHAIN = document({"a": {}, "b": {}}, [("a", "b")], name="chain")


@pytest.fixture(params=("memory", "sqlite", "postgres"))
def house(request: pytest.FixtureRequest, tmp_path: Path, journal: Journal) -> Iterator[House]:
    """A house in virtual time on a database of its own: pruning looks at all there is."""
    urls = {"memory": "sqlite://", "sqlite": f"sqlite:///{tmp_path / 'runs.db'}"}
    url = urls.get(request.param) or request.getfixturevalue("postgres_url")
    house = House(url, VirtualClock())
    yield house
    house.started = [one for one in house.started if house.engine.reads.run(one) is not None]
    house.leave()


def prune_all(house: House, older_than: timedelta = MONTH, **more: Any) -> Pruned:
    """Prune to the end and return what was removed."""
    return [Pruned(), *prune(house.engine, older_than=older_than, **more)][-1]


def there(house: House, *run_ids: str) -> list[bool]:
    return [house.engine.reads.run(run_id) is not None for run_id in run_ids]


def count_rows(house: House, run_ids: Sequence[str]) -> dict[str, int]:
    """Return how many rows of every table name one of these runs."""
    metadata = house.database.tables.metadata
    with house.database.alone(), house.database.engine.connect() as connection:
        return {
            table.name: connection.execute(
                sa.select(sa.func.count()).where(table.c.run_id.in_(list(run_ids)))
            ).scalar_one()
            for table in metadata.sorted_tables
            if "run_id" in table.c
        }


def count_orphans(house: House) -> dict[str, int]:
    """Return how many rows of every table name a run, or another row, that is not there."""
    tables = house.database.tables
    runs = tables.runs.alias("parent")
    counted: dict[str, int] = {}
    with house.database.alone(), house.database.engine.connect() as connection:
        for table in tables.metadata.sorted_tables:
            parents = [(key.parent, key.column) for key in table.foreign_keys]
            if "run_id" in table.c and table not in (tables.runs, tables.schedule_fires):
                parents.append((table.c.run_id, tables.runs.c.run_id))
            for column, key in parents:
                above = key.table.alias("parent")
                missing = ~sa.exists().where(above.c[key.name] == column)
                asked = sa.select(sa.func.count()).select_from(table).where(missing)
                counted[f"{table.name}.{column.name}"] = connection.execute(asked).scalar_one()
        hidden = ~sa.exists().where(tables.run_payloads.c.run_id == runs.c.run_id)
        asked = sa.select(sa.func.count()).select_from(runs).where(hidden)
        counted["runs without payload"] = connection.execute(asked).scalar_one()
    return {name: count for name, count in counted.items() if count}


def tell(house: House, run_id: str, cause: str, *, kind: NoticeKind, is_delivered: bool) -> None:
    """Keep a notice, as the engine does."""
    number = next(_NUMBERS)
    now = house.clock.now()
    # Ids are in the order of time, also of a clock that a test moves.
    notice_id = f"{int(now.timestamp() * 1000):012x}{number:020x}"
    notice_id = "-".join(
        (notice_id[:8], notice_id[8:12], notice_id[12:16], notice_id[16:20], notice_id[20:])
    )
    with house.database.transaction() as tx:
        house.engine.notices.insert(
            tx, notice_id=notice_id, run_id=run_id, kind=kind, cause=cause, body={}, now=now
        )
    if is_delivered:
        house.engine.notices.mark_delivered(notice_id, now=now)


_NUMBERS = itertools.count(1)


def everything(house: House) -> list[str]:
    """Drive a family that leaves rows in every table that names a run; return its ids."""
    house.publish(document({"only": {}}, name="below", parameters={"n": 0}))
    whole = document(
        {
            "start": {},
            "items": each([1, 2, 3]),
            "call": child("below"),
            "ask": question(quorum=2),
        },
        [("start", "items"), ("items", "call"), ("call", "ask")],
        name="everything",
    )
    run_id = house.run(whole).run_id
    for who in ("ann", "bob"):
        pause = house.pause(run_id)
        house.engine.answer(pause.pause_id, {"decision": "yes"}, answered_by=who)
    tell(house, run_id, "end", kind=NoticeKind.RUN_SUCCEEDED, is_delivered=True)
    assert house.drive(run_id).status is RunStatus.SUCCEEDED
    return house.family(run_id)


# --- what goes


def test_a_run_goes_with_all_that_is_its(house: House) -> None:
    """No foreign key keeps events, steps, payloads and decisions to their run: nothing stays."""
    old = everything(house)
    house.pass_time(31 * DAY)
    young = everything(house)

    before, kept = count_rows(house, old), count_rows(house, young)
    # A run that ended holds no key, and a fire is its schedule's.
    others = {name: n for name, n in before.items() if name not in ("key_holds", "schedule_fires")}
    assert all(others.values()), f"let `everything` write into each of {others}"
    assert prune_all(house) == Pruned(runs=2, rows=sum(before.values()))

    assert set(count_rows(house, old).values()) == {0}
    assert count_rows(house, young) == kept
    assert count_orphans(house) == {}
    assert prune_all(house) == Pruned(), "a second pass finds nothing"


def test_what_is_young_or_lives_stays(house: House) -> None:
    waiting = house.run(document({"ask": question()}, name="waits")).run_id
    running = house.start(CHAIN)
    old = house.run(CHAIN).run_id
    house.pass_time(29 * DAY)
    young = house.run(CHAIN).run_id
    house.pass_time(2 * DAY)

    assert prune_all(house).runs == 1
    assert there(house, waiting, running, old, young) == [True, True, False, True]


def test_definitions_stay(house: House) -> None:
    """A version is what a run of tomorrow may be pinned to, and its number is never given again."""
    slug = house.publish(CHAIN)
    house.run(CHAIN)
    house.pass_time(31 * DAY)
    assert prune_all(house).runs == 1
    found = house.pipelines.find(slug)
    assert found is not None
    assert house.pipelines.read_document(found.content_hash) is not None
    assert house.run(CHAIN).status is RunStatus.SUCCEEDED


def test_a_family_goes_together(house: House) -> None:
    """A child that ended stays with its living parent, and a parent with its living child."""
    house.publish(document({"only": {}}, name="below"))
    house.publish(document({"ask": question()}, name="asks"))
    lives = house.run(
        document(
            {"call": child("below"), "ask": question()}, [("call", "ask")], name="living-parent"
        )
    ).run_id
    left = house.run(document({"call": child("asks", wait=False)}, name="left-child")).run_id
    [ended_child], [living_child] = house.children(lives), house.children(left)
    house.drive(living_child)
    assert house.read(living_child).status is RunStatus.WAITING
    house.pass_time(31 * DAY)
    assert prune_all(house) == Pruned()

    house.engine.answer(house.pause(living_child).pause_id, {"decision": "yes"}, answered_by="ann")
    house.drive(living_child)
    assert prune_all(house) == Pruned(), "the child has ended just now"
    house.pass_time(31 * DAY)
    assert prune_all(house).runs == 2
    assert there(house, lives, ended_child, left, living_child) == [True, True, False, False]


def test_families_that_stay_hold_up_nobody(house: House) -> None:
    """They stand first in the index for as long as their child lives."""
    house.publish(document({"ask": question()}, name="asks"))
    held = document({"call": child("asks", wait=False)}, name="left-child")
    kept = [house.run(held).run_id for _ in range(60)]
    house.pass_time(60)
    old = house.run(CHAIN).run_id
    house.pass_time(31 * DAY)
    assert prune_all(house).runs == 1
    assert there(house, *kept, old) == [True] * 60 + [False]
    client = Client(engine=house.engine)
    for run_id in kept:
        client.cancel(house.children(run_id)[0])
    assert prune_all(house) == Pruned(), "their children have ended just now"


def test_a_run_that_was_reopened_is_young_again(house: House) -> None:
    broken = document({"a": {"config": {"fail": 1}}}, name="broken")
    run_id = house.run(broken).run_id
    house.pass_time(31 * DAY)
    Client(engine=house.engine).retry(run_id)
    assert prune_all(house) == Pruned()
    assert house.drive(run_id).status in END_OF_RUN
    assert prune_all(house) == Pruned()


def test_a_key_stands_for_its_run_for_a_day(house: House) -> None:
    """RELIABILITY I2: whoever repeats a start within a day gets the run that it made."""
    first = house.begin(CHAIN, key="order-7")
    house.drive(first.run_id)
    without = house.run(CHAIN).run_id
    house.pass_time(DAY - 60)
    assert prune_all(house, timedelta(hours=1)).runs == 1
    assert there(house, first.run_id, without) == [True, False]
    again = house.begin(CHAIN, key="order-7")
    assert (again.run_id, again.is_new) == (first.run_id, False)

    house.pass_time(120)
    assert prune_all(house, timedelta(hours=1)).runs == 1
    assert house.begin(CHAIN, key="order-7").is_new


def test_what_is_to_be_told_is_told_first(house: House) -> None:
    """However short the retention: all tries to deliver a notice are made within a day."""
    run_id = house.run(CHAIN).run_id
    tell(house, run_id, "end", kind=NoticeKind.RUN_SUCCEEDED, is_delivered=False)
    house.pass_time(60)
    assert prune_all(house, timedelta(seconds=1)) == Pruned()
    house.pass_time(DAY)
    assert prune_all(house, timedelta(seconds=1)).runs == 1


def test_fires_go_and_their_schedule_stays(house: House) -> None:
    now = house.clock.now()
    house.publish(CHAIN)
    house.engine.put_schedule(
        ScheduleRecord(
            name="nightly",
            slug="chain",
            parameters={},
            cron=None,
            zone="UTC",
            interval_seconds=3600,
            misfire=Misfire.LATEST,
            is_paused=True,
            starts_at=now,
            ends_at=None,
            instant_as=None,
            next_at=None,
            created_by=None,
            created_at=now,
            updated_at=now,
        ),
        has_start=True,
    )
    with house.database.transaction() as tx:
        for hours in range(5):
            at = now + timedelta(hours=hours)
            fire = FireRecord("nightly", at, FireStatus.MISSED, None, None, at)
            assert house.engine.schedules.insert_fire(tx, fire)
        # An instant of then that was made up for much later is as young as that.
        late = FireRecord(
            "nightly",
            now - timedelta(hours=1),
            FireStatus.MISSED,
            None,
            None,
            now + timedelta(days=9),
        )
        assert house.engine.schedules.insert_fire(tx, late)
    house.pass_time(30 * DAY + 2.5 * 3600)
    assert prune_all(house) == Pruned(fires=3)
    left = [fire.fire_at for fire in house.engine.schedules.fires("nightly")]
    assert left == [
        now + timedelta(hours=4),
        now + timedelta(hours=3),
        now - timedelta(hours=1),
    ]


def test_delivered_notices_of_a_living_run_go(house: House) -> None:
    """But not what is still to be told, nor what would be told once more."""
    run_id = house.run(document({"ask": question()}, name="waits")).run_id
    for kind in (NoticeKind.QUESTION_REMINDER, NoticeKind.RUN_STUCK):
        tell(house, run_id, "delivered", kind=kind, is_delivered=True)
        tell(house, run_id, "due", kind=kind, is_delivered=False)
    house.pass_time(31 * DAY)
    tell(house, run_id, "young", kind=NoticeKind.QUESTION_REMINDER, is_delivered=True)
    assert prune_all(house) == Pruned(notices=1)
    kept = [one for one in house.engine.notices.of_run(run_id) if one.body == {}]
    assert len(kept) == 4


def test_a_dry_run_counts_and_removes_nothing(house: House) -> None:
    old = [*everything(house), house.run(CHAIN).run_id]
    house.pass_time(31 * DAY)
    counted = prune_all(house, is_dry=True)
    rows = sum(count_rows(house, old).values())
    assert counted.runs == 3
    assert rows / 2 < counted.rows < rows * 2
    assert there(house, *old) == [True] * 3
    assert prune_all(house).rows == rows


def test_an_age_beyond_the_calendar_keeps_everything(house: House) -> None:
    house.run(CHAIN)
    house.pass_time(31 * DAY)
    assert prune_all(house, timedelta(days=900_000)) == Pruned()


# --- never half


def test_a_large_run_is_gone_before_its_rows_are(house: House) -> None:
    """
    It goes in many short transactions, and after the first nobody reads it.

    Nobody reopens it either, though this process remembers it; and its key is free.
    """
    run_id = house.begin(CHAIN, key="once").run_id
    house.drive(run_id)
    client = Client(engine=house.engine)
    assert len(client.steps(run_id)) == 2
    house.pass_time(31 * DAY)
    before = house.clock.now() - MONTH

    removals = []
    while not removals or not removals[-1].is_done:
        removals.append(house.engine.prunes.remove([run_id], before=before, most_rows=3))
        assert client.steps(run_id) == []
        assert client.events(run_id) == []
        assert client.decisions(run_id) == []
        assert client.runs() == []
        with pytest.raises(NotFound):
            client.run(run_id)
        with pytest.raises(NotFound):
            client.retry(run_id)
        with pytest.raises(NotFound):
            client.rerun(run_id, "a")
    assert len(removals) > 3
    assert all(removal.rows <= 3 for removal in removals)
    assert count_orphans(house) == {}
    assert house.begin(CHAIN, key="once").is_new


def test_the_key_of_a_run_that_is_being_removed_is_free(house: House) -> None:
    run_id = house.begin(CHAIN, key="once").run_id
    house.drive(run_id)
    house.pass_time(31 * DAY)
    before = house.clock.now() - MONTH
    assert not house.engine.prunes.remove([run_id], before=before, most_rows=3).is_done
    again = house.begin(CHAIN, key="once")
    assert again.is_new
    assert prune_all(house).runs == 1
    assert there(house, run_id, again.run_id) == [False, True]


def test_a_removal_that_was_cut_off_is_gone_on_with(house: House) -> None:
    """Whatever transaction was the last one, a later pass leaves nothing."""
    house.publish(document({"only": {}}, name="below", parameters={"n": 0}))
    wide = document({"calls": each([1, 2, 3], **child("below"))}, name="wide")
    for transactions in range(12):
        family = house.family(house.run(wide).run_id)
        house.pass_time(31 * DAY)
        before = house.clock.now() - MONTH
        for _ in range(transactions):
            house.engine.prunes.remove(family[:1], before=before, most_rows=7)
            for run_id, whole in zip(family, there(house, *family), strict=True):
                rows = count_rows(house, [run_id])
                assert not whole or (rows["steps"] and rows["events"] == house.read(run_id).seq)
        prune_all(house)
        assert there(house, *family) == [False] * 4
        assert count_orphans(house) == {}


@pytest.mark.parametrize("house", ("sqlite", "postgres"), indirect=True)
def test_pruning_beside_work_and_readers(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three prune, one works, one reads: a run is whole or not there, and each goes once."""
    old = [house.run(CHAIN).run_id for _ in range(40)]
    house.pass_time(31 * DAY)
    monkeypatch.setattr(prunes, "ROWS_AT_ONCE", 10)
    over = threading.Event()
    before = house.clock.now() - MONTH

    def remove() -> int:
        runs = 0
        for run_id in old:
            is_done = False
            while not is_done:
                removal = house.engine.prunes.remove([run_id], before=before, most_rows=4)
                runs, is_done = runs + removal.runs, removal.is_done
        return runs

    def work() -> list[RunRecord]:
        try:
            return [house.run(CHAIN) for _ in range(10)]
        finally:
            over.set()

    def read() -> int:
        seen = 0
        while not over.is_set():
            for run_id in old:
                with house.database.transaction(write=False):
                    run = house.engine.reads.run(run_id)
                    steps = house.engine.reads.steps(run_id)
                    events = house.engine.reads.events(run_id)
                whole = (2, run.seq) if run is not None else (0, 0)
                assert (len(steps), len(events)) == whole
                seen += 1
        return seen

    *removed, worked, seen = race([remove, remove, remove, work, read], house)
    assert isinstance(seen, int), seen
    assert all(run.status is RunStatus.SUCCEEDED for run in worked)
    assert sum(removed) + prune_all(house).runs == 40
    assert count_orphans(house) == {}


@pytest.mark.parametrize("house", ("sqlite", "postgres"), indirect=True)
def test_a_retry_and_a_removal_at_once(house: House) -> None:
    """One of them comes first: the run goes on, or is not there."""
    broken = document({"a": {"config": {"fail": 1}}}, name="broken")
    client = Client(engine=house.engine)
    for _ in range(10):
        run_id = house.run(broken).run_id
        house.pass_time(31 * DAY)
        before = house.clock.now() - MONTH
        retried, removal = race(
            [
                lambda run_id=run_id: client.retry(run_id),
                lambda run_id=run_id, before=before: house.engine.prunes.remove(
                    [run_id], before=before
                ),
            ],
            house,
        )
        if removal.runs:
            assert isinstance(retried, NotFound | Conflict)
            assert there(house, run_id) == [False]
        else:
            assert house.drive(run_id).status in END_OF_RUN
        assert count_orphans(house) == {}


# --- the plan


@pytest.mark.parametrize("house", ("postgres",), indirect=True)
@pytest.mark.slow
def test_indexes_find_what_is_old_among_200_000_runs(house: House) -> None:
    """Also for a planner that may read whole tables, which iaflow's connections forbid it."""
    assert house.database.dialect == POSTGRES
    run_id = house.run(CHAIN).run_id
    tables = house.database.tables
    with house.database.engine.begin() as connection:
        copy_run(connection, tables, run_id, 200_000)
    with house.database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("ANALYZE")
    sql = house.engine.prunes._sql
    asked = (sql.ended, sql.lock, sql.below, sql.hide, *sql.empty, sql.delete_runs)
    given = {
        "ids": json.dumps([run_id]),
        "before": house.clock.now(),
        "after": prunes.FIRST.finished_at,
        "after_id": prunes.FIRST.run_id,
        "limit": 50,
    }
    for mode in ("force_generic_plan", "force_custom_plan"):
        for statement in asked:
            plan = explain(house, statement, given, mode)
            assert not [line for line in plan if re.search(f"Seq Scan on ({LARGE})", line)], plan
            if statement is sql.ended:
                assert any("runs_ended" in line for line in plan), plan
    assert len(house.engine.prunes.find_ended(before=house.clock.now())) == 50
    assert house.engine.prunes.remove([run_id], before=house.clock.now() + MONTH).runs == 1


LARGE = "runs|run_payloads|steps|step_payloads|decisions|events"


def explain(house: House, statement: Statement, given: dict[str, Any], mode: str) -> list[str]:
    """Return how Postgres goes about a statement, also with plans it has made once and kept."""
    values = statement.values(POSTGRES, given)
    with house.database.engine.connect() as connection:
        cursor = connection.connection.cursor()
        cursor.execute(f"SET plan_cache_mode = {mode}")
        cursor.execute(f"PREPARE asked AS {statement.text(POSTGRES)}")
        slots = ", ".join(["%s"] * len(values))
        cursor.execute(f"EXPLAIN EXECUTE asked ({slots})", values)
        plan = [row[0] for row in cursor.fetchall()]
        cursor.execute("DEALLOCATE asked")
    return plan
