"""How an outcome or an answer becomes a step's end.

Decides which change the planner is told, and what is kept of the step; never writes it.
Called by the engine when it settles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from iaflow.data.records import Failed, Outcome, Paused, PauseRecord, Skipped, Succeeded
from iaflow.data.status import PauseStatus, StepEnd
from iaflow.pipeline.conditions import ConditionFailed, evaluate
from iaflow.pipeline.definition import ErrorPolicy
from iaflow.pipeline.graph import Node
from iaflow.pipeline.plans import Change, StepDelayed, StepEnded, StepPaused
from iaflow.pipeline.retry import decide_retry
from iaflow.pipeline.strict_json import dump_json
from iaflow.pipeline.templating import Scope

__all__ = ["Ending", "describe_late", "end_of_attempt", "end_of_pause", "lost_worker_error"]

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
    step_id: str, outcome: Outcome, policy: ErrorPolicy, *, try_number: int, uniform: float
) -> Ending:
    """
    Return what the outcome of an attempt means.

    Args:
        try_number: the number of this try, from 1; lost workers do not count.
        uniform: in [0, 1), for the jitter of a retry's delay.
    """
    match outcome:
        case Succeeded(output=output, text=text):
            return Ending(StepEnded(step_id, StepEnd.SUCCESS, output=output), text)
        case Skipped(reason=reason):
            error = {"code": "skipped", "message": reason}
            return Ending(StepEnded(step_id, StepEnd.SKIPPED, error=error))
        case Paused():
            return Ending(StepPaused(step_id))
        case Failed():
            return _end_of_failure(step_id, outcome, policy, try_number, uniform)
        case _:
            raise ValueError(f"{type(outcome).__name__} is no end of an attempt")


def end_of_pause(node: Node, pause: PauseRecord, parameters: Mapping[str, Any]) -> Ending:
    """Return what an answered or expired pause means for its step (LANGUAGE section 8)."""
    step_id = pause.step_id
    if pause.status is PauseStatus.EXPIRED or pause.answered_at is None:
        error = {"code": "expired", "message": "nobody answered in time", "attempts": 1}
        return Ending(StepEnded(step_id, StepEnd.EXPIRED, error=error))
    output = {
        **(pause.answer or {}),
        "_answered_by": pause.answered_by,
        "_answered_at": pause.answered_at.isoformat(),
    }
    text = dump_json(output)
    try:
        rejected = _is_rejected(node, output, parameters)
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
    step_id: str, failed: Failed, policy: ErrorPolicy, try_number: int, uniform: float
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
        return Ending(StepEnded(step_id, failed.end, error=error))
    return Ending(StepDelayed(step_id, error), delay=delay)


def _is_rejected(node: Node, output: Mapping[str, Any], parameters: Mapping[str, Any]) -> bool:
    if node.reject_when is None:
        return False
    scope = Scope(parameters, {node.step.id: output}, result=output)
    return evaluate(node.reject_when, scope).taken
