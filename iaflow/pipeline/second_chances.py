"""Runs that go on after their end: `retry` of a failed one, `rerun` of any from a step.

Decides which transaction each is, and what must be true before; never which steps go on (the
reopening does) nor what follows (the planner does). Part of the engine.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from iaflow.data.records import ItemCounts
from iaflow.data.status import END_OF_RUN, RunStatus, StepStatus
from iaflow.database.connections import Connection
from iaflow.database.run_store.reopens import PastRow
from iaflow.database.run_store.settles import LockedRun
from iaflow.errors import Conflict, InputRefused, NotFound, Problem
from iaflow.pipeline.core import Core, add_seconds
from iaflow.pipeline.graph import Graph
from iaflow.pipeline.plans import Judged, RunReopened
from iaflow.pipeline.reopening import (
    PastDecision,
    PastStep,
    Reopening,
    descendants,
    plan_reopening,
)
from iaflow.pipeline.settler import NOTHING_JUDGED, Settled
from iaflow.pipeline.strict_json import check_json_value

__all__ = ["SecondChanceVerbs"]


class SecondChanceVerbs(Core):
    """Verbs on runs that have ended."""

    def retry_run(
        self, run_id: str, judged: Judged = NOTHING_JUDGED, *, by: str | None = None
    ) -> Settled:
        """
        Reopen a failed run: failed and cancelled steps go on, and those skipped because of them.

        What succeeded keeps its outputs; of a foreach only the items go on that did not succeed.
        Old decisions are kept as superseded. Each step has all its retries once more.

        Args:
            by: who asked for it; the event of going on has it.

        Raises:
            NotFound: there is no such run.
            Conflict: it has not failed, or it is a step's child: retry the run above. Or as many
                runs of the pipeline as may be at once are on their way.
        """
        header, graph = self.pinned(run_id)
        if header.parent is not None and header.waited_for:
            top = header.parent[0]
            raise Conflict(
                f"run {run_id} belongs to step {header.parent[1]!r} of {top}: retry that"
            )

        def reopen(tx: Connection) -> Settled:
            locked = self._lock_whole(tx, graph, run_id)
            if locked.run.status is not RunStatus.FAILED:
                raise Conflict(
                    f"only a failed run is retried, and the status of run {run_id} is "
                    f"{locked.run.status}"
                )
            self._require_a_turn(tx, graph)
            return self._reopen(tx, graph, locked, frozenset(), judged, run_id, by=by)

        return self.perform(run_id, reopen)

    def rerun(
        self,
        run_id: str,
        step_id: str,
        *,
        inputs: Any = None,
        started_by: str | None = None,
        judged: Judged = NOTHING_JUDGED,
    ) -> Settled:
        """
        Make a new run that begins at a step, with the recorded outputs of what comes before.

        The step and all that come after it run once more, and what failed or was cancelled;
        everything else is as it was recorded. The new run has the same version and parameters,
        so that an approval which is reused was given to exactly what it shows.

        Args:
            inputs: an object that the step is given in the place of its `inputs`.

        Raises:
            NotFound: there is no such run, or step in it.
            Conflict: the run has not ended, or `max_concurrent_runs` are on their way.
            InputRefused: the inputs are no legal JSON object.
        """
        header, graph = self.pinned(run_id)
        if step_id not in graph.nodes:
            raise NotFound(f"run {run_id} has no step {step_id!r}")
        text = _read_inputs(inputs)
        new = replace(
            self.make_run(
                graph,
                header.parameters,
                started_by=started_by,
                source_folder=header.source_folder,
            ),
            rerun_of=run_id,
        )

        def begin(tx: Connection) -> Settled:
            source = self._lock_whole(tx, graph, run_id)
            if source.run.status not in END_OF_RUN:
                raise Conflict(
                    f"run {run_id} has not ended, its status is {source.run.status}: cancel it, "
                    "or let it end"
                )
            self._require_a_turn(tx, graph)
            self._settles.insert_pending(tx, new)
            self._reopens.copy(tx, new.run_id, source=run_id)
            self.waits.mark_begun(tx, new.run_id, now=new.created_at, deadline_at=new.deadline_at)
            locked = self._settler.lock(tx, graph, new.run_id, graph.start)
            also = descendants(graph, step_id)
            return self._reopen(tx, graph, locked, also, judged, run_id, (step_id, text))

        return self.perform(new.run_id, begin)

    def _lock_whole(self, tx: Connection, graph: Graph, run_id: str) -> LockedRun:
        """Lock a run that is not being removed, whatever this process remembers of it."""
        locked = self._settler.lock(tx, graph, run_id, graph.start)
        if self.reads.header(run_id) is None:
            raise NotFound(f"there is no run {run_id}: it is being removed, as it ended long ago")
        return locked

    def _require_a_turn(self, tx: Connection, graph: Graph) -> None:
        """A run that goes on counts as any other, but has no place in the line of new ones."""
        slug, limit = graph.definition.slug, graph.definition.max_concurrent_runs
        if limit is not None and self.waits.count_running(tx, slug) >= limit:
            raise Conflict(
                f"{limit} runs of {slug} are on their way, which are all that may be at once "
                "(max_concurrent_runs): try again when one of them has ended"
            )

    def _reopen(
        self,
        tx: Connection,
        graph: Graph,
        locked: LockedRun,
        also: frozenset[str],
        judged: Judged,
        source_id: str,
        inputs: tuple[str, str | None] | None = None,
        by: str | None = None,
    ) -> Settled:
        """Make rows pending again, and plan what follows from it, in one transaction."""
        run_id, now = locked.run.run_id, self.clock.now()
        parameters = self.pinned(source_id)[0].parameters
        rows = {row.step_id: row for row in self._reopens.read_steps(tx, run_id)}
        decisions = self._reopens.read_decisions(tx, run_id)
        reopening = plan_reopening(
            graph,
            {step_id: _past(row) for step_id, row in rows.items()},
            {i: PastDecision(taken, kind == "run_ended") for i, (taken, kind) in decisions.items()},
            also=also,
        )
        known = {s: counts for s, counts in reopening.steps.items() if s in rows}
        self._reopens.supersede(tx, run_id, reopening.superseded)
        self._reopens.mark_pending(tx, run_id, known)
        self._reopen_items(tx, graph, run_id, reopening, also)
        if inputs is not None and inputs[1] is not None:
            self._reopens.put_inputs(tx, run_id, inputs[0], inputs[1])
        failures = [r for s, r in rows.items() if s not in known and r.status is StepStatus.FAILED]
        handled = sum(row.handled for row in failures)
        deadline_at = add_seconds(now, graph.definition.run_timeout)
        self._reopens.mark_reopened(
            tx, run_id, handled=handled, unhandled=len(failures) - handled, deadline_at=deadline_at
        )
        again = self._settler.lock(tx, graph, run_id, graph.start)
        return self._settler.apply(
            tx,
            graph,
            again,
            RunReopened(tuple(reopening.steps), reopening.leave_again),
            parameters=parameters,
            now=now,
            judged=judged,
            by=by,
        )

    def _reopen_items(
        self,
        tx: Connection,
        graph: Graph,
        run_id: str,
        reopening: Reopening,
        also: frozenset[str],
    ) -> None:
        """Of a foreach that goes on by itself, what succeeded is kept; else it begins anew."""
        for step_id, found in self._reopens.read_items(tx, run_id).items():
            if step_id not in reopening.steps:
                continue
            kept = found.get(StepStatus.SUCCEEDED, 0) + found.get(StepStatus.SKIPPED, 0)
            total = sum(found.values())
            sources = {edge.source for edge in graph.nodes[step_id].incoming}
            if kept == total or step_id in also or sources & reopening.steps.keys():
                self._reopens.delete_items(tx, run_id, step_id)
                continue
            counts = ItemCounts(
                total, started=kept, ended=kept, succeeded=found.get(StepStatus.SUCCEEDED, 0)
            )
            self._reopens.mark_items_pending(tx, run_id, step_id, counts)


def _past(row: PastRow) -> PastStep:
    has_run = row.status is StepStatus.SKIPPED and row.code is not None
    return PastStep(row.status, row.end, row.handled, row.by, has_run)


def _read_inputs(inputs: Any) -> str | None:
    if inputs is None:
        return None
    text, problems = check_json_value(inputs)
    if not isinstance(inputs, dict):
        problems = [Problem("type_wrong", "", "a step's inputs are a JSON object")]
    if problems:
        raise InputRefused(tuple(problems))
    return text
