"""Conditions that need code (LANGUAGE section 3): functions and routing services, on every database.

They are judged where steps run, before anything is settled, and what was found is recorded: a
second attempt at the same change asks nobody twice.
"""

from __future__ import annotations

from typing import Any

import pytest

from iaflow.data.records import DecisionRecord, Succeeded
from iaflow.data.status import RunStatus
from iaflow.errors import DefinitionRefused
from iaflow.pipeline.judging import Concluding, conclude_alone
from tests.integration.houses import House, Journal, Oracle, document, each, question

PLACE = "tests.integration.houses"


def function(name: str, **arguments: Any) -> dict[str, Any]:
    config: dict[str, Any] = {"module": PLACE, "function": name}
    if arguments:
        config["arguments"] = arguments
    return {"type": "function", "config": config}


def agent(choice: str, text: str = "which?", choices: tuple[str, ...] = ("a", "b")) -> Any:
    config = {"service": "ai", "question": text, "choices": list(choices), "choice": choice}
    return {"type": "agent", "config": config}


def when(condition: Any, **more: Any) -> dict[str, Any]:
    return {"condition": condition, **more}


def consult(house: House, *answers: Any) -> Oracle:
    oracle = Oracle(*answers)
    house.services.register("ai", oracle)
    return oracle


def decisions(house: House, run_id: str) -> dict[str, DecisionRecord]:
    return {one.target: one for one in house.engine.reads.decisions(run_id)}


# --- functions


def test_a_function_decides(house: House, journal: Journal) -> None:
    """Plain or async, it sees the step's end, result, the parameters and its own arguments."""
    steps: dict[str, Any] = {"a": {"config": {"values": {"n": 5}}}, "big": {}, "small": {}}
    edges = [
        ("a", "big", when(function("is_big", least=5))),
        ("a", "small", when({"type": "not", "condition": function("is_big", least=5)})),
    ]
    run = house.run(document(steps, edges, parameters={"p": 1.0}))
    assert house.statuses(run.run_id) == {"a": "succeeded", "big": "succeeded", "small": "skipped"}
    first = journal.asked[0]
    assert (first.run_id, first.step_id, first.end) == (run.run_id, "a", "success")
    assert (first.result, first.error, first.parameters) == ({"n": 5}, None, {"p": 1.0})
    assert first.arguments == {"least": 5}


def test_exclusive_routing_asks_in_order(house: House, journal: Journal) -> None:
    steps: dict[str, Any] = {"a": {"routing": "exclusive"}, "b": {}, "c": {}, "d": {}}
    edges = [
        ("a", "b", when(function("says_no"))),
        ("a", "c", when(function("says_yes"))),
        ("a", "d", when(function("breaks"))),
    ]
    run = house.run(document(steps, edges))
    assert house.statuses(run.run_id)["c"] == "succeeded"
    assert len(journal.asked) == 2
    assert decisions(house, run.run_id)["d"].reason["kind"] == "exclusive"


@pytest.mark.parametrize(
    ("kind", "names", "asked", "taken"),
    (
        ("all", ("says_yes", "says_no", "breaks"), 2, False),
        ("any", ("says_no", "says_yes", "breaks"), 2, True),
        ("all", ("says_yes", "says_yes"), 2, True),
        ("any", ("says_no", "says_no"), 2, False),
    ),
)
def test_groups_are_judged_in_order_and_stop_early(
    house: House, journal: Journal, kind: str, names: tuple[str, ...], asked: int, taken: bool
) -> None:
    condition = {"type": kind, "conditions": [function(name) for name in names]}
    run = house.run(document({"a": {}, "b": {}}, [("a", "b", when(condition))]))
    assert (run.status, len(journal.asked)) == (RunStatus.SUCCEEDED, asked)
    assert decisions(house, run.run_id)["b"].taken is taken


