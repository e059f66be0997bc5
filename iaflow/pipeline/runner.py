"""Running a pipeline in this process, from a file, a document or a kept definition.

Decides how the embedded parts are put together and what a caller gets back; never what a
step's end means. Called by applications and, for its parts, by the composition root.
"""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from iaflow.clock import ReferenceClock, SystemClock
from iaflow.concurrency import run_blocking
from iaflow.data.records import RunRecord, StepTask
from iaflow.data.status import NoticeKind, RunStatus
from iaflow.database import migrator
from iaflow.database.dialects import Database
from iaflow.database.pipeline_store import PipelineStore
from iaflow.database.statements import POSTGRES
from iaflow.errors import NotFound, RunCancelled, RunFailed, SettingsRefused
from iaflow.pipeline.check import compile_definition, merge_parameters
from iaflow.pipeline.engine import Engine
from iaflow.pipeline.executors.base import Executor
from iaflow.pipeline.executors.local import LocalExecutor, Observation
from iaflow.pipeline.graph import Graph
from iaflow.pipeline.loader import Library, StepLoader
from iaflow.pipeline.notifying import NOTIFIER, LogNotifier, Notifier, WebhookNotifier
from iaflow.pipeline.services import SecretFiles, ServiceRegistry
from iaflow.settings import Settings, load_settings
from iaflow.tracing import begin_tracing

__all__ = [
    "Pipeline",
    "build_services",
    "create_pipeline_from_json",
    "make_executor",
    "open_database",
    "open_engine",
    "open_executor",
    "run_pipeline_from_json",
    "waiting_payload",
]


async def run_pipeline_from_json(
    pipeline_file: str | Path,
    input_data: Mapping[str, Any] | None = None,
    services: ServiceRegistry | None = None,
    *,
    database_url: str | None = None,
) -> dict[str, Any]:
    """
    Run a pipeline from a local file, in this process, to its end or to a question.

    Steps may come from modules in the file's folder, in the folder of the running script,
    and from those in ``IAFLOW_STEP_MODULES``.

    Args:
        pipeline_file: path of the JSON document.
        input_data: the run's input, laid over the document's `parameters`.
        services: what steps are given.
        database_url: where the run is kept; by default ``IAFLOW_DATABASE_URL``.

    Returns:
        The run's outputs; or, if it waits for people, the payload of `Pipeline.run`.

    Raises:
        DefinitionRefused, InputRefused, RunFailed, RunCancelled.
    """
    path = Path(pipeline_file)
    settings = load_settings().with_database(database_url)
    folders = [path.parent, *_script_folder()]
    graph = compile_definition(
        await run_blocking(path.read_bytes),
        source=str(path),
        queues=settings.queues,
        max_bytes=settings.max_definition_bytes,
        shape_of=StepLoader(settings.step_modules, folders).shape_of,
    )
    pipeline = Pipeline(graph, services=services, settings=settings, folders=folders)
    return await pipeline.run(input_data)


def create_pipeline_from_json(
    pipeline_config: Mapping[str, Any] | str,
    services: ServiceRegistry | None = None,
    *,
    database_url: str | None = None,
) -> Pipeline:
    """
    Return a pipeline made from a document, such as `pipeline_config` of an imported one.

    Args:
        pipeline_config: the parsed JSON document, or its text.
        services: what steps are given.
        database_url: where its runs are kept; by default ``IAFLOW_DATABASE_URL``.

    Raises:
        DefinitionRefused: with every finding.
    """
    settings = load_settings().with_database(database_url)
    document = pipeline_config if isinstance(pipeline_config, str) else dict(pipeline_config)
    folders = _script_folder()
    graph = compile_definition(
        document,
        queues=settings.queues,
        max_bytes=settings.max_definition_bytes,
        shape_of=StepLoader(settings.step_modules, folders).shape_of,
    )
    return Pipeline(graph, services=services, settings=settings, folders=folders)


