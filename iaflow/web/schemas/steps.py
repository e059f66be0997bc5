"""Steps of a run, their items, what was decided between them, and why, as callers see them.

Decides which of it is data that needs a permission of its own; never what a step means. Used by
the routes of steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field

from iaflow.data.records import DecisionRecord, EventRecord, ItemCounts, StepRecord
from iaflow.data.status import RunStatus, StepEnd, StepStatus, WaitsFor
from iaflow.explaining import Explanation
from iaflow.web.schemas.base import Instant, Object, Reply
from iaflow.web.schemas.runs import NEEDS_PAYLOADS, RUN_ID, place_of

__all__ = ["Decision", "Event", "Step", "StepLine", "Why"]


class Items(Reply):
    """How far the items of a step are."""

    total: int
    started: int
    ended: int
    succeeded: int
    failed: int
    waiting: int = Field(description="For people or signals.")

    @classmethod
    def of(cls, counts: ItemCounts) -> Self:
        """Return the counts of a step's items."""
        return cls(
            total=counts.total,
            started=counts.started,
            ended=counts.ended,
            succeeded=counts.succeeded,
            failed=counts.failed,
            waiting=counts.paused,
        )


class StepError(Reply):
    """What a step failed by, was skipped or cancelled for."""

    code: str = Field(examples=["timeout"])
    message: str | None = Field(description=NEEDS_PAYLOADS)


class StepLine(Reply):
    """A step in the list of a run's steps, or an item in the list of a step's items."""

    step_id: str = Field(examples=["fetch"])
    index: int | None = Field(description="Of an item, from 0; null: it is the step itself.")
    status: StepStatus
    end: StepEnd | None = Field(description="How it ended, as transitions see it.")
    attempts: int = Field(description="How often it was tried; lost workers do not count.")
    worker_losses: int
    worker: str | None
    handled: bool = Field(description="It failed, and something takes care of it.")
    started_at: Instant | None
    finished_at: Instant | None
    due_at: Instant | None = Field(description="When it is tried again, or goes on by itself.")
    waits_for: WaitsFor | None
    is_held: bool = Field(description="Ready, but a key, a rate or a hindrance holds it back.")
    concurrency_key: str | None = Field(description=NEEDS_PAYLOADS)
    items: Items | None = Field(description="Null: it has no `foreach`, or nothing came to it yet.")
    error: StepError | None
    flower: str | None = Field(description="Where Flower shows its latest task, if it had one.")

    @classmethod
    def of(cls, step: StepRecord, flower_url: str | None, *, payloads: bool) -> Self:
        """Return what a list tells of a step or an item."""
        return cls(**_describe(step, flower_url, payloads=payloads))


class Step(StepLine):
    """A step, or an item of one, with its data."""

    run_id: str = Field(examples=[RUN_ID])
    inputs: Any = Field(description=f"What it was given at its first attempt. {NEEDS_PAYLOADS}")
    output: Any = Field(description=f"What it gave. {NEEDS_PAYLOADS}")
    trace: str | None = Field(description=f"The traceback of its error. {NEEDS_PAYLOADS}")
    hindrance: str | None = Field(
        description=f"Why the last worker that took it up gave it back. {NEEDS_PAYLOADS}"
    )

    @classmethod
    def with_data(cls, step: StepRecord, flower_url: str | None, *, payloads: bool) -> Self:
        """Return all that is told of a step or an item."""
        trace = (step.error or {}).get("trace")
        return cls(
            **_describe(step, flower_url, payloads=payloads),
            run_id=step.run_id,
            inputs=step.inputs if payloads else None,
            output=step.output if payloads else None,
            trace=str(trace) if payloads and trace else None,
            hindrance=step.hindrance if payloads else None,
        )


def _describe(step: StepRecord, flower_url: str | None, *, payloads: bool) -> dict[str, Any]:
    return {
        "step_id": step.step_id,
        "index": place_of(step.index),
        "status": step.status,
        "end": step.end,
        "attempts": max(0, step.attempt - step.worker_losses),
        "worker_losses": step.worker_losses,
        "worker": step.worker,
        "handled": step.handled,
        "started_at": step.started_at,
        "finished_at": step.finished_at,
        "due_at": step.due_at,
        "waits_for": step.waits_for,
        "is_held": step.is_held,
        "concurrency_key": step.concurrency_key if payloads else None,
        "items": Items.of(step.items) if step.items is not None else None,
        "error": _describe_error(step.error, payloads=payloads),
        "flower": step.link_to_task(flower_url),
    }


