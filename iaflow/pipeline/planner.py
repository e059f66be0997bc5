"""What happens next: the pure heart of a run.

Decides, from a compiled definition, a snapshot of a run and one change, every consequence:
decisions with their reasons, steps that become ready, skipped or cancelled, the run's end.
Never reads a store or a clock and never executes anything. Called by the engine, which
applies the plan in one transaction, and by simulations.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from iaflow.data.records import Decision, RunChange, StepChange
from iaflow.data.status import END_OF_STEP, LIVE_STEP, RunStatus, StepEnd, StepStatus
from iaflow.pipeline.conditions import Verdict
from iaflow.pipeline.definition import JoinType, On
from iaflow.pipeline.graph import Edge, Graph, Node
from iaflow.pipeline.plans import (
    Change,
    Needs,
    Plan,
    RunCancelled,
    RunStarted,
    Snapshot,
    StepCancelled,
    StepDelayed,
    StepEnded,
    StepPaused,
)
from iaflow.pipeline.routing import FAILURES, judge
from iaflow.pipeline.templating import RenderFailed, Scope, render

__all__ = ["advance", "first_needs"]


def first_needs(graph: Graph, step_id: str) -> Needs:
    """Return what planning the end of `step_id` surely looks at: its successors and operands."""
    node = graph.nodes[step_id]
    return Needs(
        steps=frozenset(edge.target for edge in node.outgoing) | {step_id, *node.step.cancels},
        outputs=frozenset(read for edge in node.outgoing for read in edge.reads),
        errors=frozenset(read for edge in node.outgoing for read in edge.reads_errors),
    )


def advance(graph: Graph, snapshot: Snapshot, change: Change) -> Plan | Needs:
    """
    Return every consequence of `change`, or what must be looked up first.

    The caller loads what is needed, in the same transaction, and asks again; each round
    goes a storey deeper into a cascade of skips, so there are at most `depth` rounds.
    The same arguments always give the same plan.
    """
    walk = _Walk(graph, snapshot)
    try:
        walk.begin(change)
        walk.spread()
    except _Unknown:
        pass  # what is missing was noted: `conclude` asks for it
    return walk.conclude()


# LANGUAGE 5: the output of a rejected person's step stays readable.
_READABLE = frozenset({StepEnd.SUCCESS, StepEnd.REJECTED})
_STATUS_OF_END = {
    StepEnd.SUCCESS: StepStatus.SUCCEEDED,
    StepEnd.SKIPPED: StepStatus.SKIPPED,
    StepEnd.CANCELLED: StepStatus.CANCELLED,
} | dict.fromkeys(FAILURES, StepStatus.FAILED)
_ENDED_RUN = {
    RunStatus.SUCCEEDED: "the run had succeeded",
    RunStatus.FAILED: "the run had failed",
    RunStatus.CANCELLED: "the run was cancelled",
}


@dataclass(slots=True)
class _Draft:
    """A step's row while the plan is made."""

    before: StepStatus | None
    status: StepStatus | None
    decided: int
    taken: int
    end: StepEnd | None = None
    error: Mapping[str, Any] | None = None
    is_end: bool = False
    handled: bool = False
    changed: bool = False


class _Unknown(Exception):
    pass


