"""Runs below runs, and runs that wait for their turn (LANGUAGE sections 1 and 2).

A step takes its child's end for its own, whatever that is and whichever process dies in between;
what nobody waits for any more is cancelled.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from iaflow.client import Client
from iaflow.data.status import END_OF_RUN, RunStatus, WaitsFor
from iaflow.errors import Conflict, DefinitionRefused
from iaflow.pipeline.runner import waiting_payload
from tests.integration.houses import House, Journal, child, document, each, question, race

RUN, PEOPLE = WaitsFor.RUN, WaitsFor.PEOPLE


def publish_child(house: House, name: str = "child", **step: Any) -> str:
    """Publish a pipeline of one step, whose data is its parameters."""
    return house.publish(document({"only": step}, name=name, parameters={"n": 0}))


def parent(slug: str = "child", **step: Any) -> dict[str, Any]:
    return document({"call": child(slug, **step), "after": {}}, [("call", "after")], name="parent")


def answer(house: House, run_id: str, decision: str = "yes") -> str:
    """Answer the one question of a run's family; return whose it was."""
    pause = house.pause(run_id)
    house.engine.answer(pause.pause_id, {"decision": decision}, answered_by="ann")
    return pause.run_id


# --- outputs and failures


def test_a_step_takes_its_childs_outputs(house: House, journal: Journal) -> None:
    """`inputs` are the child's input, laid over its parameters."""
    publish_child(house)
    run = house.run(parent(inputs={"n": 1.0, "more": [None]}))
    assert journal.data("only") == [{"n": 1.0, "more": [None]}]
    assert run.outputs == {"n": 1.0, "more": [None]}
    [below] = house.children(run.run_id)
    found = house.read(below)
    assert (found.parent_run_id, found.parent_step_id) == (run.run_id, "call")


def test_a_waiting_parent_holds_no_worker(house: House) -> None:
    publish_child(house)
    run_id = house.start(parent(inputs={}))
    house.work(run_id, "call")
    step = house.steps(run_id)["call"]
    assert (step.status.value, step.waits_for) == ("waiting", RUN)
    assert (house.read(run_id).status, house.read(run_id).paused) == (RunStatus.RUNNING, 0)
    assert house.ready(run_id) == []


@pytest.mark.parametrize("how", ("failed", "cancelled"))
def test_a_child_that_does_not_succeed_fails_its_step(house: House, how: str) -> None:
    publish_child(house, config={"fail": 9})
    run_id = house.start(parent(inputs={}))
    house.work(run_id, "call")
    [below] = house.children(run_id)
    if how == "failed":
        house.serve(run_id)
    else:
        settled = house.engine.cancel_run(below, "")
        for follow_up in settled.follow_ups:
            follow_up({})
    run = house.read(run_id)
    assert (run.status, run.error_code) == (RunStatus.FAILED, f"pipeline_{how}")
    assert below in str(run.error_message)


def test_every_retry_is_a_child_of_its_own(house: House, journal: Journal) -> None:
    publish_child(house, config={"fail": 9})
    run = house.run(parent(inputs={}, error_handling={"retries": 2, "retry_delay": 5}))
    assert run.status is RunStatus.FAILED
    assert len(house.children(run.run_id)) == 3
    error = house.steps(run.run_id)["call"].error
    assert error is not None
    assert error["attempts"] == 3


@pytest.mark.parametrize("code", ("OSError", "pipeline_failed"))
def test_a_childs_code_is_known_to_the_retry_rules(house: House, code: str) -> None:
    publish_child(house, config={"fail": 9})
    run = house.run(parent(inputs={}, error_handling={"retries": 2, "give_up_on": [code]}))
    assert len(house.children(run.run_id)) == 1