def _describe_error(error: Mapping[str, Any] | None, *, payloads: bool) -> StepError | None:
    if not error:
        return None
    message = str(error.get("message") or "") if payloads else None
    return StepError(code=str(error.get("code") or ""), message=message)


class StepMoved(Reply):
    """A step, or an item of one, has another status."""

    step_id: str
    status: StepStatus
    index: int | None


class TransitionDecided(Reply):
    """A transition was decided."""

    transition: int = Field(description="Its place in the definition's `transitions`, from 0.")
    taken: bool


class Event(Reply):
    """One committed change of a run."""

    seq: int = Field(description="Its number; a run's events have no gap.", examples=[7])
    at: Instant
    run: RunStatus = Field(description="The run's status from then on.")
    steps: list[StepMoved]
    transitions: list[TransitionDecided]
    by: str | None = Field(
        description="Who asked for it, where somebody did.", examples=[None, "maria"]
    )

    @classmethod
    def of(cls, event: EventRecord) -> Self:
        """Return what is told of a change; it has ids and statuses alone."""
        changes = event.changes
        return cls(
            seq=event.seq,
            at=event.at,
            run=RunStatus(changes["run"]),
            steps=[
                StepMoved(step_id=moved[0], status=moved[1], index=_get(moved, 2))
                for moved in changes["steps"]
            ],
            transitions=[
                TransitionDecided(transition=routed[0], taken=routed[1])
                for routed in changes["transitions"]
            ],
            by=changes.get("by"),
        )


def _get(moved: list[Any], place: int) -> Any:
    return moved[place] if len(moved) > place else None


class Decision(Reply):
    """One decision on one transition."""

    transition: int = Field(description="Its place in the definition's `transitions`, from 0.")
    source: str = Field(serialization_alias="from")
    target: str = Field(serialization_alias="to")
    taken: bool
    reason: Object | None = Field(
        description=f"What was compared with what, and what came of it. {NEEDS_PAYLOADS}",
        examples=[{"kind": "always"}],
    )
    decided_at: Instant
    seq: int = Field(description="The event that has it.")
    superseded: bool = Field(description="A retry has undone it.")

    @classmethod
    def of(cls, decision: DecisionRecord, *, payloads: bool) -> Self:
        """Return what is told of a decision."""
        return cls(
            transition=decision.transition,
            source=decision.source,
            target=decision.target,
            taken=decision.taken,
            reason=dict(decision.reason) if payloads else None,
            decided_at=decision.decided_at,
            seq=decision.seq,
            superseded=decision.superseded,
        )


class Explained(Reply):
    """Why one step stands where it stands."""

    step_id: str
    status: StepStatus
    sentence: str | None = Field(description=NEEDS_PAYLOADS)
    transitions: list[ExplainedTransition]

    @classmethod
    def of(cls, explanation: Explanation, *, payloads: bool) -> Self:
        """Return an explanation, and those of the causes before it."""
        return cls(
            step_id=explanation.step_id,
            status=StepStatus(explanation.status),
            sentence=explanation.sentence if payloads else None,
            transitions=[
                ExplainedTransition(
                    transition=arrow.transition,
                    source=arrow.source,
                    target=arrow.target,
                    verdict=arrow.verdict,
                    words=arrow.words if payloads else None,
                    parts=[words for _, words in arrow.parts] if payloads else None,
                    cause=Explained.of(arrow.cause, payloads=payloads) if arrow.cause else None,
                )
                for arrow in explanation.arrows
            ],
        )


class ExplainedTransition(Reply):
    """A transition into a step, and what was decided on it."""

    transition: int
    source: str = Field(serialization_alias="from")
    target: str = Field(serialization_alias="to")
    verdict: str = Field(pattern="^(taken|refused|undecided)$", examples=["refused"])
    words: str | None = Field(description=f"Why, on one line. {NEEDS_PAYLOADS}")
    parts: list[str] | None = Field(
        description=f"The parts of a nested condition. {NEEDS_PAYLOADS}"
    )
    cause: Explained | None = Field(description="Why its source ended so, if that refused it.")


class Why(Reply):
    """Why a step ran or did not: what `iaflow why --json` prints."""

    run_id: str = Field(examples=[RUN_ID])
    step_id: str
    status: StepStatus
    sentence: str | None = Field(
        description=NEEDS_PAYLOADS, examples=["it was skipped: no transition into it was taken"]
    )
    decisions: list[Decision] = Field(description="On the transitions into the step.")
    explanation: Explained
