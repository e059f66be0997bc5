"""The planner: joins, skips, failures, cancels and ends, by table and by law."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iaflow.data.status import (
    END_OF_STEP,
    LIVE_STEP,
    RunStatus,
    StepEnd,
    StepStatus,
    WaitsFor,
)
from iaflow.pipeline.plans import (
    RunCancelled,
    StepCancelled,
    StepDelayed,
    StepEnded,
    StepWaits,
)
from tests.unit.planning import Run, compile_graph, make_document

FALSE = {
    "condition": {
        "type": "expression",
        "config": {"source": "parameters.no", "operator": "eq", "value": 1},
    }
}
BROKEN = {
    "condition": {
        "type": "expression",
        "config": {"source": "result.nothing", "operator": "eq", "value": 1},
    }
}
NO = {"parameters": {"no": 0}}


def test_a_chain_runs_step_by_step_and_gives_the_last_output() -> None:
    run = Run(compile_graph(make_document([("a", "b"), ("b", "c")])))
    assert run.ready == ["a"]
    run.end("a")
    assert run.ready == ["b"]
    run.end("b")
    run.end("c", output={"n": 1})
    assert run.view.status is RunStatus.SUCCEEDED
    assert run.result == {"n": 1}


def test_several_end_steps_give_an_object_in_document_order() -> None:
    run = Run(compile_graph(make_document([("a", "c"), ("a", "b")])))
    run.finish(choose=lambda ready: ready[-1])
    assert list(run.result) == ["c", "b"]


def test_a_join_waits_for_every_branch_that_can_still_arrive() -> None:
    run = Run(compile_graph(make_document([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])))
    run.end("a")
    run.end("b")
    assert run.statuses["d"] == "pending"
    run.end("c")
    assert run.ready == ["d"]


def test_a_join_does_not_wait_for_a_skipped_branch() -> None:
    edges = [("a", "b"), ("a", "c", FALSE), ("b", "d"), ("c", "d")]
    run = Run(compile_graph(make_document(edges, **NO)))
    run.end("a")
    assert run.statuses["c"] == "skipped"
    run.end("b")
    assert run.ready == ["d"]


def test_skips_cascade_through_joins_and_the_run_ends() -> None:
    edges = [("a", "b", FALSE), ("a", "c", FALSE), ("b", "d"), ("c", "d"), ("d", "e")]
    run = Run(compile_graph(make_document(edges, **NO)))
    run.end("a")
    assert run.statuses == {
        "a": "succeeded",
        "b": "skipped",
        "c": "skipped",
        "d": "skipped",
        "e": "skipped",
    }
    assert run.view.status is RunStatus.SUCCEEDED
    assert run.decisions[4].reason["kind"] == "end"


def test_an_unhandled_failure_ends_the_run_at_once_and_cancels_the_rest() -> None:
    run = Run(compile_graph(make_document([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])))
    run.end("a")
    run.end("b", StepEnd.FAILURE)
    assert run.view.status is RunStatus.FAILED
    assert run.statuses == {"a": "succeeded", "b": "failed", "c": "cancelled", "d": "cancelled"}
    assert set(run.decisions) == {0, 1, 2, 3}
    assert run.view.live == 0


def test_a_failure_transition_handles_the_failure() -> None:
    edges = [("a", "b"), ("a", "mend", {"on": "failure"})]
    run = Run(compile_graph(make_document(edges)))
    run.end("a", StepEnd.TIMEOUT)
    assert run.ready == ["mend"]
    run.end("mend")
    assert run.view.status is RunStatus.SUCCEEDED
    assert (run.view.handled, run.view.unhandled) == (1, 0)


def test_a_failure_is_not_handled_by_a_target_that_ran_before() -> None:
    edges = [("a", "b"), ("a", "d"), ("b", "d", {"on": "completed"})]
    document = make_document(edges, steps={"d": {"join": {"type": "n_of_m", "n": 1}}})
    run = Run(compile_graph(document))
    run.end("a")
    run.end("d")
    run.end("b", StepEnd.FAILURE)
    assert run.view.status is RunStatus.FAILED


def test_run_independent_lets_the_rest_finish_then_fails() -> None:
    edges = [("a", "b"), ("a", "c"), ("c", "d")]
    document = make_document(edges, error_handling={"on_failure": "run_independent"})
    run = Run(compile_graph(document))
    run.end("a")
    run.end("b", StepEnd.FAILURE)
    assert run.view.status is RunStatus.RUNNING
    run.finish()
    assert run.view.status is RunStatus.FAILED
    assert run.statuses["d"] == "succeeded"
    assert run.error == ("b", "failure")


def test_on_failure_continue_goes_on_as_after_success_with_null_outputs() -> None:
    steps = {"a": {"error_handling": {"on_failure": "continue"}}}
    run = Run(compile_graph(make_document([("a", "b")], steps=steps, outputs={"x": "{{ a.n }}"})))
    run.end("a", StepEnd.FAILURE)
    run.end("b")
    assert run.view.status is RunStatus.SUCCEEDED
    assert run.result == {"x": None}


def test_a_condition_error_is_a_failure_and_never_false() -> None:
    edges = [("a", "b", BROKEN), ("a", "c")]
    run = Run(compile_graph(make_document(edges)))
    run.end("a")
    assert run.view.status is RunStatus.FAILED
    assert run.errors["a"]["code"] == "reference_missing"
    assert run.decisions[0].reason["kind"] == "error"
    assert not run.decisions[1].taken


def test_a_condition_error_can_be_handled() -> None:
    edges = [("a", "b", BROKEN), ("a", "mend", {"on": "failure"})]
    run = Run(compile_graph(make_document(edges)))
    run.end("a")
    assert run.statuses == {"a": "failed", "b": "skipped", "mend": "ready"}
    run.end("mend")
    assert run.view.status is RunStatus.SUCCEEDED


@pytest.mark.parametrize(
    ("conditions", "chosen"),
    (
        (["parameter:no", "always", "always"], ["c"]),
        (["parameter:no", "otherwise", "parameter:no"], ["c"]),
        (["otherwise", "always", "always"], ["c"]),
    ),
)
def test_exclusive_routing_takes_the_first_true_transition(
    conditions: list[str], chosen: list[str]
) -> None:
    edges = [("a", name, {"condition": c}) for name, c in zip("bcd", conditions, strict=True)]
    run = Run(compile_graph(make_document(edges, steps={"a": {"routing": "exclusive"}}, **NO)))
    run.end("a")
    assert run.ready == chosen


def test_exclusive_routing_without_a_true_transition_is_no_route() -> None:
    edges = [("a", "b", {"condition": "parameter:no"})]
    run = Run(compile_graph(make_document(edges, steps={"a": {"routing": "exclusive"}}, **NO)))
    run.end("a")
    assert run.view.status is RunStatus.FAILED
    assert run.errors["a"]["code"] == "no_route"


def test_otherwise_is_judged_last_wherever_it_stands() -> None:
    edges = [("a", "b", {"condition": "otherwise"}), ("a", "c", {"condition": "parameter:no"})]
    assert _ready_after_a(edges, {"no": 0}) == ["b"]
    assert _ready_after_a(edges, {"no": 1}) == ["c"]


def _ready_after_a(edges: list[Any], parameters: dict[str, Any]) -> list[str]:
    run = Run(compile_graph(make_document(edges, parameters=parameters)))
    run.end("a")
    return run.ready


def test_n_of_m_runs_at_the_kth_and_ignores_later_ones() -> None:
    edges = [("a", x) for x in "bcd"] + [(x, "j") for x in "bcd"]
    run = Run(
        compile_graph(make_document(edges, steps={"j": {"join": {"type": "n_of_m", "n": 2}}}))
    )
    run.end("a")
    run.end("b")
    assert run.statuses["j"] == "pending"
    run.end("c")
    assert "j" in run.ready
    run.end("j")
    assert run.view.status is RunStatus.RUNNING
    run.end("d")
    assert run.view.status is RunStatus.SUCCEEDED


def test_cancel_remaining_cancels_what_only_leads_to_the_join() -> None:
    edges = [("a", x) for x in "bcd"] + [(x, "j") for x in "bcd"] + [("d", "e")]
    join = {"join": {"type": "n_of_m", "n": 1, "cancel_remaining": True}}
    run = Run(compile_graph(make_document(edges, steps={"j": join})))
    run.end("a")
    run.end("b")
    assert run.statuses == {
        "a": "succeeded",
        "b": "succeeded",
        "c": "cancelled",
        "d": "ready",
        "j": "ready",
    }


def test_all_success_is_skipped_as_soon_as_one_is_refused() -> None:
    edges = [("a", "b"), ("a", "c", FALSE), ("b", "j"), ("c", "j")]
    run = Run(compile_graph(make_document(edges, steps={"j": {"join": "all_success"}}, **NO)))
    run.end("a")
    assert run.statuses["j"] == "skipped"


def test_cancels_happen_before_the_transitions_are_decided() -> None:
    edges = [("a", "b"), ("a", "c"), ("c", "d")]
    run = Run(compile_graph(make_document(edges, steps={"b": {"cancels": ["c", "d"]}})))
    run.end("a")
    run.end("b")
    assert run.statuses == {"a": "succeeded", "b": "succeeded", "c": "cancelled", "d": "cancelled"}
    assert run.view.status is RunStatus.SUCCEEDED


def test_a_cancelled_step_skips_what_depends_on_it_alone() -> None:
    edges = [("a", "b"), ("a", "c"), ("b", "bb"), ("c", "cc")]
    run = Run(compile_graph(make_document(edges)))
    run.end("a")
    run.apply(StepCancelled("b", "no longer wanted"))
    run.finish()
    assert run.view.status is RunStatus.SUCCEEDED
    assert run.statuses["bb"] == "skipped"


def test_a_cancelled_run_cancels_everything_that_has_not_ended() -> None:
    run = Run(compile_graph(make_document([("a", "b"), ("a", "c"), ("b", "z"), ("c", "z")])))
    run.end("a")
    run.apply(RunCancelled("stop"))
    assert run.view.status is RunStatus.CANCELLED
    assert run.statuses == {"a": "succeeded", "b": "cancelled", "c": "cancelled", "z": "cancelled"}
    assert len(run.decisions) == 4


def test_a_run_waits_only_when_nothing_else_can_move() -> None:
    run = Run(compile_graph(make_document([("a", "b"), ("a", "c")])))
    run.end("a")
    run.apply(StepWaits("b", WaitsFor.PEOPLE))
    assert run.view.status is RunStatus.RUNNING
    run.apply(StepDelayed("c", {"code": "x"}))
    assert run.view.status is RunStatus.RUNNING
    run.end("c")
    assert run.view.status is RunStatus.WAITING
    run.end("b")
    assert run.view.status is RunStatus.SUCCEEDED


def test_outputs_that_cannot_be_rendered_fail_the_run_with_a_code() -> None:
    run = Run(compile_graph(make_document([("a", "b")], outputs={"x": "{{ b.nothing }}"})))
    run.finish()
    assert run.view.status is RunStatus.FAILED
    assert run.error == (None, "reference_missing")


def test_a_wide_skip_asks_in_rounds_of_depth_not_of_width() -> None:
    edges: list[Any] = [("a", "s", FALSE), ("a", "t")]
    edges += [("s", f"w{i}") for i in range(300)] + [(f"w{i}", "z") for i in range(300)]
    run = Run(compile_graph(make_document(edges, **NO)))
    run.end("a")
    assert run.rounds <= 8
    assert run.statuses["z"] == "skipped"


# --- laws, on random graphs


@st.composite
def plans(draw: Any) -> tuple[dict[str, Any], dict[str, StepEnd], dict[str, bool], int]:
    """A random DAG with conditions on parameters, joins, ends per step, and an order seed."""
    size = draw(st.integers(2, 9))
    edges: list[Any] = []
    flags: dict[str, bool] = {}
    for target in range(1, size):
        sources = draw(st.sets(st.integers(0, target - 1), min_size=1, max_size=min(3, target)))
        for source in sorted(sources):
            on = draw(
                st.sampled_from(
                    ["success", "success", "success", "failure", "completed", "skipped"]
                )
            )
            extra: dict[str, Any] = {"on": on}
            if draw(st.booleans()):
                flag = f"f{len(flags)}"
                flags[flag] = draw(st.booleans())
                extra["condition"] = f"parameter:{flag}"
            edges.append((f"s{source}", f"s{target}", extra))
    ends = {
        f"s{i}": draw(
            st.sampled_from(
                [
                    StepEnd.SUCCESS,
                    StepEnd.SUCCESS,
                    StepEnd.SUCCESS,
                    StepEnd.FAILURE,
                    StepEnd.SKIPPED,
                ]
            )
        )
        for i in range(size)
    }
    on_failure = draw(st.sampled_from(["run_independent", "run_independent", "fail_fast"]))
    document = make_document(edges, parameters=flags, error_handling={"on_failure": on_failure})
    return document, ends, flags, draw(st.integers(0, 2**16))


def expected_statuses(document: dict[str, Any], ends: dict[str, StepEnd]) -> dict[str, str]:
    """An oracle in ten lines: a topological recursion over LANGUAGE sections 3 and 4."""
    transitions = document["flow"]["transitions"]
    flags = document["parameters"]
    found: dict[str, str] = {}
    for step in document["steps"]:
        incoming = [t for t in transitions if t["to"] == step["id"]]
        taken = not incoming
        for t in incoming:
            status = found[t["from"]]
            on = t.get("on", "success")
            watched = {
                "success": status == "succeeded",
                "failure": status == "failed",
                "completed": status in ("succeeded", "failed"),
                "skipped": status == "skipped",
            }[on]
            flag = t.get("condition", "always").removeprefix("parameter:")
            taken = taken or (watched and flags.get(flag, True))
        names = {
            StepEnd.SUCCESS: "succeeded",
            StepEnd.FAILURE: "failed",
            StepEnd.SKIPPED: "skipped",
        }
        found[step["id"]] = names[ends[step["id"]]] if taken else "skipped"
    return found


@given(plans())
@settings(max_examples=150, deadline=None)
def test_every_run_ends_as_the_oracle_says(case: tuple[Any, Any, Any, int]) -> None:
    document, ends, _, seed = case
    # The order of steps in the document is topological here, as the oracle needs it.
    document["steps"].sort(key=lambda step: int(step["id"][1:]))
    graph = compile_graph(document)
    results = []
    for order in (seed, seed + 1):
        run = Run(graph)
        rng = random.Random(order)
        run.finish(lambda step_id: ends[step_id], rng.choice)
        assert run.view.status in (RunStatus.SUCCEEDED, RunStatus.FAILED)
        assert set(run.decisions) == set(range(len(graph.edges)))
        assert all(view.status in END_OF_STEP for view in run.steps.values())
        assert set(run.steps) == set(graph.nodes)
        assert run.view.live == 0
        results.append(run)
    if document["error_handling"]["on_failure"] == "run_independent":
        assert results[0].statuses == expected_statuses(document, ends)
        assert results[0].statuses == results[1].statuses
        assert results[0].view.status is results[1].view.status
        assert results[0].result == results[1].result
        verdicts = [{k: d.taken for k, d in r.decisions.items()} for r in results]
        assert verdicts[0] == verdicts[1]


@given(plans())
@settings(max_examples=50, deadline=None)
def test_the_same_change_on_the_same_snapshot_gives_the_same_plan(
    case: tuple[Any, Any, Any, int],
) -> None:
    document, ends, _, seed = case
    graph = compile_graph(document)
    run = Run(graph)
    rng = random.Random(seed)
    while run.ready and run.view.live:
        step_id = rng.choice(run.ready)
        end = ends[step_id]
        output = {"x": 1} if end is StepEnd.SUCCESS else None
        change = StepEnded(step_id, end, output=output, error=None)
        assert run.plan(change) == run.plan(change)
        run.apply(change)


@given(plans())
@settings(max_examples=100, deadline=None)
def test_retries_and_waits_on_the_way_change_nothing(case: tuple[Any, Any, Any, int]) -> None:
    """Attempts that fail and pauses, in any order: the run arrives where it would without them."""
    document, ends, _, seed = case
    document["error_handling"]["on_failure"] = "run_independent"
    graph = compile_graph(document)
    plain, run = Run(graph), Run(graph)
    plain.finish(lambda step_id: ends[step_id])
    rng = random.Random(seed)
    executed: list[str] = []
    while live := [s for s, view in run.steps.items() if view.status in LIVE_STEP]:
        step_id = rng.choice(live)
        move = rng.choice(["delay", "wait", "end", "end"])
        if run.steps[step_id].status is not StepStatus.READY or move == "end":
            executed.append(step_id)
            run.end(step_id, ends[step_id])
        elif move == "delay":
            run.apply(StepDelayed(step_id, {"code": "once", "message": "", "attempts": 1}))
        else:
            run.apply(StepWaits(step_id, rng.choice(list(WaitsFor))))
    assert len(executed) == len(set(executed)), "no step ends twice"
    assert (run.statuses, run.view.status, run.result) == (
        plain.statuses,
        plain.view.status,
        plain.result,
    )
    assert {k: (d.taken, d.reason) for k, d in run.decisions.items()} == {
        k: (d.taken, d.reason) for k, d in plain.decisions.items()
    }


@given(plans(), st.integers(0, 12))
@settings(max_examples=50, deadline=None)
def test_a_cancel_at_any_moment_leaves_nothing_unfinished(
    case: tuple[Any, Any, Any, int], moment: int
) -> None:
    document, ends, _, seed = case
    run = Run(compile_graph(document))
    rng = random.Random(seed)
    for _ in range(moment):
        if not run.ready or run.view.live == 0:
            break
        step_id = rng.choice(run.ready)
        run.end(step_id, ends[step_id])
    if run.view.live:
        run.apply(RunCancelled("stop"))
        assert run.view.status is RunStatus.CANCELLED
    assert all(view.status in END_OF_STEP for view in run.steps.values())
    assert len(run.decisions) == len(run.graph.edges)


def test_what_was_refused_under_the_first_end_keeps_its_operands() -> None:
    """`why` shows the comparisons that led to `no_route`, not only that the end was a failure."""
    edges = [("a", "b", FALSE), ("a", "mend", {"on": "failure"})]
    run = Run(compile_graph(make_document(edges, steps={"a": {"routing": "exclusive"}}, **NO)))
    run.end("a")
    assert run.errors["a"]["code"] == "no_route"
    assert run.decisions[0].reason["kind"] == "compare"
    assert run.ready == ["mend"]
