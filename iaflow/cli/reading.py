"""Commands that look at runs: `runs`, `show`, `why`.

Decides what of a run is shown and in which shape; never changes anything. Called through
`main`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import rich_click as click

from iaflow.cli.exits import ExitCode
from iaflow.cli.inputs import db_option, json_option
from iaflow.cli.opening import open_app
from iaflow.cli.results import describe_run, quote_db, show_failure, show_question
from iaflow.cli.terminal import (
    LOOKS,
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
from iaflow.data.records import NO_INDEX, DecisionRecord, RunRecord, StepRecord
from iaflow.data.status import RunStatus, StepStatus
from iaflow.errors import NotFound

if TYPE_CHECKING:
    from rich.text import Text

    from iaflow.bootstrap import Application
    from iaflow.cli.explaining import Explanation

__all__ = ["runs", "show", "why"]


@click.command()
@click.option("--status", type=click.Choice([str(s) for s in RunStatus]), help="Only these.")
@click.option("--slug", metavar="SLUG", help="Only runs of this pipeline.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option("--before", metavar="RUN", help="Only runs older than this one: the next page.")
@db_option
@json_option
def runs(
    status: str | None,
    slug: str | None,
    limit: int,
    before: str | None,
    db: str | None,
    as_json: bool,
) -> int:
    """List runs, the newest first."""
    with open_app(db) as app:
        listed = app.client.runs(
            slug=slug,
            status=RunStatus(status) if status else None,
            before=app.client.find(before) if before else None,
            limit=limit,
        )
    if as_json:
        write_json([_describe_line(run) for run in listed])
    elif not listed:
        errors().print(hint("no such run; start one with:  iaflow run FILE"), soft_wrap=True)
    else:
        now = SystemClock().now()
        rows = [_run_row(run, now) for run in listed]
        for row in table(["run", "status", "pipeline", "started", "took", ""], rows):
            results().print(row, soft_wrap=True)
    return ExitCode.DONE


@click.command()
@click.argument("run_id", metavar="RUN")
@db_option
@json_option
def show(run_id: str, db: str | None, as_json: bool) -> int:
    """
    Show a run: where each step stands, what came out, what it waits for.

    RUN is an id or the beginning of one.
    """
    with open_app(db) as app:
        run_id = app.client.find(run_id)
        run = app.client.run(run_id)
        steps = app.client.steps(run_id)
        if as_json:
            write_json(_describe_all(app, run, steps))
        else:
            _show_all(app, run, steps, db)
    return ExitCode.DONE


@click.command()
@click.argument("run_id", metavar="RUN")
@click.argument("step_id", metavar="STEP")
@db_option
@json_option
def why(run_id: str, step_id: str, db: str | None, as_json: bool) -> int:
    """
    Say why a STEP of a RUN ran, or why it did not.

    From the decisions on the transitions into it, back to the first cause.
    """
    from iaflow.cli.explaining import Ledger, explain

    with open_app(db) as app:
        run_id = app.client.find(run_id)
        graph = app.client.graph_of(run_id)
        if step_id not in graph.nodes:
            raise NotFound(_unknown_step(run_id, step_id, list(graph.nodes)))
        decisions = app.client.decisions(run_id)
        ledger = Ledger.of(graph, app.client.run(run_id), app.client.steps(run_id), decisions)
        explanation = explain(ledger, step_id)
        if as_json:
            into = [_describe_decision(d) for d in decisions if d.target == step_id]
            write_json(
                {
                    "run_id": run_id,
                    "step_id": step_id,
                    "status": explanation.status,
                    "sentence": explanation.sentence,
                    "decisions": into,
                    "explanation": _describe_explanation(explanation),
                }
            )
        else:
            for row in explanation_lines(explanation):
                results().print(row, soft_wrap=True)
    return ExitCode.DONE


# --- runs


def _run_row(run: RunRecord, now: Any) -> list[str | Text]:
    end = run.finished_at or (None if run.status is RunStatus.WAITING else now)
    took = format_seconds((end - run.created_at).total_seconds()) if end else ""
    note = ""
    if run.error_code:
        note = f"{run.error_step_id or 'run'}: {run.error_code}"
    elif run.status is RunStatus.WAITING:
        note = f"{run.paused} question{'s' if run.paused != 1 else ''} open"
    age = format_age(run.created_at, now)
    return [run.run_id, status_text(str(run.status)), run.slug, age, took, line((note, "dim"))]


def _describe_line(run: RunRecord) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "slug": run.slug,
        "status": str(run.status),
        "created_at": format_instant(run.created_at),
        "finished_at": format_instant(run.finished_at),
        "error_step_id": run.error_step_id,
        "error_code": run.error_code,
        "error_message": run.error_message,
    }


# --- show


def _describe_all(app: Application, run: RunRecord, steps: Sequence[StepRecord]) -> dict[str, Any]:
    described = describe_run(app, run)
    return {
        **described,
        "slug": run.slug,
        "content_hash": run.content_hash,
        "created_at": format_instant(run.created_at),
        "finished_at": format_instant(run.finished_at),
        "parameters": dict(run.parameters),
        "steps": [_describe_step(step) for step in _with_pending(app, run, steps)],
    }


def _describe_step(step: StepRecord) -> dict[str, Any]:
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
        "inputs": step.inputs,
        "output": step.output,
        "error": dict(step.error) if step.error else None,
    }


def _with_pending(
    app: Application, run: RunRecord, steps: Sequence[StepRecord]
) -> list[StepRecord]:
    """Return all steps in document order: those without a row were not reached yet."""
    known: dict[str, list[StepRecord]] = {}
    for step in steps:
        known.setdefault(step.step_id, []).append(step)
    listed: list[StepRecord] = []
    for step_id in app.client.graph_of(run.run_id).nodes:
        listed += known.get(step_id) or [_unreached(run.run_id, step_id)]
    return listed


def _unreached(run_id: str, step_id: str) -> StepRecord:
    return StepRecord(
        run_id=run_id,
        step_id=step_id,
        index=NO_INDEX,
        status=StepStatus.PENDING,
        end=None,
        attempt=0,
        worker_losses=0,
        worker=None,
        handled=False,
        due_at=None,
        started_at=None,
        finished_at=None,
    )


def _show_all(
    app: Application, run: RunRecord, steps: Sequence[StepRecord], db: str | None
) -> None:
    console = results()
    definition = app.client.graph_of(run.run_id).definition
    now = SystemClock().now()
    end = run.finished_at or now
    console.print(line(status_text(str(run.status)), "  ", (definition.name, "bold")))
    facts = {
        "run": run.run_id,
        "pipeline": f"{run.slug}  version {definition.version}  {run.content_hash[:12]}",
        "started": f"{run.created_at:%Y-%m-%d %H:%M:%S} UTC ({format_age(run.created_at, now)})",
        "took": format_seconds((end - run.created_at).total_seconds()),
        "input": format_value(dict(run.parameters), longest=200),
    }
    for name, value in facts.items():
        console.print(line((f"  {name:<9}", "dim"), value), soft_wrap=True)
    console.print()
    rows = [_step_row(step, now) for step in _with_pending(app, run, steps)]
    for row in table(["step", "status", "took", "attempts", ""], rows):
        console.print(line("  ", row), soft_wrap=True)
    match run.status:
        case RunStatus.SUCCEEDED:
            console.print(line(("\n  outputs", "dim")))
            write_value(run.outputs)
        case RunStatus.WAITING:
            for pause in app.client.waiting_payload(run.run_id)["pauses"]:
                show_question(pause, db=db)
        case RunStatus.FAILED | RunStatus.CANCELLED:
            console.print()
            show_failure(run, steps, db=None, advise=False)
    skipped = next((step.step_id for step in steps if step.status is StepStatus.SKIPPED), None)
    if skipped is not None:
        advice = f"why a step ran or not:  iaflow why {run.run_id} {skipped}{quote_db(db)}"
        errors().print(hint(advice), soft_wrap=True)


def _step_row(step: StepRecord, now: Any) -> list[str | Text]:
    name = step.step_id if step.index == NO_INDEX else f"{step.step_id}[{step.index}]"
    took = ""
    if step.started_at is not None:
        end = step.finished_at or now
        took = format_seconds((end - step.started_at).total_seconds())
    tries = step.attempt - step.worker_losses
    return [
        name,
        status_text(str(step.status)),
        took,
        str(tries) if tries > 0 else "",
        line((_note(step, now), "dim")),
    ]


def _note(step: StepRecord, now: Any) -> str:
    parts = []
    if step.error and step.status is not StepStatus.SUCCEEDED:
        message = as_clause(str(step.error.get("message", "")))
        parts.append(f"{step.error.get('code')}: {message}"[:200])
    if step.handled:
        parts.append("handled")
    if step.status is StepStatus.RETRYING and step.due_at is not None:
        parts.append(f"next attempt {format_age(step.due_at, now)}")
    if step.worker_losses:
        parts.append(f"lost its worker {step.worker_losses} times")
    if step.worker and step.status is StepStatus.RUNNING:
        parts.append(f"on {step.worker}")
    return "; ".join(parts)


# --- why


def explanation_lines(explanation: Explanation, indent: int = 0) -> list[Text]:
    """Return an explanation as an indented tree: the step, the transitions into it, their causes."""
    pad = "  " * indent
    look = LOOKS.get(explanation.status)
    glyph = (f"{look.glyph} ", look.style) if look else ("· ", "")
    lines = [line(pad, glyph, (explanation.sentence, "bold" if indent == 0 else ""))]
    for arrow in explanation.arrows:
        lines.append(
            line(
                f"{pad}    {arrow.source} → {arrow.target}  ",
                status_text(arrow.verdict),
                f": {arrow.words}",
            )
        )
        lines += [line(f"{pad}      {'  ' * depth}· ", words) for depth, words in arrow.parts]
        if arrow.cause is not None:
            lines += explanation_lines(arrow.cause, indent + 3)
    return lines


def _describe_decision(decision: DecisionRecord) -> dict[str, Any]:
    return {
        "transition": decision.transition,
        "from": decision.source,
        "to": decision.target,
        "taken": decision.taken,
        "reason": dict(decision.reason),
        "decided_at": format_instant(decision.decided_at),
        "superseded": decision.superseded,
    }


def _describe_explanation(explanation: Explanation) -> dict[str, Any]:
    return {
        "step_id": explanation.step_id,
        "status": explanation.status,
        "sentence": explanation.sentence,
        "transitions": [
            {
                "transition": arrow.transition,
                "from": arrow.source,
                "to": arrow.target,
                "verdict": arrow.verdict,
                "words": arrow.words,
                "parts": [words for _, words in arrow.parts],
                "cause": _describe_explanation(arrow.cause) if arrow.cause else None,
            }
            for arrow in explanation.arrows
        ],
    }


def _unknown_step(run_id: str, step_id: str, known: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(step_id, known, n=1)
    advice = f"did you mean {near[0]!r}?" if near else f"its steps are: {', '.join(known[:20])}"
    return f"run {run_id} has no step {step_id!r}; {advice}"
