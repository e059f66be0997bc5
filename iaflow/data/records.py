"""The frozen rows and messages that travel between rooms.

Decides the shape of what is stored and sent; never how. Built by the stores, the planner
and attempts, read by everybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid5

from iaflow.data.status import NoticeKind, PauseStatus, RunStatus, StepEnd, StepStatus, WaitsFor

__all__ = [
    "MESSAGES",
    "NO_INDEX",
    "Claim",
    "Decision",
    "DecisionRecord",
    "EventRecord",
    "Failed",
    "Fanned",
    "ItemCounts",
    "NewItems",
    "NoticeRecord",
    "NewPause",
    "Outcome",
    "PauseRecord",
    "Paused",
    "PipelineRecord",
    "Released",
    "RunChange",
    "RunRecord",
    "RunView",
    "Skipped",
    "Spawned",
    "StepChange",
    "StepRecord",
    "StepTask",
    "StepView",
    "Succeeded",
    "Timed",
    "VersionRecord",
]

NO_INDEX = -1
"""The item index of a step that is no item of a foreach: part of a key, so never null."""

MESSAGES: Final = UUID("5f0c2a51-9d0b-4c53-9a2e-0d1d6c1f4f0e")
"""The namespace of message ids; changed, the links to older tasks in Flower lead nowhere."""


# --- what travels to a worker


@dataclass(frozen=True, slots=True)
class StepTask:
    """A step that is ready: what a message carries (ids only) and where it goes."""

    run_id: str
    step_id: str
    index: int
    attempt: int
    slug: str = ""
    queue: str | None = None
    priority: int | None = None

    @property
    def message_id(self) -> str:
        """
        Return the id of its message: for one attempt always the same, whoever sends it.

        So a link leads from a step to its task in Flower without anything being kept, and a
        message that is sent once more is the same row there.
        """
        name = f"{self.run_id}:{self.step_id}:{self.index}:{self.attempt}"
        return str(uuid5(MESSAGES, name))


@dataclass(frozen=True, slots=True)
class Claim:
    """
    The right to execute one attempt of one step, until the lease ends.

    Attributes:
        attempt: executions begun so far, this one included; lost workers count.
        worker_losses: how many of these were lost with their worker.
        earlier_attempts: how many others were before the run was reopened.
        waited_seconds: how long it could have been taken before it was.
        token: fresh and random; every later write of the attempt must show it.
    """

    run_id: str
    step_id: str
    index: int
    attempt: int
    worker_losses: int
    token: str
    slug: str
    content_hash: str
    earlier_attempts: int = 0
    waited_seconds: float = 0.0

    @property
    def try_number(self) -> int:
        """Attempts that count as tries, this one included: lost workers burn none."""
        return self.attempt - self.worker_losses - self.earlier_attempts


# --- how an attempt ended


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The attempt gave an output: the object, and its compact JSON text."""

    output: Mapping[str, Any]
    text: str


@dataclass(frozen=True, slots=True)
class Failed:
    """
    The attempt failed.

    Attributes:
        code: the exception's `.code` or class name, or a code of the engine (`timeout`, …).
        message: for people, at most some kilobytes.
        names: class names of the exception and its bases, for `retry_on` and `give_up_on`.
        trace: the traceback, for people; None for the engine's own codes.
        retryable: False ends the step whatever its policy says.
        after: seconds that the step asked to wait before the next attempt.
        end: the end that transitions watch, should this be the last attempt.
    """

    code: str
    message: str
    names: tuple[str, ...] = ()
    trace: str | None = None
    retryable: bool = True
    after: float | None = None
    end: StepEnd = StepEnd.FAILURE


@dataclass(frozen=True, slots=True)
class Skipped:
    """The step said of itself that there is nothing to do."""

    reason: str


@dataclass(frozen=True, slots=True)
class NewPause:
    """
    A question to people, or an event that is waited for.

    Attributes:
        ui_schema: the form; empty for an event.
        shown: what people see.
        digest: of what is shown, the form and the definition.
        expires_in: seconds; None: it never does.
        assignees: ``{"users": […], "roles": […]}`` who may answer; empty: anybody.
        quorum: how many people must answer.
        exclude_starter: who started the run may not answer.
        event: the name of the signal, if this is an event.
        notice_in: seconds to the first reminder or escalation; None: there is none.
    """

    ui_schema: Mapping[str, Any]
    shown: Mapping[str, Any]
    digest: str
    expires_in: float | None = None
    assignees: Mapping[str, Any] = field(default_factory=dict)
    quorum: int = 1
    exclude_starter: bool = False
    event: str | None = None
    notice_in: float | None = None