@pytest.mark.parametrize("name", ("breaks", "says_nothing", "absent"))
def test_a_function_that_fails_fails_the_step(house: House, name: str) -> None:
    """Never into "false": the step fails with a code, its output is kept for people."""
    steps: dict[str, Any] = {
        "a": {"config": {"values": {"n": 1}}, "error_handling": {"retries": 3}},
        "b": {},
        "mend": {"inputs": {"code": "{{ errors.a.code }}", "n": "{{ a.n | default('none') }}"}},
    }
    edges = [("a", "b", when(function(name))), ("a", "mend", {"on": "failure"})]
    run = house.run(document(steps, edges))
    step = house.steps(run.run_id)["a"]
    assert (step.status.value, step.attempt, step.output) == ("failed", 1, {"n": 1})
    assert run.outputs is not None
    assert run.outputs["n"] == "none"
    assert run.outputs["code"]
    assert house.statuses(run.run_id)["b"] == "skipped"


def test_a_function_of_a_module_that_is_not_allowed(house: House) -> None:
    condition = {"type": "function", "config": {"module": "os", "function": "getpid"}}
    run = house.run(document({"a": {}, "b": {}}, [("a", "b", when(condition))]))
    assert (run.status, run.error_step_id) == (RunStatus.FAILED, "a")


def test_a_failure_may_be_judged_by_code(house: House, journal: Journal) -> None:
    steps: dict[str, Any] = {"a": {"config": {"fail": 9}}, "b": {}, "mend": {}}
    edges = [("a", "b"), ("a", "mend", when(function("says_yes"), on="failure"))]
    run = house.run(document(steps, edges))
    assert (run.status, run.handled) == (RunStatus.SUCCEEDED, 1)
    [context] = journal.asked
    assert (context.end, context.result, context.error["code"]) == ("failure", None, "OSError")


def test_a_fault_asks_what_the_failure_needs(house: House, journal: Journal) -> None:
    steps: dict[str, Any] = {"a": {}, "b": {}, "mend": {}}
    edges = [
        ("a", "b", when("result.absent == 1")),
        ("a", "mend", when(function("says_yes"), on="failure")),
    ]
    run = house.run(document(steps, edges))
    assert run.status is RunStatus.SUCCEEDED
    assert [context.error["code"] for context in journal.asked] == ["reference_missing"]


def test_an_answer_of_a_person_is_judged_by_a_worker(house: House, journal: Journal) -> None:
    steps = {"ask": question(), "b": {}}
    run_id = house.start(document(steps, [("ask", "b", when(function("says_yes")))]))
    house.drive(run_id)
    pause = house.pause(run_id)
    house.engine.answer(pause.pause_id, {"decision": "yes"}, answered_by="ann")
    settled = conclude_alone(lambda judged: house.engine.resume(pause.pause_id, judged))
    assert settled.questions
    assert house.statuses(run_id)["ask"] == "waiting"
    assert house.drive(run_id).status is RunStatus.SUCCEEDED
    assert journal.asked[0].result["decision"] == "yes"


def test_the_end_of_items_a_timer_and_a_loss_is_judged(house: House, journal: Journal) -> None:
    """Whatever ends a step: its last item, the clock, a worker that was lost once too often."""
    yes = when(function("says_yes"), on="completed")
    steps: dict[str, Any] = {
        "root": {},
        "each": each([1, 2]),
        "timer": {"type": "wait", "config": {"seconds": 5}},
        "lost": {"error_handling": {"max_worker_losses": 0}},
        **{f"after_{name}": {} for name in ("each", "timer", "lost")},
    }
    names = ("each", "timer", "lost")
    edges: list[Any] = [("root", name) for name in names]
    edges += [(name, f"after_{name}", yes) for name in names]
    run_id = house.start(document(steps, edges))
    house.work(run_id, "root")
    house.claim(run_id, "lost")
    house.pass_time(31)
    run = house.drive(run_id)
    assert (run.status, run.handled) == (RunStatus.SUCCEEDED, 1)
    assert {context.step_id for context in journal.asked} == set(names)