class Pipeline:
    """
    A definition that can be run in this process.

    Args:
        graph: the compiled definition.
        services: what steps are given; by default an HTTP client alone.
        settings: by default those of the environment.
        folders: folders whose modules steps may come from.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        services: ServiceRegistry | None = None,
        settings: Settings | None = None,
        folders: Sequence[Path] = (),
    ) -> None:
        self.graph = graph
        self._services = services
        self._settings = settings or load_settings()
        self._folders = tuple(folders)

    async def run(
        self,
        input_data: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        started_by: str | None = None,
    ) -> dict[str, Any]:
        """
        Run the pipeline to its end, or to a question to people.

        Args:
            input_data: laid over the document's `parameters`.
            key: an idempotency key; the same key and input give the same run.
            started_by: who starts it, for `exclude_starter`.

        Returns:
            The run's outputs; or ``{"status": "waiting", "run_id", "pauses": [{"pause_id",
            "run_id", "step_id", "ui_schema", "shown", "digest", "expires_at"}], "events":
            [{"pause_id", "run_id", "step_id", "name", "expires_at"}]}``, to go on with `resume`.

        Raises:
            InputRefused, Conflict: no run was made.
            RunFailed, RunCancelled: how it ended.
        """
        parameters = merge_parameters(self.graph.definition, dict(input_data or {}))
        database = open_database(self._settings)
        try:
            engine = open_engine(database, self._settings)
            engine.keep_version(self.graph)
            started = engine.start(
                self.graph,
                parameters,
                key=key,
                started_by=started_by,
                source_folder=_first(self._folders),
            )
            return await self._drive(engine, started.run_id, started.tasks)
        finally:
            database.close()

    async def resume(
        self,
        run_id: str,
        pause_id: str,
        answer: Mapping[str, Any],
        *,
        answered_by: str = "anonymous",
        roles: Collection[str] = (),
        key: str | None = None,
    ) -> dict[str, Any]:
        """
        Answer a question of a waiting run and go on, as `run` does.

        Args:
            roles: of who answers, for the step's `assignees`.

        Raises:
            AnswerRefused: a field does not fit; the question stays open.
            NotAllowed: somebody else must answer.
            Conflict: it was answered, expired or withdrawn before.
            NotFound: there is no such run or question.
        """
        database = open_database(self._settings)
        try:
            engine = open_engine(database, self._settings)
            pause = engine.pauses.read(pause_id)
            if pause is None or pause.run_id not in engine.waits.family(run_id):
                raise NotFound(f"run {run_id} has no question {pause_id}")
            engine.answer(pause_id, dict(answer), answered_by=answered_by, roles=roles, key=key)
            return await self._drive(engine, run_id)
        finally:
            database.close()

    async def _drive(
        self, engine: Engine, run_id: str, tasks: Iterable[StepTask] = ()
    ) -> dict[str, Any]:
        executor = make_executor(
            engine, self._settings, services=self._services, folders=self._folders
        )
        async with executor:
            status = await executor.drive(run_id, tasks)
        if status is RunStatus.WAITING:
            return waiting_payload(engine, run_id)
        return _outputs_of(engine.reads.run(run_id), run_id)


# --- the embedded parts, one by one


def open_database(settings: Settings, *, patience_seconds: float = 0.0) -> Database:
    """
    Return the database of the settings, with its tables.

    An embedded SQLite database is made and brought up to date by itself; Postgres is the
    operator's, and must be up to date.

    Raises:
        NotReachable, SchemaOutdated, SettingsRefused.
    """
    database = Database(
        settings.database_url,
        schema=settings.schema_name,
        prepare=settings.prepare_statements,
        patience_seconds=patience_seconds,
    )
    if database.dialect == POSTGRES:
        migrator.require_current(database)
    else:
        migrator.upgrade(database)
    return database


def open_engine(database: Database, settings: Settings) -> Engine:
    """Return an engine on a database: its clock is the server's where there is one."""
    clock = ReferenceClock(database.read_clock) if database.dialect == POSTGRES else SystemClock()
    return Engine(
        database,
        clock,
        Library(PipelineStore(database).read_document),
        draw=random.random,
        lease_seconds=settings.lease_seconds,
        told=[NoticeKind(f"run_{end}") for end in settings.notify_runs],
    )


def open_executor(settings: Settings) -> Executor | None:
    """Return what carries ready steps to workers; None without a broker."""
    if settings.broker_url is None:
        return None
    # Importing Celery costs half a second, which an embedded run must not pay.
    from iaflow.pipeline.executors.celery import CeleryExecutor, make_app

    return CeleryExecutor(make_app(settings), settings.queues)