def test_a_child_that_takes_too_long_is_cancelled(house: House) -> None:
    """`timeout` on the step: it ends as timeout, and the run below is not left behind."""
    steps = {"wait": {"type": "wait", "config": {"seconds": 10_000}}}
    house.publish(document(steps, name="child"))
    step = child("child", inputs={}, error_handling={"timeout": 60})
    run = house.run(document({"call": step, "late": {}}, [("call", "late", {"on": "timeout"})]))
    assert run.status is RunStatus.SUCCEEDED
    assert house.statuses(run.run_id)["late"] == "succeeded"
    house.serve(*house.children(run.run_id))
    assert [house.read(one).status for one in house.children(run.run_id)] == [RunStatus.CANCELLED]


def test_a_child_that_is_not_there_or_does_not_fit(house: House) -> None:
    run = house.run(parent("nobody-v1", inputs={}, error_handling={"retries": 3}))
    assert (run.error_code, house.steps(run.run_id)["call"].attempt) == ("pipeline_unknown", 1)
    schema = {"properties": {"n": {"type": "integer"}}}
    house.publish(document({"only": {}}, name="strict", input_schema=schema))
    run = house.run(parent("strict", inputs={"n": "x"}))
    assert (run.error_code, house.children(run.run_id)) == ("input_invalid", [])


def test_promised_outputs_are_the_childs(house: House) -> None:
    publish_child(house)
    run = house.run(parent(inputs={}, outputs=["n", "absent"]))
    assert run.error_code == "output_missing"


def test_a_child_that_is_cancelled_where_no_code_can_run(house: House) -> None:
    """Its parent's failure is judged by a worker later; the cancel itself is done, and says so."""
    publish_child(house)
    rule = {"module": "tests.integration.houses", "function": "says_yes"}
    edge = {"on": "failure", "condition": {"type": "function", "config": rule}}
    steps = {"call": child("child", inputs={}), "mend": {}}
    run_id = house.start(document(steps, [("call", "mend", edge)]))
    house.work(run_id, "call")
    [below] = house.children(run_id)
    settled = Client(engine=house.engine).cancel(below)
    assert (settled.run_id, settled.run_status) == (below, RunStatus.CANCELLED)
    house.serve(run_id)
    assert house.read(run_id).status is RunStatus.SUCCEEDED


# --- people below


def test_a_child_that_waits_for_people_makes_its_parent_wait(house: House) -> None:
    """Its pause is listed under the parent; the answer lets both go on."""
    house.publish(document({"ask": question()}, name="child"))
    house.publish(parent(inputs={}) | {"slug": "middle", "name": "middle"})
    run = house.run(parent("middle", inputs={}))
    assert (run.status, run.paused) == (RunStatus.WAITING, 1)
    payload = waiting_payload(house.engine, run.run_id)
    assert [pause["step_id"] for pause in payload["pauses"]] == ["ask"]
    assert answer(house, run.run_id) in house.family(run.run_id)[2:]
    run = house.drive(run.run_id)
    assert run.status is RunStatus.SUCCEEDED
    assert run.outputs is not None
    assert run.outputs["decision"] == "yes"


def test_a_parent_with_other_work_runs_while_a_child_waits(house: House) -> None:
    house.publish(document({"ask": question(), "more": {}}, [("ask", "more")], name="child"))
    steps = {"root": {}, "call": child("child", inputs={}), "beside": {}}
    run_id = house.start(document(steps, [("root", "call"), ("root", "beside")]))
    house.work(run_id, "root")
    house.work(run_id, "call")
    below = house.children(run_id)[0]
    settled = house.work(below, "ask")
    for follow_up in settled.follow_ups:
        follow_up({})
    assert (house.read(run_id).status, house.read(run_id).paused) == (RunStatus.RUNNING, 1)
    house.work(run_id, "beside")
    assert house.read(run_id).status is RunStatus.WAITING
    answer(house, run_id)
    for follow_up in house.engine.resume(
        house.engine.pauses.find_unsettled()[0].pause_id
    ).follow_ups:
        follow_up({})
    assert (house.read(run_id).status, house.steps(run_id)["call"].waits_for) == (
        RunStatus.RUNNING,
        RUN,
    )
    assert house.drive(run_id).status is RunStatus.SUCCEEDED