@pytest.mark.parametrize("on", ("skipped", "expired"))
def test_code_may_not_stand_where_nobody_runs_it(house: House, on: str) -> None:
    steps = {"a": question(expires_in=5), "b": {}, "c": {}}
    edges = [("a", "c"), ("a", "b", when(function("says_yes"), on=on))]
    with pytest.raises(DefinitionRefused):
        house.start(document(steps, edges))


# --- routing services


def test_a_service_is_asked_once_per_step(house: House) -> None:
    """Two conditions on the same question; its answer and reason stand in the ledger."""
    oracle = consult(house, {"answer": "b", "reason": "it is late"})
    edges = [("x", "one", when(agent("a"))), ("x", "two", when(agent("b")))]
    run = house.run(document({"x": {}, "one": {}, "two": {}}, edges))
    assert house.statuses(run.run_id) == {"x": "succeeded", "one": "skipped", "two": "succeeded"}
    [(text, choices, context)] = oracle.asked
    assert (text, choices, context.step_id) == ("which?", ["a", "b"], "x")
    assert "it is late" in str(decisions(house, run.run_id)["one"].reason)


def test_other_questions_and_other_steps_are_asked_for_themselves(house: House) -> None:
    oracle = consult(house, "a", "b", "a")
    edges = [
        ("x", "one", when(agent("a"))),
        ("x", "two", when(agent("b", "another?"))),
        ("one", "three", when(agent("a"))),
    ]
    run = house.run(document({"x": {}, "one": {}, "two": {}, "three": {}}, edges))
    assert set(house.statuses(run.run_id).values()) == {"succeeded"}
    assert len(oracle.asked) == 3


@pytest.mark.parametrize(
    "answer",
    ("c", "", None, 7, {"answer": "c"}, {"reason": "none"}, RuntimeError("away"), ["a"]),
)
def test_an_answer_outside_the_choices_is_an_error(house: House, answer: Any) -> None:
    consult(house, answer)
    run = house.run(document({"x": {}, "one": {}}, [("x", "one", when(agent("a")))]))
    assert (run.status, run.error_step_id) == (RunStatus.FAILED, "x")


def test_a_service_that_is_not_there_is_an_error(house: House) -> None:
    run = house.run(document({"x": {}, "one": {}}, [("x", "one", when(agent("a")))]))
    assert (run.status, run.error_code) == (RunStatus.FAILED, "service_missing")


def test_a_worker_that_dies_after_the_answer(house: House) -> None:
    """The answer was kept before the step was settled: the next worker asks nobody."""
    oracle = consult(house, "a", "b")
    edges = [("x", "one", when(agent("a"))), ("x", "two", when(agent("b")))]
    run_id = house.start(document({"x": {}, "one": {}, "two": {}}, edges))
    claimed = house.claim(run_id, "x")
    steps = Concluding(lambda judged: house.engine.settle(claimed, Succeeded({}, "{}"), judged))
    assert steps.wanted is not None
    house.judge(steps.wanted)
    assert len(oracle.asked) == 1
    house.pass_time(31)
    house.drive(run_id)
    assert len(oracle.asked) == 1
    assert house.statuses(run_id) == {"x": "succeeded", "one": "succeeded", "two": "skipped"}


def test_what_is_judged_twice_changes_a_run_once(house: House, journal: Journal) -> None:
    """The claim was lost while code judged: the result of that is stale."""
    run_id = house.start(document({"a": {}, "b": {}}, [("a", "b", when(function("says_yes")))]))
    claimed = house.claim(run_id, "a")
    steps = Concluding(lambda judged: house.engine.settle(claimed, Succeeded({}, "{}"), judged))
    assert steps.wanted is not None
    house.engine.cancel_run(run_id, "")
    steps.send(house.judge(steps.wanted))
    assert steps.settled.is_stale
