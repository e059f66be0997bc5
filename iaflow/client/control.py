"""Stopping runs and giving them second chances, one by one or many by a filter.

Decides how a request becomes a verb of the engine, and that of many each is its own; never what
follows from it. Part of the client.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

from iaflow.client.reading import ReadingRequests
from iaflow.data.accounts import EVERYTHING, Sight
from iaflow.data.filters import ManyOutcome, ManyRecord, RunFilter
from iaflow.data.records import RunRecord
from iaflow.data.status import END_OF_RUN, RunStatus
from iaflow.database.dialects import is_database_error
from iaflow.errors import IaflowError, NotFound
from iaflow.pipeline.engine import Settled
from iaflow.pipeline.judging import conclude_alone

__all__ = ["ControlRequests"]

MOST_AT_ONCE: Final = 1000

_UNFINISHED: Final = tuple(status for status in RunStatus if status not in END_OF_RUN)


class ControlRequests(ReadingRequests):
    """What is asked of runs that are there."""

    def cancel(
        self, run_id: str, *, step_id: str | None = None, reason: str = "", by: str | None = None
    ) -> Settled:
        """
        Cancel a run, or one step of it. `is_stale` in the result: nothing was changed.

        Args:
            by: who asked for it; it stands with the reason in the error of what is cancelled.

        Raises:
            NotFound: no such run or step.
        """
        why = reason or f"{by or 'somebody'} asked for it"
        if reason and by:
            why = f"{reason} ({by} asked for it)"
        if step_id is None:
            verb = partial(self._engine.cancel_run, run_id, why, by=by)
        else:
            verb = partial(self._engine.cancel_step, run_id, step_id, why, by=by)
        # What stops needs no code of the pipeline's, here or in the runs below.
        settled = conclude_alone(lambda _judged: verb())
        self._publish(settled.tasks)
        return settled

    def retry(self, run_id: str, *, by: str | None = None) -> Settled:
        """
        Reopen a failed run: what did not succeed goes on; see `Engine.retry_run`.

        Args:
            by: who asked for it; the run's event of going on has it.

        Raises:
            NotFound: there is no such run.
            Conflict: it has not failed, or it is a step's child.
        """
        again = partial(self._engine.retry_run, run_id, by=by)
        return self._hand_out(conclude_alone(lambda judged: again(judged=judged)))

    def rerun(
        self,
        run_id: str,
        step_id: str,
        *,
        inputs: Mapping[str, Any] | None = None,
        started_by: str | None = None,
    ) -> Settled:
        """
        Make a new run from a step on, with the recorded outputs before it; see `Engine.rerun`.

        Args:
            inputs: what the step is given in the place of its `inputs`.

        Returns:
            What it began with; `run_id` in it is the new run's.

        Raises:
            NotFound, Conflict, InputRefused.
        """
        again = partial(self._engine.rerun, run_id, step_id, inputs=inputs, started_by=started_by)
        return self._hand_out(conclude_alone(lambda judged: again(judged=judged)))

    def cancel_many(
        self,
        wanted: RunFilter,
        *,
        sight: Sight = EVERYTHING,
        limit: int = 100,
        dry_run: bool = False,
        reason: str = "",
        by: str | None = None,
    ) -> list[ManyRecord]:
        """
        Cancel the runs that a filter finds, the newest first, each in a transaction of its own.

        Args:
            wanted: without a status: those that have not ended.
            limit: how many at most, up to 1000.
            dry_run: only say what would be done.

        Returns:
            What became of each; one that cannot be cancelled holds up no other.
        """
        statuses = _UNFINISHED if wanted.status is None else (wanted.status,)
        found = self._find_many(wanted, statuses, sight, limit)

        def cancel(run: RunRecord) -> ManyRecord:
            if run.status in END_OF_RUN:
                return _unchanged(run)
            if dry_run:
                return ManyRecord(run.run_id, ManyOutcome.WOULD_CHANGE)
            settled = self.cancel(run.run_id, reason=reason, by=by)
            if settled.is_stale:
                return _unchanged(self.run(run.run_id, sight=sight))
            return ManyRecord(run.run_id, ManyOutcome.CANCELLED)

        return [self._do_one(run, cancel, sight) for run in found]

    def retry_many(
        self,
        wanted: RunFilter,
        *,
        sight: Sight = EVERYTHING,
        limit: int = 100,
        dry_run: bool = False,
        by: str | None = None,
    ) -> list[ManyRecord]:
        """
        Retry the failed runs that a filter finds; see `cancel_many`.

        Args:
            wanted: without a status: those that have failed.
        """
        found = self._find_many(wanted, (wanted.status or RunStatus.FAILED,), sight, limit)

        def retry(run: RunRecord) -> ManyRecord:
            if run.status is not RunStatus.FAILED:
                return _unchanged(run)
            if dry_run:
                return ManyRecord(run.run_id, ManyOutcome.WOULD_CHANGE)
            self.retry(run.run_id, by=by)
            return ManyRecord(run.run_id, ManyOutcome.RETRIED)

        return [self._do_one(run, retry, sight) for run in found]

    def _find_many(
        self, wanted: RunFilter, statuses: tuple[RunStatus, ...], sight: Sight, limit: int
    ) -> list[str]:
        limit = max(0, min(limit, MOST_AT_ONCE))
        found = [
            run.run_id
            for status in statuses
            for run in self.runs(replace(wanted, status=status), sight=sight, limit=limit)
        ]
        return sorted(found, reverse=True)[:limit]

    def _do_one(
        self, run_id: str, change: Callable[[RunRecord], ManyRecord], sight: Sight
    ) -> ManyRecord:
        try:
            # Read, and looked at, once more: it may be long since it was found.
            return change(self.run(run_id, sight=sight))
        except NotFound:
            return ManyRecord(run_id, ManyOutcome.UNCHANGED, "it is there no more")
        except IaflowError as error:
            return ManyRecord(run_id, ManyOutcome.REFUSED, str(error))
        except Exception as error:
            if not is_database_error(error):
                raise
            why = "the database could not be asked, try this one again"
            return ManyRecord(run_id, ManyOutcome.REFUSED, why)


def _unchanged(run: RunRecord) -> ManyRecord:
    return ManyRecord(run.run_id, ManyOutcome.UNCHANGED, f"its status is {run.status}")
