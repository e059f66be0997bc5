"""The web and what executes its runs in one process: nothing else is needed, and nothing stays.

Decides which parts are put together for it; never what they do. Called by `iaflow web --embedded`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI

from iaflow.auth import SessionManager
from iaflow.bootstrap import Application, open_application, open_local_executor
from iaflow.client import Client
from iaflow.concurrency import run_async
from iaflow.data.accounts import Principal
from iaflow.pipeline.executors.resident import ResidentExecutor
from iaflow.pipeline.importer import ImportReport, PipelineImportService
from iaflow.settings import Settings
from iaflow.web.app import create_app

__all__ = ["import_folder", "open_embedded"]


def open_embedded(
    settings: Settings,
    *,
    folder: Path | None = None,
    development_user: Principal | None = None,
    tell: Callable[[ImportReport], object] = lambda report: None,
) -> FastAPI:
    """
    Return the web with an executor beside it, in this process; its server closes both.

    Args:
        folder: definitions that are imported before; None: none.
        development_user: signs in whoever asks; only for a server on a loopback address.
        tell: is told what was imported.

    Raises:
        NotReachable, SchemaOutdated, SettingsRefused: it cannot work.
    """
    settings = settings.model_copy(update={"broker_url": None})
    application = open_application(settings)
    try:
        if folder is not None:
            tell(import_folder(application, folder))
        sessions = SessionManager(
            application.database, settings=settings, is_development=development_user is not None
        )
        resident = ResidentExecutor(
            open_local_executor(application, folders=_own_folders(application)),
            sweep_seconds=settings.sweep_seconds,
            republish_seconds=settings.republish_seconds,
            grace_seconds=settings.grace_seconds,
        )
        resident.start()
    except BaseException:
        application.close()
        raise
    client = Client(engine=application.engine, executor=resident)
    app = create_app(client, sessions, settings, development_user=development_user)
    app.state.owned = (sessions, client, resident, application)
    return app


def import_folder(application: Application, folder: Path) -> ImportReport:
    """Import the definitions of a folder; what is refused keeps none of the others out."""
    service = PipelineImportService(
        application.database,
        folder,
        clock=application.engine.clock,
        queues=application.settings.queues,
        max_bytes=application.settings.max_definition_bytes,
    )
    report: ImportReport = run_async(service.import_all_pipelines())
    return report


def _own_folders(application: Application) -> list[Path]:
    """Return where steps may come from besides the allowed modules, as the command line has it."""
    return [Path.cwd()] if application.database.dialect == "sqlite" else []
