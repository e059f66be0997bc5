"""What a command has to say of a run at its end: outputs, questions, or what went wrong.

Decides the shape of a run's result, for programs and for people; never changes a run. Called
by the commands that start, watch or show one.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from iaflow.cli.exits import code_of_status
from iaflow.cli.terminal import (
    as_clause,
    errors,
    format_seconds,
    format_value,
    hint,
    line,
    plain,
    results,
    status_text,
    write_json,
    write_value,
)
from iaflow.data.records import NO_INDEX
from iaflow.data.status import RunStatus, StepStatus

if TYPE_CHECKING:
    from rich.text import Text

    from iaflow.bootstrap import Application
    from iaflow.data.records import RunRecord, StepRecord

__all__ = [
    "answer_command",
    "describe_run",
    "error_of",
    "find_failed",
    "finish",
    "form_lines",
    "quote_db",
    "show_event",
    "show_failure",
    "show_question",
    "show_waiting",
]

FRAMES_SHOWN: Final = 12
"""Lines of a step's traceback that are shown: the end, where the step's own code stands."""

# The frames between the engine and a step: its attempt, and the thread of a plain `def work`.
_IS_OURS: Final = re.compile(r"[/\\](iaflow[/\\]pipeline|asyncio|concurrent[/\\]futures)[/\\]")

QUESTIONS_SHOWN: Final = 10
"""Questions, and signals, of one run that are shown in full."""

_EXAMPLES: Final[Mapping[str, str]] = {
    "number": "1.5",
    "integer": "1",
    "boolean": "true",
    "checkbox": "true",
    "date": "2026-01-31",
    "datetime": "2026-01-31T12:00:00Z",
    "email": "name@example.com",
    "url": "https://example.com",
    "json": "{}",
}


def describe_run(app: Application, run: RunRecord) -> dict[str, Any]:
    """Return a run's result for programs: ids, status, outputs; its questions or its error."""
    described: dict[str, Any] = {
        "run_id": run.run_id,
        "status": str(run.status),
        "outputs": run.outputs,
    }
    if run.status is RunStatus.WAITING:
        payload = app.client.waiting_payload(run.run_id)
        described |= {"pauses": payload["pauses"], "events": payload["events"]}
    if (error := error_of(run)) is not None:
        described["error"] = error
    return described


def error_of(run: RunRecord) -> dict[str, Any] | None:
    """Return what failed or cancelled a run; None if nothing did."""
    if run.status not in (RunStatus.FAILED, RunStatus.CANCELLED):
        return None
    return {
        "step_id": run.error_step_id,
        "code": run.error_code or str(run.status),
        "message": run.error_message or "",
    }


def finish(
    app: Application, run_id: str, *, as_json: bool, db: str | None, seconds: float | None = None
) -> int:
    """Show how a run stands and return the exit code that says the same."""
    run = app.client.run(run_id)
    if as_json:
        write_json(describe_run(app, run))
        return code_of_status(run.status)
    steps = app.client.steps(run_id, items=False, payloads=False)
    errors().print(_summary(run, steps, seconds), soft_wrap=True)
    match run.status:
        case RunStatus.SUCCEEDED:
            write_value(run.outputs)
        case RunStatus.WAITING:
            show_waiting(app, run_id, db=db)
        case RunStatus.FAILED | RunStatus.CANCELLED:
            show_failure(run, find_failed(app, run, steps), db=db)
        case RunStatus.PENDING | RunStatus.RUNNING:
            errors().print(hint(f"look again with:  iaflow show {run_id}{quote_db(db)}"))
    return code_of_status(run.status)


def find_failed(app: Application, run: RunRecord, steps: Sequence[StepRecord]) -> StepRecord | None:
    """Return the row of what failed a run: of a foreach, its first item that did."""
    failed = next((s for s in steps if s.step_id == run.error_step_id and s.error), None)
    if failed is not None and failed.items is not None:
        return next(iter(app.client.failed_items(run.run_id, failed.step_id, limit=1)), failed)
    return failed