@dataclass(frozen=True, slots=True)
class Paused:
    """The step waits for people, or for a signal, from now on; its worker is free."""

    pause: NewPause


@dataclass(frozen=True, slots=True)
class Timed:
    """The step waits until an instant; its worker is free."""

    until: datetime


@dataclass(frozen=True, slots=True)
class Spawned:
    """
    The step wants a run of another pipeline.

    Attributes:
        content_hash: the version to run, which is kept.
        parameters: the child run's, merged and validated.
        wait: the step takes the child's end for its own.
        run_id: the child run's: a settle that is done again, once code has judged, begins the
            run that code was told of.
    """

    content_hash: str
    parameters: Mapping[str, Any]
    wait: bool
    run_id: str


@dataclass(frozen=True, slots=True)
class Fanned:
    """
    The step runs once per item from now on.

    Attributes:
        items: the values, in order.
        keys: the `concurrency_key` of each, in the same order; empty without one.
    """

    items: tuple[Any, ...]
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Released:
    """
    The worker gave the step back unfinished; the attempt does not count.

    Attributes:
        is_loss: it counts as the loss of a worker, of which a step has only so many.
    """

    reason: str
    is_loss: bool = False


Outcome = Succeeded | Failed | Skipped | Paused | Timed | Spawned | Fanned | Released


# --- what the planner is told, and what it decides


@dataclass(frozen=True, slots=True)
class RunView:
    """
    The run's own row.

    Attributes:
        live: steps that are ready, running, retrying or waiting; of a foreach, its items.
        paused: those of them that wait for people or signals.
        handled, unhandled: failures so far.
    """

    run_id: str
    status: RunStatus
    seq: int
    live: int
    paused: int
    handled: int
    unhandled: int
    parameters: Mapping[str, Any]
    started_at: str = ""


@dataclass(frozen=True, slots=True)
class ItemCounts:
    """
    How far the items of a foreach are; kept in the row of the step itself.

    Attributes:
        total: how many there are.
        started: how many were made ready so far.
        ended: how many of these have ended, in whatever way.
        succeeded, failed: how many of these in which.
        paused: how many wait for people or signals.
    """

    total: int
    started: int = 0
    ended: int = 0
    succeeded: int = 0
    failed: int = 0
    paused: int = 0


@dataclass(frozen=True, slots=True)
class StepView:
    """
    A step's row as the planner sees it.

    Attributes:
        decided, taken: counts of incoming transitions.
        waits_for: what it waits for, if it is waiting.
        items: how far its items are, once it has some.
    """

    status: StepStatus
    decided: int = 0
    taken: int = 0
    waits_for: WaitsFor | None = None
    items: ItemCounts | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """A transition (by its index) is decided, once: an entry of the route ledger."""

    transition: int
    source: str
    target: str
    taken: bool
    reason: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StepChange:
    """
    A step's row after the change.

    Attributes:
        before: the status that the row must have now; None if there must be no row.
        end: how the step ended, if it did.
        error: what is recorded for people and for `errors.…`.
        is_end: it succeeded and no transition of it was taken.
        handled: it failed and somebody takes care of it.
        index: the item, if the row is one's.
        waits_for: what it waits for from now on.
        items: how far its items are.
        output: what the planner itself gave it (the results of its items); else None.
        concurrency_key: what must be free before it may be published.
    """

    step_id: str
    before: StepStatus | None
    status: StepStatus
    decided: int
    taken: int
    end: StepEnd | None = None
    error: Mapping[str, Any] | None = None
    is_end: bool = False
    handled: bool = False
    index: int = NO_INDEX
    waits_for: WaitsFor | None = None
    items: ItemCounts | None = None
    output: Any = None
    concurrency_key: str | None = None


@dataclass(frozen=True, slots=True)
class NewItems:
    """A step gets the rows of its items: `count` of them, the first `started` ready."""

    step_id: str
    count: int
    started: int


@dataclass(frozen=True, slots=True)
class RunChange:
    """The run's row after the change; `outputs` only when it succeeded."""

    status: RunStatus
    live: int
    paused: int
    handled: int
    unhandled: int
    outputs: Any = None
    error_step_id: str | None = None
    error_code: str | None = None
    error_message: str | None = None


