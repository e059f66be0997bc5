"""What happens next: the pure heart of a run.

Decides, from a compiled definition, a snapshot of a run and one change, every consequence:
decisions with their reasons, steps that become ready, skipped or cancelled, the run's end.
Never reads a store or a clock and never executes anything. Called by the engine, which
applies the plan in one transaction, and by simulations.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from iaflow.data.records import Decision, RunChange, RunView, StepChange, StepView
from iaflow.data.status import END_OF_STEP, LIVE_STEP, RunStatus, StepEnd, StepStatus
from iaflow.pipeline.conditions import ConditionFailed, Otherwise, Verdict, evaluate
from iaflow.pipeline.definition import JoinType, On
from iaflow.pipeline.graph import Edge, Graph, Node
from iaflow.pipeline.templating import ReferenceMissing, Scope, render

__all__ = [
    "Change",
    "Needs",
    "Plan",
    "RunCancelled",
    "RunStarted",
    "Snapshot",
    "StepCancelled",
    "StepDelayed",
    "StepEnded",
    "StepPaused",
    "advance",
    "first_needs",
    "watches",
]


# --- the snapshot: what the planner is told of a run


@dataclass(frozen=True, slots=True)
class Snapshot:
    """
    What is known of a run. A key that is absent was not looked up; None was, and is not there.

    Attributes:
        steps: step id to its row, None if it has none yet.
        outputs: step id to its output, None if it did not succeed.
        errors: step id to its recorded error, None if it has none.
        decided: indexes of the decided transitions; None if not looked up.
        ends: succeeded steps without a taken transition; None if not looked up.
    """

    run: RunView
    steps: Mapping[str, StepView | None] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)
    errors: Mapping[str, Any] = field(default_factory=dict)
    decided: frozenset[int] | None = None
    ends: tuple[str, ...] | None = None

    def plus(self, more: Snapshot) -> Snapshot:
        """Return this snapshot with what `more` knows beside it (of the same moment)."""
        return replace(
            self,
            steps={**self.steps, **more.steps},
            outputs={**self.outputs, **more.outputs},
            errors={**self.errors, **more.errors},
            decided=more.decided if more.decided is not None else self.decided,
            ends=more.ends if more.ends is not None else self.ends,
        )


@dataclass(frozen=True, slots=True)
class Needs:
    """
    What the planner must be told before it can plan.

    Attributes:
        steps, outputs, errors: ids of steps to look up.
        everything: all step rows and all decided transitions of the run.
        ends: the succeeded steps without a taken transition.
    """

    steps: frozenset[str] = frozenset()
    outputs: frozenset[str] = frozenset()
    errors: frozenset[str] = frozenset()
    everything: bool = False
    ends: bool = False


# --- the change: what has happened


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The run begins."""


@dataclass(frozen=True, slots=True)
class StepEnded:
    """
    A step reached its end (its last attempt, an answer, an expiry).

    Attributes:
        output: the output of a success; None otherwise.
        error: `{"code", "message", …}` of a failure; None otherwise.
    """

    step_id: str
    end: StepEnd
    output: Any = None
    error: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class StepPaused:
    """A step waits for people from now on."""

    step_id: str


@dataclass(frozen=True, slots=True)
class StepDelayed:
    """An attempt failed and there will be another one later."""

    step_id: str
    error: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StepCancelled:
    """Somebody cancelled one step of the run."""

    step_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class RunCancelled:
    """Somebody cancelled the run, or its time is over (`status` FAILED, code `run_timeout`)."""

    reason: str
    status: RunStatus = RunStatus.CANCELLED
    code: str | None = None


Change = RunStarted | StepEnded | StepPaused | StepDelayed | StepCancelled | RunCancelled


# --- the plan: what must be written, all of it in one transaction


@dataclass(frozen=True, slots=True)
class Plan:
    """Every consequence of one change; steps and decisions in the order they came about."""

    run: RunChange
    steps: tuple[StepChange, ...]
    decisions: tuple[Decision, ...]

    @property
    def ready(self) -> tuple[str, ...]:
        """Ids of the steps that became ready."""
        return tuple(s.step_id for s in self.steps if s.status is StepStatus.READY)


# --- deciding


def first_needs(graph: Graph, step_id: str) -> Needs:
    """Return what planning the end of `step_id` surely looks at: its successors and operands."""
    node = graph.nodes[step_id]
    return Needs(
        steps=frozenset(edge.target for edge in node.outgoing) | {step_id, *node.step.cancels},
        outputs=frozenset(read for edge in node.outgoing for read in edge.reads),
        errors=frozenset(read for edge in node.outgoing for read in edge.reads_errors),
    )


def watches(on: On, end: StepEnd, *, continues: bool = False) -> bool:
    """
    Tell whether a transition with `on` looks at a source that ended so (LANGUAGE section 3).

    Args:
        continues: the source failed under ``on_failure: continue``.
    """
    failed = end in _FAILURES
    match on:
        case On.SUCCESS:
            return end is StepEnd.SUCCESS or (failed and continues)
        case On.FAILURE:
            return failed
        case On.COMPLETED:
            return failed or end is StepEnd.SUCCESS
        case On.SKIPPED | On.TIMEOUT | On.EXPIRED | On.REJECTED:
            return end.value == on.value


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