def show_failure(
    run: RunRecord, failed: StepRecord | None, *, db: str | None, advise: bool = True
) -> None:
    """Say on stderr what ended a run, with the end of the step's traceback, and where to look."""
    console = errors()
    error = error_of(run)
    if error is None:
        return
    where = f"step {error['step_id']}: " if error["step_id"] else ""
    text = f"{where}{error['code']}: {error['message'] or 'no message'}"
    console.print(line(("  ", ""), (text, "red")), soft_wrap=True)
    if failed is not None and failed.index != NO_INDEX and failed.error:
        fault = f"item {failed.index}: {failed.error.get('code')}: {failed.error.get('message')}"
        console.print(line("  ", (fault, "red")), soft_wrap=True)
    trace = str((failed.error or {}).get("trace", "")) if failed is not None else ""
    for row in _own_frames(trace):
        console.print(line(("  │ ", "red"), (row, "dim")), soft_wrap=True)
    if advise:
        advice = f"where every step stands:  iaflow show {run.run_id}{quote_db(db)}"
        console.print(hint(advice), soft_wrap=True)


def show_question(
    pause: Mapping[str, Any], *, db: str | None, advise: bool = True, of: str | None = None
) -> None:
    """
    Show a question to a person: what it is about, the form, and the command that answers.

    Args:
        of: the run that the reader looks at; a question of another one says of which it is.
    """
    console = results()
    console.print()
    for row in form_lines(pause["step_id"], pause["ui_schema"], pause.get("shown") or {}):
        console.print(row, soft_wrap=True)
    _show_place(pause, of)
    if advise:
        console.print(hint("answer with:"))
        console.print(line("    ", (answer_command(pause, db=db), "bold")), soft_wrap=True)


def show_event(event: Mapping[str, Any], *, db: str | None, of: str | None = None) -> None:
    """Show which signal a run waits for, and the command that sends it; see `show_question`."""
    console = results()
    console.print()
    console.print(
        line(
            ("? ", "magenta"),
            "signal ",
            (str(event["name"]), "bold"),
            (f"  {event['step_id']}", "dim"),
        )
    )
    _show_place(event, of)
    console.print(hint("send it with:"))
    words = ["iaflow", "signal", str(event["run_id"]), str(event["name"])]
    command = f"{shlex.join(words)} --input …{quote_db(db)}"
    console.print(line("    ", (command, "bold")), soft_wrap=True)


def show_waiting(app: Application, run_id: str, *, db: str | None) -> None:
    """Show what a run and the runs below it wait for: all of it, or the first of many."""
    payload = app.client.waiting_payload(run_id)
    for pause in payload["pauses"][:QUESTIONS_SHOWN]:
        show_question(pause, db=db, of=run_id)
    for event in payload["events"][:QUESTIONS_SHOWN]:
        show_event(event, db=db, of=run_id)
    if len(payload["pauses"]) > QUESTIONS_SHOWN:
        advice = f"there are more questions:  iaflow inbox --run {run_id}{quote_db(db)}"
        errors().print(hint(advice), soft_wrap=True)
    if len(payload["events"]) > QUESTIONS_SHOWN:
        advice = f"it waits for more signals:  iaflow show {run_id} --json{quote_db(db)}"
        errors().print(hint(advice), soft_wrap=True)


def form_lines(step_id: str, form: Mapping[str, Any], shown: Any) -> list[Text]:
    """Return a question as lines: its title, what is shown with it, its fields."""
    title = str(form.get("title") or step_id)
    lines = [line(("? ", "magenta"), (title, "bold"), (f"  {step_id}", "dim"))]
    if form.get("description"):
        lines.append(line("  ", plain(str(form["description"]))))
    for name, value in (shown if isinstance(shown, Mapping) else {"value": shown}).items():
        text = value if isinstance(value, str) else format_value(value)
        first, *more = text.splitlines() or [""]
        lines.append(line("  ", (f"{name}: ", "dim"), first))
        lines += [line(" " * (len(name) + 4), row) for row in more]
    lines += [_field_line(field) for field in form.get("fields", ())]
    return lines


