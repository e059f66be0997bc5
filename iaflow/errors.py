"""The whole exception tree, grouped by who can mend what went wrong.

Decides which class an error has and what it carries; never logs, never formats for a
page. Raised by every room, caught by the faces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = [
    "AccountRefused",
    "AnswerRefused",
    "Conflict",
    "CredentialsRefused",
    "DefinitionRefused",
    "Fail",
    "IaflowError",
    "InputRefused",
    "NotAllowed",
    "NotFound",
    "NotReachable",
    "Problem",
    "Retry",
    "RunCancelled",
    "RunError",
    "RunFailed",
    "ScheduleRefused",
    "SchemaOutdated",
    "SettingsRefused",
    "SignInRefused",
    "Skip",
    "StepError",
    "TooMany",
]


@dataclass(frozen=True, slots=True)
class Problem:
    """
    One finding in a document that a person wrote: what, where, and how to mend it.

    Attributes:
        code: one of the closed list of codes, such as ``step_unknown``.
        pointer: RFC 6901 JSON pointer into the document; ``""`` is the whole of it.
        message: what is wrong, in a sentence.
        hint: how to mend it, often the nearest right spelling; may be empty.
    """

    code: str
    pointer: str
    message: str
    hint: str = ""

    def as_json(self) -> dict[str, str]:
        """Return the four fields as an object, as `validate --json` prints it."""
        return {
            "code": self.code,
            "pointer": self.pointer,
            "message": self.message,
            "hint": self.hint,
        }


class IaflowError(Exception):
    """Every error that iaflow raises on purpose."""


# --- the author of a definition, or the person who gave the input, can mend these


class DefinitionRefused(IaflowError):
    """A document is no valid definition; `problems` holds every finding, not the first."""

    def __init__(self, problems: tuple[Problem, ...], source: str = "") -> None:
        self.problems = problems
        self.source = source
        where = f"{source}: " if source else ""
        lines = [
            f"{p.code} at {p.pointer or '/'}: {p.message}" + (f" ({p.hint})" if p.hint else "")
            for p in problems
        ]
        super().__init__(f"{where}the definition is refused\n  " + "\n  ".join(lines))


class InputRefused(IaflowError):
    """A run's parameters do not fit the definition; no run was made."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{p.pointer or '/'}: {p.message}" for p in problems))


class ScheduleRefused(IaflowError):
    """A schedule names no instants, or what it would start does not fit; nothing was kept."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        lines = (f"{p.pointer}: {p.message}" + (f" ({p.hint})" if p.hint else "") for p in problems)
        super().__init__("; ".join(lines))


class AnswerRefused(IaflowError):
    """An answer does not fit its form; the pause stays open. `problems` point at fields."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{p.pointer}: {p.message}" for p in problems))


class AccountRefused(IaflowError):
    """A name, password, role or scope cannot be used; nothing was changed. `problems` say why."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        lines = (f"{p.pointer}: {p.message}" + (f" ({p.hint})" if p.hint else "") for p in problems)
        super().__init__("; ".join(lines))


# --- the caller can mend these


class NotFound(IaflowError):
    """There is no pipeline, run, step, pause or user of that name."""


class Conflict(IaflowError):
    """The request came too late or contradicts an earlier one; nothing was changed."""


class NotAllowed(IaflowError):
    """Somebody else must do this; nothing was changed."""


class SignInRefused(IaflowError):
    """
    A name and a password do not let anybody in.

    It says the same of a name that is unknown, a wrong password and a user who is disabled.
    """

    def __init__(self) -> None:
        super().__init__("the name or the password is wrong, or the account is disabled")


class CredentialsRefused(IaflowError):
    """A request has credentials of two kinds, or one twice: which of them counts is not guessed."""


class TooMany(IaflowError):
    """
    Too many requests of this kind; nothing was done.

    Attributes:
        after_seconds: when the next one may come.
    """

    def __init__(self, after_seconds: float, message: str = "") -> None:
        self.after_seconds = after_seconds
        wait = f"try again in {max(1, round(after_seconds))} s"
        super().__init__(f"{message or 'too many tries'}: {wait}")


# --- the operator can mend these


class SettingsRefused(IaflowError):
    """A setting is missing or has a value that cannot work."""


class SchemaOutdated(IaflowError):
    """The database's schema is not the one that this version of iaflow works on."""


class NotReachable(IaflowError):
    """A server (database, broker) does not answer."""


# --- how a run ended, for callers that wait for it


class RunError(IaflowError):
    """A run did not end with outputs."""

    def __init__(self, message: str, *, run_id: str) -> None:
        self.run_id = run_id
        super().__init__(message)


class RunFailed(RunError):
    """
    A run failed.

    Attributes:
        run_id: the run.
        step_id: the step whose failure nobody handled; None if the run itself failed.
        code: the error's code, such as ``timeout`` or the exception's class name.
        cause: the error's message.
    """

    def __init__(self, *, run_id: str, step_id: str | None, code: str, cause: str) -> None:
        self.step_id = step_id
        self.code = code
        self.cause = cause
        where = f"step {step_id!r} of " if step_id else ""
        super().__init__(f"{where}run {run_id} failed: {code}: {cause}", run_id=run_id)


class RunCancelled(RunError):
    """A run was cancelled before its end."""

    def __init__(self, *, run_id: str, reason: str = "") -> None:
        self.reason = reason
        super().__init__(
            f"run {run_id} was cancelled" + (f": {reason}" if reason else ""), run_id=run_id
        )


# --- what a step's own code may raise to say how it ended


class StepError(IaflowError):
    """The base of what `work` may raise on purpose; not an error of iaflow."""


class Retry(StepError):
    """Ends the attempt as failed and asks for another one after `after` seconds (a retry is used)."""

    def __init__(self, after: float = 0.0, reason: str = "") -> None:
        self.after = after
        super().__init__(reason or f"the step asked to be retried after {after} s")


class Fail(StepError):
    """Fails the step at once; it is never retried."""

    def __init__(self, reason: str, code: str = "Fail") -> None:
        self.code = code
        super().__init__(reason)


class Skip(StepError):
    """Ends the step as skipped; only transitions with ``on: skipped`` go on from it."""


def exception_code(error: BaseException) -> str:
    """Return an exception's code: its own `.code` if that is a string, else its class name."""
    code: Any = getattr(error, "code", None)
    return code if isinstance(code, str) and code else type(error).__name__
