"""Starting a run and writing the consequences of a change, each in one transaction.

Decides how a plan's rows are written and what a planning looks up; never what a plan
holds. Called by the engine, inside `Database.transaction`. Lock order: run, step, pause.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from iaflow.data.records import (
    NO_INDEX,
    Decision,
    ItemCounts,
    RunChange,
    RunView,
    StepChange,
    StepView,
)
from iaflow.data.status import END_OF_RUN, END_OF_STEP, RunStatus, StepStatus, WaitsFor
from iaflow.database.connections import Connection
from iaflow.database.dialects import Database
from iaflow.database.run_store.settle_statements import SettleStatements
from iaflow.database.statements import POSTGRES, dump_json, read_instant

__all__ = [
    "LockedRun",
    "NewRun",
    "Placing",
    "SettleStore",
    "StepSettlement",
    "read_item_counts",
]


@dataclass(frozen=True, slots=True)
class NewRun:
    """
    A run that begins: its row before the first plan.

    Attributes:
        started_at: None if it must wait behind others (`max_concurrent_runs`).
        parent: the step that it runs for, as (run id, step id, index, attempt); the attempt
            is None if that does not wait for it.
        depth: how many runs are above it.
        rerun_of: the run whose recorded outputs it begins with.
    """

    run_id: str
    slug: str
    content_hash: str
    parameters: str
    created_at: datetime
    idempotency_key: str | None = None
    body_hash: str | None = None
    started_by: str | None = None
    source_folder: str | None = None
    deadline_at: datetime | None = None
    started_at: datetime | None = None
    parent: tuple[str, str, int, int | None] | None = None
    depth: int = 0
    rerun_of: str | None = None


@dataclass(frozen=True, slots=True)
class LockedRun:
    """
    A run and one of its steps, both locked, with what was asked for beside them.

    Attributes:
        step_token: who holds the step's claim; None if nobody.
        step_lease: how long it lives; None if nobody holds one.
        step_waits_for: what it waits for, if it waits.
        step_due: when something is due, if something is.
        step_attempt: executions begun so far.
        step_tries: those of them that count as tries.
    """

    run: RunView
    step_status: StepStatus | None
    step_token: str | None
    step_lease: datetime | None
    steps: dict[str, StepView | None]
    step_waits_for: WaitsFor | None = None
    step_due: datetime | None = None
    step_attempt: int = 0
    step_tries: int = 0


@dataclass(frozen=True, slots=True)
class StepSettlement:
    """
    What is kept of the step, or the item, that the change is about, beside its row.

    Attributes:
        inputs, output: JSON texts.
        due_at: when the next attempt, or the end of the waiting, is due.
        items: of a step that fans out: the value as JSON text and the key of each item.
    """

    step_id: str
    index: int = NO_INDEX
    inputs: str | None = None
    output: str | None = None
    due_at: datetime | None = None
    items: tuple[tuple[str, str | None], ...] = ()


@dataclass(frozen=True, slots=True)
class Placing:
    """Where and when a step that becomes ready is published; `due_at` holds it back till then."""

    queue: str | None = None
    priority: int | None = None
    due_at: datetime | None = None


class SettleStore:
    """Writes of runs, inside a transaction that the engine holds."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._sql = SettleStatements(database)

    # -- start

    def insert_run(self, tx: Connection, new: NewRun, change: RunChange) -> None:
        """nothing -> running (or its end): the run's row and its parameters."""
        tx.queue(
            self._sql.insert_run,
            run_id=new.run_id,
            slug=new.slug,
            content_hash=new.content_hash,
            status=change.status.value,
            seq=1,
            live=change.live,
            paused=change.paused,
            idempotency_key=new.idempotency_key,
            body_hash=new.body_hash,
            started_by=new.started_by,
            source_folder=new.source_folder,
            created_at=new.created_at,
            deadline_at=new.deadline_at,
            started_at=new.started_at,
            parent_run_id=new.parent[0] if new.parent else None,
            parent_step_id=new.parent[1] if new.parent else None,
            parent_index=new.parent[2] if new.parent else None,
            parent_attempt=new.parent[3] if new.parent else None,
            depth=new.depth,
            rerun_of=new.rerun_of,
        )
        tx.queue(self._sql.insert_run_payload, run_id=new.run_id, parameters=new.parameters)

    def insert_pending(self, tx: Connection, new: NewRun) -> None:
        """nothing -> pending: the run waits for its turn, and has no step yet."""
        pending = RunChange(RunStatus.PENDING, live=0, paused=0, handled=0, unhandled=0)
        self.insert_run(tx, new, pending)
        changes = {"run": RunStatus.PENDING.value, "steps": [], "transitions": []}
        tx.queue(
            self._sql.insert_event,
            run_id=new.run_id,
            seq=1,
            at=new.created_at,
            changes=dump_json(changes),
        )

    def find_key(self, tx: Connection, key: str) -> tuple[str, str | None] | None:
        """Return the run id and body hash that an idempotency key stands for."""
        rows = tx.fetch(self._sql.find_key, idempotency_key=key)
        return (str(rows[0][0]), rows[0][1]) if rows else None

    # -- what a planning looks at

    def lock(
        self, tx: Connection, run_id: str, step_id: str, index: int, steps: Iterable[str]
    ) -> LockedRun | None:
        """
        Lock a run and one of its steps, then read them and the rows of `steps`.

        The read is a statement after the locking ones: what is read in the statement that
        waits for the lock is a snapshot from before it, and a join counted from that fires
        never. One round trip all the same.

        Returns:
            None if there is no such run.
        """
        wanted = list(steps)
        if tx.dialect == POSTGRES:
            tx.queue(self._sql.lock_run, run_id=run_id)
            tx.queue(self._sql.lock_step, run_id=run_id, step_id=step_id, item_index=index)
        rows = tx.fetch(
            self._sql.snapshot,
            run_id=run_id,
            step_id=step_id,
            item_index=index,
            wanted=dump_json(wanted),
        )
        if not rows:
            return None
        row = rows[0]
        began_at = read_instant(row[6])
        found = {name: _view(rest) for name, rest in json.loads(row[15] or "[]") if rest}
        return LockedRun(
            run=RunView(
                run_id=run_id,
                status=RunStatus(row[0]),
                seq=row[1],
                live=row[2],
                paused=row[3],
                handled=row[4],
                unhandled=row[5],
                parameters={},
                started_at=began_at.isoformat() if began_at else "",
            ),
            step_status=StepStatus(row[7]) if row[7] else None,
            step_token=str(row[8]) if row[8] else None,
            step_lease=read_instant(row[9]),
            steps={name: found.get(name) for name in wanted},
            step_waits_for=WaitsFor(row[10]) if row[10] else None,
            step_due=read_instant(row[11]),
            step_attempt=row[12] or 0,
            step_tries=(row[12] or 0) - (row[13] or 0) - (row[14] or 0),
        )

    def lock_run(self, tx: Connection, run_id: str) -> None:
        """Lock a run alone: what follows in this transaction is not raced by its changes."""
        if tx.dialect == POSTGRES:
            tx.queue(self._sql.lock_run, run_id=run_id)

    def read_steps(
        self, tx: Connection, run_id: str, wanted: Iterable[str]
    ) -> dict[str, StepView | None]:
        """Return the rows of some steps; None for those that have none."""
        names = list(wanted)
        rows = tx.fetch(self._sql.read_steps, run_id=run_id, wanted=dump_json(names))
        found = {row[0]: _view(row[1:]) for row in rows}
        return {name: found.get(name) for name in names}

    def read_all(
        self, tx: Connection, run_id: str
    ) -> tuple[dict[str, StepView | None], frozenset[int]]:
        """Return all step rows of a run and the indexes of its decided transitions."""
        steps = {row[0]: _view(row[1:]) for row in tx.fetch(self._sql.read_all, run_id=run_id)}
        decided = tx.fetch(self._sql.read_decided, run_id=run_id)
        return dict(steps), frozenset(row[0] for row in decided)

    def read_outputs(self, tx: Connection, run_id: str, wanted: Iterable[str]) -> dict[str, Any]:
        """Return the outputs of some steps, parsed; None for those that did not succeed."""
        names = list(wanted)
        rows = tx.fetch(self._sql.read_outputs, run_id=run_id, wanted=dump_json(names))
        found = {row[0]: json.loads(row[1]) for row in rows}
        return {name: found.get(name) for name in names}

    def read_errors(self, tx: Connection, run_id: str, wanted: Iterable[str]) -> dict[str, Any]:
        """Return the recorded errors of some failed steps, parsed; None for the others."""
        names = list(wanted)
        rows = tx.fetch(self._sql.read_errors, run_id=run_id, wanted=dump_json(names))
        found = {row[0]: json.loads(row[1]) for row in rows}
        return {name: found.get(name) for name in names}

    def read_errors_of(self, run_id: str, wanted: Iterable[str]) -> dict[str, Any]:
        """Return the recorded errors of those of some steps that failed, parsed."""
        if not wanted:
            return {}
        found = self.database.perform(lambda tx: self.read_errors(tx, run_id, wanted))
        return {name: error for name, error in found.items() if error is not None}

    def read_ends(self, tx: Connection, run_id: str) -> tuple[str, ...]:
        """Return the succeeded steps without a taken transition."""
        return tuple(row[0] for row in tx.fetch(self._sql.read_ends, run_id=run_id))

    def read_taken_sources(self, run_id: str, step_id: str, ready_seq: int) -> tuple[str, ...]:
        """Return the sources of transitions into a step that were taken when it became ready."""
        rows = self.database.fetch(
            self._sql.read_taken_sources, run_id=run_id, step_id=step_id, ready_seq=ready_seq
        )
        return tuple(row[0] for row in rows)

    # -- writing a plan

    def write(
        self,
        tx: Connection,
        run_id: str,
        *,
        seq: int,
        now: datetime,
        run: RunChange,
        steps: Iterable[StepChange],
        decisions: Iterable[Decision],
        settlement: StepSettlement | None,
        placings: Mapping[str, Placing],
        new_run: NewRun | None = None,
        by: str | None = None,
    ) -> None:
        """
        Queue every row of a plan as number `seq` of the run's sequence.

        The run and the settled step are locked and were read under the lock, so the guards
        in the statements hold; they stand there all the same.

        Args:
            placings: by step id, for those that become ready.
            new_run: the run begins with this plan; otherwise its row must be at `seq - 1`.
            by: who asked for the change, if somebody did.
        """
        ended = run.status in END_OF_RUN
        if new_run is not None:
            self.insert_run(tx, new_run, run)
        if new_run is None or ended:
            # A run that could not even begin has its error written like any other.
            before = seq if new_run is not None else seq - 1
            tx.queue(
                self._sql.update_run,
                run_id=run_id,
                before=before,
                seq=seq,
                status=run.status.value,
                live=run.live,
                paused=run.paused,
                handled=run.handled,
                unhandled=run.unhandled,
                error_step_id=run.error_step_id,
                error_code=run.error_code,
                error_message=run.error_message,
                finished_at=now if ended else None,
            )
        if ended:
            self._write_end(tx, run_id, now, run)
        moved: list[list[Any]] = []
        for change in steps:
            self._write_step(tx, run_id, seq, now, change, settlement, placings)
            is_item = change.index != NO_INDEX
            moved.append([change.step_id, change.status.value, *([change.index] * is_item)])
        routed: list[list[Any]] = []
        for decision in decisions:
            tx.queue(
                self._sql.insert_decision,
                run_id=run_id,
                transition=decision.transition,
                source=decision.source,
                target=decision.target,
                taken=decision.taken,
                seq=seq,
                reason=dump_json(decision.reason),
                decided_at=now,
            )
            routed.append([decision.transition, decision.taken])
        changes = {"run": run.status.value, "steps": moved, "transitions": routed}
        if by is not None:
            changes["by"] = by
        tx.queue(self._sql.insert_event, run_id=run_id, seq=seq, at=now, changes=dump_json(changes))

    def discard(self, tx: Connection, run_id: str, step_id: str, index: int, result: str) -> None:
        """Keep a result that came too late, for people; it has no effect."""
        tx.queue(
            self._sql.discard, run_id=run_id, step_id=step_id, item_index=index, discarded=result
        )

    def cancel_pauses(self, tx: Connection, run_id: str, step_id: str) -> None:
        """open -> cancelled: the questions of a step, or of its items."""
        tx.queue(self._sql.cancel_pauses_of_step, run_id=run_id, step_id=step_id)

    def keep_inputs(self, run_id: str, step_id: str, index: int, inputs: str) -> None:
        """Keep resolved inputs before the work begins, where a retry could see others."""
        self.database.fetch(
            self._sql.put_payload,
            run_id=run_id,
            step_id=step_id,
            item_index=index,
            inputs=inputs,
            output=None,
            error=None,
        )

    def read_judged(self, run_id: str, step_id: str) -> dict[str, Any]:
        """Return what routing services answered about a step's end, by what was asked."""
        rows = self.database.fetch(self._sql.read_judged, run_id=run_id, step_id=step_id)
        found: dict[str, Any] = json.loads(rows[0][0]) if rows and rows[0][0] else {}
        return found

    def keep_judged(self, run_id: str, step_id: str, judged: Mapping[str, Any]) -> None:
        """Keep it, before anything follows from it."""
        self.database.fetch(
            self._sql.put_judged, run_id=run_id, step_id=step_id, judged=dump_json(judged)
        )

    def _write_end(self, tx: Connection, run_id: str, now: datetime, run: RunChange) -> None:
        if run.status is RunStatus.SUCCEEDED:
            tx.queue(self._sql.set_outputs, run_id=run_id, outputs=dump_json(run.outputs))
        else:
            tx.queue(self._sql.cancel_pauses, run_id=run_id)

    def _write_step(
        self,
        tx: Connection,
        run_id: str,
        seq: int,
        now: datetime,
        change: StepChange,
        settlement: StepSettlement | None,
        placings: Mapping[str, Placing],
    ) -> None:
        own = (change.step_id, change.index)
        is_settled = settlement is not None and (settlement.step_id, settlement.index) == own
        settled = settlement if is_settled else None
        ready = change.status is StepStatus.READY
        placing = placings.get(change.step_id, _NOWHERE) if ready else _NOWHERE
        is_held = change.concurrency_key is not None or placing.due_at is not None
        row: dict[str, Any] = {
            "run_id": run_id,
            "step_id": change.step_id,
            "item_index": change.index,
            "status": change.status.value,
            "end": change.end.value if change.end else None,
            "decided": change.decided,
            "taken": change.taken,
            "is_end": change.is_end,
            "handled": change.handled,
            "due_at": settled.due_at if settled else placing.due_at,
            "finished_at": now if change.status in END_OF_STEP else None,
            "waits_for": change.waits_for.value if change.waits_for else None,
        }
        publish: dict[str, Any] = {
            "ready_seq": seq if ready else 0,
            "queue": placing.queue,
            "priority": placing.priority,
            "published_at": now if ready and not is_held else None,
            "concurrency_key": change.concurrency_key,
        }
        if change.before is None:
            tx.queue(self._sql.insert_step, **row, **publish)
        elif change.before is StepStatus.PENDING and ready:
            tx.queue(
                self._sql.mark_ready,
                run_id=run_id,
                step_id=change.step_id,
                decided=change.decided,
                taken=change.taken,
                due_at=placing.due_at,
                **publish,
            )
        elif change.status is StepStatus.CANCELLED:
            tx.queue(self._sql.mark_cancelled, **row)
        else:
            tx.queue(self._sql.move_step, **row, before=change.before.value)
        if change.items is not None:
            self._write_counts(tx, run_id, change.step_id, change.items)
        self._write_payload(tx, run_id, change, settled)
        if change.before is StepStatus.WAITING and change.status is StepStatus.CANCELLED:
            tx.queue(self._sql.cancel_pauses_of_step, run_id=run_id, step_id=change.step_id)

    def _write_counts(self, tx: Connection, run_id: str, step_id: str, items: ItemCounts) -> None:
        tx.queue(
            self._sql.set_items, run_id=run_id, step_id=step_id, items=dump_json(asdict(items))
        )

    def _write_payload(
        self, tx: Connection, run_id: str, change: StepChange, settled: StepSettlement | None
    ) -> None:
        error = dump_json(change.error) if change.error is not None else None
        output = settled.output if settled else None
        if change.output is not None:
            output = dump_json(change.output)
        if settled is None and error is None and output is None:
            return
        tx.queue(
            self._sql.put_payload,
            run_id=run_id,
            step_id=change.step_id,
            item_index=change.index,
            inputs=settled.inputs if settled else None,
            output=output,
            error=error,
        )


_NOWHERE = Placing()


def read_item_counts(value: Any) -> ItemCounts | None:
    """Return stored counts, which arrive as JSON text or parsed already; None stays None."""
    if value is None:
        return None
    return ItemCounts(**(json.loads(value) if isinstance(value, str) else value))


def _view(row: Any) -> StepView:
    status, decided, taken, waits_for, items = row
    return StepView(
        StepStatus(status),
        decided,
        taken,
        WaitsFor(waits_for) if waits_for else None,
        read_item_counts(items),
    )
