"""Commands for operators: `db`, `worker`, `doctor`, `metrics`.

Decides how the state of a deployment is shown and which program a worker is; never works on
a step itself. Called through `main`.
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from iaflow.cli.exits import ExitCode
from iaflow.cli.inputs import db_option, json_option, read_interval
from iaflow.cli.opening import open_app, put_folder_on_path, read_settings
from iaflow.cli.terminal import (
    errors,
    guard_stdout,
    hint,
    line,
    results,
    status_text,
    table,
    write_json,
)
from iaflow.errors import SettingsRefused

if TYPE_CHECKING:
    from iaflow.pipeline.maintenance import Pruned
    from iaflow.settings import Settings

__all__ = ["db", "doctor", "find_worker_app", "metrics", "worker"]


@click.group()
def db() -> None:
    """Look after the database's schema."""


@db.command()
@db_option
@json_option
def upgrade(db: str | None, as_json: bool) -> int:
    """Bring the tables to what this version of iaflow works on; does nothing if they are."""
    settings = read_settings(db)
    from iaflow.database import migrator

    before = migrator.check(settings.database_url, schema=settings.schema_name)
    migrator.upgrade(settings.database_url, schema=settings.schema_name)
    state = migrator.check(settings.database_url, schema=settings.schema_name)
    if as_json:
        write_json({"before": before.current, "current": state.current, "head": state.head})
    elif before.current == state.current:
        errors().print(line(status_text("ok"), f"  {state.message}"), soft_wrap=True)
    else:
        came = f"{before.current or 'no tables'} → {state.current}"
        errors().print(line(status_text("ok"), f"  upgraded: {came}"), soft_wrap=True)
    return ExitCode.DONE


@db.command()
@db_option
@json_option
def check(db: str | None, as_json: bool) -> int:
    """Say whether the tables are what this version of iaflow works on; changes nothing."""
    settings = read_settings(db)
    from iaflow.database import migrator

    state = migrator.check(settings.database_url, schema=settings.schema_name)
    if as_json:
        write_json(
            {
                "current": state.current,
                "head": state.head,
                "is_current": state.is_current,
                "is_usable": state.is_usable,
                "message": state.message,
            }
        )
    else:
        verdict = status_text("ok" if state.is_usable else "fail")
        results().print(line(verdict, f"  {state.message}"), soft_wrap=True)
    return ExitCode.DONE if state.is_usable else ExitCode.USAGE


@db.command()
@click.option(
    "--older-than",
    metavar="INTERVAL",
    help="What ended so long ago goes: 30d, 12h (else IAFLOW_RETENTION_DAYS).",
)
@click.option("--dry-run", "is_dry", is_flag=True, help="Only count; remove nothing.")
@db_option
@json_option
def prune(older_than: str | None, is_dry: bool, db: str | None, as_json: bool) -> int:
    """
    Remove runs that ended long ago, with all that was kept of them.

    A run goes with the runs below it, once all of them are old enough. It may be stopped at any
    time, and may be done while workers work.
    """
    from iaflow.pipeline.maintenance import Pruned, prune

    with open_app(db) as app:
        interval = _read_retention(older_than, app.settings)
        sofar = Pruned()
        with errors().status("looking for what is old …") as status:
            for sofar in prune(app.engine, older_than=interval, is_dry=is_dry):
                status.update(f"{_tell_pruned(sofar, is_dry=is_dry)} …")
    if as_json:
        counts = {"runs": sofar.runs, "rows": sofar.rows}
        if not is_dry:
            counts |= {"fires": sofar.fires, "notices": sofar.notices}
        write_json({"dry_run": is_dry, "older_than_seconds": interval.total_seconds(), **counts})
    else:
        told = _tell_pruned(sofar, is_dry=is_dry)
        errors().print(line(status_text("ok"), f"  {told}"), soft_wrap=True)
    return ExitCode.DONE


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("celery_args", nargs=-1, type=click.UNPROCESSED, metavar="[-- CELERY OPTIONS]")
@click.option("--db", metavar="URL", help="Database (else IAFLOW_DATABASE_URL).")
def worker(celery_args: tuple[str, ...], db: str | None) -> int:
    """
    Become a Celery worker that executes steps.

    The app is workers.app of the current folder if there is one, else iaflow's own. What stands
    behind -- goes to Celery: iaflow worker -- --concurrency 8 --loglevel INFO
    """
    settings = read_settings(db)
    if settings.broker_url is None:
        raise SettingsRefused(
            "a worker needs a broker: set IAFLOW_BROKER_URL, such as redis://localhost:6379/0"
        )
    if db is not None:
        os.environ["IAFLOW_DATABASE_URL"] = db
    sys.stdout.flush()
    arguments = [sys.executable, "-m", "celery", "-A", find_worker_app(Path.cwd()), "worker"]
    # Workers need not know of each other: all that they share is in the database.
    # A list of arguments of our own making; the user's own shell has read the rest.
    os.execv(  # noqa: S606
        sys.executable, [*arguments, "--without-gossip", "--without-mingle", *celery_args]
    )


