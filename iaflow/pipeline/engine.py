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

from iaflow.data.records import (
    NO_INDEX,
    Claim,
    Failed,
    Fanned,
    Outcome,
    Paused,
    Released,
    Skipped,
    Spawned,
    StepTask,
    Timed,
)
from iaflow.data.status import END_OF_RUN, END_OF_STEP, RunStatus, StepEnd, StepStatus
from iaflow.database.callers import joined
from iaflow.database.connections import Connection
from iaflow.database.dialects import is_contention, is_database_error, is_outage
from iaflow.database.effects import Effects
from iaflow.database.run_store.claims import ClaimRow
from iaflow.database.run_store.reads import RunHeader
from iaflow.database.run_store.settles import StepSettlement
from iaflow.errors import Conflict, NotFound
from iaflow.pipeline.core import add_seconds
from iaflow.pipeline.endings import (
    MESSAGE_KEPT,
    Ending,
    describe_late,
    end_of_attempt,
)
from iaflow.pipeline.families import FamilyVerbs
from iaflow.pipeline.firing import ScheduleVerbs
from iaflow.pipeline.graph import Graph, Node
from iaflow.pipeline.inputs import Inputs, reads_of, resolve_inputs
from iaflow.pipeline.lost_claims import LostClaimVerbs
from iaflow.pipeline.people import PeopleVerbs
from iaflow.pipeline.plans import Change, Judged, RunCancelled, StepCancelled, StepEnded
from iaflow.pipeline.second_chances import SecondChanceVerbs
from iaflow.pipeline.settler import NOTHING_JUDGED, CodeWanted, Settled
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


class Engine(PeopleVerbs, SecondChanceVerbs, FamilyVerbs, LostClaimVerbs, ScheduleVerbs):
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
        within: Connection | None = None,
    ) -> Started:
        """
        Begin a run: its row, its first step and its first event, in one transaction.

        Args:
            graph: a definition whose version is already kept.
            parameters: merged and validated.
            key: idempotency key; the same key and body give the same run.
            within: an open transaction to do it in; who opened it commits it, and only then
                may the tasks be published.

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

        begun = self.database.perform(begin) if within is None else begin(within)
        if isinstance(begun, Started):
            return begun
        if within is not None:
            # What it leads to in other runs (a key that is free, say) is found by the sweep.
            return Started(new.run_id, True, begun.tasks)
        return Started(new.run_id, True, self.follow_up(begun).tasks)

    def find_started(self, graph: Graph, parameters: Mapping[str, Any], key: str) -> Started | None:
        """
        Return the run that an idempotency key stands for; None if it stands for none.

        Raises:
            Conflict: it stands for a run with another body.
        """
        with self.database.transaction(write=False) as tx:
            earlier = self._settles.find_key(tx, key)
        if earlier is None:
            return None
        return _same_start(earlier, key, _hash_body(graph.definition.slug, parameters))

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
            waited_seconds=(now - (row.published_at or now)).total_seconds(),
        )
        return Claimed(claim, node, self._resolve(claim, graph, node, header, row), header)

    def settle(
        self,
        claimed: Claimed,
        outcome: Outcome,
        judged: Judged = NOTHING_JUDGED,
        *,
        effects: Effects | None = None,
    ) -> Settled:
        """
        Record how an attempt ended, with every consequence, in one transaction.

        A claim that was lost, or a run that has ended, makes it stale: the result is kept
        for people and changes nothing.

        Args:
            judged: what code found for the `questions` of a call before.
            effects: what the step's code did in a transaction: committed with a completion,
                else undone.
        """
        if effects is not None and effects.is_begun:
            if not isinstance(outcome, Failed | Skipped | Released):
                return self._settle_with(effects, claimed, outcome, judged)
            effects.close()
        if isinstance(outcome, Released):
            most = claimed.node.step.policy.max_worker_losses
            if not outcome.is_loss or claimed.claim.worker_losses < most:
                return self.release(claimed.claim, claimed.node.step, outcome)
            outcome = Failed("worker_lost", outcome.reason, retryable=False)
        return self.perform(
            claimed.claim.run_id, lambda tx: self._settle(tx, claimed, outcome, judged)
        )

    # -- control

    def cancel_run(self, run_id: str, reason: str, *, by: str | None = None) -> Settled:
        """
        Cancel a run: what is unfinished is cancelled with it, in one transaction.

        A run that has ended stays as it is (`is_stale`). Its event has who asked for it (`by`).
        """
        return self._control(run_id, None, RunCancelled(reason), by)

    def end_overdue(self, run_id: str) -> Settled:
        """Fail a run whose `run_timeout` is over."""
        reason = "the run took longer than its run_timeout"
        return self._control(run_id, None, RunCancelled(reason, RunStatus.FAILED, "run_timeout"))

    def cancel_step(
        self, run_id: str, step_id: str, reason: str, *, by: str | None = None
    ) -> Settled:
        """Cancel one step of a run; what depends on it alone is skipped."""
        return self._control(run_id, step_id, StepCancelled(step_id, reason), by)

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

    def _settle_with(
        self, effects: Effects, claimed: Claimed, outcome: Outcome, judged: Judged
    ) -> Settled:
        """Record a completion in the transaction that the step's code has written in."""
        run_id = claimed.claim.run_id
        try:
            with joined(effects.connection, self.database) as tx:
                settled = self._settle(tx, claimed, outcome, judged)
            if not settled.is_stale:
                effects.commit()
        except CodeWanted as wanted:
            # Our part was undone, by its savepoint; the step's waits for the verdicts.
            return Settled(run_id, RunStatus.RUNNING, questions=wanted.questions)
        except Exception as error:
            effects.close()
            if not is_database_error(error):
                raise
            if is_outage(error) or is_contention(error):
                # Nothing happened, or (a commit that was lost on its way) everything: then the
                # claim is not ours any more, and there is nothing to give back.
                lost = Released("the connection of its transaction was lost", is_loss=True)
                return self.settle(claimed, lost)
            message = f"its transaction could not be committed: {type(error).__name__}: {error}"
            outcome = Failed(
                "transaction_failed", message[:MESSAGE_KEPT], names=("TransactionFailed",)
            )
        else:
            if not settled.is_stale:
                return self.follow_up(settled)
            effects.close()
        return self.perform(run_id, lambda tx: self._settle(tx, claimed, outcome, judged))

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
            self.open_pause(tx, claim, outcome.pause, now)
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

    def _control(
        self, run_id: str, step_id: str | None, change: Change, by: str | None = None
    ) -> Settled:
        header, graph = self.pinned(run_id)
        about = step_id or graph.start
        if about not in graph.nodes:
            raise NotFound(f"run {run_id} has no step {about!r}")

        def act(tx: Connection) -> Settled:
            locked = self._settler.lock(tx, graph, run_id, about, NO_INDEX)
            step = locked.steps.get(about) if step_id is not None else None
            has_ended = step is not None and step.status in END_OF_STEP
            if has_ended or locked.run.status in END_OF_RUN:
                return Settled(run_id, locked.run.status, is_stale=True)
            return self._settler.apply(
                tx,
                graph,
                locked,
                change,
                parameters=header.parameters,
                now=self.clock.now(),
                by=by,
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
