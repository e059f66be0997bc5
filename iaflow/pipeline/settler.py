"""Lock, look up, plan, write: how one change of a run is applied, inside a transaction.

Decides the order of these and what is read for the planner; never what follows from the
change (the planner does) and never when a transaction begins or ends (the engine does).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

import uuid_utils

from iaflow.data.records import NO_INDEX, RunChange, RunView, StepTask, StepView
from iaflow.data.status import END_OF_RUN, END_OF_STEP, NoticeKind, RunStatus, StepStatus
from iaflow.database.connections import Connection
from iaflow.database.dialects import Database
from iaflow.database.run_store import HoldStore, ItemStore, NoticeStore, SettleStore
from iaflow.database.run_store.settles import LockedRun, NewRun, Placing, StepSettlement
from iaflow.errors import NotFound
from iaflow.pipeline.definition import StepDefinition
from iaflow.pipeline.graph import Graph
from iaflow.pipeline.planner import advance, first_needs
from iaflow.pipeline.plans import (
    Change,
    CodeQuestion,
    Judged,
    Needs,
    Plan,
    RunStarted,
    Snapshot,
    StepEnded,
)
from iaflow.pipeline.retry import read_rate

__all__ = ["NOTHING_JUDGED", "CodeWanted", "Settled", "Settler"]

NOTHING_JUDGED: Judged = {}

END_NOTICES: Final = {
    RunStatus.SUCCEEDED: NoticeKind.RUN_SUCCEEDED,
    RunStatus.FAILED: NoticeKind.RUN_FAILED,
    RunStatus.CANCELLED: NoticeKind.RUN_CANCELLED,
}


@dataclass(frozen=True, slots=True)
class Settled:
    """
    What a change led to.

    Attributes:
        run_id: the run that was changed.
        run_status: the run's status after it.
        tasks: the steps that became ready and wait to be published.
        is_stale: the claim was lost, or what was to be cancelled had ended: nothing was changed.
        step_status: the status of the step that the change was about.
        due_at: when something is due because of it: a retry, a timer, a start by a rate.
        questions: conditions that need code. Nothing was changed: judge them, and do it again.
        was: the run's status before it.
        ended: how the runs ended that it ended, those of its follow-ups included.
        keys: concurrency keys that became free, or are wanted from now on.
        cancelled: steps of which something was cancelled.
        follow_ups: what it leads to in other runs, each to be done as this was.
    """

    run_id: str
    run_status: RunStatus
    tasks: tuple[StepTask, ...] = ()
    is_stale: bool = False
    step_status: StepStatus | None = None
    due_at: datetime | None = None
    questions: tuple[CodeQuestion, ...] = ()
    was: RunStatus | None = None
    ended: tuple[RunStatus, ...] = ()
    keys: tuple[str, ...] = ()
    cancelled: tuple[str, ...] = ()
    follow_ups: tuple[Callable[[Judged], Settled], ...] = field(default=(), compare=False)


class CodeWanted(Exception):
    """A change cannot be planned before code has judged these conditions."""

    def __init__(self, questions: tuple[CodeQuestion, ...]) -> None:
        self.questions = questions
        super().__init__(questions)


@dataclass(slots=True)
class _Tally:
    """What a plan's writing came to, beside its rows."""

    tasks: list[StepTask] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    due: list[datetime] = field(default_factory=list)