def test_cancelling_the_parent_withdraws_the_questions_below(house: House) -> None:
    house.publish(document({"ask": question()}, name="child"))
    run = house.run(parent(inputs={}))
    pause = house.pause(run.run_id)
    settled = house.engine.cancel_run(run.run_id, "")
    for follow_up in settled.follow_ups:
        follow_up({})
    assert house.read(pause.run_id).status is RunStatus.CANCELLED
    with pytest.raises(Conflict, match="withdrawn"):
        house.engine.answer(pause.pause_id, {"decision": "yes"}, answered_by="ann")


# --- wait: false, items, depth


def test_a_step_that_does_not_wait_gives_the_runs_id(house: House) -> None:
    publish_child(house, config={"fail": 9})
    run = house.run(parent(wait=False, inputs={}))
    assert run.status is RunStatus.SUCCEEDED
    [below] = house.children(run.run_id)
    assert run.outputs == {"run_id": below}
    assert house.read(below).status is RunStatus.FAILED


def test_a_run_that_nobody_waits_for_outlives_its_parent(house: House) -> None:
    publish_child(house)
    run_id = house.start(parent(wait=False, inputs={}))
    house.work(run_id, "call")
    house.engine.cancel_run(run_id, "")
    house.sweep()
    [below] = house.children(run_id)
    assert house.read(below).status is RunStatus.RUNNING


def test_the_run_that_code_saw_is_the_one_that_was_started(house: House, journal: Journal) -> None:
    """A condition judged by a function on `{"run_id"}` sees the id that the output then has."""
    publish_child(house)
    rule = {"module": "tests.integration.houses", "function": "says_yes"}
    condition = {"type": "function", "config": rule}
    steps = {"call": child("child", wait=False, inputs={}), "after": {}}
    run = house.run(document(steps, [("call", "after", {"condition": condition})]))
    [below] = house.children(run.run_id)
    assert [context.result for context in journal.asked] == [{"run_id": below}]


def test_each_item_is_a_child(house: House) -> None:
    publish_child(house, name="one")
    step = each(
        [1, {"n": 2}, {"n": 3, "fail": 9}],
        type="pipeline",
        pipeline="one",
        tolerated_failures=1,
        max_parallel=2,
    )
    started = house.begin(document({"each": step}))
    house.serve(started.run_id, tasks=started.tasks)
    run = house.read(started.run_id)
    assert run.outputs == {"results": [{"n": 0, "item": 1, "index": 0}, {"n": 2}, None]}
    assert [house.read(one).parent_index for one in house.children(run.run_id)] == [0, 1, 2]


def test_the_nth_child_cancels_the_others(house: House) -> None:
    house.publish(document({"ask": question()}, name="child"))
    step = each([1, 2, 3], type="pipeline", pipeline="child", n=1, inputs={})
    run = house.run(document({"each": step}))
    assert (run.status, run.paused) == (RunStatus.WAITING, 3)
    pause = house.engine.pauses.list_open(run_id=run.run_id)[1]
    house.engine.answer(pause.pause_id, {"decision": "no"}, answered_by="ann")
    run = house.drive(run.run_id)
    assert run.status is RunStatus.SUCCEEDED
    statuses = [house.read(one).status for one in house.children(run.run_id)]
    assert sorted(statuses) == [RunStatus.CANCELLED, RunStatus.CANCELLED, RunStatus.SUCCEEDED]


def test_recursion_over_two_pipelines_ends(house: House) -> None:
    """Sixteen runs may stand above a run; the seventeenth is an error that all of them hear of."""
    house.publish(document({"call": child("pong", inputs={})}, name="ping"))
    house.publish(document({"call": child("ping", inputs={})}, name="pong"))
    run = house.run(document({"call": child("ping", inputs={})}, name="top"))
    assert (run.status, run.error_code) == (RunStatus.FAILED, "pipeline_failed")
    family = house.family(run.run_id)
    assert len(family) == 17
    assert house.read(family[-1]).error_code == "pipeline_too_deep"


def test_a_pipeline_that_calls_itself_is_refused(house: House) -> None:
    with pytest.raises(DefinitionRefused):
        house.publish(document({"call": child("self", inputs={})}, name="self"))


