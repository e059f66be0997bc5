"""The statuses of runs, steps and pauses, and the table of legal changes between them.

Decides which change of a status is legal; never performs one. Read by the tables (CHECK
constraints), the planner, the stores, and the diagram in the docs.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

__all__ = [
    "END_OF_RUN",
    "END_OF_STEP",
    "LIVE_STEP",
    "RUN_CHANGES",
    "STEP_CHANGES",
    "FireStatus",
    "Misfire",
    "NoticeKind",
    "PauseStatus",
    "RunStatus",
    "StepEnd",
    "StepStatus",
    "WAITS_FOR_OUTSIDE",
    "WaitsFor",
]


class RunStatus(StrEnum):
    """Where a run stands."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class StepStatus(StrEnum):
    """Where a step of a run (or an item of a foreach) stands."""

    PENDING = "pending"
    READY = "ready"
    RUNNING = "running"
    RETRYING = "retrying"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


class StepEnd(StrEnum):
    """How a step ended, finer than its status: what a transition's `on` watches."""

    SUCCESS = "success"
    FAILURE = "failure"
    TIMEOUT = "timeout"
    EXPIRED = "expired"
    REJECTED = "rejected"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


class PauseStatus(StrEnum):
    """Where a pause (a question to people) stands."""

    OPEN = "open"
    ANSWERED = "answered"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class WaitsFor(StrEnum):
    """
    What a waiting step waits for, without a worker.

    RUN_OUTSIDE: a run that itself waits for somebody outside.
    """

    PEOPLE = "people"
    SIGNAL = "signal"
    TIME = "time"
    RUN = "run"
    RUN_OUTSIDE = "run_outside"


class NoticeKind(StrEnum):
    """What people, or systems of theirs, are told by the notifier service."""

    QUESTION_OPENED = "question_opened"
    QUESTION_REMINDER = "question_reminder"
    QUESTION_ESCALATED = "question_escalated"
    QUESTION_REASSIGNED = "question_reassigned"
    RUN_SUCCEEDED = "run_succeeded"
    RUN_FAILED = "run_failed"
    RUN_CANCELLED = "run_cancelled"
    RUN_STUCK = "run_stuck"


class Misfire(StrEnum):
    """What becomes of a schedule's instants that passed while nobody could fire them."""

    LATEST = "latest"
    ALL = "all"
    SKIP = "skip"


class FireStatus(StrEnum):
    """What became of one instant of a schedule."""

    STARTED = "started"
    MISSED = "missed"
    REFUSED = "refused"


WAITS_FOR_OUTSIDE: Final = frozenset({WaitsFor.PEOPLE, WaitsFor.SIGNAL, WaitsFor.RUN_OUTSIDE})
"""What somebody outside must do: a run in which all that lives waits for it is `waiting`."""

LIVE_STEP: Final = frozenset(
    {StepStatus.READY, StepStatus.RUNNING, StepStatus.RETRYING, StepStatus.WAITING}
)
"""Statuses that keep a run alive: it ends when no step has one of these."""

END_OF_STEP: Final = frozenset(
    {StepStatus.SUCCEEDED, StepStatus.FAILED, StepStatus.SKIPPED, StepStatus.CANCELLED}
)
END_OF_RUN: Final = frozenset({RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED})

_S = StepStatus
STEP_CHANGES: Final[dict[StepStatus | None, frozenset[StepStatus]]] = {
    None: frozenset({_S.PENDING, _S.READY, _S.FAILED, _S.SKIPPED, _S.CANCELLED}),
    _S.PENDING: frozenset({_S.READY, _S.FAILED, _S.SKIPPED, _S.CANCELLED}),
    _S.READY: frozenset({_S.RUNNING, _S.CANCELLED}),
    _S.RUNNING: frozenset(
        {_S.READY, _S.RETRYING, _S.WAITING, _S.SUCCEEDED, _S.FAILED, _S.SKIPPED, _S.CANCELLED}
    ),
    _S.RETRYING: frozenset({_S.READY, _S.CANCELLED}),
    _S.WAITING: frozenset({_S.RETRYING, _S.SUCCEEDED, _S.FAILED, _S.CANCELLED}),
    _S.SUCCEEDED: frozenset(),
    _S.FAILED: frozenset({_S.PENDING, _S.RUNNING}),
    _S.SKIPPED: frozenset({_S.PENDING}),
    _S.CANCELLED: frozenset({_S.PENDING, _S.RUNNING}),
}
"""
Legal changes of a step. None: no row yet. Ends are final but for `retry`, which reopens: a
foreach then runs on with those of its items that did not succeed.
"""

_R = RunStatus
RUN_CHANGES: Final[dict[RunStatus | None, frozenset[RunStatus]]] = {
    None: frozenset({_R.PENDING, _R.RUNNING}),
    _R.PENDING: frozenset({_R.RUNNING, _R.CANCELLED}),
    _R.RUNNING: frozenset({_R.WAITING, _R.SUCCEEDED, _R.FAILED, _R.CANCELLED}),
    _R.WAITING: frozenset({_R.RUNNING, _R.SUCCEEDED, _R.FAILED, _R.CANCELLED}),
    _R.SUCCEEDED: frozenset(),
    _R.FAILED: frozenset({_R.RUNNING}),
    _R.CANCELLED: frozenset(),
}
"""Legal changes of a run. Only `retry` leaves an end, and only `failed`."""
