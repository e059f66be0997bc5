"""What happens next: the pure heart of a run.

Decides, from a compiled definition, a snapshot of a run and one change, every consequence:
decisions with their reasons, steps that become ready, skipped or cancelled, the run's end.
Never reads a store or a clock and never executes anything. Called by the engine, which
applies the plan in one transaction, and by simulations.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from iaflow.data.records import ItemCounts, NewItems, RunChange, StepChange
from iaflow.data.status import END_OF_STEP, RunStatus, StepEnd, StepStatus, WaitsFor
from iaflow.pipeline.conditions import Verdict
from iaflow.pipeline.definition import JoinType, On, StepType
from iaflow.pipeline.drafts import READABLE, Draft, Drafts, Unknown, is_outside, natural_status
from iaflow.pipeline.graph import Edge, Graph, Node
from iaflow.pipeline.items import (
    Progress,
    begin_items,
    count_end,
    count_startable,
    gather,
    judge_items,
)
from iaflow.pipeline.plans import (
    Change,
    CodeQuestion,
    Needs,
    Plan,
    RunCancelled,
    RunReopened,
    RunStarted,
    Snapshot,
    StepCancelled,
    StepDelayed,
    StepEnded,
    StepFanned,
    StepWaits,
)
from iaflow.pipeline.routing import FAILURES, CodeNeeded, judge
from iaflow.pipeline.templating import RenderFailed

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
    except Unknown:
        pass  # what is missing was noted: `conclude` asks for it
    return walk.conclude()


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


class _Walk:
    """One planning: follows the consequences of a change through the graph."""

    def __init__(self, graph: Graph, snapshot: Snapshot) -> None:
        self.graph = graph
        self.snapshot = snapshot
        self.drafts = Drafts(graph, snapshot)
        self.ended: deque[tuple[str, Any]] = deque()  # steps whose transitions are to be decided
        self.handled = snapshot.run.handled
        self.unhandled = snapshot.run.unhandled
        self.failure: tuple[str | None, str | None, str | None] = (None, None, None)
        self.run_end: RunStatus | None = None
        self.given_outputs: Any = None  # by a `terminate` step
        self.new_items: NewItems | None = None
        self.more_items: list[tuple[str, int]] = []
        self.dropped_items: list[str] = []

    # -- changes of steps

    def begin(self, change: Change) -> None:
        match change:
            case RunStarted():
                self.make_ready(self.graph.start)
            case StepEnded(index=index) if index >= 0:
                self.end_item(change)
            case StepEnded(step_id=step_id, end=end, output=output, error=error):
                self.end_step(step_id, end, output=output, error=error)
            case StepWaits(step_id=step_id, waits_for=waits_for, index=index):
                self.wait(step_id, index, waits_for)
            case StepDelayed(step_id=step_id, index=index, error=error):
                self.delay(step_id, index, error)
            case StepFanned(step_id=step_id, count=count):
                self.fan_out(step_id, count)
            case StepCancelled(step_id=step_id, reason=reason):
                self.cancel_step(step_id, reason, "person")
            case RunReopened():
                self.reopen(change)
            case RunCancelled(reason=reason, status=status, code=code):
                self.end_run(status, code=code, message=reason)

    def make_ready(self, step_id: str) -> None:
        node, draft = self.graph.nodes[step_id], self.drafts.row(step_id)
        # With items, each of them has a key of its own, once there are items.
        if node.concurrency_key is not None and node.step.foreach is None:
            try:
                draft.concurrency_key = self.drafts.key_of(node)
            except RenderFailed as error:
                fault = {"code": error.code, "message": str(error), "attempts": 0}
                self.end_step(step_id, StepEnd.FAILURE, error=fault)
                return
        self.drafts.move(draft, StepStatus.READY)

    def wait(self, step_id: str, index: int, waits_for: WaitsFor) -> None:
        if index >= 0:
            self._move_item(step_id, index, StepStatus.WAITING, waits_for=waits_for)
        else:
            self.drafts.move(self.drafts.row(step_id), StepStatus.WAITING, waits_for)

    def delay(self, step_id: str, index: int, error: Mapping[str, Any]) -> None:
        if index >= 0:
            self._move_item(step_id, index, StepStatus.RETRYING, error=error)
            return
        draft = self.drafts.row(step_id)
        draft.error = error
        self.drafts.move(draft, StepStatus.RETRYING)

    def reopen(self, reopened: RunReopened) -> None:
        """Decide once more what was decided by the run's end, and join what is pending again."""
        for step_id, end in reopened.leave_again:
            self._leave_again(self.graph.nodes[step_id], end)
        for step_id in reopened.steps:
            draft, node = self.drafts.row(step_id), self.graph.nodes[step_id]
            if draft.items is not None and draft.status is StepStatus.RUNNING:
                self._start_more(step_id, draft, draft.items)
            elif draft.status is StepStatus.PENDING:
                draft.changed = True
                if not node.incoming:
                    self.make_ready(step_id)
                elif draft.decided:
                    self._settle_join(node, draft)

    def cancel_step(self, step_id: str, reason: str, by: str) -> None:
        try:
            draft = self.drafts.row(step_id)
        except Unknown:
            return
        if draft.status not in END_OF_STEP:
            error = {"code": "cancelled", "message": reason, "by": by}
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
            draft = self.drafts.row(step_id)
        except Unknown:
            return
        draft.end, draft.error = end, error
        self.drafts.new_outputs[step_id] = output if end in READABLE else None
        self._drop_items(step_id, draft)
        self.drafts.move(draft, _STATUS_OF_END[end])
        self.ended.append((step_id, output))

    # -- items

    def fan_out(self, step_id: str, count: int) -> None:
        foreach = self.graph.nodes[step_id].step.foreach
        assert foreach is not None
        draft = self.drafts.row(step_id)
        counts = begin_items(foreach, count)
        if judge_items(foreach, counts) is Progress.GOES_ON:
            self.drafts.set_items(draft, counts)
            self.new_items = NewItems(step_id, count, counts.started)
        else:
            self._end_foreach(step_id, counts)

    def end_item(self, ended: StepEnded) -> None:
        """One item has ended: count it, then start more items, or end the step."""
        step_id, end = ended.step_id, ended.end
        node, draft = self.graph.nodes[step_id], self.drafts.row(step_id)
        foreach = node.step.foreach
        assert foreach is not None
        self._move_item(step_id, ended.index, _STATUS_OF_END[end], end=end, error=ended.error)
        assert draft.items is not None
        counts = count_end(draft.items, end)
        self.drafts.set_items(draft, counts)
        if judge_items(foreach, counts) is not Progress.GOES_ON:
            self._end_foreach(step_id, counts, ended)
            return
        self._start_more(step_id, draft, counts)

    def _start_more(self, step_id: str, draft: Draft, counts: ItemCounts) -> None:
        foreach = self.graph.nodes[step_id].step.foreach
        assert foreach is not None
        more = count_startable(foreach, counts)
        if more:
            self.drafts.set_items(draft, replace(counts, started=counts.started + more))
            self.more_items.append((step_id, more))

    def _end_foreach(
        self, step_id: str, counts: ItemCounts, ended: StepEnded | None = None
    ) -> None:
        node, draft = self.graph.nodes[step_id], self.drafts.row(step_id)
        foreach = node.step.foreach
        assert foreach is not None
        if judge_items(foreach, counts) is Progress.FAILED:
            self.end_step(step_id, StepEnd.FAILURE, error=_items_failed(node, counts, ended))
            return
        results = list(self.drafts.results_of(step_id)) if ended is not None else []
        if ended is not None and ended.end is StepEnd.SUCCESS:
            results[ended.index] = ended.output
        output, error = gather(tuple(results))
        if error is not None:
            self.end_step(step_id, StepEnd.FAILURE, error=error)
            return
        draft.output = output
        self.end_step(step_id, StepEnd.SUCCESS, output=output)

    def _move_item(
        self,
        step_id: str,
        index: int,
        status: StepStatus,
        *,
        waits_for: WaitsFor | None = None,
        end: StepEnd | None = None,
        error: Mapping[str, Any] | None = None,
    ) -> None:
        item, draft = self.snapshot.item, self.drafts.row(step_id)
        assert item is not None, "an item's change comes with its row"
        self.drafts.items.append(
            StepChange(
                step_id=step_id,
                before=item.status,
                status=status,
                decided=0,
                taken=0,
                end=end,
                error=error,
                index=index,
                waits_for=waits_for,
            )
        )
        rest = is_outside(status, waits_for) - is_outside(item.status, item.waits_for)
        if rest and draft.items is not None:
            counts = replace(draft.items, paused=draft.items.paused + rest)
            self.drafts.set_items(draft, counts)

    def _drop_items(self, step_id: str, draft: Draft) -> None:
        """The step ends: what is unfinished of its items ends with it."""
        counts = draft.items
        if counts is None or counts.ended == counts.total:
            return
        # What was never started counts as started and ended at once: nothing of it lives.
        self.drafts.set_items(
            draft, replace(counts, started=counts.total, ended=counts.total, paused=0)
        )
        self.dropped_items.append(step_id)

    # -- their consequences

    def spread(self) -> None:
        """Decide the transitions of every step that ended, and of those that end by it."""
        while self.ended and self.run_end is None:
            step_id, output = self.ended.popleft()
            try:
                self._leave(self.graph.nodes[step_id], self.drafts.row(step_id), output)
            except Unknown:
                continue

    def _leave(self, node: Node, draft: Draft, output: Any) -> None:
        assert draft.end is not None
        self.drafts.require_steps(edge.target for edge in node.outgoing)
        if draft.end is StepEnd.SUCCESS:
            if node.step.type is StepType.TERMINATE:
                self._terminate(node, output)
                return
            for other in node.step.cancels:
                reason = f"step {node.step.id!r} succeeded, which cancels it"
                self.cancel_step(other, reason, "step")
        verdicts, fault = self._judge(node, draft.end, output)
        if fault is not None and draft.end not in FAILURES:
            # LANGUAGE 3: the end becomes `failure`; output kept for people, null to references.
            draft.end = StepEnd.FAILURE
            draft.error = fault
            self.drafts.new_outputs[node.step.id] = None
            self.drafts.move(draft, StepStatus.FAILED)
            verdicts, _ = self._judge(node, draft.end, None, verdicts)
        taken = [edge for edge in node.outgoing if verdicts[edge.index].taken]
        if draft.end in FAILURES:
            caught = any(e.on in _CATCHES and self.drafts.is_open(e.target) for e in taken)
            handled = caught or node.step.policy.on_failure == "continue"
            self._count_failure(node, draft, handled=handled)
            if not handled and self.graph.definition.on_failure == "fail_fast":
                self._fail_fast(node, draft, verdicts)
                return
        for edge in node.outgoing:
            self._decide(edge, verdicts[edge.index])
        if draft.end is StepEnd.SUCCESS:
            draft.is_end = not taken

    def _judge(
        self, node: Node, end: StepEnd, output: Any, earlier: Mapping[int, Verdict] | None = None
    ) -> tuple[dict[int, Verdict], Mapping[str, Any] | None]:
        try:
            return judge(
                node,
                end,
                lambda edge: self.drafts.scope_of(node, edge, end, output),
                self.snapshot.judged,
                earlier,
            )
        except CodeNeeded as needed:
            result = output if end in READABLE else None
            error = self.drafts.row(node.step.id).error
            self.drafts.missing_code += [
                CodeQuestion(transition, pointer, node.step.id, end, result, error)
                for transition, pointer in sorted(needed.places)
            ]
            raise Unknown from None

    def _count_failure(self, node: Node, draft: Draft, *, handled: bool) -> None:
        draft.handled = handled
        if handled:
            self.handled += 1
            return
        self.unhandled += 1
        error = draft.error or {}
        if self.failure == (None, None, None):
            self.failure = (node.step.id, error.get("code"), error.get("message"))

    def _fail_fast(self, node: Node, draft: Draft, verdicts: Mapping[int, Verdict]) -> None:
        """The run ends with the step: its transitions are decided, and lead nowhere any more."""
        for edge in node.outgoing:
            self.drafts.record(edge, verdicts[edge.index].taken, verdicts[edge.index].reason)
        error = draft.error or {}
        self.end_run(
            RunStatus.FAILED,
            step_id=node.step.id,
            code=error.get("code"),
            message=error.get("message") or "",
        )

    # -- transitions and joins

    def _decide(self, edge: Edge, verdict: Verdict) -> None:
        self.drafts.record(edge, verdict.taken, verdict.reason)
        target = self.drafts.row(edge.target)
        if target.status not in (None, StepStatus.PENDING):
            return  # a join that fired earlier, or a cancelled step: nothing changes any more
        target.decided += 1
        target.taken += verdict.taken
        self._settle_join(self.graph.nodes[edge.target], target)

    def _settle_join(self, node: Node, draft: Draft) -> None:
        match _join(node, draft):
            case True:
                self.make_ready(node.step.id)
                if node.step.join.cancel_remaining:
                    self._cancel_remaining(node)
            case False:
                self.end_step(node.step.id, StepEnd.SKIPPED)
            case None:
                self.drafts.move(draft, StepStatus.PENDING)

    def _leave_again(self, node: Node, end: StepEnd) -> None:
        """Judge the transitions of an ended step that only the run's end had decided."""
        decided = self.drafts.all_decided()
        output = self.drafts.outputs_of((node.step.id,)).get(node.step.id)
        verdicts, _ = self._judge(node, end, output)
        self.drafts.require_steps(edge.target for edge in node.outgoing)
        for edge in node.outgoing:
            if edge.index not in decided:
                self._decide(edge, verdicts[edge.index])

    def _cancel_remaining(self, join: Node) -> None:
        """Cancel the unfinished steps whose every undecided route runs into `join`."""
        decided = self.drafts.all_decided()
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
                self.cancel_step(step_id, reason, "step")

    # -- the end

    def _terminate(self, node: Node, output: Any) -> None:
        """LANGUAGE 2: the run ends at once; a failure unhandled before keeps it failed."""
        config = node.step.config
        status = RunStatus(config["status"])
        self.given_outputs = output
        if status is RunStatus.SUCCEEDED and self.unhandled == 0:
            self.end_run(status)
            return
        message = config.get("message") or f"step {node.step.id!r} ended the run"
        self.end_run(RunStatus.FAILED, step_id=node.step.id, code="terminated", message=message)

    def end_run(
        self,
        status: RunStatus,
        *,
        step_id: str | None = None,
        code: str | None = None,
        message: str = "",
    ) -> None:
        """End the run at once: what is unfinished is cancelled, what is undecided refused."""
        drafts = self.drafts
        if self.snapshot.decided is None:
            drafts.missing_everything = True
            self.run_end = status
            return
        self.run_end = status
        self.failure = (step_id, code, message or None)
        for other in self.graph.order:
            draft = drafts.row(other)
            if draft.status not in END_OF_STEP:
                draft.end = StepEnd.CANCELLED
                draft.error = {"code": "cancelled", "message": _ENDED_RUN[status], "by": "run"}
                self._drop_items(other, draft)
                drafts.move(draft, StepStatus.CANCELLED)
        already = drafts.all_decided()
        reason = {"kind": "run_ended", "status": status.value}
        for edge in self.graph.edges:
            if edge.index not in already:
                drafts.record(edge, False, reason)
        self.ended.clear()

    def conclude(self) -> Plan | Needs:
        """Return the plan, or what is missing for it."""
        drafts = self.drafts
        needs = drafts.needs()
        if needs is not None:
            return needs
        status = self.run_end or natural_status(drafts.live, drafts.paused, self.unhandled)
        step_id, code, message = self.failure
        outputs: Any = None
        if status is RunStatus.SUCCEEDED:
            outputs = drafts.render_outputs(self.given_outputs)
            if isinstance(outputs, Needs):
                return outputs
            if isinstance(outputs, RenderFailed):
                step_id, code, message = None, outputs.code, f"outputs: {outputs}"
                status, outputs = RunStatus.FAILED, None
        return Plan(
            run=RunChange(
                status=status,
                live=drafts.live,
                paused=drafts.paused,
                handled=self.handled,
                unhandled=self.unhandled,
                outputs=outputs,
                error_step_id=step_id,
                error_code=code,
                error_message=message,
            ),
            steps=drafts.changes(),
            decisions=tuple(drafts.decisions),
            new_items=self.new_items,
            more_items=tuple(self.more_items),
            dropped_items=tuple(self.dropped_items),
        )


