"""The rows of a run while a plan is made: what is known, what changes, what is missing.

Decides how a row's change moves the run's counters; never what follows from what (the planner
does). Used by the planner alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from iaflow.data.records import Decision, ItemCounts, StepChange
from iaflow.data.status import (
    LIVE_STEP,
    WAITS_FOR_OUTSIDE,
    RunStatus,
    StepEnd,
    StepStatus,
    WaitsFor,
)
from iaflow.pipeline.graph import Edge, Graph, Node
from iaflow.pipeline.keys import render_key
from iaflow.pipeline.plans import CodeQuestion, Needs, Snapshot
from iaflow.pipeline.routing import FAILURES
from iaflow.pipeline.templating import RenderFailed, Scope, render

__all__ = ["READABLE", "Draft", "Drafts", "Unknown", "is_outside", "natural_status"]

# LANGUAGE 5: the output of a rejected person's step stays readable.
READABLE = frozenset({StepEnd.SUCCESS, StepEnd.REJECTED})


class Unknown(Exception):
    """Something was not looked up; what it is has been noted."""


@dataclass(slots=True)
class Draft:
    """A step's row while the plan is made."""

    before: StepStatus | None
    status: StepStatus | None
    decided: int
    taken: int
    waits_for: WaitsFor | None = None
    items: ItemCounts | None = None
    end: StepEnd | None = None
    error: Mapping[str, Any] | None = None
    output: Any = None
    concurrency_key: str | None = None
    is_end: bool = False
    handled: bool = False
    changed: bool = False

    @property
    def weight(self) -> int:
        """How much the row counts as alive: a step with items lives by these alone."""
        return 0 if self.items is not None else int(self.status in LIVE_STEP)

    @property
    def rest(self) -> int:
        """How much the row counts as waiting for somebody outside."""
        return int(is_outside(self.status, self.waits_for))

    def describe(self, step_id: str) -> StepChange:
        """Return the row's change; it has a status by now."""
        assert self.status is not None
        return StepChange(
            step_id=step_id,
            before=self.before,
            status=self.status,
            decided=self.decided,
            taken=self.taken,
            end=self.end,
            error=self.error,
            is_end=self.is_end,
            handled=self.handled,
            waits_for=self.waits_for,
            items=self.items,
            output=self.output,
            concurrency_key=self.concurrency_key,
        )


def is_outside(status: StepStatus | None, waits_for: WaitsFor | None) -> bool:
    """Tell whether a row waits for somebody outside; before there was the word, for people."""
    return status is StepStatus.WAITING and (waits_for is None or waits_for in WAITS_FOR_OUTSIDE)


