"""The engine: applies the planner's plans in transactions and returns what became ready.

Decides which transaction each verb is and in which order its rows are locked; never what
follows from a change (the planner does) and never who executes a task: it has no executor,
so nothing can be published inside a transaction. Called by executors, maintenance and the
client.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import uuid_utils

from iaflow.clock import Clock
from iaflow.data.records import (
    NO_INDEX,
    Claim,
    Failed,
    Outcome,
    Paused,
    PauseRecord,
    Released,
    RunChange,
    RunView,
    Skipped,
    StepTask,
    Succeeded,
)
from iaflow.data.status import END_OF_RUN, PauseStatus, RunStatus, StepEnd, StepStatus
from iaflow.database.dialects import Connection, Database, dump_json
from iaflow.database.run_store import ClaimStore, PauseStore, ReadStore, SettleStore
from iaflow.database.run_store.claims import LostClaim
from iaflow.database.run_store.reads import RunHeader
from iaflow.database.run_store.settles import LockedRun, NewRun, StepSettlement
from iaflow.errors import AnswerRefused, Conflict, NotFound
from iaflow.pipeline.conditions import ConditionFailed, evaluate, parse_condition
from iaflow.pipeline.definition import JoinType
from iaflow.pipeline.forms import parse_form, validate_answer
from iaflow.pipeline.graph import Graph, Node
from iaflow.pipeline.loader import Library
from iaflow.pipeline.planner import (
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
    advance,
    first_needs,
)
from iaflow.pipeline.retry import decide_retry
from iaflow.pipeline.templating import ReferenceMissing, Scope, Template, render

__all__ = ["Claimed", "Engine", "Settled", "Started"]

HEADERS_KEPT = 512
"""Run headers kept in memory: they never change, and a chain asks for one at every step."""


@dataclass(frozen=True, slots=True)
class Started:
    """A run that was started; `is_new` is False if its idempotency key already stood for it."""

    run_id: str
    is_new: bool
    tasks: tuple[StepTask, ...]


@dataclass(frozen=True, slots=True)
class Claimed:
    """
    An attempt that may begin.

    Attributes:
        data: what `work` is given.
        shown: what a person sees, on a human_input step; None on others.
        inputs: `data` as JSON text, kept with the attempt.
        fault: why the attempt cannot work at all (its inputs cannot be resolved), if so.
    """

    claim: Claim
    node: Node
    data: Any
    shown: Any
    inputs: str
    fault: Failed | None


@dataclass(frozen=True, slots=True)
class Settled:
    """
    What a change led to.

    Attributes:
        run_status: the run's status after it.
        tasks: the steps that became ready and wait to be published.
        is_stale: the claim was lost, or the run had ended: nothing was changed.
        retry_at: when the next attempt of the step is due, if there will be one.
    """

    run_status: RunStatus
    tasks: tuple[StepTask, ...] = ()
    is_stale: bool = False
    retry_at: datetime | None = None


class Engine:
    """
    Runs on one database, by verbs; each is one transaction (a claim is one statement).

    Args:
        database: where runs live.
        clock: the time that all processes of the database agree on.
        library: compiled definitions by content hash.
        draw: returns a uniform number in [0, 1), for the jitter of retries.
        lease_seconds: how long a claim lives without a heartbeat.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        library: Library,
        *,
        draw: Callable[[], float],
        lease_seconds: float = 30.0,
    ) -> None:
        self.database = database
        self.clock = clock
        self.library = library
        self.lease = timedelta(seconds=lease_seconds)
        self.claims = ClaimStore(database)
        self.pauses = PauseStore(database)
        self.reads = ReadStore(database)
        self.settles = SettleStore(database)
        self._draw = draw
        self._headers: OrderedDict[str, RunHeader] = OrderedDict()

    # -- start

    def start(
        self,
        graph: Graph,
        parameters: Mapping[str, Any],
        *,
        key: str | None = None,
        started_by: str | None = None,
        source_folder: str | None = None,
    ) -> Started:
        """
        Begin a run: its row, its first step and its first event, in one transaction.

        Args:
            graph: a definition whose version is already kept.
            parameters: merged and validated.
            key: idempotency key; the same key and body give the same run.

        Raises:
            Conflict: the key stands for a run with another body.
        """
        text = dump_json(parameters)
        definition = graph.definition
        body = f"{definition.slug}\n{dump_canonical(parameters)}"
        body_hash = hashlib.sha256(body.encode()).hexdigest()
        run_id = str(uuid_utils.uuid7())
        now = self.clock.now()
        timeout = definition.run_timeout
        new = NewRun(
            run_id=run_id,
            slug=definition.slug,
            content_hash=definition.content_hash,
            parameters=text,
            created_at=now,
            idempotency_key=key,
            body_hash=body_hash if key is not None else None,
            started_by=started_by,
            source_folder=source_folder,
            deadline_at=now + timedelta(seconds=timeout) if timeout is not None else None,
        )
        view = RunView(run_id, RunStatus.PENDING, 0, 0, 0, 0, 0, parameters, now.isoformat())
        plan = advance(graph, Snapshot(view, steps={graph.start: None}), RunStarted())
        assert isinstance(plan, Plan)

        def begin(tx: Connection) -> Started:
            if key is not None:
                earlier = self.settles.find_key(tx, key)
                if earlier is not None:
                    return _same_start(earlier, key, body_hash)
            self._write(tx, graph, run_id, 1, now, plan, None, new_run=new)
            return Started(run_id, True, self._tasks(graph, run_id, plan))

        return self.database.perform(begin)

    # -- the life of an attempt

    def claim(self, task: StepTask, worker: str) -> Claimed | None:
        """
        Take a ready step, resolve its inputs, and return the attempt that may begin.

        None: somebody else has it, or it is not ready any more; the message is dropped.
        """
        header = self._header(task.run_id)
        if header is None:
            return None
        graph = self.library.graph(header.content_hash)
        node = graph.nodes.get(task.step_id)
        if node is None:
            return None
        token = str(uuid.uuid4())
        # Read before the claim is sent: the lease is never believed longer than it is.
        now = self.clock.now()
        row = self.claims.mark_running(
            task,
            token=token,
            worker=worker,
            now=now,
            lease_until=now + self.lease,
            reads=_reads(node),
        )
        if row is None:
            return None
        claim = Claim(
            run_id=task.run_id,
            step_id=task.step_id,
            index=task.index,
            attempt=row.attempt,
            worker_losses=row.worker_losses,
            token=token,
            slug=header.slug,
            content_hash=header.content_hash,
            ready_seq=row.ready_seq,
            run_created_at=header.created_at,
            inputs=row.inputs,
        )
        return self._resolve(claim, graph, node, header, row.outputs)

    def extend_lease(self, claim: Claim) -> bool:
        """Keep a claim for another lease. False: it is lost or cancelled; stop the work."""
        now = self.clock.now()
        return self.claims.extend_lease(
            claim.run_id,
            claim.step_id,
            claim.index,
            token=claim.token,
            lease_until=now + self.lease,
        )

    def settle(self, claimed: Claimed, outcome: Outcome) -> Settled:
        """
        Record how an attempt ended, with every consequence, in one transaction.

        A claim that was lost, or a run that has ended, makes it stale: the result is kept
        for people and changes nothing.
        """
        claim = claimed.claim
        if isinstance(outcome, Released):
            now = self.clock.now()
            back = self.claims.mark_released(
                claim.run_id, claim.step_id, claim.index, token=claim.token, now=now
            )
            task = StepTask(
                claim.run_id, claim.step_id, claim.index, claim.attempt, claim.slug,
                claimed.node.step.queue, claimed.node.step.priority,
            )
            return Settled(RunStatus.RUNNING, (task,) if back else (), is_stale=not back)
        graph = self.library.graph(claim.content_hash)
        return self.database.perform(lambda tx: self._settle(tx, graph, claimed, outcome))

    def fail_lost(self, lost: LostClaim) -> Settled:
        """Fail a step that lost its worker once too often, with code `worker_lost`."""
        task = lost.task
        header = self._header(task.run_id)
        if header is None:
            raise NotFound(f"there is no run {task.run_id}")
        graph = self.library.graph(header.content_hash)
        error = {
            "code": "worker_lost",
            "message": f"the worker {lost.worker or 'unknown'} was lost, and so were "
            f"{lost.worker_losses} before it",
            "attempts": 1,
        }

        def fail(tx: Connection) -> Settled:
            locked = self._lock(tx, graph, task.run_id, task.step_id, task.index)
            if locked.step_token != lost.token or locked.step_status is not StepStatus.RUNNING:
                return Settled(locked.run.status, is_stale=True)
            settlement = StepSettlement(task.step_id, task.index, token=lost.token)
            change = StepEnded(task.step_id, StepEnd.FAILURE, error=error)
            return self._apply(tx, graph, locked, change, settlement)

        return self.database.perform(fail)

    # -- people

    def answer(
        self,
        pause_id: str,
        answer: Any,
        *,
        answered_by: str,
        key: str | None = None,
        digest: str | None = None,
    ) -> PauseRecord:
        """
        Accept an answer: validated first, then one of answer, expiry and cancel wins.

        The step goes on by `resume`, in this process or by a message.

        Args:
            answer: an object with the form's fields.
            key: a repeated request with the same key and answer gets the same reply.
            digest: what the person saw; an answer to something else is refused.

        Raises:
            NotFound: there is no such pause.
            AnswerRefused: the fields do not fit the form; the pause stays open.
            Conflict: it was answered, expired or withdrawn before, or the digest is stale.
        """
        pause = self.read_pause(pause_id)
        form, problems = parse_form(pause.ui_schema)
        if form is None:
            raise AnswerRefused(tuple(problems))
        cleaned, problems = validate_answer(form, answer)
        if problems:
            raise AnswerRefused(tuple(problems))
        if digest is not None and digest != pause.digest:
            raise Conflict(
                f"pause {pause_id} shows something else by now: read it again, then answer"
            )
        now = self.clock.now()

        def accept(tx: Connection) -> bool:
            return self.pauses.mark_answered(
                tx, pause_id, answer=cleaned, key=key, answered_by=answered_by, now=now
            )

        accepted = self.database.perform(accept)
        pause = self.read_pause(pause_id)
        if accepted or self._is_repeated(pause, cleaned, key):
            return pause
        raise Conflict(f"pause {pause_id} cannot be answered any more: it {_fate(pause, now)}")

    def read_pause(self, pause_id: str) -> PauseRecord:
        """Return a question to people; raises NotFound."""
        pause = self.pauses.read(pause_id) if _is_uuid(pause_id) else None
        if pause is None:
            raise NotFound(f"there is no pause {pause_id}; `iaflow inbox` lists the open ones")
        return pause

    def resume(self, pause_id: str) -> Settled:
        """Give a waiting step the end that its pause has got, with every consequence."""
        pause = self.read_pause(pause_id)
        header = self._header(pause.run_id)
        if header is None:
            raise NotFound(f"there is no run {pause.run_id}")
        graph = self.library.graph(header.content_hash)

        def go_on(tx: Connection) -> Settled:
            locked = self._lock(tx, graph, pause.run_id, pause.step_id, pause.index)
            if pause.status in (PauseStatus.ANSWERED, PauseStatus.EXPIRED):
                self.pauses.mark_settled(tx, pause_id)
            if locked.step_status is not StepStatus.WAITING or pause.status is PauseStatus.OPEN:
                return Settled(locked.run.status, is_stale=True)
            change, output = self._end_of_pause(graph.nodes[pause.step_id], pause, header)
            settlement = StepSettlement(pause.step_id, pause.index, output=output)
            return self._apply(tx, graph, locked, change, settlement)

        return self.database.perform(go_on)

    # -- control

    def cancel_run(self, run_id: str, reason: str) -> Settled:
        """
        Cancel a run: what is unfinished is cancelled with it, in one transaction.

        A run that has ended stays as it is (`is_stale`).
        """
        return self._control(run_id, None, RunCancelled(reason))

    def end_overdue(self, run_id: str) -> Settled:
        """Fail a run whose `run_timeout` is over."""
        change = RunCancelled(
            "the run took longer than its run_timeout", RunStatus.FAILED, "run_timeout"
        )
        return self._control(run_id, None, change)

    def cancel_step(self, run_id: str, step_id: str, reason: str) -> Settled:
        """Cancel one step of a run; what depends on it alone is skipped."""
        return self._control(run_id, step_id, StepCancelled(step_id, reason))

    def _control(self, run_id: str, step_id: str | None, change: Change) -> Settled:
        header = self._header(run_id)
        if header is None:
            raise NotFound(f"there is no run {run_id}")
        graph = self.library.graph(header.content_hash)
        about = step_id or graph.start
        if about not in graph.nodes:
            raise NotFound(f"run {run_id} has no step {about!r}")

        def act(tx: Connection) -> Settled:
            locked = self._lock(tx, graph, run_id, about, NO_INDEX)
            if locked.run.status in END_OF_RUN:
                return Settled(locked.run.status, is_stale=True)
            return self._apply(tx, graph, locked, change, None)

        return self.database.perform(act)

    # -- inside a claim

    def _resolve(
        self,
        claim: Claim,
        graph: Graph,
        node: Node,
        header: RunHeader,
        texts: Mapping[str, str],
    ) -> Claimed:
        outputs = {step_id: json.loads(text) for step_id, text in texts.items()}
        if node.inputs is None and len(node.incoming) > 1 and claim.inputs is None:
            taken = self.settles.read_taken_sources(claim.run_id, claim.step_id, claim.ready_seq)
            outputs_taken = {s: o for s, o in outputs.items() if s in taken}
        else:
            outputs_taken = outputs
        errors = {}
        if node.reads_errors:
            errors = self.database.perform(
                lambda tx: self.settles.read_errors(tx, claim.run_id, node.reads_errors)
            )
        scope = Scope(
            parameters=header.parameters,
            outputs=outputs,
            errors={step_id: error for step_id, error in errors.items() if error is not None},
            run={"id": claim.run_id, "started_at": header.created_at.isoformat()},
        )
        fault: Failed | None = None
        data: Any = None
        shown: Any = None
        try:
            if claim.inputs is not None:
                data = json.loads(claim.inputs)
            elif node.inputs is not None:
                data = render(node.inputs, scope)
            else:
                data = _everything(graph, node, header.parameters, outputs_taken)
            shown = _render_optional(node.shown, scope)
        except ReferenceMissing as error:
            fault = Failed("reference_missing", str(error), retryable=False)
        inputs = claim.inputs if claim.inputs is not None else dump_json(data)
        if claim.inputs is None and _may_see_others_later(graph):
            self.settles.keep_inputs(claim.run_id, claim.step_id, claim.index, inputs)
        return Claimed(claim, node, data, shown, inputs, fault)

    # -- inside a settle

    def _settle(
        self, tx: Connection, graph: Graph, claimed: Claimed, outcome: Outcome
    ) -> Settled:
        claim = claimed.claim
        locked = self._lock(tx, graph, claim.run_id, claim.step_id, claim.index)
        if locked.step_token != claim.token or locked.step_status is not StepStatus.RUNNING:
            if locked.run.status in END_OF_RUN:
                late = dump_json(_describe(outcome))
                self.settles.discard(tx, claim.run_id, claim.step_id, claim.index, late)
            return Settled(locked.run.status, is_stale=True)
        settlement = StepSettlement(
            claim.step_id, claim.index, token=claim.token, inputs=claimed.inputs
        )
        step_id = claim.step_id
        match outcome:
            case Succeeded(output=output, text=text):
                change: Change = StepEnded(step_id, StepEnd.SUCCESS, output=output)
                settlement = replace(settlement, output=text)
            case Skipped(reason=reason):
                change = StepEnded(
                    step_id, StepEnd.SKIPPED, error={"code": "skipped", "message": reason}
                )
            case Paused(pause=pause):
                change = StepPaused(step_id)
                self.pauses.insert_open(
                    tx,
                    pause_id=str(uuid_utils.uuid7()),
                    run_id=claim.run_id,
                    step_id=step_id,
                    index=claim.index,
                    slug=claim.slug,
                    pause=pause,
                    now=self.clock.now(),
                )
            case Failed():
                return self._settle_failure(tx, graph, claimed, locked, outcome, settlement)
            case Released():
                raise AssertionError("a released attempt is not settled")
        return self._apply(tx, graph, locked, change, settlement)

    def _settle_failure(
        self,
        tx: Connection,
        graph: Graph,
        claimed: Claimed,
        locked: LockedRun,
        failed: Failed,
        settlement: StepSettlement,
    ) -> Settled:
        claim = claimed.claim
        error: dict[str, Any] = {
            "code": failed.code,
            "message": failed.message,
            "attempts": claim.try_number,
        }
        if failed.trace:
            error["trace"] = failed.trace
        delay = decide_retry(
            claimed.node.step.policy,
            attempt=claim.try_number,
            code=failed.code,
            names=failed.names,
            uniform=self._draw(),
            after=failed.after,
            retryable=failed.retryable,
        )
        if delay is None:
            settlement = replace(settlement, output=failed.output)
            change: Change = StepEnded(claim.step_id, failed.end, error=error)
            return self._apply(tx, graph, locked, change, settlement)
        due_at = self.clock.now() + timedelta(seconds=delay)
        settlement = replace(settlement, due_at=due_at)
        settled = self._apply(tx, graph, locked, StepDelayed(claim.step_id, error), settlement)
        return replace(settled, retry_at=due_at)

    def _end_of_pause(
        self, node: Node, pause: PauseRecord, header: RunHeader
    ) -> tuple[StepEnded, str | None]:
        step_id = pause.step_id
        if pause.status is PauseStatus.EXPIRED:
            error = {"code": "expired", "message": "nobody answered in time", "attempts": 1}
            return StepEnded(step_id, StepEnd.EXPIRED, error=error), None
        assert pause.answered_at is not None
        output = {
            **(pause.answer or {}),
            "_answered_by": pause.answered_by,
            "_answered_at": pause.answered_at.isoformat(),
        }
        text = dump_json(output)
        try:
            rejected = _is_rejected(node, output, header.parameters)
        except ConditionFailed as failure:
            error = {"code": failure.code, "message": f"reject_when: {failure}", "attempts": 1}
            return StepEnded(step_id, StepEnd.FAILURE, error=error), text
        if rejected:
            error = {
                "code": "rejected",
                "message": f"{pause.answered_by} rejected it",
                "attempts": 1,
            }
            return StepEnded(step_id, StepEnd.REJECTED, output=output, error=error), text
        return StepEnded(step_id, StepEnd.SUCCESS, output=output), text

    # -- planning and writing

    def _lock(
        self, tx: Connection, graph: Graph, run_id: str, step_id: str, index: int
    ) -> LockedRun:
        wanted = first_needs(graph, step_id).steps
        locked = self.settles.lock(tx, run_id, step_id, index, wanted)
        if locked is None:
            raise NotFound(f"there is no run {run_id}")
        return locked

    def _apply(
        self,
        tx: Connection,
        graph: Graph,
        locked: LockedRun,
        change: Change,
        settlement: StepSettlement | None,
    ) -> Settled:
        header = self._header(locked.run.run_id)
        assert header is not None
        now = self.clock.now()
        snapshot = Snapshot(replace(locked.run, parameters=header.parameters), steps=locked.steps)
        if isinstance(change, StepEnded):
            needs = first_needs(graph, change.step_id)
            snapshot = snapshot.plus(
                self._look_up(tx, graph, locked.run, replace(needs, steps=frozenset()))
            )
        plan = advance(graph, snapshot, change)
        while isinstance(plan, Needs):
            snapshot = snapshot.plus(self._look_up(tx, graph, locked.run, plan))
            plan = advance(graph, snapshot, change)
        run_id = locked.run.run_id
        self._write(tx, graph, run_id, locked.run.seq + 1, now, plan, settlement)
        return Settled(plan.run.status, self._tasks(graph, run_id, plan))

    def _look_up(self, tx: Connection, graph: Graph, run: RunView, needs: Needs) -> Snapshot:
        run_id = run.run_id
        steps: dict[str, Any] = {}
        decided = None
        if needs.everything:
            found, decided = self.settles.read_all(tx, run_id)
            steps = dict.fromkeys(graph.nodes) | found
        elif needs.steps:
            steps = dict(self.settles.read_steps(tx, run_id, needs.steps))
        outputs = self.settles.read_outputs(tx, run_id, needs.outputs) if needs.outputs else {}
        errors = self.settles.read_errors(tx, run_id, needs.errors) if needs.errors else {}
        ends = self.settles.read_ends(tx, run_id) if needs.ends else None
        return Snapshot(run, steps, outputs, errors, decided, ends)

    def _write(
        self,
        tx: Connection,
        graph: Graph,
        run_id: str,
        seq: int,
        now: datetime,
        plan: Plan,
        settlement: StepSettlement | None,
        new_run: NewRun | None = None,
    ) -> None:
        queues = {
            step_id: (graph.nodes[step_id].step.queue, graph.nodes[step_id].step.priority)
            for step_id in plan.ready
        }
        self.settles.write(
            tx,
            run_id,
            seq=seq,
            now=now,
            run=plan.run,
            steps=plan.steps,
            decisions=plan.decisions,
            settlement=settlement,
            queues=queues,
            new_run=new_run,
        )

    def _tasks(self, graph: Graph, run_id: str, plan: Plan) -> tuple[StepTask, ...]:
        slug = graph.definition.slug
        return tuple(
            StepTask(
                run_id,
                step_id,
                NO_INDEX,
                1,
                slug,
                graph.nodes[step_id].step.queue,
                graph.nodes[step_id].step.priority,
            )
            for step_id in plan.ready
        )

    # -- what never changes

    def name_tasks(self, tasks: Iterable[StepTask]) -> tuple[StepTask, ...]:
        """Return `tasks` with the slug of their run, for the names that Flower shows."""
        return tuple(
            replace(task, slug=header.slug) if (header := self._header(task.run_id)) else task
            for task in tasks
        )

    def graph_of(self, run_id: str) -> Graph | None:
        """Return the compiled definition that a run is pinned to, or None if there is no run."""
        header = self._header(run_id)
        return None if header is None else self.library.graph(header.content_hash)

    def _header(self, run_id: str) -> RunHeader | None:
        header = self._headers.get(run_id)
        if header is None:
            header = self.reads.header(run_id)
            if header is None:
                return None
            self._headers[run_id] = header
            if len(self._headers) > HEADERS_KEPT:
                self._headers.popitem(last=False)
        return header

    def _is_repeated(self, pause: PauseRecord, answer: Mapping[str, Any], key: str | None) -> bool:
        if key is None or pause.status is not PauseStatus.ANSWERED:
            return False
        return pause.answer == answer and self.pauses.read_answer_key(pause.pause_id) == key


