"""Runs, what they are started, found and changed by, and what became of each of many.

Decides which fields a run has for callers, and which of them are data that need a permission of
their own; never which run is seen. Used by the routes of runs.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from fastapi import Path
from pydantic import AfterValidator, Field, StrictBool

from iaflow.data.filters import ManyOutcome, ManyRecord, RunFilter
from iaflow.data.records import NO_INDEX, PauseRecord, RunRecord
from iaflow.data.status import END_OF_RUN, RunStatus
from iaflow.web.schemas.base import Body, Instant, Object, Reply, Whole, as_name

__all__ = [
    "BulkFilter",
    "CancelBody",
    "CancelManyBody",
    "ManyReply",
    "PipelineSlug",
    "RerunBody",
    "RetryManyBody",
    "Run",
    "RunId",
    "RunLine",
    "RunState",
    "SignalBody",
    "SignalReply",
    "StartBody",
    "StepId",
    "Waiting",
    "place_of",
]

RUN_ID = "019ab3f2-7c1e-7d5a-8f00-3a5d8f6b2c11"
RunId = Annotated[
    str,
    Path(min_length=1, description="The id of a run.", examples=[RUN_ID]),
    AfterValidator(as_name),
]
StepId = Annotated[
    str,
    Path(min_length=1, description="A step of the run's definition.", examples=["fetch"]),
    AfterValidator(as_name),
]
PipelineSlug = Annotated[
    str,
    Path(min_length=1, description="An imported pipeline.", examples=["invoice-approval-v1"]),
    AfterValidator(as_name),
]

NEEDS_PAYLOADS = "Null without the permission `payloads:read`."


def place_of(index: int | None) -> int | None:
    """Return the index of an item; None for a step that is none."""
    return None if index == NO_INDEX else index


# --- what is told


class RunState(Reply):
    """A run, and where it stands now."""

    run_id: str = Field(examples=[RUN_ID])
    slug: str = Field(examples=["invoice-approval-v1"])
    status: RunStatus

    @classmethod
    def of(cls, run: RunRecord) -> Self:
        """Return a run's state."""
        return cls(run_id=run.run_id, slug=run.slug, status=run.status)


class Parent(Reply):
    """The step that a run was started by."""

    run_id: str
    step_id: str
    index: int | None = Field(description="Of the item, where the step has several; from 0.")


class RunError(Reply):
    """What a run failed by, or who cancelled it."""

    step_id: str | None = Field(description="Null: no step of it.")
    code: str = Field(examples=["timeout"])
    message: str | None = Field(description=NEEDS_PAYLOADS)


class RunLine(Reply):
    """A run in a list."""

    run_id: str = Field(examples=[RUN_ID])
    slug: str = Field(examples=["invoice-approval-v1"])
    status: RunStatus
    seq: int = Field(description="How many changes it has had: its last event's number.")
    started_by: str | None = Field(description="Who started it: a user, a service, a schedule.")
    created_at: Instant
    started_at: Instant | None = Field(description="Null: it waits for its turn.")
    finished_at: Instant | None = Field(description="Null: it has not ended.")
    waiting: int = Field(description="How many of its steps wait for people or signals.")
    parent: Parent | None = Field(description="Null: no step started it.")
    rerun_of: str | None = Field(description="The run that it repeats from a step on.")
    error: RunError | None = Field(description="Null: it has neither failed nor been cancelled.")

    @classmethod
    def of(cls, run: RunRecord, *, payloads: bool) -> Self:
        """Return what a list tells of a run."""
        return cls(**_describe(run, payloads=payloads))


class WaitingPause(Reply):
    """An open question that the caller is asked."""

    pause_id: str
    run_id: str = Field(description="This run, or one below it.")
    step_id: str
    index: int | None
    expires_at: Instant | None

    @classmethod
    def of(cls, pause: PauseRecord) -> Self:
        """Return where a question stands."""
        return cls(
            pause_id=pause.pause_id,
            run_id=pause.run_id,
            step_id=pause.step_id,
            index=place_of(pause.index),
            expires_at=pause.expires_at,
        )


class WaitingEvent(Reply):
    """A signal that a step waits for."""

    step_id: str
    name: str = Field(description="What the signal is sent as.", examples=["payment-received"])


class Waiting(Reply):
    """What somebody outside must do before the run goes on."""

    pauses: list[WaitingPause] = Field(
        description="Questions that the caller is asked; those of others are not told of."
    )
    events: list[WaitingEvent]


class Counters(Reply):
    """How many steps, and items, stand where."""

    live: int = Field(description="Ready, at work, waiting, or to be tried again.")
    waiting: int = Field(description="Those of them that wait for people or signals.")
    failed_handled: int = Field(description="Failed, and something takes care of it.")
    failed_unhandled: int


class Version(Reply):
    """The version of the definition that a run is pinned to."""

    content_hash: str = Field(description="Its identity.")
    number: int = Field(description="Of this pipeline, from 1.")
    version: str = Field(description="As the definition calls itself.", examples=["1.4"])


