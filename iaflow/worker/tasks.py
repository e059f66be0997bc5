"""The Celery tasks: thin, ids only.

Decides how a message becomes a verb of the worker process; never more. Registered by the
app factory, executed by Celery.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery

from iaflow.errors import NotFound
from iaflow.pipeline.executors.celery import RESUME_RUN, RUN_STEP, SWEEP, read_ids
from iaflow.telemetry import get_logger
from iaflow.worker.process import WorkerProcess

__all__ = ["register_tasks"]

_log = get_logger(__name__)


def register_tasks(app: Celery, process: Callable[[], WorkerProcess]) -> None:
    """
    Give `app` the tasks of iaflow.

    Args:
        process: returns the parts of the process that a task is executed in.
    """

    @app.task(name=RUN_STEP, shared=False)
    def run_step(*ids: Any) -> None:
        try:
            run_id, step_id, index, attempt = read_ids(list(ids))
        except ValueError as error:
            # Whoever can write to the broker can write nonsense: it is dropped, and said.
            _log.warning("message dropped", reason=str(error))
            return
        process().run_step(run_id, step_id, index, attempt)

    @app.task(name=RESUME_RUN, shared=False)
    def resume_run(pause_id: Any) -> None:
        try:
            process().resume_run(str(pause_id))
        except NotFound as error:
            _log.warning("message dropped", reason=str(error))

    @app.task(name=SWEEP, shared=False)
    def sweep() -> None:
        process().sweep()
