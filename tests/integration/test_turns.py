"""Runs that wait for their turn (`max_concurrent_runs`), on every database.

However a run ends, and whichever process dies over it, the one that has waited longest is next;
there are never more on their way than the definition allows.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from iaflow.data.records import Succeeded
from iaflow.data.status import RunStatus
from iaflow.database.statements import POSTGRES
from tests.integration.houses import House, child, document, each, question, race

PENDING, RUNNING = RunStatus.PENDING, RunStatus.RUNNING


def limited(count: int = 1, name: str = "limited", **more: Any) -> dict[str, Any]:
    return document({"only": more.pop("step", {})}, name=name, max_concurrent_runs=count, **more)


def statuses(house: House, runs: list[str]) -> list[RunStatus]:
    return [house.read(run_id).status for run_id in runs]


def test_further_runs_wait_as_pending(house: House) -> None:
    runs = [house.start(limited(2)) for _ in range(4)]
    assert statuses(house, runs) == [RUNNING, RUNNING, PENDING, PENDING]
    assert house.steps(runs[2]) == {}
    assert house.ready(runs[2]) == []


@pytest.mark.parametrize("how", ("succeeded", "failed", "cancelled", "timeout"))
def test_whatever_ends_a_run_gives_its_turn_to_the_oldest(house: House, how: str) -> None:
    policy: dict[str, Any] = {"error_handling": {"run_timeout": 100}}
    step = {"config": {"fail": 9 if how == "failed" else 0}}
    runs = [house.start(limited(step=step, **policy)) for _ in range(3)]
    match how:
        case "cancelled":
            house.engine.cancel_run(runs[0], "")
        case "timeout":
            house.pass_time(101)
            house.sweep()
        case _:
            settled = house.work(runs[0], "only")
            assert [task.run_id for task in settled.tasks] == [runs[1]]
    assert statuses(house, runs)[1:] == [RUNNING, PENDING]
    assert house.ready(runs[1]) == [("only", -1)]


def test_a_runs_time_begins_with_its_turn(house: House) -> None:
    """`run_timeout` and `run.started_at` count from there, not from the start that waited."""
    step = {"inputs": {"at": "{{ run.started_at }}"}}
    definition = limited(step=step, error_handling={"run_timeout": 100})
    first, second = (house.start(definition) for _ in range(2))
    created = house.clock.now()
    house.pass_time(90)
    house.work(first, "only")
    house.pass_time(90)
    assert house.sweep()["overdue"] == 0
    house.work(second, "only")
    run = house.read(second)
    assert run.started_at == created + timedelta(seconds=90)
    assert run.outputs == {"at": run.started_at.isoformat()}


def test_a_pending_run_may_be_cancelled(house: House) -> None:
    runs = [house.start(limited()) for _ in range(3)]
    house.engine.cancel_run(runs[1], "")
    assert statuses(house, runs) == [RUNNING, RunStatus.CANCELLED, PENDING]
    house.work(runs[0], "only")
    assert statuses(house, runs)[2] is RUNNING


def test_a_run_that_waits_for_people_keeps_its_turn(house: House) -> None:
    runs = [house.start(limited(step=question())) for _ in range(2)]
    house.drive(runs[0])
    assert statuses(house, runs) == [RunStatus.WAITING, PENDING]


def test_the_same_key_gives_the_pending_run(house: House) -> None:
    first = house.begin(limited(), key="turn-1")
    second = house.begin(limited(), key="turn-2")
    again = house.begin(limited(), key="turn-2")
    assert (again.run_id, again.is_new) == (second.run_id, False)
    assert statuses(house, [first.run_id, second.run_id]) == [RUNNING, PENDING]


def test_children_take_turns(house: House) -> None:
    """A child that waits for its turn keeps its parent waiting, without a worker."""
    house.publish(limited(name="turn-child"))
    step = each([1, 2, 3], type="pipeline", pipeline="turn-child", inputs={})
    started = house.begin(document({"each": step}))
    house.work(started.run_id, "each")
    for index in range(3):
        house.work(started.run_id, "each", index)
    children = house.children(started.run_id)
    assert statuses(house, children) == [RUNNING, PENDING, PENDING]
    house.drive(started.run_id)
    assert house.read(started.run_id).status is RunStatus.SUCCEEDED


def test_cancelling_the_parent_of_pending_children(house: House) -> None:
    house.publish(limited(name="turn-child"))
    step = each([1, 2, 3], type="pipeline", pipeline="turn-child", inputs={})
    run_id = house.start(document({"each": step}))
    house.work(run_id, "each")
    for index in range(3):
        house.work(run_id, "each", index)
    for follow_up in house.engine.cancel_run(run_id, "").follow_ups:
        follow_up({})
    assert set(statuses(house, house.children(run_id))) == {RunStatus.CANCELLED}
    other = house.begin(document({"call": child("turn-child", inputs={})}))
    assert house.drive(other.run_id).status is RunStatus.SUCCEEDED


@pytest.mark.parametrize("driven", (True, False))
def test_a_turn_that_was_not_given(house: House, driven: bool) -> None:
    """The run before ended and its process died: the sweep gives the turn, or who drives the next."""
    runs = [house.start(limited()) for _ in range(2)]
    with house.crashing():
        house.work(runs[0], "only")
    assert statuses(house, runs)[1] is PENDING
    if driven:
        house.drive(runs[1], 5.0)
    else:
        house.serve(runs[1])
    assert statuses(house, runs)[1] is RunStatus.SUCCEEDED


def test_many_runs_end_as_they_begin(house: House) -> None:
    """Runs whose first step fails at once pass the turn on, however many there are."""
    step = {"concurrency_key": "{{ parameters.key }}"}
    definition = limited(step=step, parameters={"key": None})
    first = house.start(definition, {"key": "sound"})
    faulty = [house.start(definition) for _ in range(600)]
    last = house.start(definition, {"key": "sound"})
    house.work(first, "only")
    assert set(statuses(house, faulty)) == {RunStatus.FAILED}
    assert house.read(last).status is RUNNING


def test_starts_and_ends_at_once_keep_to_the_limit(shared_house: House) -> None:
    """Eight callers start forty runs and end what they can: never more than three on their way."""
    definition = limited(3, name="crowd")
    graph_runs: list[str] = []
    seen: list[int] = []
    count = "SELECT COUNT(*) FROM {}runs WHERE slug = 'crowd' AND status IN ('running', 'waiting')"

    def call() -> None:
        for _ in range(5):
            started = shared_house.begin(definition)
            graph_runs.append(started.run_id)
            if shared_house.database.dialect == POSTGRES:
                seen.append(shared_house.ask(count)[0][0])
            for task in started.tasks:
                todo = [task]
                while todo:
                    claimed = shared_house.engine.claim(todo.pop(), "crowd")
                    if claimed is not None:
                        todo += shared_house.engine.settle(claimed, Succeeded({}, "{}")).tasks

    assert race([call] * 8, shared_house) == [None] * 8
    assert all(amount <= 3 for amount in seen)
    shared_house.serve(*graph_runs)
    assert set(statuses(shared_house, graph_runs)) == {RunStatus.SUCCEEDED}
