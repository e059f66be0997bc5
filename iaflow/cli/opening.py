"""From settings to an open application, and which folders a run's steps may come from.

Decides whether a command works in this process or hands on to workers; never touches a run.
Called by every command that needs the database.
"""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iaflow.bootstrap import Application
    from iaflow.data.records import RunRecord
    from iaflow.settings import Settings

__all__ = ["folders_of", "open_app", "put_folder_on_path", "read_settings", "read_user"]


def read_settings(db: str | None = None, *, here: bool = False) -> Settings:
    """
    Return the settings, on the database of `--db` if one is given.

    Args:
        here: without the broker: what is started is driven by this process.

    Raises:
        SettingsRefused: a setting cannot work.
    """
    from iaflow.settings import load_settings

    settings = load_settings().with_database(db)
    return settings.model_copy(update={"broker_url": None}) if here else settings


@contextmanager
def open_app(db: str | None = None, *, here: bool = False) -> Iterator[Application]:
    """
    Give the application of the settings; close it at the end.

    Raises:
        SettingsRefused, SchemaOutdated, NotReachable: it cannot work.
    """
    settings = read_settings(db, here=here)
    from iaflow.bootstrap import open_application
    from iaflow.telemetry import configure_logs

    configure_logs(settings.log_level)
    put_folder_on_path()
    app = open_application(settings)
    try:
        yield app
    finally:
        app.close()


def put_folder_on_path() -> None:
    """
    Let modules that the settings name lie in the current folder, as they may for a worker.

    At the end of the path they can take the place of nothing that is installed.
    """
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)


def folders_of(app: Application, run: RunRecord) -> list[Path]:
    """
    Return the folders whose modules a run's steps may come from, besides the allowed ones.

    A SQLite file is its user's own, who may run what lies beside it. On a server only
    `IAFLOW_STEP_MODULES` counts: others may have written the run.
    """
    if app.database.dialect != "sqlite":
        return []
    return [*([Path(run.source_folder)] if run.source_folder else []), Path.cwd()]


def read_user() -> str:
    """Return the name of the user of this process, as starts and answers are signed by default."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may run under a number without a name
        return f"uid:{os.getuid()}"
