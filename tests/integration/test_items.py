"""Steps with items (LANGUAGE section 6) on every database: what items see, give, and end as.

Driven in one process, by messages alone, and by hand, verb by verb.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from iaflow.data.records import Released, StepTask, Succeeded
from iaflow.data.status import RunStatus, StepEnd, StepStatus
from iaflow.errors import DefinitionRefused
from tests.integration.houses import House, Journal, VirtualClock, document, each

ITEMS = "{{ parameters.list }}"


def listed(*items: Any) -> dict[str, Any]:
    return {"parameters": {"list": list(items)}}


# --- what items see and give


def test_an_item_that_is_an_object_is_the_data(house: House, journal: Journal) -> None:
    """Without `inputs` the data is the item; what is no object is wrapped with its index."""
    items = [{"a": 1.0}, [1], "x", None, 7, {}, False, 10**30]
    run = house.run(document({"each": each(ITEMS)}, **listed(*items)))
    seen = [
        item if isinstance(item, dict) else {"item": item, "index": index}
        for index, item in enumerate(items)
    ]
    assert run.status is RunStatus.SUCCEEDED
    assert sorted(map(json.dumps, journal.data("each"))) == sorted(map(json.dumps, seen))
    assert run.outputs == {"results": seen}
    assert '"a": 1.0' in json.dumps(run.outputs)


def test_inputs_know_the_item_and_its_index(house: House, journal: Journal) -> None:
    """`{{ item }}`, `{{ item.path }}` and `{{ index }}`, beside what other steps gave."""
    inputs = {
        "all": "{{ item }}",
        "name": "{{ item.name }}",
        "text": "{{ index }}: {{ item.name }}",
        "none": "{{ item.absent | default('none') }}",
        "before": "{{ before.n }}",
    }
    steps = {
        "before": {"config": {"values": {"n": 1.0, "list": [{"name": "a"}, {"name": "b"}]}}},
        "each": each("{{ before.list }}", inputs=inputs),
    }
    house.run(document(steps, [("before", "each")]))
    data = sorted(journal.data("each"), key=lambda one: str(one["name"]))
    assert data[1] == {
        "all": {"name": "b"},
        "name": "b",
        "text": "1: b",
        "none": "none",
        "before": 1.0,
    }


def test_literal_items_and_templates_in_them(house: House) -> None:
    """`items` may be a list whose members are templates."""
    run = house.run(document({"each": each([1, "{{ parameters.list }}"])}, **listed(2)))
    assert run.outputs == {"results": [{"item": 1, "index": 0}, {"item": [2], "index": 1}]}


def test_an_empty_list_succeeds(house: House, journal: Journal) -> None:
    steps = {"each": each(ITEMS), "after": {"inputs": {"got": "{{ each }}"}}}
    run = house.run(document(steps, [("each", "after")], **listed()))
    assert run.status is RunStatus.SUCCEEDED
    assert journal.data("after") == [{"got": {"results": []}}]
    assert journal.data("each") == []


@pytest.mark.parametrize("items", ({}, "text", 3, None, True))
def test_items_that_are_no_list_are_invalid(house: House, items: Any) -> None:
    """`items_invalid`, once: no retry makes a list of it."""
    steps = {"each": each(ITEMS, error_handling={"retries": 3}), "mend": {}}
    edges = [("each", "mend", {"on": "failure"})]
    run = house.run(document(steps, edges, parameters={"list": items}))
    assert (run.status, run.handled) == (RunStatus.SUCCEEDED, 1)
    step = house.steps(run.run_id)["each"]
    assert step.error is not None
    assert (step.error["code"], step.attempt) == ("items_invalid", 1)


def test_items_of_a_step_that_did_not_succeed_are_invalid(house: House) -> None:
    """Its output is null, which is no list; `default([])` stands in for it."""
    steps = {
        "bad": {"config": {"fail": 9}, "error_handling": {"on_failure": "continue"}},
        "each": each("{{ bad.list }}"),
        "none": each("{{ bad.list | default([]) }}"),
    }
    handling = {"on_failure": "run_independent"}
    run = house.run(document(steps, [("bad", "each"), ("bad", "none")], error_handling=handling))
    assert run.error_code == "items_invalid"
    assert house.statuses(run.run_id) == {"bad": "failed", "each": "failed", "none": "succeeded"}


def test_more_items_than_allowed_are_invalid(house: House) -> None:
    run_id = house.start(document({"each": each(ITEMS)}, **listed(*[0] * 100_001)))
    house.work(run_id, "each")
    assert house.read(run_id).error_code == "items_invalid"


def test_results_stand_in_item_order_and_hold_null(house: House) -> None:
    """Failed and skipped items are null; the order of completion is of no concern."""
    items = [{"seconds": 0}, {"skip": True}, {"fail": 9}, {"give": {"x": 1}}]
    run_id = house.start(document({"each": each(ITEMS, tolerated_failures=1)}, **listed(*items)))
    house.work(run_id, "each")
    for index in (3, 1, 0, 2):
        house.work(run_id, "each", index)
    run = house.read(run_id)
    assert run.outputs == {"results": [{"seconds": 0}, None, None, {"x": 1}]}
    assert house.item_statuses(run_id) == ["succeeded", "skipped", "failed", "succeeded"]
    ends = [item.end for item in house.items(run_id)]
    assert ends == [StepEnd.SUCCESS, StepEnd.SKIPPED, StepEnd.FAILURE, StepEnd.SUCCESS]


def test_declared_outputs_are_the_items(house: House) -> None:
    """An item without one of them fails; references go through `results`."""
    steps = {
        "each": each(ITEMS, outputs=["x"], tolerated_failures=1),
        "after": {"inputs": {"x": "{{ each.results.1.x }}", "all": "{{ each.results }}"}},
    }
    run = house.run(document(steps, [("each", "after")], **listed({"y": 1}, {"x": 2})))
    assert run.outputs == {"x": 2, "all": [None, {"x": 2}]}
    [bad, _] = house.items(run.run_id)
    assert bad.error is not None
    assert bad.error["code"] == "output_missing"


def test_an_item_has_an_idempotency_key_of_its_own(house: House) -> None:
    run = house.run(document({"each": each(ITEMS, config={"key": 1})}, **listed({}, {})))
    assert run.outputs is not None
    keys = [result["key"] for result in run.outputs["results"]]
    assert keys == [f"{run.run_id}:each:{index}" for index in range(2)]


def test_a_foreach_is_refused_where_it_can_do_nothing(house: House) -> None:
    for step in (
        {"type": "wait", "config": {"seconds": 1}},
        {"type": "event", "config": {"name": "x"}},
        {"type": "human_input", "config": {"ui_schema": {"fields": []}}},
        {"type": "terminate", "config": {"status": "failed"}},
    ):
        with pytest.raises(DefinitionRefused):
            house.start(document({"each": each([1], **step)}))


# --- how many at once


@pytest.mark.parametrize("limit", (1, 3))
def test_no_more_than_max_parallel_items_work_at_once(
    house: House, journal: Journal, limit: int
) -> None:
    step = each(ITEMS, max_parallel=limit, config={"seconds": 0.005})
    run = house.run(document({"each": step}, **listed(*range(10))))
    assert run.status is RunStatus.SUCCEEDED
    assert journal.most_at_work == limit
    assert len(journal.data("each")) == 10


def test_a_place_stays_taken_while_an_item_retries(house: House) -> None:
    step = each(ITEMS, max_parallel=1, error_handling={"retries": 1, "retry_delay": 60})
    run_id = house.start(document({"each": step}, **listed({"fail": 1}, {})))
    house.work(run_id, "each")
    house.work(run_id, "each", 0)
    assert house.ready(run_id) == []
    assert house.item_statuses(run_id) == ["retrying", "pending"]
    house.drive(run_id)
    assert house.read(run_id).status is RunStatus.SUCCEEDED


def test_a_thousand_items_by_messages_alone(house: House, journal: Journal) -> None:
    steps = {"each": each(ITEMS, max_parallel=50), "after": {}}
    started = house.begin(document(steps, [("each", "after")], **listed(*range(1_000))))
    house.serve(started.run_id, tasks=started.tasks)
    assert house.read(started.run_id).status is RunStatus.SUCCEEDED
    assert sorted(one["index"] for one in journal.data("each")) == list(range(1_000))


# --- retries, time, losses


def test_retries_are_per_item_and_see_the_same(house: House, journal: Journal) -> None:
    """Each item has its own attempts, delays and inputs; what worked is not done again."""
    policy = {"retries": 2, "retry_delay": 10}
    items = [{"fail": 2, "n": 1.0}, {}, {"fail": 1}]
    run = house.run(document({"each": each(ITEMS, error_handling=policy)}, **listed(*items)))
    assert run.status is RunStatus.SUCCEEDED
    assert [journal.attempts("each", index) for index in range(3)] == [[1, 2, 3], [1], [1, 2]]
    assert [data for _, index, _, data in journal.entries if index == 0] == [items[0]] * 3
    assert isinstance(house.clock, VirtualClock)
    assert [item.attempt for item in house.items(run.run_id)] == [3, 1, 2]


def test_an_item_that_uses_up_its_retries_fails_the_step(house: House, journal: Journal) -> None:
    step = each(ITEMS, error_handling={"retries": 1})
    run = house.run(document({"each": step}, **listed({"fail": 9}, {"later": 1_000})))
    assert (run.status, run.error_code, run.error_step_id) == (
        RunStatus.FAILED,
        "items_failed",
        "each",
    )
    assert journal.attempts("each", 0) == [1, 2]
    assert "OSError" in str(run.error_message)
    assert house.item_statuses(run.run_id) == ["failed", "cancelled"]


def test_the_timeout_is_per_item(house: House) -> None:
    """An item that takes too long fails with `timeout`; the others have their own time."""
    step = each(ITEMS, error_handling={"timeout": 0.05}, tolerated_failures=1)
    steps = {"each": {**step, "class": "Hangs"}}
    run = house.run(document(steps, **listed(1)))
    [item] = house.items(run.run_id)
    assert (item.end, run.status) == (StepEnd.TIMEOUT, RunStatus.SUCCEEDED)
    assert run.outputs == {"results": [None]}


def test_a_lost_worker_costs_an_item_no_try(house: House) -> None:
    """The item alone is taken up again; its step and its neighbours are not touched."""
    run_id = house.start(document({"each": each(ITEMS)}, **listed(1, 2)))
    house.work(run_id, "each")
    first = house.claim(run_id, "each", 1)
    house.pass_time(31)
    assert house.sweep()["lost"] == 1
    second = house.claim(run_id, "each", 1)
    assert (second.claim.try_number, second.claim.worker_losses) == (1, 1)
    assert second.inputs.data == first.inputs.data == {"item": 2, "index": 1}
    assert house.engine.settle(first, Succeeded({}, "{}")).is_stale
    house.engine.settle(second, Succeeded({"x": 1}, '{"x":1}'))
    house.work(run_id, "each", 0)
    assert house.read(run_id).outputs == {"results": [{"item": 1, "index": 0}, {"x": 1}]}


def test_an_item_that_loses_its_workers_fails_as_an_item(house: House) -> None:
    step = each(ITEMS, error_handling={"max_worker_losses": 0}, tolerated_failures=1)
    run_id = house.start(document({"each": step}, **listed(1, 2)))
    house.work(run_id, "each")
    house.claim(run_id, "each", 0)
    house.pass_time(31)
    house.sweep()
    house.work(run_id, "each", 1)
    run = house.read(run_id)
    assert run.outputs == {"results": [None, {"item": 2, "index": 1}]}
    error = house.items(run_id)[0].error
    assert error is not None
    assert error["code"] == "worker_lost"


def test_a_worker_lost_before_it_fanned_out(house: House) -> None:
    run_id = house.start(document({"each": each(ITEMS)}, **listed(1, 2)))
    first = house.claim(run_id, "each")
    house.pass_time(31)
    house.sweep()
    house.work(run_id, "each")
    assert house.engine.settle(first, Released("late")).is_stale
    house.drive(run_id)
    assert house.read(run_id).status is RunStatus.SUCCEEDED


def test_a_fanned_step_is_no_lost_claim(house: House) -> None:
    """It runs by its items: no lease of its own that could end."""
    run_id = house.start(document({"each": each(ITEMS)}, **listed(1)))
    house.work(run_id, "each")
    house.pass_time(3600)
    assert house.sweep()["lost"] == 0
    assert house.steps(run_id)["each"].status is StepStatus.RUNNING


# --- cancels


@pytest.mark.parametrize("whole", (True, False))
def test_cancelling_stops_all_items(house: House, whole: bool) -> None:
    """Of a step or its run: ready, running, retrying and pending items; late results are none."""
    step = each(ITEMS, max_parallel=3, error_handling={"retries": 1, "retry_delay": 60})
    items = [{}, {"fail": 1}, {}, {}, {}]
    run_id = house.start(
        document({"each": step, "after": {}}, [("each", "after")], **listed(*items))
    )
    house.work(run_id, "each")
    house.work(run_id, "each", 0)
    house.work(run_id, "each", 1)
    running = house.claim(run_id, "each", 2)
    if whole:
        house.engine.cancel_run(run_id, "enough")
    else:
        house.engine.cancel_step(run_id, "each", "enough")
    assert house.item_statuses(run_id) == ["succeeded"] + ["cancelled"] * 4
    before = house.read(run_id)
    assert before.status is (RunStatus.CANCELLED if whole else RunStatus.SUCCEEDED)
    assert house.engine.settle(running, Succeeded({}, "{}")).is_stale
    assert house.engine.extend_lease(running.claim) is False
    house.pass_time(3600)
    assert house.sweep().total() == 0
    assert house.engine.claim(StepTask(run_id, "each", 3, 1), "late") is None
    assert (house.read(run_id), house.ready(run_id)) == (before, [])


def test_n_successes_cancel_the_rest(house: House, journal: Journal) -> None:
    """The step is done at the n-th success, while others hang."""
    items = [{"seconds": 0}, {"later": 500}, {}, {}]
    step = each(ITEMS, n=2, error_handling={"retries": 1}, max_parallel=3)
    run = house.run(document({"each": step, "after": {}}, [("each", "after")], **listed(*items)))
    assert run.status is RunStatus.SUCCEEDED
    results = house.steps(run.run_id)["each"].output
    assert results is not None
    assert sum(one is not None for one in results["results"]) == 2
    assert journal.data("after")


def test_a_run_that_ends_stops_items_that_work(house: House) -> None:
    """fail_fast of a neighbour: the attempts in this process are stopped, not waited for."""
    steps = {
        "root": {},
        "each": {**each([1, 2, 3]), "class": "Hangs"},
        "bad": {"config": {"fail": 9}},
    }
    run = house.run(document(steps, [("root", "each"), ("root", "bad")]))
    assert (run.status, run.error_step_id) == (RunStatus.FAILED, "bad")
    assert house.item_statuses(run.run_id) == ["cancelled"] * 3


# --- doubles and crashes


def test_doubled_messages_and_results_count_once(house: House) -> None:
    run_id = house.start(document({"each": each(ITEMS)}, **listed(1, 2)))
    task = house.work(run_id, "each").tasks[0]
    claimed = house.engine.claim(task, "one")
    assert claimed is not None
    assert house.engine.claim(task, "two") is None
    house.engine.settle(claimed, Succeeded({"x": 1}, '{"x":1}'))
    before = house.read(run_id)
    assert house.engine.settle(claimed, Succeeded({"x": 2}, '{"x":2}')).is_stale
    assert house.engine.claim(task, "three") is None
    assert house.engine.claim(StepTask(run_id, "each", 7, 1), "four") is None
    assert house.engine.claim(StepTask(run_id, "each", -1, 1), "five") is None
    assert house.read(run_id) == before


def test_lost_messages_of_items_are_sent_again(house: House, journal: Journal) -> None:
    """The fan-out and each start of further items commit, and their messages are lost."""
    step = each(ITEMS, max_parallel=2)
    run_id = house.start(document({"each": step}, **listed(*range(5))))
    house.work(run_id, "each")
    house.work(run_id, "each", 1)
    house.serve(run_id)
    assert house.read(run_id).status is RunStatus.SUCCEEDED
    assert sorted(one["item"] for one in journal.data("each")) == list(range(5))
