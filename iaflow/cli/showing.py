"""The command `show`: a run as it stands, for people on one screen, for programs in full.

Decides what of a run is shown and in which shape; never changes anything, and reads no more rows
than it shows. Called through `main`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import rich_click as click

from iaflow.cli.exits import ExitCode
from iaflow.cli.inputs import db_option, json_option
from iaflow.cli.opening import open_app
from iaflow.cli.results import (
    describe_run,
    find_failed,
    quote_db,
    show_failure,
    show_waiting,
)
from iaflow.cli.terminal import (
    as_clause,
    errors,
    format_age,
    format_instant,
    format_seconds,
    format_value,
    hint,
    line,
    results,
    status_text,
    table,
    write_json,
    write_value,
)
from iaflow.clock import SystemClock
from iaflow.data.records import NO_INDEX, PauseRecord, RunRecord, StepRecord
from iaflow.data.status import RunStatus, StepStatus, WaitsFor
from iaflow.explaining import describe_items
from iaflow.pipeline.definition import StepType

if TYPE_CHECKING:
    from rich.text import Text

    from iaflow.bootstrap import Application

__all__ = ["describe_people", "show"]

FAILURES_SHOWN: Final = 10
"""Failed items of a step that are listed without being asked for."""
CHILDREN_SHOWN: Final = 10


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--items", is_flag=True, help="List every item of a foreach, not only failed ones.")
@db_option
@json_option
def show(run_id: str, items: bool, db: str | None, as_json: bool) -> int:
    """
    Show a run: where each step stands, what came out, what it waits for.

    A foreach is one line that counts; of its items the first ten that failed are listed, and all
    with --items. RUN is an id or the beginning of one.
    """
    with open_app(db) as app:
        # All that is shown is of one moment, also while the run goes on or is removed.
        with app.database.transaction(write=False):
            run_id = app.client.find(run_id)
            run = app.client.run(run_id)
            steps = _read_steps(app, run, items=items, payloads=as_json)
            more = _describe_all(app, run, steps) if as_json else _read_around(app, run)
        if isinstance(more, _Around):
            _show_all(app, run, steps, more, db)
        else:
            write_json(more)
    return ExitCode.DONE


def describe_people(pause: PauseRecord, answers: int) -> str:
    """Return whom a question asks and how many answers are still wanted."""
    users = [str(one) for one in pause.assignees.get("users") or ()]
    roles = [f"role {one}" for one in pause.assignees.get("roles") or ()]
    who = ", ".join([*users, *roles]) or "anybody"
    return who if pause.quorum == 1 else f"{who}: {answers} of {pause.quorum} answers"


@dataclass(frozen=True, slots=True)
class _Around:
    """What stands around a run: what its steps wait for."""

    pauses: Mapping[tuple[str, int], PauseRecord]
    answers: Mapping[str, int]
    children: Mapping[tuple[str | None, int | None], RunRecord]
    signals: Mapping[str, str]


def _read_steps(
    app: Application, run: RunRecord, *, items: bool, payloads: bool
) -> list[StepRecord]:
    """Return the steps in document order, each before those of its items that are shown."""
    known: dict[str, list[StepRecord]] = {}
    for step in app.client.steps(run.run_id, items=items, payloads=payloads):
        known.setdefault(step.step_id, []).append(step)
        if not items and step.items is not None and step.items.failed:
            known[step.step_id] += app.client.failed_items(
                run.run_id, step.step_id, limit=FAILURES_SHOWN
            )
    # Those without a row were not reached yet.
    listed: list[StepRecord] = []
    for step_id in app.client.graph_of(run.run_id).nodes:
        listed += known.get(step_id) or [StepRecord.unreached(run.run_id, step_id)]
    return listed


def _read_around(app: Application, run: RunRecord) -> _Around:
    pauses = [one for one in app.client.inbox(run.run_id) if one.run_id == run.run_id]
    nodes = app.client.graph_of(run.run_id).nodes
    children = app.client.children(run.run_id)
    return _Around(
        {(one.step_id, one.index): one for one in pauses},
        {one.pause_id: app.client.answers_to(one.pause_id) for one in pauses if one.quorum > 1},
        # The newest first: of several attempts the last one counts.
        {(one.parent_step_id, one.parent_index): one for one in reversed(children)},
        {
            name: str(node.step.config["name"])
            for name, node in nodes.items()
            if node.step.type is StepType.EVENT
        },
    )


def _describe_all(app: Application, run: RunRecord, steps: Sequence[StepRecord]) -> dict[str, Any]:
    described = describe_run(app, run)
    return {
        **described,
        "slug": run.slug,
        "content_hash": run.content_hash,
        "created_at": format_instant(run.created_at),
        "finished_at": format_instant(run.finished_at),
        "parent": None
        if run.parent_run_id is None
        else {
            "run_id": run.parent_run_id,
            "step_id": run.parent_step_id,
            "index": None if run.parent_index == NO_INDEX else run.parent_index,
        },
        "children": [
            {
                "run_id": child.run_id,
                "step_id": child.parent_step_id,
                "index": None if child.parent_index == NO_INDEX else child.parent_index,
                "slug": child.slug,
                "status": str(child.status),
            }
            for child in reversed(app.client.children(run.run_id))
        ],
        "rerun_of": run.rerun_of,
        "parameters": dict(run.parameters),
        "steps": [_describe_step(step, app.settings.flower_url) for step in steps],
    }


def _describe_step(step: StepRecord, flower_url: str | None) -> dict[str, Any]:
    return {
        "step_id": step.step_id,
        "index": None if step.index == NO_INDEX else step.index,
        "status": str(step.status),
        "end": str(step.end) if step.end else None,
        "attempts": step.attempt - step.worker_losses,
        "worker_losses": step.worker_losses,
        "worker": step.worker,
        "started_at": format_instant(step.started_at),
        "finished_at": format_instant(step.finished_at),
        "due_at": format_instant(step.due_at),
        "waits_for": str(step.waits_for) if step.waits_for else None,
        "items": None
        if step.items is None
        else {
            "total": step.items.total,
            "ended": step.items.ended,
            "succeeded": step.items.succeeded,
            "failed": step.items.failed,
        },
        "inputs": step.inputs,
        "output": step.output,
        "error": dict(step.error) if step.error else None,
        "flower": step.link_to_task(flower_url),
    }


def _show_all(
    app: Application,
    run: RunRecord,
    steps: Sequence[StepRecord],
    around: _Around,
    db: str | None,
) -> None:
    console = results()
    definition = app.client.graph_of(run.run_id).definition
    now = SystemClock().now()
    end = run.finished_at or now
    console.print(line(status_text(str(run.status)), "  ", (definition.name, "bold")))
    facts = {
        "run": run.run_id,
        "pipeline": f"{run.slug}  version {definition.version}  {run.content_hash[:12]}",
        "part of": _name_parent(run),
        "reruns": f"run {run.rerun_of}" if run.rerun_of else "",
        "started": f"{run.created_at:%Y-%m-%d %H:%M:%S} UTC ({format_age(run.created_at, now)})",
        "took": format_seconds((end - run.created_at).total_seconds()),
        "input": format_value(dict(run.parameters), longest=200),
    }
    for name, value in facts.items():
        if not value:
            continue
        console.print(line((f"  {name:<9}", "dim"), value), soft_wrap=True)
    console.print()
    rows = [_step_row(step, now, around) for step in steps]
    for row in table(["step", "status", "took", "attempts", ""], rows):
        console.print(line("  ", row), soft_wrap=True)
    _show_children(list(around.children.values()))
    _show_links(steps, app.settings.flower_url)
    match run.status:
        case RunStatus.SUCCEEDED:
            console.print(line(("\n  outputs", "dim")))
            write_value(run.outputs)
        case RunStatus.WAITING | RunStatus.RUNNING:
            show_waiting(app, run.run_id, db=db)
        case RunStatus.FAILED | RunStatus.CANCELLED:
            console.print()
            show_failure(run, find_failed(app, run, steps), db=None, advise=False)
    skipped = next((step.step_id for step in steps if step.status is StepStatus.SKIPPED), None)
    if skipped is not None:
        advice = f"why a step ran or not:  iaflow why {run.run_id} {skipped}{quote_db(db)}"
        errors().print(hint(advice), soft_wrap=True)


def _name_parent(run: RunRecord) -> str:
    if run.parent_run_id is None:
        return ""
    item = "" if run.parent_index in (None, NO_INDEX) else f"[{run.parent_index}]"
    return f"run {run.parent_run_id}, step {run.parent_step_id}{item}"


def _show_children(children: Sequence[RunRecord]) -> None:
    """List runs below, those first that have something to say: failed ones, unfinished ones."""
    if not children:
        return
    console = results()
    console.print(line(("\n  runs below", "dim")))
    order = {RunStatus.FAILED: 0, RunStatus.WAITING: 1, RunStatus.RUNNING: 2}
    listed = sorted(children, key=lambda child: (order.get(child.status, 3), child.run_id))
    rows: list[list[str | Text]] = [
        [_step_of(child), status_text(str(child.status)), child.run_id, child.slug]
        for child in listed[:CHILDREN_SHOWN]
    ]
    for row in table(["step", "status", "run", "pipeline"], rows):
        console.print(line("  ", row), soft_wrap=True)
    if len(listed) > CHILDREN_SHOWN:
        console.print(line((f"  … and {len(listed) - CHILDREN_SHOWN} more", "dim")))


def _show_links(steps: Sequence[StepRecord], flower_url: str | None) -> None:
    """Show where Flower has the tasks of the steps, if there is a Flower."""
    links = [(step, link) for step in steps if (link := step.link_to_task(flower_url)) is not None]
    if not links:
        return
    console = results()
    console.print(line(("\n  tasks in Flower", "dim")))
    for row in table(["step", "task"], [[_name(step), link] for step, link in links]):
        console.print(line("  ", row), soft_wrap=True)


def _name(step: StepRecord) -> str:
    return step.step_id if step.index == NO_INDEX else f"  {step.step_id}[{step.index}]"


def _step_of(child: RunRecord) -> str:
    item = "" if child.parent_index in (None, NO_INDEX) else f"[{child.parent_index}]"
    return f"{child.parent_step_id}{item}"


def _step_row(step: StepRecord, now: datetime, around: _Around) -> list[str | Text]:
    took = ""
    # What is to be done once more has begun before, in the run that was rerun or reopened.
    is_pending = step.status is StepStatus.PENDING
    if step.started_at is not None and not is_pending:
        end = step.finished_at or now
        took = format_seconds((end - step.started_at).total_seconds())
    tries = step.attempt - step.worker_losses
    return [
        _name(step),
        status_text(str(step.status)),
        took,
        str(tries) if tries > 0 and step.items is None and not is_pending else "",
        line((_note(step, now, around), "dim")),
    ]


def _note(step: StepRecord, now: datetime, around: _Around) -> str:
    parts = []
    if step.items is not None:
        parts.append(describe_items(step.items))
    if step.error and step.status is not StepStatus.SUCCEEDED:
        message = as_clause(str(step.error.get("message", "")))
        parts.append(f"{step.error.get('code')}: {message}"[:200])
    if step.handled:
        parts.append("handled")
    if step.status is StepStatus.WAITING:
        parts.append(_tell_wait(step, now, around))
    if step.is_held:
        key = step.concurrency_key
        parts.append("held back by its rate" if key is None else f"held back by the key {key!r}")
    if step.status is StepStatus.RETRYING and step.due_at is not None:
        parts.append(f"next attempt {format_age(step.due_at, now)}")
    if step.worker_losses:
        parts.append(f"lost its worker {step.worker_losses} times")
    if step.worker and step.status is StepStatus.RUNNING and step.items is None:
        parts.append(f"on {step.worker}")
    return "; ".join(filter(None, parts))


def _tell_wait(step: StepRecord, now: datetime, around: _Around) -> str:
    pause = around.pauses.get((step.step_id, step.index))
    child = around.children.get((step.step_id, step.index))
    if child is None and step.index == NO_INDEX:
        child = around.children.get((step.step_id, None))
    match step.waits_for:
        case WaitsFor.SIGNAL if step.step_id in around.signals:
            return f"for the signal {around.signals[step.step_id]}"
        case WaitsFor.TIME if step.due_at is not None:
            return f"until {step.due_at:%Y-%m-%d %H:%M:%S} UTC ({format_age(step.due_at, now)})"
        case _ if pause is not None:
            return f"for {describe_people(pause, around.answers.get(pause.pause_id, 0))}"
        case _ if child is not None:
            return f"for run {child.run_id}"
        case WaitsFor.RUN | WaitsFor.RUN_OUTSIDE:
            return "for the end of a run"
        case _:
            return ""
