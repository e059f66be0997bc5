"""The command `simulate`: how a run would go, without running anything.

Decides how suppositions are typed and how the story is shown; never what follows from them.
Called through `main`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import rich_click as click

from iaflow.cli.exits import ExitCode, code_of_status
from iaflow.cli.inputs import (
    FALSE_WORDS,
    TRUE_WORDS,
    input_option,
    json_option,
    read_answer,
    read_inputs,
    read_object,
    read_value,
    split_pair,
)
from iaflow.cli.opening import read_settings
from iaflow.cli.reading_files import read_definition
from iaflow.cli.results import form_lines
from iaflow.cli.terminal import (
    errors,
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

if TYPE_CHECKING:
    from iaflow.pipeline.graph import Graph
    from iaflow.rehearsal.account import Asked, Moment, Simulation

__all__ = ["simulate"]

LONGEST_ID: Final = 40
FORMS_SHOWN: Final = 10


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@input_option
@click.option(
    "--outputs",
    multiple=True,
    metavar="STEP=JSON|FILE",
    help="What a step gives, or a file with an object of outputs by step. A list: one for each "
    "item of a foreach, else for each attempt. May be repeated.",
)
@click.option(
    "--fail",
    "failures",
    multiple=True,
    metavar="STEP[=CODE]",
    help="Let a step fail, with this code; STEP[3] for one item, CODE timeout for its timeout.",
)
@click.option(
    "--answer",
    "answers",
    multiple=True,
    metavar="STEP.FIELD=VALUE",
    help="An answer to the question of a step; repeat it for other fields. STEP alone answers "
    "without any.",
)
@click.option(
    "--signal",
    "signals",
    multiple=True,
    metavar="NAME[=JSON]",
    help="A signal that comes when a step waits for it, with its payload.",
)
@click.option(
    "--after",
    "delays",
    multiple=True,
    metavar="STEP=SECONDS",
    help="How long the answer, or the signal, of a step is waited for; else it comes at once.",
)
@click.option(
    "--function",
    "functions",
    multiple=True,
    metavar="MODULE.NAME=true|false",
    help="What a condition in Python says; it is not called.",
)
@click.option(
    "--choose",
    "choices",
    multiple=True,
    metavar="[STEP.]SERVICE=CHOICE",
    help="What a routing service answers; it is not asked.",
)
@click.option("--start", "start", metavar="TIME", help="The virtual start, in ISO 8601; else now.")
@json_option
def simulate(
    file: Path,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    failures: tuple[str, ...],
    answers: tuple[str, ...],
    signals: tuple[str, ...],
    delays: tuple[str, ...],
    functions: tuple[str, ...],
    choices: tuple[str, ...],
    start: str | None,
    as_json: bool,
) -> int:
    """
    Tell how a run of a FILE would go, without running it.

    No step code is imported or run, nothing is written, and time is virtual: three days of
    waiting pass at once. Steps give what --outputs says, people and signals do what is said
    here. The exit code is that of the run.
    """
    given_input = read_inputs(inputs)
    start_at = _read_start(start)
    settings = read_settings()
    graph = read_definition(file, settings)
    from iaflow.rehearsal.simulation import Suppositions, find_children
    from iaflow.rehearsal.simulation import simulate as play
    from iaflow.telemetry import configure_logs

    configure_logs(settings.log_level)
    children = find_children(graph, file.parent)
    given = Suppositions(
        outputs=_read_outputs(outputs),
        failures={name: code or "Failed" for name, code in map(_split, failures)},
        answers=_read_answers(answers, [graph, *children]),
        signals={name: _read_payload(name, text) for name, text in map(_split, signals)},
        functions=dict(_read_verdict(one) for one in functions),
        choices=dict(split_pair(one, "--choose") for one in choices),
        after=dict(_read_delay(one) for one in delays),
    )
    try:
        story = play(graph, given_input, given, children=children, start_at=start_at)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        write_json(story.as_json())
    else:
        _show(story)
    return ExitCode.USAGE if story.stopped is not None else code_of_status(story.status)


# --- what was typed


def _split(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def _read_start(text: str | None) -> datetime:
    if text is None:
        return SystemClock().now().replace(microsecond=0)
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise click.UsageError(f"--start {text!r} is no time: write 2030-01-31T09:00Z") from None
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant


def _read_outputs(given: Iterable[str]) -> dict[str, Any]:
    outputs: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if text.startswith("@") or not equals:
            outputs |= read_object(text.removeprefix("@"), "it holds no object of outputs by step")
        else:
            outputs[name] = read_value(value)
    for name, output in outputs.items():
        parts = output if isinstance(output, list) and output else [output]
        if not all(isinstance(part, dict) for part in parts):
            raise click.UsageError(
                f"the output of {name} is {format_value(output)}: write an object, such as "
                f"""--outputs {name}='{{"ok": true}}', or a list of them"""
            )
    return outputs


def _read_answers(given: Iterable[str], graphs: Sequence[Graph]) -> dict[str, dict[str, Any]]:
    """Return the answers by step; each value in the type that the step's form asks for."""
    typed: dict[str, list[str]] = {}
    for text in given:
        name, equals, value = text.partition("=")
        step, dot, field = name.partition(".")
        if not step or (equals and not dot):
            raise click.UsageError(f"--answer {text!r}: write --answer STEP.FIELD=VALUE")
        typed.setdefault(step, []).extend([f"{field}={value}"] if dot else [])
    answers = {}
    for step, pairs in typed.items():
        nodes = [graph.nodes[step] for graph in graphs if step in graph.nodes]
        form = nodes[0].step.config.get("ui_schema") if nodes else None
        answers[step] = read_answer(form or {}, pairs)
    return answers


