"""Lock, look up, plan, write: how one change of a run is applied, inside a transaction.

Decides the order of these and what is read for the planner; never what follows from the
change (the planner does) and never when a transaction begins or ends (the engine does).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from iaflow.data.records import NO_INDEX, RunView, StepTask
from iaflow.data.status import RunStatus, StepStatus
from iaflow.database.connections import Connection
from iaflow.database.run_store import SettleStore
from iaflow.database.run_store.settles import LockedRun, NewRun, StepSettlement
from iaflow.errors import NotFound
from iaflow.pipeline.graph import Graph
from iaflow.pipeline.planner import advance, first_needs
from iaflow.pipeline.plans import Change, Needs, Plan, RunStarted, Snapshot, StepEnded

__all__ = ["Settled", "Settler"]


@dataclass(frozen=True, slots=True)
class Settled:
    """
    What a change led to.

    Attributes:
        run_status: the run's status after it.
        tasks: the steps that became ready and wait to be published.
        is_stale: the claim was lost, or the run had ended: nothing was changed.
        step_status: the status of the step that the change was about.
        retry_at: when the next attempt of the step is due, if there will be one.
    """

    run_status: RunStatus
    tasks: tuple[StepTask, ...] = ()
    is_stale: bool = False
    step_status: StepStatus | None = None
    retry_at: datetime | None = None


class Settler:
    """Applies changes to runs; every method wants an open transaction."""

    def __init__(self, store: SettleStore) -> None:
        self._store = store

    def begin(
        self, tx: Connection, graph: Graph, new: NewRun, parameters: Mapping[str, Any]
    ) -> tuple[StepTask, ...]:
        """Write a run that begins, and return its first task."""
        view = RunView(
            new.run_id,
            RunStatus.PENDING,
            seq=0,
            live=0,
            paused=0,
            handled=0,
            unhandled=0,
            parameters=parameters,
            started_at=new.created_at.isoformat(),
        )
        plan = advance(graph, Snapshot(view, steps={graph.start: None}), RunStarted())
        assert isinstance(plan, Plan), "a start needs to know nothing"
        self._write(tx, graph, new.run_id, 1, new.created_at, plan, None, new)
        return _tasks(graph, new.run_id, plan)

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
    ) -> Settled:
        """Plan a change of a locked run and write every consequence."""
        run = replace(locked.run, parameters=parameters)
        snapshot = Snapshot(run, steps=locked.steps)
        if isinstance(change, StepEnded):
            # Its rows came with the lock; operands of its conditions, where it has any, now.
            needs = replace(first_needs(graph, change.step_id), steps=frozenset())
            snapshot = snapshot.plus(self._look_up(tx, graph, run, needs))
        plan = advance(graph, snapshot, change)
        while isinstance(plan, Needs):
            snapshot = snapshot.plus(self._look_up(tx, graph, run, plan))
            plan = advance(graph, snapshot, change)
        self._write(tx, graph, run.run_id, run.seq + 1, now, plan, settlement, None)
        about = settlement.step_id if settlement is not None else None
        statuses = {change.step_id: change.status for change in plan.steps}
        return Settled(
            plan.run.status,
            _tasks(graph, run.run_id, plan),
            step_status=statuses.get(about) if about is not None else None,
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
        )

    def _write(
        self,
        tx: Connection,
        graph: Graph,
        run_id: str,
        seq: int,
        now: datetime,
        plan: Plan,
        settlement: StepSettlement | None,
        new_run: NewRun | None,
    ) -> None:
        steps = (graph.nodes[step_id].step for step_id in plan.ready)
        self._store.write(
            tx,
            run_id,
            seq=seq,
            now=now,
            run=plan.run,
            steps=plan.steps,
            decisions=plan.decisions,
            settlement=settlement,
            queues={step.id: (step.queue, step.priority) for step in steps},
            new_run=new_run,
        )


def _tasks(graph: Graph, run_id: str, plan: Plan) -> tuple[StepTask, ...]:
    slug = graph.definition.slug
    steps = (graph.nodes[step_id].step for step_id in plan.ready)
    return tuple(
        StepTask(run_id, step.id, NO_INDEX, 1, slug, step.queue, step.priority) for step in steps
    )