class Run(RunLine):
    """A run as it stands."""

    version: Version
    counters: Counters
    parameters: Object | None = Field(description=f"What it was given. {NEEDS_PAYLOADS}")
    outputs: Object | None = Field(
        description="What came out; null before it has succeeded, and without the permission "
        "`payloads:read`."
    )
    waits_for: Waiting

    @classmethod
    def with_all(
        cls, run: RunRecord, version: tuple[int, str], waits_for: Waiting, *, payloads: bool
    ) -> Self:
        """Return all that is told of a run."""
        return cls(
            **_describe(run, payloads=payloads),
            version=Version(content_hash=run.content_hash, number=version[0], version=version[1]),
            counters=Counters(
                live=run.live,
                waiting=run.paused,
                failed_handled=run.handled,
                failed_unhandled=run.unhandled,
            ),
            parameters=dict(run.parameters) if payloads else None,
            outputs=dict(run.outputs) if payloads and run.outputs is not None else None,
            waits_for=waits_for,
        )


def _describe(run: RunRecord, *, payloads: bool) -> dict[str, Any]:
    parent = error = None
    if run.parent_run_id is not None:
        parent = Parent(
            run_id=run.parent_run_id,
            step_id=run.parent_step_id or "",
            index=place_of(run.parent_index),
        )
    if run.status in END_OF_RUN and run.status is not RunStatus.SUCCEEDED:
        error = RunError(
            step_id=run.error_step_id,
            code=run.error_code or run.status.value,
            message=(run.error_message or "") if payloads else None,
        )
    return {
        "run_id": run.run_id,
        "slug": run.slug,
        "status": run.status,
        "seq": run.seq,
        "started_by": run.started_by,
        "created_at": run.created_at,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "waiting": run.paused,
        "parent": parent,
        "rerun_of": run.rerun_of,
        "error": error,
    }


# --- what is asked for


class StartBody(Body):
    """What a run is started with."""

    input: Object = Field(
        default_factory=dict,
        description="Laid over the definition's parameters, which say what is legal.",
        examples=[{"invoice_id": "2031-117", "amount": 1250}],
    )


class CancelBody(Body):
    """Why something is cancelled."""

    reason: str = Field(
        default="",
        max_length=500,
        pattern=r"^[^\x00]*$",
        description="Stands in the error of what is cancelled, beside who asked for it.",
        examples=["the customer withdrew the order"],
    )


class RerunBody(Body):
    """What a step is given when a run is repeated from it on."""

    inputs: Object | None = Field(
        default=None,
        description="In the place of the step's `inputs`; null: as the definition says.",
        examples=[{"amount": 1300}],
    )


class SignalBody(Body):
    """What a signal carries."""

    payload: Object = Field(
        default_factory=dict,
        description="The output of the steps that wait for the signal.",
        examples=[{"paid": True}],
    )


class SignalledStep(Reply):
    """A step that the signal let go on."""

    step_id: str
    index: int | None


class SignalReply(Reply):
    """What a signal did."""

    run_id: str
    name: str
    steps: list[SignalledStep]


class BulkFilter(Body):
    """Which runs, of those that the caller sees; what is left out is not asked for."""

    slug: str | None = Field(default=None, max_length=200, examples=["invoice-approval-v1"])
    status: RunStatus | None = None
    started_by: str | None = Field(default=None, max_length=200, examples=["maria"])
    since: Instant | None = Field(
        default=None,
        description="Made then, or later, by the clock of the process that started it.",
    )
    until: Instant | None = Field(default=None, description="Made before.")
    is_top_level: StrictBool = Field(default=False, description="Only runs that no step started.")

    def as_filter(self) -> RunFilter:
        """Return it as the client takes it."""
        return RunFilter(
            slug=self.slug,
            status=self.status,
            started_by=self.started_by,
            since=self.since,
            until=self.until,
            is_top_level=self.is_top_level,
        )


class RetryManyBody(Body):
    """Which failed runs are retried."""

    filter: BulkFilter = Field(default_factory=BulkFilter)
    dry_run: StrictBool = Field(default=False, description="Only tell what would be done.")
    limit: Whole = Field(
        default=100, ge=1, le=1000, description="At most so many runs, the newest first."
    )


class CancelManyBody(RetryManyBody):
    """Which runs are cancelled, and why."""

    reason: str = Field(
        default="",
        max_length=500,
        pattern=r"^[^\x00]*$",
        description="Stands in the error of each.",
        examples=["a wrong price list"],
    )


class ManyItem(Reply):
    """What became of one run."""

    run_id: str
    outcome: ManyOutcome
    reason: str | None = Field(description="Why it was left as it is; null: it was not.")


class ManyReply(Reply):
    """What became of each run that the filter found, the newest first."""

    dry_run: bool
    items: list[ManyItem]
    counts: dict[Literal["changed", "unchanged", "refused", "would_change"], int] = Field(
        description="How many of each.", examples=[{"changed": 12, "unchanged": 1}]
    )

    @classmethod
    def of(cls, records: list[ManyRecord], *, dry_run: bool) -> Self:
        """Return what became of each run, and how many of which."""
        counts: dict[Literal["changed", "unchanged", "refused", "would_change"], int] = {}
        for record in records:
            word = _COUNTED[record.outcome]
            counts[word] = counts.get(word, 0) + 1
        items = [
            ManyItem(run_id=one.run_id, outcome=one.outcome, reason=one.reason or None)
            for one in records
        ]
        return cls(dry_run=dry_run, items=items, counts=counts)


_COUNTED: dict[ManyOutcome, Literal["changed", "unchanged", "refused", "would_change"]] = {
    ManyOutcome.CANCELLED: "changed",
    ManyOutcome.RETRIED: "changed",
    ManyOutcome.UNCHANGED: "unchanged",
    ManyOutcome.REFUSED: "refused",
    ManyOutcome.WOULD_CHANGE: "would_change",
}