class Drafts:
    """
    The rows of one planning.

    What is not known is noted in the `missing_…` sets, and `Unknown` is raised: the planner
    goes on elsewhere, so that one round asks for all that it can.
    """

    def __init__(self, graph: Graph, snapshot: Snapshot) -> None:
        self.graph = graph
        self.snapshot = snapshot
        self.rows: dict[str, Draft] = {}
        self.items: list[StepChange] = []
        self.decisions: list[Decision] = []
        self.new_outputs: dict[str, Any] = {}
        self.live = snapshot.run.live
        self.paused = snapshot.run.paused
        self._decided: set[int] = set()
        self.missing_steps: set[str] = set()
        self.missing_outputs: set[str] = set()
        self.missing_errors: set[str] = set()
        self.missing_results: set[str] = set()
        self.missing_code: list[CodeQuestion] = []
        self.missing_everything = False

    # -- what is missing

    def needs(self) -> Needs | None:
        """Return what must be looked up, or None if nothing is."""
        needs = Needs(
            steps=frozenset(self.missing_steps),
            outputs=frozenset(self.missing_outputs),
            errors=frozenset(self.missing_errors),
            everything=self.missing_everything,
            results=frozenset(self.missing_results),
            code=tuple(self.missing_code),
        )
        return None if needs == Needs() else needs

    def require_steps(self, ids: Iterable[str]) -> None:
        """Note which of these rows are not known; raises Unknown if any is."""
        unknown = set(ids) - self.rows.keys() - self.snapshot.steps.keys()
        if unknown:
            self.missing_steps |= unknown
            raise Unknown

    # -- rows

    def row(self, step_id: str) -> Draft:
        """Return a step's row; raises Unknown if it was not looked up."""
        draft = self.rows.get(step_id)
        if draft is None:
            self.require_steps((step_id,))
            view = self.snapshot.steps[step_id]
            draft = (
                Draft(None, None, 0, 0)
                if view is None
                else Draft(
                    view.status, view.status, view.decided, view.taken, view.waits_for, view.items
                )
            )
            self.rows[step_id] = draft
        return draft

    def move(self, draft: Draft, status: StepStatus, waits_for: WaitsFor | None = None) -> None:
        """Give a row another status; the run's counters follow."""
        weight, rest = draft.weight, draft.rest
        draft.status, draft.waits_for = status, waits_for
        self.live += draft.weight - weight
        self.paused += draft.rest - rest
        draft.changed = True

    def set_items(self, draft: Draft, items: ItemCounts) -> None:
        """Give a row the counts of its items; the run's counters follow."""
        weight, before = draft.weight, draft.items or ItemCounts(0)
        draft.items = items
        at_work = items.started - items.ended
        self.live += draft.weight - weight + at_work - (before.started - before.ended)
        self.paused += items.paused - before.paused
        draft.changed = True

    def is_open(self, step_id: str) -> bool:
        """Tell whether it is still undecided if a step starts."""
        return self.row(step_id).status in (None, StepStatus.PENDING)

    def changes(self) -> tuple[StepChange, ...]:
        """Return the rows that changed, in the order they were touched; then the item's."""
        rows = (
            draft.describe(step_id)
            for step_id, draft in self.rows.items()
            if draft.changed and draft.status is not None
        )
        return (*rows, *self.items)

    # -- transitions

    def record(self, edge: Edge, taken: bool, reason: Mapping[str, Any]) -> None:
        """Decide a transition, once."""
        self.decisions.append(Decision(edge.index, edge.source, edge.target, taken, reason))
        self._decided.add(edge.index)

    def all_decided(self) -> frozenset[int]:
        """Return the indexes of all decided transitions; raises Unknown if not looked up."""
        if self.snapshot.decided is None:
            self.missing_everything = True
            raise Unknown
        return self.snapshot.decided | self._decided

    # -- values

    def scope_of(self, node: Node, edge: Edge, end: StepEnd | None, output: Any) -> Scope:
        """Return what the condition of a transition may look at."""
        outputs = self.outputs_of(edge.reads)
        errors = self.errors_of(edge.reads_errors)
        result = output if end in READABLE else None
        if result is not None:
            outputs[node.step.id] = result
        return self._scope(outputs, errors, result=result)

    def outputs_of(self, ids: Iterable[str]) -> dict[str, Any]:
        """Return the outputs of those of some steps that succeeded."""
        wanted = list(ids)
        known = (
            {**self.snapshot.outputs, **self.new_outputs}
            if self.new_outputs
            else self.snapshot.outputs
        )
        missing = [step_id for step_id in wanted if step_id not in known]
        if missing:
            self.missing_outputs.update(missing)
            raise Unknown
        return {step_id: known[step_id] for step_id in wanted if known[step_id] is not None}

    def errors_of(self, ids: Iterable[str]) -> dict[str, Mapping[str, Any]]:
        """Return the errors of those of some steps that failed."""
        known: dict[str, Mapping[str, Any]] = {}
        for step_id in ids:
            draft = self.rows.get(step_id)
            if draft is not None and draft.end is not None:
                error = draft.error if draft.end in FAILURES else None
            elif step_id in self.snapshot.errors:
                error = self.snapshot.errors[step_id]
            else:
                self.missing_errors.add(step_id)
                raise Unknown
            if error is not None:
                known[step_id] = error
        return known

    def results_of(self, step_id: str) -> tuple[Any, ...]:
        """Return the outputs of a step's items in order, None where there is none."""
        if step_id not in self.snapshot.results:
            self.missing_results.add(step_id)
            raise Unknown
        return self.snapshot.results[step_id]

    def key_of(self, node: Node) -> str:
        """Return the concurrency key of a step that has one; raises RenderFailed."""
        scope = self._scope(self.outputs_of(node.key_reads), self.errors_of(node.key_reads_errors))
        return render_key(node, scope)

    def render_outputs(self, given: Any) -> Any:
        """
        Return the run's outputs, the error of rendering them, or what must be looked up.

        Args:
            given: what a `terminate` step gave, for a document without `outputs`.
        """
        graph = self.graph
        if graph.outputs is None:
            return self._end_outputs() if given is None else given
        try:
            outputs = self.outputs_of(graph.output_reads)
            errors = self.errors_of(graph.output_reads_errors)
        except Unknown:
            return self.needs()
        try:
            return render(graph.outputs, self._scope(outputs, errors))
        except RenderFailed as error:
            return error

    def _end_outputs(self) -> Any:
        """LANGUAGE 1: one end step gives its output, several an object by id, none `{}`."""
        if self.snapshot.ends is None:
            return Needs(ends=True)
        now = {step_id for step_id, draft in self.rows.items() if draft.is_end}
        ends = [s for s in self.graph.order if s in now or s in self.snapshot.ends]
        ends.sort(key=lambda step_id: self.graph.nodes[step_id].step.position)
        try:
            outputs = self.outputs_of(ends)
        except Unknown:
            return Needs(outputs=frozenset(self.missing_outputs), ends=True)
        if len(ends) == 1:
            return outputs[ends[0]]
        return {step_id: outputs[step_id] for step_id in ends}

    def _scope(
        self, outputs: Mapping[str, Any], errors: Mapping[str, Any], result: Any = None
    ) -> Scope:
        run = self.snapshot.run
        return Scope(
            parameters=run.parameters,
            outputs=outputs,
            errors=errors,
            run={"id": run.run_id, "started_at": run.started_at},
            result=result,
        )


def natural_status(live: int, paused: int, unhandled: int) -> RunStatus:
    """Return where a run stands that nobody ended (LANGUAGE section 4)."""
    if live == 0:
        return RunStatus.FAILED if unhandled else RunStatus.SUCCEEDED
    return RunStatus.WAITING if paused == live else RunStatus.RUNNING