class Settler:
    """
    Applies changes to runs; every method wants an open transaction.

    Args:
        told: ends of runs that people are told of.
    """

    def __init__(self, database: Database, told: Collection[NoticeKind] = ()) -> None:
        self._notices = NoticeStore(database)
        self._ends_told = {s: k for s, k in END_NOTICES.items() if k in told}
        self._store = SettleStore(database)
        self._items = ItemStore(database)
        self._holds = HoldStore(database)

    @property
    def store(self) -> SettleStore:
        """The store that plans are written by."""
        return self._store

    def begin(
        self, tx: Connection, graph: Graph, new: NewRun, parameters: Mapping[str, Any]
    ) -> Settled:
        """Write a run that begins, or that waits for its turn, and return its first task."""
        view = RunView(
            new.run_id,
            RunStatus.PENDING,
            seq=0,
            live=0,
            paused=0,
            handled=0,
            unhandled=0,
            parameters=parameters,
            started_at=new.started_at.isoformat() if new.started_at else "",
        )
        if new.started_at is None:
            self._store.insert_pending(tx, new)
            return Settled(new.run_id, RunStatus.PENDING)
        snapshot = Snapshot(view, steps={graph.start: None})
        if graph.nodes[graph.start].concurrency_key is not None:
            # Its key may be faulty, and the run then ends as it begins.
            nothing = dict.fromkeys(graph.nodes)
            snapshot = Snapshot(view, steps=nothing, decided=frozenset(), ends=())
        plan = advance(graph, snapshot, RunStarted())
        if isinstance(plan, Needs):
            # A faulty key, and code must judge what follows: who can run code begins it.
            self._store.insert_pending(tx, replace(new, started_at=None, deadline_at=None))
            return Settled(new.run_id, RunStatus.PENDING)
        tally = self._write(tx, graph, view, new.created_at, plan, None, new)
        return Settled(
            new.run_id,
            plan.run.status,
            tuple(tally.tasks),
            due_at=min(tally.due, default=None),
            was=RunStatus.PENDING,
            ended=_end(RunStatus.PENDING, plan.run.status),
            keys=tuple(tally.keys),
        )

    def lock(
        self, tx: Connection, graph: Graph, run_id: str, step_id: str, index: int = NO_INDEX
    ) -> LockedRun:
        """
        Lock a run and a step of it, and read what planning the step's end surely needs.

        Raises:
            NotFound: there is no such run.
        """
        wanted = first_needs(graph, step_id).steps
        locked = self._store.lock(tx, run_id, step_id, index, wanted)
        if locked is None:
            raise NotFound(f"there is no run {run_id}")
        return locked

    def apply(
        self,
        tx: Connection,
        graph: Graph,
        locked: LockedRun,
        change: Change,
        *,
        parameters: Mapping[str, Any],
        now: datetime,
        settlement: StepSettlement | None = None,
        judged: Judged = NOTHING_JUDGED,
        by: str | None = None,
    ) -> Settled:
        """
        Plan a change of a locked run and write every consequence.

        Args:
            by: who asked for it; the event has it.

        Raises:
            CodeWanted: something must be judged by code first; the transaction is to be undone.
        """
        run = replace(locked.run, parameters=parameters)
        item = None
        if locked.step_status is not None:
            item = StepView(locked.step_status, waits_for=locked.step_waits_for)
        snapshot = Snapshot(run, steps=locked.steps, item=item, judged=judged)
        if isinstance(change, StepEnded):
            # Its rows came with the lock; operands of its conditions, where it has any, now.
            needs = replace(first_needs(graph, change.step_id), steps=frozenset())
            snapshot = snapshot.plus(self._look_up(tx, graph, run, needs))
        plan = advance(graph, snapshot, change)
        while isinstance(plan, Needs):
            if plan == Needs(code=plan.code):
                raise CodeWanted(plan.code)
            snapshot = snapshot.plus(self._look_up(tx, graph, run, plan))
            plan = advance(graph, snapshot, change)
        tally = self._write(tx, graph, run, now, plan, settlement, None, by)
        due = [*tally.due, settlement.due_at] if settlement and settlement.due_at else tally.due
        own = (settlement.step_id, settlement.index) if settlement is not None else None
        statuses = {(change.step_id, change.index): change.status for change in plan.steps}
        return Settled(
            run.run_id,
            plan.run.status,
            tuple(tally.tasks),
            step_status=statuses.get(own) if own is not None else None,
            due_at=min(due, default=None),
            was=run.status,
            ended=_end(run.status, plan.run.status),
            keys=tuple(tally.keys),
            cancelled=plan.cancelled,
        )

    def _look_up(self, tx: Connection, graph: Graph, run: RunView, needs: Needs) -> Snapshot:
        store, run_id = self._store, run.run_id
        steps: dict[str, Any] = {}
        decided = None
        if needs.everything:
            found, decided = store.read_all(tx, run_id)
            steps = dict.fromkeys(graph.nodes) | found
        elif needs.steps:
            steps = dict(store.read_steps(tx, run_id, needs.steps))
        return Snapshot(
            run,
            steps=steps,
            outputs=store.read_outputs(tx, run_id, needs.outputs) if needs.outputs else {},
            errors=store.read_errors(tx, run_id, needs.errors) if needs.errors else {},
            decided=decided,
            ends=store.read_ends(tx, run_id) if needs.ends else None,
            results={
                step_id: self._items.read_results(tx, run_id, step_id) for step_id in needs.results
            },
        )

    # -- writing

    def _write(
        self,
        tx: Connection,
        graph: Graph,
        run: RunView,
        now: datetime,
        plan: Plan,
        settlement: StepSettlement | None,
        new_run: NewRun | None,
        by: str | None = None,
    ) -> _Tally:
        tally = _Tally()
        seq = run.seq + 1
        ready = [graph.nodes[step_id].step for step_id in plan.ready]
        placings = {step.id: self._place(tx, graph, step, now) for step in ready}
        self._store.write(
            tx,
            run.run_id,
            seq=seq,
            now=now,
            run=plan.run,
            steps=plan.steps,
            decisions=plan.decisions,
            settlement=settlement,
            placings=placings,
            new_run=new_run,
            by=by,
        )
        if plan.run.status in self._ends_told:
            self._tell_end(tx, graph, run.run_id, seq, now, plan.run)
        keys = {c.step_id: c.concurrency_key for c in plan.steps if c.status is StepStatus.READY}
        for step in ready:
            self._publish(
                tally, graph, run.run_id, step, NO_INDEX, keys[step.id], placings[step.id].due_at
            )
        if plan.new_items or plan.more_items or plan.dropped_items:
            self._write_items(tx, graph, run.run_id, seq, now, plan, settlement, tally)
        if graph.has_keys:
            tally.keys += self._free(tx, graph, run.run_id, plan)
        return tally

    def _tell_end(
        self,
        tx: Connection,
        graph: Graph,
        run_id: str,
        seq: int,
        now: datetime,
        change: RunChange,
    ) -> None:
        body = {"slug": graph.definition.slug}
        if change.error_code is not None:
            body |= {"step_id": change.error_step_id or "", "code": change.error_code}
        self._notices.insert(
            tx,
            notice_id=str(uuid_utils.uuid7()),
            run_id=run_id,
            kind=self._ends_told[change.status],
            # A run that `retry` reopened may end again.
            cause=str(seq),
            body=body,
            now=now,
            step_id=change.error_step_id,
            is_of_family=True,
        )

    def _place(self, tx: Connection, graph: Graph, step: StepDefinition, now: datetime) -> Placing:
        if step.rate_limit is None or step.foreach is not None:
            return Placing(step.queue, step.priority)
        [slot] = self._reserve(tx, graph, step, now, 1)
        return Placing(step.queue, step.priority, slot if slot > now else None)

    def _reserve(
        self, tx: Connection, graph: Graph, step: StepDefinition, not_before: datetime, count: int
    ) -> list[datetime]:
        assert step.rate_limit is not None
        name = f"{graph.definition.slug}/{step.id}"
        spacing = timedelta(seconds=read_rate(step.rate_limit))
        return self._holds.reserve(tx, name, spacing=spacing, not_before=not_before, count=count)

    def reserve_retry(
        self, tx: Connection, graph: Graph, step: StepDefinition, not_before: datetime
    ) -> datetime:
        """Return when the next attempt may begin: a rate counts every start."""
        return self._reserve(tx, graph, step, not_before, 1)[0]

    def _publish(
        self,
        tally: _Tally,
        graph: Graph,
        run_id: str,
        step: StepDefinition,
        index: int,
        key: str | None,
        due_at: datetime | None,
    ) -> None:
        """Note what a step that became ready waits for: a message, an instant, or a key."""
        if due_at is not None:
            tally.due.append(due_at)
        elif key is not None:
            tally.keys.append(key)
        else:
            slug = graph.definition.slug
            task = StepTask(run_id, step.id, index, 1, slug, step.queue, step.priority)
            tally.tasks.append(task)

    def _write_items(
        self,
        tx: Connection,
        graph: Graph,
        run_id: str,
        seq: int,
        now: datetime,
        plan: Plan,
        settlement: StepSettlement | None,
        tally: _Tally,
    ) -> None:
        if plan.new_items is not None and settlement is not None:
            new = plan.new_items
            step = graph.nodes[new.step_id].step
            slots = self._slots(tx, graph, step, now, new.started)
            self._items.insert(
                tx,
                run_id,
                new,
                settlement.items,
                seq=seq,
                now=now,
                queue=step.queue,
                priority=step.priority,
                is_held=_is_held(graph, step),
                slots=slots,
            )
            for place in range(new.started):
                key, slot = settlement.items[place][1], slots[place] if slots else None
                self._publish(tally, graph, run_id, step, place, key, slot)
        for step_id, count in plan.more_items:
            step = graph.nodes[step_id].step
            begun = self._items.start(
                tx, run_id, step_id, count, seq=seq, now=now, is_held=_is_held(graph, step)
            )
            slots = self._slots(tx, graph, step, now, len(begun))
            for place, (index, key) in enumerate(begun):
                if slots:
                    self._items.hold(tx, run_id, step.id, index, until=slots[place])
                slot = slots[place] if slots else None
                self._publish(tally, graph, run_id, step, index, key, slot)
        for step_id in plan.dropped_items:
            self._items.drop(tx, run_id, step_id, now)
            self._store.cancel_pauses(tx, run_id, step_id)

    def _slots(
        self, tx: Connection, graph: Graph, step: StepDefinition, now: datetime, count: int
    ) -> list[datetime]:
        """Return when each of so many items may start by their rate; nothing without one."""
        if step.rate_limit is None or not count:
            return []
        # The sweep publishes what is due, also at once.
        return self._reserve(tx, graph, step, now, count)

    def _free(self, tx: Connection, graph: Graph, run_id: str, plan: Plan) -> list[str]:
        """Free the keys of attempts that are over: a key is not held while retrying."""
        if plan.run.status in END_OF_RUN:
            return self._holds.free_all(tx, run_id)
        over = END_OF_STEP | {StepStatus.RETRYING}
        freed: list[str] = []
        for change in plan.steps:
            keyed = graph.nodes[change.step_id].concurrency_key is not None
            if keyed and change.before is not None and change.status in over:
                freed += self._holds.free(tx, run_id, change.step_id, change.index)
        for step_id in plan.dropped_items:
            if graph.nodes[step_id].concurrency_key is not None:
                freed += self._holds.free_all(tx, run_id, step_id)
        return freed


def _is_held(graph: Graph, step: StepDefinition) -> bool:
    return step.rate_limit is not None or graph.nodes[step.id].concurrency_key is not None


def _end(before: RunStatus, after: RunStatus) -> tuple[RunStatus, ...]:
    return (after,) if after in END_OF_RUN and before not in END_OF_RUN else ()
