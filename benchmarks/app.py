"""The Celery application of each contender: ``celery -A benchmarks.app worker``.

Decides their configurations and the tasks of the two references; never who is measured when.
Loaded by worker processes, which are told by the environment whose they are, and by the client.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from celery import Celery

import celeryconfig
from benchmarks.steps import tell, work_on
from iaflow.settings import load_settings
from iaflow.worker.app import create_app

__all__ = ["CONTENDER_VARIABLE", "EVENTS_VARIABLE", "make_canvas", "make_floor", "make_iaflow"]

CONTENDER_VARIABLE = "BENCHMARK_CONTENDER"
EVENTS_VARIABLE = "BENCHMARK_EVENTS"


def make_floor(broker: str, *, events: bool = False) -> Celery:
    """
    Return F: a task that sends its own successor; no result backend, nothing durable.

    What a graph engine on Celery cannot go below: one message, one task, one body per step.
    """
    app = Celery("benchmark_floor", broker=broker, set_as_current=False)
    app.conf.update(
        task_ignore_result=True,
        task_acks_late=True,
        worker_send_task_events=events,
        broker_connection_retry_on_startup=True,
    )

    @app.task(name="step", ignore_result=True, shared=False)
    def step(data: dict[str, Any], left: int, key: str) -> None:
        data = work_on(data)
        if left:
            step.apply_async((data, left - 1, key))
        else:
            tell(key, str(data["n"]))

    return app


def make_canvas(broker: str, *, events: bool = False) -> Celery:
    """Return Celery as its manual has it: chains and chords, results in the same Redis."""
    app = Celery("benchmark_canvas", broker=broker, backend=broker, set_as_current=False)
    app.conf.update(worker_send_task_events=events, broker_connection_retry_on_startup=True)

    @app.task(name="step", shared=False)
    def step(data: dict[str, Any]) -> dict[str, Any]:
        return work_on(data)

    @app.task(name="gather", shared=False)
    def gather(found: list[dict[str, Any]]) -> dict[str, Any]:
        return {"n": max(data["n"] for data in found)}

    return app


def make_iaflow(broker: str, *, events: bool = False) -> Celery:
    """Return iaflow's workers as they are deployed, task events apart; settings name the rest."""
    configuration = {
        name: getattr(celeryconfig, name) for name in dir(celeryconfig) if name.islower()
    }
    configuration["worker_send_task_events"] = events
    settings = load_settings().model_copy(update={"broker_url": broker})
    return create_app(settings, configuration=configuration)


_MAKERS = {"celery-self": make_floor, "celery-canvas": make_canvas, "iaflow": make_iaflow}

# Workers are known to be ready by a line at INFO; two more lines per task would be measured too.
for _logger in ("celery.app.trace", "celery.worker.strategy"):
    logging.getLogger(_logger).setLevel(logging.WARNING)

if _contender := os.environ.get(CONTENDER_VARIABLE):
    app = _MAKERS[_contender](
        os.environ["IAFLOW_BROKER_URL"], events=os.environ.get(EVENTS_VARIABLE) == "on"
    )
