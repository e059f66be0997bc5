"""Runs that stand in a relation: a step's child run, and runs that wait for their turn.

Decides what one run's change leads to in others, each in a transaction of its own, so that no
two runs are ever locked at once; what a crash leaves out, the sweep finds. Part of the engine.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from iaflow.data.records import Failed, RunRecord, StepTask, Succeeded
from iaflow.data.status import END_OF_RUN, RunStatus, StepEnd, StepStatus, WaitsFor
from iaflow.database.connections import Connection
from iaflow.database.run_store.settles import LockedRun, StepSettlement
from iaflow.database.run_store.waits import WaitingStep
from iaflow.pipeline.core import Core, add_seconds
from iaflow.pipeline.definition import StepType
from iaflow.pipeline.endings import check_output, end_of_attempt
from iaflow.pipeline.graph import Graph, Node
from iaflow.pipeline.plans import Judged, RunCancelled, RunStarted, StepWaits
from iaflow.pipeline.retry import read_rate
from iaflow.pipeline.settler import NOTHING_JUDGED, CodeWanted, Settled

__all__ = ["FamilyVerbs"]


class FamilyVerbs(Core):
    """Verbs on runs that stand in a relation, and on steps that wait for time."""

    def follow_up(self, settled: Settled) -> Settled:
        """Add what a committed change leads to in other runs."""
        return self._lead_on(settled, gives_turns=True)

    def _lead_on(self, settled: Settled, *, gives_turns: bool) -> Settled:
        if settled.is_stale or settled.questions:
            return settled
        header, graph = self.pinned(settled.run_id)
        tasks = [*settled.tasks, *self.grant(settled.keys)]
        follow_ups = list(settled.follow_ups)
        ended = settled.run_status in END_OF_RUN
        if graph.has_children and (ended or settled.cancelled):
            orphans = self.waits.find_orphans(run_id=settled.run_id)
            follow_ups += (partial(self.cancel_orphan, child) for child in orphans)
        rests = {settled.run_status, settled.was} & {RunStatus.WAITING}
        if header.parent is not None and (ended or (rests and settled.was != settled.run_status)):
            follow_ups.append(partial(self.follow, settled.run_id))
        if gives_turns and ended and graph.definition.max_concurrent_runs is not None:
            tasks += self.give_turns(graph.definition.slug)
        if len(tasks) == len(settled.tasks) and not follow_ups:
            return settled
        return replace(settled, tasks=tuple(tasks), follow_ups=tuple(follow_ups))

    def root_of(self, run_id: str) -> str:
        """Return the run at the top of a run's family: itself, if no step runs it."""
        while (above := self.pinned(run_id)[0].parent) is not None:
            run_id = above[0]
        return run_id

    # -- children

    def follow(self, child_id: str, judged: Judged = NOTHING_JUDGED) -> Settled:
        """Let the step that waits for a child run know where that stands."""
        child = self.reads.run(child_id)
        above = self.pinned(child_id)[0].parent
        if child is None or above is None:
            return Settled(child_id, RunStatus.FAILED, is_stale=True)
        parent_id, step_id, index = above
        header, graph = self.pinned(parent_id)

        def go_on(tx: Connection) -> Settled:
            locked = self._settler.lock(tx, graph, parent_id, step_id, index)
            # Read under the lock: of two that follow at once, the later one sees the newest.
            child = self.reads.run(child_id)
            if child is None or not self._waits_for(locked, child):
                return Settled(parent_id, locked.run.status, is_stale=True)
            if child.status not in END_OF_RUN:
                rests = child.status is RunStatus.WAITING
                waits_for = WaitsFor.RUN_OUTSIDE if rests else WaitsFor.RUN
                if locked.step_waits_for is waits_for:
                    return Settled(parent_id, locked.run.status, is_stale=True)
                change = StepWaits(step_id, waits_for, index)
                kept = StepSettlement(step_id, index, due_at=locked.step_due)
                return self._settler.apply(
                    tx,
                    graph,
                    locked,
                    change,
                    parameters=header.parameters,
                    now=self.clock.now(),
                    settlement=kept,
                )
            outcome = _outcome_of(child, graph.nodes[step_id])
            return self._end_waiting(
                tx, WaitingStep(parent_id, step_id, index), graph, locked, outcome, judged
            )

        return self.perform(parent_id, go_on)

    def _waits_for(self, locked: LockedRun, child: RunRecord) -> bool:
        return locked.step_status is StepStatus.WAITING and (
            locked.step_attempt == child.parent_attempt
        )

    def cancel_orphan(self, child_id: str, judged: Judged = NOTHING_JUDGED) -> Settled:
        """Cancel a run that nobody waits for any more."""
        header, graph = self.pinned(child_id)

        def cancel(tx: Connection) -> Settled:
            locked = self._settler.lock(tx, graph, child_id, graph.start)
            if locked.run.status in END_OF_RUN:
                return Settled(child_id, locked.run.status, is_stale=True)
            change = RunCancelled("the step that it ran for waits for it no more")
            return self._settler.apply(
                tx, graph, locked, change, parameters=header.parameters, now=self.clock.now()
            )

        return self.perform(child_id, cancel)

    # -- time

    def next_due(self, run_id: str | None = None) -> datetime | None:
        """Return when time brings something about next, in all runs or in one; None if never."""
        found = [
            self.claims.next_due(run_id),
            self.waits.next_limit(run_id),
            self.pauses.next_notice(run_id),
        ]
        if run_id is None:
            found.append(self.schedules.next_due())
        return min((instant for instant in found if instant is not None), default=None)

    def release_due(self, now: datetime, run_id: str | None = None) -> list[StepTask]:
        """
        Let steps start whose rate is due, or that a worker handed back; of one run if given.

        Of several of one rate that are overdue, since nobody looked in time, the first starts
        and the others are spaced anew: a rate is not saved up.
        """
        lines: dict[str, list[StepTask]] = {}
        for task in self.holds.find_due(now=now, run_id=run_id):
            header, graph = self.pinned(task.run_id)
            name = f"{header.slug}/{task.step_id}"
            if graph.nodes[task.step_id].step.rate_limit is None:
                # Others of its name have nothing to do with it.
                name = f"{task.run_id}/{task.step_id}/{task.index}"
            lines.setdefault(name, []).append(task)
        started: list[StepTask] = []
        for name, (first, *others) in lines.items():
            step = self.pinned(first.run_id)[1].nodes[first.step_id].step

            def let_go(
                tx: Connection,
                name: str = name,
                first: StepTask = first,
                others: list[StepTask] = others,
                rate: str | None = step.rate_limit,
            ) -> bool:
                if others and rate is not None:
                    spacing = timedelta(seconds=read_rate(rate))
                    slots = self.holds.reserve(
                        tx, name, spacing=spacing, not_before=now + spacing, count=len(others)
                    )
                    for task, slot in zip(others, slots, strict=True):
                        self.holds.put_off(tx, task, now=now, until=slot)
                return self.holds.release(tx, first, now=now)

            if self.database.perform(let_go):
                started.append(first)
        return started

    def ring(self, waiting: WaitingStep, judged: Judged = NOTHING_JUDGED) -> Settled:
        """End the waiting of a step whose time is over: a timer, or a child's timeout."""
        graph = self.pinned(waiting.run_id)[1]
        node = graph.nodes[waiting.step_id]

        def end(tx: Connection) -> Settled:
            locked = self._settler.lock(tx, graph, waiting.run_id, waiting.step_id, waiting.index)
            due = locked.step_due
            is_due = due is not None and due <= self.clock.now()
            if locked.step_status is not StepStatus.WAITING or not is_due:
                return Settled(waiting.run_id, locked.run.status, is_stale=True)
            if node.step.type is not StepType.PIPELINE:
                return self._end_waiting(tx, waiting, graph, locked, Succeeded({}, "{}"), judged)
            limit = node.step.policy.timeout
            late = Failed(
                "timeout",
                f"the pipeline took longer than the step's timeout of {limit} s",
                names=("TimeoutError",),
                end=StepEnd.TIMEOUT,
            )
            return self._end_waiting(tx, waiting, graph, locked, late, judged)

        return self.perform(waiting.run_id, end)

    def _end_waiting(
        self,
        tx: Connection,
        waiting: WaitingStep,
        graph: Graph,
        locked: LockedRun,
        outcome: Succeeded | Failed,
        judged: Judged,
    ) -> Settled:
        """Give a step that waited without a worker its end, or its next attempt."""
        header = self.pinned(waiting.run_id)[0]
        step = graph.nodes[waiting.step_id].step
        now = self.clock.now()
        ending = end_of_attempt(
            waiting.step_id,
            outcome,
            step.policy,
            try_number=locked.step_tries,
            uniform=self._draw(),
            index=waiting.index,
        )
        return self._settler.apply(
            tx,
            graph,
            locked,
            ending.change,
            parameters=header.parameters,
            now=now,
            judged=judged,
            settlement=StepSettlement(
                waiting.step_id,
                waiting.index,
                output=ending.output,
                due_at=add_seconds(now, ending.delay),
            ),
        )

    # -- turns

    def give_turns(self, slug: str) -> list[StepTask]:
        """Begin runs of a pipeline that wait for their turn, the oldest first, while they may."""
        tasks: list[StepTask] = []
        while (run_id := self.waits.find_pending(slug)) is not None:
            settled = self._begin_pending(run_id, NOTHING_JUDGED)
            if settled.questions or settled.run_status is RunStatus.PENDING:
                break
            # Of those that end as they begin, this loop is what gives the turn on.
            tasks += self._lead_on(settled, gives_turns=False).tasks
        return tasks

    def take_turn(self, run_id: str, judged: Judged = NOTHING_JUDGED) -> Settled:
        """Begin a run that waits for its turn, if it may; as a verb, for what needs code."""
        return self.follow_up(self._begin_pending(run_id, judged))

    def _begin_pending(self, run_id: str, judged: Judged) -> Settled:
        header, graph = self.pinned(run_id)
        limit = graph.definition.max_concurrent_runs

        def begin(tx: Connection) -> Settled:
            if limit is not None and self.waits.count_running(tx, header.slug) >= limit:
                return Settled(run_id, RunStatus.PENDING, is_stale=True)
            now = self.clock.now()
            deadline_at = add_seconds(now, graph.definition.run_timeout)
            self.waits.mark_begun(tx, run_id, now=now, deadline_at=deadline_at)
            locked = self._settler.lock(tx, graph, run_id, graph.start)
            if locked.run.status is not RunStatus.PENDING:
                return Settled(run_id, locked.run.status, is_stale=True)
            return self._settler.apply(
                tx,
                graph,
                locked,
                RunStarted(),
                parameters=header.parameters,
                now=now,
                judged=judged,
            )

        try:
            return self.database.perform(begin)
        except CodeWanted as wanted:
            return Settled(run_id, RunStatus.PENDING, questions=wanted.questions)


def _outcome_of(child: RunRecord, node: Node) -> Succeeded | Failed:
    """Return what the end of a child run is to the step that it ran for."""
    if child.status is RunStatus.SUCCEEDED:
        return check_output(node, dict(child.outputs or {}))
    if child.status is RunStatus.CANCELLED:
        return Failed("pipeline_cancelled", f"run {child.run_id} of {child.slug} was cancelled")
    where = f", step {child.error_step_id}" if child.error_step_id else ""
    cause = f"{child.error_code or 'failed'}: {child.error_message or ''}"
    names = (child.error_code,) if child.error_code else ()
    return Failed("pipeline_failed", f"run {child.run_id} of {child.slug}{where}: {cause}", names)
