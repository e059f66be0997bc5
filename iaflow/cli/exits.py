"""Exit codes: what a shell learns from how a command ended.

Decides which code an error or a run's status has; never prints and never exits. Called by
every command and by `main`.
"""

from __future__ import annotations

from enum import IntEnum

from iaflow.data.status import RunStatus
from iaflow.errors import DefinitionRefused, IaflowError, NotReachable, RunError

__all__ = ["MEANINGS", "ExitCode", "code_of_error", "code_of_status"]


class ExitCode(IntEnum):
    """How a command ended."""

    DONE = 0
    RUN_FAILED = 1
    USAGE = 2
    DEFINITION_REFUSED = 3
    WAITING = 4
    NOT_REACHABLE = 5
    INTERRUPTED = 130


MEANINGS: dict[ExitCode, str] = {
    ExitCode.DONE: "done",
    ExitCode.RUN_FAILED: "the run failed or was cancelled; a check of `doctor` failed",
    ExitCode.USAGE: "usage, input or configuration: nothing was started",
    ExitCode.DEFINITION_REFUSED: "a definition is refused",
    ExitCode.WAITING: "the run waits for a person or a signal",
    ExitCode.NOT_REACHABLE: "the database or the broker cannot be reached",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C; the run is kept",
}
"""Each code with its meaning, as `iaflow --help` shows them."""


def code_of_status(status: RunStatus) -> ExitCode:
    """Return the code for a run that was driven, or watched, until it came to `status`."""
    match status:
        case RunStatus.FAILED | RunStatus.CANCELLED:
            return ExitCode.RUN_FAILED
        case RunStatus.WAITING:
            return ExitCode.WAITING
        case RunStatus.SUCCEEDED | RunStatus.PENDING | RunStatus.RUNNING:
            return ExitCode.DONE


def code_of_error(error: BaseException) -> ExitCode:
    """Return the code for an error that ended a command; unexpected ones count as failures."""
    match error:
        case DefinitionRefused():
            return ExitCode.DEFINITION_REFUSED
        case NotReachable():
            return ExitCode.NOT_REACHABLE
        case RunError():
            return ExitCode.RUN_FAILED
        case IaflowError():
            return ExitCode.USAGE
        case _ if _is_outage(error):
            return ExitCode.NOT_REACHABLE
        case _:
            return ExitCode.RUN_FAILED


_OUTAGES = frozenset(
    {
        "kombu.OperationalError",
        "psycopg2.InterfaceError",
        "psycopg2.OperationalError",
        "redis.ConnectionError",
        "redis.TimeoutError",
        "sqlite3.OperationalError",
    }
)
"""What drivers raise when a server is gone, by name: none of them is imported for this."""


def _is_outage(error: BaseException) -> bool:
    return any(
        f"{kind.__module__.partition('.')[0]}.{kind.__name__}" in _OUTAGES
        for kind in type(error).__mro__
    )
