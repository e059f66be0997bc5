"""The engine: applies the planner's plans in transactions and returns what became ready.

Decides which transaction each verb is and in which order its rows are locked; never what
follows from a change (the planner does) and never who executes a task: it has no executor,
so nothing can be published inside a transaction. Called by executors, maintenance and the
client.
"""

from __future__ import annotations

import hashlib
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
    Outcome,
    Paused,
    PauseRecord,
    Released,
    StepTask,
)
from iaflow.data.status import END_OF_RUN, PauseStatus, RunStatus, StepEnd, StepStatus
from iaflow.database.connections import Connection
from iaflow.database.dialects import Database
from iaflow.database.run_store import ClaimStore, PauseStore, ReadStore, SettleStore
from iaflow.database.run_store.claims import ClaimRow, LostClaim
from iaflow.database.run_store.reads import RunHeader
from iaflow.database.run_store.settles import NewRun, StepSettlement
from iaflow.errors import AnswerRefused, Conflict, NotFound
from iaflow.pipeline.endings import (
    describe_late,
    end_of_attempt,
    end_of_pause,
    lost_worker_error,
)
from iaflow.pipeline.forms import parse_form, validate_answer
from iaflow.pipeline.graph import Graph, Node
from iaflow.pipeline.inputs import Inputs, reads_of, resolve_inputs
from iaflow.pipeline.loader import Library
from iaflow.pipeline.plans import Change, RunCancelled, StepCancelled, StepEnded
from iaflow.pipeline.settler import Settled, Settler
from iaflow.pipeline.strict_json import dump_json
from iaflow.pipeline.templating import Scope

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
    """An attempt that may begin: the claim, the step's node, and its resolved inputs."""

    claim: Claim
    node: Node
    inputs: Inputs


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
        self._settles = SettleStore(database)
        self._settler = Settler(self._settles)
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
        definition = graph.definition
        now = self.clock.now()
        timeout = definition.run_timeout
        body_hash = _hash_body(definition.slug, parameters) if key is not None else None
        new = NewRun(
            run_id=str(uuid_utils.uuid7()),
            slug=definition.slug,
            content_hash=definition.content_hash,
            parameters=dump_json(parameters),
            created_at=now,
            idempotency_key=key,
            body_hash=body_hash,
            started_by=started_by,
            source_folder=source_folder,
            deadline_at=now + timedelta(seconds=timeout) if timeout is not None else None,
        )

        def begin(tx: Connection) -> Started:
            if key is not None:
                earlier = self._settles.find_key(tx, key)
                if earlier is not None:
                    return _same_start(earlier, key, body_hash)
            return Started(new.run_id, True, self._settler.begin(tx, graph, new, parameters))

        return self.database.perform(begin)

    # -- the life of an attempt

    def claim(self, task: StepTask, worker: str) -> Claimed | None:
        """
        Take a ready step, resolve its inputs, and return the attempt that may begin.

        None: somebody else has it, or it is not ready any more; the message is dropped.
        """
        header = self._find_header(task.run_id)
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
            reads=reads_of(node),
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
        )
        return Claimed(claim, node, self._resolve(claim, graph, node, header, row))

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
        if isinstance(outcome, Released):
            return self._release(claimed)
        return self.database.perform(lambda tx: self._settle(tx, claimed, outcome))

    def fail_lost(self, lost: LostClaim) -> Settled:
        """Fail a step that lost its worker once too often, with code `worker_lost`."""
        task = lost.task
        header, graph = self._pinned(task.run_id)
        error = lost_worker_error(lost.worker, lost.worker_losses)

        def fail(tx: Connection) -> Settled:
            locked = self._settler.lock(tx, graph, task.run_id, task.step_id, task.index)
            now = self.clock.now()
            # A heartbeat may have come since the claim was found lost: it lives, then.
            is_lost = locked.step_lease is not None and locked.step_lease < now
            if locked.step_token != lost.token or not is_lost:
                return Settled(locked.run.status, is_stale=True)
            return self._settler.apply(
                tx,
                graph,
                locked,
                StepEnded(task.step_id, StepEnd.FAILURE, error=error),
                parameters=header.parameters,
                now=now,
            )

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
        header, graph = self._pinned(pause.run_id)

        def go_on(tx: Connection) -> Settled:
            locked = self._settler.lock(tx, graph, pause.run_id, pause.step_id, pause.index)
            if pause.status in (PauseStatus.ANSWERED, PauseStatus.EXPIRED):
                self.pauses.mark_settled(tx, pause_id)
            if locked.step_status is not StepStatus.WAITING or pause.status is PauseStatus.OPEN:
                return Settled(locked.run.status, is_stale=True)
            ending = end_of_pause(graph.nodes[pause.step_id], pause, header.parameters)
            return self._settler.apply(
                tx,
                graph,
                locked,
                ending.change,
                parameters=header.parameters,
                now=self.clock.now(),
                settlement=StepSettlement(pause.step_id, output=ending.output),
            )

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
        reason = "the run took longer than its run_timeout"
        return self._control(run_id, None, RunCancelled(reason, RunStatus.FAILED, "run_timeout"))

    def cancel_step(self, run_id: str, step_id: str, reason: str) -> Settled:
        """Cancel one step of a run; what depends on it alone is skipped."""
        return self._control(run_id, step_id, StepCancelled(step_id, reason))

    # -- what never changes

    def graph_of(self, run_id: str) -> Graph | None:
        """Return the compiled definition that a run is pinned to, or None if there is no run."""
        header = self._find_header(run_id)
        return None if header is None else self.library.graph(header.content_hash)

    def name_tasks(self, tasks: Iterable[StepTask]) -> tuple[StepTask, ...]:
        """Return `tasks` with the slug of their run, for the names that Flower shows."""
        return tuple(
            replace(task, slug=header.slug) if (header := self._find_header(task.run_id)) else task
            for task in tasks
        )

    # -- private

    def _resolve(
        self, claim: Claim, graph: Graph, node: Node, header: RunHeader, row: ClaimRow
    ) -> Inputs:
        taken: tuple[str, ...] = ()
        if node.inputs is None and row.inputs is None:
            taken = tuple({edge.source for edge in node.incoming})
            if len(node.incoming) > 1:
                taken = self._settles.read_taken_sources(claim.run_id, claim.step_id, row.ready_seq)
        scope = Scope(
            parameters=header.parameters,
            outputs=row.outputs,
            errors=self._settles.read_errors_of(claim.run_id, node.reads_errors),
            run={"id": claim.run_id, "started_at": header.created_at.isoformat()},
        )
        inputs = resolve_inputs(graph, node, scope, kept=row.inputs, taken=taken)
        if row.inputs is None and graph.has_early_joins:
            # Elsewhere a step's ancestors have all ended at its claim, so that a later
            # attempt resolves the same inputs; they are kept with the end.
            self._settles.keep_inputs(claim.run_id, claim.step_id, claim.index, inputs.text)
        return inputs

    def _release(self, claimed: Claimed) -> Settled:
        claim, step = claimed.claim, claimed.node.step
        now = self.clock.now()
        back = self.claims.mark_released(
            claim.run_id, claim.step_id, claim.index, token=claim.token, now=now
        )
        if not back:
            return Settled(RunStatus.RUNNING, is_stale=True)
        task = StepTask(
            claim.run_id,
            claim.step_id,
            claim.index,
            claim.attempt,
            claim.slug,
            step.queue,
            step.priority,
        )
        return Settled(RunStatus.RUNNING, (task,))

    def _settle(self, tx: Connection, claimed: Claimed, outcome: Outcome) -> Settled:
        claim = claimed.claim
        header, graph = self._pinned(claim.run_id)
        locked = self._settler.lock(tx, graph, claim.run_id, claim.step_id, claim.index)
        if locked.step_token != claim.token or locked.step_status is not StepStatus.RUNNING:
            if locked.run.status in END_OF_RUN:
                late = dump_json(describe_late(outcome))
                self._settles.discard(tx, claim.run_id, claim.step_id, claim.index, late)
            return Settled(locked.run.status, is_stale=True)
        now = self.clock.now()
        ending = end_of_attempt(
            claim.step_id,
            outcome,
            claimed.node.step.policy,
            try_number=claim.try_number,
            uniform=self._draw(),
        )
        retry_at = None if ending.delay is None else now + timedelta(seconds=ending.delay)
        if isinstance(outcome, Paused):
            self.pauses.insert_open(
                tx,
                pause_id=str(uuid_utils.uuid7()),
                run_id=claim.run_id,
                step_id=claim.step_id,
                index=claim.index,
                slug=claim.slug,
                pause=outcome.pause,
                now=now,
            )
        settled = self._settler.apply(
            tx,
            graph,
            locked,
            ending.change,
            parameters=header.parameters,
            now=now,
            settlement=StepSettlement(
                claim.step_id,
                inputs=claimed.inputs.text,
                output=ending.output,
                due_at=retry_at,
            ),
        )
        return settled if retry_at is None else replace(settled, retry_at=retry_at)

    def _control(self, run_id: str, step_id: str | None, change: Change) -> Settled:
        header, graph = self._pinned(run_id)
        about = step_id or graph.start
        if about not in graph.nodes:
            raise NotFound(f"run {run_id} has no step {about!r}")

        def act(tx: Connection) -> Settled:
            locked = self._settler.lock(tx, graph, run_id, about, NO_INDEX)
            if locked.run.status in END_OF_RUN:
                return Settled(locked.run.status, is_stale=True)
            return self._settler.apply(
                tx, graph, locked, change, parameters=header.parameters, now=self.clock.now()
            )

        return self.database.perform(act)

    def _pinned(self, run_id: str) -> tuple[RunHeader, Graph]:
        header = self._find_header(run_id)
        if header is None:
            raise NotFound(f"there is no run {run_id}")
        return header, self.library.graph(header.content_hash)

    def _find_header(self, run_id: str) -> RunHeader | None:
        header = self._headers.get(run_id)
        if header is None:
            header = self.reads.header(run_id) if _is_uuid(run_id) else None
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


def _hash_body(slug: str, parameters: Mapping[str, Any]) -> str:
    body = f"{slug}\n{dump_json(parameters, sort_keys=True)}"
    return hashlib.sha256(body.encode()).hexdigest()


def _same_start(earlier: tuple[str, str | None], key: str, body_hash: str | None) -> Started:
    run_id, known = earlier
    if known != body_hash:
        raise Conflict(
            f"the idempotency key {key!r} already stands for run {run_id}, which was started "
            "with another pipeline or other parameters: use a new key"
        )
    return Started(run_id, False, ())


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
