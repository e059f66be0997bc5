"""A run held in plain dictionaries, to drive the planner without a store.

Decides nothing of its own: it applies plans as they come and answers what the planner asks.
Used by the planner's tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from iaflow.data.records import Decision, RunView, StepView
from iaflow.data.status import END_OF_RUN, RunStatus, StepEnd, StepStatus
from iaflow.pipeline.definition import parse_document
from iaflow.pipeline.graph import Graph, build_graph
from iaflow.pipeline.planner import advance
from iaflow.pipeline.plans import Change, Needs, Plan, RunStarted, Snapshot, StepEnded


def compile_graph(document: Mapping[str, Any]) -> Graph:
    definition, problems, _ = parse_document(dict(document))
    assert definition is not None, problems
    assert not problems, problems
    graph, problems, _ = build_graph(definition)
    assert graph is not None, problems
    assert not problems, problems
    return graph


def make_document(
    edges: list[Any], *, steps: Mapping[str, Mapping[str, Any]] | None = None, **more: Any
) -> dict[str, Any]:
    """A document from edges ("a", "b") or ("a", "b", {"on": …}); the first source starts."""
    ids = list(dict.fromkeys(name for edge in edges for name in edge[:2]))
    extra = steps or {}
    return {
        "name": "test",
        "steps": [
            {"id": name, "module": "steps", "step_class": "S", **extra.get(name, {})}
            for name in ids or extra
        ],
        "flow": {
            "start_at": ids[0] if ids else next(iter(extra)),
            "transitions": [
                {"from": edge[0], "to": edge[1], **(edge[2] if len(edge) > 2 else {})}
                for edge in edges
            ],
        },
        **more,
    }


class Run:
    """A run in memory: rows as the planner left them, and every decision."""

    def __init__(self, graph: Graph, parameters: Mapping[str, Any] | None = None) -> None:
        self.graph = graph
        self.view = RunView(
            "run",
            RunStatus.RUNNING,
            0,
            0,
            0,
            0,
            0,
            {**graph.definition.parameters, **(parameters or {})},
        )
        self.steps: dict[str, StepView] = {}
        self.ends: dict[str, StepEnd | None] = {}
        self.errors: dict[str, Any] = {}
        self.outputs: dict[str, Any] = {}
        self.is_end: set[str] = set()
        self.handled: set[str] = set()
        self.decisions: dict[int, Decision] = {}
        self.result: Any = None
        self.error: tuple[Any, Any] = (None, None)
        self.rounds = 0
        self.apply(RunStarted())

    @property
    def statuses(self) -> dict[str, str]:
        return {step_id: view.status.value for step_id, view in self.steps.items()}

    @property
    def ready(self) -> list[str]:
        return [s for s, view in self.steps.items() if view.status is StepStatus.READY]

    def plan(self, change: Change) -> Plan:
        snapshot = Snapshot(self.view)
        plan = advance(self.graph, snapshot, change)
        self.rounds = 0
        while isinstance(plan, Needs):
            self.rounds += 1
            assert self.rounds <= 2 * len(self.graph.nodes) + 10, "the planner asks for ever"
            snapshot = snapshot.plus(self._look_up(plan))
            plan = advance(self.graph, snapshot, change)
        return plan

    def apply(self, change: Change) -> Plan:
        plan = self.plan(change)
        for decision in plan.decisions:
            assert decision.transition not in self.decisions, "a transition is decided once"
            self.decisions[decision.transition] = decision
        for step in plan.steps:
            current = self.steps.get(step.step_id)
            assert step.before == (current.status if current else None)
            self.steps[step.step_id] = StepView(step.status, step.decided, step.taken)
            self.ends[step.step_id] = step.end
            if step.error is not None:
                self.errors[step.step_id] = step.error
            if step.is_end:
                self.is_end.add(step.step_id)
            if step.handled:
                self.handled.add(step.step_id)
        if isinstance(change, StepEnded) and change.output is not None:
            self.outputs[change.step_id] = change.output
        run = plan.run
        if run.error_code is not None and self.error == (None, None):
            self.error = (run.error_step_id, run.error_code)
        if run.status is RunStatus.SUCCEEDED:
            self.result = run.outputs
        self.view = RunView(
            "run",
            run.status,
            self.view.seq + 1,
            run.live,
            run.paused,
            run.handled,
            run.unhandled,
            self.view.parameters,
        )
        return plan

    def end(self, step_id: str, end: StepEnd = StepEnd.SUCCESS, output: Any = None) -> Plan:
        if end is StepEnd.SUCCESS and output is None:
            output = {"from": step_id}
        error = (
            None if end is StepEnd.SUCCESS else {"code": end.value, "message": "x", "attempts": 1}
        )
        return self.apply(StepEnded(step_id, end, output=output, error=error))

    def finish(
        self,
        outcome: Callable[[str], StepEnd] = lambda _: StepEnd.SUCCESS,
        choose: Callable[[list[str]], str] = lambda ready: ready[0],
    ) -> None:
        """End ready steps, in the order that `choose` says, until nothing is ready."""
        while self.ready and self.view.status not in END_OF_RUN:
            step_id = choose(self.ready)
            self.end(step_id, outcome(step_id))

    def _look_up(self, needs: Needs) -> Snapshot:
        wanted = set(self.graph.nodes) if needs.everything else needs.steps
        return Snapshot(
            self.view,
            steps={s: self.steps.get(s) for s in wanted},
            outputs={s: self._readable(s) for s in needs.outputs},
            errors={s: self.errors.get(s) for s in needs.errors},
            decided=frozenset(self.decisions) if needs.everything else None,
            ends=tuple(self.is_end) if needs.ends else None,
        )

    def _readable(self, step_id: str) -> Any:
        view = self.steps.get(step_id)
        readable = view is not None and (
            view.status is StepStatus.SUCCEEDED or self.ends.get(step_id) is StepEnd.REJECTED
        )
        return self.outputs.get(step_id) if readable else None