# --- crashes and doubles


@pytest.mark.parametrize("driven", (True, False))
@pytest.mark.parametrize("end", ("succeeded", "failed", "waiting"))
def test_a_parent_that_was_not_told(house: House, end: str, driven: bool) -> None:
    """The child came to rest, its process died: the sweep, or who drives the parent, tells."""
    step = question() if end == "waiting" else {"config": {"fail": 9 if end == "failed" else 0}}
    house.publish(document({"only": step}, name="child"))
    run_id = house.start(parent(inputs={}))
    house.work(run_id, "call")
    with house.crashing():
        house.work(house.children(run_id)[0], "only")
    if driven:
        house.drive(run_id, 5.0)
    else:
        house.serve(run_id)
    assert house.read(run_id).status.value == end


@pytest.mark.parametrize("driven", (True, False))
def test_a_child_that_was_not_cancelled(house: House, driven: bool) -> None:
    house.publish(document({"ask": question()}, name="child"))
    house.publish(parent(inputs={}) | {"slug": "middle", "name": "middle"})
    run_id = house.run(parent("middle", inputs={})).run_id
    with house.crashing():
        house.engine.cancel_run(run_id, "")
    if driven:
        house.drive(run_id, 5.0)
    else:
        house.serve(*house.family(run_id))
    assert {house.read(one).status for one in house.family(run_id)} == {RunStatus.CANCELLED}


def test_following_twice_changes_nothing(house: House) -> None:
    publish_child(house)
    run_id = house.start(parent(inputs={}))
    house.work(run_id, "call")
    [below] = house.children(run_id)
    with house.crashing():
        house.work(below, "only")
    results = [house.engine.follow(below) for _ in range(3)]
    assert [settled.is_stale for settled in results] == [False, True, True]
    assert house.engine.cancel_orphan(below).is_stale


def test_an_earlier_attempts_child_ends_nothing(house: House) -> None:
    """After a timeout and a retry the first child's end is of no concern to the step."""
    publish_child(house)
    policy = {"timeout": 10, "retries": 1}
    run_id = house.start(parent(inputs={}, error_handling=policy))
    house.work(run_id, "call")
    [old] = house.children(run_id)
    house.pass_time(11)
    with house.crashing():
        swept = house.engine.waits.find_due(now=house.clock.now())
        house.engine.ring(swept[0])
    house.engine.claims.stage_due(now=house.clock.now(), run_id=run_id)
    house.work(run_id, "call")
    house.work(old, "only")
    assert house.engine.follow(old).is_stale
    assert house.statuses(run_id)["call"] == "waiting"


def test_a_child_ends_and_its_parent_is_cancelled_at_once(shared_house: House) -> None:
    publish_child(shared_house)
    for _ in range(10):
        run_id = shared_house.start(parent(inputs={}))
        shared_house.work(run_id, "call")
        [below] = shared_house.children(run_id)
        race(
            [
                partial(shared_house.work, below, "only"),
                partial(shared_house.engine.cancel_run, run_id, ""),
            ],
            shared_house,
        )
        shared_house.serve(run_id, below)
        assert shared_house.read(run_id).status is RunStatus.CANCELLED
        assert shared_house.read(below).status in END_OF_RUN


def test_all_children_end_at_once(shared_house: House) -> None:
    """Eight children of one step end at the same moment: each is counted once."""
    publish_child(shared_house)
    step = each(list(range(8)), type="pipeline", pipeline="child", inputs={})
    run_id = shared_house.start(document({"each": step}))
    shared_house.work(run_id, "each")
    for index in range(8):
        shared_house.work(run_id, "each", index)
    children = shared_house.children(run_id)

    def end(below: str) -> None:
        for follow_up in shared_house.work(below, "only").follow_ups:
            follow_up({})

    results = race([partial(end, below) for below in children], shared_house)
    assert results == [None] * 8
    assert shared_house.read(run_id).status is RunStatus.SUCCEEDED
