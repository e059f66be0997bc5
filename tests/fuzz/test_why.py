"""`why` tells the truth: what the ledger keeps of each decision leads to the same verdict again.

The verdicts are computed anew by a judge of the test's own, from the operands in the ledger alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from iaflow.bootstrap import Application, open_local_executor
from iaflow.data.records import DecisionRecord
from iaflow.data.status import END_OF_RUN, StepStatus
from iaflow.explaining import Ledger, explain
from iaflow.pipeline.definition import JoinType
from iaflow.pipeline.graph import Graph
from tests.fuzz.options import chosen_seeds
from tests.fuzz.playing import FOLDER, import_children, open_here, start

RUNS = 300
HAS_RUN = {StepStatus.SUCCEEDED, StepStatus.FAILED}


@pytest.fixture
def app() -> Any:
    made = open_here("sqlite://")
    yield made
    made.close()


def test_every_step_of_random_runs_has_a_true_cause(
    app: Application, request: pytest.FixtureRequest
) -> None:
    seeds = range(chosen_seeds(request.config).start, chosen_seeds(request.config).start + RUNS)
    import_children(app, seeds)
    explained = 0
    for run_id in asyncio.run(_play(app, seeds)):
        graph = app.client.graph_of(run_id)
        decisions = {d.transition: d for d in app.client.decisions(run_id)}
        ledger = Ledger.of(
            graph, app.client.run(run_id), app.client.steps(run_id), list(decisions.values())
        )
        assert set(decisions) == {edge.index for edge in graph.edges}, "each is decided once"
        for decision in decisions.values():
            again = rejudge(decision.reason, decision, decisions, graph)
            assert again is decision.taken, f"{run_id}: {decision}"
        for step_id, node in graph.nodes.items():
            told = explain(ledger, step_id)
            assert told.sentence
            assert told.status == ledger.status(step_id)
            assert {a.transition: a.taken for a in told.arrows} == {
                edge.index: decisions[edge.index].taken for edge in node.incoming
            }
            assert all(arrow.words for arrow in told.arrows)
            assert follows(ledger, step_id), f"{run_id}: {step_id}"
            explained += 1
    assert explained > RUNS


def follows(ledger: Ledger, step_id: str) -> bool:
    """Tell whether a step's status is what the decisions into it and its join lead to."""
    node, record = ledger.graph.nodes[step_id], ledger.steps[step_id]
    taken = [ledger.decisions[edge.index].taken for edge in node.incoming]
    if not taken:
        should_run = True
    elif node.step.join.type is JoinType.ALL_SUCCESS:
        should_run = all(taken)
    else:
        should_run = any(taken)
    if record.status in HAS_RUN:
        return should_run
    by_itself = record.error is not None and record.error["code"] == "skipped"
    return record.status is StepStatus.SKIPPED and should_run is by_itself


def rejudge(
    reason: Mapping[str, Any],
    decision: DecisionRecord,
    decisions: Mapping[int, DecisionRecord],
    graph: Graph,
) -> bool:
    """Return the verdict that a reason leads to, from what it has seen."""
    match reason["kind"]:
        case "always":
            return True
        case "compare":
            return _compare(reason)
        case "parameter":
            return bool(reason["value"])
        case "function":
            return bool(reason["verdict"])
        case "not":
            return not rejudge(reason["conditions"][0], decision, decisions, graph)
        case "all" | "any" as kind:
            parts = [rejudge(part, decision, decisions, graph) for part in reason["conditions"]]
            assert parts[:-1] == [kind == "all"] * (len(parts) - 1), (
                "judged in order, stopping early"
            )
            return all(parts) if kind == "all" else any(parts)
        case "exclusive":
            first = decisions[reason["taken"]]
            assert first.source == decision.source
            assert first.taken
            return False
        case "end":
            return not _is_elsewhere(reason["on"], reason["end"])
        case "run_ended":
            assert reason["status"] in {str(status) for status in END_OF_RUN}
            return False
        case "error":
            assert reason["code"]
            return False
    raise AssertionError(f"unknown reason {reason}")


def _is_elsewhere(on: str, end: str) -> bool:
    failed = end in {"failure", "timeout", "expired", "rejected"}
    watched = {
        "success": end == "success",
        "failure": failed,
        "completed": failed or end == "success",
    }
    return not watched.get(on, on == end)


def _compare(reason: Mapping[str, Any]) -> bool:
    left, operator = reason["left"], reason["operator"]
    value, right = left.get("value"), reason.get("right", {}).get("value", True)
    number = _is_number(value) and _is_number(right)
    match operator:
        case "exists":
            return ("missing" not in left) is right
        case "empty" | "not_empty":
            is_empty = value in ("", [], {}, None)
            return (is_empty is (operator == "empty")) is right
        case "is_null":
            return (value is None) is right
        case "eq":
            return _same(value, right)
        case "ne":
            return not _same(value, right)
        case "in":
            return any(_same(value, one) for one in right)
        case "gt":
            return number and value > right
        case "gte":
            return number and value >= right
        case "lt":
            return number and value < right
        case "lte":
            return number and value <= right
    raise AssertionError(f"unknown operator {operator}")


def _same(one: Any, other: Any) -> bool:
    return one == other and isinstance(one, bool) is isinstance(other, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


async def _play(app: Application, seeds: range) -> list[str]:
    ids = []
    async with open_local_executor(app, folders=[FOLDER]) as executor:
        for seed in seeds:
            ids.append(start(app, seed))
            await executor.drive(ids[-1])
    return ids