def _show_place(waited: Mapping[str, Any], of: str | None) -> None:
    """Show of which run a question or event is, and when it expires."""
    console = results()
    if of is not None and waited["run_id"] != of:
        console.print(line(("  of run ", "dim"), str(waited["run_id"])), soft_wrap=True)
    if waited.get("expires_at"):
        console.print(line(("  expires at ", "dim"), str(waited["expires_at"])), soft_wrap=True)


def answer_command(pause: Mapping[str, Any], *, db: str | None) -> str:
    """Return the command line that answers a question, with an example for each needed field."""
    words = ["iaflow", "answer", str(pause["pause_id"])]
    for field in pause["ui_schema"].get("fields", ()):
        if _is_required(field):
            words += ["--set", f"{field['name']}={_example(field)}"]
    return shlex.join(words) + quote_db(db)


def quote_db(db: str | None) -> str:
    """Return `--db URL` for a command line to be copied, if the option was given."""
    if db is None:
        return ""
    from iaflow.settings import hide_password

    return f" --db {shlex.quote(hide_password(db))}"


def _summary(run: RunRecord, steps: Sequence[StepRecord], seconds: float | None) -> Text:
    took = f" in {format_seconds(seconds)}" if seconds is not None else ""
    counts: dict[str, int] = {}
    for step in steps:
        counts[str(step.status)] = counts.get(str(step.status), 0) + 1
    items = [step.items for step in steps if step.items is not None]
    order = [str(status) for status in StepStatus]
    told = ", ".join(
        f"{n} {word}" for word, n in sorted(counts.items(), key=lambda c: order.index(c[0]))
    )
    skipped = [step.step_id for step in steps if step.status is StepStatus.SKIPPED]
    named = f" ({', '.join(skipped)})" if 0 < len(skipped) <= 3 else ""
    if named:
        told = told.replace(" skipped", f" skipped{named}")
    if items:
        done, failed = sum(one.succeeded for one in items), sum(one.failed for one in items)
        told += f"; items: {done:,} of {sum(one.total for one in items):,} succeeded"
        told += f", {failed:,} failed" if failed else ""
    return line(status_text(str(run.status)), f"{took}  ", (f"steps: {told or 'none'}", "dim"))


def _field_line(field: Mapping[str, Any]) -> Text:
    name, kind = str(field.get("name")), str(field.get("type"))
    options = [
        str(option.get("value")) if isinstance(option, Mapping) else str(option)
        for option in field.get("options", ())
    ]
    label = str(field.get("label") or "")
    parts: list[Any] = ["  ", (f"{name}", "cyan"), (f"  {kind}", "dim")]
    if options:
        parts.append(f"  {' | '.join(options)}")
    if _is_required(field):
        parts.append(("  required", "yellow"))
    if label and label.lower() != name.lower():
        parts.append((f"  {as_clause(label)}", "dim"))
    return line(*parts)


def _is_required(field: Mapping[str, Any]) -> bool:
    required = field.get("required", field.get("type") in ("radio", "select"))
    return bool(required) and "default" not in field


def _example(field: Mapping[str, Any]) -> str:
    options = field.get("options")
    if options:
        first = options[0]
        value = first.get("value") if isinstance(first, Mapping) else first
        return value if isinstance(value, str) else format_value(value)
    for bound in ("minimum", "maximum"):
        if bound in field:
            return str(field[bound])
    return _EXAMPLES.get(str(field.get("type")), "…")


def _own_frames(trace: str) -> list[str]:
    """Return the part of a traceback that lies in the step's own code, at most its end."""
    rows = trace.rstrip().splitlines()
    frames = [k for k, row in enumerate(rows) if row.startswith('  File "')]
    ours = [k for k in frames if _IS_OURS.search(rows[k])]
    begin = next((k for k in frames if not ours or k > ours[-1]), len(rows) - 1)
    return [row for row in rows[begin:][-FRAMES_SHOWN:] if row.strip(" ^~")]