def _join(node: Node, draft: Draft) -> bool | None:
    """Return True to run, False to skip, None to wait on (LANGUAGE section 4)."""
    incoming = len(node.incoming)
    all_decided = draft.decided == incoming
    join = node.step.join
    match join.type:
        case JoinType.ALL_TAKEN:
            return draft.taken > 0 if all_decided else None
        case JoinType.ALL_SUCCESS:
            if draft.taken < draft.decided:
                return False
            return True if all_decided else None
        case JoinType.N_OF_M:
            if draft.taken >= join.n:
                return True
            can_still_come = incoming - (draft.decided - draft.taken)
            return False if can_still_come < join.n else None


def _items_failed(node: Node, counts: ItemCounts, ended: StepEnded | None) -> dict[str, Any]:
    foreach = node.step.foreach
    assert foreach is not None
    if foreach.n is not None:
        message = f"{foreach.n} successes are out of reach: {counts.failed} of {counts.total} items"
        message += " failed"
    else:
        tolerated = foreach.tolerated_failures
        message = f"{counts.failed} of {counts.total} items failed, {tolerated} are tolerated"
    if ended is not None and ended.error is not None:
        message += f"; the last, item {ended.index}: {ended.error['code']}"
    return {"code": "items_failed", "message": message, "attempts": 1}


_CATCHES = frozenset({On.FAILURE, On.TIMEOUT, On.EXPIRED, On.REJECTED, On.COMPLETED})
_ROUTES = frozenset({On.SUCCESS, On.COMPLETED})