_FAILURES = frozenset({StepEnd.FAILURE, StepEnd.TIMEOUT, StepEnd.EXPIRED, StepEnd.REJECTED})
# LANGUAGE 5: the output of a rejected person's step stays readable.
_READABLE = frozenset({StepEnd.SUCCESS, StepEnd.REJECTED})
_STATUS_OF_END = {
    StepEnd.SUCCESS: StepStatus.SUCCEEDED,
    StepEnd.SKIPPED: StepStatus.SKIPPED,
    StepEnd.CANCELLED: StepStatus.CANCELLED,
} | dict.fromkeys(_FAILURES, StepStatus.FAILED)
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


class _Unknown(Exception):  # noqa: N818  control flow inside this room: something must be looked up
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
        self.end_message = ""
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
        self, step_id: str, end: StepEnd, *, output: Any = None, error: Mapping[str, Any] | None = None
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
        unknown = {e.target for e in node.outgoing} - self.drafts.keys() - self.snapshot.steps.keys()
        if unknown:
            self.missing_steps |= unknown
            raise _Unknown
        if draft.end is StepEnd.SUCCESS:
            for other in node.step.cancels:
                self.cancel_step(other, f"step {node.step.id!r} succeeded, which cancels it")
        verdicts, fault = self._judge(node, draft.end, output)
        if fault is not None and draft.end not in _FAILURES:
            # LANGUAGE 3: the end becomes `failure`; output kept for people, null to references.
            draft.end = StepEnd.FAILURE
            draft.error = fault
            self.new_outputs[node.step.id] = None
            self._move(draft, StepStatus.FAILED)
            first = verdicts
            verdicts, _ = self._judge(node, draft.end, None, judged=first)
        was_open = {edge.index: self._is_open(edge.target) for edge in node.outgoing}
        for edge in node.outgoing:
            self._decide(edge, verdicts[edge.index])
        taken = [edge for edge in node.outgoing if verdicts[edge.index].taken]
        if draft.end is StepEnd.SUCCESS:
            draft.is_end = not taken
        elif draft.end in _FAILURES:
            caught = any(e.on in _CATCHES and was_open[e.index] for e in taken)
            self._count_failure(node, draft, handled=caught or node.step.policy.on_failure == "continue")

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

    def _judge(
        self,
        node: Node,
        end: StepEnd | None,
        output: Any,
        judged: Mapping[int, Verdict] | None = None,
    ) -> tuple[dict[int, Verdict], Mapping[str, Any] | None]:
        """
        Give a verdict on each outgoing transition, and the fault that some condition met.

        Args:
            judged: verdicts under an earlier end, whose faults are kept as reasons.
        """
        assert end is not None
        step = node.step
        continues = step.policy.on_failure == "continue"
        verdicts: dict[int, Verdict] = {}
        fault: Mapping[str, Any] | None = None
        watching = [e for e in node.outgoing if watches(e.on, end, continues=continues)]
        seen = {edge.index for edge in watching}
        for edge in node.outgoing:
            if edge.index not in seen:
                earlier = judged.get(edge.index) if judged else None
                if earlier is not None and earlier.reason.get("kind") == "error":
                    verdicts[edge.index] = earlier
                else:
                    verdicts[edge.index] = _refuse({"kind": "end", "on": edge.on.value, "end": end.value})
        plain = [e for e in watching if not isinstance(e.condition, Otherwise)]
        last = [e for e in watching if isinstance(e.condition, Otherwise)]
        exclusive = step.routing == "exclusive"
        chosen: Edge | None = None
        for edge in plain:
            if exclusive and chosen is not None:
                verdicts[edge.index] = _refuse({"kind": "exclusive", "taken": chosen.index})
                continue
            try:
                verdict = evaluate(edge.condition, self._scope(node, edge, end, output))
            except ConditionFailed as error:
                fault = fault or {"code": error.code, "message": f"{_name(edge)}: {error}"}
                verdict = _refuse(
                    {
                        "kind": "error",
                        "code": error.code,
                        "message": str(error),
                        "condition": error.reason,
                    }
                )
            verdicts[edge.index] = verdict
            if verdict.taken:
                chosen = chosen or edge
        for edge in last:
            siblings = [e for e in plain if e.on is edge.on and verdicts[e.index].taken]
            if exclusive and chosen is not None:
                verdicts[edge.index] = _refuse({"kind": "exclusive", "taken": chosen.index})
            elif siblings:
                verdicts[edge.index] = _refuse({"kind": "otherwise", "taken": siblings[0].index})
            else:
                verdicts[edge.index] = Verdict(True, {"kind": "otherwise", "verdict": True})
                chosen = chosen or edge
        if exclusive and chosen is None and end is StepEnd.SUCCESS and fault is None and node.outgoing:
            fault = {
                "code": "no_route",
                "message": f"step {step.id!r} routes exclusively and no transition was true",
            }
        return verdicts, fault

    def _scope(self, node: Node, edge: Edge, end: StepEnd, output: Any) -> Scope:
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
        known = {**self.snapshot.outputs, **self.new_outputs} if self.new_outputs else self.snapshot.outputs
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
        self, status: RunStatus, *, step_id: str | None = None, code: str | None = None, message: str = ""
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
        if self.missing_steps or self.missing_outputs or self.missing_errors or self.missing_everything:
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
            if isinstance(rendered, ReferenceMissing):
                status, outputs = RunStatus.FAILED, None
                step_id, code, message = None, "reference_missing", f"outputs: {rendered}"
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
        except ReferenceMissing as error:
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


def _refuse(reason: Mapping[str, Any]) -> Verdict:
    return Verdict(False, {**reason, "verdict": False})


def _name(edge: Edge) -> str:
    return f"the condition of transition {edge.index} ({edge.source} -> {edge.target})"
