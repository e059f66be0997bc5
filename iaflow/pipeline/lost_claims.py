"""What becomes of steps that a worker cannot execute, gives back, or is lost with.

Decides how each comes back to the others, or fails in the end; never how an attempt that ended
is settled (the engine does). Part of the engine.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from iaflow.data.records import Claim, Released, StepTask
from iaflow.data.status import RunStatus, StepEnd
from iaflow.database.connections import Connection
from iaflow.database.run_store.claims import HandedBack, LostClaim
from iaflow.pipeline.core import Core
from iaflow.pipeline.definition import StepDefinition
from iaflow.pipeline.endings import MESSAGE_KEPT, lost_worker_error
from iaflow.pipeline.plans import Judged, StepEnded
from iaflow.pipeline.settler import NOTHING_JUDGED, Settled

__all__ = ["LostClaimVerbs"]

HAND_BACK_SECONDS = 0.5
MOST_HAND_BACK_SECONDS = 15.0
"""Before a step that a worker could not execute gets its next message: doubled, and at most."""


class LostClaimVerbs(Core):
    """Verbs on claims that are kept alive, and on those that come to nothing."""

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

    def hand_back(self, task: StepTask, hindrance: str) -> Settled:
        """
        Leave a ready step to other workers: this one cannot execute it, and has not claimed it.

        Its next message goes out soon, and later each time that nobody could; a key that it
        was given is free meanwhile.

        Args:
            hindrance: why this worker cannot, for people.
        """

        now = self.clock.now()

        def delay(factor: int) -> datetime:
            seconds = min(HAND_BACK_SECONDS * factor, MOST_HAND_BACK_SECONDS)
            # Workers listen in turns: with a pause that is always the same, always the same
            # one would hear.
            return now + timedelta(seconds=seconds * (0.5 + self._draw()))

        def give(tx: Connection) -> tuple[HandedBack | None, list[str]]:
            back = self.claims.mark_handed_back(
                tx, task, hindrance=hindrance[:MESSAGE_KEPT], delays=delay
            )
            if back is None or back.due_at is None:
                return back, []
            return back, self.holds.free(tx, task.run_id, task.step_id, task.index)

        back, keys = self.database.perform(give)
        tasks = tuple(self.grant(tuple(keys), but=task))
        if back is not None and back.due_at is None:
            tasks = self.name_tasks((back.task,))
        due_at = None if back is None else back.due_at
        return Settled(task.run_id, RunStatus.RUNNING, tasks, is_stale=True, due_at=due_at)

    def release(self, claim: Claim, step: StepDefinition, released: Released) -> Settled:
        """Give a claimed step back unfinished: it is ready for others, at once."""
        now = self.clock.now()
        back = self.claims.mark_released(
            claim.run_id,
            claim.step_id,
            claim.index,
            token=claim.token,
            now=now,
            is_loss=released.is_loss,
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
