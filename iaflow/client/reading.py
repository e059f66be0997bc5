"""Runs as people and services look at them: one, a page of many, all that is kept of one.

Decides what a request for a run that is out of sight gets: the same as for none; never changes
anything. Part of the client.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import replace

from iaflow.client.definitions import DefinitionRequests
from iaflow.data.accounts import EVERYTHING, Sight
from iaflow.data.filters import EVERY_RUN, RunFilter
from iaflow.data.records import NO_INDEX, DecisionRecord, EventRecord, RunRecord, StepRecord
from iaflow.data.status import END_OF_RUN, RunStatus, StepStatus
from iaflow.database.run_store.gauges import GaugeStore
from iaflow.errors import Conflict, NotFound
from iaflow.metrics import Gauge
from iaflow.pipeline.core import is_storable, is_uuid

__all__ = ["ReadingRequests"]

FIRST_POLL_SECONDS = 0.02
LAST_POLL_SECONDS = 0.5

MOST_INDEX = 2**31 - 1
MOST_SEQ = 2**63 - 1


class ReadingRequests(DefinitionRequests):
    """What is asked about runs."""

    def gauges(self, queues: tuple[str, ...]) -> list[Gauge]:
        """
        Return the figures of all runs together, as they are now.

        Args:
            queues: all that are known; the first is that of steps which name none.
        """
        return GaugeStore(self._engine.database, queues).read()

    def wait(self, run_id: str, *, timeout: float | None = None) -> RunRecord:
        """
        Wait until a run has ended, or waits for somebody outside; return it as it stands then.

        Args:
            timeout: in seconds; None: as long as it takes.

        Raises:
            NotFound: no such run.
            TimeoutError: it was still on its way.
        """
        until = None if timeout is None else time.monotonic() + timeout
        pause = FIRST_POLL_SECONDS
        while not self.is_at_rest(run_id):
            if until is not None and time.monotonic() >= until:
                raise TimeoutError(f"run {run_id} was still on its way after {timeout} s")
            left = pause if until is None else until - time.monotonic()
            time.sleep(max(0.0, min(pause, left)))
            pause = min(pause * 1.5, LAST_POLL_SECONDS)
        return self.run(run_id)

    def is_at_rest(self, run_id: str) -> bool:
        """
        Tell whether a run has ended, or nothing in it moves before somebody outside does.

        An answer that no worker has picked up yet, or a child run whose end its parent has not
        been told, is something that still moves.
        """
        run = self.run(run_id)
        if run.status in END_OF_RUN:
            return True
        if run.status is not RunStatus.WAITING:
            return False
        engine = self._engine
        for one in engine.waits.family(run_id):
            if engine.pauses.find_unsettled(run_id=one) or engine.waits.find_unfollowed(run_id=one):
                return False
        # Read again last: what was seen above belongs to this moment only if nothing moved.
        return self.run(run_id).seq == run.seq

    def runs(
        self,
        wanted: RunFilter = EVERY_RUN,
        *,
        sight: Sight = EVERYTHING,
        slug: str | None = None,
        status: RunStatus | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> list[RunRecord]:
        """
        Return runs, the newest first.

        Args:
            wanted: which ones.
            slug, status: in short for those of `wanted`.
            before: a run id, there or not; only older runs are returned, which makes a next page.
        """
        if slug is not None:
            wanted = replace(wanted, slug=slug)
        if status is not None:
            wanted = replace(wanted, status=status)
        if any(one is not None and not is_uuid(one) for one in (before, wanted.parent_run_id)):
            return []
        words = (wanted.slug, wanted.started_by)
        if any(one is not None and not is_storable(one) for one in words):
            return []
        return self._engine.listings.runs(wanted, sight, before=before, limit=limit)

    def watch(self, run_ids: Collection[str]) -> dict[str, tuple[int, RunStatus]]:
        """
        Return how far runs are, in one statement: (number of changes, status) by run id.

        A run whose number is another one has events that have not been seen. Those that are not
        there are left out.
        """
        known = [run_id for run_id in run_ids if is_uuid(run_id)]
        return self._engine.listings.watch(known) if known else {}

    def unfinished(self) -> list[str]:
        """Return the ids of runs that have not ended, the oldest first."""
        return self._engine.reads.unfinished()

    def find(self, prefix: str) -> str:
        """
        Return the one run id that begins with `prefix`.

        Raises:
            NotFound: none does.
            Conflict: several do.
        """
        found = self._engine.reads.find_by_prefix(prefix.lower())
        if not found:
            raise NotFound(f"there is no run {prefix!r}; `iaflow runs` lists them")
        if len(found) > 1:
            raise Conflict(f"several runs begin with {prefix!r}: {', '.join(found[:5])}, …")
        return found[0]

    def root_of(self, run_id: str) -> str:
        """Return the run at the top of a run's family: itself, if no step runs it."""
        return self._engine.root_of(run_id)

    def steps(self, run_id: str, *, items: bool = True, payloads: bool = True) -> list[StepRecord]:
        """
        Return the steps of a run, in document order; those without a row are left out.

        Args:
            items: those of a foreach too, each behind its step.
            payloads: inputs and outputs too; without them a run of many items is read quickly.
        """
        order = {step: place for place, step in enumerate(self.graph_of(run_id).nodes)}
        found = self._engine.reads.steps(run_id, items=items, payloads=payloads)
        return sorted(found, key=lambda step: (order.get(step.step_id, len(order)), step.index))

    def step(self, run_id: str, step_id: str, *, index: int = NO_INDEX) -> StepRecord:
        """
        Return a step of a run with its payloads, or an item of it.

        Raises:
            NotFound: there is no such run, step or item, or nothing has come to the step yet.
        """
        found = None
        if step_id in self.graph_of(run_id).nodes and NO_INDEX <= index <= MOST_INDEX:
            found = self._engine.listings.step(run_id, step_id, index)
        if found is None:
            item = "" if index == NO_INDEX else f", item {index}"
            raise NotFound(f"run {run_id} has no step {step_id!r}{item} (yet)")
        return found

    def items(
        self,
        run_id: str,
        step_id: str,
        *,
        after: int = NO_INDEX,
        limit: int = 50,
        status: StepStatus | None = None,
    ) -> list[StepRecord]:
        """
        Return items of a foreach in their order, without inputs and outputs.

        Args:
            after: the index of an item; only those behind it, which makes a next page.

        Raises:
            NotFound: there is no such run, or no such step in it.
        """
        if step_id not in self.graph_of(run_id).nodes:
            raise NotFound(f"run {run_id} has no step {step_id!r}")
        if after > MOST_INDEX:
            return []
        after = max(after, NO_INDEX)
        return self._engine.listings.items(run_id, step_id, after=after, limit=limit, status=status)

    def failed_items(self, run_id: str, step_id: str, limit: int = 10) -> list[StepRecord]:
        """Return the first items of a step that failed, without inputs and outputs."""
        if not is_uuid(run_id) or not is_storable(step_id):
            return []
        return self._engine.reads.failed_items(run_id, step_id, limit)

    def children(self, run_id: str, limit: int = 200) -> list[RunRecord]:
        """Return the runs that steps of a run have started, the newest first."""
        return self.runs(RunFilter(parent_run_id=run_id), limit=limit)

    def holder_of(self, key: str) -> tuple[str, str] | None:
        """Return the (run id, step id) that holds a concurrency key; None if nobody does."""
        return self._engine.holds.read_holder(key) if is_storable(key) else None

    def decisions(self, run_id: str, step_id: str | None = None) -> list[DecisionRecord]:
        """Return a run's decisions in the order they were made; into one step if given."""
        if not is_uuid(run_id) or (step_id is not None and not is_storable(step_id)):
            return []
        return self._engine.reads.decisions(run_id, step_id)

    def events(self, run_id: str, after: int = 0, *, limit: int = 1000) -> list[EventRecord]:
        """Return a run's events after number `after`, in order, so many at most."""
        if not is_uuid(run_id) or after >= MOST_SEQ:
            return []
        return self._engine.reads.events(run_id, max(after, 0), limit)
