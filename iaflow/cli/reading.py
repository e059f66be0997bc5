"""Commands that look at runs: `runs`, `why`.

Decides what of a run is shown and in which shape; never changes anything. Called through
`main`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import rich_click as click

from iaflow.cli.exits import ExitCode
from iaflow.cli.inputs import db_option, json_option
from iaflow.cli.opening import open_app
from iaflow.cli.terminal import (
    LOOKS,
    errors,
    format_age,
    format_instant,
    format_seconds,
    hint,
    line,
    results,
    status_text,
    table,
    write_json,
)
from iaflow.clock import SystemClock
from iaflow.data.records import DecisionRecord, RunRecord
from iaflow.data.status import RunStatus
from iaflow.errors import NotFound

if TYPE_CHECKING:
    from rich.text import Text

    from iaflow.explaining import Explanation, Line

__all__ = ["runs", "why"]


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
@click.argument("step_id", metavar="STEP")
@db_option
@json_option
def why(run_id: str, step_id: str, db: str | None, as_json: bool) -> int:
    """
    Say why a STEP of a RUN ran, or why it did not.

    From the decisions on the transitions into it, back to the first cause.
    """
    from iaflow.explaining import Ledger, explain

    with open_app(db) as app:
        run_id = app.client.find(run_id)
        graph = app.client.graph_of(run_id)
        if step_id not in graph.nodes:
            raise NotFound(_unknown_step(run_id, step_id, list(graph.nodes)))
        decisions = app.client.decisions(run_id)
        steps = app.client.steps(run_id, items=False, payloads=False)
        for step in list(steps):
            if step.items is not None and step.items.failed:
                steps += app.client.failed_items(run_id, step.step_id, limit=1)
        keys = {step.concurrency_key for step in steps if step.is_held}
        held = {key: app.client.holder_of(key) for key in keys if key is not None}
        holders = {key: holder for key, holder in held.items() if holder is not None}
        ledger = Ledger.of(graph, app.client.run(run_id), steps, decisions, holders)
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


_WANTED: Final = {False: "answer or signal", True: "answers or signals"}


def _run_row(run: RunRecord, now: Any) -> list[str | Text]:
    end = run.finished_at or (None if run.status is RunStatus.WAITING else now)
    took = format_seconds((end - run.created_at).total_seconds()) if end else ""
    note = ""
    if run.error_code:
        note = f"{run.error_step_id or 'run'}: {run.error_code}"
    elif run.status is RunStatus.WAITING:
        note = f"waits for {run.paused} {_WANTED[run.paused != 1]}"
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


# --- why


def explanation_lines(explanation: Explanation) -> list[Text]:
    """Return an explanation as an indented tree: the step, the transitions into it, their causes."""
    from iaflow.explaining import lay_out

    return [_explanation_line(one) for one in lay_out(explanation)]


def _explanation_line(one: Line) -> Text:
    pad = "  " * one.depth
    if one.transition:
        return line(f"{pad}{one.transition}  ", status_text(one.mark), f": {one.words}")
    if not one.mark:
        return line(f"{pad}· ", one.words)
    look = LOOKS.get(one.mark)
    glyph = (f"{look.glyph} ", look.style) if look else ("· ", "")
    return line(pad, glyph, (one.words, "bold" if one.depth == 0 else ""))


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