def dump_canonical(value: Any) -> str:
    """Return JSON text that is the same for equal values: keys sorted, compact."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _same_start(earlier: tuple[str, str | None], key: str, body_hash: str) -> Started:
    run_id, known = earlier
    if known != body_hash:
        raise Conflict(
            f"the idempotency key {key!r} already stands for run {run_id}, which was started "
            "with another pipeline or other parameters: use a new key"
        )
    return Started(run_id, False, ())


def _reads(node: Node) -> tuple[str, ...]:
    """Return whose outputs a claim must bring: without `inputs`, those of all sources."""
    if node.inputs is not None:
        return node.reads
    sources = dict.fromkeys(edge.source for edge in node.incoming)
    return tuple(dict.fromkeys([*sources, *node.reads]))


def _everything(
    graph: Graph, node: Node, parameters: Mapping[str, Any], outputs: Mapping[str, Any]
) -> dict[str, Any]:
    """LANGUAGE 2: the parameters, overlaid in document order with the taken sources' outputs."""
    data = dict(parameters)
    sources = {edge.source for edge in node.incoming if edge.source in outputs}
    for source in sorted(sources, key=lambda step_id: graph.nodes[step_id].step.position):
        data.update(outputs[source])
    return data


def _render_optional(template: Template | None, scope: Scope) -> Any:
    return None if template is None else render(template, scope)


