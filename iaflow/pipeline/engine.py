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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import uuid_utils

from iaflow.data.records import (
    NO_INDEX,
    Claim,
    Fanned,
    Outcome,
    Paused,
    Released,
    Spawned,
    StepTask,
    Timed,
)
from iaflow.data.status import END_OF_RUN, RunStatus, StepEnd, StepStatus
from iaflow.database.connections import Connection
from iaflow.database.run_store.claims import ClaimRow, LostClaim
from iaflow.database.run_store.reads import RunHeader
from iaflow.database.run_store.settles import StepSettlement
from iaflow.errors import Conflict, NotFound
from iaflow.pipeline.core import add_seconds
from iaflow.pipeline.endings import Ending, describe_late, end_of_attempt, lost_worker_error
from iaflow.pipeline.families import FamilyVerbs
from iaflow.pipeline.graph import Graph, Node
from iaflow.pipeline.inputs import Inputs, reads_of, resolve_inputs
from iaflow.pipeline.people import PeopleVerbs
from iaflow.pipeline.plans import Change, Judged, RunCancelled, StepCancelled, StepEnded
from iaflow.pipeline.second_chances import SecondChanceVerbs
from iaflow.pipeline.settler import NOTHING_JUDGED, Settled
from iaflow.pipeline.strict_json import dump_json
from iaflow.pipeline.templating import MISSING, Scope