class _Walk:
    """
    One planning: follows the consequences of a change through the graph.

    What is not known is noted in the `missing_…` sets, and the walk goes on elsewhere, so
    that one round asks for all that it can.
    """

    def __init__(self, graph: Graph, snapshot: Snapshot) -> None:
        self.graph = graph
        self.snapshot = snapshot
        self.drafts: dict[str, _Draft] = {}
        self.decisions: list[Decision] = []
        self.decided: set[int] = set()
        self.new_outputs: dict[str, Any] = {}
        self.ended: deque[tuple[str, Any]] = deque()  # steps whose transitions are to be decided
        self.live = snapshot.run.live
        self.paused = snapshot.run.paused
        self.handled = snapshot.run.handled
        self.unhandled = snapshot.run.unhandled
        self.failure: tuple[str | None, str | None, str | None] = (None, None, None)
        self.run_end: RunStatus | None = None
        self.missing_steps: set[str] = set()
        self.missing_outputs: set[str] = set()
        self.missing_errors: set[str] = set()
        self.missing_everything = False

    # -- changes of steps

    def begin(self, change: Change) -> None:
        match change:
            case RunStarted():
                self.make_ready(self.graph.start)
            case StepEnded(step_id=step_id, end=end, output=output, error=error):
                self.end_step(step_id, end, output=output, error=error)
            case StepPaused(step_id=step_id):
                self.pause_step(step_id)
            case StepDelayed(step_id=step_id, error=error):
                self.delay_step(step_id, error)
            case StepCancelled(step_id=step_id, reason=reason):
                self.cancel_step(step_id, reason)
            case RunCancelled(reason=reason, status=status, code=code):
                self.end_run(status, code=code, message=reason)

    def make_ready(self, step_id: str) -> None:
        self._move(self._draft(step_id), StepStatus.READY)

    def pause_step(self, step_id: str) -> None:
        self._move(self._draft(step_id), StepStatus.WAITING)

    def delay_step(self, step_id: str, error: Mapping[str, Any]) -> None:
        draft = self._draft(step_id)
        draft.error = error
        self._move(draft, StepStatus.RETRYING)

    def cancel_step(self, step_id: str, reason: str) -> None:
        try:
            draft = self._draft(step_id)
        except _Unknown:
            return
        if draft.status not in END_OF_STEP:
            error = {"code": "cancelled", "message": reason}
            self.end_step(step_id, StepEnd.CANCELLED, error=error)

    def end_step(
        self,
        step_id: str,
        end: StepEnd,
        *,
        output: Any = None,
        error: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            draft = self._draft(step_id)
        except _Unknown:
            return
        draft.end, draft.error = end, error
        self.new_outputs[step_id] = output if end in _READABLE else None
        self._move(draft, _STATUS_OF_END[end])
        self.ended.append((step_id, output))

    # -- their consequences

    def spread(self) -> None:
        """Decide the transitions of every step that ended, and of those that end by it."""
        while self.ended and self.run_end is None:
            step_id, output = self.ended.popleft()
            try:
                self._leave(self.graph.nodes[step_id], self.drafts[step_id], output)
            except _Unknown:
                continue

    def _leave(self, node: Node, draft: _Draft, output: Any) -> None:
        assert draft.end is not None
        unknown = (
            {e.target for e in node.outgoing} - self.drafts.keys() - self.snapshot.steps.keys()
        )
        if unknown:
            self.missing_steps |= unknown
            raise _Unknown
        if draft.end is StepEnd.SUCCESS:
            for other in node.step.cancels:
                self.cancel_step(other, f"step {node.step.id!r} succeeded, which cancels it")
        verdicts, fault = judge(
            node, draft.end, lambda edge: self._scope(node, edge, draft.end, output)
        )
        if fault is not None and draft.end not in FAILURES:
            # LANGUAGE 3: the end becomes `failure`; output kept for people, null to references.
            draft.end = StepEnd.FAILURE
            draft.error = fault
            self.new_outputs[node.step.id] = None
            self._move(draft, StepStatus.FAILED)
            first = verdicts
            verdicts, _ = judge(
                node, draft.end, lambda edge: self._scope(node, edge, draft.end, None), first
            )
        was_open = {edge.index: self._is_open(edge.target) for edge in node.outgoing}
        for edge in node.outgoing:
            self._decide(edge, verdicts[edge.index])
        taken = [edge for edge in node.outgoing if verdicts[edge.index].taken]
        if draft.end is StepEnd.SUCCESS:
            draft.is_end = not taken
        elif draft.end in FAILURES:
            caught = any(e.on in _CATCHES and was_open[e.index] for e in taken)
            self._count_failure(
                node, draft, handled=caught or node.step.policy.on_failure == "continue"
            )

    def _count_failure(self, node: Node, draft: _Draft, *, handled: bool) -> None:
        draft.handled = handled
        if handled:
            self.handled += 1
            return
        self.unhandled += 1
        error = draft.error or {}
        if self.failure == (None, None, None):
            self.failure = (node.step.id, error.get("code"), error.get("message"))
        if self.graph.definition.on_failure == "fail_fast":
            self.end_run(
                RunStatus.FAILED,
                step_id=node.step.id,
                code=error.get("code"),
                message=error.get("message") or "",
            )

    def _scope(self, node: Node, edge: Edge, end: StepEnd | None, output: Any) -> Scope:
        outputs = self._known_outputs(edge.reads)
        errors = self._known_errors(edge.reads_errors)
        result = output if end in _READABLE else None
        if result is not None:
            outputs[node.step.id] = result
        run = self.snapshot.run
        return Scope(
            parameters=run.parameters,
            outputs=outputs,
            errors=errors,
            run={"id": run.run_id, "started_at": run.started_at},
            result=result,
        )

    def _known_outputs(self, ids: Iterable[str]) -> dict[str, Any]:
        wanted = list(ids)
        known = (
            {**self.snapshot.outputs, **self.new_outputs}
            if self.new_outputs
            else self.snapshot.outputs
        )
        missing = [step_id for step_id in wanted if step_id not in known]
        if missing:
            self.missing_outputs.update(missing)
            raise _Unknown
        return {step_id: known[step_id] for step_id in wanted if known[step_id] is not None}

    def _known_errors(self, ids: Iterable[str]) -> dict[str, Mapping[str, Any]]:
        known: dict[str, Mapping[str, Any]] = {}
        for step_id in ids:
            draft = self.drafts.get(step_id)
            if draft is not None and draft.end is not None:
                error = draft.error
            elif step_id in self.snapshot.errors:
                error = self.snapshot.errors[step_id]
            else:
                self.missing_errors.add(step_id)
                raise _Unknown
            if error is not None:
                known[step_id] = error
        return known

    # -- transitions and joins

    def _is_open(self, target: str) -> bool:
        return self._draft(target).status in (None, StepStatus.PENDING)

    def _decide(self, edge: Edge, verdict: Verdict) -> None:
        self._record(edge, verdict.taken, verdict.reason)
        target = self._draft(edge.target)
        if target.status not in (None, StepStatus.PENDING):
            return  # a join that fired earlier, or a cancelled step: nothing changes any more
        target.decided += 1
        target.taken += verdict.taken
        node = self.graph.nodes[edge.target]
        match self._join(node, target, verdict.taken):
            case True:
                self.make_ready(edge.target)
                if node.step.join.cancel_remaining:
                    self._cancel_remaining(node)
            case False:
                self.end_step(edge.target, StepEnd.SKIPPED)
            case None:
                self._move(target, StepStatus.PENDING)

    def _join(self, node: Node, draft: _Draft, taken: bool) -> bool | None:
        """Return True to run, False to skip, None to wait on (LANGUAGE section 4)."""
        incoming = len(node.incoming)
        all_decided = draft.decided == incoming
        join = node.step.join
        match join.type:
            case JoinType.ALL_TAKEN:
                return draft.taken > 0 if all_decided else None
            case JoinType.ALL_SUCCESS:
                if not taken:
                    return False
                return True if all_decided else None
            case JoinType.N_OF_M:
                if draft.taken >= join.n:
                    return True
                can_still_come = incoming - (draft.decided - draft.taken)
                return False if can_still_come < join.n else None

    def _cancel_remaining(self, join: Node) -> None:
        """Cancel the unfinished steps whose every undecided route runs into `join`."""
        decided = self._all_decided()
        doomed: set[str] = set()
        arrivals = {join.step.id}
        for step_id in reversed(self.graph.order):
            open_routes = [
                edge
                for edge in self.graph.nodes[step_id].outgoing
                if edge.on in _ROUTES and edge.index not in decided
            ]
            if not open_routes or step_id in arrivals:
                continue
            if all(edge.target in arrivals or edge.target in doomed for edge in open_routes):
                doomed.add(step_id)
        reason = f"the join {join.step.id!r} has what it waits for"
        for step_id in self.graph.order:
            if step_id in doomed:
                self.cancel_step(step_id, reason)

    # -- the end

    def end_run(
        self,
        status: RunStatus,
        *,
        step_id: str | None = None,
        code: str | None = None,
        message: str = "",
    ) -> None:
        """End the run at once: what is unfinished is cancelled, what is undecided refused."""
        if self.snapshot.decided is None:
            self.missing_everything = True
            self.run_end = status
            return
        self.run_end = status
        self.failure = (step_id, code, message or None)
        for other in self.graph.order:
            draft = self._draft(other)
            if draft.status not in END_OF_STEP:
                draft.end = StepEnd.CANCELLED
                draft.error = {"code": "cancelled", "message": _ENDED_RUN[status]}
                self._move(draft, StepStatus.CANCELLED)
        already = self._all_decided()
        reason = {"kind": "run_ended", "status": status.value}
        for edge in self.graph.edges:
            if edge.index not in already:
                self._record(edge, False, reason)
        self.ended.clear()

    def conclude(self) -> Plan | Needs:
        """Return the plan, or what is missing for it."""
        if (
            self.missing_steps
            or self.missing_outputs
            or self.missing_errors
            or self.missing_everything
        ):
            return Needs(
                steps=frozenset(self.missing_steps),
                outputs=frozenset(self.missing_outputs),
                errors=frozenset(self.missing_errors),
                everything=self.missing_everything,
            )
        status = self.run_end or self._natural_status()
        step_id, code, message = self.failure
        outputs: Any = None
        if status is RunStatus.SUCCEEDED:
            rendered = self._render_outputs()
            if isinstance(rendered, Needs):
                return rendered
            outputs = rendered
            if isinstance(rendered, RenderFailed):
                status, outputs = RunStatus.FAILED, None
                step_id, code, message = None, rendered.code, f"outputs: {rendered}"
        return Plan(
            run=RunChange(
                status=status,
                live=self.live,
                paused=self.paused,
                handled=self.handled,
                unhandled=self.unhandled,
                outputs=outputs,
                error_step_id=step_id,
                error_code=code,
                error_message=message,
            ),
            steps=tuple(
                StepChange(
                    step_id=step_id,
                    before=draft.before,
                    status=draft.status,
                    decided=draft.decided,
                    taken=draft.taken,
                    end=draft.end,
                    error=draft.error,
                    is_end=draft.is_end,
                    handled=draft.handled,
                )
                for step_id, draft in self.drafts.items()
                if draft.changed and draft.status is not None
            ),
            decisions=tuple(self.decisions),
        )

    def _natural_status(self) -> RunStatus:
        if self.live == 0:
            return RunStatus.FAILED if self.unhandled else RunStatus.SUCCEEDED
        return RunStatus.WAITING if self.paused == self.live else RunStatus.RUNNING

    def _render_outputs(self) -> Any:
        graph = self.graph
        if graph.outputs is None:
            return self._end_outputs()
        try:
            outputs = self._known_outputs(graph.output_reads)
            errors = self._known_errors(graph.output_reads_errors)
        except _Unknown:
            return Needs(
                outputs=frozenset(self.missing_outputs), errors=frozenset(self.missing_errors)
            )
        run = self.snapshot.run
        scope = Scope(
            parameters=run.parameters,
            outputs=outputs,
            errors=errors,
            run={"id": run.run_id, "started_at": run.started_at},
        )
        try:
            return render(graph.outputs, scope)
        except RenderFailed as error:
            return error

    def _end_outputs(self) -> Any:
        """LANGUAGE 1: one end step gives its output, several an object by id, none `{}`."""
        if self.snapshot.ends is None:
            return Needs(ends=True)
        now = {step_id for step_id, draft in self.drafts.items() if draft.is_end}
        ends = [s for s in self.graph.order if s in now or s in self.snapshot.ends]
        ends.sort(key=lambda step_id: self.graph.nodes[step_id].step.position)
        try:
            outputs = self._known_outputs(ends)
        except _Unknown:
            return Needs(outputs=frozenset(self.missing_outputs), ends=True)
        if len(ends) == 1:
            return outputs[ends[0]]
        return {step_id: outputs[step_id] for step_id in ends}

    # -- rows

    def _draft(self, step_id: str) -> _Draft:
        draft = self.drafts.get(step_id)
        if draft is None:
            if step_id not in self.snapshot.steps:
                self.missing_steps.add(step_id)
                raise _Unknown
            view = self.snapshot.steps[step_id]
            draft = (
                _Draft(None, None, 0, 0)
                if view is None
                else _Draft(view.status, view.status, view.decided, view.taken)
            )
            self.drafts[step_id] = draft
        return draft

    def _move(self, draft: _Draft, status: StepStatus) -> None:
        self.live += (status in LIVE_STEP) - (draft.status in LIVE_STEP)
        self.paused += (status is StepStatus.WAITING) - (draft.status is StepStatus.WAITING)
        draft.status = status
        draft.changed = True

    def _record(self, edge: Edge, taken: bool, reason: Mapping[str, Any]) -> None:
        self.decisions.append(Decision(edge.index, edge.source, edge.target, taken, reason))
        self.decided.add(edge.index)

    def _all_decided(self) -> frozenset[int]:
        if self.snapshot.decided is None:
            self.missing_everything = True
            raise _Unknown
        return self.snapshot.decided | self.decided


_CATCHES = frozenset({On.FAILURE, On.TIMEOUT, On.EXPIRED, On.REJECTED, On.COMPLETED})
_ROUTES = frozenset({On.SUCCESS, On.COMPLETED})
