"""What every part of the client stands on: an engine, who is told, and what an id may be.

Decides that nothing reaches a statement which no database could keep; never what a request
becomes. Extended by the rooms of the client.
"""

from __future__ import annotations

from collections.abc import Iterable

from iaflow.data.accounts import EVERYTHING, Sight
from iaflow.data.records import PauseRecord, RunRecord, StepTask
from iaflow.data.status import PauseStatus
from iaflow.errors import Conflict, NotFound
from iaflow.pipeline.core import is_uuid
from iaflow.pipeline.engine import Engine, Settled
from iaflow.pipeline.executors.base import Executor

__all__ = ["ClientCore", "leave"]


class ClientCore:
    """
    The parts that all requests share.

    Args:
        engine: does what is asked.
        executor: tells workers what is ready; None: whoever drives a run finds it.
    """

    def __init__(self, engine: Engine, executor: Executor | None) -> None:
        self._engine = engine
        self._executor = executor

    def run(self, run_id: str, *, sight: Sight = EVERYTHING) -> RunRecord:
        """
        Return a run.

        Raises:
            NotFound: there is none of that id, or it is out of sight: the two read the same.
        """
        run = None
        if is_uuid(run_id):
            if sight.patterns is None:
                run = self._engine.reads.run(run_id)
            else:
                run = self._engine.listings.run(run_id, sight)
        if run is None:
            raise NotFound(f"there is no run {run_id}")
        return run

    def _publish(self, tasks: Iterable[StepTask]) -> None:
        if self._executor is not None:
            self._executor.submit(tasks)

    def _hand_out(self, settled: Settled) -> Settled:
        if settled.questions:
            raise Conflict(
                "a condition that needs code was undecided at this run's end: use a process that "
                "has the pipeline's modules"
            )
        self._publish(settled.tasks)
        return settled

    def _go_on(self, pauses: Iterable[PauseRecord]) -> None:
        for pause in pauses:
            if pause.status is PauseStatus.ANSWERED and self._executor is not None:
                self._executor.submit_resume(pause.pause_id, pause.slug)


def leave(tasks: Iterable[StepTask]) -> None:
    """Without workers, whoever drives the run finds what is ready."""
