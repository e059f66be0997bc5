"""The Celery tasks: thin, ids only.

Decides how a message becomes a verb of the worker process; never more. Registered by the
app factory, executed by Celery.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery

from iaflow.database.dialects import is_outage
from iaflow.errors import IaflowError, NotFound
from iaflow.pipeline.executors.celery import (
    RESUME_RUN,
    RUN_STEP,
    START_RUN,
    SWEEP,
    read_ids,
)
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

    @app.task(name=START_RUN, shared=False, bind=True)
    def start_run(
        self: Any, slug: Any, given: Any = "{}", key: Any = None, started_by: Any = None
    ) -> None:
        # The message's own id stands for a key, so that one which comes twice starts one run.
        key = f"message:{self.request.id}" if key is None else str(key)
        try:
            process().start_run(str(slug), given, key=key, started_by=started_by)
        except IaflowError as error:
            if is_outage(error):
                _put_back(self, error)
                return
            problems = [str(problem) for problem in getattr(error, "problems", ())]
            _log.error("start refused", slug=str(slug), reason=str(error), problems=problems)
        except Exception as error:
            if not is_outage(error):
                raise
            _put_back(self, error)

    @app.task(name=SWEEP, shared=False)
    def sweep() -> None:
        process().sweep()


def _put_back(task: Any, error: Exception) -> None:
    """Send a start's message once more, with its id: the database was away for too long."""
    _log.warning("start put back", message_id=task.request.id, error=str(error))
    task.apply_async(
        args=task.request.args,
        kwargs=task.request.kwargs,
        task_id=task.request.id,
        queue=task.request.delivery_info.get("routing_key"),
        add_to_parent=False,
    )