def _read_payload(name: str, text: str) -> dict[str, Any]:
    payload = read_value(text) if text else {}
    if not isinstance(payload, dict):
        raise click.UsageError(f"--signal {name}: its payload is an object, not {text}")
    return payload


def _read_verdict(text: str) -> tuple[str, bool]:
    name, word = split_pair(text, "--function")
    if word.lower() not in TRUE_WORDS | FALSE_WORDS:
        raise click.UsageError(f"--function {name}: write true or false, not {word!r}")
    return name, word.lower() in TRUE_WORDS


def _read_delay(text: str) -> tuple[str, float]:
    step, word = split_pair(text, "--after")
    try:
        seconds = float(word)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 1e9:
        raise click.UsageError(f"--after {step}: {word!r} is no number of seconds")
    return step, seconds


# --- the story


def _show(story: Simulation) -> None:
    console = results()
    told = "simulated: no step code was run, nothing was written"
    console.print(line((story.name, "bold"), (f"  {told}", "dim")), soft_wrap=True)
    console.print()
    width = min(max((len(_label(one)) for one in story.moments), default=0), LONGEST_ID)
    with_items = {moment.step for moment in story.moments if moment.index is not None}
    for moment in story.moments:
        is_own = moment.index is not None or moment.step not in with_items
        supposed = story.assumed.get(moment.step.rpartition("/")[2]) if is_own else None
        _show_moment(moment, supposed, width)
    for asked in story.asked[:FORMS_SHOWN]:
        _show_asked(asked)
    if len(story.asked) > FORMS_SHOWN:
        more = f"\n  … and {len(story.asked) - FORMS_SHOWN} more questions or signals"
        console.print(line((more, "dim")))
    if story.timers:
        console.print(line(("\n  timers", "dim")))
        rows = [
            [one.kind, one.step or "the run", _at(one.set_seconds), _at(one.due_seconds)]
            for one in story.timers
        ]
        for row in table(["what", "of", "set at", "due at"], rows):
            console.print(line("  ", row), soft_wrap=True)
    _show_end(story)


def _show_moment(moment: Moment, supposed: Mapping[str, Any] | None, width: int) -> None:
    console = results()
    parts: list[Any] = [(f"{_at(moment.seconds):>12}  ", "dim"), f"{_label(moment):<{width}}  "]
    if moment.status:
        words = moment.words
        if moment.status == "succeeded" and supposed is not None:
            words = f"output not given, supposed {format_value(dict(supposed))}"
        parts += [status_text(moment.status, width=9), f"  {words}"]
    text = line(*parts)
    text.rstrip()
    console.print(text, soft_wrap=True)
    for one in moment.routed:
        verdict = status_text("taken" if one.taken else "refused", width=7)
        console.print(
            line(" " * 16, f"→ {one.target}  ", verdict, f"  {one.words}"), soft_wrap=True
        )


def _show_asked(asked: Asked) -> None:
    console = results()
    console.print()
    if asked.signal is not None:
        console.print(
            line(("? ", "magenta"), "signal ", (asked.signal, "bold"), (f"  {asked.step}", "dim"))
        )
    else:
        for row in form_lines(asked.step, asked.ui_schema, asked.shown):
            console.print(row, soft_wrap=True)
    facts = [f"from {_at(asked.seconds)}"]
    if asked.expires is not None:
        facts.append(f"expires at {_at(asked.expires)}")
    if asked.quorum > 1:
        facts.append(f"{asked.quorum} people must answer")
    facts += [f"for {kind}: {', '.join(map(str, who))}" for kind, who in asked.assignees.items()]
    facts.append({"open": "still waited for", "expired": "nobody answered"}.get(asked.status, ""))
    console.print(line(("  " + "; ".join(filter(None, facts)), "dim")), soft_wrap=True)


def _show_end(story: Simulation) -> None:
    console = results()
    console.print()
    took = f"  after {_at(story.elapsed_seconds)} of virtual time"
    if story.stopped is None:
        console.print(line(status_text(str(story.status)), took))
    else:
        stop = line(("✗ ", "red"), ("stopped", "bold red"), f"{took}: {story.stopped}")
        console.print(stop, soft_wrap=True)
    if story.outputs is not None:
        write_value(story.outputs)
    if story.error is not None:
        where = f"step {story.error['step_id']}: " if story.error["step_id"] else ""
        fault = f"{where}{story.error['code']}: {story.error['message']}"
        console.print(line("  ", (fault, "red")), soft_wrap=True)
    # By what is to be given, as many runs below may wait for the same.
    waiting = {asked.signal or asked.step.rpartition("/")[2]: asked for asked in story.waiting}
    for name, asked in waiting.items():
        if asked.signal is not None:
            advice = f"waits for the signal {name}: give it with  --signal {name}"
        else:
            advice = f"waits for an answer to {name}: give it with  --answer {name}.FIELD=VALUE"
        errors().print(hint(advice), soft_wrap=True)
    for unused in story.unused:
        errors().print(line(("! ", "yellow"), unused), soft_wrap=True)
    if story.assumed:
        names = ", ".join(story.assumed)
        advice = f"outputs were not given for: {names}; give them with  --outputs STEP=JSON"
        errors().print(hint(advice), soft_wrap=True)


def _label(moment: Moment) -> str:
    if moment.count > 1:
        return f"{moment.step} ({moment.count} items)"
    # No step is called `run`.
    is_run = not moment.step or moment.step.endswith("/")
    name = f"{moment.step}run" if is_run else moment.step
    return name + ("" if moment.index is None else f"[{moment.index}]")


def _at(seconds: float) -> str:
    return "0 s" if seconds == 0 else format_seconds(seconds)