def make_executor(
    engine: Engine,
    settings: Settings,
    *,
    services: ServiceRegistry | None = None,
    folders: Sequence[Path] = (),
    observe: Callable[[Observation], None] | None = None,
) -> LocalExecutor:
    """
    Return an executor for this process; see `LocalExecutor`.

    Raises:
        SettingsRefused: the services, or what tracing needs, are not there.
    """
    if settings.tracing:
        begin_tracing()
    return LocalExecutor(
        engine,
        StepLoader(settings.step_modules, folders),
        services if services is not None else build_services(settings),
        max_parallel=settings.max_parallel_steps,
        observe=observe,
    )


def build_services(settings: Settings) -> ServiceRegistry:
    """
    Return what steps are given: from ``IAFLOW_SERVICES``, with an HTTP client in any case.

    With ``IAFLOW_SECRETS_FOLDER`` there are secrets, unless the registry has its own; a
    notifier sends to ``IAFLOW_NOTIFY_URL``, or else to the log.

    Raises:
        SettingsRefused: the named function is not there or returns something else.
    """
    registry = ServiceRegistry()
    if settings.services is not None:
        registry = _call_services(settings.services)
    if settings.secrets_folder is not None and "secrets" not in registry:
        registry.register("secrets", SecretFiles(settings.secrets_folder))
    if "http" not in registry:
        registry.provide("http", _open_http)
    if NOTIFIER not in registry:
        registry.provide(NOTIFIER, partial(_open_notifier, settings))
    return registry


def waiting_payload(engine: Engine, run_id: str) -> dict[str, Any]:
    """
    Return what a caller needs to ask the people, and to send the signals, that a run waits for.

    Questions and events of the runs below it stand among its own; the `run_id` of each says of
    which run it is.
    """
    return {
        "status": RunStatus.WAITING.value,
        "run_id": run_id,
        "pauses": [
            {
                "pause_id": pause.pause_id,
                "run_id": pause.run_id,
                "step_id": pause.step_id,
                "ui_schema": pause.ui_schema,
                "shown": pause.shown,
                "digest": pause.digest,
                "expires_at": pause.expires_at.isoformat() if pause.expires_at else None,
            }
            for pause in engine.pauses.list_open(run_id=run_id)
        ],
        "events": [
            {
                "pause_id": event.pause_id,
                "run_id": event.run_id,
                "step_id": event.step_id,
                "name": event.event,
                "expires_at": event.expires_at.isoformat() if event.expires_at else None,
            }
            for event in engine.pauses.list_open_events(run_id)
        ],
    }


def _outputs_of(run: RunRecord | None, run_id: str) -> dict[str, Any]:
    if run is None:
        raise NotFound(f"there is no run {run_id}")
    if run.status is RunStatus.FAILED:
        raise RunFailed(
            run_id=run_id,
            step_id=run.error_step_id,
            code=run.error_code or "failed",
            cause=run.error_message or "",
        )
    if run.status is RunStatus.CANCELLED:
        raise RunCancelled(run_id=run_id, reason=run.error_message or "")
    return dict(run.outputs or {})


def _open_http() -> Any:
    import httpx2

    # Proxies from the environment and redirects are what a step must ask for on purpose.
    return httpx2.AsyncClient(timeout=30.0, trust_env=False, follow_redirects=False)


def _open_notifier(settings: Settings) -> Notifier:
    if settings.notify_url is None:
        return LogNotifier()
    secret = settings.notify_secret
    return WebhookNotifier(
        settings.notify_url, None if secret is None else secret.get_secret_value().encode()
    )


def _call_services(path: str) -> ServiceRegistry:
    module, _, name = path.partition(":")
    try:
        build = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsRefused(
            f"IAFLOW_SERVICES={path!r} cannot be used: {error}; write module:function"
        ) from error
    registry = build()
    if not isinstance(registry, ServiceRegistry):
        raise SettingsRefused(f"IAFLOW_SERVICES={path!r} did not return a ServiceRegistry")
    return registry


def _script_folder() -> list[Path]:
    """Return the folder of the running script; the current one if there is no script."""
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    return [Path(file).resolve().parent if file else Path.cwd()]


def _first(folders: Sequence[Path]) -> str | None:
    return str(folders[0].resolve()) if folders else None
