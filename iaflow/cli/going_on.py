"""Commands that let a run go on: `retry`, `rerun`, `signal`.

Decides which verb of the client each is; never which steps go on. Called through `main`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import rich_click as click

from iaflow.cli.driving import drive_and_finish, wait_and_finish
from iaflow.cli.exits import ExitCode
from iaflow.cli.inputs import db_option, input_option, json_option, read_inputs
from iaflow.cli.opening import folders_of, open_app, read_user
from iaflow.cli.results import quote_db
from iaflow.cli.terminal import errors, hint, line, write_json

if TYPE_CHECKING:
    from iaflow.bootstrap import Application

__all__ = ["rerun", "retry", "signal"]

wait_option = click.option(
    "--wait", is_flag=True, help="With workers: wait until the run ends or waits for a person."
)


@click.command()
@click.argument("run_id", metavar="RUN")
@wait_option
@db_option
@json_option
def retry(run_id: str, wait: bool, db: str | None, as_json: bool) -> int:
    """
    Reopen a failed RUN: what failed or was cancelled goes on.

    Steps that succeeded keep their outputs; of a foreach, only the items go on that did not
    succeed. Every step has all its retries once more.
    """
    with open_app(db, here=True) as app:
        settled = app.client.retry(app.client.find(run_id))
        return _go_on(app, settled.run_id, "reopened", wait=wait, db=db, as_json=as_json)


@click.command()
@click.argument("run_id", metavar="RUN")
@click.argument("step_id", metavar="STEP")
@input_option
@wait_option
@db_option
@json_option
def rerun(
    run_id: str, step_id: str, inputs: tuple[str, ...], wait: bool, db: str | None, as_json: bool
) -> int:
    """
    Make a new run from a STEP of a RUN on.

    What comes before the step is taken from the RUN as it was recorded. With --input the step is
    given these values in the place of its inputs. The new run's id is printed first.
    """
    given = read_inputs(inputs) if inputs else None
    with open_app(db, here=True) as app:
        settled = app.client.rerun(
            app.client.find(run_id), step_id, inputs=given, started_by=read_user()
        )
        return _go_on(app, settled.run_id, "began", wait=wait, db=db, as_json=as_json)


@click.command()
@click.argument("run_id", metavar="RUN")
@click.argument("name", metavar="NAME")
@input_option
@click.option("--as", "sender", metavar="WHO", help="Who sends it; else the user of this terminal.")
@click.option("--key", metavar="KEY", help="Idempotency key: sent again, it gets the same reply.")
@wait_option
@db_option
@json_option
def signal(
    run_id: str,
    name: str,
    inputs: tuple[str, ...],
    sender: str | None,
    key: str | None,
    wait: bool,
    db: str | None,
    as_json: bool,
) -> int:
    """
    Send the signal NAME to a RUN whose event step waits for it.

    The values of --input are its payload, which becomes the step's output.
    """
    with open_app(db, here=True) as app:
        run_id = app.client.find(run_id)
        app.client.signal(run_id, name, read_inputs(inputs), sent_by=sender or read_user(), key=key)
        top = app.client.root_of(run_id)
        return _go_on(app, top, f"got {name}", wait=wait, db=db, as_json=as_json)


def _go_on(
    app: Application, run_id: str, what: str, *, wait: bool, db: str | None, as_json: bool
) -> int:
    """Say what was done, then drive the run here, or leave it to the workers."""
    if not as_json:
        errors().print(line(("✓ ", "green"), f"run {run_id} {what}"), soft_wrap=True)
    if app.executor is None:
        folders = folders_of(app, app.client.run(run_id))
        return drive_and_finish(app, run_id, folders=folders, as_json=as_json, db=db)
    if wait:
        return wait_and_finish(app, run_id, as_json=as_json, db=db)
    if as_json:
        write_json({"run_id": run_id, "status": str(app.client.run(run_id).status)})
    else:
        advice = f"the workers have it; look with:  iaflow show {run_id}{quote_db(db)}"
        errors().print(hint(advice), soft_wrap=True)
    return ExitCode.DONE
