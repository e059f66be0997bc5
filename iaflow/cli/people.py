"""Commands for people: `inbox`, `answer`, `reassign`.

Decides how questions are shown and answers are taken; never whether an answer fits. Called
through `main`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import rich_click as click

from iaflow.cli.asking import ask_answer
from iaflow.cli.driving import drive_and_finish, wait_and_finish
from iaflow.cli.exits import ExitCode
from iaflow.cli.inputs import db_option, json_option, read_answer
from iaflow.cli.opening import folders_of, open_app, read_user
from iaflow.cli.results import answer_command, quote_db, show_question
from iaflow.cli.showing import describe_people
from iaflow.cli.terminal import (
    errors,
    format_age,
    format_instant,
    hint,
    is_interactive,
    line,
    results,
    table,
    write_json,
)
from iaflow.clock import SystemClock
from iaflow.data.status import PauseStatus
from iaflow.errors import Conflict

if TYPE_CHECKING:
    from iaflow.bootstrap import Application
    from iaflow.data.records import PauseRecord, RunRecord

__all__ = ["answer", "inbox", "reassign"]


@click.command()
@click.option("--run", "run_id", metavar="RUN", help="Only the questions of this run.")
@db_option
@json_option
def inbox(run_id: str | None, db: str | None, as_json: bool) -> int:
    """List the questions that wait for people, the oldest first."""
    with open_app(db) as app:
        pauses = app.client.inbox(app.client.find(run_id) if run_id else None)
        answers = {p.pause_id: app.client.answers_to(p.pause_id) for p in pauses if p.quorum > 1}
        tops = {p.run_id: app.client.run(app.client.root_of(p.run_id)) for p in pauses}
    if as_json:
        write_json([_describe_open(p, answers.get(p.pause_id, 0), tops[p.run_id]) for p in pauses])
    elif not pauses:
        errors().print(line("no question is open"))
    else:
        now = SystemClock().now()
        rows = [
            [
                pause.pause_id,
                str(pause.ui_schema.get("title") or pause.step_id),
                _name_place(pause, tops[pause.run_id]),
                describe_people(pause, answers.get(pause.pause_id, 0)),
                format_age(pause.created_at, now),
                format_age(pause.expires_at, now) if pause.expires_at else "",
            ]
            for pause in pauses
        ]
        headings = ["question", "title", "pipeline / step", "for", "asked", "expires"]
        for row in table(headings, rows):
            results().print(row, soft_wrap=True)
        advice = answer_command(_describe_pause(pauses[0]), db=db)
        errors().print(hint(f"answer the first:  {advice}"), soft_wrap=True)
    return ExitCode.DONE


def _name_place(pause: PauseRecord, top: RunRecord) -> str:
    """Return the pipeline at the top of the family, the one that asks, and the step."""
    above = [top.slug] if top.run_id != pause.run_id else []
    return " / ".join([*above, pause.slug, pause.step_id])


def _describe_open(pause: PauseRecord, answers: int, top: RunRecord) -> Mapping[str, Any]:
    return {
        **_describe_pause(pause),
        "assignees": dict(pause.assignees),
        "quorum": pause.quorum,
        "answers": answers,
        "top": {"run_id": top.run_id, "slug": top.slug},
    }


@click.command()
@click.argument("pause_id", metavar="PAUSE")
@click.option(
    "--set",
    "given",
    multiple=True,
    metavar="FIELD=VALUE",
    help="The answer to a field; repeat it for other fields, and for a list of choices.",
)
@click.option("--as", "name", metavar="NAME", help="Who answers; else the user of this terminal.")
@click.option(
    "--role",
    "roles",
    multiple=True,
    metavar="ROLE",
    help="A role of who answers, for questions to a role; repeat it for others.",
)
@click.option("--key", metavar="KEY", help="Idempotency key: sent again, it gets the same reply.")
@click.option("--wait", is_flag=True, help="With workers: wait until the run ends or waits again.")
@db_option
@json_option
def answer(
    pause_id: str,
    given: tuple[str, ...],
    name: str | None,
    roles: tuple[str, ...],
    key: str | None,
    wait: bool,
    db: str | None,
    as_json: bool,
) -> int:
    """
    Answer a question, and let its run go on.

    Without --set the fields are asked for at the terminal. Without a broker this process drives
    the run on, to its end or to the next question. PAUSE is an id from `iaflow inbox`, or the
    beginning of one.
    """
    with open_app(db) as app:
        pause = _find_pause(app, pause_id)
        if not given and is_interactive() and pause.ui_schema.get("fields"):
            show_question(_describe_pause(pause), db=db, advise=False)
            answered = ask_answer(pause.ui_schema)
        else:
            answered = read_answer(pause.ui_schema, given)
        pause = app.client.answer(
            pause.pause_id,
            answered,
            answered_by=name or read_user(),
            roles=roles,
            key=key,
            # What was read is what is answered: a question that changes meanwhile is refused.
            digest=pause.digest,
        )
        if not as_json:
            errors().print(line(("✓ ", "green"), f"answered {pause.step_id}"), soft_wrap=True)
            if pause.status is PauseStatus.OPEN:
                advice = f"{pause.quorum} people must answer; it waits for more of them"
                errors().print(hint(advice), soft_wrap=True)
        run_id = app.client.root_of(pause.run_id)
        if app.executor is not None:
            return _hand_on(app, pause, run_id, wait=wait, db=db, as_json=as_json)
        folders = folders_of(app, app.client.run(run_id))
        return drive_and_finish(app, run_id, (), folders=folders, as_json=as_json, db=db)


@click.command()
@click.argument("pause_id", metavar="PAUSE")
@click.option("--user", "users", multiple=True, metavar="NAME", help="Ask this user; repeat it.")
@click.option("--role", "roles", multiple=True, metavar="ROLE", help="Ask this role; repeat it.")
@click.option("--as", "name", metavar="NAME", help="Who does it; else the user of this terminal.")
@db_option
@json_option
def reassign(
    pause_id: str,
    users: tuple[str, ...],
    roles: tuple[str, ...],
    name: str | None,
    db: str | None,
    as_json: bool,
) -> int:
    """
    Ask others in the place of those who are asked; they are told of it.

    PAUSE is an id from `iaflow inbox`, or the beginning of one.
    """
    wanted = {"users": [*users], "roles": [*roles]}
    with open_app(db) as app:
        pause_id = _find_pause(app, pause_id).pause_id
        pause = app.client.reassign(pause_id, wanted, by=name or read_user())
    if as_json:
        write_json({**_describe_pause(pause), "assignees": dict(pause.assignees)})
    else:
        told = f"{pause.step_id} is asked of {describe_people(pause, 0)}"
        errors().print(line(("✓ ", "green"), told), soft_wrap=True)
    return ExitCode.DONE


def _hand_on(
    app: Application, pause: PauseRecord, run_id: str, *, wait: bool, db: str | None, as_json: bool
) -> int:
    """Leave the rest of the run to the workers, which were told."""
    if wait:
        return wait_and_finish(app, run_id, as_json=as_json, db=db)
    if as_json:
        status = str(app.client.run(run_id).status)
        write_json({"run_id": run_id, "status": status, "pause_id": pause.pause_id})
    else:
        advice = f"the workers go on with it; look with:  iaflow show {run_id}{quote_db(db)}"
        errors().print(hint(advice), soft_wrap=True)
    return ExitCode.DONE


def _find_pause(app: Application, prefix: str) -> PauseRecord:
    """Return the question of that id, or the one open question whose id begins so."""
    if len(prefix) < 36:
        found = [p for p in app.client.inbox() if p.pause_id.startswith(prefix.lower())]
        if len(found) > 1:
            raise Conflict(
                f"{len(found)} open questions begin with {prefix!r}: write more of the id"
            )
        if found:
            return found[0]
    return app.client.pause(prefix)


def _describe_pause(pause: PauseRecord) -> Mapping[str, Any]:
    return {
        "pause_id": pause.pause_id,
        "run_id": pause.run_id,
        "step_id": pause.step_id,
        "slug": pause.slug,
        "ui_schema": dict(pause.ui_schema),
        "shown": dict(pause.shown) if pause.shown else {},
        "digest": pause.digest,
        "created_at": format_instant(pause.created_at),
        "expires_at": format_instant(pause.expires_at),
    }