def _may_see_others_later(graph: Graph) -> bool:
    """
    Tell whether a step's ancestors can still change after its first claim.

    Only a join that fires before all its branches have ended lets that happen; elsewhere
    the inputs of a later attempt are the same by construction, and are kept with the end.
    """
    return any(node.step.join.type is JoinType.N_OF_M for node in graph.nodes.values())


def _is_rejected(node: Node, output: Mapping[str, Any], parameters: Mapping[str, Any]) -> bool:
    raw = node.step.config.get("reject_when")
    if raw is None:
        return False
    condition, _ = parse_condition(raw)
    assert condition is not None, "checked at load"
    return evaluate(condition, Scope(parameters=parameters, outputs={}, result=output)).taken


def _describe(outcome: Outcome) -> dict[str, Any]:
    match outcome:
        case Succeeded(text=text):
            return {"outcome": "succeeded", "output": text[:65536]}
        case Failed(code=code, message=message):
            return {"outcome": "failed", "code": code, "message": message}
        case _:
            return {"outcome": type(outcome).__name__.lower()}


def _fate(pause: PauseRecord, now: datetime) -> str:
    match pause.status:
        case PauseStatus.ANSWERED:
            return f"was answered by {pause.answered_by}"
        case PauseStatus.CANCELLED:
            return "was withdrawn when its step or run was cancelled"
        case PauseStatus.EXPIRED:
            return "expired"
        case PauseStatus.OPEN:
            return f"expired at {pause.expires_at} (it is {now})"


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True
