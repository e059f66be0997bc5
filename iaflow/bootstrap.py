"""The composition root: settings become a client, an engine, an executor.

Decides which parts are put together; never what they do. Called by the faces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from iaflow.client import Client
from iaflow.database.dialects import Database
from iaflow.database.pipeline_store import PipelineStore
from iaflow.pipeline.engine import Engine
from iaflow.pipeline.executors.base import Executor
from iaflow.pipeline.executors.local import LocalExecutor, Observation
from iaflow.pipeline.runner import make_executor, open_database, open_engine, open_executor
from iaflow.settings import Settings

__all__ = ["Application", "open_application", "open_local_executor"]


@dataclass(frozen=True, slots=True)
class Application:
    """Everything that a face needs, on one database; close it at the end."""

    settings: Settings
    database: Database
    engine: Engine
    pipelines: PipelineStore
    client: Client
    executor: Executor | None

    def close(self) -> None:
        """Close the database."""
        self.database.close()


def open_application(settings: Settings) -> Application:
    """
    Put the parts together: with a broker, runs go to workers; without one, to this process.

    Raises:
        NotReachable, SchemaOutdated, SettingsRefused.
    """
    database = open_database(settings)
    engine = open_engine(database, settings)
    executor = open_executor(settings)
    return Application(
        settings=settings,
        database=database,
        engine=engine,
        pipelines=PipelineStore(database),
        client=Client(engine=engine, executor=executor),
        executor=executor,
    )


def open_local_executor(
    app: Application,
    *,
    folders: Sequence[Path] = (),
    observe: Callable[[Observation], None] | None = None,
) -> LocalExecutor:
    """Return an executor for this process, to be used as an async context manager."""
    return make_executor(app.engine, app.settings, folders=folders, observe=observe)
