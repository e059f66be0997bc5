"""The planner on `terminate`, and on conditions that only code can judge.

What must be judged is asked for with what code may look at, and asked for once; nothing is
planned before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from iaflow.data.status import RunStatus, StepEnd
from iaflow.pipeline.plans import CodeQuestion, Needs, StepCancelled, StepEnded
from tests.unit.planning import Run, compile_graph, make_document

INDEPENDENT = {"error_handling": {"on_failure": "run_independent"}}


def stop(status: str, **more: Any) -> dict[str, Any]:
    """A step that ends the run, without the place of a class that `make_document` gives."""
    return {"type": "terminate", "config": {"status": status, **more.pop("config", {})}, **more}


def function(name: str = "yes") -> dict[str, Any]:
    return {"type": "function", "config": {"module": "rules", "function": name}}


def agent(choice: str) -> dict[str, Any]:
    choices = {"service": "ai", "question": "which?", "choices": ["a", "b"], "choice": choice}
    return {"type": "agent", "config": choices}


def start(edges: list[Any], steps: Mapping[str, Any] | None = None, **more: Any) -> Run:
    document = make_document(edges, steps=steps, parameters={"one": 1}, **more)
    for step in document["steps"]:
        if step.get("type") == "terminate":
            step.pop("module")
            step.pop("step_class")
    return Run(compile_graph(document))


def success(step_id: str, **output: Any) -> StepEnded:
    return StepEnded(step_id, StepEnd.SUCCESS, output=output)


# --- terminate


@pytest.mark.parametrize(
    ("outputs", "expected"),
    ((None, {"given": 1}), ({"x": "{{ a.n }}", "b": "{{ b.n | default('none') }}"}, None)),
)
def test_terminate_succeeds_with_its_inputs_or_the_documents_outputs(
    outputs: dict[str, Any] | None, expected: Any
) -> None:
    edges = [("a", "b"), ("a", "stop"), ("b", "c")]
    more = {} if outputs is None else {"outputs": outputs}
    run = start(edges, {"stop": stop("succeeded")}, **more)
    run.end("a", output={"n": 7})
    run.end("stop", output={"given": 1})
    assert run.view.status is RunStatus.SUCCEEDED
    assert run.statuses == {
        "a": "succeeded",
        "b": "cancelled",
        "stop": "succeeded",
        "c": "cancelled",
    }
    assert run.result == (expected or {"x": 7, "b": "none"})
    assert {d.taken for d in run.decisions.values() if d.source == "b"} == {False}


def test_terminate_fails_with_its_code_and_message() -> None:
    steps = {"stop": stop("failed", config={"message": "enough"})}
    run = start([("a", "stop"), ("a", "b")], steps)
    run.end("a")
    plan = run.end("stop", output={})
    assert (run.view.status, run.error) == (RunStatus.FAILED, ("stop", "terminated"))
    assert plan.run.error_message == "enough"
    assert (run.statuses["stop"], run.statuses["b"]) == ("succeeded", "cancelled")


def test_a_failure_unhandled_before_keeps_the_run_failed() -> None:
    run = start([("a", "bad"), ("a", "stop")], {"stop": stop("succeeded")}, **INDEPENDENT)
    run.end("a")
    run.end("bad", StepEnd.FAILURE)
    assert run.view.status is RunStatus.RUNNING
    run.end("stop", output={})
    assert (run.view.status, run.error[0]) == (RunStatus.FAILED, "bad")


def test_a_failure_that_was_handled_does_not() -> None:
    edges = [("a", "mend", {"on": "failure"}), ("mend", "stop")]
    run = start(edges, {"stop": stop("succeeded")})
    run.end("a", StepEnd.FAILURE)
    run.end("mend")
    run.end("stop", output={"ok": True})
    assert (run.view.status, run.result) == (RunStatus.SUCCEEDED, {"ok": True})


def test_terminate_cancels_items_and_their_step() -> None:
    edges = [("a", "each"), ("a", "stop")]
    run = start(edges, {"each": {"foreach": {"items": []}}, "stop": stop("succeeded")})
    run.end("a")
    run.fan("each", 3)
    run.end_item("each", 1)
    run.end("stop", output={})
    assert run.item_statuses("each") == ["cancelled", "succeeded", "cancelled"]


def test_a_terminate_that_is_cancelled_or_skipped_ends_nothing() -> None:
    edges = [("a", "b"), ("a", "stop"), ("stop", "c")]
    run = start(edges, {"stop": stop("failed")})
    run.end("a")
    run.apply(StepCancelled("stop", "no"))
    assert run.ready == ["b"]
    run.end("b")
    assert run.view.status is RunStatus.SUCCEEDED


def test_outputs_that_cannot_be_rendered_fail_the_terminated_run() -> None:
    run = start([("a", "stop")], {"stop": stop("succeeded")}, outputs={"x": "{{ a.absent }}"})
    run.end("a", output={"n": 1})
    run.end("stop", output={})
    assert (run.view.status, run.error[1]) == (RunStatus.FAILED, "reference_missing")


# --- conditions that need code


def judged(index: int, **record: Any) -> dict[int, dict[str, dict[str, Any]]]:
    return {index: {"": record}}


def test_nothing_is_planned_before_code_has_judged() -> None:
    edges = [("a", "b", {"condition": function()}), ("a", "c")]
    run = start(edges)
    change = success("a", n=1)
    needs = run.try_plan(change)
    assert isinstance(needs, Needs)
    assert needs.code == (CodeQuestion(0, "", "a", StepEnd.SUCCESS, {"n": 1}, None),)
    run.apply(change, judged(0, verdict=True))
    assert run.ready == ["b", "c"]


@pytest.mark.parametrize("verdict", (None, "yes", 1))
def test_a_verdict_that_is_no_boolean_is_a_fault(verdict: Any) -> None:
    run = start([("a", "b", {"condition": function()}), ("a", "mend", {"on": "failure"})])
    run.apply(success("a"), judged(0, verdict=verdict))
    assert (run.ready, run.statuses["a"]) == (["mend"], "failed")


@pytest.mark.parametrize(
    "record",
    ({"answer": "c"}, {"answer": None}, {"error": "service_missing", "message": "no"}),
)
def test_an_answer_outside_the_choices_is_a_fault(record: dict[str, Any]) -> None:
    run = start([("a", "b", {"condition": agent("a")}), ("a", "mend", {"on": "failure"})])
    run.apply(success("a"), judged(0, **record))
    assert (run.ready, run.view.handled) == (["mend"], 1)


def test_an_agents_answer_and_reason_stand_in_the_ledger() -> None:
    run = start([("a", "b", {"condition": agent("a")}), ("a", "c", {"condition": agent("b")})])
    record = {"answer": "b", "reason": "it is late"}
    run.apply(success("a"), judged(0, **record) | judged(1, **record))
    assert run.ready == ["c"]
    assert "it is late" in str(run.decisions[0].reason)


def test_inclusive_routing_asks_for_all_at_once() -> None:
    edges = [("a", name, {"condition": function(name)}) for name in "bcd"]
    run = start(edges)
    needs = run.try_plan(success("a"))
    assert isinstance(needs, Needs)
    assert [question.transition for question in needs.code] == [0, 1, 2]


def test_exclusive_routing_asks_no_further_than_the_first_true() -> None:
    edges = [
        ("a", "b", {"condition": "parameters.one == 2"}),
        ("a", "c", {"condition": function()}),
        ("a", "d", {"condition": function()}),
        ("a", "e", {"condition": "otherwise"}),
    ]
    run = start(edges, {"a": {"routing": "exclusive"}})
    needs = run.try_plan(success("a"))
    assert isinstance(needs, Needs)
    assert [question.transition for question in needs.code] == [1]
    needs = run.try_plan(success("a"), judged(1, verdict=False))
    assert isinstance(needs, Needs)
    assert [question.transition for question in needs.code] == [2]
    run.apply(success("a"), judged(1, verdict=False) | judged(2, verdict=False))
    assert run.ready == ["e"]
    run = start(edges, {"a": {"routing": "exclusive"}})
    run.apply(success("a"), judged(1, verdict=True))
    assert run.ready == ["c"]
    assert run.decisions[2].reason["kind"] == "exclusive"


@pytest.mark.parametrize(
    ("kind", "first", "asked"),
    (
        ("all", "parameters.one == 1", True),
        ("all", "parameters.one == 2", False),
        ("any", "parameters.one == 1", False),
    ),
)
def test_groups_stop_before_code_that_decides_nothing(kind: str, first: str, asked: bool) -> None:
    condition = {"type": kind, "conditions": [first, function()]}
    run = start([("a", "b", {"condition": condition}), ("a", "c")])
    plan = run.try_plan(success("a"))
    assert isinstance(plan, Needs) is asked
    if isinstance(plan, Needs):
        [question] = plan.code
        assert question.pointer
        run.apply(success("a"), {0: {question.pointer: {"verdict": False}}})
        assert run.statuses["b"] == "skipped"


def test_not_turns_what_code_found() -> None:
    condition = {"type": "not", "condition": function()}
    run = start([("a", "b", {"condition": condition})])
    needs = run.try_plan(success("a"))
    assert isinstance(needs, Needs)
    [question] = needs.code
    run.apply(success("a"), {0: {question.pointer: {"verdict": False}}})
    assert run.ready == ["b"]


def test_code_on_a_failure_sees_the_error_and_no_result() -> None:
    edges = [("a", "b"), ("a", "mend", {"on": "failure", "condition": function()})]
    run = start(edges)
    error = {"code": "broken", "message": "x", "attempts": 1}
    change = StepEnded("a", StepEnd.FAILURE, error=error)
    needs = run.try_plan(change)
    assert isinstance(needs, Needs)
    assert needs.code == (CodeQuestion(1, "", "a", StepEnd.FAILURE, None, error),)
    run.apply(change, judged(1, verdict=False))
    assert (run.view.status, run.error) == (RunStatus.FAILED, ("a", "broken"))


def test_a_fault_asks_the_code_of_the_failure_transitions() -> None:
    """After the success became a failure, its failure transitions are judged, with the fault."""
    edges = [
        ("a", "b", {"condition": "result.absent == 1"}),
        ("a", "c", {"condition": function()}),
        ("a", "mend", {"on": "failure", "condition": function()}),
    ]
    run = start(edges)
    needs = run.try_plan(success("a", n=1))
    assert isinstance(needs, Needs)
    assert [question.transition for question in needs.code] == [1]
    needs = run.try_plan(success("a", n=1), judged(1, verdict=True))
    assert isinstance(needs, Needs)
    [question] = needs.code
    assert (question.transition, question.end, question.result) == (2, StepEnd.FAILURE, None)
    assert question.error is not None
    assert question.error["code"] == "reference_missing"
    run.apply(success("a", n=1), judged(1, verdict=True) | judged(2, verdict=True))
    assert (run.ready, run.statuses["c"]) == (["mend"], "skipped")
    assert run.outputs["a"] == {"n": 1}


def test_code_of_steps_further_down_is_not_asked_early() -> None:
    edges = [("a", "b"), ("b", "c", {"condition": function()})]
    run = start(edges)
    run.end("a")
    assert run.ready == ["b"]


def test_a_skip_on_the_way_needs_no_code() -> None:
    edges = [
        ("a", "b", {"condition": "parameters.one == 2"}),
        ("b", "c", {"condition": function()}),
    ]
    run = start(edges)
    run.end("a")
    assert run.statuses == {"a": "succeeded", "b": "skipped", "c": "skipped"}
