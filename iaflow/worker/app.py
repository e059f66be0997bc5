"""The Celery application of workers.

Decides when a worker process builds and closes its parts; never how Celery is configured
(the executor's room does). Called by `workers/app.py` and by `celery -A iaflow.worker.app`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

from celery import Celery, signals

from iaflow.errors import IaflowError, SettingsRefused
from iaflow.pipeline.executors.celery import CeleryExecutor, make_app
from iaflow.pipeline.runner import build_services, open_database
from iaflow.pipeline.services import ServiceRegistry
from iaflow.settings import Settings, load_settings
from iaflow.telemetry import configure_logs
from iaflow.worker.process import WorkerProcess
from iaflow.worker.tasks import register_tasks

__all__ = ["create_app"]


def create_app(
    settings: Settings | None = None,
    *,
    services: Callable[[Settings], ServiceRegistry] = build_services,
    configuration: Mapping[str, Any] | None = None,
) -> Celery:
    """
    Return the Celery application that workers run.

    Args:
        settings: by default those of the environment.
        services: returns what steps are given, called once in each worker process.
        configuration: this deployment's own Celery values, such as `celeryconfig.py`'s.

    Raises:
        SettingsRefused: there is no broker, or the database cannot be shared.
    """
    settings = settings or load_settings()
    if settings.broker_url is None:
        raise SettingsRefused(
            "workers need a broker: set IAFLOW_BROKER_URL, such as redis://host/0"
        )
    if settings.database_url.startswith("sqlite"):
        raise SettingsRefused(
            "workers need a database that they can share: set IAFLOW_DATABASE_URL to "
            "postgresql://user:password@host/name"
        )
    app = make_app(settings, configuration)
    app.set_default()
    holder = _Holder(settings, CeleryExecutor(app, settings.queues), services)
    register_tasks(app, holder.process)
    _connect_signals(holder, settings)
    return app


def __getattr__(name: str) -> Celery:
    """Make the plain application on first use: ``celery -A iaflow.worker.app:app worker``."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    application = create_app()
    globals()["app"] = application
    return application


class _Holder:
    """The one `WorkerProcess` of this process, built when it is first needed."""

    def __init__(
        self,
        settings: Settings,
        executor: CeleryExecutor,
        services: Callable[[Settings], ServiceRegistry],
    ) -> None:
        self._settings = settings
        self._executor = executor
        self._services = services
        self._lock = threading.Lock()
        self._process: WorkerProcess | None = None
        self._pid = 0

    def process(self) -> WorkerProcess:
        if self._process is None or self._pid != os.getpid():
            with self._lock:
                # After a fork the parent's parts are not ours: connections, threads and
                # loops do not survive it.
                if self._process is None or self._pid != os.getpid():
                    self._process = WorkerProcess(self._settings, self._executor, self._services)
                    self._pid = os.getpid()
        return self._process

    def close(self) -> None:
        if self._process is not None and self._pid == os.getpid():
            self._process.close()
            self._process = None


def _connect_signals(holder: _Holder, settings: Settings) -> None:
    """Build the parts before the first message, in whichever process executes tasks."""

    @signals.after_setup_logger.connect(weak=False)
    def configure(**_: Any) -> None:
        configure_logs(settings.log_level)

    @signals.worker_init.connect(weak=False)
    def look(**_: Any) -> None:
        # Celery swallows what a child raises when it begins, and the worker would call itself
        # ready: so the schema is looked at here, and only SystemExit gets through.
        try:
            open_database(settings).close()
        except IaflowError as error:
            raise SystemExit(f"the worker does not start: {error}") from error

    @signals.worker_process_init.connect(weak=False)
    def begin_child(**_: Any) -> None:
        holder.process()

    @signals.worker_process_shutdown.connect(weak=False)
    def end_child(**_: Any) -> None:
        holder.close()

    @signals.worker_ready.connect(weak=False)
    def begin_threads(sender: Any = None, **_: Any) -> None:
        # Pools without children (threads, solo) execute tasks in this very process.
        if not _forks(sender):
            holder.process()

    @signals.worker_shutdown.connect(weak=False)
    def end(**_: Any) -> None:
        holder.close()


def _forks(consumer: Any) -> bool:
    pool = getattr(getattr(consumer, "pool", None), "__class__", None)
    return pool is not None and pool.__module__.endswith("prefork")
