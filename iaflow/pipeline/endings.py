"""How an outcome or an answer becomes a step's end.

Decides which change the planner is told, and what is kept of the step; never writes it.
Called by the engine when it settles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from iaflow.data.records import (
    NO_INDEX,
    Failed,
    Fanned,
    Outcome,
    Paused,
    PauseRecord,
    Skipped,
    Spawned,
    Succeeded,
    Timed,
)
from iaflow.data.status import PauseStatus, StepEnd, WaitsFor
from iaflow.pipeline.conditions import ConditionFailed, evaluate
from iaflow.pipeline.definition import ErrorPolicy
from iaflow.pipeline.graph import Node
from iaflow.pipeline.plans import Change, StepDelayed, StepEnded, StepFanned, StepWaits
from iaflow.pipeline.retry import decide_retry
from iaflow.pipeline.strict_json import check_json_value, dump_json
from iaflow.pipeline.templating import Scope

__all__ = [
    "Ending",
    "check_output",
    "describe_late",
    "end_of_attempt",
    "end_of_pause",
    "is_rejection",
    "lost_worker_error",
]

MESSAGE_KEPT = 4_096
"""Characters kept of an error's message."""

LATE_KEPT = 65_536
"""Characters kept of a result that came after the run's end."""


@dataclass(frozen=True, slots=True)
class Ending:
    """
    What an outcome means.

    Attributes:
        change: what the planner is told.
        output: JSON text that is kept as the step's output, if any.
        delay: seconds until the next attempt, if there will be one.
    """

    change: Change
    output: str | None = None
    delay: float | None = None


def end_of_attempt(
    step_id: str,
    outcome: Outcome,
    policy: ErrorPolicy,
    *,
    try_number: int,
    uniform: float,
    index: int = NO_INDEX,
) -> Ending:
    """
    Return what the outcome of an attempt means.

    Args:
        try_number: the number of this try, from 1; lost workers do not count.
        uniform: in [0, 1), for the jitter of a retry's delay.
        index: the item that was worked on, if it was one.
    """
    match outcome:
        case Succeeded(output=output, text=text):
            return Ending(StepEnded(step_id, StepEnd.SUCCESS, output=output, index=index), text)
        case Skipped(reason=reason):
            error = {"code": "skipped", "message": reason}
            return Ending(StepEnded(step_id, StepEnd.SKIPPED, error=error, index=index))
        case Paused(pause=pause):
            waits_for = WaitsFor.PEOPLE if pause.event is None else WaitsFor.SIGNAL
            return Ending(StepWaits(step_id, waits_for, index))
        case Timed():
            return Ending(StepWaits(step_id, WaitsFor.TIME, index))
        case Spawned(wait=True):
            return Ending(StepWaits(step_id, WaitsFor.RUN, index))
        case Fanned(items=items):
            return Ending(StepFanned(step_id, len(items)))
        case Failed():
            return _end_of_failure(step_id, outcome, policy, try_number, uniform, index)
        case _:
            raise ValueError(f"{type(outcome).__name__} is no end of an attempt")


def check_output(node: Node, result: Any) -> Succeeded | Failed:
    """Return what a step gave as its output, if it is a legal one (LANGUAGE section 2)."""
    if not isinstance(result, Mapping):
        return Failed(
            "output_invalid",
            f"work() of step {node.step.id!r} returned {type(result).__name__}; it must return "
            "a JSON object (a dict)",
            retryable=False,
        )
    output = result if isinstance(result, dict) else dict(result)
    text, problems = check_json_value(output)
    if problems:
        where = f" at {problems[0].pointer}" if problems[0].pointer else ""
        message = problems[0].message + where
        return Failed("output_invalid", message[:MESSAGE_KEPT], retryable=False)
    missing = [name for name in node.step.outputs or () if name not in output]
    if missing:
        return Failed(
            "output_missing",
            f"step {node.step.id!r} promised the outputs {', '.join(node.step.outputs or ())} "
            f"and gave none named {', '.join(missing)}",
            retryable=False,
        )
    return Succeeded(output, text)


def end_of_pause(
    node: Node,
    pause: PauseRecord,
    parameters: Mapping[str, Any],
    answers: Sequence[Mapping[str, Any]] = (),
) -> Ending:
    """
    Return what an answered or expired pause means for its step (LANGUAGE section 8).

    Args:
        answers: of a quorum, every answer with its `_answered_by` and `_answered_at`.
    """
    step_id = pause.step_id
    if pause.status is PauseStatus.EXPIRED or pause.answered_at is None:
        what = "nobody answered in time"
        if pause.event is not None:
            what = f"the signal {pause.event!r} did not come in time"
        error = {"code": "expired", "message": what, "attempts": 1}
        return Ending(StepEnded(step_id, StepEnd.EXPIRED, error=error))
    if pause.event is not None:
        payload = dict(pause.answer or {})
        return Ending(StepEnded(step_id, StepEnd.SUCCESS, output=payload), dump_json(payload))
    output = {
        **(pause.answer or {}),
        "_answered_by": pause.answered_by,
        "_answered_at": pause.answered_at.isoformat(),
    }
    if answers:
        output["_answers"] = list(answers)
    text = dump_json(output)
    try:
        rejected = is_rejection(node, output, parameters)
    except ConditionFailed as failure:
        error = {"code": failure.code, "message": f"reject_when: {failure}", "attempts": 1}
        return Ending(StepEnded(step_id, StepEnd.FAILURE, error=error), text)
    if rejected:
        message = f"{pause.answered_by} rejected it"
        error = {"code": "rejected", "message": message, "attempts": 1}
        return Ending(StepEnded(step_id, StepEnd.REJECTED, output=output, error=error), text)
    return Ending(StepEnded(step_id, StepEnd.SUCCESS, output=output), text)


def lost_worker_error(worker: str | None, losses: int) -> dict[str, Any]:
    """Return the recorded error of a step that lost its worker once too often."""
    message = f"the worker {worker or 'unknown'} was lost while it executed the step"
    if losses:
        message += f", as {losses} before it were"
    return {"code": "worker_lost", "message": message, "attempts": 1}


def describe_late(outcome: Outcome) -> dict[str, Any]:
    """Return what is kept, for people, of a result that came after the run's end."""
    match outcome:
        case Succeeded(text=text):
            return {"outcome": "succeeded", "output": text[:LATE_KEPT]}
        case Failed(code=code, message=message):
            return {"outcome": "failed", "code": code, "message": message}
        case _:
            return {"outcome": type(outcome).__name__.lower()}


def _end_of_failure(
    step_id: str,
    failed: Failed,
    policy: ErrorPolicy,
    try_number: int,
    uniform: float,
    index: int,
) -> Ending:
    error: dict[str, Any] = {
        "code": failed.code,
        "message": failed.message,
        "attempts": try_number,
    }
    if failed.trace:
        error["trace"] = failed.trace
    delay = decide_retry(
        policy,
        attempt=try_number,
        code=failed.code,
        names=failed.names,
        uniform=uniform,
        after=failed.after,
        retryable=failed.retryable,
    )
    if delay is None:
        return Ending(StepEnded(step_id, failed.end, error=error, index=index))
    return Ending(StepDelayed(step_id, error, index), delay=delay)


def is_rejection(node: Node, output: Mapping[str, Any], parameters: Mapping[str, Any]) -> bool:
    """Tell whether an answer meets the step's `reject_when`; raises ConditionFailed."""
    if node.reject_when is None:
        return False
    scope = Scope(parameters, {node.step.id: output}, result=output)
    return evaluate(node.reject_when, scope).taken
