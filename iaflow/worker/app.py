"""The Celery application of workers.

Decides when a worker process builds and closes its parts; never how Celery is configured
(the executor's room does). Called by `workers/app.py` and by `celery -A iaflow.worker.app`.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import billiard.pool
from celery import Celery, signals
from celery.worker import state

from iaflow.errors import IaflowError, SettingsRefused
from iaflow.pipeline.executors.celery import CeleryExecutor, make_app
from iaflow.pipeline.runner import build_services, open_database
from iaflow.pipeline.services import ServiceRegistry
from iaflow.settings import Settings, load_settings
from iaflow.telemetry import configure_logs, get_logger
from iaflow.tracing import begin_tracing, check_tracing, end_tracing
from iaflow.worker.metrics_server import MetricsServer, start_metrics
from iaflow.worker.process import WorkerProcess
from iaflow.worker.stopping import StopFlag
from iaflow.worker.tasks import register_tasks
from iaflow.worker.watchdog import Sight, Watchdog

__all__ = ["create_app"]

_log = get_logger(__name__)

LEAVE_SECONDS = 5.0
"""What a worker needs beyond its grace to leave in good order."""

REPORT_TRIES = 10
"""How often a child that leaves looks, every 0.1 s, whether its head has read all its reports."""


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
        self.executor = executor
        self.watchdog: Watchdog | None = None
        self.metrics: MetricsServer | None = None
        self._services = services
        self._lock = threading.Lock()
        self._process: WorkerProcess | None = None
        self._pid = 0
        # Made before any fork: children see it too.
        self.stop = StopFlag()
        self.is_child = False

    def process(self) -> WorkerProcess:
        if self._process is None or self._pid != os.getpid():
            with self._lock:
                # After a fork the parent's parts are not ours: connections, threads and
                # loops do not survive it.
                if self._process is None or self._pid != os.getpid():
                    if self._settings.tracing:
                        begin_tracing()
                    self._process = WorkerProcess(
                        self._settings,
                        self.executor,
                        self._services,
                        stop=self.stop,
                        leave=_leave_child if self.is_child else _leave_worker,
                        is_child=self.is_child,
                    )
                    self._pid = os.getpid()
        return self._process

    def close(self) -> None:
        if self._process is not None and self._pid == os.getpid():
            self._process.close()
            self._process = None
            end_tracing()


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
            if settings.tracing:
                check_tracing()
            open_database(settings).close()
        except IaflowError as error:
            raise SystemExit(f"the worker does not start: {error}") from error
        holder.metrics = start_metrics(settings)

    @signals.worker_process_init.connect(weak=False)
    def begin_child(**_: Any) -> None:
        holder.is_child = True
        # A head that stops forgets what no child has accepted yet, and reads no report of it:
        # the child would wait half a minute for that. What its steps came to is in the database.
        billiard.pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = REPORT_TRIES
        holder.process()

    @signals.worker_shutting_down.connect(weak=False)
    def stop(**_: Any) -> None:
        holder.stop.stop(settings.grace_seconds)

    @signals.worker_process_shutdown.connect(weak=False)
    def end_child(**_: Any) -> None:
        holder.close()

    @signals.worker_ready.connect(weak=False)
    def begin_threads(sender: Any = None, **_: Any) -> None:
        # Pools without children (threads, solo) execute tasks in this very process.
        if not _forks(sender):
            holder.process()
        holder.watchdog = Watchdog(
            partial(_look, sender, holder.executor),
            partial(_stop_deaf, holder, settings.grace_seconds),
            grace_seconds=settings.grace_seconds + LEAVE_SECONDS,
        )

    @signals.worker_shutdown.connect(weak=False)
    def end(**_: Any) -> None:
        if holder.watchdog is not None:
            holder.watchdog.close()
        holder.close()
        if holder.metrics is not None:
            holder.metrics.stop()


def _look(consumer: Any, executor: CeleryExecutor) -> Sight:
    """Return what is seen of this worker: what waits for it, and whether it could take it."""
    # What is reserved is on its way to a process, or executed there.
    is_idle = len(state.reserved_requests) < consumer.pool.num_processes
    return Sight(executor.depth(), state.all_total_count[0], is_idle)


def _stop_deaf(holder: _Holder, grace_seconds: float) -> None:
    holder.stop.stop(grace_seconds)
    # As after SIGTERM, but the exit code says that something was wrong.
    state.should_stop = os.EX_SOFTWARE


def _leave_child(why: str) -> None:
    """End this child; the head starts another in its place."""
    _log.error("child replaced", reason=why)
    _flush()
    os._exit(billiard.pool.EX_RECYCLE)


def _leave_worker(why: str) -> None:
    """End this worker, which executes its steps itself; its supervisor starts another."""
    _log.critical("worker ended", reason=why)
    _flush()
    os._exit(os.EX_SOFTWARE)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _forks(consumer: Any) -> bool:
    pool = getattr(getattr(consumer, "pool", None), "__class__", None)
    return pool is not None and pool.__module__.endswith("prefork")
