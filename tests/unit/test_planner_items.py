"""The planner on steps with items: when a foreach goes on, is done or fails, and what it counts.

After every plan the counters of the run and of the step are counted anew from the rows, in each
order that items may end (`planning.Run.check`).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iaflow.data.status import END_OF_RUN, RunStatus, StepEnd, StepStatus, WaitsFor
from iaflow.pipeline.plans import (
    RunCancelled,
    StepCancelled,
    StepDelayed,
    StepEnded,
    StepWaits,
)
from tests.unit.planning import Run, compile_graph, make_document

INDEPENDENT = {"error_handling": {"on_failure": "run_independent"}}


def each(**foreach: Any) -> dict[str, Any]:
    return {"foreach": {"items": "{{ parameters.list }}", **foreach}}


def begin(
    edges: list[Any], count: int, steps: dict[str, Any] | None = None, **more: Any
) -> tuple[Run, list[int]]:
    """A run whose start, `each`, has fanned out; and the indexes of the items that may start."""
    steps = steps or {"each": each()}
    run = Run(compile_graph(make_document(edges, steps=steps, parameters={"list": []}, **more)))
    run.fan("each", count)
    return run, ready_items(run)


def ready_items(run: Run) -> list[int]:
    return [i for (_, i), view in run.items.items() if view.status is StepStatus.READY]


# --- results and counts


def test_all_items_start_at_once_and_the_results_stand_in_item_order() -> None:
    run, started = begin([("each", "after")], 3)
    assert started == [0, 1, 2]
    assert (run.view.live, run.statuses) == (3, {"each": "running"})
    run.end_item("each", 2)
    run.end_item("each", 0)
    assert run.ready == []
    run.end_item("each", 1)
    assert run.outputs["each"] == {"results": [{"item": 0}, {"item": 1}, {"item": 2}]}
    assert run.ready == ["after"]


def test_no_items_succeed_at_once() -> None:
    run, started = begin([("each", "after")], 0)
    assert started == []
    assert (run.outputs["each"], run.ready) == ({"results": []}, ["after"])


def test_at_most_max_parallel_items_are_at_work() -> None:
    run, started = begin([("each", "after")], 5, {"each": each(max_parallel=2)})
    assert started == [0, 1]
    order = []
    while ready := ready_items(run):
        assert run.view.live == len(ready) <= 2
        order.append(ready[-1])
        run.end_item("each", ready[-1])
    assert order == [1, 2, 3, 4, 0]
    assert run.ready == ["after"]


def test_a_place_is_not_free_while_an_item_retries_or_waits() -> None:
    run, _ = begin([("each", "after")], 3, {"each": each(max_parallel=1)})
    run.apply(StepDelayed("each", {"code": "x", "message": ""}, 0))
    assert (run.view.live, ready_items(run)) == (1, [])
    assert run.item_statuses("each") == ["retrying", "pending", "pending"]


@pytest.mark.parametrize(
    ("end", "status"),
    ((StepEnd.SKIPPED, "succeeded"), (StepEnd.FAILURE, "failed"), (StepEnd.TIMEOUT, "failed")),
)
def test_a_skipped_item_is_no_failure(end: StepEnd, status: str) -> None:
    run, _ = begin([("each", "after")], 2)
    run.end_item("each", 0, end)
    if status == "succeeded":
        run.end_item("each", 1)
        assert run.outputs["each"] == {"results": [None, {"item": 1}]}
    assert run.statuses["each"] == status


# --- failures


def test_the_first_failure_too_many_cancels_the_rest() -> None:
    run, _ = begin([("each", "after")], 5, {"each": each(max_parallel=3, tolerated_failures=1)})
    run.end_item("each", 0, StepEnd.FAILURE)
    assert run.statuses["each"] == "running"
    run.end_item("each", 1, StepEnd.TIMEOUT)
    assert run.item_statuses("each") == ["failed", "failed"] + ["cancelled"] * 3
    assert run.errors["each"]["code"] == "items_failed"
    assert run.view.status is RunStatus.FAILED
    assert run.error == ("each", "items_failed")


def test_tolerated_failures_are_null_in_the_results() -> None:
    run, _ = begin([("each", "after")], 3, {"each": each(tolerated_failures=2)})
    run.end_item("each", 0, StepEnd.FAILURE)
    run.end_item("each", 1)
    run.end_item("each", 2, StepEnd.FAILURE)
    assert run.outputs["each"] == {"results": [None, {"item": 1}, None]}
    assert (run.statuses["each"], run.view.unhandled) == ("succeeded", 0)


def test_items_failed_is_a_failure_like_others() -> None:
    edges = [("each", "after"), ("each", "mend", {"on": "failure"})]
    run, _ = begin(edges, 2)
    run.end_item("each", 1, StepEnd.FAILURE)
    assert (run.ready, run.view.handled) == (["mend"], 1)
    assert run.statuses["after"] == "skipped"


def test_a_step_goes_on_after_its_items_failed() -> None:
    steps = {"each": {**each(), "error_handling": {"on_failure": "continue"}}}
    run, _ = begin([("each", "after")], 2, steps)
    run.end_item("each", 0, StepEnd.FAILURE)
    assert (run.statuses["each"], run.ready) == ("failed", ["after"])
    run.end("after")
    assert run.view.status is RunStatus.SUCCEEDED


def test_run_independent_lets_neighbours_finish() -> None:
    edges = [("root", "each"), ("root", "other"), ("each", "after"), ("other", "join")]
    run = Run(
        compile_graph(
            make_document(edges, steps={"each": {"foreach": {"items": []}}}, **INDEPENDENT)
        )
    )
    run.end("root")
    run.fan("each", 3)
    run.end_item("each", 1, StepEnd.FAILURE)
    assert (run.view.live, run.view.status) == (1, RunStatus.RUNNING)
    run.finish()
    assert run.view.status is RunStatus.FAILED
    assert run.statuses["join"] == "succeeded"


# --- n


def test_the_nth_success_is_enough() -> None:
    run, _ = begin([("each", "after")], 5, {"each": each(n=2, max_parallel=3)})
    run.end_item("each", 2)
    run.end_item("each", 1, StepEnd.FAILURE)
    run.end_item("each", 3)
    assert run.outputs["each"] == {"results": [None, None, {"item": 2}, {"item": 3}, None]}
    assert run.item_statuses("each") == [
        "cancelled",
        "failed",
        "succeeded",
        "succeeded",
        "cancelled",
    ]
    assert run.ready == ["after"]


def test_n_that_is_out_of_reach_fails_at_once() -> None:
    run, _ = begin([("each", "after")], 4, {"each": each(n=3)})
    run.end_item("each", 0, StepEnd.FAILURE)
    assert run.view.status is RunStatus.RUNNING
    run.end_item("each", 1, StepEnd.SKIPPED)
    assert run.errors["each"]["code"] == "items_failed"


@pytest.mark.parametrize("count", (0, 1))
def test_n_of_too_few_items_fails_without_starting_one(count: int) -> None:
    run, _ = begin([("each", "after")], count, {"each": each(n=2)})
    assert run.errors["each"]["code"] == "items_failed"
    assert run.items == {}
    assert run.view.status is RunStatus.FAILED


def test_with_n_tolerated_failures_are_ignored() -> None:
    run, _ = begin([("each", "after")], 4, {"each": each(n=1, tolerated_failures=0)})
    for index in range(3):
        run.end_item("each", index, StepEnd.FAILURE)
    run.end_item("each", 3)
    assert run.statuses["each"] == "succeeded"


# --- cancels and other ends


@pytest.mark.parametrize("when", ("fanned", "waiting", "retrying"))
def test_cancelling_the_step_stops_all_items(when: str) -> None:
    run, _ = begin([("each", "after")], 3, {"each": each(max_parallel=2)})
    if when == "waiting":
        run.apply(StepWaits("each", WaitsFor.PEOPLE, 1))
        assert (run.view.live, run.view.paused) == (2, 1)
    if when == "retrying":
        run.apply(StepDelayed("each", {"code": "x", "message": ""}, 1))
    run.apply(StepCancelled("each", "no more"))
    assert set(run.item_statuses("each")) == {"cancelled"}
    assert run.statuses == {"each": "cancelled", "after": "skipped"}
    assert run.view.paused == 0


def test_a_step_that_cancels_a_foreach() -> None:
    edges = [("root", "each"), ("root", "quick"), ("each", "join"), ("quick", "join")]
    steps: dict[str, Any] = {"each": {"foreach": {"items": []}}, "quick": {"cancels": ["each"]}}
    run = Run(compile_graph(make_document(edges, steps=steps)))
    run.end("root")
    run.fan("each", 3)
    run.end_item("each", 0)
    run.end("quick")
    assert run.item_statuses("each") == ["succeeded", "cancelled", "cancelled"]
    assert run.ready == ["join"]


def test_a_join_that_cancels_the_remaining_stops_items() -> None:
    edges = [("root", "each"), ("root", "quick"), ("each", "join"), ("quick", "join")]
    join = {"join": {"type": "n_of_m", "n": 1, "cancel_remaining": True}}
    steps: dict[str, Any] = {"each": {"foreach": {"items": []}}, "join": join}
    run = Run(compile_graph(make_document(edges, steps=steps)))
    run.end("root")
    run.fan("each", 3)
    run.end("quick")
    assert run.item_statuses("each") == ["cancelled"] * 3
    assert (run.ready, run.view.live) == (["join"], 1)


def test_a_failure_beside_cancels_the_items() -> None:
    edges = [("root", "each"), ("root", "bad"), ("each", "after")]
    run = Run(compile_graph(make_document(edges, steps={"each": {"foreach": {"items": []}}})))
    run.end("root")
    run.fan("each", 2)
    run.end("bad", StepEnd.FAILURE)
    assert run.item_statuses("each") == ["cancelled"] * 2
    assert run.view.status is RunStatus.FAILED


def test_a_run_whose_items_all_wait_for_people_waits() -> None:
    """Items wait for people when their child runs do; for a child that works, the run runs."""
    run, _ = begin([("each", "after")], 2)
    run.apply(StepWaits("each", WaitsFor.RUN, 0))
    run.apply(StepWaits("each", WaitsFor.PEOPLE, 1))
    assert (run.view.status, run.view.paused) == (RunStatus.RUNNING, 1)
    run.apply(StepWaits("each", WaitsFor.PEOPLE, 0))
    assert (run.view.status, run.view.paused) == (RunStatus.WAITING, 2)
    run.apply(StepWaits("each", WaitsFor.RUN, 1))
    assert (run.view.status, run.view.paused) == (RunStatus.RUNNING, 1)
    run.end_item("each", 0)
    run.end_item("each", 1)
    assert run.ready == ["after"]


def test_pending_items_keep_a_run_from_nothing() -> None:
    """What has not started behind `max_parallel` neither lives nor keeps the run from waiting."""
    run, _ = begin([("each", "after")], 3, {"each": each(max_parallel=1)})
    run.apply(StepWaits("each", WaitsFor.PEOPLE, 0))
    assert run.view.status is RunStatus.WAITING
    run.end_item("each", 0)
    assert (run.view.status, run.view.live) == (RunStatus.RUNNING, 1)


def test_a_fault_on_the_way_out_makes_a_foreach_fail() -> None:
    """LANGUAGE 3: its output is kept for people; a failure transition may take care of it."""
    broken = {"condition": "result.nothing == 1"}
    edges = [("each", "after", broken), ("each", "mend", {"on": "failure"})]
    run, _ = begin(edges, 1)
    run.end_item("each", 0)
    assert (run.statuses["each"], run.ready) == ("failed", ["mend"])
    assert run.errors["each"]["code"] == "reference_missing"
    assert run.outputs["each"] == {"results": [{"item": 0}]}


def test_conditions_see_the_results() -> None:
    condition = {
        "condition": {
            "type": "expression",
            "config": {"source": "each.results.1.item", "operator": "eq", "value": 1},
        }
    }
    run, _ = begin([("each", "yes", condition), ("each", "no", {"condition": "otherwise"})], 2)
    run.end_item("each", 1)
    run.end_item("each", 0)
    assert (run.ready, run.statuses["no"]) == (["yes"], "skipped")


# --- every order


@st.composite
def life_of_items(draw: st.DrawFn) -> tuple[dict[str, Any], int, list[Any]]:
    """A foreach between neighbours, the number of its items, and whatever happens, in order."""
    count = draw(st.integers(0, 6))
    foreach: dict[str, Any] = {"items": []}
    if draw(st.booleans()):
        foreach["max_parallel"] = draw(st.integers(1, 4))
    if draw(st.booleans()):
        foreach["tolerated_failures"] = draw(st.integers(0, 3))
    steps: dict[str, Any] = {"each": {}, "other": {}}
    if draw(st.booleans()):
        n = draw(st.integers(1, 4))
        if n <= count:
            foreach |= {"n": n, "items": list(range(count))}
    if draw(st.booleans()):
        steps["each"]["error_handling"] = {"on_failure": "continue"}
    if draw(st.booleans()):
        steps["other"]["cancels"] = ["each"]
    steps["each"]["foreach"] = foreach
    steps["join"] = {
        "join": draw(
            st.sampled_from(
                ["all_taken", "all_success", {"type": "n_of_m", "n": 1, "cancel_remaining": True}]
            )
        )
    }
    edges: list[Any] = [("root", "each"), ("root", "other"), ("each", "join"), ("other", "join")]
    edges.append(("each", "late", {"on": "completed"}))
    document = make_document(
        edges,
        steps=steps,
        error_handling={"on_failure": draw(st.sampled_from(["fail_fast", "run_independent"]))},
    )
    moves = draw(
        st.lists(
            st.tuples(
                st.integers(0, 30),
                st.sampled_from(
                    "success success success failure timeout skipped delay people run cancel".split()
                ),
            ),
            max_size=25,
        )
    )
    return document, count, moves


@given(life_of_items())
@settings(deadline=None, max_examples=400)
def test_whatever_happens_the_counters_are_what_the_rows_say(
    life: tuple[dict[str, Any], int, list[Any]],
) -> None:
    document, count, moves = life
    run = Run(compile_graph(document))
    run.end("root")
    run.fan("each", count)
    foreach = run.graph.nodes["each"].step.foreach
    assert foreach is not None
    for pick, move in [*moves, *[(0, "success")] * 60]:
        if run.view.status in END_OF_RUN:
            break
        assert run.view.status is not RunStatus.WAITING or run.view.paused == run.view.live
        targets: list[tuple[str, int]] = [
            (step_id, -1)
            for step_id, view in run.steps.items()
            if view.items is None and view.status in _MOVABLE
        ]
        targets += [key for key, view in run.items.items() if view.status in _MOVABLE]
        step_id, index = sorted(targets)[pick % len(targets)]
        _make(run, step_id, index, move)
        at_work = Counter(view.status in _MOVABLE for view in run.items.values())[True]
        assert at_work <= (foreach.max_parallel or count)
    assert run.view.status in END_OF_RUN
    statuses = run.item_statuses("each")
    match run.statuses["each"]:
        case "succeeded" if foreach.n is not None:
            assert statuses.count("succeeded") == foreach.n
        case "succeeded":
            assert "cancelled" not in statuses
            assert statuses.count("failed") <= foreach.tolerated_failures
        case "failed" if foreach.n is not None:
            assert statuses.count("succeeded") < foreach.n
        case "failed":
            assert statuses.count("failed") == foreach.tolerated_failures + 1


_MOVABLE = {StepStatus.READY, StepStatus.RUNNING, StepStatus.RETRYING, StepStatus.WAITING}


def _make(run: Run, step_id: str, index: int, move: str) -> None:
    match move:
        case "delay":
            run.apply(StepDelayed(step_id, {"code": "x", "message": ""}, index))
        case "people":
            run.apply(StepWaits(step_id, WaitsFor.PEOPLE, index))
        case "run":
            run.apply(StepWaits(step_id, WaitsFor.RUN, index))
        case "cancel":
            run.apply(StepCancelled(step_id, "enough"))
        case _ if index >= 0:
            run.end_item(step_id, index, StepEnd(move))
        case _:
            run.end(step_id, StepEnd(move))


@pytest.mark.parametrize("ended", range(4))
def test_cancelling_the_run_at_any_moment_leaves_nothing(ended: int) -> None:
    run, _ = begin([("each", "after")], 4, {"each": each(max_parallel=2)})
    for index in range(ended):
        run.end_item("each", index)
    run.apply(RunCancelled("enough"))
    assert run.item_statuses("each") == ["succeeded"] * ended + ["cancelled"] * (4 - ended)
    assert run.statuses == {"each": "cancelled", "after": "cancelled"}


def test_results_that_are_too_large_together_fail_the_step() -> None:
    run, _ = begin([("each", "after"), ("each", "mend", {"on": "failure"})], 6)
    for index in range(6):
        run.apply(StepEnded("each", StepEnd.SUCCESS, output={"x": "x" * 200_000}, index=index))
    assert (run.statuses["each"], run.ready) == ("failed", ["mend"])
    assert run.errors["each"]["code"] == "output_invalid"