__all__ = ["Claimed", "Engine", "Settled", "Started"]


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
        claim: the right to it.
        node: the step.
        inputs: resolved.
        header: the run that it belongs to.
    """

    claim: Claim
    node: Node
    inputs: Inputs
    header: RunHeader


class Engine(PeopleVerbs, SecondChanceVerbs, FamilyVerbs):
    """Runs on one database, by verbs; each is one transaction (a claim is one statement)."""

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
        body_hash = _hash_body(graph.definition.slug, parameters) if key is not None else None
        new = self.make_run(
            graph,
            parameters,
            started_by=started_by,
            source_folder=source_folder,
            key=key,
            body_hash=body_hash,
        )

        def begin(tx: Connection) -> Settled | Started:
            if key is not None:
                earlier = self._settles.find_key(tx, key)
                if earlier is not None:
                    return _same_start(earlier, key, body_hash)
            return self.begin(tx, graph, new, parameters)

        begun = self.database.perform(begin)
        if isinstance(begun, Started):
            return begun
        return Started(new.run_id, True, self.follow_up(begun).tasks)

    # -- the life of an attempt

    def claim(self, task: StepTask, worker: str) -> Claimed | None:
        """
        Take a ready step, resolve its inputs, and return the attempt that may begin.

        None: somebody else has it, or it is not ready any more; the message is dropped.
        """
        header = self.find_header(task.run_id)
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
            reads=reads_of(node, is_item=task.index != NO_INDEX),
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
            earlier_attempts=row.earlier_attempts,
        )
        return Claimed(claim, node, self._resolve(claim, graph, node, header, row), header)

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

    def settle(
        self, claimed: Claimed, outcome: Outcome, judged: Judged = NOTHING_JUDGED
    ) -> Settled:
        """
        Record how an attempt ended, with every consequence, in one transaction.

        A claim that was lost, or a run that has ended, makes it stale: the result is kept
        for people and changes nothing.

        Args:
            judged: what code found for the `questions` of a call before.
        """
        if isinstance(outcome, Released):
            return self._release(claimed)
        return self.perform(
            claimed.claim.run_id, lambda tx: self._settle(tx, claimed, outcome, judged)
        )

    def fail_lost(self, lost: LostClaim, judged: Judged = NOTHING_JUDGED) -> Settled:
        """Fail a step that lost its worker once too often, with code `worker_lost`."""
        task = lost.task
        header, graph = self.pinned(task.run_id)
        error = lost_worker_error(lost.worker, lost.worker_losses)

        def fail(tx: Connection) -> Settled:
            locked = self._settler.lock(tx, graph, task.run_id, task.step_id, task.index)
            now = self.clock.now()
            # A heartbeat may have come since the claim was found lost: it lives, then.
            is_lost = locked.step_lease is not None and locked.step_lease < now
            if locked.step_token != lost.token or not is_lost:
                return Settled(task.run_id, locked.run.status, is_stale=True)
            return self._settler.apply(
                tx,
                graph,
                locked,
                StepEnded(task.step_id, StepEnd.FAILURE, error=error, index=task.index),
                parameters=header.parameters,
                now=now,
                judged=judged,
            )

        return self.perform(task.run_id, fail)

    def rescue(self, lost: LostClaim) -> Settled:
        """
        Give a step that lost its worker back to the others; its retries are not touched.

        The key that the lost attempt held is free: of the others, whoever has waited longest
        gets it, since nobody may be there to carry this run on.
        """
        task = lost.task
        node = self.pinned(task.run_id)[1].nodes[task.step_id]
        if node.concurrency_key is None:
            back = self.claims.mark_rescued(lost, now=self.clock.now())
            tasks = (task,) if back else ()
            return Settled(task.run_id, RunStatus.RUNNING, tasks, is_stale=True)

        def give_back(tx: Connection) -> list[str]:
            if not self.claims.mark_rescued(lost, now=self.clock.now(), is_held=True):
                return []
            return self.holds.free(tx, task.run_id, task.step_id, task.index)

        keys = tuple(self.database.perform(give_back))
        granted = tuple(self.grant(keys, but=task))
        return Settled(task.run_id, RunStatus.RUNNING, granted, is_stale=True)

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

    def name_tasks(self, tasks: Iterable[StepTask]) -> tuple[StepTask, ...]:
        """Return `tasks` with the slug of their run, for the names that Flower shows."""
        return tuple(
            replace(task, slug=header.slug) if (header := self.find_header(task.run_id)) else task
            for task in tasks
        )

    # -- private

    def _resolve(
        self, claim: Claim, graph: Graph, node: Node, header: RunHeader, row: ClaimRow
    ) -> Inputs:
        taken: tuple[str, ...] = ()
        is_item = claim.index != NO_INDEX
        if node.inputs is None and row.inputs is None and not is_item:
            taken = tuple({edge.source for edge in node.incoming})
            if len(node.incoming) > 1:
                taken = self._settles.read_taken_sources(claim.run_id, claim.step_id, row.ready_seq)
        began_at = header.began_at
        scope = Scope(
            parameters=header.parameters,
            outputs=row.outputs,
            errors=self._settles.read_errors_of(claim.run_id, node.reads_errors),
            run={"id": claim.run_id, "started_at": began_at.isoformat() if began_at else ""},
        )
        if is_item:
            scope = replace(scope, item=_parse_item(row.item), index=claim.index)
        inputs = resolve_inputs(graph, node, scope, kept=row.inputs, taken=taken)
        if row.inputs is None and graph.has_early_joins and inputs.fault is None:
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
            return Settled(claim.run_id, RunStatus.RUNNING, is_stale=True)
        task = StepTask(
            claim.run_id,
            claim.step_id,
            claim.index,
            claim.attempt,
            claim.slug,
            step.queue,
            step.priority,
        )
        return Settled(claim.run_id, RunStatus.RUNNING, (task,))

    def _settle(
        self, tx: Connection, claimed: Claimed, outcome: Outcome, judged: Judged
    ) -> Settled:
        claim, node = claimed.claim, claimed.node
        header, graph = self.pinned(claim.run_id)
        locked = self._settler.lock(tx, graph, claim.run_id, claim.step_id, claim.index)
        if locked.step_token != claim.token or locked.step_status is not StepStatus.RUNNING:
            if locked.run.status in END_OF_RUN:
                late = dump_json(describe_late(outcome))
                self._settles.discard(tx, claim.run_id, claim.step_id, claim.index, late)
            return Settled(claim.run_id, locked.run.status, is_stale=True)
        now = self.clock.now()
        spawned: Settled | None = None
        if isinstance(outcome, Spawned):
            spawned = self._spawn(tx, claimed, outcome)
        if isinstance(outcome, Spawned) and spawned is not None and not outcome.wait:
            output = {"run_id": spawned.run_id}
            ending = Ending(
                StepEnded(claim.step_id, StepEnd.SUCCESS, output=output, index=claim.index),
                dump_json(output),
            )
        else:
            ending = end_of_attempt(
                claim.step_id,
                outcome,
                node.step.policy,
                try_number=claim.try_number,
                uniform=self._draw(),
                index=claim.index,
            )
        due_at = self._due(tx, graph, node, outcome, ending, now)
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
                claim.index,
                inputs=claimed.inputs.text,
                output=ending.output,
                due_at=due_at,
                items=_pair_items(outcome),
            ),
            judged=judged,
        )
        if spawned is None:
            return settled
        return replace(
            settled,
            tasks=(*settled.tasks, *spawned.tasks),
            keys=(*settled.keys, *spawned.keys),
        )

    def _due(
        self,
        tx: Connection,
        graph: Graph,
        node: Node,
        outcome: Outcome,
        ending: Ending,
        now: datetime,
    ) -> datetime | None:
        """Return when something is due for the step: its next attempt, or the end of its wait."""
        if isinstance(outcome, Timed):
            return outcome.until
        if isinstance(outcome, Spawned):
            return add_seconds(now, node.step.policy.timeout)
        retry_at = add_seconds(now, ending.delay)
        if retry_at is not None and node.step.rate_limit is not None:
            return self._settler.reserve_retry(tx, graph, node.step, retry_at)
        return retry_at

    def _spawn(self, tx: Connection, claimed: Claimed, spawned: Spawned) -> Settled:
        """Begin a child run in the transaction that makes its step wait."""
        claim, header = claimed.claim, claimed.header
        graph = self.library.graph(spawned.content_hash)
        new = self.make_run(
            graph,
            spawned.parameters,
            started_by=header.started_by,
            source_folder=header.source_folder,
            parent=(
                claim.run_id,
                claim.step_id,
                claim.index,
                claim.attempt if spawned.wait else None,
            ),
            depth=header.depth + 1,
        )
        return self.begin(tx, graph, replace(new, run_id=spawned.run_id), spawned.parameters)

    def _control(self, run_id: str, step_id: str | None, change: Change) -> Settled:
        header, graph = self.pinned(run_id)
        about = step_id or graph.start
        if about not in graph.nodes:
            raise NotFound(f"run {run_id} has no step {about!r}")

        def act(tx: Connection) -> Settled:
            locked = self._settler.lock(tx, graph, run_id, about, NO_INDEX)
            if locked.run.status in END_OF_RUN:
                return Settled(run_id, locked.run.status, is_stale=True)
            return self._settler.apply(
                tx, graph, locked, change, parameters=header.parameters, now=self.clock.now()
            )

        return self.perform(run_id, act)


def _parse_item(text: str | None) -> Any:
    return MISSING if text is None else json.loads(text)


def _pair_items(outcome: Outcome) -> tuple[tuple[str, str | None], ...]:
    """Return the value, as JSON text, and the key of each item of a step that fans out."""
    if not isinstance(outcome, Fanned):
        return ()
    keys: Iterable[str | None] = outcome.keys or (None for _ in outcome.items)
    return tuple(zip(map(dump_json, outcome.items), keys, strict=True))


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
