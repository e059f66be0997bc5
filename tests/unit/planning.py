"""A run held in plain dictionaries, to drive the planner without a store.

Decides nothing of its own: it applies plans as they come and answers what the planner asks.
Used by the planner's tests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from iaflow.data.records import NO_INDEX, Decision, ItemCounts, RunView, StepView
from iaflow.data.status import (
    END_OF_RUN,
    END_OF_STEP,
    LIVE_STEP,
    WAITS_FOR_OUTSIDE,
    RunStatus,
    StepEnd,
    StepStatus,
    WaitsFor,
)
from iaflow.pipeline.definition import parse_document
from iaflow.pipeline.graph import Graph, build_graph
from iaflow.pipeline.planner import advance
from iaflow.pipeline.plans import (
    Change,
    Judged,
    Needs,
    Plan,
    RunStarted,
    Snapshot,
    StepEnded,
    StepFanned,
)


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
    """
    A run in memory: rows as the planner left them, and every decision.

    After each plan its counters are counted anew from the rows; see `check`.
    """

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
        self.items: dict[tuple[str, int], StepView] = {}
        self.item_ends: dict[tuple[str, int], StepEnd | None] = {}
        self.results: dict[tuple[str, int], Any] = {}
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

    def item_statuses(self, step_id: str) -> list[str]:
        """Return where the items of a step stand, in order."""
        rows = sorted((key[1], view) for key, view in self.items.items() if key[0] == step_id)
        return [view.status.value for _, view in rows]

    def plan(self, change: Change, judged: Judged | None = None) -> Plan:
        """Return the plan of a change; what code must judge is an error unless it is given."""
        plan = self.try_plan(change, judged)
        assert isinstance(plan, Plan), f"code must judge {plan.code}"
        return plan

    def try_plan(self, change: Change, judged: Judged | None = None) -> Plan | Needs:
        """Return the plan of a change, or the conditions that code must judge before."""
        snapshot = Snapshot(self.view, item=self._item_of(change), judged=judged or {})
        plan = advance(self.graph, snapshot, change)
        self.rounds = 0
        while isinstance(plan, Needs):
            self.rounds += 1
            assert self.rounds <= 2 * len(self.graph.nodes) + 10, "the planner asks for ever"
            if plan == Needs(code=plan.code):
                return plan
            snapshot = snapshot.plus(self._look_up(plan))
            plan = advance(self.graph, snapshot, change)
        return plan

    def apply(self, change: Change, judged: Judged | None = None) -> Plan:
        plan = self.plan(change, judged)
        for decision in plan.decisions:
            assert decision.transition not in self.decisions, "a transition is decided once"
            self.decisions[decision.transition] = decision
        for step in plan.steps:
            if step.index != NO_INDEX:
                self._move_item(step.step_id, step.index, step.before, step.status, step.waits_for)
                self.item_ends[step.step_id, step.index] = step.end
                continue
            current = self.steps.get(step.step_id)
            assert step.before == (current.status if current else None)
            self.steps[step.step_id] = StepView(
                step.status, step.decided, step.taken, step.waits_for, step.items
            )
            if step.output is not None:
                self.outputs[step.step_id] = step.output
            self.ends[step.step_id] = step.end
            if step.error is not None:
                self.errors[step.step_id] = step.error
            if step.is_end:
                self.is_end.add(step.step_id)
            if step.handled:
                self.handled.add(step.step_id)
        if isinstance(change, StepEnded) and change.output is not None:
            if change.index != NO_INDEX:
                self.results[change.step_id, change.index] = change.output
            else:
                self.outputs[change.step_id] = change.output
        self._apply_items(plan)
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
        self.check()
        return plan

    def check(self) -> None:
        """Assert that the counters are what the rows say, and that an ended run rests."""
        rows = [view for view in self.steps.values() if view.items is None]
        rows += self.items.values()
        assert self.view.live == sum(view.status in LIVE_STEP for view in rows)
        assert self.view.paused == sum(map(_is_outside, rows))
        for step_id, view in self.steps.items():
            if view.items is not None:
                self._check_items(step_id, view.items, view.status)
        if self.view.status in END_OF_RUN:
            assert self.view.live == 0
            everything = (*self.steps.values(), *self.items.values())
            assert all(view.status in END_OF_STEP for view in everything)
            assert self.decisions.keys() == {edge.index for edge in self.graph.edges}

    def fan(self, step_id: str, count: int) -> Plan:
        """The step's worker, which has claimed it, says how many items there are."""
        view = self.steps[step_id]
        self.steps[step_id] = StepView(StepStatus.RUNNING, view.decided, view.taken)
        return self.apply(StepFanned(step_id, count))

    def end_item(
        self, step_id: str, index: int, end: StepEnd = StepEnd.SUCCESS, output: Any = None
    ) -> Plan:
        if end is StepEnd.SUCCESS and output is None:
            output = {"item": index}
        error = None if output is not None else {"code": end.value, "message": "x", "attempts": 1}
        return self.apply(StepEnded(step_id, end, output=output, error=error, index=index))

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
            results={s: self._results_of(s) for s in needs.results},
        )

    def _item_of(self, change: Change) -> StepView | None:
        index = getattr(change, "index", NO_INDEX)
        return None if index == NO_INDEX else self.items[getattr(change, "step_id", ""), index]

    def _results_of(self, step_id: str) -> tuple[Any, ...]:
        """Return what the rows say: the outputs of the items that have succeeded by now."""
        indexes = sorted(index for name, index in self.items if name == step_id)
        return tuple(
            self.results[step_id, index]
            if self.items[step_id, index].status is StepStatus.SUCCEEDED
            else None
            for index in indexes
        )

    def _apply_items(self, plan: Plan) -> None:
        if plan.new_items is not None:
            new = plan.new_items
            for index in range(new.count):
                assert (new.step_id, index) not in self.items, "a step fans out once"
                status = StepStatus.READY if index < new.started else StepStatus.PENDING
                self.items[new.step_id, index] = StepView(status)
        for step_id, count in plan.more_items:
            pending = sorted(key for key in self.items if self._is_pending(step_id, key))
            assert 0 < count <= len(pending)
            for key in pending[:count]:
                self.items[key] = StepView(StepStatus.READY)
        for step_id in plan.dropped_items:
            for key, view in self.items.items():
                if key[0] == step_id and view.status not in END_OF_STEP:
                    self.items[key] = StepView(StepStatus.CANCELLED)
                    self.item_ends[key] = StepEnd.CANCELLED

    def _is_pending(self, step_id: str, key: tuple[str, int]) -> bool:
        return key[0] == step_id and self.items[key].status is StepStatus.PENDING

    def _move_item(
        self,
        step_id: str,
        index: int,
        before: StepStatus | None,
        status: StepStatus,
        waits_for: WaitsFor | None,
    ) -> None:
        assert self.items[step_id, index].status is before
        self.items[step_id, index] = StepView(status, waits_for=waits_for)

    def _check_items(self, step_id: str, counts: ItemCounts, status: StepStatus) -> None:
        rows = [view for key, view in self.items.items() if key[0] == step_id]
        by_status = Counter(view.status for view in rows)
        assert counts.total == len(rows)
        assert counts.total >= counts.started >= counts.ended >= 0
        assert counts.ended >= counts.succeeded + counts.failed
        assert counts.started - counts.ended == sum(by_status[one] for one in LIVE_STEP)
        assert counts.total - counts.started == by_status[StepStatus.PENDING]
        assert counts.succeeded == by_status[StepStatus.SUCCEEDED]
        assert counts.failed == by_status[StepStatus.FAILED]
        assert counts.paused == sum(map(_is_outside, rows))
        if status in END_OF_STEP:
            assert counts.ended == counts.total

    def _readable(self, step_id: str) -> Any:
        view = self.steps.get(step_id)
        readable = view is not None and (
            view.status is StepStatus.SUCCEEDED or self.ends.get(step_id) is StepEnd.REJECTED
        )
        return self.outputs.get(step_id) if readable else None


def _is_outside(view: StepView) -> bool:
    return view.status is StepStatus.WAITING and (
        view.waits_for is None or view.waits_for in WAITS_FOR_OUTSIDE
    )
