"""The checker and the races can fail: bugs that others have had, seeded one by one, are reported.

Each test is the quick form of a fault test, on a product with one guard taken out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from iaflow.data.records import Succeeded
from iaflow.data.status import PauseStatus, StepStatus
from iaflow.database.run_store.settles import SettleStore
from iaflow.database.statements import Statement, literal_word
from tests.chaos.storm import Storm
from tests.chaos.test_storms import flush
from tests.integration import test_joins as joins
from tests.servers.valkey import OwnRedisServer

pytestmark = pytest.mark.timeout(300)

MakeStorm = Callable[[int], Storm]


@pytest.fixture
def races(postgres_url: str) -> Iterator[joins.Races]:
    """The races of the joins' tests, on Postgres."""
    races = joins.Races(postgres_url)
    yield races
    races.close()


class AnyToken(str):
    """Equal to every token."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


def test_a_settle_without_its_token_is_caught(
    races: joins.Races, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F2: a zombie writes the end of a step that another worker is at."""
    graph = races.keep(joins.fan())
    stale = []
    lock = SettleStore.lock

    def careless(self: SettleStore, *args: Any, **kwargs: Any) -> Any:
        locked = lock(self, *args, **kwargs)
        return None if locked is None else replace(locked, step_token=AnyToken("any"))

    for method in (lock, careless):
        monkeypatch.setattr(SettleStore, "lock", method)
        run_id, tasks = races.begin(graph)
        zombie = races.take(tasks[0])
        lose(races, run_id, tasks[0].step_id)
        [lost] = races.engine.claims.find_lost(now=races.engine.clock.now(), run_id=run_id)
        races.engine.rescue(lost)
        races.take(tasks[0])
        stale.append(races.give(zombie).is_stale)
    assert stale == [True, False]


def lose(races: joins.Races, run_id: str, step_id: str) -> None:
    """Let a step's lease be over."""
    steps = races.database.tables.steps
    with races.database.engine.begin() as connection:
        connection.execute(
            sa.update(steps)
            .where(steps.c.run_id == run_id, steps.c.step_id == step_id)
            .values(lease_until=sa.func.now() - sa.text("interval '1 hour'"))
        )


def test_a_sweep_that_sends_nothing_is_caught(
    make_storm: MakeStorm, own_redis: OwnRedisServer
) -> None:
    """F5: what Redis has lost stays lost."""
    storm = make_storm(30)
    storm.worker(application="mutant_sweep")
    with storm.under_way(pace=0.05):
        for _ in range(10):
            time.sleep(0.1)
            storm.hits.add("messages flushed", flush(own_redis))
    violations = storm.finish(8, in_time=False)
    print(violations[:2])
    assert storm.hits.counts["messages flushed"] >= 1
    assert any("has not ended" in one for one in violations)


def test_an_answer_that_is_read_then_written_is_caught(races: joins.Races) -> None:
    """F9: of answers that come at once, each is told that it was accepted."""
    pauses = races.database.tables.pauses
    races.engine.pauses._sql.mark_answered = Statement(
        "iaflow_careless_answer",
        sa.update(pauses)
        .where(pauses.c.pause_id == sa.bindparam("pause_id"))
        .values(
            status=literal_word(PauseStatus.ANSWERED),
            answer=sa.bindparam("answer"),
            answer_key=sa.bindparam("answer_key"),
            answered_by=sa.bindparam("answered_by"),
            answered_at=sa.bindparam("answered_at"),
        )
        .returning(pauses.c.pause_id),
    )
    with pytest.raises((AssertionError, ValueError)):
        joins.test_one_of_many_answers_is_accepted(races)


def test_a_join_without_the_runs_lock_is_caught(races: joins.Races) -> None:
    """F8: ends that do not see each other lose the join, or fire it twice."""
    runs, steps = races.database.tables.runs, races.database.tables.steps
    sql = races.engine._settles._sql
    sql.lock_run = Statement(
        "iaflow_careless_run",
        sa.select(sa.literal_column("1")).where(runs.c.run_id == sa.bindparam("run_id")),
    )
    sql.lock_step = Statement(
        "iaflow_careless_step",
        sa.select(sa.literal_column("1")).where(
            steps.c.run_id == sa.bindparam("run_id"),
            steps.c.step_id == sa.bindparam("step_id"),
            steps.c.item_index == sa.bindparam("item_index"),
        ),
    )
    with races.database.engine.begin() as connection:
        # What would stop two plans from the same snapshot after all.
        connection.execute(sa.text("ALTER TABLE iaflow.events DROP CONSTRAINT events_pkey"))
    with pytest.raises((AssertionError, ValueError)):
        joins.test_a_join_fires_once_after_all_its_inputs(races)


def test_a_rescue_by_its_id_alone_is_caught(races: joins.Races) -> None:
    """F3: a worker ends its step while a sweep, which has seen it lost, takes it away."""
    graph = races.keep(joins.fan())
    steps = races.database.tables.steps
    careful = races.engine.claims._sql.mark_rescued
    careless = Statement(
        "iaflow_careless_rescue",
        sa.update(steps)
        .where(
            steps.c.run_id == sa.bindparam("run_id"),
            steps.c.step_id == sa.bindparam("step_id"),
            steps.c.item_index == sa.bindparam("item_index"),
        )
        .values(
            status=literal_word(StepStatus.READY),
            token=sa.null(),
            published_at=sa.bindparam("published_at"),
        )
        .returning(steps.c.attempt),
    )
    ends = []
    for statement in (careful, careless):
        races.engine.claims._sql.mark_rescued = statement
        run_id, tasks = races.begin(graph)
        taken = races.take(tasks[0])
        lose(races, run_id, tasks[0].step_id)
        [lost] = races.engine.claims.find_lost(now=races.engine.clock.now(), run_id=run_id)
        output = {"value": 1}
        races.engine.settle(taken, Succeeded(output, '{"value":1}'))
        races.engine.rescue(lost)
        ends.append(races.statuses(run_id)[tasks[0].step_id])
    assert ends == [StepStatus.SUCCEEDED, StepStatus.READY]
