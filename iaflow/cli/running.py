"""Commands that set runs going: `run`, `start`, `cancel`, `resume`.

Decides which verb of the client each is; never drives a run itself. Called through `main`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from iaflow.cli.driving import announce, drive, drive_and_finish, wait_and_finish
from iaflow.cli.exits import ExitCode, code_of_status
from iaflow.cli.inputs import db_option, input_option, json_option, read_inputs
from iaflow.cli.opening import folders_of, open_app, read_user
from iaflow.cli.reading_files import read_definition
from iaflow.cli.results import describe_run, finish, quote_db
from iaflow.cli.terminal import errors, format_seconds, hint, line, status_text, write_json
from iaflow.data.status import END_OF_RUN, RunStatus, StepStatus
from iaflow.errors import Conflict

if TYPE_CHECKING:
    from iaflow.bootstrap import Application
    from iaflow.data.records import RunRecord

__all__ = ["cancel", "resume", "run", "start"]

key_option = click.option(
    "--key", metavar="KEY", help="Idempotency key: the same key and input give the same run."
)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@input_option
@key_option
@db_option
@json_option
def run(file: Path, inputs: tuple[str, ...], key: str | None, db: str | None, as_json: bool) -> int:
    """
    Run a pipeline from a FILE, here and now.

    Its steps work in this process, from modules in the file's folder and in the current one. The
    run is kept in the database: if this process dies, `iaflow resume` goes on with it.
    """
    given = read_inputs(inputs)
    with open_app(db, here=True) as app:
        is_own = app.database.dialect == "sqlite"
        folders = [file.parent, Path.cwd()] if is_own else []
        graph = read_definition(file, app.settings, folders=folders)
        app.client.save(graph)
        started = app.client.start_graph(
            graph,
            given,
            key=key,
            started_by=read_user(),
            source_folder=str(file.parent.resolve()),
        )
        announce(app, started.run_id, is_new=started.is_new, quiet=as_json)
        return drive_and_finish(
            app,
            started.run_id,
            started.tasks,
            folders=[file.parent, Path.cwd()],
            as_json=as_json,
            db=db,
        )


@click.command()
@click.argument("slug")
@input_option
@key_option
@click.option("--wait", is_flag=True, help="Wait until the run ends or waits for a person.")
@db_option
@json_option
def start(
    slug: str,
    inputs: tuple[str, ...],
    key: str | None,
    wait: bool,
    db: str | None,
    as_json: bool,
) -> int:
    """
    Start a run of an imported pipeline.

    With a broker (IAFLOW_BROKER_URL) the workers take it, and the command returns at once unless
    told to wait. Without one the run is driven by this process, as `run` does.
    """
    given = read_inputs(inputs)
    with open_app(db) as app:
        started = app.client.start(slug, given, key=key, started_by=read_user())
        run_id = started.run_id
        announce(app, run_id, is_new=started.is_new, quiet=as_json)
        if app.executor is not None and wait:
            return wait_and_finish(app, run_id, as_json=as_json, db=db)
        if app.executor is None:
            folders = folders_of(app, app.client.run(run_id))
            seconds = drive(app, run_id, started.tasks, folders=folders, as_json=as_json, db=db)
            if wait or not as_json:
                return finish(app, run_id, as_json=as_json, db=db, seconds=seconds)
        record = app.client.run(run_id)
        if as_json:
            write_json({"run_id": run_id, "status": str(record.status)})
        else:
            errors().print(
                hint(f"the workers have it; look with:  iaflow show {run_id}{quote_db(db)}"),
                soft_wrap=True,
            )
            click.echo(run_id)
        return ExitCode.DONE if app.executor is not None else code_of_status(record.status)


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--step", "step_id", metavar="STEP", help="Cancel this step alone.")
@click.option("--reason", default="", help="Kept with the run, for people.")
@db_option
@json_option
def cancel(run_id: str, step_id: str | None, reason: str, db: str | None, as_json: bool) -> int:
    """
    Cancel a RUN, or one step of it.

    What is unfinished ends as cancelled, open questions included. RUN is an id or the beginning
    of one.
    """
    with open_app(db) as app:
        run_id = app.client.find(run_id)
        settled = app.client.cancel(run_id, step_id=step_id, reason=reason)
        record = app.client.run(run_id)
        is_changed = not settled.is_stale
        if as_json:
            write_json({"run_id": run_id, "status": str(record.status), "changed": is_changed})
        elif is_changed:
            what = f"step {step_id} of run {run_id}" if step_id else f"run {run_id}"
            errors().print(line(status_text("cancelled"), f"  {what}"), soft_wrap=True)
            if settled.tasks and app.executor is None:
                advice = f"go on with the rest of it:  iaflow resume {run_id}{quote_db(db)}"
                errors().print(hint(advice), soft_wrap=True)
        if is_changed or record.status is RunStatus.CANCELLED:
            return ExitCode.DONE
        if not as_json:
            raise Conflict(f"run {run_id} has ended as {record.status}; nothing was changed")
        return ExitCode.USAGE


@click.command()
@click.argument("run_id", metavar="[RUN]", required=False)
@db_option
@json_option
def resume(run_id: str | None, db: str | None, as_json: bool) -> int:
    """
    Take up unfinished runs of this database, such as after a crash.

    Steps that a lost process held are taken over when their lease is over, with the inputs they
    had. Runs that wait for a person or a signal are named and left waiting. Without RUN: all of them, the
    oldest first. The exit code is that of the worst end.
    """
    with open_app(db, here=True) as app:
        ids = app.client.unfinished() if run_id is None else [app.client.find(run_id)]
        if not ids and not as_json:
            errors().print(line("nothing to resume: every run has ended"))
        described = []
        codes = {ExitCode.DONE}
        for one in ids:
            codes.add(_take_up(app, one, as_json=as_json, db=db))
            described.append(describe_run(app, app.client.run(one)))
        if as_json:
            write_json(described)
        return _worst(codes)


def _take_up(app: Application, run_id: str, *, as_json: bool, db: str | None) -> ExitCode:
    """Say what was found of a run, drive it, and show how it stands then."""
    record = app.client.run(run_id)
    if not as_json:
        _show_found(app, record)
    seconds = None
    if record.status not in END_OF_RUN:
        folders = folders_of(app, record)
        seconds = drive(app, run_id, folders=folders, as_json=as_json, db=db)
    if as_json:
        return code_of_status(app.client.run(run_id).status)
    return ExitCode(finish(app, run_id, as_json=False, db=db, seconds=seconds))


def _show_found(app: Application, record: RunRecord) -> None:
    console = errors()
    status = status_text(str(record.status))
    console.print(
        line(status, ("  run ", "dim"), record.run_id, f"  {record.slug}"), soft_wrap=True
    )
    lease = format_seconds(app.settings.lease_seconds)
    for step in app.client.steps(record.run_id, items=False, payloads=False):
        if step.status is not StepStatus.RUNNING:
            continue
        if step.items is None:
            held = f"step {step.step_id} is held by worker {step.worker}; if that is lost, it is"
        elif step.items.started > step.items.ended + step.items.paused:
            held = f"items of step {step.step_id} are at work; those of a lost worker are"
        else:
            continue
        advice = f"{held} taken over when its lease ends, in {lease} at most"
        console.print(hint(advice), soft_wrap=True)


def _worst(codes: set[ExitCode]) -> ExitCode:
    """Return the code that needs attention first: a failure, then a question."""
    for code in (ExitCode.RUN_FAILED, ExitCode.WAITING):
        if code in codes:
            return code
    return ExitCode.DONE