# --- rows, as read


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """An immutable version of a definition; `content_hash` is its identity."""

    content_hash: str
    slug: str
    number: int
    version: str
    name: str
    document: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class PipelineRecord:
    """An imported pipeline and its current version; nothing starts one that is paused."""

    slug: str
    name: str
    description: str
    version: str
    number: int
    content_hash: str
    document: str
    created_at: datetime
    updated_at: datetime
    is_paused: bool = False


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as it stands. `parameters` and `outputs` are parsed JSON; outputs None before the end."""

    run_id: str
    slug: str
    content_hash: str
    status: RunStatus
    seq: int
    live: int
    paused: int
    handled: int
    unhandled: int
    error_step_id: str | None
    error_code: str | None
    error_message: str | None
    created_at: datetime
    finished_at: datetime | None
    parameters: Mapping[str, Any]
    outputs: Mapping[str, Any] | None
    source_folder: str | None = None
    started_by: str | None = None
    started_at: datetime | None = None
    parent_run_id: str | None = None
    parent_step_id: str | None = None
    parent_index: int | None = None
    parent_attempt: int | None = None
    rerun_of: str | None = None


@dataclass(frozen=True, slots=True)
class StepRecord:
    """
    A step of a run as it stands, with its payloads parsed; None where there is none yet.

    Attributes:
        concurrency_key: what must be free before it may begin.
        is_held: it is ready, but a key, a rate or a hindrance holds it back.
        hindrance: why the last worker that took it up gave it back, while nobody else has it.
    """

    run_id: str
    step_id: str
    index: int
    status: StepStatus
    end: StepEnd | None
    attempt: int
    worker_losses: int
    worker: str | None
    handled: bool
    due_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    inputs: Any = None
    output: Any = None
    error: Mapping[str, Any] | None = None
    waits_for: WaitsFor | None = None
    items: ItemCounts | None = None
    concurrency_key: str | None = None
    is_held: bool = False
    hindrance: str | None = None

    @classmethod
    def unreached(cls, run_id: str, step_id: str) -> StepRecord:
        """Return a step that has no row yet, since nothing has come to it."""
        nothing: dict[str, Any] = dict.fromkeys(
            ("end", "worker", "due_at", "started_at", "finished_at")
        )
        return cls(
            run_id=run_id,
            step_id=step_id,
            index=NO_INDEX,
            status=StepStatus.PENDING,
            attempt=0,
            worker_losses=0,
            handled=False,
            **nothing,
        )

    def link_to_task(self, flower_url: str | None) -> str | None:
        """Return where Flower shows the latest task; None if there was none, or is no Flower."""
        is_ready = self.status is StepStatus.READY and not self.is_held
        attempt = self.attempt + 1 if is_ready else self.attempt
        if flower_url is None or attempt < 1:
            return None
        task = StepTask(self.run_id, self.step_id, self.index, attempt)
        return f"{flower_url.rstrip('/')}/task/{task.message_id}"


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """One decision on one transition, with its reason: an entry of the route ledger."""

    run_id: str
    transition: int
    source: str
    target: str
    taken: bool
    seq: int
    reason: Mapping[str, Any]
    decided_at: datetime
    superseded: bool = False


@dataclass(frozen=True, slots=True)
class PauseRecord:
    """A question to people as it stands."""

    pause_id: str
    run_id: str
    step_id: str
    index: int
    slug: str
    status: PauseStatus
    ui_schema: Mapping[str, Any]
    shown: Mapping[str, Any]
    digest: str
    answer: Mapping[str, Any] | None
    answered_by: str | None
    answered_at: datetime | None
    expires_at: datetime | None
    created_at: datetime
    assignees: Mapping[str, Any] = field(default_factory=dict)
    quorum: int = 1
    exclude_starter: bool = False
    event: str | None = None


@dataclass(frozen=True, slots=True)
class NoticeRecord:
    """
    Something that people, or systems of theirs, are told.

    Attributes:
        body: ids and words of the definition; never a run's data.
        tries: deliveries begun so far.
        due_at: when it is delivered (again); None: it was, or it was given up.
        error: how the last try failed.
    """

    notice_id: str
    run_id: str
    kind: NoticeKind
    step_id: str | None
    pause_id: str | None
    body: Mapping[str, Any]
    created_at: datetime
    tries: int = 0
    due_at: datetime | None = None
    delivered_at: datetime | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One committed change of a run: number `seq` of a gap-free sequence."""

    run_id: str
    seq: int
    at: datetime
    changes: Mapping[str, Any]
