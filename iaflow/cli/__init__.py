"""The command line: one verb of iaflow each, for people and, with `--json`, for programs.

Decides how errors become exit codes and messages; never knows what a command does. Called by
the console script `iaflow` and by `python -m iaflow.cli`.
"""

from __future__ import annotations

import sys
from io import TextIOWrapper
from typing import Any, Final

import rich_click as click
from click.exceptions import Exit

from iaflow.cli.definitions import graph, import_, schema, validate
from iaflow.cli.driving import Interrupted
from iaflow.cli.exits import MEANINGS, ExitCode, code_of_error
from iaflow.cli.flower import flower
from iaflow.cli.going_on import rerun, retry, signal
from iaflow.cli.operating import db, doctor, metrics, worker
from iaflow.cli.people import answer, inbox, reassign
from iaflow.cli.pipelines import pipelines
from iaflow.cli.reading import runs, why
from iaflow.cli.running import cancel, resume, run, start
from iaflow.cli.schedules import schedules
from iaflow.cli.showing import show
from iaflow.cli.simulating import simulate
from iaflow.cli.terminal import errors, line, write_error
from iaflow.cli.tokens import tokens
from iaflow.cli.users import users
from iaflow.cli.web import web
from iaflow.errors import (
    AccountRefused,
    AnswerRefused,
    DefinitionRefused,
    IaflowError,
    InputRefused,
    Problem,
    ScheduleRefused,
)

__all__ = ["main"]


class _Root(click.RichGroup):
    """The group of all commands: what a command returns, or raises, becomes the exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            code = super().invoke(ctx)
        except (Exit, click.ClickException, BrokenPipeError):
            raise
        except (KeyboardInterrupt, click.Abort):
            errors().print(line("\ninterrupted; nothing more was done"))
            code = ExitCode.INTERRUPTED
        except Interrupted as interrupted:
            write_error(str(interrupted), interrupted.advice)
            code = ExitCode.INTERRUPTED
        except IaflowError as error:
            code = _report(error)
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            code = _report_unexpected(error)
        ctx.exit(int(code or 0))


_EPILOG: Final = "\n\n".join(
    ["Exit codes:", *(f"{int(code):>3}  {meaning}" for code, meaning in MEANINGS.items())]
)


click.rich_click.COMMAND_GROUPS = {
    "iaflow": [
        {
            "name": "Run",
            "commands": ["run", "start", "resume", "retry", "rerun", "cancel", "schedules"],
        },
        {"name": "Look", "commands": ["runs", "show", "why", "graph"]},
        {"name": "People", "commands": ["inbox", "answer", "reassign", "signal"]},
        {
            "name": "Definitions",
            "commands": ["validate", "simulate", "schema", "import", "pipelines"],
        },
        {"name": "Accounts", "commands": ["users", "tokens"]},
        {"name": "Operate", "commands": ["worker", "web", "flower", "db", "doctor", "metrics"]},
    ]
}


@click.group(
    cls=_Root,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--debug", is_flag=True, help="Show the traceback of an unexpected error.")
@click.version_option(package_name="iaflow-pipelines", prog_name="iaflow")
def root(debug: bool) -> None:
    """Durable pipelines from JSON documents, with people in the loop."""


for _command in (
    run,
    validate,
    simulate,
    graph,
    schema,
    import_,
    pipelines,
    start,
    runs,
    show,
    why,
    inbox,
    answer,
    reassign,
    signal,
    cancel,
    resume,
    retry,
    rerun,
    schedules,
    users,
    tokens,
    db,
    worker,
    web,
    flower,
    doctor,
    metrics,
):
    root.add_command(_command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code (`iaflow --help`)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A sign that the terminal cannot show must not end a command.
            stream.reconfigure(errors="backslashreplace")
    root.main(args=arguments, prog_name="iaflow")


def _report(error: IaflowError) -> ExitCode:
    match error:
        case DefinitionRefused(problems=problems, source=source):
            where = f"{source}: " if source else ""
            write_error(f"{where}the definition is refused")
            _list_problems(problems)
        case InputRefused(problems=problems):
            write_error("the input is refused; no run was made")
            _list_problems(problems)
        case ScheduleRefused(problems=problems):
            write_error("the schedule is refused; nothing was kept")
            _list_problems(problems)
        case AccountRefused(problems=problems):
            write_error("the account is refused; nothing was changed")
            _list_problems(problems)
        case AnswerRefused(problems=problems):
            write_error("the answer does not fit; the question is still open")
            _list_problems(problems, is_answer=True)
        case _:
            write_error(str(error))
    return code_of_error(error)


def _report_unexpected(error: Exception) -> ExitCode:
    code = code_of_error(error)
    if code is ExitCode.NOT_REACHABLE:
        advice = "runs are kept; when it is back, go on with:  iaflow resume"
        write_error(f"the database or the broker is gone: {error}".strip(), advice)
    else:
        advice = "this is a fault of iaflow, not of yours; see where with:  iaflow --debug …"
        write_error(f"unexpected {type(error).__name__}: {error}", advice)
    return code


def _list_problems(problems: tuple[Problem, ...], *, is_answer: bool = False) -> None:
    console = errors()
    for problem in problems:
        where = problem.pointer.lstrip("/") if is_answer else problem.pointer or "/"
        code = "" if is_answer else f"{problem.code}: "
        console.print(line("  ", (where, "cyan"), f"  {code}{problem.message}"), soft_wrap=True)
        if problem.hint:
            console.print(line(("    → ", "cyan"), problem.hint), soft_wrap=True)