def find_worker_app(folder: Path) -> str:
    """Return the name of the worker's app: the deployment's own if `folder` has one."""
    return "workers.app" if (folder / "workers" / "app.py").is_file() else "iaflow.worker.app:app"


@click.command()
@db_option
@json_option
def metrics(db: str | None, as_json: bool) -> int:
    """
    Print figures of all runs together, as Prometheus reads them: ready, running, waiting, lost.

    What workers counted stands on their own pages: see IAFLOW_METRICS_ADDRESS.
    """
    from iaflow.database.run_store.gauges import GaugeStore
    from iaflow.metrics import render_gauges

    with open_app(db) as app:
        gauges = GaugeStore(app.database, app.settings.queues).read()
    if as_json:
        write_json({one.name: dict(one.values) if one.label else one.values[""] for one in gauges})
    else:
        sys.stdout.write(render_gauges(gauges))
    return ExitCode.DONE


@click.command()
@click.option("--import", "do_import", is_flag=True, help="Import the modules steps may come from.")
@db_option
@json_option
def doctor(do_import: bool, db: str | None, as_json: bool) -> int:
    """
    Look whether everything is in place: settings, database, broker, workers, modules, clocks.

    Exits with 1 if anything must be mended.
    """
    from iaflow.cli.diagnosing import find_all, list_settings

    settings = read_settings(db)
    put_folder_on_path()
    listed = list_settings(settings, db=db)
    with guard_stdout(as_json):
        findings = list(find_all(settings, do_import=do_import))
    failed = any(finding.verdict == "fail" for finding in findings)
    if as_json:
        write_json(
            {
                "ok": not failed,
                "settings": listed,
                "findings": [finding.as_json() for finding in findings],
            }
        )
        return ExitCode.RUN_FAILED if failed else ExitCode.DONE
    console = results()
    rows = [[one["name"], one["value"], one["source"]] for one in listed]
    for row in table(["setting", "value", "source"], rows):
        console.print(row, soft_wrap=True)
    console.print()
    for finding in findings:
        verdict = status_text(finding.verdict, width=4)
        console.print(line(verdict, f"  {finding.name:<10}  {finding.message}"), soft_wrap=True)
        if finding.advice:
            console.print(line(" " * 18, hint(finding.advice)), soft_wrap=True)
    return ExitCode.RUN_FAILED if failed else ExitCode.DONE


def _read_retention(older_than: str | None, settings: Settings) -> timedelta:
    if older_than is not None:
        return read_interval(older_than, "--older-than")
    if settings.retention_days is None:
        raise click.UsageError("say how old: --older-than 30d, or set IAFLOW_RETENTION_DAYS")
    return timedelta(days=settings.retention_days)


def _tell_pruned(pruned: Pruned, *, is_dry: bool) -> str:
    runs = f"{pruned.runs} run{'' if pruned.runs == 1 else 's'}"
    if is_dry:
        return f"would remove {runs}, about {pruned.rows} rows"
    others = {"fires of schedules": pruned.fires, "notices of other runs": pruned.notices}
    also = "".join(f", {count} {what}" for what, count in others.items() if count)
    return f"removed {runs}, {pruned.rows} rows{also}"
